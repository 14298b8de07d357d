"""Measure: one number that a network is given, its definition, and what it needs."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.arguments import checked
from landscape.errors import InputError, nearest, text_of
from landscape.results.estimate import Estimate
from landscape.studies.complexity.subject import NO_INITIAL, Subject

# What a measure may need -> what to do where it is not there.
NEEDS = {
    "initial": NO_INITIAL,
    "margins": "there are no margins",
}
ADJUSTMENTS = ("", "log", "root")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]*")


@dataclass(frozen=True)
class Measure:
    """One entry of the table of measures; see `measure`.

    `adjustment` is what Jiang et al. do to compare it with a gap between training and test: "log" is (v - ln m) / 2,
    "root" sqrt(v / m), m the number of training samples; "" is none.
    """

    name: str
    function: Callable[[Subject], Any]
    needs: tuple[str, ...] = ()
    formula: str = ""
    source: str = ""
    adjustment: str = ""
    family: str = ""  # measures that share work; they are one item of a run
    own: bool = False  # whether it is the user's

    @checked()
    def adjusted(self, value: Estimate, samples: int) -> Estimate:
        """The value after adjustment, its error by the first derivative; NaN for measures without one.

        >>> one = Measure("path_norm", lambda subject: 8.0, adjustment="root")
        >>> one.adjusted(Estimate(8.0, stderr=0.8, n=2), 2)
        Estimate(2.0, stderr=0.1, n=2)
        """
        v, error = float(value), value.stderr
        if self.adjustment == "log":
            return Estimate((v - math.log(samples)) / 2, stderr=error / 2, n=value.n, unit=value.unit)
        if self.adjustment == "root" and v >= 0:
            root = math.sqrt(v / samples)
            slope = 1 / (2 * root * samples) if root > 0 else math.nan
            return Estimate(root, stderr=0.0 if error == 0 else error * slope, n=value.n, unit=value.unit)
        return Estimate(math.nan, stderr=math.nan, n=value.n, unit=value.unit)


@checked()
def measure(name: str, function: Callable[[Subject], Any], needs: str | Sequence[str] = ()) -> Measure:
    """A measure of the user's own, for `measures=` of a call, or of a job as "package.module:callable".

    `function(subject)` returns a number, or an Estimate where it has an error; see `Subject` for what is at hand:
    `subject.objective`, `subject.theta`, `subject.weights`. `needs` are "initial" (then `subject.initial` is the flat
    vector of the weights that training began from) and "margins" (then `subject.margins` has one for each sample);
    where a call does not have them, the measure says so and is skipped. Raises InputError for a name that cannot be
    one, for what is not callable, and for needs that are not known.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"measure name {name!r}: a letter, then letters, digits, '_', '-' and '.'")
    if not callable(function):
        raise InputError(f"measure {name!r}: function is a {type(function).__name__}; give a function of the subject")
    asked = (needs,) if isinstance(needs, str) else tuple(needs)
    for one in asked:
        if one not in NEEDS:
            raise InputError(f"measure {name!r} needs {one!r}; {nearest(str(one), NEEDS)}")
    return Measure(name, function, asked, own=True, source="the user's own", family=f"own {name}")


def imported(path: str) -> Measure:
    """The measure "package.module:callable"; one made by `measure` keeps its name, a function is called by its own.

    Raises InputError saying what failed.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a module can raise anything while it is executed
        raise InputError(
            f"measure {path!r}: module {module_name!r} cannot be imported, {type(error).__name__}: {text_of(error)}. "
            "Put it beside the job file or into the current folder, or install it."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")]
            raise InputError(f"measure {path!r}: {module_name} has no {attribute!r}; {nearest(part, public)}")
        found = getattr(found, part)
    if isinstance(found, Measure):
        return found
    if not callable(found):
        raise InputError(f"measure {path!r} is a {type(found).__name__}; give a function of the subject")
    return measure(str(getattr(found, "__name__", attribute)).strip("<>"), found)


def as_estimate(value: Any, unit: str = "weight") -> Estimate:
    """What a measure returned as an Estimate. Raises InputError for what is not one real number."""
    if isinstance(value, Estimate):
        return value
    if value is None:
        raise InputError("it returned None; a measure is one real number")
    detached = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    try:
        array = np.asarray(detached, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"it returned a {type(value).__name__}; a measure is one real number") from error
    if array.size != 1:
        raise InputError(f"it returned {array.size} values of shape {array.shape}; a measure is one number")
    return Estimate(float(array.reshape(())), stderr=math.nan, n=1, unit=unit)
