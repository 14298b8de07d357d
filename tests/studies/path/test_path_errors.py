"""Errors of barriers, mode connectivity and means, from the samples that the places of a path share."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest
import torch
from landscape_kernels.moments import jackknife, ratio, without_each
from test_path import Point, batchnorm_net, samples, vector
from torch import Tensor, nn

import landscape as ls
from landscape.objective.groups import GROUPS, SampleGroups
from landscape.objective.objective import Objective
from landscape.objective.units import Units
from landscape.results.summary import result_tables
from landscape.results.trial import rows_done
from landscape.run.store import Store
from landscape.studies.path.measure import measure_path, path_task
from landscape.studies.path.result import Path

GOLDEN = FilePath(__file__).resolve().parents[2] / "golden"
sys.path.insert(0, str(GOLDEN / "version_d8328f9"))

import nets_d8  # noqa: E402  (lies beside the files that were made of it)

T = np.linspace(0, 1, 9)
HUMP = 4 * T * (1 - T)


def of_samples(curves: Tensor, weights: Tensor | None = None, batches: int = 1, **options: Any) -> ls.Objective:
    """An objective whose loss of sample i on the line from 0 to 1 is a_i + b_i t + c_i 4 t (1 - t), (n, 3)."""

    def values(model: nn.Module, batch: Tensor) -> Any:
        t, (a, b, c) = model.p[0], batch[:, :3].T
        each = a + b * t + c * 4 * t * (1 - t)
        return each if weights is None else (each * batch[:, 3], batch[:, 3])

    data = curves if weights is None else torch.cat([curves, weights[:, None]], dim=1)
    return ls.Objective(Point(0.5), None, list(data.tensor_split(batches)), forward=values, **options)


def line(objective: ls.Objective, t: Any = 9, **options: Any) -> Path:
    return measure_path(objective, [vector(0.0), vector(1.0)], t=t, **options)


def curves(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator, dtype=torch.float64) + torch.tensor([3.0, 0.5, 2.0])


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_where_the_place_is_fixed_it_is_the_error_of_a_mean_of_differences() -> None:
    """A hump of c_i in the middle; of so few samples each is a group."""
    given = curves(25)
    path = line(of_samples(given))
    height = given[:, 2].numpy()
    assert path.barrier == pytest.approx(height.mean(), rel=1e-12)
    assert path.barrier.stderr == pytest.approx(height.std(ddof=1) / 5, rel=1e-10)
    assert path.barrier.n == 25
    twice = given[:, 0] + given[:, 1] / 2  # mc is of the mean of the ends
    assert path.mc_of("loss") == pytest.approx(-height.mean(), rel=1e-12)
    assert path.mc.stderr == pytest.approx(height.std(ddof=1) / 5, rel=1e-10)
    assert path.rebasin_barrier.stderr > 0
    mean = (twice + given[:, 2] * float(np.trapezoid(HUMP, T))).numpy()
    assert path.mean["loss"] == pytest.approx(mean.mean(), rel=1e-12)
    assert path.mean["loss"].stderr == pytest.approx(mean.std(ddof=1) / 5, rel=1e-10)
    independent = np.sqrt(path.stderr["loss"][4] ** 2 + (path.stderr["loss"][0] ** 2 + path.stderr["loss"][8] ** 2) / 4)
    assert path.barrier.stderr < 0.8 * independent


def test_weights_count_as_in_a_ratio() -> None:
    given, weights = curves(30), torch.linspace(0.2, 3.0, 30, dtype=torch.float64)
    path = line(of_samples(given, weights))
    w, c = weights.numpy(), given[:, 2].numpy()
    without = np.array([np.average(np.delete(c, i), weights=np.delete(w, i)) for i in range(30)])
    expected = np.sqrt(29 / 30 * np.square(without - without.mean()).sum())
    assert path.barrier == pytest.approx(np.average(c, weights=w), rel=1e-12)
    assert path.barrier.stderr == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", ["as drawn", "sorted"])
def test_of_many_samples_it_is_as_exact_as_that_many_groups_allow(order: str) -> None:
    """Stored by the height of their humps, groups of neighbours (or every 32nd) would give another error."""
    given = curves(4000)
    given = given if order == "as drawn" else given[given[:, 2].argsort()]
    path = line(of_samples(given), t=3)
    expected = float(given[:, 2].std()) / np.sqrt(4000)
    assert path.barrier.n == GROUPS
    assert abs(path.barrier.stderr / expected - 1) < 3 / np.sqrt(2 * (GROUPS - 1))


@pytest.mark.parametrize("below", [2.9, 3.1])
def test_a_barrier_of_0_has_the_error_of_its_highest_place_where_that_is_within_3_errors(below: float) -> None:
    given = curves(20)
    error = float(given[:, 2].std()) / np.sqrt(20)
    given[:, 2] -= given[:, 2].mean() + below * error
    path = line(of_samples(given), t=[0.0, 0.25, 1.0])
    assert path.barrier == 0
    assert path.barrier.n == 20
    if below < 3:
        assert path.barrier.stderr == pytest.approx(0.75 * error, rel=1e-10)
    else:
        assert np.isnan(path.barrier.stderr)
        assert told(path)["barrier of the loss"] == "0"
    assert np.isnan(line(of_samples(given), t=2).barrier.stderr)


def test_mc_is_uncertain_where_it_may_be_of_either_of_two_places() -> None:
    """As far above the ends at one place as below at another: which of them is t* is a matter of the samples."""
    wave = np.sin(2 * np.pi * np.linspace(0, 1, 5))[:, None] * np.linspace(0.95, 1.05, 8)
    clear, either = wave.copy(), wave.copy()
    clear[3] *= 0.5
    either[3, ::2] *= 1.1
    found = [path_along(rows.mean(1), rows).mc for rows in (clear, either)]
    assert found[0].stderr == pytest.approx(jackknife(wave[1])[0], rel=1e-12)
    assert found[1].stderr > 1


def path_along(values: np.ndarray, replicates: np.ndarray) -> Path:
    t = np.linspace(0, 1, len(values))
    return Path(
        t, {"loss": values}, {"loss": values}, t, 1.0, 1.0, np.ones(len(t), bool), replicates={"loss": replicates}
    )


# -- the spread over data sets ----------------------------------------------------------------------------------------


def logistic_losses(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 9) losses of samples drawn anew, of a logistic regression on the line between two parameter vectors."""
    x = rng.standard_normal((count, 3))
    y = np.where(x @ [1.0, -0.5, 0.25] + rng.logistic(size=count) > 0, 1.0, -1.0)
    ends = np.array([[1.5, -0.5, 0.5], [0.8, -1.0, 0.0]])
    first, second = x @ ends.T[:, 0], x @ ends.T[:, 1]
    hidden = np.tanh((1 - T)[None] * first[:, None] + T[None] * second[:, None])
    return np.logaddexp(0, -1.5 * y[:, None] * hidden * (1 - 2.0 * HUMP[None]))  # worst near the middle


