"""The rows of corpora."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Input, Study, of_rows
from landscape.run.task import Description
from landscape.studies.corpus.measure import analyse_corpus, corpus_from_rows, corpus_task
from landscape.studies.corpus.result import Corpus
from landscape.studies.corpus.schema import corpus_group, read_corpus
from landscape.studies.corpus.settings import CorpusSettings
from landscape.studies.corpus.tables import corpus_columns, corpus_tables


def _pictures() -> Pictures[Corpus]:
    from landscape.studies.corpus.pictures import PICTURES

    return PICTURES


def _views() -> Views[Corpus]:
    from landscape.studies.corpus.views import corpus_views

    return corpus_views


def place(description: Description, item: int) -> dict[str, float | str]:
    """The metric, and what groups the models."""
    metric, grouping = description.identity["rows"][item]
    return {"metric": str(metric), "groups": str(grouping)}


KIND = Kind(
    "corpus",
    "corpus of models",
    Corpus,
    corpus_group,
    read_corpus,
    corpus_tables,
    corpus_columns,
    _pictures,
    _views,
    unit="metrics",
    flat=False,
)
STUDY = Study(
    "corpus",
    KIND,
    analyse_corpus,
    ("corpus",),
    of_rows(corpus_from_rows),
    settings=CorpusSettings,
    inputs={"table": Input("table", required=True)},
    task=corpus_task,
    place=place,
    subject="table",
    needs=(),
    unit="metrics",
)
