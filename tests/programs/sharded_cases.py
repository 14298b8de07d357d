"""A model sharded by FSDP2 over the ranks of one group: mpiexec -n 2 python sharded_cases.py FOLDER [CALL]"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import landscape_kernels.pieces as cutting
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError
from landscape.run.comm import world

GRID: dict[str, Any] = {"x": (-1, 1, 3), "y": (-0.5, 1, 2)}


class Net(nn.Module):
    """A root with a parameter of its own, which FSDP leaves whole after a pass; one row fewer than even."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 7), nn.LayerNorm(7), nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.full((7,), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.scale * self.norm(torch.tanh(self.first(x))))
        return found


def network(shards: int) -> Net:
    torch.manual_seed(0)
    model = Net()
    model.first.bias.requires_grad_(False)
    if shards:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (shards,))
        for layer in (model.first, model.last):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 6, generator=generator), torch.randint(3, (40,), generator=generator)


def objective(model: nn.Module, **more: Any) -> ls.Objective:
    return ls.Objective(model, data=data(), chunk=16, metrics=("accuracy",), **more)  # 3 chunks: uneven for two ranks


def start(meeting: Path) -> None:
    where = f"file://{meeting.resolve()}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=world().rank, world_size=world().size)


def cases(folder: Path) -> None:
    ranks = world().size
    whole = network(0)
    plain = objective(whole)
    expected = ls.measure_surface(plain, ls.random_plane(plain, seed=3), **GRID)
    held = {name: value.detach().clone() for name, value in whole.named_parameters()}
    if world().rank == 0:
        save_file(held, folder / "model.safetensors")
    world().gather_all(None)

    for checkpoint in (None, folder / "model.safetensors"):
        model = network(ranks)
        model(data()[0])  # the root's parameters are whole now
        sharded = objective(model, checkpoint=checkpoint)
        plane = ls.random_plane(sharded, seed=3)
        assert plane.streamed
        assert sharded.centre.copied == (checkpoint is None)
        out = folder / f"run-{checkpoint is None}"
        part = ls.measure_surface(sharded, plane, **GRID, out=out, ranks_per_item=ranks, limit_items=4)
        assert part.computed.sum() == 4
        found = ls.measure_surface(sharded, plane, **GRID, out=out, ranks_per_item=ranks)
        for name, values in expected.values.items():
            np.testing.assert_allclose(found.values[name], values, rtol=1e-6)
            np.testing.assert_allclose(found.stderr[name], expected.stderr[name], rtol=1e-6)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter.full_tensor(), held[name]), name
        assert torch.equal(model(data()[0]), whole(data()[0]))
    at = sharded.theta + 0.5
    np.testing.assert_allclose(float(sharded.evaluate(at)["loss"]), float(plain.evaluate(at)["loss"]), rtol=1e-6)
    for refused, words in (
        (lambda: ls.measure_surface(sharded, plane, **GRID), "ranks_per_item=2"),  # each rank at a point of its own
        (lambda: sharded.differentiable().__enter__(), "derivatives"),
        (lambda: sharded.reestimate(None), "sharded"),
    ):
        told = ""
        try:
            refused()
        except InputError as error:
            told = str(error)
        assert words in told, told


def killed(folder: Path) -> None:
    """A surface whose second rank is killed at a call; where it comes to its end, against one in one go."""
    model, calls = network(world().size), 0

    def forward(module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == int(sys.argv[2]) and world().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return module(batch[0]), batch[1]

    inputs, targets = data()
    batches = [(inputs[i : i + 10], targets[i : i + 10]) for i in range(0, 40, 10)]
    sharded = ls.Objective(model, data=batches, forward=forward)
    plane = ls.random_plane(sharded, seed=3)
    calls = 0
    grid: dict[str, Any] = {"x": (-1, 1, 11), "y": (-1, 1, 11), "ranks_per_item": world().size}
    found = ls.measure_surface(sharded, plane, **grid, out=folder / "killed")
    calls = -(10**9)
    assert found.values["loss"].tobytes() == ls.measure_surface(sharded, plane, **grid).values["loss"].tobytes()


if __name__ == "__main__":
    torch.set_num_threads(1)
    cutting.PIECE = 16
    where, attempt = Path(sys.argv[1]), " ".join(sys.argv[2:])
    start(where / f"meeting{attempt}")
    if attempt:
        killed(where)
    else:
        cases(where)
    torch.distributed.destroy_process_group()
