"""measure_spectrum(error=) against full measurements and matrices at hand; draws, brackets, rounds, resuming."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from torch import nn

import landscape as ls
from landscape.curvature.sampling import Balanced, importance
from landscape.errors import InputError
from landscape.studies.spectrum.brackets import (
    ALL,
    SINGLE,
    VECTORS,
    Bracket,
    More,
    Spent,
    bracket,
    next_step,
    with_more,
)
from landscape.studies.spectrum.precise import _Fold, _without_each
from landscape.studies.spectrum.tables import spectrum_tables
from landscape.studies.spectrum.trial import spectrum_trial
from landscape.studies.spectrum.views import spectrum_views

N, K, ERROR = 3000, 2, 0.1


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network of 291 parameters on three clouds of points, trained for an epoch."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (N,), generator=generator)
    points = torch.randn(3, 8, generator=generator)[labels] + 1.2 * torch.randn(N, 8, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for batch in torch.arange(N).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(points[batch]), labels[batch]).backward()
        optimizer.step()
    return model, points, labels


@pytest.fixture(scope="module")
def objective(network: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> ls.Objective:
    return ls.Objective(network[0], data=network[1:])


def measured(objective: ls.Objective, **options: Any) -> ls.Spectrum:
    return ls.measure_spectrum(objective, K, **({"trace": False, "density": False, "error": ERROR} | options))


@pytest.fixture(scope="module")
def full(objective: ls.Objective) -> ls.Spectrum:
    return ls.measure_spectrum(objective, K, trace="split", density=False)


# -- numbers in, numbers out -----------------------------------------------------------------------------------------


def test_the_bracket_holds_the_eigenvalues() -> None:
    """Of a matrix at hand and vectors that are off: the Ritz values are below, and residuals reach beyond."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    true = np.concatenate([[9.0, 7.0, 6.5], np.sort(rng.uniform(-1, 1, 37))[::-1]])
    matrix = basis * true @ basis.T
    for seed in range(10):
        off = np.random.default_rng(seed).normal(size=(40, 5))
        vectors = np.linalg.qr(basis[:, :5] + 0.03 * off)[0].T
        forms = vectors @ matrix @ vectors.T
        rest = vectors @ matrix - forms @ vectors
        found = bracket(np.tile(forms, (16, 1, 1)), rest @ rest.T, 3, exact=True)
        assert (found.lower <= true[:3]).all()
        assert (true[:3] <= found.upper).all()
        assert (found.lower < true[:3] - 0.01).any()  # the width is needed
        assert not found.stderr.any()


def test_the_standard_error_is_that_of_the_lower_end() -> None:
    """Over repetitions, the spread of lower ends is what each tells of itself, and copies that repel are corrected."""
    rng = np.random.default_rng(1)
    true = np.diag([4.0, 3.9, 1.0])
    found = []
    for _ in range(200):
        noise = rng.normal(size=(16, 3, 3))
        found.append(bracket(true + 0.4 * (noise + noise.transpose(0, 2, 1)), np.zeros((3, 3)), 2))
    lower, stderr = (np.array([getattr(b, name) for b in found]) for name in ("lower", "stderr"))
    ratio = np.sqrt((stderr**2).mean(0)) / lower.std(0)
    assert (ratio > 1).all(), ratio
    assert (ratio < 1.6).all(), ratio


def test_the_upper_end_allows_for_draws_of_the_residual() -> None:
    """Where few draws tell the residual, the eigenvalue is within twice half the width of the middle, nearly always."""
    rng = np.random.default_rng(4)
    basis = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    matrix = basis * np.concatenate([[5.0, 3.0, 1.0], np.zeros(37)]) @ basis.T
    vectors = np.linalg.qr(basis[:, :3] + 0.04 * rng.normal(size=(40, 3)))[0].T
    values = np.linalg.eigvalsh(vectors @ matrix @ vectors.T)[::-1][:2]
    missed = []
    for _ in range(40):
        noise = rng.standard_t(2.5, size=(16, 40, 1)) * rng.normal(size=(16, 1, 40)) * 0.3
        images = vectors @ (matrix + noise + noise.transpose(0, 2, 1))
        rests = torch.from_numpy(images - images @ vectors.T @ vectors)
        without = _without_each(rests)
        outside, forms = without.mean(0).numpy(), np.tile(vectors @ matrix @ vectors.T, (16, 1, 1))
        np.testing.assert_allclose(outside, _pairs_of_groups(rests.numpy()), atol=1e-12)
        for around in (None, without.numpy()):
            found = bracket(forms, outside, 2, around=around)
            missed.append(np.array([5.0, 3.0]) - values > 1.5 * (found.upper - found.lower))
    plain, allowed = np.mean(missed[::2]), np.mean(missed[1::2])
    assert allowed < 0.02, (plain, allowed)
    assert plain > 0.1, (plain, allowed)


