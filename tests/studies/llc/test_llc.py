"""Local learning coefficients against quadrature, closed forms and the Hessian; parity, divergence, what is refused."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from landscape_kernels.langevin import quadratic_coefficient
from torch import Tensor, nn

import landscape as ls
from landscape.results.summary import result_tables
from landscape.run.comm import SERIAL
from landscape.run.task import ItemStopped
from landscape.studies.llc.losses import ChainLosses
from landscape.studies.llc.measure import llc_task
from landscape.studies.llc.trial import llc_trial

N = 100
NBETA = N / math.log(N)


class Crossing(nn.Module):
    """x prod w_i^p_i, which is singular at w = 0."""

    def __init__(self, powers: tuple[int, ...]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(powers), dtype=torch.float64))
        self.powers = powers

    def forward(self, x: Tensor) -> Tensor:
        scale = x.new_ones(())
        for w, p in zip(self.w, self.powers, strict=True):
            scale = scale * w**p if p else scale
        return x * scale


def crossing_data() -> tuple[Tensor, Tensor]:
    """Pairs that have nothing to do with each other."""
    x, y = torch.randn(2, N, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x * math.sqrt(2), y * 0.5


def crossing(*powers: int) -> ls.Objective:
    """The mean square of what is left of y."""
    return ls.Objective(Crossing(powers), "mse", crossing_data(), check=False)


def by_quadrature(*powers: int, localisation: float = 1.0) -> float:
    """nbeta E[L - L(0)] by sums over a fine grid of w."""
    x, y = (part.numpy() for part in crossing_data())
    axis = np.linspace(-6, 6, 801)
    axes = np.meshgrid(*([axis] * len(powers)), indexing="ij")
    scale = np.prod([w**p for w, p in zip(axes, powers, strict=True)], axis=0)
    rise = NBETA * (np.mean(x * x) * scale**2 - 2 * np.mean(x * y) * scale)
    log = -rise - localisation / 2 * sum(w**2 for w in axes)
    weight = np.exp(log - log.max())
    return float((weight * rise).sum() / weight.sum())


@pytest.mark.parametrize("powers", [(1,), (1, 1), (2, 0)])
def test_singular_models_by_quadrature(powers: tuple[int, ...]) -> None:
    found = ls.measure_llc(crossing(*powers), chains=40, draws=200, seed=1)
    assert found.nbeta == NBETA
    assert (found.burn_in, found.traces.shape) == (200, (40, 400))
    assert found.value == pytest.approx(NBETA * (found.traces[:, 200:].mean() - found.loss), rel=1e-12)
    assert found.localisation == 1
    assert found.stderr < 0.03
    assert abs(found.value - by_quadrature(*powers)) < 3 * found.stderr
    assert 0.6 < found.acceptance.mean() < 0.95
    assert found.loss == pytest.approx(float(crossing_data()[1].square().mean()), rel=1e-12)


def test_powers_of_one_parameter_have_their_exact_value() -> None:
    """Without localisation E[nbeta w^2p] = 1 / 2p at any nbeta (Gibbs)."""
    data = torch.ones(N, 1, dtype=torch.float64), torch.zeros(N, 1, dtype=torch.float64)
    objective = ls.Objective(Crossing((2,)), "mse", data, check=False)
    found = ls.measure_llc(objective, chains=40, draws=150, localisation=0.0)
    assert abs(found.value - 0.25) < 3 * found.stderr < 0.1


def linear(n: int = 64, d: int = 3) -> ls.Objective:
    """Least squares at its minimum, a quadratic form."""
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * torch.tensor([2.0, 1, 0.5])
    y = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    model = nn.Linear(d, 1, bias=False).double()
    model.weight.data = torch.linalg.lstsq(x, y).solution.T.contiguous()
    return ls.Objective(model, "mse", (x, y), check=False)


def eigenvalues(objective: ls.Objective) -> Any:
    x = objective.batch(0)[0]
    return np.linalg.eigvalsh((2 * x.T @ x / len(x)).numpy())


def test_quadratic_form_beside_it_and_bias_of_the_step() -> None:
    objective = linear()
    h, nbeta = eigenvalues(objective), 64 / math.log(64)
    exact = ls.measure_llc(objective, chains=40, draws=200)
    assert exact.quadratic == pytest.approx(quadratic_coefficient(h, nbeta, 1.0), rel=1e-10)
    assert abs(exact.value - exact.quadratic) < 3 * exact.stderr < 0.2
    assert exact.bias == 0
    step = 0.01
    biased = ls.measure_llc(objective, chains=100, draws=200, burn_in=50, method="sgld", step=step)
    by_step = [quadratic_coefficient(h, nbeta, 1.0, s) for s in (step, step / 2)]
    assert abs(biased.per_chain.mean() - by_step[0]) < 3 * biased.per_chain.std() / 10
    half = nbeta * (biased.halved - biased.loss).mean(1)
    assert abs(half.mean() - by_step[1]) < 3 * half.std() / 10
    assert abs(biased.value - exact.quadratic) < 2 * biased.stderr
    assert biased.stderr >= abs(biased.bias) > 0.02
    assert np.isnan(biased.acceptance).all()


@pytest.fixture(scope="module")
def net() -> ls.Objective:
    """A small network with a minimum of its own, in single precision."""
    torch.manual_seed(0)
    x = torch.randn(60, 3)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))
    descent = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-2)
    for _ in range(300):
        descent.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        descent.step()
    return ls.Objective(model, data=(x, y), check=False)


def test_batches_are_found_a_step_and_told_their_bias(net: ls.Objective) -> None:
    before = net.theta
    exact = ls.measure_llc(net, chains=4, draws=200, localisation=5.0)
    noisy = ls.measure_llc(net, chains=3, draws=100, localisation=5.0, batch_size=20)
    assert torch.equal(net.theta, before)
    assert noisy.attributes["method"] == "sgld"
    assert noisy.attributes["batch_size"] == 20
    assert len(set(noisy.steps)) == 3
    assert abs(noisy.value - exact.value) < 3 * math.hypot(noisy.stderr, exact.stderr)
    assert noisy.traces.shape == (3, 200)
    # losses of the first draw are those of the centre to rounding, whatever the batch
    np.testing.assert_allclose(noisy.traces[:, 0], noisy.loss, rtol=1e-6)


def test_chains_side_by_side_are_those_alone(net: ls.Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    """On all data and on batches; items are then some chains each, and a chain is the same among others."""
    sizes, real = list[int](), ChainLosses.side_by_side

    def seen(losses: ChainLosses, theta: Tensor, *others: Any) -> Any:
        sizes.append(len(theta))
        return real(losses, theta, *others)

    monkeypatch.setattr(ChainLosses, "side_by_side", seen)
    for asked in ({"step": 1e-3, "burn_in": 0}, {"step": 1e-3, "burn_in": 0, "batch_size": 7}):
        alone = ls.measure_llc(net, chains=3, draws=16, **asked)
        fewer = ls.measure_llc(net, chains=2, draws=16, **asked)
        np.testing.assert_array_equal(alone.traces[:2], fewer.traces)
        assert llc_task(net, chains=3, draws=16, **asked).chains == [range(1), range(1, 2), range(2, 3)]
        with monkeypatch.context() as patch:
            patch.setattr("landscape.studies.llc.measure._LEAST_STEPS", 0)
            patch.setattr("landscape.studies.llc.measure._MOST_CHAINS", 2)
            together = ls.measure_llc(net, chains=3, draws=16, **asked)
        assert {1, 2} <= set(sizes)  # chains of the items, one of them and two
        sizes.clear()
        np.testing.assert_allclose(alone.traces, together.traces, rtol=1e-4)
        assert not np.array_equal(alone.traces[0], alone.traces[1])


@pytest.mark.parametrize("asked", [{}, {"batch_size": 7}, {"method": "sgld", "step": 1e-3}])
def test_stopped_and_resumed_is_the_undisturbed_run(
    net: ls.Objective, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at every thirteenth step, in the burn-in, after it and in half steps."""
    asked = {"chains": 2, "draws": 16, **asked}
    whole = ls.measure_llc(net, **asked)
    monkeypatch.setattr("landscape.studies.llc.sampler._TOLD", 0)  # asked at every step
    stops, calls, rows = 0, itertools.count(1), []
    while len(rows) < 2:
        task = llc_task(net, tmp_path, **asked)
        task.stopping = lambda: next(calls) % 13 == 0
        try:
            rows.append(task.evaluate(len(rows), SERIAL))
        except ItemStopped:
            stops += 1
    assert stops > 3
    for name, values in (("trace", whole.traces), ("halved", whole.halved), ("step", whole.steps)):
        np.testing.assert_array_equal(np.concatenate([row[name] for row in rows]), values)
    np.testing.assert_array_equal(np.concatenate([row["acceptance"] for row in rows]), whole.acceptance)


