"""Training data: an epoch follows from (seed, epoch), whatever was drawn before it, and the caller's streams go on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import fit_job
import numpy as np
import pytest
import torch
from landscape_kernels.probes import derive_seed
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from landscape.errors import InputError
from landscape.objective.random_state import random_state_kept, random_streams
from landscape.objective.training import TrainingData

CPU = torch.device("cpu")


def training(train: Any, batch_size: int = 8, dtype: torch.dtype = torch.float64) -> TrainingData:
    return TrainingData(train, batch_size, device=CPU, dtype=dtype)


def epoch(data: TrainingData, seed: int, number: int, draws: int = 7) -> list[Any]:
    """All batches, a forward pass that draws random numbers between any two."""
    batches = []
    with random_state_kept():
        for batch in data.epoch(seed, number):
            batches.append(batch)
            torch.rand(draws), np.random.rand(draws), [random.random() for _ in range(draws)]
    return batches


def same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, y) for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True)
    )


class Drawn(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(21):
            yield torch.rand(2, dtype=torch.float64), torch.tensor(i)


class Batches:
    """A re-iterable of batches that draws from all three streams."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for size in (5, 3, 5):
            x = torch.rand(size, 2) + float(np.random.rand()) + random.random()
            yield x.double(), torch.zeros(size, dtype=torch.long)


def own_generator() -> torch.Generator:
    generator = torch.Generator()
    generator.manual_seed(random.randrange(10**6))  # whatever state it is in
    return generator


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(fit_job.Augmented(), **{"batch_size": 8, "shuffle": "sampler" not in options, **options})


