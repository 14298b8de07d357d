"""Spectral norms of circular convolutions against the dense operator, applied to every unit vector."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from landscape_kernels.circular import circular_norm
from torch import Tensor


def operator(weight: Tensor, size: Sequence[int], groups: int) -> Tensor:
    """The operator as a matrix, a shifted copy of each unit vector at a time."""
    outputs, each, *kernel = weight.shape
    channels, places = each * groups, math.prod(size)
    units = torch.eye(channels * places, dtype=torch.float64).reshape(-1, channels, *size)
    found = torch.zeros(len(units), outputs, *size, dtype=torch.float64)
    for o, i in itertools.product(range(outputs), range(each)):
        source = units[:, o // (outputs // groups) * each + i]
        for at in itertools.product(*map(range, kernel)):
            found[:, o] += weight[(o, i, *at)] * torch.roll(source, at, tuple(range(1, 1 + len(size))))
    return found.flatten(1)


@pytest.mark.parametrize(
    ("shape", "size", "groups"),
    [
        ((3, 2, 3, 3), (4, 4), 1),
        ((2, 3, 3, 2), (5, 6), 1),
        ((4, 1, 3, 3), (5, 4), 2),
        ((2, 2, 5, 5), (3, 2), 1),  # larger than the input: reaches around it
        ((3, 2, 4), (7,), 1),
        ((2, 2, 2, 2, 2), (2, 3, 3), 1),
        ((2, 3, 1, 1), (1, 1), 1),
    ],
)
def test_equals_the_dense_operator(shape: tuple[int, ...], size: tuple[int, ...], groups: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = float(torch.linalg.svdvals(operator(weight, size, groups))[0])
    assert circular_norm(weight, size, groups) == pytest.approx(expected, rel=1e-13)


def test_frequencies_that_are_left_out_hold_no_larger_value() -> None:
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(6, 5, 3, 3, generator=generator, dtype=torch.float64)
        weight += seed % 3 * torch.randn(6, 1, 1, 1, generator=generator, dtype=torch.float64)  # a top at frequency 0
        dense = np.linalg.svd(np.fft.fft2(weight.numpy(), (9, 8)).transpose(2, 3, 0, 1), compute_uv=False).max()
        assert circular_norm(weight, (9, 8)) == pytest.approx(dense, rel=1e-13)


def test_the_largest_value_where_its_bound_is_not_the_largest() -> None:
    at = torch.zeros(2, 2, 9, dtype=torch.complex128)  # 16 places have 9 frequencies up to the conjugates
    at[:, :, 2] = torch.eye(2)  # two singular values of 1: the larger norm
    at[0, 0, 5] = 1.01
    at[:, :, 7] = 0.999 * torch.eye(2)
    assert circular_norm(torch.fft.irfft(at, 16), (16,)) == pytest.approx(1.01, rel=1e-12)


def test_what_is_no_matter_of_course() -> None:
    assert circular_norm(torch.zeros(2, 2, 3, 3), (4, 4)) == 0
    assert math.isnan(circular_norm(torch.full((2, 2, 3, 3), torch.nan), (4, 4)))
    with pytest.raises(ValueError, match="2 extents"):
        circular_norm(torch.ones(2, 2, 3, 3), (4,))
    with pytest.raises(ValueError, match="groups"):
        circular_norm(torch.ones(3, 2, 3, 3), (4, 4), groups=2)
