"""The gate of all that takes an objective: what is given is one, and the caller's random streams stay."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.objective.random_state import keeps_random_state

P = ParamSpec("P")
R = TypeVar("R")


def of_objective(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose first argument is an Objective, which is looked at first; see `keeps_random_state` for the rest.

    Raises InputError for another first argument.
    """
    kept = keeps_random_state(function)

    @wraps(function)
    def asking(*args: P.args, **kwargs: P.kwargs) -> R:
        if args or "objective" in kwargs:
            require_objective(args[0] if args else kwargs["objective"])
        return kept(*args, **kwargs)

    return asking


def require_objective(given: Any) -> None:
    """Raise InputError for what is no Objective: a model, say, of which loss and data are not known."""
    if not isinstance(given, Objective):
        model = ", a model without loss and data" if hasattr(given, "state_dict") else ""
        raise InputError(f"objective is of type {type(given).__name__}{model}; give ls.Objective(model, loss, data)")
