"""Weight matrices: closed forms, every kind of tensor, the numbers of WeightWatcher 0.7.7, bad input, runs."""

from __future__ import annotations

import json
import logging
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from shared import shared
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import orthogonal

import landscape as ls
from landscape.checkpoints.tensors import FiledTensors
from landscape.compat import WeightWatcher
from landscape.network.weights import weight_matrices
from landscape.results.kind import Asked, kind_of
from landscape.results.summary import result_tables
from landscape.studies.weights.measure import weights_task

CHECKPOINTS = (
    "ckpt_cifar10_resnet/resnet20_akamaster",
    "ckpt_cifar10_convnet_curve/start",
    "ckpt_cifar10_convnet_curve/end",
    "surfaces_mnist_h5/dense_margin",
    "surfaces_mnist_h5/small_dense_entropy",
    "surfaces_mnist_h5/cnn_entropy",
    "surfaces_mnist_h5/trajectory_dense_margin/epoch10",
)


def measured(model: Any, initial: Any = None, **options: Any) -> ls.Weights:
    return ls.measure_weights(model, initial, **{"shuffles": 0, "roundings": 0, **options})


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def squares(*matrices: Tensor) -> np.ndarray:
    """Squares of the singular values of all matrices together, ascending."""
    return np.sort(np.concatenate([torch.linalg.svdvals(m.detach().double()).numpy() ** 2 for m in matrices]))


def one(weights: ls.Weights, layer: str) -> dict[str, float]:
    return {name: float(values[weights.row(layer)]) for name, values in weights.values.items()}


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_closed_forms() -> None:
    found = measured({"a.weight": 3 * torch.eye(12), "b.weight": torch.diag(torch.tensor([1.0, 2.0, 4.0]))})
    a, b = one(found, "a"), one(found, "b")
    assert [a[k] for k in ("log_norm", "log_spectral_norm", "stable_rank", "entropy")] == pytest.approx(
        [math.log10(12 * 9), 2 * math.log10(3), 12, 1]
    )
    assert [b[k] for k in ("norm", "log_norm", "stable_rank", "entropy")] == pytest.approx(
        [21, 1.32222, 1.3125, 0.608056], rel=1e-5
    )
    assert math.isnan(a["alpha"])
    assert "all alike" in found.left_out()["a"]
    assert "fewer than 10" in found.left_out()["b"]
    assert math.isnan(found.model["alpha"])
    assert found.model["alpha"].n == 0
    assert found.model["log_norm"].n == 2


def test_a_planted_power_law_is_found() -> None:
    """Eigenvalues at the quantiles of lambda^-3: alpha 3.00851, by another program."""
    sigma = torch.from_numpy((1 - (np.arange(200) + 0.5) / 200) ** -0.25)
    q = torch.linalg.qr(normal(300, 200))[0]
    found = one(measured({"w": q * sigma}), "w")
    assert found["alpha"] == pytest.approx(3.00851, abs=1e-5)
    assert found["num_pl_spikes"] == 200
    assert found["alpha_weighted"] == pytest.approx(found["alpha"] * found["log_spectral_norm"])
    assert found["tpl_gain"] >= 0


def test_scale_transposition_and_order_of_rows_do_not_matter() -> None:
    w = normal(60, 40) ** 3
    found = measured({"w": w, "scaled": 1e-4 * w, "turned": w.T.contiguous(), "sorted": w[torch.randperm(60)]})
    first = one(found, "w")
    shape = ("alpha", "D", "stable_rank", "entropy", "num_spikes", "mp_softrank", "alpha_low", "alpha_high", "tpl_beta")
    for other in ("scaled", "turned", "sorted"):
        again = one(found, other)
        assert [again[k] for k in shape] == pytest.approx([first[k] for k in shape], rel=1e-9), other
    scaled = one(found, "scaled")
    assert scaled["log_norm"] == pytest.approx(first["log_norm"] - 8)
    assert scaled["alpha_weighted"] == pytest.approx(first["alpha_weighted"] - 8 * first["alpha"], rel=1e-9)


