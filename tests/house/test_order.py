"""The order of the house: a folder imports only from those that stand before it, nothing imports in a circle.

Lazy imports count; what stands under `if TYPE_CHECKING` loads nothing and may look up.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from test_house import calls, imported, trees

from landscape.studies.table import STUDIES

# From low to high. A folder, or a file at the top of a floor; "landscape" is the front door.
ORDER = (
    ("landscape_kernels",),
    ("landscape.errors",),
    ("landscape.arguments",),
    ("landscape.files", "landscape.pictures"),
    ("landscape.run",),
    ("landscape.results",),
    ("landscape.objective",),
    ("landscape.checkpoints",),
    ("landscape.planes", "landscape.network"),
    ("landscape.curvature", "landscape.descents", "landscape.precise"),
    ("landscape.studies",),
    ("landscape.opening",),
    ("landscape.compat", "landscape.lightning_callback", "landscape.transformers_callback"),
    ("landscape",),
    ("landscape_jobs.codes", "landscape_jobs.terminal", "landscape_jobs.spec"),
    ("landscape_jobs.build", "landscape_jobs.sweeps"),
    ("landscape_jobs.cluster",),
    ("landscape_jobs.status",),
    ("landscape_jobs.report",),
    ("landscape_jobs.commands",),
    ("landscape_jobs.demo", "landscape_jobs.toy_data"),
    ("landscape_jobs.cli",),
)
PLACE = {room: place for place, rooms in enumerate(ORDER) for room in rooms}

# A study imports another only where it is made of it.
MADE_OF = {
    "profiles": {"surface"},
    "topology": {"surface"},
    "curvature_map": {"spectrum", "surface"},
    "layer_spectra": {"spectrum"},
    "path": {"curve"},
    "connectivity": {"path", "curve"},
    "complexity": {"spectrum", "weights"},
    "diagonal": {"measures", "spectrum"},
    "basin": {"diagonal"},
    "layer_structure": {"layer_spectra", "spectrum"},
    "phases": {"agreement", "curve", "path", "spectrum", "training"},
    "weights": {"measures"},
    "corpus_table": {"complexity", "measures", "profiles", "spectrum", "training", "weights"},
    "corpus": {"measures"},
    "audit": {"complexity", "corpus", "training"},
    "forgetting": {"spectrum", "training"},
}


def name_of(path: str) -> str:
    """The dotted name of a module by its path."""
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): tree for path, tree in trees()}


def arrows(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """{module: modules of ours that it imports when it runs, in functions, too}."""
    whole = {name for name, tree in modules.items() if not _only_says(tree)}
    return {name: (loaded(tree) & whole) - {name} for name, tree in modules.items()}


@cache
def loaded(tree: ast.Module) -> frozenset[str]:
    """Modules and names that a file imports when it runs."""
    by_name = (
        str(call.args[0].value)
        for name, call in calls(tree)
        if name.endswith("import_module") and call.args and isinstance(call.args[0], ast.Constant)
    )
    return frozenset(imported(tree, at_run_time=True)) | frozenset(by_name)


@cache
def _only_says(tree: ast.Module) -> bool:
    """Whether a file is one sentence, as that of a folder is: `from folder import file` is no arrow to it."""
    return len(tree.body) <= 1


def room(name: str) -> str:
    """The folder or the file at the top of a floor that a module lies in."""
    return max((room for room in PLACE if name == room or name.startswith(f"{room}.")), key=len)


def upward(modules: dict[str, ast.Module]) -> list[str]:
    """Imports from a folder that stands later."""
    return [
        f"{name} imports {found}"
        for name, all_found in arrows(modules).items()
        for found in sorted(all_found)
        if PLACE[room(found)] > PLACE[room(name)]
        or (PLACE[room(found)] == PLACE[room(name)] and room(found) != room(name))
    ]


def circles(modules: dict[str, ast.Module]) -> list[list[str]]:
    """Modules that cannot be put into an order: what is left when those without arrows to others are taken away."""
    left = {name: set(found) for name, found in arrows(modules).items()}
    while free := {name for name, found in left.items() if not found & left.keys()}:
        left = {name: found for name, found in left.items() if name not in free}
    return [sorted(left)] if left else []


def private(modules: dict[str, ast.Module]) -> list[str]:
    """Names with an underscore that are imported from, or asked of, another file of ours."""
    found = []
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _FLOORS:
                found += [f"{name}: {node.module}.{a.name}" for a in node.names if a.name.startswith("_")]
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
                continue
            if _dotted(node.value) in _modules_imported(tree):
                found.append(f"{name}: {ast.unparse(node)}")
    return found


def _dotted(node: ast.expr) -> str:
    """The name `a.b.c` that an expression is; empty where it is none."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return before and f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


