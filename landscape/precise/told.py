"""How results to a stated error tell it: in fields, words, tables, columns and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from landscape_kernels.arrays import FloatArray

from landscape.files import hdf5
from landscape.precise.task import Settled, settled
from landscape.results.quantities import words
from landscape.run.store import History
from landscape.run.task import Description, Rows

FOUND = ("anchor", "sampled", "interpolated")  # how the value at a point was found: "anchor" is a full pass
NOT_COMPUTED = ""
ERRORS = ("error", "error_sampling", "error_interpolation")  # of results measured to a stated error
UNSURE = "±2 errors of what was not measured"  # in the legend of a picture
ESTIMATED = (
    "error is one standard error of a value as an estimate of a full pass over the data given, 0 where there was one; "
    "stderr is for the population they were drawn from"
)
_LONG_NAMES = {
    "error": "standard error of {} as an estimate of a full pass over the data given",
    "error_sampling": "the part of the error of {} that is of samples not looked at",
    "error_interpolation": "the part of the error of {} that is of points not looked at",
}
_LABELS = {
    "error": "standard error of",
    "error_sampling": "error by samples of",
    "error_interpolation": "error by interpolation of",
}
_CODES = (*FOUND, NOT_COMPUTED)  # their numbers in files


_Result = TypeVar("_Result")


class Precise(Protocol):
    """A result that may be measured to a stated error: all None and nothing in the attributes where it was not."""

    @property
    def values(self) -> Mapping[str, FloatArray]:
        """Quantity -> value at each point."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """With what was asked and the work."""

    @property
    def error(self) -> Mapping[str, FloatArray] | None:
        """Quantity -> one standard error of what a full pass gives, at each point."""

    @property
    def error_sampling(self) -> Mapping[str, FloatArray] | None:
        """The part of it that is of samples."""

    @property
    def error_interpolation(self) -> Mapping[str, FloatArray] | None:
        """The part of it that is of points."""

    @property
    def found(self) -> npt.NDArray[np.str_] | None:
        """Of FOUND or "", at each point."""


def told(result: Precise) -> Iterator[tuple[str, str, FloatArray]]:
    """(quantity, of ERRORS, the errors) as far as a result has them."""
    for name in result.values:
        for part in ERRORS:
            errors: Mapping[str, FloatArray] | None = getattr(result, part)
            if errors is not None and name in errors:
                yield name, part, errors[name]


def errors_as_quantities(result: Precise) -> dict[str, FloatArray]:
    """{"loss_error": ..., ...}, to be drawn as the values are."""
    return {f"{name}_{part}": errors for name, part, errors in told(result)}


def quantity_label(result: Precise, quantity: str) -> str:
    """What a quantity of a result is, with its unit; of its errors, of what they are."""
    for name, part, _ in told(result):
        if quantity == f"{name}_{part}":
            return f"{_LABELS[part]} {words(name, result.attributes)}"
    return words(quantity, result.attributes)


def of_rows_to_an_error(
    made: Callable[[Description, Rows, History], _Result], description: Description, rows: Rows, history: History
) -> _Result:
    """The result that `made` makes of the rows of a task; of a precise one of what they settle, with its errors."""
    if "precision_asked" not in description.identity:
        return made(description, rows, history)
    found = settled(description, rows, history.failed)
    result: Any = made(description, found.rows, history)
    attributes = {**result.attributes, **found.about, "error": ESTIMATED}
    changed: _Result = replace(result, attributes=attributes, **_error_fields(found, result.computed.shape))
    return changed


def _error_fields(found: Settled, shape: tuple[int, ...]) -> dict[str, Any]:
    """The fields of a result that tell its errors, arrays of a shape, by their names."""
    parts = zip(ERRORS, (found.error, found.sampling, found.interpolation), strict=True)
    fields: dict[str, Any] = {
        part: {name: values.reshape(shape) for name, values in errors.items()} for part, errors in parts
    }
    return fields | {"found": np.array(_CODES)[found.found].reshape(shape)}


def precision_words(about: Mapping[str, Any]) -> str:
    """The error asked for and the work spent on it, "" where none was asked for."""
    if "error_asked" not in about:
        return ""
    return (
        f"error {about['error_asked']:g} {about['error_scale']} asked at {about['error_share']:.0%} of the points, "
        f"reached at {about['error_reached']:.1%} by {about['work']['share_of_brute_force']:.1%} of brute force"
    )


def precision_pairs(result: Precise) -> dict[str, str]:
    """The error asked for, where it was reached, and the work, for a table; {} where none was asked for."""
    about = result.attributes
    if result.found is None or "error_asked" not in about:
        return {}
    work = about["work"]
    counts = ", ".join(f"{int((result.found == name).sum()):,} {name}" for name in FOUND)
    return {
        "error asked": f"{about['error_asked']:g} {about['error_scale']}, at {about['error_share']:.0%} of the points",
        "error reached": f"at {about['error_reached']:.1%} of the points",
        "found": counts,
        "work": f"{_spent(work)}, {work['share_of_brute_force']:.1%} of brute force",
    }


def _spent(work: Mapping[str, Any]) -> str:
    if "products_of_all_data" in work:  # of a curvature map
        return f"{work['products_of_all_data']:,.1f} products of all data"
    return f"{work['full_passes']:,.1f} full passes"


def error_columns(result: Precise, quantity: str) -> dict[str, FloatArray]:
    """The columns that stand beside those of a quantity."""
    return {f"{name}_{part}": errors.ravel() for name, part, errors in told(result) if name == quantity}


def found_column(result: Precise) -> dict[str, list[str]]:
    """How each value was found."""
    return {} if result.found is None else {"found": result.found.ravel().tolist()}


def error_variables(result: Precise, quantity: str, dims: tuple[str, ...]) -> dict[str, hdf5.Variable]:
    """The variables of a file that stand beside those of a quantity."""
    return {
        f"{name}_{part}": hdf5.Variable(dims, errors, {"long_name": _LONG_NAMES[part].format(name), "units": "1"})
        for name, part, errors in told(result)
        if name == quantity
    }


def found_variable(result: Precise, dims: tuple[str, ...]) -> dict[str, hdf5.Variable]:
    """How each value was found, as a variable of a file."""
    if result.found is None:
        return {}
    named = ", ".join(f"{code} {name or 'not computed'}" for code, name in enumerate(_CODES))
    codes = np.select([result.found == name for name in _CODES], range(len(_CODES))).astype(np.uint8)
    return {"found": hdf5.Variable(dims, codes, {"long_name": f"how the value was found: {named}", "units": "1"})}


def read_errors(variables: Mapping[str, hdf5.Variable], quantities: Iterable[str]) -> dict[str, Any]:
    """The fields that tell errors, from the variables of a file; {} where it has none."""
    if "found" not in variables:
        return {}
    names = list(quantities)
    errors: dict[str, Any] = {
        part: {name: variables[f"{name}_{part}"].data for name in names}
        for part in ERRORS
        if f"{names[0]}_{part}" in variables
    }
    return errors | {"found": np.array(_CODES)[variables["found"].data]}