def test_distances_from_the_initial_weights() -> None:
    before, after = normal(20, 12), normal(20, 12, seed=1)
    taps = normal(6, 12, 3, 3), normal(6, 12, 3, 3, seed=2)
    found = measured({"fc.weight": after, "c.weight": taps[0]}, {"fc.weight": before, "c.weight": taps[1]})
    fc, conv = one(found, "fc"), one(found, "c")
    assert fc["distance"] == pytest.approx(float((after - before).norm()))
    assert fc["relative_distance"] == pytest.approx(float((after - before).norm() / before.norm()))
    assert fc["spectral_distance"] == pytest.approx(float(torch.linalg.matrix_norm(after - before, 2) ** 2) ** 0.5)
    assert conv["distance"] == pytest.approx(float((taps[0] - taps[1]).norm()))
    assert torch.equal(before, normal(20, 12))  # float64, whose memory is not copied
    with pytest.raises(ls.InputError, match=r"does not have 'fc.weight'.*same network"):
        measured({"fc.weight": after}, {"other.weight": before})


def test_the_null_holds_its_level_and_tails_are_told_from_it() -> None:
    """Matrices of noise, normal and uniform, lie below 19 of 19 of their own shuffles in one of 20 draws.

    Heavy tails always do.
    """
    noise = {f"n{k}": normal(40, 24, seed=k) for k in range(20)}
    noise |= {f"u{k}": torch.rand(40, 24, generator=torch.Generator().manual_seed(k)) - 0.5 for k in range(20)}
    sigma = torch.arange(1.0, 61).double() ** -1.0
    tails = {f"t{k}": torch.linalg.qr(normal(80, 60, seed=k))[0] * sigma for k in range(3)}
    found = measured(noise | tails, shuffles=19)
    share = found.values["alpha_null_share"]
    lowest = int((share[:40] <= 0.05).sum())
    assert lowest <= 2 + 3 * math.sqrt(40 * 0.05 * 0.95)
    for kind in (share[:20], share[20:40]):
        assert kind.mean() == pytest.approx(0.525, abs=3 * 0.289 / math.sqrt(20))
    assert (share[40:] == 0.05).all()
    assert "below those of all 19 shuffles" in found.sentence("t0")
    assert (found.values["rand_distance"][40:] > found.values["rand_distance"][:40].max()).all()


def test_rounding_of_the_stored_type_moves_alpha() -> None:
    """Of bfloat16 as far as another rounding to it does; of float64 not at all."""
    w = normal(64, 48) ** 3
    found = ls.measure_weights({"half": w.to(torch.bfloat16), "whole": w}, shuffles=0, roundings=4)
    spread = found.values["alpha_rounded_high"] - found.values["alpha_rounded_low"]
    assert spread[1] < 1e-9
    assert spread[0] > 1e-5


# -- kinds of tensors ------------------------------------------------------------------------------------------------


def layers(model: nn.Module) -> dict[str, np.ndarray]:
    found = measured(model)
    return {layer: found.spectrum(layer) for layer in found.layers}


def test_convolutions_are_the_stack_of_their_taps() -> None:
    torch.manual_seed(0)
    nets = (nn.Conv1d(8, 6, 5), 5), (nn.Conv1d(16, 12, 9), 9), (nn.Conv2d(8, 6, 3), 9), (nn.Conv3d(4, 3, 2), 8)
    # more taps than channels; an even number of taps and fewer outputs than inputs
    for net, taps in (*nets, (nn.Conv2d(1, 4, 5), 25), (nn.Conv2d(8, 5, 2), 4)):
        w = net.weight.detach()
        found = measured(net)
        assert (found.larger[0], found.smaller[0]) == (max(w.shape[:2]), min(w.shape[:2]))
        exact = squares(*(w.flatten(2)[:, :, k] for k in range(taps)))
        np.testing.assert_allclose(layers(net)["weight"], exact, rtol=1e-9)
        turned = type(net).__name__.replace("Conv", "ConvTranspose")
        other = getattr(nn, turned)(net.out_channels, net.in_channels, net.kernel_size)
        other.weight.data = w  # (in, out, ...) there
        np.testing.assert_allclose(layers(other)["weight"], exact, rtol=1e-9)


