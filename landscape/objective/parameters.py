"""Which parameters are meant: names, patterns, layers."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from landscape_kernels.layout import Block, Layout

from landscape.errors import InputError, nearest
from landscape.objective.objective import Objective


def select_blocks(objective: Objective, params: str | Sequence[str] | None) -> tuple[Block, ...]:
    """Blocks of the flat vector that `params` names: a module ("layer1"), a parameter, or a pattern ("*.weight").

    None means all. Raises InputError for a name without a match, listing the nearest.
    """
    blocks = objective.layout.blocks
    if params is None:
        return blocks
    chosen: set[str] = set()
    for pattern in [params] if isinstance(params, str) else list(params):
        found = {b.name for b in blocks if b.name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(b.name, pattern)}
        if not found:
            modules = {name.rpartition(".")[0] for name in objective.layout.names} - {""}
            raise InputError(
                f"params={pattern!r} matches no trainable parameter; "
                f"{nearest(pattern, {*objective.layout.names, *modules})}"
            )
        chosen |= found
    if not chosen:
        raise InputError("params is empty; leave it out to take all parameters, or name modules, parameters, patterns")
    return tuple(block for block in blocks if block.name in chosen)


_KINDS = ("bias", "norm", "embedding", "weight")


def blocks_matching(layout: Layout, ignore: Sequence[str]) -> list[Block]:
    """Blocks of the layout whose kind or name is one of the patterns. Raises InputError where one matches nothing."""
    matched: list[Block] = []
    for pattern in ignore:
        found = [b for b in layout.blocks if (b.kind == pattern or fnmatch.fnmatchcase(b.name, pattern))]
        if not found and pattern not in _KINDS:
            raise InputError(
                f"ignore={pattern!r} matches no parameter; kinds are {', '.join(_KINDS)}, and of the names "
                f"{nearest(pattern, layout.names)}"
            )
        matched += [b for b in found if b not in matched]
    return matched


def layers_of(names: Sequence[str]) -> dict[str, list[str]]:
    """{module name: its parameters among `names`}, in order; a parameter of the model itself is its own layer."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers
