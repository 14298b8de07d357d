"""Eigenpairs with vectors in a file, against those with vectors in memory."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from landscape_jobs.demo import digits
from landscape_kernels.filed import FiledVectors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import landscape as ls
from landscape.curvature.filed import FiledProducts, check_filed
from landscape.studies.spectrum import filed
from landscape.studies.spectrum.trial import spectrum_trial

ALONE: dict[str, Any] = {"trace": False, "density": False}


@pytest.fixture(scope="module")
def objective() -> ls.Objective:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 5))
    return ls.Objective(net, data=(torch.randn(90, 12), torch.randint(5, (90,))))  # the last chunk is a short one


def test_values_errors_and_vectors_are_those_of_vectors_in_memory(objective: ls.Objective, tmp_path: Path) -> None:
    own = objective.theta
    asked: dict[str, Any] = {"k": 2, "smallest": 1, "tol": 1e-5, "weight_decay": 0.1, **ALONE}
    flat = ls.measure_spectrum(objective, memory="flat", **asked)
    streamed = ls.measure_spectrum(objective, memory="streamed", out=tmp_path / "run", **asked)
    for one, other in ((flat.largest, streamed.largest), (flat.smallest, streamed.smallest)):
        assert other.values == pytest.approx(one.values, rel=1e-6)
        assert other.converged.all()
        assert (other.residuals < 1e-5).all()
        assert other.stderr == pytest.approx(one.stderr, rel=1e-3)
        assert other.bias == pytest.approx(one.bias, rel=0.2)  # as far as the rest of the spectrum is known to both
    assert flat.largest.vectors is not None
    for number in range(2):
        stored = load_file(tmp_path / "run" / "eigenpairs" / f"largest-{number + 1}.safetensors")
        vector = torch.cat([stored[name].reshape(-1) for name in objective.layout.names])
        assert abs(float(vector.double() @ torch.from_numpy(flat.largest.vectors[number]))) == pytest.approx(
            1, abs=1e-6
        )
    assert "not known" in streamed.completeness
    assert np.isnan(streamed.largest.rounding).all()
    again = ls.open(tmp_path / "run")
    assert isinstance(again, ls.Spectrum)
    assert np.array_equal(again.eigenvalues, streamed.eigenvalues)
    assert torch.equal(objective.theta, own)


def test_a_killed_run_goes_on_to_the_same_bits(
    objective: ls.Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ls.measure_spectrum(objective, k=1, memory="streamed", **ALONE)
    monkeypatch.setattr(filed, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(filed, "_SAVE_SHARE", 0.0)
    multiply, made = FiledProducts.multiply, []

    def dying(self: FiledProducts, row: int, to: int) -> None:
        made.append(row)
        if len(made) == 8:
            raise SystemExit(9)
        multiply(self, row, to)

    known = check_filed(objective)
    monkeypatch.setattr(filed, "check_filed", lambda _: known)
    monkeypatch.setattr(FiledProducts, "multiply", dying)
    with pytest.raises(SystemExit):
        ls.measure_spectrum(objective, k=1, memory="streamed", out=tmp_path / "run", **ALONE)
    assert len(made) == 8
    resumed = ls.measure_spectrum(objective, k=1, memory="streamed", out=tmp_path / "run", **ALONE)
    assert len(made) == whole.products  # one was lost, and that with the eigenvector is made elsewhere
    assert np.array_equal(resumed.eigenvalues, whole.eigenvalues)
    assert np.array_equal(resumed.residuals, whole.residuals)
    assert not (tmp_path / "run" / "eigenpairs" / filed.FILED).exists()


def test_large_models_are_streamed_where_that_is_all_that_is_asked(
    objective: ls.Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = check_filed(objective)
    monkeypatch.setattr(filed, "check_filed", lambda _: known)
    asked = filed.SpectrumSettings
    assert not filed.is_streamed(objective, asked(k=1, **ALONE), False)
    monkeypatch.setattr(filed, "LARGE", 1)
    assert filed.is_streamed(objective, asked(k=1, **ALONE), False)
    for other in (asked(k=1), asked(k=1, operator="ggn", **ALONE), asked(k=1, memory="flat", **ALONE)):
        assert not filed.is_streamed(objective, other, False)
    assert not filed.is_streamed(objective, asked(k=1, **ALONE), True)
    with pytest.raises(ls.InputError, match="trace, density, block"):
        ls.measure_spectrum(objective, k=1, block=2, memory="streamed")
    told = spectrum_trial(objective, {"k": 1, **ALONE}, tmp_path / "run", 1).said
    assert "in a file" in told["vectors"]
    assert "4 copies" in told["memory beside the model"]
    monkeypatch.setattr(filed.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(ls.InputError, match=r"10 bytes|0.00977 KiB"):
        ls.measure_spectrum(objective, k=1, **ALONE)


class _Square(torch.autograd.Function):
    """x^2 whose derivative is wrong by `factor`, or has none of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, dead: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.how = factor, dead
        return x**2

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (x,), (factor, dead) = ctx.saved_tensors, ctx.how
        return factor * 2 * (x.detach() if dead else x) * slopes[0], None, None