def test_grouped_convolutions_are_block_diagonal() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(64, 64, 3, groups=4, bias=False)
    w = net.weight.detach()
    whole = torch.block_diag(*(w[16 * g : 16 * g + 16, :, 1, 1] for g in range(4)))
    blocks = [w[16 * g : 16 * g + 16, :, i, j] for g in range(4) for i in range(3) for j in range(3)]
    found = measured(net)
    assert found.spectrum("weight").size == 576
    np.testing.assert_allclose(found.spectrum("weight"), squares(*blocks), rtol=1e-9, atol=1e-13)
    middle = squares(whole)
    assert np.isclose(found.spectrum("weight")[:, None], middle, rtol=1e-9).any(0).all()
    depthwise = nn.Conv2d(64, 64, 3, groups=64, bias=False)
    np.testing.assert_allclose(
        layers(depthwise)["weight"], np.sort(depthwise.weight.detach().double().numpy().ravel() ** 2)
    )
    by_name = measured(net.state_dict())
    assert "groups" in by_name.notes[0]


def test_projections_of_attention_stand_apart() -> None:
    torch.manual_seed(0)
    net = nn.MultiheadAttention(12, 3)
    found = layers(net)
    assert list(found) == ["in_proj_weight[q]", "in_proj_weight[k]", "in_proj_weight[v]", "out_proj"]
    for k, name in enumerate("qkv"):
        np.testing.assert_allclose(
            found[f"in_proj_weight[{name}]"], squares(net.in_proj_weight[12 * k : 12 * k + 12]), rtol=1e-8
        )
    same = {"h.c_attn.weight": net.in_proj_weight.detach().T.contiguous(), "b.qkv.weight": net.in_proj_weight.detach()}
    for name in ("h.c_attn", "b.qkv"):
        by_name = measured(same)
        np.testing.assert_allclose(by_name.spectrum(f"{name}[v]"), found["in_proj_weight[v]"], rtol=1e-9)
    unequal = measured({"b.qkv_proj.weight": normal(24, 12)})
    assert "taken whole" in unequal.notes[0]


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", "ifgo"), ("GRU", "rzn"), ("RNN", " ")])
def test_gates_stand_apart(kind: str, gates: str) -> None:
    torch.manual_seed(0)
    net = getattr(nn, kind)(7, 11)
    for model in (net, net.state_dict()):
        found = measured(model)
        assert len(found.layers) == 2 * len(gates)
        for k, gate in enumerate(gates):
            name = f"weight_hh_l0[{gate}]" if len(gates) > 1 else "weight_hh_l0"
            np.testing.assert_allclose(found.spectrum(name), squares(net.weight_hh_l0[11 * k : 11 * k + 11]), rtol=1e-6)


def test_other_kinds_and_what_is_left_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50_300, 12)
            self.head = nn.Linear(12, 50_300, bias=False)
            self.head.weight = self.table.weight
            self.pair = nn.Bilinear(5, 6, 3)
            self.norm = nn.LayerNorm(12)
            self.register_buffer("codes", torch.zeros(12, 12, dtype=torch.int8))

    torch.manual_seed(0)
    net = Net()
    found = measured(net)
    assert found.layers == ("table", "pair")
    np.testing.assert_allclose(found.spectrum("pair"), squares(*net.pair.weight), rtol=1e-6)
    assert "the same tensor as table.weight" in found.skipped["head.weight"]
    assert "int8" in found.skipped["codes"]
    assert "dequantised" in found.skipped["codes"]
    assert found.skipped.keys() == {"head.weight", "pair.bias", "norm.weight", "norm.bias", "codes"}
    with pytest.raises(ls.InputError, match="'head' was left out: the same tensor"):
        found.spectrum("head")