KINDS: dict[str, Callable[[], Any]] = {
    "tensors": fit_job.samples,
    "arrays": lambda: tuple(t.numpy() for t in fit_job.samples()),
    "dataset": fit_job.Augmented,
    "tensor dataset": lambda: TensorDataset(*fit_job.samples()),
    "loader": loader,
    "loader with its own generator": lambda: loader(generator=own_generator()),
    "sampler with its own generator": lambda: loader(sampler=RandomSampler(range(48), generator=own_generator())),
    "weighted sampler": lambda: loader(sampler=WeightedRandomSampler(torch.arange(48.0), 20)),
    "distributed sampler": lambda: loader(sampler=DistributedSampler(range(48), 1, 0)),
    "loader with workers": lambda: loader(num_workers=2),
    "workers and a generator": lambda: loader(num_workers=1, generator=own_generator()),
    "iterable dataset": Drawn,
    "loader of an iterable dataset": lambda: DataLoader(Drawn(), batch_size=4),
    "re-iterable": Batches,
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_epoch_follows_from_seed_and_number(kind: str) -> None:
    """Asked for alone, last, or after others, by a loader of its own, with streams anywhere."""
    with random_state_kept():
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        first = training(KINDS[kind]())
        epochs = [epoch(first, 3, number) for number in range(3)]
        torch.manual_seed(2), np.random.seed(2), random.seed(2)
        second = training(KINDS[kind]())
        assert same(epoch(second, 3, 2, draws=2), epochs[2])
        assert same(epoch(second, 3, 1, draws=0), epochs[1])
        assert same(epoch(first, 3, 0), epochs[0])
        assert not same(epochs[0], epochs[1])
        assert not same(epochs[1], epochs[2])
        assert not same(epoch(second, 4, 1), epochs[1])
        assert first.about == second.about


@pytest.mark.parametrize("kind", ["loader", "loader with its own generator", "re-iterable"])
def test_half_an_epoch_leaves_no_trace(kind: str) -> None:
    data = training(KINDS[kind]())
    whole = epoch(data, 0, 1)
    with random_state_kept():
        batches = data.epoch(0, 0)
        next(batches)
        batches.close()
    assert same(epoch(data, 0, 1), whole)


def test_a_list_of_batches_comes_as_it_is() -> None:
    """In its order, numbers in the working precision, labels as they were, the caller's tensors untouched."""
    batches = [(torch.rand(3, 2), torch.arange(3)), (np.ones((2, 2)), np.arange(2))]
    data = training(batches, dtype=torch.float32)
    for number in range(2):
        found = epoch(data, 0, number)
        assert [x.dtype for x, _ in found] == [torch.float32] * 2
        assert same(found, [(torch.as_tensor(x).float(), torch.as_tensor(y)) for x, y in batches])


def test_tensors_are_shuffled_by_the_documented_stream() -> None:
    """A permutation by Philox with the key (seed, "order", epoch), cut into equal batches; every sample once."""
    x = torch.arange(43, dtype=torch.float64)
    data = training((x, x.long()), 10)
    for number in range(2):
        order = np.random.Generator(np.random.Philox(key=derive_seed(9, "order", number))).permutation(43)
        found = epoch(data, 9, number)
        assert [len(batch) for batch, _ in found] == [9, 9, 9, 8, 8]  # ceil(43 / 10), equal to within one sample
        assert torch.equal(torch.cat([batch for batch, _ in found]), x[torch.from_numpy(order)])
        assert torch.equal(torch.cat([label for _, label in found]), torch.from_numpy(order))


def test_one_batch_of_all_is_left_in_order() -> None:
    x = torch.arange(5, dtype=torch.float64)
    ((found, _),) = epoch(training((x, x.long()), 5), 0, 0)
    assert torch.equal(found, x)


def test_every_sample_of_a_dataset_once() -> None:
    x = torch.arange(20, dtype=torch.float64)
    found = epoch(training(TensorDataset(x, x.long()), 6), 0, 0)
    assert sorted(torch.cat([batch for batch, _ in found]).tolist()) == x.tolist()

    class Mapped(Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return x[index], index

    found = epoch(training(Mapped(), 6), 0, 0)
    order = torch.cat([batch for batch, _ in found])
    assert sorted(order.tolist()) == x.tolist()
    assert not torch.equal(order, x)
    assert [len(batch) for batch, _ in found] == [6, 6, 6, 2]


def test_workers_give_what_their_streams_say() -> None:
    """Different values in every batch and worker: no stream is used twice."""
    found = torch.cat([x for x, _ in epoch(training(loader(num_workers=2, shuffle=False)), 0, 0)])
    noise = found - fit_job.samples()[0]
    assert len({tuple(row) for row in noise.round(decimals=9).tolist()}) == 48


def test_generators_are_put_back() -> None:
    """Those of the loader and of its sampler, also when an epoch is left in the middle."""
    mine, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)
    sampler = RandomSampler(range(48), generator=other)
    data = training(loader(sampler=sampler, generator=mine))
    states = mine.get_state(), other.get_state()
    epoch(data, 0, 0)
    with random_state_kept():
        batches = data.epoch(0, 1)
        next(batches)
        assert not torch.equal(other.get_state(), states[1])
        batches.close()
    assert torch.equal(mine.get_state(), states[0])
    assert torch.equal(other.get_state(), states[1])


def test_tensors_leave_the_streams_alone() -> None:
    state, before = torch.get_rng_state(), random_streams()
    list(training(fit_job.samples()).epoch(0, 0))
    assert random_streams() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_what_the_data_are_is_told() -> None:
    """Values where they can be seen, words where they cannot."""
    x, y = fit_job.samples()
    assert training((x, y)).about.startswith("48 samples ")
    assert training((x, y)).about.endswith(" in 6 batches")
    assert training((x, y)).about != training((x + 1, y)).about
    assert training([(x, y)]).about != training([(x + 1, y)]).about
    arrays = [(x.numpy(), y.numpy())]
    assert training(arrays).about == training([(x, y)]).about
    assert training(loader()).about == "DataLoader, Augmented of 48, batches of 8"
    assert training(DataLoader(Drawn(), batch_size=4)).about == "DataLoader, Drawn, batches of 4"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((torch.zeros(0, 2), torch.zeros(0)), r"float32 \(0, 2\), float32 \(0,\)\) is empty"),
        ((torch.zeros(3, 2), torch.zeros(4)), "have different numbers of samples; give inputs and targets of the same"),
        ({}, "is empty"),
        ([], r"the training data \(list\) is empty; give one batch at least"),
        (TensorDataset(torch.zeros(0, 2)), "is empty"),
        (DataLoader(TensorDataset(torch.zeros(3, 2)), 4, drop_last=True), "drop_last=True leaves none"),
        (iter([1]), "list_iterator can be read only once"),
        ((batch for batch in [1]), "generator can be read only once"),
        (7, "data of type int is not understood"),
        ("data", "data of type str is not understood"),
        (
            DataLoader(fit_job.Augmented(), 8, num_workers=1, persistent_workers=True),
            "persistent_workers=True: its workers carry .* build it with persistent_workers=False",
        ),
    ],
)
def test_refused(train: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        training(train)


def test_empty_dataset_and_no_batch_size() -> None:
    class Empty(Dataset[Tensor]):
        def __len__(self) -> int:
            return 0

        def __getitem__(self, index: int) -> Tensor:
            raise IndexError(index)

    with pytest.raises(InputError, match=r"\(Empty\) is empty"):
        training(Empty())
    with pytest.raises(InputError, match="batch_size=0; give 1 or more samples"):
        training(fit_job.samples(), 0)
