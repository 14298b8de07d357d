"""Spectra where the data, the model or the arguments are out of the ordinary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import landscape as ls
from landscape.compat import PyHessian
from landscape.curvature.sampling import importance

INPUTS = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(1))


def tanh_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def pairs(objective: ls.Objective, **settings: object) -> ls.Spectrum:
    return ls.measure_spectrum(objective, 2, trace=False, density=False, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_the_objective_keeps_its_centre_when_the_model_is_trained_on(precision: str) -> None:
    net = tanh_net()
    objective = ls.Objective(net, data=(INPUTS, TARGETS), precision=precision)
    before = pairs(objective).eigenvalues
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    np.testing.assert_allclose(pairs(objective).eigenvalues, before, rtol=1e-5)


def test_weight_decay_has_no_sampling_error() -> None:
    objective = ls.Objective(tanh_net(), data=(INPUTS, TARGETS), precision="float64")
    plain, shifted = (pairs(objective, tol=1e-8, weight_decay=w).largest for w in (0.0, 10.0))
    np.testing.assert_allclose(shifted.values, plain.values + 10, rtol=1e-7)
    np.testing.assert_allclose(shifted.stderr, plain.stderr, rtol=1e-4)
    # further Ritz vectors differ a little between the two runs
    np.testing.assert_allclose(shifted.bias, plain.bias, rtol=0.3)


def test_errors_do_not_depend_on_the_order_of_the_data() -> None:
    order = torch.argsort(TARGETS)
    mixed, sorted_ = (
        ls.Objective(tanh_net(), data=data, precision="float64")
        for data in ((INPUTS, TARGETS), (INPUTS[order], TARGETS[order]))
    )
    for a, b in zip(pairs(mixed).eigenvalue_stderr, pairs(sorted_).eigenvalue_stderr, strict=True):
        assert 0.5 < a / b < 2  # two estimates from 15 chunks each


def test_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = ls.Objective(tanh_net(), data=(INPUTS, TARGETS))

    def never(*_: object) -> Tensor:
        raise AssertionError("computed before the arguments were looked at")

    monkeypatch.setattr(ls.CurvatureOperator, "apply", never)
    for settings, message in (
        ({"trace_tol": 2}, "trace_tol=2"),
        ({"density_probes": 0}, "density_probes=0"),
        ({"density_steps": -1}, "density_steps=-1"),
        ({"k": 2, "smallest": 2, "params": "2.bias"}, "3 eigenvalues in all"),
        ({"theta": torch.full((57,), torch.nan)}, "57 values that are NaN"),
    ):
        with pytest.raises(ls.InputError, match=message):
            ls.measure_spectrum(objective, **settings)  # type: ignore[arg-type]


def test_nan_in_the_data_stops_the_exact_trace() -> None:
    inputs = INPUTS.clone()
    inputs[20] = torch.nan
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(ls.LandscapeError, match="not finite for sample 20"):
        ls.measure_spectrum(ls.Objective(net, data=(inputs, TARGETS)), k=0, density=False)


def test_random_state_is_the_callers_when_data_are_streamed() -> None:
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=20)
    objective = ls.Objective(tanh_net(), data=loader, memory_budget=10)
    state = torch.get_rng_state()
    pairs(objective)
    assert torch.equal(torch.get_rng_state(), state)


def test_importance_of_many_classes_takes_one_forward_pass() -> None:
    """1 - sum_c p_c^2 without a factor of the output Hessian, which has 2,000^2 numbers a sample here."""
    net = nn.Linear(5, 2000)
    objective = ls.Objective(net, data=(INPUTS, TARGETS))
    q, total = importance(objective)
    p = net(INPUTS).softmax(1)
    weight = 1 - (p**2).sum(1)
    expected = 0.8 * weight / weight.sum() + 0.2 / 60
    np.testing.assert_allclose(q, expected.detach().numpy(), rtol=1e-5)
    assert total == 60


def test_a_linear_along_another_axis_than_the_norm() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm, self.last = nn.Linear(5, 6), nn.BatchNorm1d(4), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.linear(x)).relu().flatten(1))

    inputs = torch.randn(60, 4, 5)
    net = Net()
    objective = ls.Objective(net, data=(inputs, TARGETS))
    expected = nn.functional.cross_entropy(net.eval()(inputs), TARGETS)
    assert float(objective.evaluate()["loss"]) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_pyhessian_returns_when_all_eigenvalues_are_asked_for() -> None:
    hessian = PyHessian(tanh_net(), nn.CrossEntropyLoss(), data=(INPUTS, TARGETS), cuda=False)
    values, vectors = hessian.eigenvalues(top_n=50, tol=1e-4, maxIter=200)
    assert len(values) == len(vectors) == 50
    assert np.all(np.diff(np.abs(values)) <= 1e-6)


def test_a_later_call_keeps_the_trace(tmp_path: object) -> None:
    objective = ls.Objective(tanh_net(), data=(INPUTS, TARGETS))
    out = f"{tmp_path}/run"
    first = ls.measure_spectrum(objective, 2, density=False, out=out)
    again = pairs(objective, out=out)
    assert again.trace == first.trace
    stored = ls.open(f"{out}/landscape.h5")
    assert isinstance(stored, ls.Spectrum)
    assert stored.trace is not None
    assert first.trace is not None
    assert stored.trace.value == first.trace.value


def test_a_loss_that_is_convex_at_the_first_samples_alone_has_a_trace() -> None:
    """Whether per-sample gradients give the trace is asked of every sample; the way that needs no factors is taken."""
    torch.manual_seed(0)
    net, x = nn.Linear(3, 1).double(), torch.randn(40, 3, dtype=torch.float64)
    bent = torch.where(torch.arange(40) < 30, 1.0, -0.5).double()[:, None]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (targets * outputs.square()).flatten(1).sum(1)

    objective = ls.Objective(net, loss=loss, data=(x, bent))
    found = ls.measure_spectrum(objective, k=1, density=False, block=1).trace
    rows = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1)
    assert found is not None
    assert found.method not in ("exact", "split", "sampled")
    right = float((2 * bent * rows.square()).sum(1).mean())
    assert abs(found.value - right) < 4 * found.stderr_probes + 1e-6 * right