class _Net(nn.Module):
    def __init__(self, factor: float, dead: bool) -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Linear(4, 6), nn.Linear(6, 2), (factor, dead)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(_Square.apply(self.first(x), *self.how))  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize(
    ("factor", "dead", "told"), [(1.0, False, ""), (1.0, True, "off"), (1.5, False, "the gradient")]
)
def test_products_that_are_wrong_are_refused(factor: float, dead: bool, told: str) -> None:
    torch.manual_seed(0)
    net = _Net(factor, dead)
    of = ls.Objective(net, "mse", (torch.randn(8, 4), torch.randn(8, 2)))
    if not told:
        check = check_filed(of)
        assert max(check.symmetry, check.difference, check.parts) < 1e-5
        return
    with pytest.raises(ls.InputError, match=told):
        check_filed(of)


def test_samples_that_depend_on_each_other_are_refused() -> None:
    class Centred(nn.Linear):
        share = 0.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - self.share * x.mean(0)) ** 2

    net = Centred(4, 2)
    of = ls.Objective(net, "mse", (torch.randn(8, 4), torch.randn(8, 2)))
    check_filed(of)
    net.share = 0.5
    with pytest.raises(ls.InputError, match="depend on the other samples"):
        check_filed(of)


def test_parameters_of_which_the_loss_has_no_second_derivative() -> None:
    """Their part of a product is that of the weight decay alone."""

    class Shifted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 1)
            self.shift, self.unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2 + (x[:, :2] @ self.shift)[:, None]

    torch.manual_seed(0)
    x = torch.randn(30, 3)
    objective = ls.Objective(Shifted(), lambda out, _: out.flatten(), (x, x[:, 0]), chunk=8)
    v, rows = torch.randn(objective.layout.size), FiledVectors(objective.layout.size)
    rows.write(0, slice(0, len(v)), v)
    with FiledProducts(objective, rows, weight_decay=0.5) as H:
        H.multiply(0, 1)
        found = H.forms([0], [], 2)
    block = {b.name: v[b.slice] for b in objective.layout.blocks}
    slopes = torch.cat([x, torch.ones(30, 1)], 1)  # the Hessian is 2 x'x / n, with a column of ones for the bias
    inner = 2 * slopes.T @ (slopes @ torch.cat([block["weight"], block["bias"]])) / 30
    parts = {"weight": inner[:3], "bias": inner[3:], "shift": torch.zeros(2), "unused": torch.zeros(4)}
    expected = torch.cat([parts[name] for name in objective.layout.names]) + 0.5 * v
    torch.testing.assert_close(rows.read(1, slice(0, len(v))), expected, rtol=1e-5, atol=1e-6)
    assert found.lengths[0] == pytest.approx(float(expected.square().sum()), rel=1e-5)
    assert found.forms.sum() / 30 == pytest.approx(float(v @ expected), rel=1e-5)


def test_a_model_that_was_written_to_is_refused(tmp_path: Path) -> None:
    """Also where torch does not count it, before products are compared with differences of what the file holds."""
    net = nn.Linear(4, 3)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    of = ls.Objective(net, data=(torch.randn(8, 4), torch.arange(8) % 3), checkpoint=tmp_path / "net.safetensors")
    net.weight.data.mul_(2)
    with pytest.raises(ls.InputError, match="changed after the objective was made"):
        ls.measure_spectrum(of, k=1, memory="streamed", **ALONE)


@pytest.mark.parametrize("memory", ["stream", 4])
def test_another_way_to_keep_vectors_is_refused(objective: ls.Objective, memory: Any) -> None:
    with pytest.raises(ls.InputError, match=f"memory={memory!r}; give one of streamed, flat, or leave it out"):
        ls.measure_spectrum(objective, k=1, memory=memory, **ALONE)


@pytest.fixture(scope="module")
def trained() -> ls.Objective:
    """An MLP of the digits after some steps, so that few eigenvalues are large."""
    inputs, targets = (part[:200] for part in digits())
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return ls.Objective(net, data=(inputs, targets))


