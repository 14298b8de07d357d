"""Batches and data of many types: they reach `forward` as they were given, are read, or are named with a way out."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from landscape.errors import InputError
from landscape.objective.data import read_data
from landscape.objective.objective import Objective
from landscape.objective.trees import map_tensors, tensors_in

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
Named = namedtuple("Named", "x y")
LabelFirst = namedtuple("LabelFirst", "label x")


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Tensor
    y: Tensor
    name: str = "a"


class Own:
    """Made by a collate function, as torch's manual has it."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.name = x, y, "a"


class Applying(Own):
    """Maps its tensors itself."""

    def to(self, device: Any) -> Applying:
        return self.apply(lambda tensor: tensor.to(device))

    def apply(self, function: Callable[[Tensor], Tensor]) -> Applying:
        self.x, self.y = function(self.x), function(self.y)
        return self


class Slots:
    """Keeps everything in slots, one of them private."""

    __slots__ = ("__y", "x")

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.__y = x, y

    @property
    def y(self) -> Tensor:
        return self.__y


class MoreSlots(Slots):
    """Slots of its own, as a single text, beside those it comes from and beside attributes."""

    __slots__ = "more"

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y)
        self.more = [x]


class SlotsAndAttributes(Slots):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y)
        self.name = "a"


def net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def x_and_y(batch: Any) -> tuple[Tensor, Tensor]:
    return (batch["x"], batch["y"]) if hasattr(batch, "keys") else (batch.x, batch.y)


CONTAINERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "named tuple": Named,
    "dataclass": Frozen,
    "object": Own,
    "object of a library": Applying,
    "slots": Slots,
    "more slots": MoreSlots,
    "slots and attributes": SlotsAndAttributes,
    "ordered": lambda x, y: OrderedDict(x=x, y=y),
    "user's mapping": lambda x, y: UserDict(x=x, y=y),
}


@pytest.mark.parametrize("case", CONTAINERS)
def test_batches_reach_forward_as_they_were(case: str) -> None:
    make, kinds = CONTAINERS[case], set()
    data = [make(X[:12], Y[:12]), make(X[12:], Y[12:])]

    def forward(model: nn.Module, batch: Any) -> Tensor:
        kinds.add(type(batch))
        assert getattr(batch, "name", "a") == "a"
        x, y = x_and_y(batch)
        return F.cross_entropy(model(x), y, reduction="none")

    model = net()
    objective = Objective(model, None, data, forward=forward, precision="float64")
    assert kinds == {type(data[0])}
    twin = net().double()
    expected = F.cross_entropy(twin(X.double()), Y).detach()
    assert objective.evaluate()["loss"] == pytest.approx(float(expected), rel=1e-12)
    assert objective.samples == 20
    assert x_and_y(data[0])[0].dtype == torch.float32  # the user's own are as they were
    whole = Objective(model, None, make(X, Y), forward=forward, precision="float64")
    assert whole.evaluate()["loss"] == pytest.approx(float(expected), rel=1e-12)


class Rnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r, self.o = nn.GRU(4, 6), nn.Linear(6, 3)

    def forward(self, packed: PackedSequence) -> Tensor:
        assert isinstance(packed, PackedSequence)
        found: Tensor = self.o(self.r(packed)[1][0])
        return found


@pytest.mark.parametrize("given", [False, True])
def test_packed_sequences_are_one_input(given: bool) -> None:
    torch.manual_seed(0)
    model = Rnn()
    data = [
        (pack_sequence([torch.randn(n, 4) for n in sizes]), torch.arange(len(sizes)) % 3)
        for sizes in ((6, 5), (4, 3, 2))
    ]
    forward = (lambda m, b: (m(b[0]), b[1])) if given else None
    objective = Objective(model, data=data, forward=forward)
    each = torch.cat([F.cross_entropy(model(x), y, reduction="none") for x, y in data]).detach()
    assert objective.samples == 5
    assert objective.evaluate()["loss"] == pytest.approx(float(each.mean()), rel=1e-6)


def test_named_labels_are_found_wherever_they_stand() -> None:
    plain = Objective(net(), data=[(X, Y)]).evaluate()["loss"]
    assert Objective(net(), data=[LabelFirst(Y, X)]).evaluate()["loss"] == plain
    assert Objective(net(), data=[Named(X, Y)]).evaluate()["loss"] == plain
    with pytest.raises(InputError, match=r"a batch is a Own .*forward="):
        Objective(net(), data=[Own(X, Y)])