def _pairs_of_groups(rests: np.ndarray) -> np.ndarray:
    count = len(rests)
    return sum(rests[a] @ rests[b].T for a in range(count) for b in range(count) if a != b) / (count * (count - 1))


def test_folded_rows_have_nearly_the_same_products() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 20_000)))
    few = rows[:, :50]
    exact = _Fold(50, 0, 0)(few)
    np.testing.assert_allclose(exact @ exact.T, few @ few.T)
    near = _Fold(20_000, 0, 0)(rows)
    assert near.shape == (3, 4096)
    np.testing.assert_allclose(near @ near.T, rows @ rows.T, atol=0.08 * 20_000)


def test_more_values_are_weighed_by_their_draws() -> None:
    forms = np.tile(np.diag([5.0, 3.0, 1.0]), (16, 1, 1))
    one, two = np.tile([7.0, 0, 0], (16, 1, 1)), np.tile([0, 2.5, 0], (16, 1, 1))
    more = [More(300, (0,), one), More(np.inf, (1,), two), More(900, (1,), 0 * two)]
    found, ritz = with_more(forms, np.diag([0.4, 0.0, 0.0]), 2, 100, more)
    np.testing.assert_allclose(found.lower, [6.5, 2.5])  # all data take the place of draws
    np.testing.assert_allclose(found.upper, [6.5 + 0.4 / 5.5, 2.5])
    np.testing.assert_allclose(found.stderr, 0, atol=1e-12)
    np.testing.assert_allclose(np.abs(ritz), np.eye(3))


@pytest.mark.parametrize("draws", [np.inf, 10_000])
def test_more_values_of_near_eigenvalues_are_not_those_of_mixed_vectors(draws: float) -> None:
    """The first draws turn two vectors by the noise; their own v'Hv would lie between the eigenvalues."""
    rng = np.random.default_rng(3)
    true = np.diag([4.0, 3.8, 1.0])
    seen = []
    for _ in range(40):
        noise = rng.normal(size=(16, 3, 3))
        forms = true + 0.6 * (noise + noise.transpose(0, 2, 1))
        ritz = with_more(forms, np.zeros((3, 3)), 2, 500, [])[1]
        again = (0.0 if np.isinf(draws) else 0.1) * rng.normal(size=(16, 3, 3))
        rows = ritz[:2] @ (true + again + again.transpose(0, 2, 1))
        more = More(draws, (0, 1), rows)
        found, _ = with_more(forms, np.zeros((3, 3)), 2, 500, [more])
        seen.append(found.lower)
    np.testing.assert_allclose(np.mean(seen, 0), [4.0, 3.8], atol=0.02)


@pytest.mark.parametrize(
    ("width", "stderr", "samples", "kind"),
    [(0.0, 0.3, 10**6, SINGLE), (3.0, 0.01, 10**6, VECTORS), (0.0, 0.3, 500, ALL), (0.0, 0.01, 500, None)],
)
def test_the_cheaper_side_grows(width: float, stderr: float, samples: int, kind: int | None) -> None:
    """Values where the standard error is too large, vectors where the width is, all data where neither pays."""
    lower = np.array([10.0, 8.0])
    found = Bracket(lower, lower + width, np.array([stderr, 0.001]), np.zeros(2), np.eye(2, 4))
    step = next_step(found, Spent(200, 400, np.zeros(2)), 0.02, samples, 8 if samples > 500 else 1)
    assert (None if step is None else step.kind) == kind
    if kind == SINGLE:
        assert step is not None
        assert step.pairs == (0,)