def test_the_burn_in_tells_of_slow_chains_but_for_its_beginning() -> None:
    """What one chain has been to in its burn-in alone makes the error larger, and leaves the value as it is."""

    def of(traces: np.ndarray) -> ls.LLC:
        each = np.ones(4)
        return ls.LLC(0.0, 1.0, 1.0, 300, traces, np.zeros((4, 0)), each, each, 0.5, 2, each == 1)

    traces = np.random.default_rng(0).gamma(0.5, size=(4, 600))
    far, early = traces.copy(), traces.copy()
    far[0, 100:160] += 3
    early[:, :60] += 3
    assert of(far).value == of(early).value == of(traces).value
    assert of(early).stderr == of(traces).stderr
    assert of(far).stderr > 3 * of(traces).stderr
    of_draws = traces[:, 300:].std() / math.sqrt(4 * 300)
    assert of_draws < of(traces).stderr < 1.7 * of_draws


def test_conventions_of_devinterp(net: ls.Objective) -> None:
    """All draws in the mean, nbeta and batch of a batch, no localisation."""
    found = ls.measure_llc(net, chains=2, draws=50, step=1e-4, parity="devinterp")
    assert found.nbeta == 32 / math.log(32)
    assert found.localisation == 0
    assert found.burn_in == 0
    assert found.attributes["batch_size"] == 32
    assert found.halved.shape == (2, 0)
    assert found.value == pytest.approx(found.nbeta * (found.traces.mean() - found.loss), rel=1e-12)


