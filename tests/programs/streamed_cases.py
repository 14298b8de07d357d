"""Surfaces in place of a model, on any number of ranks: mpiexec -n 2 python streamed_cases.py RESULT

or one that is killed at a point: python streamed_cases.py CHECKPOINT FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import landscape_kernels.pieces as cutting
import torch
from landscape_kernels.normalise import NORMALIZATIONS
from landscape_kernels.pieces import PIECE
from safetensors.torch import save_file
from torch import Tensor, nn

import landscape as ls
from landscape.objective import centre
from landscape.objective.centre import LARGE
from landscape.run.comm import world

AXES: dict[str, Any] = {"x": (-1, 1, 3), "y": (-0.5, 1, 2)}


class Tied(nn.Module):
    """Two layers of one weight, and buffers of integers and of complex numbers, which sort and turn what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.second.weight = self.first.weight
        self.register_buffer("order", torch.tensor([3, 1, 4, 0, 5, 2, 6, 7]))
        self.register_buffer("turn", torch.polar(torch.ones(8), torch.arange(8.0)))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.second(torch.tanh(self.first(x))))
        turned: Tensor = (found[:, self.order] * self.turn).real
        return turned


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
    kept = {k: v for k, v in network().state_dict().items() if k not in ("5.second.weight", "5.turn")}
    save_file(kept, folder / "model.safetensors")
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


def streamed_bytes(normalize: str, ranks: int) -> str:
    """A surface by so many ranks at each item, the same of vectors, in the model's own memory and in one copy of it."""
    found: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        for file, large in (
            (None, LARGE),
            (checkpoint(Path(folder)), LARGE),
            (None, 0),
        ):  # a file that a rank has alone
            centre.LARGE = large
            try:
                objective = ls.Objective(network(), data=data(), chunk=15, checkpoint=file)
                plane = ls.random_plane(objective, normalize=normalize, seed=3, ignore=("bias", "5.norm.*"))
                assert plane.streamed == (file is not None or large == 0)
                measured = ls.measure_surface(objective, plane, **AXES, ranks_per_item=ranks)
            finally:
                centre.LARGE = LARGE
            found.append(measured.values["loss"].tobytes() + measured.stderr["loss"].tobytes())
    assert found[0] == found[1] == found[2]
    return found[0].hex()


def results() -> dict[str, str]:
    """By every normalisation, items over ranks or data over ranks."""
    cutting.PIECE = 16
    try:
        shared = 2 if world().size % 2 == 0 else 1
        return {how: streamed_bytes(how, shared if how == "layer" else 1) for how in NORMALIZATIONS}
    finally:
        cutting.PIECE = PIECE


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 2:
        everywhere = world().gather_all(results())
        assert all(found == everywhere[0] for found in everywhere)
        if world().rank == 0:
            Path(sys.argv[1]).write_text(json.dumps(everywhere[0]))
    else:
        cutting.PIECE = 16
        surface(Path(sys.argv[1]), Path(sys.argv[2]), stop=4)