def test_tensors_that_are_no_layers_weights() -> None:
    """Of a module and of its state dict: biases and scales of several axes, tokens, positions, experts, parts."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.class_token = nn.Parameter(normal(1, 1, 48))
            self.pos_embedding = nn.Parameter(normal(1, 17, 48))
            self.experts = nn.Parameter(normal(4, 16, 24))
            self.layer_scale = nn.Parameter(normal(48, 1, 1))
            self.norm, self.plane = nn.LayerNorm((12, 20)), nn.LayerNorm((12, 5, 5))
            self.pruned = nn.Linear(20, 20)
            prune.l1_unstructured(self.pruned, "weight", 0.5)
            self.turned = orthogonal(nn.Linear(20, 20))
            self.register_buffer("bias", torch.tril(torch.ones(1, 1, 30, 30)))
            self.register_buffer("codes", torch.zeros(4, 4, dtype=torch.int64))

    net = Net()
    for model in (net, net.state_dict()):
        found = measured(model)
        assert found.layers == ("pos_embedding", "experts")
        np.testing.assert_allclose(found.spectrum("pos_embedding"), squares(net.pos_embedding[0]), rtol=1e-9)
        np.testing.assert_allclose(found.spectrum("experts"), squares(*net.experts), rtol=1e-9)
        assert found.slices.tolist() == [1, 4]
        assert "first axis" in found.notes[1]
        said = {
            name: found.skipped[name] for name in ("class_token", "layer_scale", "norm.weight", "plane.bias", "bias")
        }
        assert all(reason.startswith(("no matrix: ", "a buffer ")) for reason in said.values()), said
        assert "re-parametrised" in found.skipped["pruned.weight_orig"]
        assert "stored as int64, which is none of" in found.skipped["codes"]
    net.register_buffer("mask", torch.tril(torch.ones(30, 30)))
    assert "a buffer" in measured(net).skipped["mask"]
    kept = ls.truncate_weights(net, 0.1)["pos_embedding"]
    assert int(torch.linalg.matrix_rank(kept[0])) == 1


def test_parameters_of_three_axes_are_no_convolutions() -> None:
    """Tables of positions, class tokens and stacks of experts, of a module and of its state dict."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos_embed = nn.Parameter(normal(1, 30, 12).float())
            self.cls_token = nn.Parameter(normal(1, 1, 12).float())
            self.scale = nn.Parameter(torch.ones(12, 1, 1))
            self.experts = nn.Parameter(normal(3, 14, 12).float())
            self.grid = nn.Parameter(normal(2, 3, 4, 5).float())
            self.experts_too = nn.Module()
            self.experts_too.weight = nn.Parameter(normal(3, 14, 12).float())
            self.own = nn.Module()
            self.own.weight = nn.Parameter(normal(14, 12, 3).float())

    net = Net()
    for model in (net, net.state_dict()):
        found = measured(model)
        assert found.layers == ("pos_embed", "experts", "experts_too", "own")
        assert found.kinds == ("embedding", "stack", "stack", "convolution")
        np.testing.assert_allclose(found.spectrum("pos_embed"), squares(net.pos_embed[0]), rtol=1e-6)
        for layer in ("experts", "experts_too"):
            np.testing.assert_allclose(found.spectrum(layer), squares(*net.experts), rtol=1e-6)
            assert found.notes[found.row(layer)] == "taken as 3 matrices along its first axis"
        np.testing.assert_allclose(found.spectrum("own"), squares(*net.own.weight.movedim(2, 0)), rtol=1e-6)
        assert found.skipped["cls_token"] == found.skipped["scale"] == "no matrix: a bias, a scale or a statistic"
        assert "no convolution by its name" in found.skipped["grid"]
    smaller = ls.truncate_weights(net, 0.25)
    assert np.linalg.matrix_rank(smaller["pos_embed"][0].detach()) == 3
    assert [np.linalg.matrix_rank(w.detach()) for w in smaller["experts"]] == [3, 3, 3]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_parts_of_reparametrised_weights_and_buffers_are_no_weights() -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {
            "norm": nn.utils.weight_norm(nn.Conv1d(12, 14, 3)),
            "spectral": nn.utils.spectral_norm(nn.Linear(12, 14)),
            "pruned": nn.Linear(12, 14),
            "plain": nn.Linear(12, 14),
        }
    )
    prune.l1_unstructured(net["pruned"], "weight", 0.5)
    net.register_buffer("table", normal(30, 12).float())
    assert measured(net).layers == ("plain",)
    assert measured(net.state_dict()).layers == ("table", "plain")  # a dict does not tell buffers
    skipped = measured(net.state_dict()).skipped
    for name in ("norm.weight_g", "norm.weight_v", "spectral.weight_orig", "pruned.weight_orig", "pruned.weight_mask"):
        assert "re-parametrised" in skipped[name]
    assert measured(net).skipped["table"] == "a buffer of the module, which is no parameter"
    apart = measured({"w_g": normal(14, 12), "w_v": normal(14, 12)})  # gates and values of an attention of one's own
    assert apart.layers == ("w_g", "w_v")


