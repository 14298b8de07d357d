"""Data in the plane: shapes, classes, and what they depend on."""

from __future__ import annotations

import math

import pytest
import torch
from landscape_jobs.toy_data import concentric_circles, swiss_roll

import landscape as ls


def test_swiss_roll_is_two_spirals() -> None:
    points, labels = swiss_roll(400, noise=0.0)
    radius = points.norm(dim=1)
    assert float(radius.max()) <= 1.5 * 600 / 180 * math.pi
    angle = radius / 1.5  # n, as |point| = 1.5 n
    sign = torch.where(labels == 0, 1.0, -1.0)[:, None]
    expected = torch.stack([-angle.cos() * angle, angle.sin() * angle], 1) * 1.5 * sign
    torch.testing.assert_close(points, expected, atol=1e-4, rtol=1e-4)
    assert labels.bincount().tolist() == [200, 200]
    moved = swiss_roll(400, noise=0.5)[0] - points
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 0.5
    assert torch.equal(swiss_roll(seed=3)[0], swiss_roll(seed=3)[0])
    assert not torch.equal(swiss_roll(seed=3)[0], swiss_roll(seed=4)[0])


def test_circles_alternate() -> None:
    points, labels = concentric_circles(3, 50, gap=0.5)
    torch.testing.assert_close(points.norm(dim=1), torch.tensor([1.0, 1.5, 2.0]).repeat_interleave(50))
    assert labels.reshape(3, 50)[:, 0].tolist() == [0, 1, 0]


def test_refused() -> None:
    with pytest.raises(ls.InputError, match="2 or more points"):
        swiss_roll(1)
    with pytest.raises(ls.InputError, match="above 0"):
        concentric_circles(gap=0.0)
