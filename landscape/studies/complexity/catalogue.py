"""All measures of the engine, in order, and those that a call asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from landscape.errors import InputError, nearest
from landscape.studies.complexity import noise, norms, sharpness
from landscape.studies.complexity.entry import Measure, imported

_PARTS = (norms.MEASURES, noise.MEASURES, norms.OTHERS, sharpness.MEASURES)
MEASURES: dict[str, Measure] = {one.name: one for part in _PARTS for one in part}
SETS = {"all": tuple(MEASURES), "jiang": tuple(n for n, one in MEASURES.items() if one.source.startswith("Jiang"))}


def chosen(asked: Any) -> tuple[Measure, ...]:
    """The measures that are meant: names, sets of them, "package.module:callable", or Measures.

    Raises InputError for one that is not known, for a name that two measures have, and for none.
    """
    listed: Iterable[Any] = asked if isinstance(asked, (list, tuple)) else [asked]
    found: dict[str, Measure] = {}
    for one in listed:
        for measure in _meant(one):
            if found.setdefault(measure.name, measure) is not measure:
                raise InputError(f"two measures are called {measure.name!r}; name one of them otherwise")
    if not found:
        raise InputError(f"measures={asked!r} names none; give 'all', or one or more of {', '.join(MEASURES)}")
    return tuple(found.values())


def _meant(one: Any) -> tuple[Measure, ...]:
    if isinstance(one, Measure):
        return (one,)
    if not isinstance(one, str):
        raise InputError(
            f"measures holds a {type(one).__name__}; give names, or ls.measure(name, function) for one of your own"
        )
    if one in SETS:
        return tuple(MEASURES[name] for name in SETS[one])
    if one in MEASURES:
        return (MEASURES[one],)
    if ":" in one:
        return (imported(one),)
    raise InputError(
        f"measure {one!r} is not known; {nearest(one, [*MEASURES, *SETS])} One of your own is "
        "ls.measure(name, function), or 'package.module:callable'."
    )
