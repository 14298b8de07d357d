"""Audits of trained models against the same numbers taken by hand, and what cannot be audited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import audit_cases as cases
import numpy as np
import pytest
import torch
from landscape_jobs.cli import app
from torch import nn
from typer.testing import CliRunner

import landscape as ls
from landscape.checkpoints.trained import TrainedModels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ls.Training:
    return cases.trained(tmp_path_factory.mktemp("audit") / "train")


@pytest.fixture(scope="module")
def audit(run: ls.Training) -> ls.Audit:
    return ls.audit_fragility(run, cases.MEASURES, **cases.ASKED)


def weights_of(state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The weights of the two layers, the BatchNorm folded into the first."""
    gain = state["1.weight"] / (state["1.running_var"] + 1e-12).sqrt()
    return [state["0.weight"] * gain[:, None], state["3.weight"]]


def test_values_are_those_of_every_model(run: ls.Training, audit: ls.Audit) -> None:
    """Also of rescaled ones, whose layers with their BatchNorm are the same layers."""
    table = run.checkpoints
    assert len(audit.seed) == 2 * len(table)
    parameters = [name for name, _ in cases.net().named_parameters()]
    for row in range(len(table)):
        states = [ls.read_state(path) for path in (table.final[row], table.initial[row])]
        final, initial = map(weights_of, states)
        for item, factor in ((row, 1), (row + len(table), 10)):
            assert audit.keys["rescaled"][item] == factor
            assert audit.samples[item] == round(64 * table.keys["fraction"][row])
            assert audit.test_error[item] == table.values["test_error"][row]
            norm = sum(float(w.square().sum()) for w in final)
            distance = sum(float((w - w0).square().sum()) for w, w0 in zip(final, initial, strict=True))
            np.testing.assert_allclose(audit.values["param_norm"][item], norm, rtol=1e-10)
            np.testing.assert_allclose(audit.values["fro_dist"][item], distance, rtol=1e-10)
            scaled = [states[0][name] * (factor if name.startswith("0.") else 1) for name in parameters]
            size = sum(float(tensor.square().sum()) for tensor in scaled)
            np.testing.assert_allclose(audit.values["size"][item], size, rtol=1e-12)


def test_ratio_is_the_geometric_mean_over_matched_cells(audit: ls.Audit) -> None:
    frame = audit.models_to_pandas()
    frame = frame[frame["rescaled"] == 1]
    means = frame.groupby(["batch_size", "samples"]).agg(
        error=("test_error", "mean"), log=("param_norm", lambda values: np.log(values).mean())
    )
    gap = means.loc[16] - means.loc[8]
    matched = gap["error"].abs() <= 0.2
    row = audit.rows_of("param_norm", "batch_size")[0]
    assert (audit.comparisons.pairs[row], audit.comparisons.matched[row]) == (3, matched.sum())
    expected = np.exp(gap["log"][matched].mean())
    np.testing.assert_allclose(audit.comparisons.values["ratio"][row], expected, rtol=1e-12)


def test_rescaled_models_compute_the_same(run: ls.Training, audit: ls.Audit) -> None:
    """And a measure of the function alone says so: the ratio of the training loss is 1."""
    own = ls.measure("loss", lambda subject: float(subject.objective.estimates()["loss"]))
    found = ls.audit_fragility(run, [own, "param_norm", cases.SIZE], "rescaled", draws=100)
    rows = found.rows_of("loss", "rescaled")
    np.testing.assert_allclose(found.comparisons.values["ratio"][rows], 1, rtol=1e-9)  # but for BatchNorm's eps
    verdicts = {name: found.verdict(name, "rescaled") for name in found.measures}
    assert verdicts == {"loss": "robust", "param_norm": "robust", "size": "fragile"}
    assert found.comparisons.matched.tolist() == found.comparisons.pairs.tolist()  # the very same test error


def test_a_run_that_is_stopped_goes_on_to_the_same(run: ls.Training, audit: ls.Audit, tmp_path: Path) -> None:
    asked = {**cases.ASKED, "out": tmp_path / "run"}
    part = ls.audit_fragility(run, cases.MEASURES, limit_items=3, **asked)
    assert (int(part.computed.sum()), part.complete) == (3, False)
    assert np.isnan(part.values["param_norm"][3:]).all()
    whole = ls.audit_fragility(run, cases.MEASURES, **asked)
    for name, values in audit.comparisons.values.items():
        np.testing.assert_array_equal(whole.comparisons.values[name], values)
    opened = ls.open(tmp_path / "run")
    assert opened.orders.verdict == audit.orders.verdict
    with pytest.raises(ls.InputError, match=r"other statistics.*audit_table\(.*within=0\.1"):
        ls.audit_fragility(run, cases.MEASURES, **{**asked, "within": 0.1})
    frame = whole.models_to_pandas()
    again = ls.audit_table(frame, cases.NAMES, **cases.ASKED)
    for name, values in audit.comparisons.values.items():
        np.testing.assert_array_equal(again.comparisons.values[name], values)


