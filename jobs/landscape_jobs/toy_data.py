"""Two classes in the plane, to draw decision boundaries of: factories for the table [data] of a job.

Source: Huang et al., "Understanding generalization through visualizations", 2019.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.arguments import checked
from landscape.errors import InputError

_TURNS = 600 / 360  # of a spiral


@checked()
def swiss_roll(count: int = 400, noise: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(points (count, 2), labels (count,)): two spirals n (-cos n, sin n) x 1.5, the second turned by half a turn.

    n = sqrt(U) 600 degrees with U uniform, and uniform noise of up to `noise` is added to both coordinates. Raises
    InputError for fewer than two points.
    """
    if count < 2:
        raise InputError(f"count={count}; give 2 or more points, of two classes")
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "swiss roll")))
    labels = np.arange(count) % 2
    n = np.sqrt(random.random(count)) * _TURNS * 2 * math.pi
    turned = np.stack([-np.cos(n) * n, np.sin(n) * n], axis=1) * 1.5 * (1 - 2 * labels)[:, None]
    points = turned + random.random((count, 2)) * noise
    return torch.from_numpy(points).float(), torch.from_numpy(labels)


@checked()
def concentric_circles(layers: int = 10, each: int = 100, gap: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(points (layers x each, 2), labels): circles of radii 1, 1 + gap, ..., whose classes alternate.

    The angles are uniform. Raises InputError for fewer than two circles, no points, or a gap that is not positive.
    """
    if layers < 2 or each < 1 or not gap > 0:
        raise InputError(f"layers={layers}, each={each}, gap={gap}; give 2 or more, 1 or more, and above 0")
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "circles")))
    layer = np.repeat(np.arange(layers), each)
    angles = random.random(layers * each) * 2 * math.pi
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (1 + gap * layer)[:, None]
    return torch.from_numpy(points).float(), torch.from_numpy(layer % 2)
