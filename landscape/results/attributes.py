"""Where a result comes from, for its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from landscape.results.study import place_text, study_of
from landscape.run.store import History
from landscape.run.task import Description


def result_attributes(description: Description, history: History) -> dict[str, Any]:
    """Where a result comes from, for its file: the objective, the data, and who computed it when and with what."""
    objective = description.identity["objective"]
    return {
        "task": description.name,
        **{name: objective[name] for name in ("model", "parameters", "samples", "loss", "precision", "chunk")},
        "metrics": objective["metrics"],
        "checkpoint_hash": objective["centre"],
        "data_hash": objective["data"],
        "device": description.about["device"],
        **provenance(description, history),
    }


def provenance(description: Description, history: History) -> dict[str, Any]:
    """Who computed a result when and with what, and which items failed, for its file."""
    attributes: dict[str, Any] = {"job": history.job, "attempts": list(history.attempts)}
    if others := description.about.get("other_data"):  # models that were trained on other data than those given
        attributes["other_data"] = others
    if history.failed:
        place = study_of(description.name).place
        attributes["failures"] = [
            {"item": item, "reason": reason, "where": place_text(place(description, item))}
            for item, reason in history.failed.items()
        ]
    if history.attempts:
        last = history.attempts[-1]
        keys = ("host", "command", "git", "libraries", "python", "platform", "ranks", "threads", "gpu", "ended")
        attributes |= {key: last[key] for key in keys if key in last}
        attributes["started"] = history.attempts[0]["started"]
    return attributes


def whole_time(histories: Iterable[History]) -> dict[str, str]:
    """When the first of several tasks of one run began, and the last ended."""
    attempts = [attempt for history in histories for attempt in history.attempts]
    started = [attempt["started"] for attempt in attempts if "started" in attempt]
    ended = [attempt["ended"] for attempt in attempts if "ended" in attempt]
    return ({"started": min(started)} if started else {}) | ({"ended": max(ended)} if ended else {})


EXACT = "values are exact for the data given (a full pass); stderr is for the population they were drawn from"
_WHAT = (
    "model",
    "parameters",
    "samples",
    "loss",
    "metrics",
    "operator",
    "params",
    "weight_decay",
    "precision",
    "batchnorm",
    "statistics_samples",
    "test_samples",
    "train",
    "fit",
    "align",
    "seed",
    "device",
    "route",
    "method",
    "tol",
    "probes",
)
_NOTHING = ("", "{}", "[]", "0", "0.0", "None", "none")


def what(about: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """What was measured on what, as far as a result tells; `without` names what its tables say elsewhere."""
    told = {k: about[k] for k in _WHAT if k not in without and str(about.get(k, "")) not in _NOTHING}
    return told | ({"trained on other data": about["other_data"]} if about.get("other_data") else {})
