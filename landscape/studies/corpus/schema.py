"""An analysed corpus in files.

corpus      metric (row), grouping (row), models (row), simpson (row), note (row); STATISTIC (row), ...;
            column (column); table (column, model); grouping_name (grouping_name), group_0 (model), ...;
            in the sub-group "inside" metric (line), grouping, group, models, kendall, spearman, slope
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from landscape.files import hdf5
from landscape.files.fields import array, names, texts
from landscape.files.schema import read_attributes, reading
from landscape.studies.corpus.result import WORDS, Corpus, Inside

_STRUCTURE = ("target", "statistics")
_ENDS = {"low": "lower end of the interval: ", "high": "upper end of the interval: "}


def corpus_group(corpus: Corpus) -> hdf5.Group:
    """Variables over rows (a metric and a grouping) and models; what is inside the groups in a sub-group."""
    variables = {
        "metric": names("row", corpus.metric, "name of the metric"),
        "grouping": names("row", corpus.grouping, "name of the column that says the groups"),
        "models": array(("row",), corpus.models, "models with metric, target and group known"),
        "simpson": names("row", corpus.simpson, "whether tau overall and within have opposite signs"),
        "note": names("row", corpus.note, "what was left out, and why a value is missing"),
    }
    for name, values in corpus.values.items():
        stem, _, end = name.rpartition("_")
        words = _ENDS[end] + WORDS[stem] if end in _ENDS else WORDS[name]
        variables[name] = array(("row",), values, words)
    variables["column"] = names("column", corpus.columns, "name of the target or metric")
    cells = np.array(list(corpus.columns.values())).reshape(len(corpus.columns), -1)
    variables["table"] = array(("column", "model"), cells, "value of each model; NaN where the cell is missing")
    variables["grouping_name"] = names("grouping_name", corpus.groups, "name of the column that says the groups")
    for k, labels in enumerate(corpus.groups.values()):
        variables[f"group_{k}"] = names("model", labels, "group of each model by the grouping of this number")
    inside = corpus.inside
    found = {
        "metric": names("line", inside.metric, "name of the metric"),
        "grouping": names("line", inside.grouping, "name of the column that says the groups"),
        "group": names("line", inside.group, "name of the group"),
        "models": array(("line",), inside.models, "models known in the group"),
        "kendall": array(("line",), inside.kendall, "Kendall's tau-b in the group"),
        "spearman": array(("line",), inside.spearman, "Spearman's rho in the group"),
        "slope": array(("line",), inside.slope, "slope of the least-squares line of the target on the metric"),
    }
    structure = {"target": corpus.target, "statistics": " ".join(corpus.values)}
    return hdf5.Group(variables, structure, {"inside": hdf5.Group(found)})


def read_corpus(tree: hdf5.Group, path: str | Path) -> Corpus:
    """The corpus in the tree of a file. Raises StoreError for a newer schema or a tree without it."""
    with reading(tree, "corpus", path) as group:
        v, inside = group.variables, group.groups["inside"].variables
        return Corpus(
            target=str(group.attributes["target"]),
            metric=texts(v["metric"]),
            grouping=texts(v["grouping"]),
            models=v["models"].data,
            values={name: v[name].data for name in str(group.attributes["statistics"]).split()},
            simpson=texts(v["simpson"]),
            note=texts(v["note"]),
            inside=Inside(
                metric=texts(inside["metric"]),
                grouping=texts(inside["grouping"]),
                group=texts(inside["group"]),
                models=inside["models"].data,
                kendall=inside["kendall"].data,
                spearman=inside["spearman"].data,
                slope=inside["slope"].data,
            ),
            columns=dict(zip(texts(v["column"]), v["table"].data, strict=True)),
            groups={name: texts(v[f"group_{k}"]) for k, name in enumerate(texts(v["grouping_name"]))},
            attributes=read_attributes(tree, "corpus", _STRUCTURE),
        )
