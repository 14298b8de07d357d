"""What is asked of every model of a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from landscape.arguments import Seed
from landscape.errors import InputError, nearest
from landscape.results.settings import Settings
from landscape.studies.corpus_table.metric_sets import METRIC_SETS


class _Sets:
    """Names of sets of metrics, one or several."""

    def check(self, name: str, value: Any) -> Any:
        """The names as a tuple. Raises InputError for none, one twice, and one that is not known."""
        listed = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
        if not listed:
            raise InputError(f"no set of metrics is named; give one or more of {', '.join(METRIC_SETS)}")
        for one in listed:
            if one not in METRIC_SETS:
                raise InputError(f"{one!r} is no set of metrics; {nearest(str(one), METRIC_SETS)}")
        if len(set(listed)) < len(listed):
            raise InputError(f"a set of metrics is named twice: {', '.join(listed)}")
        return tuple(listed)


@dataclass(frozen=True)
class CorpusTableSettings(Settings):
    """Which sets of metrics, and on how many samples those that need data; see `measure_corpus`."""

    measure: Annotated[tuple[str, ...], _Sets()] = ("weights",)
    samples: Annotated[int, Ge(2)] | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            object.__setattr__(self, "measure", _Sets().check("measure", self.measure))
        except InputError as error:
            raise InputError(f"measure: {error}") from None
