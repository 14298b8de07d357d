"""The class for users of WeightWatcher against the tool's own numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from shared import shared
from torch import nn

import landscape as ls
from landscape.compat import WeightWatcher


def reference() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shared("reference", "ww077_shared.json").read_text())
    return found


@pytest.mark.parametrize("name", ["ckpt_cifar10_convnet_curve/start", "surfaces_mnist_h5/dense_margin"])
def test_randomised_columns_of_the_same_seeds(name: str) -> None:
    known = reference()["models"][name]
    state = ls.read_state(shared("data", known["file"]))
    ordered = {f"{layer}.weight": state[f"{layer}.weight"] for layer in known["random"]}
    for seed in (0, 3):
        found = WeightWatcher(ordered).analyze(randomize=True, seed=seed).set_index("longname")
        for layer, row in known["random"].items():
            few = found["num_evals"][layer] < 30
            for column, values in row.items():
                fitted = column.startswith(("rand_sigma", "rand_mp", "rand_bulk", "num_traps"))
                if values[seed] is None:
                    continue
                allowed = pytest.approx(values[seed], rel=0.02 if few and fitted else 1e-8, abs=1e-9)
                assert float(found[column][layer]) == allowed, (layer, column)


@pytest.mark.parametrize("method", ["raw", "euclidean", "cka"])
def test_distances(method: str) -> None:
    name = "ckpt_cifar10_convnet_curve/start - ckpt_cifar10_convnet_curve/end"
    known = reference()["distances"][name][method]
    files = [shared("data", f"{part}.safetensors") for part in name.split(" - ")]
    weights, biases, table = WeightWatcher().distances(*files, method=method)
    assert weights == pytest.approx(known["mean_delta_W"], rel=1e-6)  # of float32 there
    assert biases == pytest.approx(known["mean_delta_b"], rel=1e-6)
    for _, row in table.iterrows():
        assert [row["delta_W"], row["delta_b"]] == pytest.approx(known["layers"][row["longname"]], rel=1e-6)


def test_the_difference_from_a_base_model_wherever_it_is_given() -> None:
    name = "ckpt_cifar10_convnet_curve/start - ckpt_cifar10_convnet_curve/end"
    known = reference()["distances"][name]["analyze_of_difference"]
    one, other = (shared("data", f"{part}.safetensors") for part in name.split(" - "))
    for found in (WeightWatcher(other, base_model=one).analyze(), WeightWatcher().analyze(other, base_model=one)):
        rows = found.set_index("longname")
        for layer, row in known.items():
            for column, value in row.items():
                assert float(rows[column][layer]) == pytest.approx(value, rel=1e-4), (layer, column)


def test_the_tables_are_those_of_the_tool() -> None:
    """Numbers and names of layers, and columns, as the tool gave them for this network."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Sequential(nn.Linear(30, 20)), nn.Linear(7, 40), nn.Linear(12, 40)
    )
    watcher = WeightWatcher(net)
    details = watcher.analyze()
    assert list(details["layer_id"]) == [1, 4, 6]
    assert list(details["name"]) == ["0", "0", "4"]
    assert list(details["longname"]) == ["0", "2.0", "4"]
    assert list(details) == [
        "layer_id",
        "name",
        "D",
        "M",
        "N",
        "Q",
        "alpha",
        "alpha_weighted",
        "entropy",
        "has_esd",
        "lambda_max",
        "layer_type",
        "log_alpha_norm",
        "log_norm",
        "log_spectral_norm",
        "longname",
        "matrix_rank",
        "norm",
        "num_evals",
        "num_pl_spikes",
        "rank_loss",
        "rf",
        "sigma",
        "spectral_norm",
        "stable_rank",
        "status",
        "sv_max",
        "sv_min",
        "warning",
        "weak_rank_loss",
        "xmax",
        "xmin",
    ]
    by_name = WeightWatcher(dict(net.state_dict())).analyze()
    assert list(by_name["layer_id"]) == [1, 3, 5]
    np.testing.assert_array_equal(by_name["alpha"], details["alpha"])
    assert watcher.get_summary() == {name: details[name].mean() for name in watcher.get_summary()}
    assert list(watcher.get_summary()) == [
        "log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm", "stable_rank"
    ]  # fmt: skip
    assert list(watcher.describe(layers=["4"])["N"]) == [40]
    whole = watcher.analyze(mp_fit=True, detX=True)
    assert {"mp_softrank", "num_spikes", "ERG_gap", "num_ERG_spikes"} <= set(whole)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"fit": "TPL"}, "wrong, or fails"),
        ({"inverse": True}, "wrong, or fails"),
        ({"fix_fingers": "clip_xmax"}, "doubt"),
    ],
)
def test_options_that_are_wrong_there_are_refused_by_name(option: dict[str, Any], said: str) -> None:
    with pytest.raises(ls.InputError, match=said):
        WeightWatcher(nn.Linear(20, 10)).analyze(**option)