def path_of(losses: np.ndarray, groups: np.ndarray) -> Path:
    """What `measure_path` makes of losses (n, 9): values and replicates."""
    n = np.array([losses[groups == g].sum(0) for g in range(GROUPS)])
    d = np.bincount(groups, minlength=GROUPS).astype(float)
    replicates = np.array([without_each(np.stack([sums, d])) for sums in n.T])
    return path_along(losses.mean(0), replicates)


def test_barriers_of_new_data_scatter_as_their_error_says() -> None:
    rng = np.random.default_rng(5)
    sets, count = 400, 256
    data = Objective(nn.Linear(1, 2), data=(torch.zeros(count, 1), torch.zeros(count, dtype=torch.long))).data
    units = Units(torch.zeros(count), None, per_sample=True)
    groups = SampleGroups(data, torch.device("cpu")).of(0, units).numpy()
    found = [path_of(logistic_losses(rng, count), groups) for _ in range(sets)]
    uncertainty = 3 * np.sqrt(1 / (2 * sets) + 1 / (2 * sets * (GROUPS - 1)))
    for numbers in ([p.barrier for p in found], [p.mc for p in found], [p.mean["loss"] for p in found]):
        error = np.sqrt(np.mean([number.stderr**2 for number in numbers]))
        assert abs(error / np.std(numbers, ddof=1) - 1) < uncertainty


# -- replicates -------------------------------------------------------------------------------------------------------


