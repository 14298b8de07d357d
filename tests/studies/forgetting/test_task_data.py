"""Data of tasks: images that are turned, values in another order, classes apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from landscape_jobs.demo import digits, digits_tasks
from torch import Tensor

import landscape as ls
from landscape.errors import InputError

LABELS = torch.arange(12) % 6


def images(*shape: int) -> Tensor:
    return torch.rand(12, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 5), (2, 6, 6), (4, 4)])
def test_quarter_turns_are_those_of_the_grid(shape: tuple[int, ...]) -> None:
    """Counter-clockwise, exact but for rounding; also of flat images, and of those with channels."""
    whole = images(*shape)
    flat = whole.flatten(1) if shape == (4, 4) else whole
    for task in range(5):
        turned, labels = ls.rotated_task((flat, LABELS), task, degrees=90.0)
        torch.testing.assert_close(turned.reshape(whole.shape), torch.rot90(whole, task, (-2, -1)), rtol=0, atol=1e-12)
        assert labels is LABELS
    assert ls.rotated_task((whole, LABELS), 0)[0] is whole


def test_turning_an_oblong_image_keeps_its_proportions() -> None:
    """A disc about the centre of an image of another height than width stays where it is, at any angle."""
    y, x = torch.meshgrid(torch.arange(15.0) - 7, torch.arange(21.0) - 10, indexing="ij")
    disc = torch.exp(-(x**2 + y**2) / 18).expand(12, 15, 21)
    turned, _ = ls.rotated_task((disc, LABELS), 1, degrees=30.0)
    assert float((turned - disc)[:, 3:12, 4:17].abs().max()) < 0.02


def test_permutations_are_one_for_all_samples_and_another_for_each_task() -> None:
    whole = torch.arange(12 * 6.0).reshape(12, 2, 3)
    assert ls.permuted_task((whole, LABELS), 0)[0] is whole
    found = [ls.permuted_task((whole, LABELS), task)[0] for task in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(found[0] - found[0][:1], (whole - whole[:1]))  # the same places in every sample
    assert torch.equal(found[0].flatten(1).sort(1).values, whole.flatten(1))
    assert not torch.equal(ls.permuted_task((whole, LABELS), 1, seed=1)[0], found[0])


def test_split_tasks_have_all_samples_once_and_labels_from_0() -> None:
    whole = images(3)
    parts = [ls.split_task((whole, LABELS), task) for task in range(3)]
    assert [labels.unique().tolist() for _, labels in parts] == [[0, 1]] * 3
    for task, (inputs, labels) in enumerate(parts):
        assert torch.equal(inputs, whole[task == LABELS // 2])
        assert torch.equal(labels + 2 * task, LABELS[task == LABELS // 2])


def test_the_digits_as_tasks_of_every_kind() -> None:
    images, labels = digits()
    for kind, make in (("rotated", ls.rotated_task), ("permuted", ls.permuted_task), ("split", ls.split_task)):
        for ours, theirs in zip(digits_tasks(kind)(2), make((images, labels), 2), strict=True):
            assert torch.equal(ours, theirs)
    with pytest.raises(InputError, match="rotated, permuted, split"):
        digits_tasks("turned")


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("task=-1; give the number of the task", lambda: ls.permuted_task((images(3), LABELS), -1)),
        ("are no images", lambda: ls.rotated_task((images(7), LABELS), 1)),
        ("are no images", lambda: ls.rotated_task((images(4, 4).long(), LABELS), 1)),
        ("tasks are 0 to 2", lambda: ls.split_task((images(3), LABELS), 3)),
        ("give 2 or more", lambda: ls.split_task((images(3), LABELS), 0, classes=1)),
        ("made of two tensors", lambda: ls.split_task([images(3)], 0)),
        ("a whole number for each", lambda: ls.permuted_task((images(3), LABELS.double()), 1)),
    ],
)
def test_what_makes_no_task(words: str, make: Any) -> None:
    with pytest.raises(InputError, match=words):
        make()
