"""Agreement of models against a naive twin in numpy, symmetries, and repeated draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from agreement_cases import CLASSES, INPUTS, MODELS, SAMPLES, data, network, objective
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError
from landscape.files import hdf5
from landscape.run.loop import run_task
from landscape.run.store import Store
from landscape.studies.agreement import measure as room
from landscape.studies.agreement.measure import AgreementTask, agreement_from_rows, measure_agreement
from landscape.studies.agreement.result import Agreement
from landscape.studies.agreement.schema import read_agreement
from landscape.studies.agreement.settings import AgreementSettings


def outputs(model: nn.Module, inputs: Tensor | None = None) -> np.ndarray:
    """(n, classes) scores."""
    with torch.no_grad():
        return model(data()[0] if inputs is None else inputs).numpy()


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores)
    return weights / weights.sum(1, keepdims=True)


def naive_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA as Kornblith et al. write it."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.sum((x.T @ y) ** 2) / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def naive_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC_1 by matrices of ones."""
    n = len(x)
    k, l = x @ x.T * (1 - np.eye(n)), y @ y.T * (1 - np.eye(n))  # noqa: E741
    ones = np.ones(n)
    terms = np.trace(k @ l) + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
    return float(terms - 2 / (n - 2) * ones @ k @ l @ ones) / (n * (n - 3))


def naive_distance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """sqrt(JS) of each row."""
    m = (p + q) / 2
    return np.sqrt((p * np.log(p / m)).sum(1) / 2 + (q * np.log(q / m)).sum(1) / 2)


# -- values -----------------------------------------------------------------------------------------------------------


def test_every_measure_is_the_naive_one() -> None:
    found = measure_agreement(objective(), MODELS, features=["0", "2"])
    scores = [outputs(model) for model in MODELS]
    inner = [outputs(model[:3]) for model in MODELS]  # type: ignore[index]
    vectors = [torch.cat([p.detach().flatten() for p in model.parameters()]).numpy() for model in MODELS]
    assert found.pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert (found.samples, found.complete) == (SAMPLES, True)
    for k, (i, j) in enumerate(found.pairs):
        p, q = softmax(scores[i]), softmax(scores[j])
        differ = (scores[i].argmax(1) != scores[j].argmax(1)).astype(float)
        distance = naive_distance(p, q)
        expected = {
            "cka": naive_cka(p, q),
            "cka:2": naive_cka(inner[i], inner[j]),
            "disagreement": differ.mean(),
            "jensen_shannon": distance.mean(),
            "l2": np.linalg.norm(vectors[i] - vectors[j]),
        }
        for measure, value in expected.items():
            assert found.values[measure][k] == pytest.approx(value, rel=1e-11), measure
        for measure, values in (("disagreement", differ), ("jensen_shannon", distance)):
            assert found.stderr[measure][k] == pytest.approx(values.std(ddof=1) / math.sqrt(SAMPLES), rel=1e-10)
    assert 0 < found.values["disagreement"].min() < found.values["disagreement"].max() < 1
    assert set(found.stderr) == set(found.values) - {"l2"}


def test_unbiased_cka_averages_numerators_and_denominators_apart() -> None:
    """On batches of the user's own, which stay what they are; one of them too short to count."""
    inputs, labels = data()
    batches = [(inputs[a:b], labels[a:b]) for a, b in ((0, 60), (60, 67), (67, 147), (147, 150))]
    fixed = ls.Objective(MODELS[0], "cross_entropy", batches, forward=lambda model, batch: (model(batch[0]), batch[1]))
    found = measure_agreement(fixed, MODELS[:2])
    p, q = (softmax(outputs(model)) for model in MODELS[:2])
    rows = [slice(0, 60), slice(60, 67), slice(67, 147)]
    weights = np.array([60, 7, 80])
    sums = [
        weights * np.array([naive_hsic(x[r] - x.mean(0), y[r] - y.mean(0)) for r in rows])
        for x, y in ((p, q), (p, p), (q, q))
    ]
    across, first, second = (part.sum() for part in sums)
    assert found.values["cka_unbiased"][0] == pytest.approx(across / math.sqrt(first * second), rel=1e-10)
    left = [(across - a) / math.sqrt((first - b) * (second - c)) for a, b, c in zip(*sums, strict=True)]
    assert found.stderr["cka_unbiased"][0] == pytest.approx(math.sqrt(2 / 3 * 3 * np.var(left)), rel=1e-9)
    assert found.values["cka"][0] == pytest.approx(naive_cka(p, q), rel=1e-11)  # and all four batches count here
    assert found.samples == SAMPLES


