"""Data in every accepted form: the same samples, the same digest, held or streamed; and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from landscape.errors import InputError
from landscape.objective.data import Data, read_data
from landscape.objective.trees import has_batch_axis, map_tensors, tensor_bytes, tensors_in

N = 23
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = torch.randint(5, (N,), generator=torch.Generator().manual_seed(1))


class Pairs(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return X[i], int(Y[i])


class Flow(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, Y, strict=True))


class Again:
    """A re-iterable that is not a list."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(batches(5))


def batches(size: int) -> list[tuple[Tensor, Tensor]]:
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, N, size)]


def read(data: Any, budget: int = 1 << 30, *, divisible: bool = True, dtype: torch.dtype = torch.float32) -> Data:
    return read_data(data, device=torch.device("cpu"), dtype=dtype, budget=budget, divisible=divisible, check=True)


def everything(data: Data) -> list[Tensor]:
    columns = zip(*[list(tensors_in(batch)) for _, batch in data.chunks()], strict=True)
    return [torch.cat(column) for column in columns]


FORMS: dict[str, Any] = {
    "tensors": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "reversed arrays": (X.numpy()[::-1][::-1], Y.numpy()),
    "float64 arrays": (X.double().numpy(), Y.numpy()),
    "TensorDataset": TensorDataset(X, Y),
    "Dataset": Pairs(),
    "IterableDataset": Flow(),
    "DataLoader": DataLoader(Pairs(), batch_size=4),
    "DataLoader of an IterableDataset": DataLoader(Flow(), batch_size=4),
    "list of batches": batches(6),
    "uneven batches": [(X[:2], Y[:2]), (X[2:20], Y[2:20]), (X[20:], Y[20:])],
    "lists in lists": [list(b) for b in batches(7)],
    "re-iterable": Again(),
}


@pytest.mark.parametrize("budget", [0, 1 << 30])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples_and_digest(form: str, budget: int) -> None:
    data = read(FORMS[form], budget)
    assert (data.samples, data.digest) == (N, read((X, Y)).digest)
    assert data.held == (budget > 0)
    for size in (4, 1000):
        divided = data.divided(size)
        assert divided.samples == N
        for _ in range(2):
            x, y = everything(divided)
            assert torch.equal(x, X)
            assert torch.equal(y, Y)
        numbered = [i for i, _ in divided.chunks()]
        assert numbered == list(range(divided.count))
    if form in ("tensors", "TensorDataset", "Dataset") or budget:
        assert [len(b[1]) for _, b in data.divided(4).chunks()] == [4, 4, 4, 4, 4, 3]


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_ranks_share_the_chunks(budget: int) -> None:
    data = read((X, Y), budget).divided(4)
    shares = [dict(data.chunks(rank, 4)) for rank in range(4)]
    assert sorted(i for share in shares for i in share) == list(range(6))
    whole = dict(data.chunks())
    assert all(torch.equal(batch[0], whole[i][0]) for share in shares for i, batch in share.items())


def test_the_digest_sees_values_order_and_types() -> None:
    changed = X.clone()
    changed[7, 1] += 1e-6
    swapped = X.clone()
    swapped[[0, 1]] = X[[1, 0]]
    given = [(X, Y), (X, Y + 1), (changed, Y), (swapped, Y), (X, Y.int()), (X[:, None], Y)]
    assert len({read(data).digest for data in given}) == len(given)


def test_floats_take_the_working_precision_and_labels_stay() -> None:
    x, y = everything(read((X, Y), dtype=torch.float64))
    assert (x.dtype, y.dtype) == (torch.float64, torch.int64)


def test_mappings_and_several_inputs() -> None:
    (whole,) = [b for _, b in read({"a": X, "y": Y.numpy()}).chunks()]
    assert list(whole) == ["a", "y"]
    nested = read(((X, X[:, :1]), Y)).divided(10)
    assert [[t.shape[0] for t in tensors_in(b)] for _, b in nested.chunks()] == [[10] * 3, [10] * 3, [3] * 3]
    assert len(everything(read((X, X, Y)))) == 3
    merged = read([{"a": x, "y": y} for x, y in batches(4)]).divided(16)
    assert [sorted(b) for _, b in merged.chunks()] == [["a", "y"]] * 2


def test_batches_that_cannot_be_joined_stay_as_they_are() -> None:
    padded = [(torch.zeros(4, 7), Y[:4]), (torch.zeros(4, 9), Y[4:8])]
    assert [b[0].shape for _, b in read(padded).divided(2).chunks()] == [(4, 7), (4, 9)]
    bags = [((torch.arange(6), torch.tensor([0, 2])), Y[:2]), ((torch.arange(5), torch.tensor([0, 4])), Y[2:4])]
    kept = [b for _, b in read(bags).divided(1).chunks()]
    assert [b[0][1].tolist() for b in kept] == [[0, 2], [0, 4]]