def test_a_value_of_all_data_is_not_measured_again() -> None:
    lower = np.array([10.0, 8.0])
    found = Bracket(lower, lower, np.array([0.3, 0.001]), np.zeros(2), np.eye(2, 4))
    step = next_step(found, Spent(200, 400, np.array([np.inf, 0.0])), 0.02, 10**6, 8)
    assert step is not None
    assert step.kind != SINGLE


# -- draws -----------------------------------------------------------------------------------------------------------


def test_balanced_draws_are_right_on_average_and_closer_than_independent_ones(
    objective: ls.Objective, network: tuple[nn.Module, torch.Tensor, torch.Tensor]
) -> None:
    draws = Balanced.of(objective)
    q, total = importance(objective)
    assert draws.q is not None
    np.testing.assert_array_equal(draws.q, q)
    assert draws.total == total == N
    kinds = np.random.default_rng(0).normal(size=N) * 0.1
    with torch.no_grad():
        logits = network[0](network[1]).numpy()
    kinds += logits.argmax(1)
    size, count = 64, 150
    balanced = []
    for block in range(count):
        sample = draws.drawn(1, size, 0, block)
        assert sample.weights is not None
        rows = np.array(sample.objective.data.numbers)
        balanced.append(float((sample.weights.numpy() * kinds[rows]).sum() / total))
    assert abs(np.mean(balanced) - kinds.mean()) < 3 * np.std(balanced) / np.sqrt(count)
    plain = np.random.default_rng(0).choice(N, size=(count, size), p=q)
    independent = (kinds[plain] / (N * q[plain])).mean(1)
    assert np.std(balanced) < 0.7 * np.std(independent)


# -- spectra ---------------------------------------------------------------------------------------------------------


def test_eigenvalues_are_within_the_error_asked(objective: ls.Objective, full: ls.Spectrum) -> None:
    """Over seeds, with as much as a third of the products; two errors hold nearly all of them."""
    gaps = []
    for seed in range(4):
        found = measured(objective, seed=seed)
        error = found.eigenvalue_error
        assert (error <= ERROR * found.eigenvalues).all()
        assert (error > 0).all()
        assert found.converged.all()
        work = found.attributes["work"]
        assert work["products_of_all_data"] < full.products / 3
        gaps.append((found.eigenvalues - full.eigenvalues) / error)
        assert found.largest.vectors is not None
        assert full.largest.vectors is not None
        np.testing.assert_allclose(np.linalg.norm(found.largest.vectors, axis=1), 1, atol=1e-6)
        assert abs(found.largest.vectors[0] @ full.largest.vectors[0]) > 0.95
    assert (np.abs(gaps) < 3.5).all(), gaps
    assert np.mean(np.abs(gaps) < 2) >= 0.85, gaps
    assert np.std(gaps) > 0.2, gaps  # errors are not far too large


def test_small_data_are_measured_whole(objective: ls.Objective) -> None:
    few = objective.on(objective.data.head(200))
    plain, asked = measured(few, error=None), measured(few)
    np.testing.assert_array_equal(asked.eigenvalues, plain.eigenvalues)
    assert not asked.eigenvalue_error.any()
    np.testing.assert_array_equal(asked.largest.stderr, plain.largest.stderr)
    assert asked.attributes["work"]["forward_passes"] == 0
    np.testing.assert_array_equal(asked.largest.known_to, plain.largest.stderr)
    assert str(asked).endswith("error 0.1 asked, all data measured)")
    told = str(next(iter(spectrum_tables(asked, "title"))))
    assert "(all data were measured)" in told
    assert "what all data take" not in told


def test_stopped_after_every_round_gives_the_same_bits(objective: ls.Objective, tmp_path: Path) -> None:
    whole = measured(objective, out=tmp_path / "whole")
    for _ in range(whole.attributes["work"]["rounds"]):
        assert not (tmp_path / "parts" / "landscape.h5").exists()
        parts = measured(objective, out=tmp_path / "parts", limit_items=1)
    read = ls.open(tmp_path / "parts" / "landscape.h5")
    assert isinstance(read, ls.Spectrum)
    for other in (whole, read):
        assert other.attributes["work"] == parts.attributes["work"]
        for field in dataclasses.fields(other.largest):
            np.testing.assert_array_equal(getattr(other.largest, field.name), getattr(parts.largest, field.name))