def test_unbiased_cka_does_not_need_mixed_data() -> None:
    """Samples sorted by class are put into an order of their own: chunks of one class would say something else."""
    inputs, _ = data(640)
    labels = torch.arange(640) % CLASSES
    inputs = inputs + 4 * torch.eye(INPUTS, dtype=torch.float64)[labels]
    order = labels.argsort(stable=True)
    found = [
        measure_agreement(ls.Objective(MODELS[0], data=d), MODELS[:2])
        for d in ((inputs, labels), (inputs[order], labels[order]))
    ]
    one, other = (f.values["cka_unbiased"][0] for f in found)
    bound = 3 * math.hypot(*(f.stderr["cka_unbiased"][0] for f in found))
    assert abs(one - other) < bound
    p, q = (softmax(outputs(model, inputs[order])) for model in MODELS[:2])
    chunks = [slice(k, k + 40) for k in range(0, 640, 40)]
    sums = [sum(naive_hsic(x[c], y[c]) for c in chunks) for x, y in ((p, q), (p, p), (q, q))]
    assert abs(sums[0] / math.sqrt(sums[1] * sums[2]) - one) > bound


def test_errors_are_the_spread_over_draws() -> None:
    """Over 120 draws of 256 samples the standard deviation is the mean standard error, to 3 / sqrt(2 * 120)."""
    plain = [nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, CLASSES)).double().eval() for _ in range(2)]
    for seed, model in enumerate(plain):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    generator = torch.Generator().manual_seed(7)
    values: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for _ in range(120):
        inputs = torch.randn(256, INPUTS, generator=generator, dtype=torch.float64)
        drawn = ls.Objective(plain[0], data=(inputs, torch.zeros(256, dtype=torch.long)), check=False)
        found = measure_agreement(drawn, plain)
        for measure, error in found.stderr.items():
            values.setdefault(measure, []).append(found.values[measure][0])
            errors.setdefault(measure, []).append(error[0])
    for measure in ("cka", "cka_unbiased", "disagreement", "jensen_shannon"):
        spread, stderr = np.std(values[measure], ddof=1), np.sqrt(np.mean(np.square(errors[measure])))
        assert spread == pytest.approx(stderr, rel=3 / math.sqrt(2 * 120)), measure


def test_permuted_hidden_units_are_the_same_function() -> None:
    state = MODELS[0].state_dict()
    order = torch.tensor([3, 1, 0, 2, 7, 6, 4, 5])
    permuted = {
        name: value[:, order] if name == "3.weight" else value[order] if value.shape[:1] == (8,) else value
        for name, value in state.items()
    }
    found = measure_agreement(objective(), [state, permuted], features=["2"])
    values = {measure: value[0] for measure, value in found.values.items()}
    for measure in ("cka", "cka_unbiased", "cka:2", "cka_unbiased:2"):
        assert values[measure] == pytest.approx(1, rel=1e-12), measure
    assert values["disagreement"] == 0
    assert values["jensen_shannon"] < 1e-14
    assert values["l2"] > 1


def test_statistics_of_each_model() -> None:
    """Own ones by default; re-estimated on all of the data they are those of a pass over it."""
    vectors = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in MODELS[:2]]
    own = measure_agreement(objective(), MODELS[:2])
    anew = measure_agreement(objective(), vectors, batchnorm="reestimated")
    normalised = []
    for model in MODELS[:2]:
        hidden = outputs(model[0])  # type: ignore[index]
        hidden = np.tanh((hidden - hidden.mean(0)) / np.sqrt(hidden.var(0, ddof=1) + 1e-5))
        normalised.append(softmax(outputs(model[3], torch.from_numpy(hidden))))  # type: ignore[index]
    assert anew.values["cka"][0] == pytest.approx(naive_cka(*normalised), rel=1e-9)
    assert anew.attributes["statistics_samples"] == SAMPLES
    assert abs(anew.values["cka"][0] - own.values["cka"][0]) > 1e-4
    at_centre = measure_agreement(objective(), [objective().theta, MODELS[1]])  # which its statistics belong to
    np.testing.assert_array_equal(at_centre.values["cka"], own.values["cka"])
    with pytest.raises(InputError, match=r"model 'b' comes without BatchNorm statistics.*batchnorm='reestimated'"):
        measure_agreement(objective(), vectors, labels=["a", "b"])


