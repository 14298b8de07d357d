"""Moving averages of the weights beside the weights in one checkpoint: which is meant is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from landscape.checkpoints.reading import read_state
from landscape.errors import InputError

STATE = nn.Linear(2, 2).state_dict()
OTHER = {name: 2 * value for name, value in STATE.items()}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"state_dict": STATE, "state_dict_ema": OTHER, "epoch": 3}, "['state_dict_ema']"),  # timm
        ({"model": STATE, "ema": {"module": OTHER, "updates": 7}}, "['ema']"),  # detection
        ({"model": STATE, "ema_state": {"shadow_params": list(OTHER.values()), "decay": 0.99}}, "['ema_state']"),
        ({"model_state_dict": STATE, "swa_model": OTHER}, "['swa_model']"),
        ({"net": STATE, "averaged_model": {"n_averaged": torch.tensor(3), **OTHER}}, "['averaged_model']"),
        ({"state_dict": STATE, "callbacks": {"EMACallback": {"weights": OTHER}}}, "['callbacks']['EMACallback']"),
        ({**STATE, "model_ema": OTHER}, "['model_ema']"),
    ],
)
def test_averages_beside_the_weights_are_asked_for(content: dict[str, Any], place: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError) as raised:
        read_state(tmp_path / "a.pt")
    assert f"at {place}, what looks like moving averages" in str(raised.value)
    assert str(tmp_path / "a.pt") in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "ema_decay": 0.99, "optimizer": {"exp_avg": {"weight": OTHER["weight"]}}},
        {"state_dict": STATE, "ema": None},
        {"state_dict": STATE, "ema": {}},
        {"state_dict": STATE, "callbacks": {"ModelCheckpoint": {"best": OTHER}}, "schema": {"a": torch.ones(2)}},
        {"model": {**STATE, "ema_codebook": torch.ones(3)}},
    ],
)
def test_what_is_no_average_of_the_weights_is_left_alone(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    found = read_state(tmp_path / "a.pt")
    assert all(torch.equal(found[name], value) for name, value in STATE.items())