def test_tied_weights_of_an_objective_count_once() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(14, 12), nn.Linear(12, 14, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens))

    net = Net()
    objective = ls.Objective(net, loss="cross_entropy", data=(torch.arange(4), torch.arange(4)))
    found = measured(objective)
    assert found.layers == ("table",)
    assert found.skipped == {"head.weight": "the same tensor as table.weight, which is counted once"}
    np.testing.assert_allclose(found.spectrum("table"), squares(net.table.weight), rtol=1e-6)


def test_queries_by_heads_are_taken_whole() -> None:
    found = measured({"attention.query_key_value.weight": normal(36, 12)})
    assert found.layers == ("attention.query_key_value",)
    assert "of each head in turn" in found.notes[0]


def test_linear_layers_by_other_names() -> None:
    """An embedding, a bag of embeddings, the Conv1D of transformers; one module under two names counts once."""

    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(normal(12, 15).float())

    torch.manual_seed(0)
    line = nn.Linear(11, 13)
    net = nn.ModuleDict(
        {"a": nn.Embedding(14, 12), "b": nn.EmbeddingBag(16, 11), "c": Conv1D(), "d": line, "again": line}
    )
    found = measured(net)
    assert found.layers == ("a", "b", "c", "d")
    for name in found.layers:
        np.testing.assert_allclose(found.spectrum(name), squares(net[name].weight), rtol=1e-6)
    assert "the same tensor as d.weight" in found.skipped["again.weight"]


def test_a_matrix_of_one_column_has_no_distance_to_its_shuffles() -> None:
    found = one(ls.measure_weights({"w": normal(30, 1)}, shuffles=3, roundings=0), "w")
    assert found["rand_distance"] == found["rand_distance_sd"] == 0
    assert found["stable_rank"] == pytest.approx(1)
    assert math.isnan(found["alpha"])


def test_every_tensor_is_told_before_the_work(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "landscape.studies.weights.measure"):
        weights_task(nn.Sequential(nn.Linear(12, 11), nn.LayerNorm(11)))
    assert "kept 0: linear, 12 x 11" in caplog.text
    assert "left out 1.weight: no matrix" in caplog.text


# -- the conventions of WeightWatcher --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weightwatcher_to_the_digit(name: str) -> None:
    reference = json.loads(shared("reference", "ww077_shared.json").read_text())["models"][name]
    found = measured(shared("data", reference["file"]), convention="weightwatcher")
    table = found.to_pandas()
    assert sorted(table.index) == sorted(reference["analyze"])
    for layer, row in reference["analyze"].items():
        few = row["num_evals"] < 30
        for column, value in row.items():
            if column in ("layer_type", "status", "warning", "rf"):
                continue
            mp = column in ("bulk_max", "bulk_min", "mp_softrank", "sigma_mp", "num_spikes")
            rounding = 1e-13 if column == "sv_min" else 0.0  # a root of nothing but rounding
            allowed = pytest.approx(value, rel=0.02 if few and mp else 1e-9, abs=rounding)
            assert float(table[column][layer]) == allowed, (layer, column)
    for metric, value in reference["summary"].items():
        assert float(found.model[metric]) == pytest.approx(value, rel=1e-9), metric


def test_what_weightwatcher_keeps() -> None:
    net = nn.ModuleDict(
        {
            "small": nn.Linear(7, 50),
            "fc": nn.Linear(8, 50),
            "turned": nn.ConvTranspose2d(8, 8, 3),
            "line": nn.Conv1d(16, 32, 9),
            "even": nn.Conv2d(16, 8, 2),
            "depthwise": nn.Conv2d(64, 64, 3, groups=64),
        }
    )
    found = measured(net, convention="weightwatcher")
    assert found.layers == ("fc", "even", "depthwise")
    even, depthwise = found.row("even"), found.row("depthwise")
    assert (found.larger[even], found.smaller[even]) == (8, 16)  # its sides change places
    assert np.isfinite(found.spectra[depthwise]).sum() == 9
    assert "8 to 15,000 eigenvalues" in found.skipped["small.weight"]
    assert "computed wrongly" in found.skipped["line.weight"]


def test_failed_fits_are_minus_one_there() -> None:
    found = measured({"a.weight": 1e-4 * normal(20, 20), "b.weight": normal(20, 20)}, convention="weightwatcher")
    a, b = found.values["alpha"]
    assert a == -1
    assert float(found.model["alpha"]) == pytest.approx((b - 1) / 2)
    own = measured({"a.weight": 1e-4 * normal(20, 20)})
    assert own.values["alpha"][0] > 1