def test_pairs_that_were_asked_for() -> None:
    unlike = [*MODELS[:3], {"not": torch.zeros(1)}]  # the last is in no pair, so nobody reads it
    found = measure_agreement(objective(), unlike, [(2, 0)], labels=list("abcd"))
    whole = measure_agreement(objective(), MODELS)
    assert found.values["cka"][0] == pytest.approx(whole.matrix("cka")[0, 2], rel=1e-13)
    expected = np.full((4, 4), np.nan)
    expected[0, 2] = expected[2, 0] = found.values["cka"][0]
    np.testing.assert_array_equal(found.matrix(), expected)
    ring = measure_agreement(objective(), MODELS, "ring")
    assert ring.pairs.tolist() == [[0, 1], [1, 2], [2, 3], [3, 0]]
    for measure in ring.values:
        known = np.isfinite(ring.matrix(measure))
        np.testing.assert_allclose(ring.matrix(measure)[known], whole.matrix(measure)[known], rtol=1e-11)
    with pytest.raises(InputError, match="no measure 'ckaa' is here; did you mean 'cka'"):
        found.matrix("ckaa")


def test_every_model_is_evaluated_once() -> None:
    """Six pairs of four models: four passes over the data, and a few samples of the first to see what they are."""
    seen: list[int] = []
    model = network(0)
    made = ls.Objective(model, data=data())
    handle = model.register_forward_hook(lambda _module, inputs, _outputs: seen.append(len(inputs[0])))
    measure_agreement(made, MODELS)
    handle.remove()
    assert sum(seen) == 4 * SAMPLES + 4


def test_outputs_that_are_no_scores() -> None:
    torch.manual_seed(0)
    model = [nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, 2)).double().eval() for _ in range(2)]
    inputs = data()[0]
    found = measure_agreement(ls.Objective(model[0], "mse", (inputs, torch.zeros(SAMPLES, 2))), model)
    assert set(found.values) == {"cka", "cka_unbiased", "l2"}
    assert found.attributes["of"] == "outputs"
    raw = [outputs(m, inputs) for m in model]
    assert found.values["cka"][0] == pytest.approx(naive_cka(*raw), rel=1e-11)


def test_raw_outputs_and_one_score() -> None:
    found = measure_agreement(objective(), MODELS[:2], of="outputs")
    assert found.values["cka"][0] == pytest.approx(naive_cka(*(outputs(m) for m in MODELS[:2])), rel=1e-11)
    assert "disagreement" in found.values
    torch.manual_seed(0)
    single = [nn.Sequential(nn.Linear(INPUTS, 1), nn.Flatten(0)).double().eval() for _ in range(2)]
    inputs, labels = data()
    made = ls.Objective(single[0], "binary_cross_entropy_with_logits", (inputs, (labels > 0).double()))
    found = measure_agreement(made, single, of="probabilities")
    first, second = (outputs(m, inputs) for m in single)
    assert found.values["disagreement"][0] == ((first > 0) != (second > 0)).mean()
    chances = [np.stack([1 - 1 / (1 + np.exp(-s)), 1 / (1 + np.exp(-s))], 1) for s in (first, second)]
    assert found.values["jensen_shannon"][0] == pytest.approx(naive_distance(*chances).mean(), rel=1e-10)