def test_vectors_in_bf16_find_the_eigenvalues_of_the_dense_hessian(trained: ls.Objective, tmp_path: Path) -> None:
    net, (inputs, targets) = copy.deepcopy(trained.folded()).double(), (part[:200] for part in digits())
    shapes = [block.shape for block in trained.layout.blocks]

    def loss(theta: Tensor) -> Tensor:
        parts = theta.split([math.prod(shape) for shape in shapes])
        named = {n: p.view(s) for n, p, s in zip(trained.layout.names, parts, shapes, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(net, named, (inputs.double(),)), targets)

    dense = torch.func.hessian(loss)(trained.theta.double())
    right = torch.linalg.eigvalsh(dense).flip(0)
    exact = ls.measure_spectrum(trained, k=4, memory="streamed", vectors="float32", **ALONE)
    short = ls.measure_spectrum(trained, k=4, memory="streamed", vectors="bf16", out=tmp_path / "run", **ALONE)
    assert short.largest.converged.all()
    for number in range(4):
        stored = load_file(tmp_path / "run" / "eigenpairs" / f"largest-{number + 1}.safetensors")
        y = torch.cat([stored[name].reshape(-1) for name in trained.layout.names]).double()
        value = float(y @ dense @ y) / float(y @ y)
        residual = float((dense @ y - value * y).norm())
        # what is told is what the vector that is returned has
        assert short.eigenvalues[number] == pytest.approx(value, rel=1e-5)
        assert short.residuals[number] * value == pytest.approx(residual, rel=0.01)
        gap = min(abs(float(right[other]) - value) for other in range(len(right)) if other != number)
        assert abs(value - float(right[number])) <= residual**2 / gap + 1e-5 * value
    assert short.eigenvalues == pytest.approx(exact.eigenvalues, rel=1e-4)
    assert not np.array_equal(short.eigenvalues, exact.eigenvalues)


def test_what_bf16_cannot_reach_is_told_with_the_way_out(
    trained: ls.Objective, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: dict[str, Any] = {"k": 1, "tol": 1e-5, "memory": "streamed", **ALONE}
    found = ls.measure_spectrum(trained, vectors="bf16", out=tmp_path / "run", **asked)
    assert found.completeness == "one value an end, which has no copies before it"
    assert not found.largest.converged.any()
    assert 1e-5 < found.residuals[0] < 2e-3
    assert found.products < 100
    assert "give vectors='float32'" in caplog.text
    with pytest.raises(ls.InputError, match="vectors"):
        ls.measure_spectrum(trained, out=tmp_path / "run", **asked)


def test_the_type_of_vectors_is_told_and_refused_where_there_is_no_file(
    trained: ls.Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = check_filed(trained)
    monkeypatch.setattr(filed, "check_filed", lambda _: known)
    sizes = {}
    for kind in (None, "bf16"):
        asked = filed.SpectrumSettings(k=1, memory="streamed", vectors=kind, **ALONE)
        task = filed.FiledEigenTask(trained, asked, tmp_path)
        sizes[kind] = task.file_bytes
        assert ("bf16" if kind else "float32") in task.memory["vectors"]
    assert sizes[None] == 46 * 4 * trained.layout.size
    assert sizes["bf16"] == (40 * 2 + 9 * 4) * trained.layout.size
    with pytest.raises(ls.InputError, match="memory='streamed' with trace=False"):
        ls.measure_spectrum(trained, k=1, vectors="bf16")
    with pytest.raises(ls.InputError, match="give one of float32, bf16"):
        ls.measure_spectrum(trained, k=1, memory="streamed", vectors="fp8", **ALONE)


class _Branches(nn.Module):
    """Blocks with two layers, of which the last block's second one goes nowhere."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tanh(self.first(x)), torch.sin(self.second(x))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([self.Both(), self.Both()])

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.blocks[0](x)
        first: Tensor = self.blocks[1](left * right)[0]
        return first[:, :3]


def test_layers_without_a_gradient_in_blocks_that_are_computed_again() -> None:
    data = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3
    asked: dict[str, Any] = {"k": 2, "tol": 1e-4, "memory": "streamed", **ALONE}
    again = ls.measure_spectrum(ls.Objective(_Branches(), data=data, recompute=True), **asked)
    plain = ls.measure_spectrum(ls.Objective(_Branches(), data=data), **asked)
    assert again.eigenvalues == pytest.approx(plain.eigenvalues, rel=1e-5)