_FLOORS = ("landscape", "landscape_kernels", "landscape_jobs")


@cache
def _modules_imported(tree: ast.Module) -> set[str]:
    """Names under which a file knows modules of ours."""
    named = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _FLOORS
        for alias in node.names
        if f"{node.module}.{alias.name}" in MODULES
    }
    whole = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in MODULES
    }
    return named | whole


def between_studies(modules: dict[str, ast.Module]) -> list[str]:
    """Imports of a study by one that is not made of it."""
    studies = "landscape.studies."
    found = []
    for name, all_found in arrows(modules).items():
        mine = name.removeprefix(studies).split(".")[0]
        if not name.startswith(studies) or mine == "table":
            continue
        for other in sorted(all_found):
            theirs = other.removeprefix(studies).split(".")[0]
            if other.startswith(studies) and theirs != mine and theirs not in MADE_OF.get(mine, ()):
                found.append(f"{name} imports {other}")
    return found


def names_of_studies(modules: dict[str, ast.Module]) -> list[str]:
    """Imports of studies by what is to know none: results, pictures and jobs."""
    may = ("landscape_jobs.commands.topology", "landscape_jobs.commands.corpus")
    return [
        f"{name} imports {found}"
        for name, all_found in arrows(modules).items()
        if name.startswith(("landscape.results", "landscape.pictures", "landscape_jobs")) and name not in may
        for found in sorted(all_found)
        if found.startswith("landscape.studies.") and found != "landscape.studies.table"
    ]


CHECKS = {
    "upward": upward,
    "circles": circles,
    "private": private,
    "between studies": between_studies,
    "names of studies": names_of_studies,
}


@pytest.mark.parametrize("check", CHECKS)
def test_house(check: str) -> None:
    assert CHECKS[check](MODULES) == []


FAULTS = {
    "upward": ("landscape.run.loop", "def f():\n    from landscape.results.base import Result"),
    "upward by name": ("landscape.run.loop", "import importlib\nimportlib.import_module('landscape.results.base')"),
    "private of a module": ("landscape.run.loop", "import landscape.run.store as st\nst._json({})"),
    "private by its path": ("landscape.run.loop", "import landscape.run.store\nlandscape.run.store._json({})"),
    "circles": ("landscape.results.kind", "from landscape.results.base import Result"),
    "private": ("landscape.run.loop", "from landscape.run import store\nstore._json({})"),
    "between studies": ("landscape.studies.curve.fit", "from landscape.studies.surface.result import Surface"),
    "names of studies": ("landscape_jobs.report.page", "from landscape.studies.surface.result import Surface"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_of_each_kind_is_found(kind: str) -> None:
    """The same check on the same house with one fault put in."""
    name, fault = FAULTS[kind]
    check = next(check for check in CHECKS if kind.startswith(check))
    whole = ast.parse(f"{ast.unparse(MODULES[name])}\n{fault}")
    assert CHECKS[check]({**MODULES, name: whole}) != []


def test_studies_stand_behind_those_they_are_made_of() -> None:
    order = [study.kind.result.__module__.split(".")[2] for study in STUDIES]
    for study, others in MADE_OF.items():
        assert all(order.index(other) < order.index(study) for other in others & set(order) if study in order)


def test_every_folder_says_what_it_is() -> None:
    for name, tree in MODULES.items():
        if name in (
            "landscape",
            "landscape.descents",
            "landscape_jobs.spec",
            "landscape_jobs.build",
            "landscape_jobs.report",
        ):
            continue  # users import by these
        packaged = any(other.startswith(f"{name}.") for other in MODULES)
        if packaged:
            assert ast.get_docstring(tree), name
            assert len(tree.body) == 1, name