class Pixels(nn.Module):
    """Scores (B, C, H, W) from images (B, 1, H, W), with channels-last convolutions."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def test_predictions_of_pixels_and_ignored_labels() -> None:
    models = [Pixels(seed).double().eval() for seed in range(2)]
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(40, 1, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (40, 4, 5), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = -100
    found = measure_agreement(ls.Objective(models[0], data=(inputs, labels)), models, features="first")
    scores = [outputs(model, inputs).transpose(0, 2, 3, 1) for model in models]
    kept = labels.numpy() != -100
    p, q = (softmax(s[kept]) for s in scores)
    differ = scores[0].argmax(3) != scores[1].argmax(3)
    assert found.values["cka"][0] == pytest.approx(naive_cka(p, q), rel=1e-10)
    assert found.values["disagreement"][0] == pytest.approx(differ[kept].mean(), rel=1e-12)
    assert found.values["jensen_shannon"][0] == pytest.approx(naive_distance(p, q).mean(), rel=1e-10)
    # The sample is the unit: predictions of one image are not independent.
    ones = (differ & kept).sum((1, 2)) - differ[kept].mean() * kept.sum((1, 2))
    assert found.stderr["disagreement"][0] == pytest.approx(math.sqrt(40 / 39 * (ones**2).sum()) / kept.sum())
    maps = [outputs(model.first, inputs).reshape(40, -1) for model in models]
    assert found.values["cka:first"][0] == pytest.approx(naive_cka(*maps), rel=1e-10)


def test_activations_are_those_before_what_works_in_place() -> None:
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Linear(INPUTS, 5), nn.ReLU(inplace=True), nn.Linear(5, 1), nn.Flatten(0)).double().eval()
        for _ in range(2)
    ]
    inputs, labels = data()
    found = measure_agreement(ls.Objective(nets[0], "mse", (inputs, labels.double())), nets, features=["0", "3"])
    before = [outputs(net[0], inputs) for net in nets]
    assert found.values["cka:0"][0] == pytest.approx(naive_cka(*before), rel=1e-11)
    assert found.values["cka:3"][0] == pytest.approx(found.values["cka"][0], rel=1e-13)  # one number for each sample


def test_wide_activations_have_the_unbiased_version_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_agreement(objective(), MODELS[:2], features="0")
    monkeypatch.setattr(room, "_ROW_BYTES", 3 * 8**2 * 8 - 1)  # one byte less than 3 products of 8 x 8 take
    found = measure_agreement(objective(), MODELS[:2], features="0")
    assert np.isnan(found.values["cka:0"]).all()
    assert np.isnan(found.stderr["cka:0"]).all()
    for measure in ("cka", "cka_unbiased:0"):
        np.testing.assert_array_equal(found.values[measure], whole.values[measure])


def test_fewer_blocks_where_rows_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_agreement(objective(), MODELS[:2])
    monkeypatch.setattr(room, "_RUN_BYTES", 2 * 3 * CLASSES**2 * 8)  # two rows
    task = AgreementTask(objective(), MODELS[:2], AgreementSettings())
    assert task.count == 2
    found = measure_agreement(objective(), MODELS[:2])
    assert found.values["cka"][0] == pytest.approx(whole.values["cka"][0], rel=1e-12)
    np.testing.assert_array_equal(found.stderr["cka_unbiased"], whole.stderr["cka_unbiased"])


def test_nan_stays_with_its_model(tmp_path: Path) -> None:
    broken = {name: value.clone() for name, value in MODELS[1].state_dict().items()}
    broken["3.bias"][0] = math.nan
    found = measure_agreement(objective(), [MODELS[0], broken, MODELS[2]], out=tmp_path)
    same(measure_agreement(objective(), [MODELS[0], broken, MODELS[2]], out=tmp_path), found)
    for measure in found.values:
        assert np.isnan(found.matrix(measure)[1]).all(), measure
        assert np.isfinite(found.matrix(measure)[0, 2]), measure


def test_streamed_data_are_the_held_ones() -> None:
    held = measure_agreement(objective(), MODELS[:3], features="2")
    streamed = measure_agreement(objective(memory_budget=0), MODELS[:3], features="2")
    for measure, values in held.values.items():
        np.testing.assert_array_equal(streamed.values[measure], values)

    class Lines:
        """Batches that are made anew at each pass."""

        def __iter__(self) -> Any:
            inputs, labels = data()
            return iter([(inputs[k : k + 30], labels[k : k + 30]) for k in range(0, SAMPLES, 30)])

    made = ls.Objective(MODELS[0], data=Lines(), forward=lambda m, b: (m(b[0]), b[1]), memory_budget=0)
    found = measure_agreement(made, MODELS[:3])
    np.testing.assert_allclose(found.values["cka"], held.values["cka"], rtol=1e-12)
    assert found.samples == SAMPLES


class Slope(nn.Module):
    """Its output is a derivative of its own forward pass."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.inner(x).sum(), x, create_graph=True)[0]


def test_models_that_differentiate() -> None:
    models = [Slope(seed).double().eval() for seed in range(2)]
    inputs = data()[0]
    found = measure_agreement(ls.Objective(models[0], "mse", (inputs, torch.zeros_like(inputs))), models)
    expected = naive_cka(*(model(inputs).detach().numpy() for model in models))
    assert found.values["cka"][0] == pytest.approx(expected, rel=1e-11)


