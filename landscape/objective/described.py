"""Texts that tell callables apart: a stable name of a function, its settings and its code."""

from __future__ import annotations

import functools
import hashlib
from types import CodeType
from typing import Any

from torch import Tensor

from landscape.objective.trees import digest

_PLAIN = (int, float, str, bool, Tensor, type(None))  # settings of a callable that its description shows


def describe_callable(function: Any) -> str:
    """A stable text for a callable: module, name and settings, without memory addresses."""
    if isinstance(function, functools.partial):
        settings = [_describe_value(v) for v in function.args]
        settings += [f"{k}={_describe_value(v)}" for k, v in sorted(function.keywords.items())]
        return f"{describe_callable(function.func)}({', '.join(settings)})"
    name = getattr(function, "__qualname__", None)
    if name is not None:
        return f"{getattr(function, '__module__', '?')}.{name}{_code_digest(function)}"
    given = {**getattr(function, "__dict__", {}), **getattr(function, "_buffers", {})}
    states = getattr(function, "_defaults", {})  # what a metric of torchmetrics has gathered is no setting
    settings = [
        f"{k}={_describe_value(v)}"
        for k, v in sorted(given.items())
        if not k.startswith("_") and k != "training" and k not in states and isinstance(v, _PLAIN)
    ]
    learned = own_parameters(function)
    if learned:
        settings.append(f"parameters={digest(*learned.values())}")
    return f"{type(function).__module__}.{type(function).__qualname__}({', '.join(settings)})"


def own_parameters(function: Any) -> dict[str, Tensor]:
    """The parameters of a criterion that is a module, by name; {} for any other callable."""
    named = getattr(function, "named_parameters", None)
    return dict(named()) if callable(named) and not isinstance(function, type) else {}


def _code_digest(function: Any) -> str:
    """Tells apart functions of one name, as lambdas are: a digest of what the user's own code compiles to."""
    code = getattr(function, "__code__", None)
    if code is None or str(function.__module__).startswith("torch."):
        return ""
    captured = [cell.cell_contents for cell in function.__closure__ or ()]
    given = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *captured]
    text = repr(_code_parts(code)) + "".join(
        _describe_value(v) if isinstance(v, _PLAIN) else getattr(v, "__qualname__", type(v).__qualname__) for v in given
    )
    return "#" + hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _code_parts(code: CodeType) -> tuple[Any, ...]:
    constants = [
        _code_parts(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else c
        for c in code.co_consts
    ]
    return (code.co_code, constants, code.co_names)


def _describe_value(value: Any) -> str:
    return str(value.tolist()) if isinstance(value, Tensor) else repr(value)