def test_complex_numbers_and_an_index_are_told_for_what_they_are(tmp_path: Path) -> None:
    found = measured({"a": normal(12, 11), "modes": torch.ones(3, 4, dtype=torch.complex64)})
    assert found.skipped["modes"] == "stored as complex64; only real numbers are measured"
    folder = sharded(tmp_path / "big", {f"l{k}.weight": normal(12, 11) for k in range(4)})
    with pytest.raises(ls.InputError, match="index of a sharded checkpoint; give its folder"):
        measured(folder / "model.safetensors.index.json")
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(ls.InputError, match="the checkpoint is not whole"):
        measured(folder)


def test_infinite_values_are_in_its_means() -> None:
    """As the tool's summary has them: of a multiple of the unit matrix, and of a layer of zeros."""
    state = {"a.weight": 2 * torch.eye(24), "b.weight": normal(20, 12).float(), "c.weight": torch.zeros(12, 12)}
    found = measured(state, convention="weightwatcher")
    summary = WeightWatcher(state).analyze()[["alpha", "alpha_weighted", "log_norm", "stable_rank"]].mean()
    for name, value in summary.items():
        assert float(found.model[str(name)]) == pytest.approx(value, rel=1e-12), name
    assert float(found.model["alpha"]) == math.inf
    assert float(measured(state).model["alpha"]) == one(measured(state), "b")["alpha"]


# -- bad input -------------------------------------------------------------------------------------------------------


def test_bad_matrices_have_no_number_that_looks_fine() -> None:
    spoilt = normal(16, 16)
    spoilt[3, 4] = math.nan
    found = measured(
        {
            "zero": torch.zeros(16, 16),
            "nan": spoilt,
            "one": torch.outer(normal(30), normal(20, seed=1)).float(),
            "narrow": normal(40, 7),
            "good": normal(30, 20),
        }
    )
    for layer, reason in (("zero", "are 0"), ("nan", "NaN"), ("one", "rounding"), ("narrow", "fewer than 10")):
        assert reason in found.left_out()[layer]
        assert math.isnan(one(found, layer)["alpha"])
        assert reason in found.sentence(layer)
    assert one(found, "one")["matrix_rank"] == 1
    assert one(found, "one")["stable_rank"] == pytest.approx(1)
    assert one(found, "zero")["norm"] == 0
    assert math.isnan(one(found, "nan")["norm"])
    assert found.model["alpha"] == one(found, "good")["alpha"]
    assert found.model["alpha"].n == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_noise(dtype: torch.dtype) -> None:
    """Of a rank below half of the sides the median eigenvalue is rounding, which no edge of noise follows from."""
    found = measured({"half": (normal(64, 20) @ normal(20, 64, seed=1)).to(dtype), "full": normal(64, 64).to(dtype)})
    half, full = one(found, "half"), one(found, "full")
    assert half["matrix_rank"] == 20
    assert math.isfinite(half["alpha"])
    assert all(math.isnan(half[name]) for name in ("sigma_mp", "bulk_min", "bulk_max", "mp_softrank", "num_spikes"))
    assert full["sigma_mp"] == pytest.approx(1, abs=0.1)
    assert found.model["mp_softrank"].n == 1


def test_one_spoilt_part_of_a_tensor_leaves_the_others() -> None:
    net = nn.MultiheadAttention(16, 2)
    with torch.no_grad():
        net.in_proj_weight[20, 3] = math.nan
    found = measured(net)
    assert list(found.left_out()) == ["in_proj_weight[k]"]
    assert np.isfinite(found.values["norm"]).tolist() == [True, False, True, True]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_that_leave_the_range_of_float64(scale: float) -> None:
    far = {"far": scale * normal(16, 12), "fine": normal(16, 12)}
    for convention in ("matrix", "weightwatcher"):
        found = measured({f"{name}.weight": tensor for name, tensor in far.items()}, convention=convention)
        assert found.left_out() == {"far": "its values, squared, leave the range of float64"}
        assert math.isnan(one(found, "far")["norm"])
    assert math.isnan(one(measured({"a": normal(16, 12)}, {"a": far["far"]}), "a")["distance"])
    near = one(measured({"a": 1e-130 * normal(16, 12)}), "a")
    assert near["alpha"] == pytest.approx(one(measured({"a": normal(16, 12)}), "a")["alpha"], rel=1e-9)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (3, "int is no model"),
        ({}, "no tensors by name"),
        ({"a": torch.zeros(3)}, "no weight matrix among 1 tensors .a: no matrix"),
        ({"a": torch.zeros(8, 8, dtype=torch.int8)}, "stored as int8.*dequantised"),
        ("missing.safetensors", "does not exist"),
        ([], "no model is given"),
    ],
)
def test_refused(model: Any, said: str) -> None:
    with pytest.raises(ls.InputError, match=said):
        measured(model)