def test_soft_labels_and_half_precision() -> None:
    inputs, labels = data()
    soft = nn.functional.one_hot(labels, CLASSES).double()
    found = measure_agreement(ls.Objective(MODELS[0], data=(inputs, soft)), MODELS[:2])
    hard = measure_agreement(objective(), MODELS[:2])
    np.testing.assert_array_equal(found.values["disagreement"], hard.values["disagreement"])
    low = ls.Objective(MODELS[0], data=data(), precision="bf16")  # outputs are of float32 all the same
    found = measure_agreement(low, MODELS[:2])
    assert found.values["cka"][0] == pytest.approx(hard.values["cka"][0], rel=1e-5)


# -- what cannot be measured ------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """A module called twice, one never, and one whose first axis is not that of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.never, self.first = nn.Linear(INPUTS, INPUTS), nn.Linear(1, 1), nn.Identity()
        self.last = nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.again(x))) + 0 * self.first(x.T).sum()


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "one model": (lambda: measure_agreement(objective(), MODELS[:1]), "1 model given; a pair needs 2"),
    "unknown module": (
        lambda: measure_agreement(objective(), MODELS, features=["22"]),
        "no module '22'; did you mean '2'",
    ),
    "named twice": (lambda: measure_agreement(objective(), MODELS, features=["2", "2"]), "'2' is named twice"),
    "unknown representation": (lambda: measure_agreement(objective(), MODELS, of="logits"), "outputs, probabilities"),
    "unknown batchnorm": (
        lambda: measure_agreement(objective(), MODELS, batchnorm="interpolated"),
        "batchnorm='interpolated'; give one of frozen, reestimated",
    ),
    "statistics in vain": (
        lambda: measure_agreement(objective(), MODELS, statistics=data()),
        "batchnorm='frozen' does not use them",
    ),
    "too few statistics": (
        lambda: measure_agreement(objective(), MODELS, batchnorm="reestimated", statistics=data(8)),
        "8 samples",
    ),
    "no BatchNorm": (
        lambda: measure_agreement(twice(), [twice().theta] * 2, batchnorm="reestimated"),
        "the model has no BatchNorm layer",
    ),
    "called twice": (lambda: measure_agreement(twice(), [twice().theta] * 2, features="again"), "called 2 times"),
    "never called": (lambda: measure_agreement(twice(), [twice().theta] * 2, features="never"), "called 0 times"),
    "no axis of samples": (
        lambda: measure_agreement(twice(), [twice().theta] * 2, features="first"),
        r"shape \(6, 4\) for 4 samples",
    ),
    "another architecture": (lambda: measure_agreement(objective(), [MODELS[0], Twice()]), "again.weight"),
    "loss alone": (
        lambda: measure_agreement(
            ls.Objective(MODELS[0], None, data(), forward=lambda m, b: m(b[0]).square().mean(1)), MODELS
        ),
        "let forward return \\(outputs, targets\\)",
    ),
    "widths that vary": (
        lambda: measure_agreement(
            ls.Objective(
                nn.Sequential(nn.Identity(), nn.Linear(1, 1)),
                "mse",
                [(torch.randn(5, width, 1), torch.zeros(5, width, 1)) for width in (2, 3)],
                forward=lambda m, b: (m(b[0]), b[1]),
            ),
            [nn.Sequential(nn.Identity(), nn.Linear(1, 1)) for _ in range(2)],
        ),
        "outputs have 3 values in one batch and 2 in another",
    ),
}


def twice() -> ls.Objective:
    """An objective of the net above."""
    return ls.Objective(Twice().double(), data=data())


@pytest.mark.parametrize("case", BAD)
def test_refused(case: str) -> None:
    action, message = BAD[case]
    with pytest.raises(InputError, match=message):
        action()


# -- runs -------------------------------------------------------------------------------------------------------------