def test_replicates_are_values_without_a_group_of_the_samples() -> None:
    """Of training and test data, in chunks that groups know nothing of, against evaluation on the samples left."""
    nets, data, test = [batchnorm_net(0), batchnorm_net(1)], samples(70), samples(45, 3)
    whole = ls.Objective(nets[0], "cross_entropy", data, metrics=["error"])
    path = measure_path(whole, nets, t=3, batchnorm="frozen", test=test)
    parts = whole.on(whole.data, chunk=16)
    again = measure_path(parts, nets, t=3, batchnorm="frozen", test=test)
    for name, given in (("loss", data), ("error", data), ("test_loss", test)):
        assert path.replicates[name].shape == (3, GROUPS)
        np.testing.assert_allclose(path.replicates[name], again.replicates[name], rtol=1e-14, atol=1e-16)
        units = Units(torch.zeros(len(given[0])), None, per_sample=True)
        groups = SampleGroups(ls.Objective(nets[0], "cross_entropy", given).data, torch.device("cpu")).of(0, units)
        assert int(groups.bincount(minlength=GROUPS).max() - groups.bincount(minlength=GROUPS).min()) <= 1
        for g in (0, GROUPS - 1):
            left = ls.Objective(nets[0], "cross_entropy", tuple(x[groups != g] for x in given), metrics=["error"])
            expected = left.evaluate(torch.lerp(*(nets_flat(net) for net in nets), 0.5))
            assert path.replicates[name][1, g] == pytest.approx(float(expected[name.removeprefix("test_")]), rel=1e-12)


def nets_flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def test_ranks_that_share_the_data_have_the_same_replicates_bit_for_bit() -> None:
    objective = of_samples(curves(90), batches=7)
    theta = vector(0.3)
    expected = objective.estimates_and_replicates(theta)[1]["loss"]

    class Half:
        def __init__(self, rank: int, others: list[np.ndarray]) -> None:
            self.rank, self.size, self.others = rank, 2, others
            self.mine: list[np.ndarray] = []

        def allreduce_(self, array: np.ndarray) -> None:
            self.mine.append(array.copy())
            if self.others:
                array += self.others.pop(0)

    first = Half(1, [])
    objective.estimates_and_replicates(theta, group=first)  # type: ignore[arg-type]
    found = objective.estimates_and_replicates(theta, group=Half(0, first.mine))[1]["loss"]  # type: ignore[arg-type]
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("count", "known"), [(1, False), (2, True), (33, True)])
def test_few_samples(count: int, known: bool) -> None:
    path = line(of_samples(curves(count)), t=3)
    assert path.barrier.n == (min(count, GROUPS) if known else 0)
    assert np.isfinite(path.barrier.stderr) == known


@pytest.mark.parametrize("batches", [1, 5])
def test_where_batch_values_alone_are_known_batches_are_dealt_out(batches: int) -> None:
    given = curves(40)

    def mean(model: nn.Module, batch: Tensor) -> Tensor:
        t, (a, b, c) = model.p[0], batch.T
        return (a + b * t + c * 4 * t * (1 - t)).mean()

    objective = ls.Objective(Point(0.5), None, list(given.tensor_split(batches)), forward=mean)
    path = line(objective, t=3)
    if batches == 1:
        assert np.isnan(path.barrier.stderr)
        return
    assert path.barrier.n == batches
    means = given[:, 2].reshape(5, 8).mean(1)
    assert path.barrier.stderr == pytest.approx(float(means.std()) / np.sqrt(5), rel=1e-9)


def test_a_loss_that_is_nan_has_no_error_and_leaves_other_numbers_alone() -> None:
    given = curves(64)

    def values(model: nn.Module, batch: Tensor) -> Tensor:
        t = model.p[0]
        each = batch[:, 0] + batch[:, 2] * t * (1 - t)
        return each if not 0.4 < float(t) < 0.6 else each.masked_fill(batch[:, 1] == given[3, 1], float("nan"))

    path = line(ls.Objective(Point(0.2), None, [given], forward=values, check=False), t=5)
    assert np.isnan(path.barrier)
    assert np.isnan([path.barrier.stderr, path.mc.stderr, path.mean["loss"].stderr, path.rebasin_barrier.stderr]).all()
    assert np.isfinite(path.replicates["loss"][[0, 1, 3, 4]]).all()


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(20)
    moments = np.array([20, values.sum(), 20, values @ values, values.sum(), 20])
    sums = np.stack([values, np.ones(20)])
    assert jackknife(without_each(sums))[0] == pytest.approx(ratio(moments)[1], rel=1e-12)


# -- files and folders ------------------------------------------------------------------------------------------------


def test_errors_are_the_same_in_the_file_and_stand_there_for_other_readers(tmp_path: FilePath) -> None:
    path = line(of_samples(curves(50)), out=tmp_path)
    read = ls.open(tmp_path / "landscape.h5")
    assert isinstance(read, Path)
    assert read.replicates["loss"].tobytes() == path.replicates["loss"].tobytes()
    assert (read.barrier.stderr, read.mc.stderr) == (path.barrier.stderr, path.mc.stderr)
    plain = read.to_xarray()
    assert plain["loss_replicates"].dims == ("t", "group")
    assert plain.attrs["barrier_stderr"] == path.barrier.stderr
    assert "jackknife" in plain.attrs["stderr_definition"]


