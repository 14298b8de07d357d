"""A surface in place of a model, killed at a point: python streamed_cases.py CHECKPOINT FOLDER"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import landscape_kernels.pieces as cutting
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import landscape as ls

AXES: dict[str, Any] = {"x": (-1, 1, 3), "y": (-0.5, 1, 2)}


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.second(torch.tanh(self.first(x))))
        return found


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8),
        nn.Unflatten(1, (8, 1)),
        nn.ConvTranspose1d(8, 4, 2, groups=2),
        nn.BatchNorm1d(4),
        nn.Flatten(),
        Tied(),
        nn.Linear(8, 3),
    )
    model[0].bias.requires_grad_(False)
    return model


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 6, generator=generator), torch.randint(3, (40,), generator=generator)


def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return model(batch[0]), batch[1]


def checkpoint(folder: Path) -> Path:
    """The network's parameters and buffers in a file."""
    model = network()
    save_file({k: v for k, v in model.state_dict().items() if k != "5.second.weight"}, folder / "model.safetensors")
    return folder / "model.safetensors"


def surface(file: Path | None, out: Path | None, stop: int = -1) -> ls.Surface:
    """The surface, in place where the file of the network is given; killed when so many calls were made."""
    calls = 0

    def killing(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(model, batch)

    objective = ls.Objective(network(), data=[data()], forward=killing, checkpoint=file)
    plane = ls.random_plane(objective, seed=3)
    calls = 0
    return ls.measure_surface(objective, plane, **AXES, out=out)


def streamed_bytes() -> str:
    """The surface in place of a model, of a file that each rank has for itself."""
    with tempfile.TemporaryDirectory() as folder:
        found = surface(checkpoint(Path(folder)), None)
    return (found.values["loss"].tobytes() + found.stderr["loss"].tobytes()).hex()


if __name__ == "__main__":
    torch.set_num_threads(1)
    cutting.PIECE = 16
    surface(Path(sys.argv[1]), Path(sys.argv[2]), stop=4)
