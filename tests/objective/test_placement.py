"""Models used where they lie: spread over devices, offloaded by hooks, sharded; against the same model in one place."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import landscape_kernels.pieces as cutting
import numpy as np
import pytest
import torch
from conftest import RunMpi
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import landscape as ls
from landscape.errors import InputError

GRID: dict[str, Any] = {"x": (-1, 1, 3), "y": (-0.5, 1, 2)}
ELSEWHERE = torch.device("cuda", 1)


class Far(Tensor):
    """A tensor that says it is on another device and holds its values here; no operation mixes it with others."""

    inner: Tensor
    device = ELSEWHERE  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype
        )
        made.inner = inner
        found: Far = made
        return found

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def cpu(self) -> Tensor:
        return self.inner.clone()

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        here = torch.device("cpu") in args
        known = [arg for arg in args if arg not in (torch.device("cpu"), ELSEWHERE)]
        moved = self.inner.to(*known, **kwargs) if known or kwargs else self.inner
        return moved.clone() if here else self if moved is self.inner else Far(moved)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        near = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and not isinstance(t, Far) and t.ndim]
        assert not near or function is torch.ops.aten.copy_.default, f"{function} meets tensors of two devices"
        found = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if function._schema.is_mutable:
            return kwargs.get("out", args[0])
        return tree_map(lambda t: Far(t) if isinstance(t, Tensor) else t, found)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Far) else value


class Moving(TorchFunctionMode):
    """What is sent to the other device becomes Far."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.to and not isinstance(args[0], Far) and ELSEWHERE in args[1:2]:
            return Far(args[0].to(*args[2:]) if args[2:] else args[0])
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _in_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Moving` is of the thread that enters it: what is given to another one is done here."""

    def submit(_: object, work: Callable[..., Any], *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*given))
        return done

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", submit)


class Two(nn.Module):
    """Two halves, the second of which may be elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.last.bias.requires_grad_(False)
        self.register_buffer("shift", torch.full((8,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        h = h.to(ELSEWHERE) if isinstance(self.second.weight, Far) else h
        found: Tensor = self.last(torch.tanh(self.second(h)) + self.shift)
        return found


def spread(model: nn.Module | None = None) -> nn.Module:
    model = model or Two()
    for layer in map(model.get_submodule, ("second", "last")):
        for name, parameter in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(Far(parameter.detach()), requires_grad=parameter.requires_grad))
    model.shift = Far(model.shift)
    return model


def offloaded(model: nn.Module | None = None) -> nn.Module:
    accelerate = pytest.importorskip("accelerate")
    found: nn.Module = accelerate.cpu_offload(model or Two(), execution_device="cpu")
    return found


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 6, generator=generator), torch.randint(3, (40,), generator=generator)


def measured(model: nn.Module, **more: Any) -> tuple[bytes, dict[str, Any]]:
    """Bits of the losses, and the objective's identity without the model's text."""
    objective = ls.Objective(model, data=data(), **more)
    plane = ls.random_plane(objective, seed=3)
    found = ls.measure_surface(objective, plane, **GRID)
    known = {k: v for k, v in objective.identity().items() if k != "structure"}
    at = float(objective.evaluate(objective.theta + 0.5)["loss"])
    through = ls.plane_through(objective, [objective.theta, objective.theta + 1])
    line = ls.measure_surface(objective, through, x=GRID["x"])
    assert line.points is not None
    values = [found.values["loss"], line.values["loss"], line.points.true["loss"], np.array([at])]
    return b"".join(part.tobytes() for part in values), known


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few values."""
    monkeypatch.setattr(cutting, "PIECE", 16)


@pytest.mark.parametrize("made", [spread, offloaded])
@pytest.mark.parametrize("stored", [True, False])
def test_values_are_those_of_the_model_in_one_place(
    made: Callable[[], nn.Module], stored: bool, tmp_path: Path
) -> None:
    whole = Two()
    save_file(dict(whole.state_dict()), tmp_path / "model.safetensors")
    with Moving():
        model = made()
        answers = model(data()[0]).cpu()
        before = dict(model.named_parameters())
        found = measured(model, checkpoint=tmp_path / "model.safetensors" if stored else None, device="cpu")
        assert found == measured(whole)
        assert all(p is before[name] for name, p in model.named_parameters())
        assert torch.equal(model(data()[0]).cpu(), answers)
        assert torch.equal(answers, whole(data()[0]))


def test_half_precision_is_measured_in_its_own() -> None:
    whole = ls.Objective(Two().bfloat16(), data=data(), precision="own")
    expected = ls.measure_surface(whole, ls.random_plane(whole, seed=3), **GRID)
    with Moving():
        for made in (spread, offloaded):
            objective = ls.Objective(made(Two().bfloat16()), data=data(), device="cpu")
            assert objective.precision == "own"
            found = ls.measure_surface(objective, ls.random_plane(objective, seed=3), **GRID)
            assert found.values["loss"].tobytes() == expected.values["loss"].tobytes()
    # hooks bring parameters in as they are, so of these it stays unknown, and says so
    assert np.isnan(found.attributes["precision_error_relative"])


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(torch.tanh(self.first(x)))
        return found


def test_tied_weights_that_are_offloaded_are_one() -> None:
    whole, model = ls.Objective(Tied(), data=data()), offloaded(Tied())
    model(data()[0])  # hooks have made two parameters of it by now
    apart = ls.Objective(model, data=data())
    assert apart.layout.names == whole.layout.names
    surfaces = [ls.measure_surface(o, ls.random_plane(o, seed=1), **GRID).values["loss"] for o in (whole, apart)]
    assert surfaces[0].tobytes() == surfaces[1].tobytes()


def test_interrupted_it_has_its_own_weights() -> None:
    model, measuring = offloaded(), False
    answers = model(data()[0])

    def stops(module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if measuring:
            assert not torch.equal(module(batch[0]), answers)
            module.get_submodule("second").register_forward_pre_hook(_interrupt)
        return module(batch[0]), batch[1]

    objective = ls.Objective(model, data=[data()], forward=stops)
    plane = ls.random_plane(objective, seed=3)
    measuring = True
    with pytest.raises(KeyboardInterrupt):
        ls.measure_surface(objective, plane, **GRID)
    model.get_submodule("second")._forward_pre_hooks.clear()
    assert all(p.device.type == "meta" for p in model.parameters())
    assert torch.equal(model(data()[0]), answers)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    with pytest.raises(InputError, match=r"first.weight is torch.float32, and the precision asked for torch.float64"):
        ls.Objective(offloaded(), data=data(), precision="float64")
    with pytest.raises(InputError, match=r"first.weight is offloaded to the disk.*max_memory"):
        ls.Objective(accelerate.disk_offload(Two(), tmp_path, execution_device="cpu"), data=data())
    with pytest.raises(InputError, match=r"buffer shift is on the meta device.*offload_buffers=False"):
        ls.Objective(accelerate.cpu_offload(Two(), execution_device="cpu", offload_buffers=True), data=data())
    objective = ls.Objective(offloaded(), data=data())
    with pytest.raises(InputError, match=r"derivatives.*offloaded or sharded.*load it whole"):
        ls.measure_spectrum(objective, k=1)
    with pytest.raises(InputError, match=r"derivatives.*offloaded or sharded.*load it whole"):
        ls.critical_sharpness(objective)
    with torch.no_grad():
        weights = objective._model.placement.home("second.weight").values  # type: ignore[union-attr]
    objective.identity()
    weights.add_(1.0)  # as nobody may, unseen by torch's counting
    with pytest.raises(InputError, match=r"changed after the objective was made"):
        objective.identity()


def test_sharded_over_two_processes(run_mpi: RunMpi, tmp_path: Path) -> None:
    assert run_mpi(2, "sharded_cases.py", tmp_path).returncode == 0
