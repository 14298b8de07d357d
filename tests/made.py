"""Small results of every kind, made without measuring: whole ones, and those that are hard to show."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import landscape as ls
from landscape.pictures.views import Picture
from landscape.results.kind import kind_of
from landscape.studies.spectrum.result import Density, Eigenpairs, Trace

ABOUT: dict[str, Any] = {
    "engine_version": "9.9",
    "host": "node7",
    "samples": 1000,
    "loss": "cross_entropy",
    "libraries": {"torch": "2.0"},
    "failures": [{"item": 1, "reason": "Traceback ...\nValueError: no such <luck>", "where": "x = -0.25, y = 0"}],
}
CASES = ("whole", "masked", "nan", "infinite", "one", "row", "constant")


def values(case: str, *shape: int) -> np.ndarray:
    """Numbers of the given shape as the case has them."""
    found = np.linspace(0.25, 4, int(np.prod(shape))).reshape(shape)
    fill = {"masked": np.nan, "nan": np.nan, "infinite": np.inf, "constant": 2.5}
    return np.full(shape, fill[case]) if case in fill else found


def count(case: str, many: int) -> int:
    """How many there are of what there are usually several."""
    return 1 if case == "one" else many


def computed(case: str, *shape: int) -> np.ndarray:
    """Whether each of them was computed."""
    return np.full(shape, case != "masked")


def surface(case: str = "whole") -> ls.Surface:
    """A surface of loss and accuracy with two points on it."""
    shape = (1 if case in ("one", "row") else 3, count(case, 4))
    axes = {"x": np.array([-1.0, -0.25, 0.5, 1.0]) if shape[1] > 1 else np.zeros(1), "y": np.arange(float(shape[0]))}
    found = {"loss": values(case, *shape), "accuracy": values(case, *shape) / 5}
    points = ls.Points(
        "points",
        ("a", "b"),
        np.array([[0.0, 0.0], [0.5, 1.0]]),
        np.array([0.0, 2.0]),
        {name: values(case, 2) for name in found},
        {name: values(case, 2) for name in found},
    )
    plane = {"kind": "random", "seed": 0, "lengths": [3.0, 4.0], "cosines": [[1.0, 0.125], [0.125, 1.0]]}
    errors = {name: array / 100 for name, array in found.items()}
    return ls.Surface(axes, found, errors, computed(case, *shape), points, {**ABOUT, "plane": plane})


def eigenpairs(case: str, k: int) -> Eigenpairs:
    """k eigenpairs, all converged."""
    found = values(case, k)[::-1]
    return Eigenpairs(found, found / 1e5, np.ones(k, dtype=bool), found / 20, found / 50)


def spectrum(case: str = "whole") -> ls.Spectrum:
    """A spectrum with both ends, a trace by layers and a density; masked with nothing but the size."""
    if case == "masked":
        return ls.Spectrum(eigenpairs("nan", 0), eigenpairs("nan", 0), 7, 0, 0, attributes=ABOUT)
    k, number = count(case, 3), float(values(case, 2)[1])
    trace = Trace(number, 0.5, 0.0, 0.5, "exact", 0, 1, 1.0, {"fc1": number, "fc2": 1.0}, {"fc1": 0.25})
    grid = np.linspace(-1, 5, count(case, 9))
    over = values(case, len(grid))
    density = Density(
        grid, over, over / 2, over * 2, values(case, 2, 3), np.full((2, 3), 1 / 3), values(case, 1), 0.1, 6, 6
    )
    return ls.Spectrum(eigenpairs(case, k), eigenpairs(case, 1), 7, 12, 10, trace, density, ABOUT)


def layers(case: str = "whole") -> ls.LayerSpectra:
    """Spectra of layers, two eigenvalues each."""
    n = count(case, 3)
    found = values(case, n, 2)
    names, sizes = tuple(f"fc{i}" for i in range(n)), tuple(range(10, 10 + n))
    traces = values(case, n)
    done = np.isfinite(found)
    return ls.LayerSpectra(
        names, sizes, found, found / 1e5, found / 20, done, traces, traces / 9, computed(case, n), 5, 4, None, ABOUT
    )


def curve(case: str = "whole") -> ls.Curve:
    """A Bezier curve of three points; masked without a history."""
    history = {} if case == "masked" else {"loss": values(case, count(case, 5)), "lr": values("whole", count(case, 5))}
    points = torch.from_numpy(values("constant" if case == "constant" else "whole", 3, 4)).float()
    return ls.Curve("bezier", points, ABOUT, history)


def path(case: str = "whole") -> ls.Path:
    """A path of loss and accuracy."""
    n = count(case, 5)
    t = np.linspace(0, 1, n) if n > 1 else np.zeros(1)
    found = {"loss": values(case, n), "accuracy": values(case, n) / 5}
    errors = {name: array / 10 for name, array in found.items()}
    return ls.Path(t, found, errors, 6 * t, 6.0, 5.0, computed(case, n), {"loss": found["loss"] / 30}, ABOUT)


def connectivity(case: str = "whole") -> ls.Connectivity:
    """A sweep over three models, of one pair where there is one of everything."""
    pairs = np.array([[0, 1], [0, 2], [1, 2]])[: count(case, 3)]
    p = len(pairs)
    found = {"loss": values(case, p, 3)}
    errors = {"loss": values(case, p, 3) / 10}
    lengths = values("masked" if case == "masked" else "whole", p)
    return ls.Connectivity(
        ("a", "b", "c"), pairs, np.array([0, 0.5, 1]), found, errors, found, errors, np.tile([0, 1.0, 2.0], (p, 1)),
        lengths, lengths, computed(case, p), ABOUT
    )  # fmt: skip


def agreement(case: str = "whole") -> ls.Agreement:
    """Agreement of three models by two measures, one of them without errors."""
    pairs = np.array([[0, 1], [0, 2], [1, 2]])[: count(case, 3)]
    found = {"cka": values(case, len(pairs)) / 4, "l2": values(case, len(pairs))}
    samples = 0 if case == "masked" else 1000
    return ls.Agreement(("a", "b", "c"), pairs, found, {"cka": found["cka"] / 50}, samples, ABOUT)


def profiles(case: str = "whole") -> ls.Profiles:
    """Loss along three directions."""
    shape = (count(case, 3), count(case, 5))
    x = np.linspace(-1, 1, shape[1]) if shape[1] > 1 else np.zeros(1)
    found = {"loss": values(case, *shape)}
    errors = {"loss": values(case, *shape) / 50}
    return ls.Profiles(x, found, errors, computed(case, *shape), {**ABOUT, "normalize": "filter", "seed": 0})


def topology(case: str = "whole") -> ls.Topology:
    """Two basins of a surface; of cases without finite values and of a single point those of the whole one."""
    x = np.linspace(-1, 1, 9)
    found = np.array([[(a * a - 0.5) ** 2 + b * b + 0.05 * a for a in x] for b in x[::2]])
    whole = ls.Surface({"x": x, "y": x[::2]}, {"loss": found}, {"loss": found / 100}, found > -1, None, ABOUT)
    return ls.find_topology(whole)


def measures(case: str = "whole") -> ls.Measures:
    """Two quantities of layers in groups, one of them without errors, and an array."""
    n = count(case, 3)
    found = {"trace": values(case, n), "size": values("whole", n) * 1000}
    inside = {"fc1.weight": values(case, 2, 3), "fc1.bias": values(case, 2)}
    words = {"trace": "sum of the diagonal", "size": "number of parameters", "diagonal": "second derivatives"}
    groups = ("first", "last", "last")[:n]
    return ls.Measures(
        tuple(f"fc{i}" for i in range(n)), "layer", found, {"trace": found["trace"] / 9}, words, computed(case, n),
        {"size": "bytes"}, groups, {"diagonal": inside}, {"width": (8, 16, "wide")[:n]}, ABOUT
    )  # fmt: skip


def layer_structure(case: str = "whole") -> ls.LayerStructure:
    """The structure of layers, two eigenvalues each; whole with another model, masked without factors."""
    n = count(case, 3)
    found = values(case, n, 2)
    shares = np.full((n, 2), 0.5) if case == "whole" else found
    sizes = np.arange(2, 2 + n)
    factors = {} if case == "masked" else {f"fc/{i}": values(case, 2, 2) for i in range(n)}
    errors, done = found / 20, np.isfinite(found)
    return ls.LayerStructure(
        tuple(f"fc/{i}" for i in range(n)), sizes, sizes + 1, np.ones(n, dtype=np.int64), found, errors, found, errors,
        values(case, n), found, errors, found, errors, found / 1e5, found / 1e9, done, shares, shares,
        computed(case, n), 5, 4, shares if case == "whole" else None, factors, factors, ABOUT
    )  # fmt: skip


def phases(case: str = "whole") -> ls.Phases:
    """Cells of width by batch size in several phases, one of them a hole and one with a note."""
    shape = (count(case, 3), count(case, 4))
    load, temperature = 2.0 ** np.arange(shape[0]), 16.0 * 4 ** np.arange(shape[1])
    scales = {"train_loss": (0.1, 0), "lambda_max": (20, 0), "mc": (-1, 1), "cka": (0.25, 0)}
    found = {name: scale * values(case, *shape) + shift for name, (scale, shift) in scales.items()}
    found |= {f"{name}_well": found[name] for name in ("lambda_max", "mc", "cka")}
    errors = {name: np.abs(array) / 8 for name, array in found.items()}
    reason, notes = np.full(shape, "", dtype="<U20"), np.full(shape, "", dtype="<U20")
    if case == "masked":
        reason[:] = "not measured yet"
    if case == "whole":
        reason[0, 0], notes[1, 1] = "one seed only", "seed 2 is left out"
    return ls.Phases(
        ("width", "batch_size"), load, temperature, found, errors, errors, {"cka": errors["cka"]}, reason, notes,
        attributes={**ABOUT, "error": "over 3 seeds"},
    )  # fmt: skip


def training(case: str = "whole") -> ls.Training:
    """Models of two cells, two seeds each, one left out; of one model where there is one of everything."""
    n, epochs = (1, 0) if case == "one" else (4, 3)
    names = ("loss", "error", "test_loss", "test_error")
    found = {name: values(case, n, epochs + 1) / (5 if "error" in name else 1) for name in names}
    whole = case != "masked"
    numbers = np.full(n, epochs if whole else -1)
    keys = {"width": (8, 8, 16, 16)[:n], "schedule": ("step", "step", "cosine", "cosine")[:n]}
    left = {3: "its loss became NaN in epoch 2"} if whole and n > 1 else {}
    ended = tuple("diverged" if row in left else "epochs" if whole else "" for row in range(n))
    return ls.Training(
        keys, (0, 1, 0, 1)[:n], found, {name: array / 20 for name, array in found.items()}, numbers, numbers,
        7 * numbers, ended, left, computed(case, n), tuple(f"models/{row:04d}" for row in range(n)),
        {**ABOUT, "recipe": {"lr": 0.5}}
    )  # fmt: skip


def corpus(case: str = "whole") -> ls.Corpus:
    """Three metrics of four models in two groups, one of which has no group."""
    n = count(case, 3)
    metric, grouping = tuple(f"norm.{i}" for i in range(n)), ("depth",) * n
    names = ("overall", "within", "slope_overall", "slope_within", "p_paradox_holm")
    found = {
        f"{name}{end}": values(case, n) / 5
        for name in names
        for end in ("", "_low", "_high")[: 3 if "_h" not in name else 1]
    }
    inside = ls.Inside(metric, grouping, ("2",) * n, np.full(n, 3), values(case, n), values(case, n), values(case, n))
    columns = {name: values(case, 4) * (i + 1) for i, name in enumerate(("test_accuracy", *metric))}
    states = ("paradox", "none", "undecided")[:n]
    about = {**ABOUT, "level": 0.95, "error": "central 95 % of 100 draws"}
    return ls.Corpus(
        "test_accuracy", metric, grouping, np.full(n, 3), found, states, ("",) * n, inside, columns,
        {"depth": ("2", "2", "10", "")}, about
    )  # fmt: skip


def weights(case: str = "whole") -> ls.Weights:
    """Two matrices of two models, one of them without a power law; of one where there is one of everything."""
    n = count(case, 4)
    names = ("alpha", "alpha_low", "alpha_high", "alpha_null_low", "alpha_null", "alpha_null_high", "xmin", "norm")
    found = {name: values(case, n) for name in (*names, "num_pl_spikes", "D", "log_norm", "alpha_null_share")}
    failed = ("it holds values that are NaN or infinite" if case in ("nan", "masked") else "",) * n
    sides = np.array([6, 5, 6, 5])[:n]
    return ls.Weights(
        ("a", "b")[: count(case, 2)], np.array([0, 0, 1, 1])[:n], ("fc1", "fc2", "fc1", "fc2")[:n],
        ("fc1.weight", "fc2.weight", "fc1.weight", "fc2.weight")[:n], ("linear",) * n, sides, sides - 2,
        np.ones(n, dtype=np.int64), found, failed, ("",) * n, values(case, n, 4), values(case, n, 3), computed(case, n),
        {"fc1.bias": "no matrix"}, "matrix", {**ABOUT, "stored": "float32"}
    )  # fmt: skip


def marginal_likelihood(case: str = "whole") -> ls.MarginalLikelihood:
    """The evidence of three classes by eight groups of networks; of a closed form where there is one of everything."""
    n = count(case, 3)
    groups = 0 if case == "one" else 8
    log, kl = -10 * values(case, n), 10 * values(case, n)
    without = np.stack([-values(case, n, groups), values(case, n, groups), np.zeros((n, groups))])
    about = {**ABOUT, "nets": 64, "link": "heaviside", "error": "a jackknife over 8 groups of networks"}
    return ls.MarginalLikelihood(
        ("cat", "dog", "owl")[:n], log, kl, np.zeros(n), values(case, n) / 1e7, without, computed(case, n), 50, "ep",
        "nngp" if case == "one" else "empirical", about
    )  # fmt: skip


def complexity(case: str = "whole") -> ls.Complexity:
    """Three measures, the last of them skipped."""
    n = count(case, 3)
    found, errors, done = values(case, n), values(case, n) / 20, computed(case, n)
    reasons = ("", "", "there are no margins" if case == "whole" else "")[:n]
    if reasons[-1]:
        found[-1] = errors[-1] = np.nan
    return ls.Complexity(
        ("params", "path_norm", "inverse_margin")[:n], found, errors, found / 2, errors / 2,
        np.full(n, 9), ("weight",) * n, np.ones(n), ("number of weights", "sum over paths", "1 / gamma^2")[:n],
        ("Jiang et al.",) * n, reasons, ("",) * n, done, {**ABOUT, "parity": "none"}
    )  # fmt: skip


def audit(case: str = "whole") -> ls.Audit:
    """A measure of eight models of two optimisers and two sizes, compared between the optimisers."""
    n = count(case, 8)
    row: dict[str, Any] = {
        "measure": "norm", "knob": "optimizer", "first": "sgd", "second": "adam", "setting": "width=8", "pairs": 2,
        "matched": int(case != "masked"), "verdict": "fragile", "note": "1 of 2 pairs agree within 0.01"
    }  # fmt: skip
    row |= {f"ratio{end}": float(values(case, 3)[k]) for k, end in enumerate(("", "_low", "_high"))}
    order = {"measure": "norm", "key": "noise", "setting": "", "pairs": 1, "apart": 1, "verdict": "follows", "note": ""}
    keys = {"optimizer": ("sgd", "adam") * 4, "noise": (0.0,) * 8, "nesterov": (True, 0) * 4, "width": (8,) * 8}
    return ls.Audit(
        {name: column[:n] for name, column in keys.items()}, ((0, 0, 1, 1) * 2)[:n],
        np.array([50] * 4 + [100] * 4)[:n], np.full(n, 0.1), {"norm": values(case, n)}, {"norm": values(case, n) / 9},
        computed(case, n), ("",) * n, ls.Comparisons.of([row]), ls.Orders.of([{**order, "order": 0.5}]),
        {**ABOUT, "within": 0.01, "level": 0.95, "draws": 100}
    )  # fmt: skip


def coherence(case: str = "whole") -> ls.Coherence:
    """Two layers at three parameter vectors, with groups and examples; at one where there is one of everything."""
    n, rows = count(case, 3), ("all", "fc1", "fc2")
    squares, grouped = values(case, n, 3), values(case, n, 2, 2)
    examples = 0 if case == "constant" else 4
    return ls.Coherence(
        tuple(str(100 * k) for k in range(n)), rows, 4, squares / 9, squares, squares / 90, ("clean", "noisy"),
        np.array([3, 1]), grouped, grouped[:, 0], values(case, n, examples), values(case, n, examples),
        computed(case, n), ABOUT
    )  # fmt: skip


def llc(case: str = "whole") -> ls.LLC:
    """Three chains of forty draws, the last of them diverged, by steps with a bias; of one chain exact steps."""
    n = count(case, 3)
    traces = values(case, n, 40) if case in ("masked", "nan", "infinite", "constant") else 0.1 + drawn(n, 40) / 50
    if case == "whole":
        traces[2] += 9
    return ls.LLC(
        0.1, 50.0, 1.0, 20, traces, traces[:, 20:] / 1.1 if n > 1 else traces[:, :0], np.full(n, 1e-3),
        np.full(n, 0.75 if n == 1 else np.nan), 1.5, 4, computed(case, n), {**ABOUT, "method": "sgld", "batch_size": 8}
    )  # fmt: skip


def drawn(*shape: int) -> np.ndarray:
    """Squares of normal numbers."""
    return np.random.Generator(np.random.Philox(key=0)).standard_normal(shape) ** 2


def forgetting(case: str = "whole") -> ls.Forgetting:
    """Three tasks of one run of each of two cells, one pair above its bound; one pair where there is one."""
    n, layers = count(case, 6), ("fc1", "fc2")
    names = ("forgetting", "gradient", "quadratic", "distance", "lambda_max", "loss_before", "loss_after")
    found = {name: values(case, n) for name in names}
    if case == "whole":
        found["forgetting"] = np.array([-0.5, 0.25, 1.0, 0.5, 2.0, 900.0])
    errors = {name: np.abs(array) / 9 for name, array in found.items() if name != "distance"}
    parts = {name: values(case, n, 2) for name in names[1:4]}
    return ls.Forgetting(
        "task", {"lr": (0.1,) * (n // 2) + (0.01,) * (n - n // 2)}, (0,) * n, (0, 0, 1, 0, 0, 1)[:n],
        (1, 2, 2, 1, 2, 2)[:n], layers, found, errors, parts, {k: parts[k] / 9 for k in names[1:3]},
        computed(case, n), ABOUT
    )  # fmt: skip


def basin(case: str = "whole") -> ls.Basin:
    """Radii of a basin along five directions, one of which never crosses; of one where there is one of everything."""
    n = count(case, 5)
    radii = values(case, n)
    if case == "whole":
        radii[1] = np.inf
    return ls.Basin(
        radii, values("whole", n), 3 * np.log(radii), np.array([0.5, 1.0, 2.0]), values(case, min(n, 2), 3),
        computed(case, n), 3, 0.01, 0.1, "loss", {**ABOUT, "kind": "gaussian", "descent_gain": 1e-6, "minimum": 1}
    )  # fmt: skip


KINDS: dict[str, Callable[[str], Any]] = {
    "surface": surface,
    "spectrum": spectrum,
    "layer_spectra": layers,
    "curve": curve,
    "path": path,
    "connectivity": connectivity,
    "agreement": agreement,
    "profiles": profiles,
    "topology": topology,
    "measures": measures,
    "layer_structure": layer_structure,
    "training": training,
    "phases": phases,
    "corpus": corpus,
    "weights": weights,
    "marginal_likelihood": marginal_likelihood,
    "complexity": complexity,
    "audit": audit,
    "coherence": coherence,
    "llc": llc,
    "forgetting": forgetting,
    "basin": basin,
}
EVERY = [
    (kind, case)
    for kind in KINDS
    for case in CASES
    if (case != "row" or kind == "surface") and (kind != "topology" or case == "whole")
]


def pictures_of(result: Any, most: int) -> Iterator[Picture]:
    """The pictures of a report of one result."""
    return kind_of(result).views()(result, most)


def painted(figure: Any) -> int:
    """How many bytes a coarse picture of a figure has: what is drawn is that of a fine one, in less time."""
    file = io.BytesIO()
    figure.savefig(file, dpi=30)
    return file.tell()
