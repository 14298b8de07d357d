"""The rows of corpora, which are made of a table: they have no run."""

from __future__ import annotations

from landscape.results.kind import Kind, Pictures, Views
from landscape.results.study import Study
from landscape.studies.corpus.result import Corpus
from landscape.studies.corpus.schema import corpus_group, read_corpus
from landscape.studies.corpus.tables import corpus_columns, corpus_tables


def _pictures() -> Pictures[Corpus]:
    from landscape.studies.corpus.pictures import PICTURES

    return PICTURES


def _views() -> Views[Corpus]:
    from landscape.studies.corpus.views import corpus_views

    return corpus_views


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
STUDY = Study("corpus", KIND, None)