def test_chains_that_diverge_are_told_and_left_out() -> None:
    """A quadratic form beyond its largest step; and one chain of several beside others that are well."""
    objective = linear()
    with np.errstate(all="ignore"):
        wild = ls.measure_llc(objective, chains=2, draws=300, method="sgld", step=40.0, burn_in=0)
    assert "not finite" in wild.left_out[0]
    assert math.isnan(wild.value)
    assert "no chain is left; give a smaller step" in wild.verdict
    assert not wild.believable
    stiff = 64 / math.log(64) * eigenvalues(objective)[-1] + 1
    slow = ls.measure_llc(objective, chains=2, draws=40, method="sgld", step=4.2 / stiff, burn_in=100)
    assert "it diverged: nbeta (loss - loss at the centre) is" in slow.left_out[0]
    still = ls.measure_llc(objective, chains=2, draws=40, step=1e6, burn_in=0)
    assert "the chains did not move" in still.verdict
    tables = str([table.rows for table in result_tables(slow, "slow")])
    assert "left out: it diverged" in tables


class Weights(nn.Module):
    """Its own weights, whatever the inputs are."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), -1)


def test_a_loss_that_rises_linearly_leaves_no_chain_out() -> None:
    """nbeta E|w| is 1 exactly, about which the means of chains lie."""
    data = torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.float64)
    objective = ls.Objective(Weights(0.0), lambda w, _: w.abs().sum(1), data, check=False)
    found = ls.measure_llc(objective, chains=16, draws=500, nbeta=100.0, localisation=0.0)
    assert not found.left_out
    assert (found.per_chain > 1).any()
    assert abs(found.value - 1) < 3 * found.stderr < 0.15


def test_chains_that_are_above_what_a_minimum_gives_are_not_believed() -> None:
    """A narrow minimum in a plain: chains are drawn to the plain, where nbeta (loss - loss there) is 3."""
    data = torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.float64)
    objective = ls.Objective(Weights(0.0), lambda w, _: 1 - torch.exp(-0.5 * (20 * w[:, 0]) ** 2), data, check=False)
    found = ls.measure_llc(objective, chains=4, draws=1000, nbeta=3.0, localisation=1e-2, step=1.0)
    assert not found.left_out
    assert "it is above 1, more than a minimum of so many parameters gives" in found.verdict


def test_what_is_not_to_be_believed_says_why(net: ls.Objective) -> None:
    few = ls.measure_llc(net, chains=2, draws=40, localisation=5.0, step=1e-6)
    assert "fewer than 50" in few.verdict
    assert few.r_hat > 1.05
    assert "R-hat" in few.verdict
    assert "not to be believed" in repr(few)
    uphill = linear()
    moved = ls.Objective(nn.Linear(3, 1, bias=False).double(), "mse", uphill.batch(0), check=False)
    below = ls.measure_llc(moved, chains=4, draws=100)
    assert below.value < 0
    assert "the centre is no minimum" in below.verdict
    good = ls.measure_llc(uphill, chains=20, draws=200)
    assert good.believable
    assert good.verdict.startswith("to be believed: R-hat 1.0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chains": 0}, "chains=0; give a whole number of 1 or more"),
        ({"draws": 3}, "draws=3; give a whole number of 16 or more"),
        ({"nbeta": 0.0}, "nbeta=0.0; give a finite number above 0"),
        ({"step": -1.0}, "step=-1.0; give a finite number above 0"),
        ({"localisation": math.inf}, "localisation=inf"),
        ({"method": "hmc"}, "method='hmc'; give one of mala, sgld"),
        ({"method": "mala", "batch_size": 8}, "needs the loss of all data at every step"),
        ({"burn_in": 0}, "burn_in=0 without a step"),
        ({"parity": "devinterp"}, "needs step=, its lr"),
        ({"parity": "devinterp", "step": 1e-3, "burn_in": 5}, "takes all draws in"),
        ({"parity": "devinterp", "step": 1e-3, "method": "mala"}, "runs SGLD"),
        ({"ranks_per_item": 2}, "ranks_per_item=2"),
        ({"nbeta": "auto"}, "nbeta='auto'; give a finite number above 0, or leave it out"),
    ],
)
def test_refused(net: ls.Objective, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ls.InputError, match=said):
        ls.measure_llc(net, **change)


def test_a_check_refuses_what_a_run_does(net: ls.Objective, tmp_path: Path) -> None:
    with pytest.raises(ls.InputError, match="ranks_per_item=2"):
        llc_trial(net, {}, tmp_path, 2)
    said = llc_trial(net, {"chains": 1, "draws": 20}, tmp_path, 1).said
    assert "s for one chain" in said["steps"]


def test_data_and_centres_that_cannot_be() -> None:
    with pytest.raises(ls.InputError, match="a model without loss and data"):
        ls.measure_llc(nn.Linear(2, 2))  # type: ignore[arg-type]
    one = ls.Objective(nn.Linear(2, 2), data=(torch.ones(1, 2), torch.zeros(1, dtype=torch.long)))
    with pytest.raises(ls.InputError, match="one sample gives none; say nbeta="):
        ls.measure_llc(one)
    batches = [(torch.ones(4, 2), torch.zeros(4, dtype=torch.long)), (torch.zeros(3, 2), torch.ones(3).long())]
    fixed = ls.Objective(nn.Linear(2, 2), data=batches, forward=lambda m, b: (m(b[0]), b[1]))
    with pytest.raises(ls.InputError, match="draws single samples, and there are none"):
        ls.measure_llc(fixed, batch_size=2)
    broken = nn.Linear(2, 2)
    broken.weight.data.fill_(math.inf)
    with pytest.raises(ls.InputError, match="the loss at the centre is nan"):
        ls.measure_llc(ls.Objective(broken, data=(torch.ones(4, 2), torch.zeros(4, dtype=torch.long)), check=False))