def test_refused_options() -> None:
    with pytest.raises(ls.InputError, match="matrix, weightwatcher"):
        measured({"a": normal(4, 4)}, convention="ww")
    with pytest.raises(ls.InputError, match="0 or more"):
        ls.measure_weights({"a": normal(4, 4)}, shuffles=-1)
    found = measured({"a": normal(12, 12)})
    for wrong in (lambda: found.row("b"), lambda: found.of("c"), lambda: found.plot("esd"), lambda: found.plot("x")):
        with pytest.raises(ls.InputError):
            wrong()


# -- checkpoints and runs --------------------------------------------------------------------------------------------


def sharded(folder: Path, state: dict[str, Tensor]) -> Path:
    folder.mkdir()
    names = list(state)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: state[name] for name in held}, folder / file)
    where = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def test_a_sharded_checkpoint_is_read_tensor_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {f"l{k}.weight": normal(30, 20, seed=k, dtype=torch.bfloat16) for k in range(4)}
    whole = measured(state)
    read: list[str] = []
    plain = FiledTensors.read
    monkeypatch.setattr(FiledTensors, "read", lambda self, name: read.append(name) or plain(self, name))
    found = measured(sharded(tmp_path / "big", state))
    assert sorted(read) == sorted([*state, *state])  # once to know what it is, once to measure
    order = [found.row(layer) for layer in whole.layers]
    np.testing.assert_array_equal(found.spectra[order], whole.spectra)
    assert found.attributes["stored"] == "bfloat16"


