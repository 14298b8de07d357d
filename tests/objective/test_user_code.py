"""What the user's own code raises, of any class, is an InputError with shapes and cause; what it draws is undone."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

import landscape as ls
from landscape.errors import InputError, UserCodeError, raised_by, user_code
from landscape.objective.described import describe_callable
from landscape.objective.gate import of_objective

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3


def net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


class OddError(Exception):
    """A class that no list of classes would hold."""


class EndError(StopIteration):
    """A class that Python itself takes for the end of a generator."""


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def raising(error: Exception) -> Callable[..., Any]:
    def raises(*_given: Any) -> Any:
        raise error

    return raises


class Raising(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.inner, self.error = nn.Linear(4, 3), error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


class Reading(Dataset[Any]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        raise self.error


class Iterating:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __iter__(self) -> Any:
        yield X, Y
        raise self.error


PLACES: dict[str, tuple[Callable[[Exception], Any], str]] = {
    "model": (lambda e: ls.Objective(Raising(e), data=(X, Y)), r"the model .*float32 \(16, 4\), int64 \(16,\)"),
    "forward": (lambda e: ls.Objective(net(), None, (X, Y), forward=raising(e)), r"forward .*float32 \(20, 4\)"),
    "loss": (lambda e: ls.Objective(net(), raising(e), (X, Y)), r"outputs float32 \(20, 3\); targets int64 \(20,\)"),
    "metric": (
        lambda e: ls.Objective(net(), data=(X, Y), metrics={"m": raising(e)}),
        r"outputs float32 \(20, 3\); targets int64 \(20,\)",
    ),
    "dataset": (lambda e: ls.Objective(net(), data=Reading(e)), "sample 0 of the Reading cannot be read"),
    "batches": (lambda e: ls.Objective(net(), data=Iterating(e)), "batch 1 of the data .Iterating. cannot be made"),
    "batch_size": (
        lambda e: ls.Objective(net(), None, (X, Y), forward=lambda m, b: m(b[0]).mean(), batch_size=raising(e)),
        "batch_size=, called with a batch",
    ),
}
KINDS = (ValueError, KeyError, AttributeError, AssertionError, TypeError, OddError, RuntimeError, StopIteration)
ERRORS = [kind("odd") for kind in (*KINDS, EndError, StopAsyncIteration)]


@pytest.mark.parametrize("place", PLACES)
def test_any_class_of_error_is_told_with_what_met(place: str) -> None:
    call, says = PLACES[place]
    for error in ERRORS:
        with pytest.raises(InputError, match=says) as caught:
            call(error)
        assert caught.value.__cause__ is error
        assert f"{type(error).__name__}: " in str(caught.value)
        assert "test_user_code.py, line" in str(caught.value)


@pytest.mark.parametrize("place", PLACES)
def test_the_end_of_a_generator_is_told_wherever_it_is_raised(place: str) -> None:
    call, says = PLACES[place]
    with pytest.raises(UserCodeError, match=f"{says}.*GeneratorExit: without a message"):
        call(GeneratorExit())  # type: ignore[arg-type]


@pytest.mark.parametrize("place", PLACES)
def test_an_error_that_cannot_say_what_it_is_is_told(place: str) -> None:
    call, says = PLACES[place]
    with pytest.raises(UserCodeError, match=f"{says}.*SpeechlessError: it cannot say what .* raises ValueError"):
        call(SpeechlessError())


def test_a_cause_is_told_of_errors_that_have_no_text_or_are_their_own_cause() -> None:
    def caught(error: Exception, cause: Exception) -> Exception:
        try:
            raise error from cause
        except Exception as found:
            return found

    own, other = OddError("own"), OddError("other")
    assert raised_by(caught(own, own)).startswith("OddError: own, in `raise error from cause` (test_user_code.py")
    other.__cause__ = own
    assert raised_by(caught(own, other)).startswith("OddError: other")
    assert raised_by(caught(own, SpeechlessError())).startswith("SpeechlessError: it cannot say what it is")


def test_the_end_of_a_generator_is_told_and_that_of_the_program_goes_through() -> None:
    def ended() -> Any:
        yield next(iter([]))

    with pytest.raises(UserCodeError, match="it: GeneratorExit: stop"), user_code("it"):
        raise GeneratorExit("stop")
    with pytest.raises(UserCodeError, match="it: StopIteration: without a message"), user_code("it"):
        list(ended())
    for error in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)), user_code("it"):
            raise error


class Short(Dataset[Any]):
    """Raises what ends an iteration at a sample in the middle."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> Any:
        return (X[i], Y[i]) if i != 13 else next(iter([]))