def test_unfinished_runs_open_and_go_on(tmp_path: Path) -> None:
    task = AgreementTask(objective(), MODELS[:2], AgreementSettings(features=("2",)))
    assert task.count > 3
    empty = agreement_from_rows(task.describe(), run_task(task, limit=0).rows, run_task(task, limit=0).history)
    assert (empty.samples, empty.complete) == (0, False)
    assert np.isnan([empty.values["cka"], empty.values["disagreement"], empty.values["cka_unbiased:2"]]).all()
    run_task(task, tmp_path / "run", limit=3)
    store = Store.open(tmp_path / "run")
    part = agreement_from_rows(store.description(), store.rows(), store.history())
    assert 0 < part.samples < SAMPLES
    assert not part.complete
    assert not store.result.exists()
    found = measure_agreement(objective(), MODELS[:2], features="2", out=tmp_path / "run")
    whole = measure_agreement(objective(), MODELS[:2], features="2")
    same(found, whole)
    assert not np.array_equal(part.values["cka"], whole.values["cka"])
    with pytest.raises(InputError, match="of"):
        measure_agreement(objective(), MODELS[:2], features="2", of="outputs", out=tmp_path / "run")
    for folder, options in (("run", {"features": "2"}), ("anew", {"batchnorm": "reestimated"})):
        measure_agreement(objective(), MODELS[:2], out=tmp_path / folder, **options)
        with pytest.raises(InputError, match="models"):
            measure_agreement(objective(), MODELS[1:3], out=tmp_path / folder, **options)


def same(a: Agreement, b: Agreement) -> None:
    """Both hold the same numbers, bit for bit."""
    assert (a.labels, a.samples, a.pairs.tolist()) == (b.labels, b.samples, b.pairs.tolist())
    for mine, other in ((a.values, b.values), (a.stderr, b.stderr)):
        assert set(mine) == set(other)
        for measure, values in mine.items():
            np.testing.assert_array_equal(values, other[measure], err_msg=measure)


def test_files_hold_everything(tmp_path: Path) -> None:
    found = measure_agreement(
        objective(), MODELS[:3], features=["0", "2"], labels=["a", "b", "größe"], out=tmp_path / "run", job="text"
    )
    read = read_agreement(hdf5.read(tmp_path / "run" / "landscape.h5"), "file")
    same(read, found)
    assert read.attributes["definitions"] == found.attributes["definitions"]
    assert set(found.attributes["definitions"]) == {"cka", "cka_unbiased", "disagreement", "jensen_shannon", "l2"}
    assert (read.attributes["job"], read.attributes["of"], read.complete) == ("text", "probabilities", True)
    dataset = found.to_xarray()
    xarray.testing.assert_identical(
        dataset.drop_attrs(), xarray.open_dataset(tmp_path / "run" / "landscape.h5", group="agreement").drop_attrs()
    )
    assert dataset.feature_cka.dims == ("feature", "pair")
    np.testing.assert_array_equal(dataset.feature_cka.sel(feature="2"), found.values["cka:2"])
    assert dataset.cka_stderr.attrs["units"] == "1"
    plain = replace(found, values={"l2": found.values["l2"]}, stderr={})
    same(read_agreement(hdf5.read(plain.save(tmp_path / "plain.h5")), "file"), plain)


def texts(figure: Any) -> list[str]:
    """What stands in the cells."""
    return [text.get_text() for text in figure.axes[0].texts]


def test_pictures_say_the_numbers() -> None:
    found = measure_agreement(objective(), MODELS, "star", labels=["a", "b", "c", "a name that is too long"])
    figure = found.plot("cka")
    image = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(image, np.nan), found.matrix("cka"))
    value, error = found.values["cka"][0], found.stderr["cka"][0]
    assert texts(figure).count(f"{value:#.3g}\n±{error:.1g}") == 2
    assert len(texts(figure)) == 6
    assert figure.axes[0].get_title() == "linear CKA of probabilities"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][-1] == "a name t…too long"
    assert "3 of 6 pairs" in figure._supxlabel.get_text()
    assert texts(found.plot("l2"))[0] == f"{found.values['l2'][0]:#.3g}"
    with pytest.raises(InputError, match="no measure"):
        found.plot("loss")


def test_pictures_of_many_models_and_of_nothing() -> None:
    count = 60
    pairs = np.array([(i, j) for i in range(count) for j in range(i)])
    many = Agreement(tuple(map(str, range(count))), pairs, {"cka": np.full(len(pairs), 0.5)}, {}, 10)
    figure = many.plot()
    assert texts(figure) == []
    assert len(figure.axes[0].get_xticks()) == 30
    nothing = replace(many, values={"cka": np.full(len(pairs), np.nan)})
    assert np.ma.getmaskarray(nothing.plot().axes[0].images[0].get_array()).all()