def test_what_a_forward_function_gets_is_one_batch_as_given() -> None:
    points = {"inside": torch.zeros(9, 2), "edge": torch.zeros(4, 2)}
    for budget in (0, 1 << 30):
        for given in (points, X, (X, Y)):
            data = read(given, budget, divisible=False).divided(2)
            ((_, batch),) = list(data.chunks())
            for got, expected in zip(tensors_in(batch), tensors_in(given), strict=True):
                assert torch.equal(got, expected)


def test_batches_in_a_list_are_not_inputs_and_targets() -> None:
    kept = list(read([X[:9], X[9:]], divisible=False).chunks())
    assert [b.shape[0] for _, b in kept] == [9, 14]


class Flipped(Pairs):
    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return X[i] * random.choice([1, -1]), int(Y[i])


class Growing(IterableDataset[tuple[Tensor, Tensor]]):
    def __init__(self) -> None:
        self.length = 3

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.length += 1
        return iter(zip(X[: self.length], Y, strict=False))


class Ragged(Pairs):
    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.zeros(i + 1), 0


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "shuffled": (lambda: DataLoader(Pairs(), batch_size=4, shuffle=True), "shuffle=False"),
    "shuffled, some dropped": (
        lambda: DataLoader(Pairs(), batch_size=10, shuffle=True, drop_last=True),
        "shuffle=False",
    ),
    "augmented": (Flipped, "augmented at random"),
    "growing": (Growing, "4 samples on a first pass and 5 on a second"),
    "generator": (lambda: (b for b in batches(4)), "read only once"),
    "iterator": (lambda: iter(batches(4)), "read only once"),
    "empty list": (list, "empty"),
    "empty tensors": (lambda: (X[:0], Y[:0]), "empty"),
    "empty dataset": (lambda: TensorDataset(X[:0], Y[:0]), "empty"),
    "lengths": (lambda: (X, Y[:5]), r"different numbers of samples: \[5, 23\]"),
    "number": (lambda: 3, "int is not understood"),
    "text": (lambda: "digits", "str is not understood"),
    "no tensors": (lambda: [("a", "b")], "no tensor"),
    "mapping of nothing": (dict, "no tensor"),
    "objects": (lambda: (np.array([None, "a"]), Y[:2]), "array of object"),
    "ragged": (Ragged, "collate_fn"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_cause(case: str) -> None:
    make, says = REFUSED[case]
    with pytest.raises(InputError, match=says):
        read(make())


def test_not_a_number_is_a_value() -> None:
    x = X.clone()
    x[3] = float("nan")
    assert read(DataLoader(TensorDataset(x, Y), batch_size=4)).samples == N
    with pytest.raises(InputError, match="shuffle=False"):
        read(DataLoader(TensorDataset(x, Y), batch_size=4, shuffle=True))


def test_the_callers_random_streams_go_on() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    read(DataLoader(Pairs(), batch_size=4))
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()


def test_trees() -> None:
    tree = {"a": (X, [Y, "text"]), "b": None}
    assert [t is s for t, s in zip(tensors_in(tree), (X, Y), strict=True)] == [True, True]
    assert map_tensors(tree, lambda t: t.ndim) == {"a": (2, [1, "text"]), "b": None}
    assert has_batch_axis(tree)
    assert not has_batch_axis((X, torch.tensor(1.0)))
    assert not has_batch_axis((X, Y[:3]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.complex64])
def test_bytes_of_any_dtype(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    assert bytes(tensor_bytes(tensor.T)) == bytes(tensor_bytes(tensor.T.contiguous()))
    assert len(tensor_bytes(tensor)) == 6 * dtype.itemsize
    assert len(tensor_bytes(tensor[0, 0])) == dtype.itemsize
    assert len(tensor_bytes(tensor[:0])) == 0


@pytest.mark.parametrize("inputs", [torch.zeros(6, 4), [torch.zeros(4)] * 6], ids=["tensor", "list"])
@pytest.mark.parametrize("targets", [[0, 1, 2, 0, 1, 2], (0.5,) * 6], ids=["int", "float"])
def test_targets_in_a_list_of_numbers_are_told(inputs: Any, targets: Any) -> None:
    """And not taken for single samples."""
    with pytest.raises(InputError, match=r"part 1 of the data is a (list of 6 int|tuple of 6 float); .*torch.tensor"):
        read((inputs, targets))