def test_trace_to_an_error(objective: ls.Objective, full: ls.Spectrum) -> None:
    assert full.trace is not None
    spectrum = measured(objective, trace=True, density=True, density_probes=1, density_steps=8)
    found = spectrum.trace
    assert found is not None
    assert spectrum.density is not None
    assert spectrum.attributes["density_samples"] == 1024
    assert found.method == "blocks"
    assert abs(found.value - full.trace.value) < 3.5 * found.stderr_probes
    assert found.stderr_probes <= ERROR * found.value
    np.testing.assert_allclose(sum(found.layers.values()), found.value)
    _pictures_tell_errors_and_work(spectrum)


def _pictures_tell_errors_and_work(spectrum: ls.Spectrum) -> None:
    work = spectrum.attributes["work"]
    assert f"error 0.1 asked, by {work['share_of_full']:.0%} of a full measurement" in str(spectrum)
    figure = spectrum.plot("spectrum")
    segments = np.array(figure.axes[0].containers[0].lines[2][0].get_segments())  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.ptp(segments[:, :, 1], axis=1), 4 * spectrum.eigenvalue_error)
    words = [text.get_text().replace("\n", " ") for text in figure.findobj(Text)]  # type: ignore[call-arg]
    assert any(f"{work['sample_products']:,} products with one sample" in line for line in words)
    assert "±2 errors, for all data" in words
    below = [t.get_text().replace("\n", " ") for t in spectrum.plot("density").findobj(Text)]  # type: ignore[call-arg]
    assert any("of a sample of 1,024" in line for line in below)
    eigenvalues, density = [*spectrum_views(spectrum, 1000)][:2]
    assert eigenvalues.notes[0] == "bars: ±2 errors, for all data; hollow: not converged"
    assert "of a sample of 1,024" in density.notes
    bars = eigenvalues.views["eigenvalues"]["data"][0]["error_y"]["array"]
    np.testing.assert_allclose(bars, 2 * spectrum.eigenvalue_error, rtol=1e-4)


# -- what is foretold ------------------------------------------------------------------------------------------------


def test_the_work_is_foretold(objective: ls.Objective, tmp_path: Path) -> None:
    """From the first two rounds, or those the folder holds; that of all data where they are few."""
    asked = {"k": K, "trace": False, "density": False, "error": ERROR}
    said = spectrum_trial(objective, asked, tmp_path, 1).said["work"]
    guess = float(re.match(r"about (\S+) products of all data in \d+ rounds, \d+% of a full measurement", said)[1])  # type: ignore[index]
    spent = measured(objective, out=tmp_path).attributes["work"]
    assert spent["products_of_all_data"] / 3 < guess < 3 * spent["products_of_all_data"]
    ended = spectrum_trial(objective, asked, tmp_path, 1).said["work"]
    told = f"about {spent['products_of_all_data']:.2g} products of all data in {spent['rounds']} rounds, "
    assert ended.startswith(f"{told}{spent['share_of_full']:.0%} of a full measurement, for an error of 0.1")
    few = objective.on(objective.data.head(200))
    assert (
        spectrum_trial(few, asked, tmp_path / "few", 1).said["work"].startswith("all data are measured: they are few")
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smallest": 1}, r"error = 0.1 and smallest = 1: .* leave out one of the two"),
        *(({"error": bad}, "a finite number between 0 and 1,") for bad in (0, -0.1, 1, float("nan"), "a", True)),
        ({"samples": 100}, "error = 0.1 and samples = 100"),
        ({"tol": 0.01}, "error = 0.1 and tol = 0.01"),
        ({"trace": "hutchinson"}, "trace = 'hutchinson' passes over all data"),
        ({"start": torch.ones(1, 291)}, "start= and error=0.1"),
    ],
)
def test_refused(objective: ls.Objective, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measured(objective, **options)