def test_no_more_than_two_tensors_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is read, and the one before it until then."""
    folder = sharded(tmp_path / "big", {f"l{k}.weight": normal(30, 20, seed=k) for k in range(5)})
    held: list[weakref.ref[np.ndarray]] = []
    most: list[int] = []
    plain = FiledTensors.read

    def read(source: FiledTensors, name: str) -> Tensor:
        most.append(sum(one() is not None for one in held))
        memory = plain(source, name).numpy().copy()
        held.append(weakref.ref(memory))
        return torch.from_numpy(memory)

    monkeypatch.setattr(FiledTensors, "read", read)
    measured(folder, folder)
    assert len(held) == 20
    assert max(most) == 1


def test_checkpoints_of_a_training_are_one_axis(tmp_path: Path) -> None:
    for step in (20, 100, 3):
        save_file({"fc.weight": normal(20, 15, seed=step)}, tmp_path / f"step-{step}.safetensors")
    found = measured(tmp_path)
    assert found.models == ("3", "20", "100")
    assert list(found.over_models("norm")) == ["3", "20", "100"]
    assert found.of("20").model["norm"] == pytest.approx(float(normal(20, 15, seed=20).square().sum()))
    assert list(found.to_pandas().index) == [("3", "fc"), ("20", "fc"), ("100", "fc")]
    with pytest.raises(ls.InputError, match="3 models here"):
        _ = found.model
    assert found.plot("alpha").axes


def test_a_run_that_ended_early_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 20), nn.Conv2d(12, 12, 3), nn.Linear(16, 40))
    whole = ls.measure_weights(net, shuffles=2, roundings=1)
    part = ls.measure_weights(net, shuffles=2, roundings=1, out=tmp_path, limit_items=1)
    assert part.computed.tolist() == [False, True, False]  # the most work first
    assert part.sentence("0") == "It is not computed yet."
    assert list(result_tables(part, "t"))
    again = ls.measure_weights(net, shuffles=2, roundings=1, out=tmp_path)
    for name in whole.values:
        np.testing.assert_array_equal(again.values[name], whole.values[name])
    np.testing.assert_array_equal(again.nulls, whole.nulls)
    opened = ls.open(tmp_path)
    assert isinstance(opened, ls.Weights)
    np.testing.assert_array_equal(opened.spectra, whole.spectra)
    net[0].weight.data[0, 0] += 1
    with pytest.raises(ls.InputError, match="different run"):
        ls.measure_weights(net, shuffles=2, roundings=1, out=tmp_path)


def test_the_model_is_left_as_it_is() -> None:
    net = nn.Linear(20, 12)
    before = net.weight.detach().clone()
    of_module = ls.measure_weights(net, shuffles=1, roundings=1)
    objective = ls.Objective(net, "cross_entropy", (torch.randn(4, 20), torch.arange(4)))
    of_objective = ls.measure_weights(objective, shuffles=1, roundings=1)
    assert torch.equal(net.weight, before)
    assert not [name for name in vars(net) if "longname" in name]
    np.testing.assert_array_equal(of_module.spectra, of_objective.spectra)


def test_kept_in_order_whatever_the_order_of_work() -> None:
    model = {"s.weight": normal(10, 10), "l.weight": normal(50, 40), "m.weight": normal(30, 20)}
    task = weights_task(model)
    assert [task.describe().about["matrix"]["layer"][i] for i in range(3)] == ["l", "m", "s"]
    assert measured(model).layers == ("s", "l", "m")
    assert [m.name for m in weight_matrices(FakeSource(), None).kept] == ["x"]


class FakeSource:
    """A source of one tensor."""

    def __init__(self) -> None:
        from landscape.checkpoints.tensors import Entry

        self.entries = {"x.weight": Entry((12, 11), torch.float16)}

    def read(self, name: str) -> Tensor:
        raise AssertionError(name)

    def ties(self) -> dict[str, str]:
        return {}


def test_several_models_are_told_apart() -> None:
    small = normal(9, 9)
    nets = [
        {"a.weight": normal(30, 20), "b.weight": small, "c": torch.ones(3)},
        {"a.weight": normal(30, 20), "b.weight": small, "d": torch.ones(3)},
    ]
    found = ls.measure_weights(nets, shuffles=0, roundings=0, labels=("one", "two"))
    assert found.left_out().keys() == {"one: b", "two: b"}
    assert found.skipped.keys() == {"c", "d"}
    tables = {table.title: table for table in result_tables(found, "title")}
    means = tables["means over the matrices of each model"]
    assert [row[0].text for row in means.rows] == ["one", "two"]
    assert means.rows[0][1].value == pytest.approx(float(found.over_models("alpha")["one"]))
    assert [row[0].text for row in tables["matrices of the last model, two"].rows] == ["a", "b"]
    said = {row[0].text: row[1].value for row in tables["title"].rows}
    assert said["without a power law"] == 2


def test_a_picture_says_that_models_are_left_out() -> None:
    nets = [{"a.weight": normal(12, 11, seed=k)} for k in range(8)]
    found = ls.measure_weights(nets, shuffles=0, roundings=0)
    said = " ".join(text.get_text() for text in found.plot().texts)
    said += " ".join(text.get_text() for ax in found.plot().axes for text in ax.texts)
    assert "the last 6 of 8 models; mean and bars of the last model" in " ".join(said.split())


def test_what_was_supposed_is_told() -> None:
    found = measured({"conv.weight": normal(12, 11, 3)})
    tables = {table.title: table for table in result_tables(found, "title")}
    assert [row[0].text for row in tables["what was supposed"].rows] == ["conv"]


def test_told_and_drawn() -> None:
    found = ls.measure_weights({"a.weight": normal(30, 20), "z.weight": torch.zeros(12, 12)}, shuffles=3, roundings=1)
    tables = list(result_tables(found, "title"))
    assert [table.title for table in tables][:4] == [
        "title",
        "the model, over its matrices",
        "matrices",
        "how sure alpha is",
    ]
    assert found.definition("alpha_weighted") == "alpha log10 lambda_max"
    for layer in ("a", "z"):
        assert found.plot("esd", layer=layer).axes
    names = [name for name, _ in kind_of(found).pictures().asked(found, Asked(kind="esd"))]
    assert names == ["esd_a", "esd_z"]
    names = [name for name, _ in kind_of(found).pictures().asked(found, Asked(kind="esd", quantity="z"))]
    assert names == ["esd_z"]