def test_adjusted_measures(run: ls.Training, audit: ls.Audit) -> None:
    """sqrt(v / m): slopes are (b - 1) / 2, ratios their roots."""
    found = ls.audit_fragility(run, ["param_norm"], "batch_size", within=0.2, adjusted=True, draws=100)
    rows = audit.rows_of("param_norm", "batch_size")
    ours, plain = found.comparisons.values, audit.comparisons.values
    np.testing.assert_allclose(ours["ratio"], np.sqrt(plain["ratio"][rows]), rtol=1e-12)
    np.testing.assert_allclose(ours["slope_first"], (plain["slope_first"][rows] - 1) / 2, rtol=1e-9)


def test_measures_that_have_no_value_are_told_and_the_others_are_there(run: ls.Training) -> None:
    def lame(subject: Any) -> float:
        raise RuntimeError("no luck")

    mine = [ls.measure("lame", lame), ls.measure("nan", lambda subject: float("nan")), "param_norm"]
    found = ls.audit_fragility(run, mine, "batch_size", within=0.2, draws=100)
    assert np.isnan(found.values["lame"]).all()
    assert np.isnan(found.values["nan"]).all()
    assert np.isfinite(found.values["param_norm"]).all()
    assert "no luck" in found.note[0]
    assert found.verdict("lame", "batch_size") == "undecided"
    note = found.comparisons.note[found.rows_of("lame", "batch_size")[0]]
    assert "no positive value in" in note
    for kind in ("matrix", "ratios", "curves"):
        assert found.plot(kind).axes


def test_what_cannot_be_audited_is_told_before_anything_is_measured(run: ls.Training, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"out": tmp_path / "run", "knobs": "batch_size"}
    with pytest.raises(ls.InputError, match=r"batch_size: 0 of 3 pairs agree within 1e-09; within=0.* would match 3"):
        ls.audit_fragility(run, "params", within=1e-9, **asked)
    with pytest.raises(ls.InputError, match="did you mean 'batch_size'"):
        ls.audit_fragility(run, "params", **{**asked, "knobs": "batchsize"})
    with pytest.raises(ls.InputError, match="complexity key 'noise' is no key"):
        ls.audit_fragility(run, "params", complexity="noise", **asked)
    with pytest.raises(ls.InputError, match="within=2"):
        ls.audit_fragility(run, "params", within=2.0, **asked)
    with pytest.raises(ls.InputError, match="rescale=1"):
        ls.audit_fragility(run, "params", rescale=1.0, **asked)
    table = run.checkpoints
    blind = TrainedModels(table.keys, table.seed, table.initial, table.final)
    with pytest.raises(ls.InputError, match="the models have no test_error"):
        ls.audit_fragility(blind, "params", factory=cases.net, data=cases.data(), **asked)
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    path = tmp_path / "plain.pt"
    bare = TrainedModels({"lr": (0.1, 0.2)}, (0, 0), (None, None), (path, path), {"test_error": np.zeros(2)})
    with pytest.raises(ls.InputError, match="no model has any"):
        ls.audit_fragility(
            bare, "params", factory=lambda: plain, data=cases.data(), **{**asked, "knobs": ["lr", "rescaled"]}
        )
    assert not (tmp_path / "run").exists()


def test_a_measure_of_the_users_own_is_audited_by_a_job_of_ten_lines(run: ls.Training, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def largest(subject):\n    return subject.theta.abs().max()\n")
    (tmp_path / "job.toml").write_text(
        f"""[model]
factory = "audit_cases:net"
[data]
factory = "audit_cases:data"
[audit]
models = "{run.folder}"
measures = ["mine:largest", "param_norm"]
knobs = ["batch_size"]
within = 0.2
[run]
out = "runs/audit"
"""
    )
    done = CliRunner().invoke(app, ["run", str(tmp_path / "job.toml")])
    assert done.exit_code == 0, done.output
    found = ls.open(tmp_path / "runs" / "audit")
    assert found.measures == ("largest", "param_norm")
    largest = max(float(tensor.abs().max()) for name, tensor in ls.read_state(run.checkpoints.final[0]).items()
                  if name.endswith(("weight", "bias")))  # fmt: skip
    assert found.values["largest"][0] == largest
