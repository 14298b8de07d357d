"""The cells of a map that trained models lie in."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from landscape.checkpoints.trained import TrainedModels
from landscape.errors import InputError, nearest
from landscape.studies.phases.cells import Cells, Place


@dataclass(frozen=True)
class Map:
    """Which models are in which cell of load and temperature."""

    cells: Cells
    rows: Mapping[Place, tuple[int, ...]]  # of the models that have final weights
    lost: Mapping[Place, tuple[str, ...]]  # why others have none

    @property
    def ordered(self) -> list[tuple[Place, int]]:
        """(place, row) of every model that is there, cell by cell."""
        return [(place, row) for place, rows in self.rows.items() for row in rows]


def mapped(models: TrainedModels, load: str, temperature: str) -> Map:
    """The cells that models lie in. Raises InputError for keys that are not there, or no axes of a map."""
    for name, key in (("load", load), ("temperature", temperature)):
        if key not in models.keys:
            raise InputError(f"{name}={key!r} is no key of the models; {nearest(key, models.keys)}")
    others = [name for name in models.keys if name not in (load, temperature)]
    for name in others:
        values = list(dict.fromkeys(models.keys[name]))
        if len(values) > 1:
            shown = ", ".join(map(str, values[:4]))
            raise InputError(
                f"the models differ in {name!r}, too ({shown}): a map has two axes, {load!r} and {temperature!r}; give "
                f"models of one {name}, or name it as an axis"
            )
    rows: dict[Place, list[int]] = defaultdict(list)
    lost: dict[Place, list[str]] = defaultdict(list)
    for row in range(len(models)):
        place = (_number(models, load, row), _number(models, temperature, row))
        if models.final[row] is not None:
            rows[place].append(row)
        else:
            lost[place].append(f"seed {models.seed[row]}: {models.left_out.get(row, 'it has no final weights')}")
    if not any(len(found) > 1 for found in rows.values()):
        most = max(map(len, rows.values()), default=0)
        raise InputError(
            f"no cell of {load!r} and {temperature!r} has two trained models (at most {most}), and mode connectivity "
            "and CKA are of pairs of seeds; train two seeds or more of each cell"
        )
    places = sorted({*rows, *lost})
    return Map(
        Cells.of(places),
        {place: tuple(rows[place]) for place in places if place in rows},
        {place: tuple(found) for place, found in lost.items()},
    )


def _number(models: TrainedModels, key: str, row: int) -> float:
    value = models.keys[key][row]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(float(value)):  # type: ignore[arg-type]
        raise InputError(
            f"the key {key!r} of model {models.label(row)} is {value!r}; an axis of a map has finite numbers"
        )
    return float(value)  # type: ignore[arg-type]