@dataclasses.dataclass
class Output(OrderedDict):  # type: ignore[type-arg]
    """As outputs of transformers are: a mapping and a dataclass."""

    a: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        self.update(a=self.a, b=self.b)


def test_outputs_keep_their_type_when_cut() -> None:
    found = map_tensors(Output(X, Y), lambda tensor: tensor[:3])
    assert type(found) is Output
    assert (len(found.a), len(found["b"])) == (3, 3)
    largest = torch.max(X, 0)
    assert type(map_tensors(largest, torch.clone)) is type(largest)
    assert len(list(tensors_in(largest))) == 2


def test_a_list_of_images_stays_a_list() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.o = nn.Linear(3, 2)

        def forward(self, images: list[Tensor]) -> Tensor:
            assert isinstance(images, list)
            found: Tensor = self.o(torch.stack([image.mean((1, 2)) for image in images]))
            return found

    torch.manual_seed(0)
    model = Pooled()
    data = [([torch.randn(3, n, 5) for n in (4, 6)], torch.tensor([0, 1])), ([torch.randn(3, 7, 5)], torch.tensor([1]))]
    objective = Objective(model, data=data)
    each = torch.cat([F.cross_entropy(model(x), y, reduction="none") for x, y in data])
    assert objective.samples == 3
    assert objective.evaluate()["loss"] == pytest.approx(float(each.mean()), rel=1e-6)


# -- arrays ----------------------------------------------------------------------------------------------


