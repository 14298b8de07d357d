"""What a GPU asks for, without one: settings of torch, looks at values, and which device is meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import landscape as ls
from landscape.curvature import operator
from landscape.objective import gpu
from landscape.objective.model import choose_device

BACKENDS: Any = torch.backends
KNOWS_WORDS = hasattr(BACKENDS.cuda.matmul, "fp32_precision")


def precisions() -> list[object]:
    """All that torch is told of float32, by both of its ways; None for what it refuses to tell."""

    def told(read: Callable[[], object]) -> object:
        try:
            return read()
        except RuntimeError:
            return None

    reads: list[Callable[[], object]] = [
        torch.get_float32_matmul_precision,
        lambda: BACKENDS.cuda.matmul.allow_tf32,
        lambda: BACKENDS.cudnn.allow_tf32,
        lambda: BACKENDS.cudnn.enabled,
        lambda: BACKENDS.cudnn.benchmark,
        lambda: BACKENDS.cudnn.deterministic,
    ]
    if KNOWS_WORDS:
        holders = (BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.mkldnn.matmul)
        reads += [lambda h=h: h.fp32_precision for h in holders]  # type: ignore[misc]
    return [told(read) for read in reads]


@pytest.fixture(autouse=True)
def _torch_is_left_as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    if KNOWS_WORDS:
        for holder in (BACKENDS, BACKENDS.cudnn, BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul):
            holder.fp32_precision = "none"
    BACKENDS.cudnn.allow_tf32 = True


def word(holder: Any, value: str) -> Callable[[], None]:
    return lambda: setattr(holder, "fp32_precision", value)


ASKED: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "switch": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "no tf32": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
}
if KNOWS_WORDS:
    ASKED |= {
        "word of products": word(BACKENDS.cuda.matmul, "tf32"),
        "word of convolutions": word(BACKENDS.cudnn.conv, "tf32"),
        "word of all": word(BACKENDS, "tf32"),
        "exact word of all": word(BACKENDS, "ieee"),
        "word of cuDNN": word(BACKENDS.cudnn, "tf32"),
    }


@pytest.mark.parametrize("asked", ASKED)
def test_float32_is_exact_inside_and_as_the_user_has_it_after(asked: str) -> None:
    ASKED[asked]()
    before = precisions()
    with suppress(ZeroDivisionError), gpu.exact_float32():
        inside = precisions()
        raise ZeroDivisionError
    assert "tf32" not in inside[6:]
    if before[1] is not None:  # what can be read outside says the same inside
        assert inside[:2] == ["highest", False]
    if before[2] is not None:
        assert inside[2] is False
    assert precisions() == before
    if KNOWS_WORDS and asked == "word of all":  # the products still follow it
        BACKENDS.fp32_precision = "ieee"
        assert BACKENDS.cuda.matmul.fp32_precision == "ieee"


def test_a_bound_model_computes_by_cudnn_and_repeatably(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    found = objective()
    found._model.device = torch.device("cuda", 0)
    before = precisions()
    with found.at(None):
        assert BACKENDS.cudnn.enabled
        assert BACKENDS.cudnn.deterministic
        assert not BACKENDS.cudnn.benchmark
        assert not BACKENDS.cudnn.allow_tf32
        with found._model.twice_differentiable():
            assert BACKENDS.cudnn.enabled
    assert precisions() == before


def test_recurrences_are_differentiated_twice_without_cudnn_and_nothing_else_changes() -> None:
    with gpu.cudnn(deterministic=True):
        before = precisions()
        with gpu.cudnn(enabled=False):
            assert not BACKENDS.cudnn.enabled
            assert BACKENDS.cudnn.deterministic
        assert precisions() == before


class Looks(TorchDispatchMode):
    """Counts what would wait for a device: values read, one at a time or as an array."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero"):
            self.counted[name] += 1
        return func(*args, **(kwargs or {}))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(self.conv(x)).relu().flatten(1))
        return scores


DATA = torch.randn(48, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3


def objective(**options: Any) -> ls.Objective:
    torch.manual_seed(0)
    return ls.Objective(Net(), data=DATA, metrics=("accuracy",), chunk=8, device="cpu", **options)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Values count as those of a device, and every look at them is counted."""
    found = Looks()

    def counting(name: str) -> None:
        method = getattr(Tensor, name)

        def called(tensor: Tensor, **options: Any) -> Any:
            found.counted[name] += 1
            return method(tensor, **options)

        monkeypatch.setattr(Tensor, name, called)

    for name in ("numpy", "tolist"):
        counting(name)
    for module in ("losses.on_host", "gpu.on_host"):
        monkeypatch.setattr(f"landscape.objective.{module}", lambda tensor: False)
    monkeypatch.setattr("landscape.curvature.operator.on_host", lambda tensor: False)
    monkeypatch.setattr("landscape.objective.sums.is_host", lambda device: False)
    return found


def test_a_point_is_one_look_at_a_device_and_the_same_to_the_bit(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    found = objective()
    plane = ls.random_plane(found, seed=0)
    theta = torch.empty_like(plane.centre)
    looks.counted.clear()
    with looks:
        seen = found.estimates(plane.point((0.3, -0.2), theta))
    assert looks.counted == {"numpy": 1}
    chosen = found.choose([1, 9, 30])
    looks.counted.clear()
    with looks:
        _, values, weights = found.estimates_and_samples(theta, chosen=chosen)
    assert looks.counted == {"numpy": 2}
    monkeypatch.undo()
    assert {name: (float(e), e.stderr) for name, e in seen.items()} == {
        name: (float(e), e.stderr) for name, e in found.estimates(theta).items()
    }
    _, on_host, weights_on_host = found.estimates_and_samples(theta, chosen=found.choose([1, 9, 30]))
    assert (values == on_host).all()
    assert (weights == weights_on_host).all()
    each = nn.CrossEntropyLoss(reduction="none")
    with found.at(theta) as model, torch.no_grad():
        assert values[0] == pytest.approx(each(model(DATA[0]), DATA[1])[[1, 9, 30]].numpy(), rel=1e-5)


def test_products_are_looked_at_in_blocks(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "_LOOKED_AT", 4)
    with ls.CurvatureOperator(objective(), chunk=8) as H:
        vectors = torch.eye(H.size)[:2]
        H.apply(vectors)  # builds the graphs and learns the denominators
        looks.counted.clear()
        with looks:
            H.apply(vectors)
    assert looks.counted == {"tolist": 2}  # of six chunks


def test_a_product_that_is_not_finite_is_told_of_the_chunk_it_is_in(looks: Looks) -> None:
    found = objective()
    with ls.CurvatureOperator(found, chunk=8) as H:
        vectors = torch.eye(H.size)[:1]
        vectors[0, 0] = torch.inf
        with pytest.raises(ls.NumericalError, match="product"):
            H.apply(vectors)


def test_a_gpu_without_a_number_is_the_one_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors there have a number; a device without one equals none of theirs, and large models would be copied."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose_device("cuda") == torch.device("cuda", 3)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "2")
    assert choose_device(None) == torch.device("cuda", 2)


def test_graphs_take_a_quarter_of_what_is_free_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 80 << 30))
    assert operator._graph_room(torch.device("cuda", 0)) == 2 << 30
    monkeypatch.setattr(gpu, "available_memory", lambda: 4 << 30)
    monkeypatch.setattr(gpu, "local_size", lambda: 2)
    assert operator._graph_room(torch.device("cpu")) == 1 << 29
