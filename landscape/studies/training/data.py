"""The data that a recipe trains on: a fraction of the samples, some with other labels, some set apart as poison."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import IntArray
from landscape_kernels.probes import derive_seed
from torch import Tensor

from landscape.errors import InputError, user_code
from landscape.objective.batches import as_whole, inputs_and_targets
from landscape.objective.counting import LABEL_KEYS
from landscape.objective.random_state import random_state_kept
from landscape.objective.trees import has_batch_axis, map_tensors, tensors_in
from landscape.studies.training.recipe import Recipe

IGNORED = -100  # label of samples that have none, as torch has it


class DataSets:
    """The training and test data of every cell: the same for all, or what functions make of some of the keys."""

    def __init__(self, data: Any, test: Any = None) -> None:
        self._given = {"data": data, "test": test}
        self._made: dict[str, Any] = {}  # by the function and what it was called with

    @property
    def one(self) -> bool:
        """Whether all cells have the same data."""
        return not any(map(callable, self._given.values()))

    def keys(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of a cell that its data follow from."""
        return {key: value for name in self._given for key, value in self._arguments(name, cell).items()}

    def data(self, cell: Mapping[str, Any]) -> Any:
        """What the models of a cell are trained on, before a fraction or label noise is taken of it."""
        return self._of("data", cell)

    def test(self, cell: Mapping[str, Any]) -> Any:
        """Their test data; None where there are none."""
        return self._of("test", cell)

    def _arguments(self, name: str, cell: Mapping[str, Any]) -> dict[str, Any]:
        function = self._given[name]
        if not callable(function):
            return {}
        parameters = inspect.signature(function).parameters
        if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            raise InputError(
                f"{name}= is a function of any keys; let it name those that it takes, as def data(dataset)"
            )
        needed = [one.name for one in parameters.values() if one.default is one.empty and one.name not in cell]
        if needed:
            raise InputError(f"{name}= is a function of {needed[0]!r}, which is no key of cells; name its values there")
        return {key: cell[key] for key in parameters if key in cell}

    def _of(self, name: str, cell: Mapping[str, Any]) -> Any:
        function = self._given[name]
        if not callable(function):
            return function
        arguments = self._arguments(name, cell)
        place = f"{name} {arguments}"
        if place not in self._made:
            with (
                random_state_kept(),
                user_code(f"the function given as {name}= cannot be called", lambda: f"{arguments}"),
            ):
                self._made[place] = function(**arguments)
        return self._made[place]


def trained_on(data: Any, recipe: Recipe) -> Any:
    """The data that a recipe trains on: `data` itself where it says neither fraction, label noise nor poison.

    The samples of a smaller fraction are among those of a larger one, and so are, of one fraction, the samples whose
    labels are changed, and those that are poison: all are the first ones of an order that follows from `data_seed`.
    Raises InputError for data that are not tensors or arrays (inputs, targets), and for targets that are no class
    labels.
    """
    if recipe.fraction == 1 and recipe.label_noise == 0 and recipe.poison == 0:
        return data
    whole = _whole(data)
    kept = _kept(whole, recipe)
    clean = kept[~np.isin(kept, _set_apart(whole, kept, recipe))]
    if not len(clean):
        raise InputError(f"poison={recipe.poison} leaves none of {len(kept)} samples that are right; give less")
    part = _rows(whole, clean)
    if recipe.label_noise == 0:
        return part
    labels = _labels(whole, "label_noise changes")
    order = _order(_samples(whole), recipe, "noise")
    changed = order[np.isin(order, clean)][: round(recipe.label_noise * len(clean))]
    found = torch.from_numpy(_noisy(labels.cpu().numpy(), changed, recipe))
    return _with_labels(part, found[torch.from_numpy(clean)].to(labels.device, labels.dtype))


