"""Arrays of any kind that numpy can read, as tensors: at once, or in slices where they lie in a file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError, user_code


def is_array(value: object) -> bool:
    """Whether numpy can read it as an array: arrays, data frames, images, variables of files; no tensor, no number."""
    if isinstance(value, (Tensor, np.generic, type)):
        return False
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def as_tensor(value: Any) -> Tensor:
    """The values of an array as a tensor. Raises InputError for what torch cannot hold, and for hidden values."""
    with user_code(f"numpy cannot read {type(value).__name__} in the data"):
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any()):
        raise InputError(
            "a masked array with values left out is in the data; fill them, or leave those samples out, and give "
            "np.asarray(...)"
        )
    array = np.asarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.as_tensor(np.ascontiguousarray(array) if array.ndim else array)
    except (TypeError, ValueError) as error:
        kind = "" if isinstance(value, np.ndarray) else f" ({type(value).__module__}.{type(value).__name__})"
        raise InputError(
            f"an array of {array.dtype} values{kind} is in the data, which torch cannot hold: {error}"
        ) from error


class LazyArray:
    """An array that lies elsewhere (in a file of HDF5, say), read in slices along its first axis."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.shape: tuple[int, ...] = tuple(int(n) for n in source.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, the last one left out."""
        return as_tensor(np.asarray(self._read(slice(start, stop))))

    def taken(self, numbers: Sequence[int]) -> Tensor:
        """The rows of the given numbers, in their order; neighbours are read together."""
        order = sorted(set(numbers))
        runs: list[list[int]] = []
        for number in order:
            if runs and runs[-1][-1] == number - 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        read = torch.cat([self.rows(run[0], run[-1] + 1) for run in runs])
        places = {number: place for place, number in enumerate(order)}
        return read[torch.tensor([places[number] for number in numbers], dtype=torch.long)]

    def whole(self) -> Tensor:
        """All rows."""
        return self.rows(0, self.shape[0])

    def _read(self, part: slice) -> Any:
        with user_code(f"rows {part.start} to {part.stop} of {type(self._source).__name__} cannot be read"):
            return self._source[part]


def is_lazy(value: Any) -> bool:
    """Whether an array lies elsewhere: it has a shape and gives slices, and is neither in memory nor a data frame."""
    if isinstance(value, np.ndarray) or hasattr(value, "iloc") or not hasattr(value, "__getitem__"):
        return False
    shape = getattr(value, "shape", None)
    return isinstance(shape, tuple) and len(shape) > 0
