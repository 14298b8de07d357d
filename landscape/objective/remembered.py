"""What modules remember from call to call outside of their buffers: attributes that a forward pass sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_LOOKED_AFTER = ("_parameters", "_buffers", "_modules", "training")  # of every module, elsewhere


class Remembered:
    """The attributes of modules, {name: module}, at one moment: dicts and lists by what they hold then.

    A forward pass that makes something of the parameters once and finds it at the next call is seen by what changed.
    """

    def __init__(self, modules: Mapping[str, object]) -> None:
        self._modules = dict(modules)
        self._before = {name: _attributes(module) for name, module in self._modules.items()}

    def changed(self) -> list[str]:
        """Names of the attributes that are new or hold something else now, as "module.attribute"."""
        return [f"{name}.{key}".lstrip(".") for name, key in self._changed()]

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """Inside, what changed is as it was; then as it was found."""
        changed = self._changed()
        now = [(name, key, vars(self._modules[name]).get(key, self)) for name, key in changed]
        self._put([(name, key, _copied(self._before[name].get(key, self))) for name, key in changed])
        try:
            yield
        finally:
            self._put(now)

    def _changed(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for name, module in self._modules.items():
            before, now = self._before[name], _attributes(module)
            keys = [*now, *(key for key in before if key not in now)]
            found += [(name, key) for key in keys if not _same(before.get(key, self), now.get(key, self))]
        return found

    def _put(self, values: list[tuple[str, str, Any]]) -> None:
        for name, key, value in values:
            if value is self:  # it was not there
                self._modules[name].__dict__.pop(key, None)
            else:
                self._modules[name].__dict__[key] = value


def _attributes(module: object) -> dict[str, Any]:
    return {key: _copied(value) for key, value in vars(module).items() if key not in _LOOKED_AFTER}


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in (dict, list) else value


def _same(one: Any, other: Any) -> bool:
    if type(one) is dict and type(other) is dict:
        return list(one) == list(other) and all(one[key] is other[key] for key in one)
    if type(one) is list and type(other) is list:
        return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    return one is other