def told(result: Any) -> dict[str, str]:
    """{name: text} of the first table."""
    return {row[0].text: row[1].text for row in next(iter(result_tables(result, "t"))).rows}


def test_a_folder_begun_by_an_earlier_version_goes_on_without_errors(tmp_path: FilePath) -> None:
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN / "version_da1ab7d" / "path_run", folder)
    objective = ls.Objective(nets_d8.net(), "cross_entropy", nets_d8.data(), metrics=["accuracy"])
    nets = [nets_d8.net(0), nets_d8.net(1)]
    before = Store.open(folder).rows()
    assert rows_done(folder, path_task(objective, nets, 5)) == before.done.sum() == 3
    path = measure_path(objective, nets, t=5, out=folder)
    assert [attempt["computed"] for attempt in Store.open(folder).attempts.all()] == [3, 2]
    assert path.complete
    kept = path.values["loss"][before.done]
    assert kept.tobytes() == before.columns["loss"][before.done].tobytes()
    fresh = measure_path(objective, nets, t=5)
    assert path.barrier == pytest.approx(fresh.barrier, rel=1e-9)
    assert not path.replicates
    assert np.isnan([path.barrier.stderr, path.mc.stderr]).all()
    assert fresh.barrier.stderr > 0
    for found in (path, ls.open(folder), ls.open(folder / "landscape.h5")):
        assert told(found)["errors of barrier, mode connectivity and mean"].startswith("not known")
    assert told(fresh)["barrier of the loss"] == f"{fresh.barrier:.6g} +- {fresh.barrier.stderr:.2g}"


def test_pairs_begun_by_an_earlier_version_go_on_without_errors(tmp_path: FilePath) -> None:
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN / "version_da1ab7d" / "pairs_run", folder)
    objective = ls.Objective(nets_d8.net(), "cross_entropy", nets_d8.data(), metrics=["accuracy"])
    nets = [nets_d8.net(k) for k in (0, 1, 2)]
    pairs = ls.measure_connectivity(objective, nets, epochs=0, t=3, out=folder)
    assert pairs.complete
    assert [attempt["computed"] for attempt in Store.open(folder).attempts.all()] == [2, 1]
    assert np.isnan(pairs.errors["line_barrier"]).all()
    assert told(ls.open(folder))["errors of barriers and mc"].startswith("not known")
    fresh = ls.measure_connectivity(objective, nets, epochs=0, t=3)
    np.testing.assert_allclose(pairs.numbers["line_barrier"], fresh.numbers["line_barrier"], rtol=1e-9, atol=1e-12)
    errors, barriers = fresh.errors["line_barrier"], fresh.numbers["line_barrier"]
    assert ((errors > 0) | (np.isnan(errors) & (barriers == 0))).all()
    assert (errors > 0).any()


@pytest.mark.parametrize("name", ["path.h5", "pairs.h5"])
def test_files_of_an_earlier_version_open(name: str) -> None:
    found: Any = ls.open(GOLDEN / "version_da1ab7d" / name)
    path = found if isinstance(found, Path) else found.line_path(0, 1)
    assert np.isfinite(path.mc)
    assert np.isnan([path.barrier.stderr, path.mc.stderr]).all()


def test_another_column_is_still_another_run(tmp_path: FilePath) -> None:
    folder = tmp_path / "run"
    objective = of_samples(curves(5))
    line(objective, t=3, out=folder, limit_items=1)
    record = json.loads((folder / "run.json").read_text())
    del record["columns"]["loss_stderr"]
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(ls.InputError, match="loss_stderr"):
        line(objective, t=3, out=folder)


def test_a_pair_has_the_errors_of_its_path_in_either_direction() -> None:
    objective = of_samples(curves(40))
    pairs = ls.measure_connectivity(objective, [vector(0.0), vector(1.0), vector(0.4)], epochs=0, t=5)
    path = line(objective, t=5)
    assert pairs.errors["line_barrier"][0] == pytest.approx(path.barrier.stderr, rel=1e-12)
    assert pairs.errors["line_mc"][0] == pytest.approx(path.mc.stderr, rel=1e-12)
    assert pairs.line_path(1, 0).barrier.stderr == pytest.approx(path.barrier.stderr, rel=1e-9)
    frame = pairs.to_pandas()
    assert frame["line_barrier_stderr"].tolist() == pairs.errors["line_barrier"].tolist()
