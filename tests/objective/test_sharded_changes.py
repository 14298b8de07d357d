"""A sharded model that was written to is refused."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import landscape as ls


def test_a_sharded_model_that_was_changed_is_refused() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        objective = ls.Objective(model, data=(torch.randn(6, 3), torch.randint(2, (6,))))
        plane = ls.random_plane(objective, seed=0)
        first = ls.measure_surface(objective, plane, x=(0, 1, 2), y=(0, 1, 2)).values["loss"][0, 0]
        assert float(objective.evaluate()["loss"]) == first
        with torch.no_grad():
            next(model.parameters()).mul_(1.1)
        with pytest.raises(ls.InputError, match="changed after the objective was made"):
            objective.evaluate()
    finally:
        distributed.destroy_process_group()