def poison_of(data: Any, recipe: Recipe) -> Any:
    """The samples that are trained to be wrong, None where there are none.

    With poison_loss="wrong" each has another label than its own, uniformly among the classes and the same in every
    epoch; with "unlikely" its own. Raises InputError as `trained_on`, and where there are not two classes.
    """
    if recipe.poison == 0:
        return None
    whole = _whole(data)
    apart = _set_apart(whole, _kept(whole, recipe), recipe)
    if not len(apart):
        raise InputError(
            f"poison={recipe.poison} of {_samples(whole)} samples is less than one; give more, or leave it out"
        )
    part = _rows(whole, apart)
    if recipe.poison_loss == "unlikely":
        return part
    labels = _labels(whole, "poison changes")
    classes = int(labels.max()) + 1
    if classes < 2:
        raise InputError("poison needs two classes or more, so that a label can be wrong")
    random = np.random.Generator(np.random.Philox(key=derive_seed(recipe.data_seed, "wrong")))
    by = random.integers(1, classes, _samples(whole))  # one for each sample, whether it is used or not
    wrong = (labels.cpu().numpy() + by) % classes
    return _with_labels(part, torch.from_numpy(wrong[apart]).to(labels.device, labels.dtype))


def _whole(data: Any) -> Any:
    whole = as_whole(data)
    if whole is None or not has_batch_axis(whole):
        raise InputError(
            "fraction, label_noise and poison need the data as tensors, (inputs, targets), and not as "
            f"{type(data).__name__}"
        )
    return whole


def _samples(whole: Any) -> int:
    return int(next(tensors_in(whole)).shape[0])


def _kept(whole: Any, recipe: Recipe) -> IntArray:
    """The samples of the fraction, ascending."""
    samples = _samples(whole)
    kept: IntArray = np.sort(_order(samples, recipe, "fraction")[: max(1, round(recipe.fraction * samples))])
    return kept


def _set_apart(whole: Any, kept: IntArray, recipe: Recipe) -> IntArray:
    """Those of the kept samples that are poison, ascending; all of them have a label."""
    if recipe.poison == 0:
        return kept[:0]
    labels = _labels(whole, "poison changes").cpu().numpy()
    order = _order(_samples(whole), recipe, "poison")
    order = order[np.isin(order, kept) & (labels[order] != IGNORED)]
    return np.sort(order[: round(recipe.poison * len(kept))])


def _rows(whole: Any, rows: IntArray) -> Any:
    index = torch.from_numpy(rows)
    return map_tensors(whole, lambda tensor: tensor[index.to(tensor.device)])


def _labels(whole: Any, what: str) -> Tensor:
    *_, labels = inputs_and_targets(whole)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
        raise InputError(f"{what} labels of classes, whole numbers (samples,), and the targets are none")
    return labels


def _order(samples: int, recipe: Recipe, purpose: str) -> IntArray:
    random = np.random.Generator(np.random.Philox(key=derive_seed(recipe.data_seed, purpose)))
    order: IntArray = random.permutation(samples)
    return order


def _noisy(labels: IntArray, changed: IntArray, recipe: Recipe) -> IntArray:
    """The labels, of which those at `changed` are drawn anew over all classes, or permuted among each other."""
    found, changed = labels.copy(), changed[labels[changed] != IGNORED]
    random = np.random.Generator(np.random.Philox(key=derive_seed(recipe.data_seed, "labels")))
    drawn = random.integers(0, int(labels.max()) + 1, len(labels))  # one for each sample, whether it is used or not
    found[changed] = drawn[changed] if recipe.noise == "redrawn" else labels[random.permutation(changed)]
    return found


def _with_labels(batch: Any, labels: Tensor) -> Any:
    """The batch with other labels."""
    if isinstance(batch, Mapping):
        key = next(key for key in LABEL_KEYS if key in batch)
        return {**batch, key: labels}
    names = getattr(batch, "_fields", ())
    named = next((key for key in LABEL_KEYS if key in names), None)
    if named is not None:
        return batch._replace(**{named: labels})
    return (*batch[:-1], labels)
