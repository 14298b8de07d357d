"""What is only rounding is told as 0 wherever a number or its error is read; what was measured never is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from landscape_kernels.moments import moments_, ratio
from landscape_kernels.rounding import rounding_of, settled
from torch import Tensor, nn

import landscape as ls
from landscape.pictures.views import known_text
from landscape.results.summary import result_tables
from landscape.results.tables import number
from landscape.studies.connectivity.views import connectivity_views
from landscape.studies.path.result import Path
from landscape.studies.path.views import path_views


def net(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype)


def shifted(dtype: torch.dtype) -> nn.Sequential:
    """The same function to the loss: softmax does not see what is added to all scores."""
    other = net(dtype)
    with torch.no_grad():
        other[2].bias.add_(1.0)
    return other


def data(dtype: torch.dtype = torch.float32, count: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return x.to(dtype), x[:, :4].argmax(1)


def cells(result: Any, title: str) -> dict[str, tuple[str, ...]]:
    """{first entry of a row: texts of the others} of one table."""
    table = next(table for table in result_tables(result, "about") if table.title == title)
    return {row[0].text: tuple(cell.text for cell in row[1:]) for row in table.rows}


def ratio_of(numerators: Tensor, denominators: Tensor | None = None) -> tuple[float, float, int]:
    sums = torch.zeros(6, dtype=torch.float64)
    moments_(sums, numerators, denominators)
    return ratio(sums.numpy())


# -- at the source ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 300, 100_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_units_that_are_alike_have_no_error(count: int, weighted: bool) -> None:
    """Their squares cancel to about 1e-16 of their sum, whose root is 1e-8."""
    weights = torch.linspace(0.3, 2.1, count, dtype=torch.float64)
    alike = torch.full((count,), 0.1 * math.pi, dtype=torch.float64)
    assert ratio_of(alike * weights, weights)[1] == 0 if weighted else ratio_of(alike)[1] == 0


def test_units_that_differ_little_keep_their_error() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 1 + 1e-6 * torch.randn(2000, generator=generator, dtype=torch.float64)
    assert ratio_of(values)[1] == pytest.approx(float(values.std()) / math.sqrt(2000), rel=1e-3)


# -- the rule ---------------------------------------------------------------------------------------------------------


def test_the_rule() -> None:
    assert rounding_of(3.0, "float32") == rounding_of(3.0, "bf16") == 3 * 2.0**-23
    assert rounding_of(math.inf) == rounding_of(math.nan) == 0
    assert settled(1e-9, 1.0, math.nan) == 1e-9
    assert math.isnan(settled(math.nan, 1.0, 1.0))
    assert settled(math.inf, 1.0) == math.inf
    assert number(-1e-9, stderr=0.25, rounding=1e-7).text == number(0.0, stderr=0.25, rounding=1e-7).text == "0 +- 0.25"
    for value, stderr in ((-1e-9, 3e-9), (0.0, 3e-9), (1e-9, 0.0), (1e-9, math.nan)):  # of pairs in one table
        assert number(value, stderr=stderr, rounding=1e-7).text == "0 (to rounding, 1e-07)"
    assert number(0.0, stderr=math.nan, rounding=1e-7).text == "0"
    assert (number(1e-9, rounding=1e-7).value, number(1e-9).value) == (0.0, 1e-9)
    assert number(math.nan, stderr=math.nan, nan="-", rounding=1e-7).text == "-"
    assert number(math.inf, stderr=math.nan, rounding=math.nan).text == "inf"
    assert number(2e-7, 3, 1e-8, rounding=1e-7).text == "2e-07 +- 0"
    assert known_text(2.5, 1e-16) == "2.5 ± 0"


# -- paths, pairs and spectra -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_barrier_that_is_only_rounding(dtype: torch.dtype) -> None:
    objective = ls.Objective(net(dtype), data=data(dtype), metrics=["error"])
    path = ls.measure_path(objective, [net(dtype), shifted(dtype)], t=7)
    assert 0 <= path.barrier < path.rounding_of("loss") < 1e-6  # the number itself stays as it is
    about = cells(path, "about")
    assert about["barrier of the loss"][0].startswith("0 (to rounding, ")
    assert about["between the places"][0] == "the loss rises no higher, to rounding"
    assert about["mode connectivity"][0].endswith(", of the error in per cent; below 0 is a barrier")
    loss = cells(path, "values +- standard error")["loss"]
    assert loss[2].endswith("everywhere")
    assert loss[3].endswith("everywhere")
    alt = next(path_views(path, 100)).alt
    assert "its barrier 0 ± 0" in alt
    assert "barrier 0, mc 0 " in path.plot().get_supxlabel()
    pairs = ls.measure_connectivity(objective, [net(dtype), shifted(dtype), net(dtype, 3)], epochs=0, t=5)
    table = next(table for table in result_tables(pairs, "about") if table.title == "pairs")
    first, second = (row[2] for row in table.rows[:2])
    assert first.text.startswith("0 (to rounding, ")
    assert first.value == 0
    assert "rounding" not in second.text
    assert second.stderr is not None
    assert second.stderr > 1e-4
    texts = next(connectivity_views(pairs, 100)).views["line barrier"]["data"][0]["hovertext"]
    assert texts[0][1].endswith("0 ± 0")
    assert texts[0][2].endswith(f"± {second.stderr:.2g}")


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_small_barrier_is_told_in_full(scale: float) -> None:
    """1e-4 of the losses, whatever their unit; float32."""
    t = np.linspace(0, 1, 5)
    losses = scale * (1 + 1e-4 * 4 * t * (1 - t))
    replicates = losses[:, None] * (1 + 1e-5 * np.linspace(-1, 1, 8) * t[:, None] * (1 - t[:, None]))
    path = Path(
        t,
        {"loss": losses},
        {"loss": 0.01 * losses},
        t,
        1.0,
        1.0,
        np.ones(5, dtype=bool),
        attributes={"precision": "float32"},
        replicates={"loss": replicates},
    )
    told = cells(path, "about")["barrier of the loss"][0]
    assert told.startswith(f"{path.barrier:.6g} +- {path.barrier.stderr:.2g}")
    assert "rounding" not in told
    assert "at t = 0.5" in cells(path, "values +- standard error")["loss"][2]


def test_how_far_the_loss_may_rise_between_the_places_is_told() -> None:
    t = np.array([0.0, 0.5, 1.0])
    losses = np.array([1.0, 2.0, 1.0])
    path = Path(t, {"loss": losses}, {"loss": losses}, t, 1.0, 1.0, np.ones(3, dtype=bool))
    said = cells(path, "about")["between the places"][0]
    assert said == f"the loss may rise by {path.maximum_excess:.3g} above its largest value; tol= asks for less"
    ends = Path(t[::2], {"loss": losses[::2]}, {"loss": losses[::2]}, t[::2], 1.0, 1.0, np.ones(2, dtype=bool))
    assert cells(ends, "about")["between the places"][0].startswith("the loss may rise by any amount")
    none = replace(path, computed=np.array([True, True, False]))
    assert "between the places" not in cells(none, "about")


def test_of_all_pairs_the_one_that_may_rise_most_is_told() -> None:
    objective = ls.Objective(net(), data=data())
    pairs = ls.measure_connectivity(objective, [net(), shifted(torch.float32), net(seed=3)], epochs=0, t=3)
    most = max(pairs.line_path(i, j).maximum_excess for i, j in pairs.pairs.tolist())
    said = cells(pairs, "about")["between the places"][0]
    assert f"{most:.3g}" in said or (most < 1e-6 and "to rounding" in said)


def test_models_that_are_alike_agree_without_an_error_and_residuals_have_none() -> None:
    x = data(torch.float64)
    objective = ls.Objective(net(torch.float64), data=x)
    same = ls.measure_agreement(objective, [net(torch.float64), shifted(torch.float64), net(torch.float64, 3)])
    title = "pairs, value +- standard error"
    first, second = next(table for table in result_tables(same, "t") if table.title == title).rows[:2]
    assert [cell.text for cell in first[2:-1]] == ["1", "1", "0", "0"]
    assert all(" +- " in cell.text for cell in second[2:-1])
    surface = ls.measure_surface(objective, ls.random_plane(objective), x=(0, 1, 2), y=(0, 0, 1))
    names = {"values": {"a_residual": surface.values["loss"]}, "stderr": {"a_residual": surface.stderr["loss"]}}
    rows = next(t for t in result_tables(replace(surface, **names), "t") if t.title == "values +- standard error").rows
    assert all("+-" not in row[2].text for row in rows)


def test_a_density_of_known_eigenvalues_is_called_exact() -> None:
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = ls.measure_spectrum(
        ls.Objective(nn.Linear(3, 1).double(), "mse", (x, x[:, :1].clone())), 1, density=True
    )
    assert repr(spectrum).endswith("density exact)")
    assert cells(spectrum, "density")["probes"] == ("none: exact",)
    assert "exact: all eigenvalues are known" in spectrum.plot("density").get_supxlabel()


def test_a_spectrum_of_zeros_and_of_what_is_alike_for_all_samples() -> None:
    """The bias of a linear regression has a second derivative of 1 at every sample; a column of zeros none."""
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 2] = 0
    model = nn.Linear(3, 2).double()
    spectrum = ls.measure_spectrum(ls.Objective(model, "mse", (x, x[:, :2].clone())), 2, smallest=2, trace="exact")
    assert cells(spectrum, "trace by layer")["bias"] == ("2 +- 0",)
    for _, row in cells(spectrum, "smallest eigenvalues").items():
        assert row[0].startswith(("0 +- 0", "0 (to rounding, "))
    for _, row in cells(spectrum, "largest eigenvalues").items():
        assert row[-3] == "0"  # the residual of a dense solution
        assert row[0].startswith("1.")


def test_a_surface_of_a_loss_that_is_level() -> None:
    """Scores that do not depend on the input: in float32 the losses differ in their last bit at most."""

    class Level(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Parameter(torch.tensor([0.3, 0.3, 0.3, 0.3]))

        def forward(self, x: Tensor) -> Tensor:
            return self.scores + 1e-8 * x[:, :4]

    objective = ls.Objective(Level(), data=data(count=64))
    surface = ls.measure_surface(objective, ls.random_plane(objective, normalize="none"), x=(-0.0, 1, 2), y=(0, 0, 1))
    rows = next(table for table in result_tables(surface, "t") if table.title == "values +- standard error").rows
    centre = next(row for row in rows if row[1].text in ("centre", "nearest to centre"))
    assert centre[2].text == "1.38629 +- 0"