class Slices:
    """An array that lies elsewhere: it gives slices, and notes how long the longest was."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self._values, self.shape, self.dtype, self.longest = values, values.shape, values.dtype, 0

    def __getitem__(self, part: slice) -> np.ndarray[Any, Any]:
        found = self._values[part]
        self.longest = max(self.longest, len(found))
        return found

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        self.longest = len(self._values)
        return self._values


def test_arrays_that_lie_elsewhere_are_read_in_slices() -> None:
    x = np.random.default_rng(0).normal(size=(600, 4)).astype("f4")
    lazy, y = Slices(x), np.arange(600) % 3
    data = read_data((lazy, y), device=torch.device("cpu"), dtype=torch.float32, budget=0, divisible=True, check=True)
    found = torch.cat([batch[0] for _, batch in data.divided(64).chunks()])
    taken = data.taken([599, 3, 4, 3]).first
    assert lazy.longest < 600
    assert torch.equal(found, torch.from_numpy(x))
    assert torch.equal(taken[0], torch.from_numpy(x[[599, 3, 4, 3]]))
    objective, held = Objective(net(), data=(lazy, y), memory_budget=0), Objective(net(), data=(x, y))
    assert objective.evaluate()["loss"] == held.evaluate()["loss"]
    assert objective.identity() == held.identity()


def test_datasets_of_hdf5_and_data_frames_are_read(tmp_path: Path) -> None:
    plain = Objective(net(), data=(X, Y))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"], file["y"] = X.numpy(), Y.numpy()
        for budget in (0, 1 << 30):
            read = Objective(net(), data=(file["x"], file["y"]), memory_budget=budget)
            assert read.evaluate()["loss"] == plain.evaluate()["loss"]
            assert read.identity() == plain.identity()
    frames = pd.DataFrame(X.numpy()), pd.Series(Y.numpy())
    assert Objective(net(), data=frames).identity() == plain.identity()
    swapped = X.numpy().astype(">f4")
    assert Objective(net(), data=(swapped, Y)).identity() == plain.identity()


TARGETS: dict[str, Any] = {
    "mapping": {"class": Y, "weight": X[:, 0]},
    "tuple": (Y, X[:, 0]),
    "list": [Y, X[:, 0]],
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_may_be_nested(case: str) -> None:
    targets = TARGETS[case]

    def loss(outputs: Tensor, given: Any) -> Tensor:
        label, weight = given.values() if isinstance(given, dict) else given
        return F.cross_entropy(outputs, label, reduction="none") * weight

    truth = float((F.cross_entropy(net()(X), Y, reduction="none") * X[:, 0]).mean())
    for data in ((X, targets), [(X, targets)]):
        objective = Objective(net(), loss, data)
        assert objective.samples == 20
        assert objective.evaluate()["loss"] == pytest.approx(truth, rel=1e-5)
    with pytest.raises(InputError, match=r"the targets are .*'cross_entropy' needs a tensor.*forward="):
        Objective(net(), data=(X, targets))


def test_a_tuple_of_batches_is_still_batches() -> None:
    halves = ((X[:10], Y[:10]), (X[10:], Y[10:]))
    assert Objective(net(), data=halves).identity() == Objective(net(), data=(X, Y)).identity()


REFUSED: dict[str, tuple[Any, str]] = {
    "objects without tensors": ([object(), object()], "a batch is object, which holds no tensor or array"),
    "texts": ([["a", "b"]], r"a batch is list of 2 str.*collate_fn"),
    "data frame of texts": ((pd.DataFrame({"a": ["x"] * 20}), Y), r"object values \(pandas"),
    "masked": ((np.ma.masked_greater(X.numpy(), 1), Y), "masked array"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_named(case: str) -> None:
    data, says = REFUSED[case]
    with pytest.raises(InputError, match=says):
        Objective(net(), data=data)


# -- causes ----------------------------------------------------------------------------------------------


def read(data: Any) -> None:
    read_data(data, device=torch.device("cpu"), dtype=torch.float32, budget=0, divisible=True, check=True)


def test_causes_are_stated_where_they_were_seen() -> None:
    whole = torch.utils.data.TensorDataset(X, Y)

    class Counting(torch.utils.data.Dataset[tuple[Tensor, int]]):
        def __init__(self, draw: Callable[[], float]) -> None:
            self.draw = draw

        def __len__(self) -> int:
            return 5

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return X[i] + self.draw(), 0

    class Backwards(torch.utils.data.Sampler[int]):
        """Other samples each time."""

        passes = 0

        def __init__(self) -> None:
            pass

        def __iter__(self) -> Any:
            Backwards.passes += 1
            return iter(range(Backwards.passes, Backwards.passes + 10))

    class Turning(Counting):
        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return X[i].roll(int(4 * self.draw())), i

    class Phases:
        """Complex values of which the imaginary part alone is drawn."""

        def __iter__(self) -> Any:
            yield torch.complex(X, torch.randn(20, 4)), Y

    weighted = torch.utils.data.WeightedRandomSampler(torch.rand(20), 12)
    once = torch.utils.data.WeightedRandomSampler(torch.rand(20) + 0.1, 20, replacement=False)
    again = torch.utils.data.RandomSampler(whole, replacement=True, num_samples=12)
    numbers, own = iter(range(10**6)), np.random.default_rng(0)
    for data, says in (
        (
            torch.utils.data.DataLoader(whole, sampler=weighted),
            "sampler is a WeightedRandomSampler.*loader.dataset.*numer",
        ),
        (torch.utils.data.DataLoader(whole, sampler=again), "is a RandomSampler, which draws them anew with replaceme"),
        (
            torch.utils.data.DataLoader(whole, sampler=once),
            "is a WeightedRandomSampler, which draws .*by their weights",
        ),
        # turned round, a sample has the same values in other places, whatever its loader draws with
        (torch.utils.data.DataLoader(Turning(lambda: float(torch.rand(())))), "augmented at random"),
        (
            torch.utils.data.DataLoader(Turning(lambda: next(numbers) / 4), sampler=range(5)),
            "keeps something from pass to pass",
        ),
        (Phases(), "augmented at random"),
        (torch.utils.data.DataLoader(whole, sampler=Backwards()), "its sampler is a Backwards"),
        (Counting(lambda: float(torch.rand(()))), "augmented at random"),
        (Counting(lambda: float(next(numbers))), "keeps something from pass to pass"),
        (Counting(own.normal), "keeps something from pass to pass"),
    ):
        with pytest.raises(InputError, match=says):
            read(data)


def test_a_network_with_a_state_is_not_called_random() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.o, self.calls = nn.Linear(4, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            found: Tensor = self.o(x) * self.calls
            return found

    with pytest.raises(InputError, match="keeps something from call to call"):
        Objective(Stateful(), data=(X, Y))


def test_a_quantised_model_is_told_what_can_be_done() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter("weight", nn.Parameter(torch.zeros(3, 4, dtype=torch.int8), requires_grad=False))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.float().T

    with pytest.raises(InputError, match=r"is quantised .*'weight' holds integers.*floating-point model"):
        Objective(Packed(), data=(X, Y))
    frozen = net().requires_grad_(False)
    with pytest.raises(InputError, match=r"no trainable parameter; call requires_grad_\(True\)"):
        Objective(frozen, data=(X, Y))
