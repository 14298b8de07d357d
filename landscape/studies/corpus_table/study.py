"""The row of the table of a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.results.study import DATA, Input, Study, of_rows
from landscape.results.trial import Trial, timed
from landscape.run.task import Description
from landscape.studies.corpus_table.measure import (
    MODEL,
    corpus_table_from_rows,
    corpus_table_task,
    measure_corpus,
)
from landscape.studies.corpus_table.settings import CorpusTableSettings
from landscape.studies.measures.study import KIND


def place(description: Description, item: int) -> dict[str, float | str]:
    """The model."""
    return {MODEL: str(description.about["labels"][item])}


def corpus_table_trial(models: Any, arguments: Mapping[str, Any], out: Path, ranks_per_item: int) -> Trial:
    """Two models, of which the first warms up; nothing is written."""
    return timed(corpus_table_task(models, **arguments), out, ranks_per_item, "models")


STUDY = Study(
    "corpus_table",
    KIND,
    measure_corpus,
    ("corpus_table",),
    of_rows(corpus_table_from_rows),
    settings=CorpusTableSettings,
    inputs={"models": Input("trained", required=True), "test": DATA},
    trial=corpus_table_trial,
    place=place,
    subject="models",
    needs=(),
    unit="models",
)
