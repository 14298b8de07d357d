"""The class for users of WeightWatcher against the tool's own numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
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
    np.random.seed(7)
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
    assert np.random.random() == np.random.RandomState(7).random_sample()  # the user's stream is as it was


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


SHARED = ("ckpt_cifar10_convnet_curve/start", "surfaces_mnist_h5/cnn_entropy", "surfaces_mnist_h5/small_dense_entropy")


@pytest.mark.parametrize("name", ["ckpt_cifar10_resnet/resnet20_akamaster", *SHARED])
def test_options_with_numbers_of_their_own(name: str) -> None:
    """Clipped fits, which fail where nothing is left; taps one by one."""
    known = reference()["models"][name]
    file = shared("data", known["file"])
    clipped = WeightWatcher(file).analyze(fix_fingers="clip_xmax").set_index("longname")
    assert set(clipped.index) == set(known["clip_xmax"])
    for layer, row in known["clip_xmax"].items():
        assert clipped["status"][layer] == row.pop("status")
        assert [clipped[column][layer] for column in row] == pytest.approx(list(row.values()), rel=1e-9), layer
    taps = WeightWatcher(file).analyze(pool=False)
    assert len(taps) == known["pool_false_rows"]
    assert WeightWatcher().get_summary(taps) == pytest.approx(known["pool_false_summary"], rel=1e-9)
    taps.index = [f"{layer}:{number}" for layer, number in zip(taps["longname"], taps["slice_id"], strict=True)]
    for place, row in known.get("pool_false", {}).items():
        assert taps["status"][place] == row.pop("status")
        assert [taps[column][place] for column in row] == pytest.approx(list(row.values()), rel=1e-9), place


def test_how_far_eigenvectors_are_spread_out() -> None:
    """Layers whose xmin the tool counts among the tail; in others rounding puts it below."""
    known = reference()["models"][SHARED[0]]
    found = WeightWatcher(shared("data", known["file"])).analyze(vectors=True).set_index("longname")
    for layer in ("features.0", "features.3", "features.6", "classifier.2"):
        row = known["vectors"][layer]
        allowed = pytest.approx([float(value) for value in row.values()], rel=1e-6, abs=1e-12)
        assert [float(found[column][layer]) for column in row] == allowed, layer


def test_which_layers_are_taken() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 20), nn.Conv2d(4, 6, 3), nn.Linear(12, 7))
    watcher = WeightWatcher(net)

    def taken(**asked: Any) -> list[str]:
        names = list(watcher.describe(**asked)["longname"])
        assert list(watcher.analyze(**asked)["longname"]) == names
        return names

    assert taken() == ["0", "1"]
    assert taken(min_evals=7) == ["0", "1", "2"]
    assert taken(max_evals=30) == ["0"]
    assert taken(max_evals=0, max_N=25) == ["1"]
    assert taken(layers=[2]) == taken(layers=["conv2d"]) == taken(layers=["1"]) == taken(layers=[-1]) == ["1"]
    assert taken(layers=["-1"]) == ["0"]
    assert taken(pool=False) == ["0"]
    assert taken(start_ids=1, layers=[2]) == ["0"]
    for wrong in ({"layers": [1, -2]}, {"min_evals": 9, "max_evals": 9}):
        with pytest.raises(ls.InputError, match=r"not both|below max_evals"):
            watcher.describe(**wrong)


def test_eigenvalues_pictures_and_smoothed_models(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 10))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    watcher = WeightWatcher(net)
    details = watcher.analyze(plot=True, savefig=tmp_path, detX=True).set_index("longname")
    assert watcher.figures.keys() == {"0", "2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ww.layer1.esd.png", "ww.layer3.esd.png"]
    conv = watcher.get_ESD(layer=1)
    assert conv[-1] == details["lambda_max"]["0"]
    assert conv.size == 36
    again = watcher.get_ESD(layer="2", random=True, seed=1)
    assert again.sum() == pytest.approx(details["norm"]["2"])
    np.testing.assert_array_equal(again, watcher.get_ESD(layer="2", random=True, seed=1))
    with pytest.raises(ls.InputError, match=r"layer=7 is none that is kept; those are 1 \(0\), 3 \(2\)"):
        watcher.get_ESD(layer=7)
    given = net[0].weight[:, :, 1, 2].detach(), net[2].weight.detach()
    tails = math.ceil(details["detX_num"]["0"] / 9), int(details["detX_num"]["2"])
    for options, ranks in (({"method": "svd", "percent": 0.3}, (2, 3)), ({}, tails)):
        smoothed = watcher.SVDSmoothing(**options)
        for w, rank, kept in zip(given, ranks, (smoothed[0].weight[:, :, 1, 2], smoothed[2].weight), strict=True):
            u, s, vh = torch.linalg.svd(w)
            np.testing.assert_allclose(kept.detach(), (u[:, :rank] * s[:rank]) @ vh[:rank], atol=1e-6, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    by_name = WeightWatcher(net.state_dict()).SVDSmoothing(method="svd", percent=0.3)
    again = watcher.SVDSmoothing(method="svd", percent=0.3)[2].weight.detach()
    np.testing.assert_allclose(by_name["2.weight"], again, atol=1e-7)
    for wrong in ({"method": "alpha"}, {"method": "svd", "percent": -0.2}):
        with pytest.raises(ls.InputError, match="give"):
            watcher.SVDSmoothing(**wrong)


DEAD = ("conv2d_fft", "fft", "glorot_fix", "inverse", "peft", "stacked")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"fit": "TPL"}, "wrong, or fails"),
        *(({name: True}, f"{name}=True.*wrong, or fails") for name in DEAD),
        ({"channels": "last"}, "wrong, or fails"),
        ({"pl_package": "powerlaw"}, "wrong, or fails"),
        ({"xmax": "force"}, "wrong, or fails"),
        ({"fix_fingers": "xmin_peak"}, "doubt"),
        ({"max_fingers": 20}, "takes 10"),
        ({"conv2d_norm": False}, "factor 0.5"),
        ({"ww2x": True}, "pool=False"),
        ({"min_size": 50}, "min_evals"),
    ],
)
def test_options_that_are_wrong_there_are_refused_by_name(option: dict[str, Any], said: str) -> None:
    with pytest.raises(ls.InputError, match=said):
        WeightWatcher(nn.Linear(20, 10)).analyze(**option)


def test_methods_that_are_wrong_there_are_refused_by_name() -> None:
    watcher = WeightWatcher(nn.Linear(20, 10))
    with pytest.raises(AttributeError, match="largest singular values out of the original"):
        watcher.SVDSharpness()
    with pytest.raises(AttributeError, match="analyze"):
        watcher.analyse()
    assert not hasattr(watcher, "analyze_traps")


def test_an_empty_table_is_an_error_with_its_reason() -> None:
    """There it is a table without columns, which fails where alpha is asked for."""
    torch.manual_seed(0)
    watcher = WeightWatcher(model=nn.Sequential(nn.Linear(12, 11), nn.ReLU(), nn.Conv2d(3, 4, 3)))
    with pytest.raises(
        ls.InputError, match=r"layers=\[2\] are none that are kept; those are 1 \(0, dense\), 3 \(2, conv2d\)"
    ):
        watcher.analyze(layers=[2])
    with pytest.raises(ls.InputError, match=r"no layer of the model is kept .*weight_ih_l0: no key that ends"):
        WeightWatcher(model=nn.Sequential(nn.LSTM(12, 11))).analyze()
    with pytest.raises(ls.InputError, match="no layer of the model is kept"):
        watcher.describe(min_evals=100)


def test_a_dict_whose_key_is_weight_alone_is_not_kept() -> None:
    state = {"weight": torch.eye(12), "head.weight": torch.randn(12, 11, generator=torch.Generator().manual_seed(0))}
    assert list(WeightWatcher(state).analyze()["longname"]) == ["head"]
    assert list(WeightWatcher(nn.Linear(12, 11)).analyze()["num_evals"]) == [11]


def test_options_of_the_constructor_are_told_by_name() -> None:
    assert WeightWatcher(nn.Linear(12, 11), framework="pytorch").model is not None
    with pytest.raises(ls.InputError, match="log_level=20 is not supported: nothing is printed"):
        WeightWatcher(nn.Linear(12, 11), log_level=20)
    with pytest.raises(AttributeError, match=r"known: .*analyze") as error:
        WeightWatcher().qqqq  # noqa: B018
    assert "__" not in str(error.value)