class Flow(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


def collated(samples: list[Any]) -> Any:
    return default_collate(samples if len(samples) == 8 else next(iter([])))


@pytest.mark.parametrize("case", ["data set", "collate", "collate of a flow"])
def test_a_loader_does_not_end_where_its_data_raise(case: str) -> None:
    """What `next()` raises in user code ends a loader without a word, and the samples after it would be missing."""
    loader = {
        "data set": lambda: DataLoader(Short(), batch_size=8),
        "collate": lambda: DataLoader(TensorDataset(X, Y), batch_size=8, collate_fn=collated),
        "collate of a flow": lambda: DataLoader(Flow(), batch_size=8, collate_fn=collated),
    }[case]()
    with pytest.raises(UserCodeError, match=r"batch [12] of the data \(DataLoader\) cannot be made: StopIteration"):
        ls.Objective(net(), data=loader)


class Counting:
    """Batches of numbers of samples, which end as an iterator of one's own does."""

    def __iter__(self) -> Any:
        self.left = 3
        return self

    def __next__(self) -> list[int]:
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return [self.left, self.left + 5]


def test_loaders_end_where_their_data_do() -> None:
    for loader, samples in (
        (DataLoader(TensorDataset(X, Y), batch_sampler=Counting()), 6),
        (DataLoader(TensorDataset(X, Y), batch_size=8, drop_last=True), 16),
        (DataLoader(Flow(), batch_size=8), 20),
        (Flow(), 20),
    ):
        assert ls.Objective(net(), data=loader).samples == samples


def test_on_takes_data_that_were_read() -> None:
    objective = ls.Objective(net(), data=(X, Y))
    loader = DataLoader(TensorDataset(X[:8], Y[:8]), batch_size=4)
    for data in (loader, (X, Y), [(X, Y)], None):
        with pytest.raises(InputError, match=r"not a \w+: objective.on\(objective.read\(data\)\)"):
            objective.on(data)  # type: ignore[arg-type]
    assert objective.on(objective.read(loader)).samples == 8
    norm = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    objective = ls.Objective(norm, data=(X, Y))
    found = objective.reestimate(objective.theta, loader)["0.running_mean"]
    assert torch.allclose(found, X[:8].mean(0), atol=1e-6)


def test_our_own_errors_and_a_lack_of_memory_go_through() -> None:
    for error in (InputError("ours"), MemoryError("full"), torch.OutOfMemoryError("full")):
        with pytest.raises(type(error)) as caught, user_code("it"):
            raise error
        assert caught.value is error


def test_errors_far_from_the_centre_are_told_too() -> None:
    """At other parameters, on other data, in training: wherever the model is called."""

    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.inner(x)
            if not bool(found.isfinite().all()):
                raise OddError("not finite")
            return found

    torch.manual_seed(0)
    objective = ls.Objective(Fragile(), data=(X, Y))
    with pytest.raises(UserCodeError, match="OddError: not finite"):
        objective.evaluate(objective.theta * torch.nan)
    a, b = objective.theta, objective.theta + 0.1
    with pytest.raises(InputError, match=r"outputs float32 .*Target . is out of bounds"):
        ls.fit_curve(objective, a, b, train=(X, Y + 5), epochs=1)
    with pytest.raises(InputError, match=r"outputs float32 .*Target . is out of bounds"):
        ls.measure_path(objective, [a, b], t=3, test=(X, Y + 5))
    with pytest.raises(InputError, match=r"float32 \(20, 2\).*mat1 and mat2"):
        ls.measure_path(objective, [a, b], t=3, test=(X[:, :2], Y))


class Backwards(torch.autograd.Function):
    """Raises in its backward pass alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise OddError("no backward")


def test_a_backward_pass_that_raises_in_training_is_told() -> None:
    objective = ls.Objective(net(), lambda o, t: F.cross_entropy(Backwards.apply(o), t, reduction="none"), (X, Y))
    with pytest.raises(InputError, match=r"gradient of the loss .*OddError"):
        ls.fit_curve(objective, objective.theta, objective.theta + 0.1, epochs=1)


NOT_NUMBERS: dict[str, tuple[Any, str]] = {
    "dict of losses": (lambda o: {"a": o.mean(), "b": o.var()}, r"dict with keys 'a', 'b'.*sum\(losses\.values\(\)\)"),
    "nothing": (lambda o: None, "returned None.*after its return"),
    "text": (lambda o: "low", "returned str, which is no number"),
    "three": (lambda o: (o.mean(), o.var(), 1), "returned tuple of 3"),
    "complex": (lambda o: o.mean() * 1j, "complex values"),
}


@pytest.mark.parametrize("case", NOT_NUMBERS)
@pytest.mark.parametrize("door", ["forward", "loss", "metric"])
def test_what_is_no_number_is_named(case: str, door: str) -> None:
    make, says = NOT_NUMBERS[case]
    doors: dict[str, dict[str, Any]] = {
        "forward": {"loss": None, "forward": lambda m, b: make(m(b[0]))},
        "loss": {"loss": lambda o, t: make(o)},
        "metric": {"metrics": {"m": lambda o, t: make(o)}},
    }
    with pytest.raises(InputError, match=says):
        ls.Objective(net(), data=(X, Y), **doors[door])


class Metric:
    """As those of torchmetrics are: it gathers a state over calls."""

    def __init__(self, of: str = "hits") -> None:
        self._defaults = {"seen": torch.tensor(0), "hits": torch.tensor(0)}
        self.of, self.updates = of, 0
        self.reset()

    def reset(self) -> None:
        self.seen, self.hits = (value.clone() for value in self._defaults.values())

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.updates += 1
        self.seen += len(targets)
        self.hits += (outputs.argmax(1) == targets).sum()

    def compute(self) -> Tensor:
        share = self.hits / self.seen
        return share if self.of == "hits" else share.square()

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.update(outputs, targets)
        return self.compute()


def test_metrics_with_a_state_work_or_are_refused() -> None:
    metric = Metric()
    objective = ls.Objective(net(), data=(X, Y), metrics={"hits": metric})
    for _ in range(2):  # nothing is left from call to call
        found = objective.evaluate()["hits"]
        assert found == pytest.approx(float((net()(X).argmax(1) == Y).float().mean()))
    assert metric.updates == 0
    metric.update(net()(X), Y)
    assert describe_callable(metric) == describe_callable(Metric()).replace("updates=0", "updates=1")
    with pytest.raises(InputError, match=r"Metric\(.*metric of all samples together"):
        ls.Objective(net(), data=(X, Y), metrics={"squared": Metric("square")})


class Scaled(nn.Module):
    """A criterion with a parameter of its own."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs * self.scale, targets, reduction="none")


def test_a_criterion_with_parameters_of_its_own_is_told(caplog: pytest.LogCaptureFixture) -> None:
    one, two = (ls.Objective(net(), Scaled(scale), (X, Y)) for scale in (1.0, 2.0))
    assert "Scaled has 1 parameters of its own (scale), which stay as they are" in caplog.text
    assert one.identity()["loss"] != two.identity()["loss"]
    caplog.clear()

    class Penalised(nn.Module):
        """Holds the model, whose parameters are not its own."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(outputs, targets, reduction="none")

    model = net()
    ls.Objective(model, Penalised(model), (X, Y))
    assert not caplog.records


def test_contrastive_criteria_are_told_forward() -> None:
    def contrastive(outputs: Tensor, targets: Tensor) -> Tensor:
        unit = F.normalize(outputs, dim=1)
        return F.cross_entropy(unit @ unit.T, torch.arange(len(unit)))

    with pytest.raises(InputError, match=r"contrastive one\) belongs into forward="):
        ls.Objective(net(), contrastive, (X, Y))
    with pytest.raises(InputError, match=r"contrastive one\) belongs into forward="):
        ls.Objective(net(), lambda o, t: (o - o.mean(0)).square().sum(1), (X, Y))
    with pytest.raises(InputError, match=r"other arguments than \(outputs, targets\) is called in forward="):
        ls.Objective(net(), nn.TripletMarginLoss(), (X, Y))


# -- random streams --------------------------------------------------------------------------------------


class Drawing(nn.Linear):
    """Draws from every stream wherever it is printed, listed or called, and answers alike."""

    def __repr__(self) -> str:
        draw()
        return "Drawing()"

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        draw()
        return super().state_dict(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        draw()
        return super().forward(x)


def draw() -> None:
    torch.rand(1), np.random.rand(), random.random()


def streams() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    return torch.get_rng_state().tolist(), state[1].tolist(), state[2], random.getstate()


def test_the_callers_random_streams_go_on_whatever_runs_inside() -> None:
    torch.manual_seed(0)
    model = Drawing(4, 3)
    before = streams()
    objective = ls.Objective(model, data=(X, Y))
    a, b = objective.theta, objective.theta + 0.1
    plane = ls.random_plane(objective)
    calls: list[Callable[[], Any]] = [
        objective.identity,
        objective.evaluate,
        lambda: objective.read((X, Y)),
        lambda: objective.elsewhere((X, Y)),
        lambda: ls.plane_through(objective, [model, b]),
        lambda: ls.measure_surface(objective, plane, x=(-1, 1, 2), y=(-1, 1, 2), progress=lambda _: draw()),
        lambda: ls.measure_path(objective, [a, b], t=2),
        lambda: ls.measure_agreement(objective, [a, b]),
        lambda: ls.fit_curve(objective, a, b, epochs=1),
    ]
    for call in calls:
        call()
        assert streams() == before


def test_every_public_function_of_an_objective_keeps_them() -> None:
    asked = of_objective(draw).__code__  # which keeps them, and asks what the first argument is
    for name in ls.__all__:
        function = getattr(ls, name)
        if inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == "objective":
            assert function.__code__ is asked, name


@pytest.mark.parametrize("label", [7, -1])
@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(), lambda o, t: F.cross_entropy(o, t)])
def test_a_label_that_is_no_class_is_told_with_its_sample(label: int, loss: Any) -> None:
    x, y = torch.randn(8, 3), torch.tensor([0, 1, 0, 1, 1, label, 0, 0])
    with pytest.raises(UserCodeError, match=f"Sample 5 of the batch tried has the label {label}.* 2 scores") as raised:
        ls.Objective(nn.Linear(3, 2), loss, (x, y))
    assert "loss=None" not in str(raised.value)


@pytest.mark.parametrize("labels", ["label", "y"])
def test_keys_that_the_model_does_not_know_are_told_with_the_way_out(labels: str) -> None:
    batch = {"image": torch.randn(8, 3), labels: torch.zeros(8, dtype=torch.long)}
    with pytest.raises(UserCodeError, match=r"'image'.*labels, label, .*, y: .* here image; .*forward=lambda"):
        ls.Objective(nn.Linear(3, 2), "cross_entropy", [batch])


def test_a_list_of_inputs_and_targets_is_told_from_a_pair() -> None:
    with pytest.raises(InputError, match=r"you gave a list.* a pair is a tuple"):
        ls.Objective(nn.Linear(3, 2), "cross_entropy", [torch.randn(8, 3), torch.zeros(8, dtype=torch.long)])
