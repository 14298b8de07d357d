"""The house: imports only go down, each heavy dependency has one gate, and a few things are done nowhere."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {
    "landscape_kernels": ROOT / "kernels" / "landscape_kernels",
    "landscape": ROOT / "landscape",
    "landscape_jobs": ROOT / "jobs" / "landscape_jobs",
}
ABOVE = {"landscape_kernels": {"landscape", "landscape_jobs"}, "landscape": {"landscape_jobs"}}
STUDIES = FLOORS["landscape"] / "studies"
PLOTTING = {f"landscape/studies/{path.parent.name}/{path.name}" for path in STUDIES.glob("*/pictures.py")} | {
    "landscape/studies/surface/difference.py"
}
GATES = {
    "mpi4py": {"landscape/run/comm.py"},
    "h5py": {"landscape/files/hdf5.py"},
    "h5netcdf": set(),
    "netCDF4": set(),
    "matplotlib": PLOTTING
    | {f"landscape/pictures/{name}.py" for name in ("style", "heat_map", "bars", "marks", "scale")},
    "plotly": {"landscape_jobs/report/page.py"},
    "gudhi": {"landscape/studies/topology/find.py"},
    "pandas": {"landscape/results/frames.py"},
    "PIL": {"landscape/results/html.py"},
    "pydantic": {f"landscape_jobs/spec/{path.name}" for path in (FLOORS["landscape_jobs"] / "spec").glob("*.py")},
    "lightning": {"landscape/lightning_callback.py"},
    "pytorch_lightning": {"landscape/lightning_callback.py"},
    "transformers": {"landscape/transformers_callback.py"},
    "pyhessian": {"landscape/compat.py"},
}

Tree = tuple[str, ast.Module]


def trees(*floors: str) -> list[Tree]:
    """(path from the root or from the floor's folder, syntax tree) of every file."""
    return [tree for floor in floors or FLOORS for tree in _parsed(floor)]


@cache
def _parsed(floor: str) -> list[Tree]:
    return [
        (f"{floor}/{path.relative_to(FLOORS[floor]).as_posix()}", ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(FLOORS[floor].rglob("*.py"))
    ]


def nodes(tree: ast.AST, *, at_run_time: bool = False) -> Iterator[ast.AST]:
    """Every node; at run time without what stands under `if TYPE_CHECKING`, which loads nothing."""
    left = [tree]
    while left:
        node = left.pop()
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        left.extend(ast.iter_child_nodes(node))


def imported(tree: ast.AST, *, at_run_time: bool = False) -> Iterator[str]:
    """Every module that is imported anywhere in the file, in functions, too."""
    for node in nodes(tree, at_run_time=at_run_time):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def packages(tree: ast.AST) -> frozenset[str]:
    """What a file loads when it runs."""
    return frozenset(name.split(".")[0] for name in imported(tree, at_run_time=True))


@cache
def calls(tree: ast.AST) -> tuple[tuple[str, ast.Call], ...]:
    """("name" or "module.name", call) of every call by name."""
    return tuple((ast.unparse(node.func), node) for node in nodes(tree) if isinstance(node, ast.Call))


def test_there_is_something_to_check() -> None:
    assert all(len(trees(floor)) >= 2 for floor in FLOORS)


@pytest.mark.parametrize("floor", ABOVE)
def test_imports_only_go_down(floor: str) -> None:
    for path, tree in trees(floor):
        assert not {name.split(".")[0] for name in imported(tree)} & ABOVE[floor], path


@pytest.mark.parametrize("package", GATES)
def test_one_gate_for_each_dependency(package: str) -> None:
    users = {path for path, tree in trees() if package in packages(tree)}
    assert users <= GATES[package]


# parameters and buffers; BatchNorm folded away; blocks computed again; per-sample gradients; what is linear; networks
KNOW_MODULES = {
    "landscape/objective/model.py",
    "landscape/objective/statistics.py",
    "landscape/objective/folding.py",
    "landscape/objective/recompute.py",
    "landscape/network/layers.py",
    "landscape/network/piecewise.py",
    "landscape/network/recurrent.py",
    "landscape/network/rules/normalisation.py",
    "landscape/network/symmetry.py",
    "landscape_jobs/demo.py",
}


def test_modules_are_known_to_few_files() -> None:
    """`nn` is used in the files above alone.

    Elsewhere it may stand in annotations, which say what a caller gives.
    torch.nn.functional is arithmetic on tensors and free to all.
    """
    for path, tree in trees():
        names = set(imported(tree)) - {"torch.nn.functional"}
        if path in KNOW_MODULES or not any(name.startswith("torch.nn") for name in names):
            continue
        assert {name for name in names if name.startswith("torch.nn")} == {"torch.nn"}, path
        assert not path.startswith("landscape_kernels/"), path
        allowed = {id(inner) for outer in annotations(tree) for inner in ast.walk(outer)}
        used = [
            node.lineno
            for node in ast.walk(tree)
            if (
                (isinstance(node, ast.Name) and node.id == "nn")
                or (isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.nn")
            )
            and id(node) not in allowed
        ]
        assert not used, f"{path}, lines {used}"


def annotations(tree: ast.AST) -> Iterator[ast.expr]:
    """Every annotation of an argument, a result or a variable."""
    for node in ast.walk(tree):
        found = (getattr(node, name, None) for name in ("annotation", "returns"))
        yield from (expression for expression in found if isinstance(expression, ast.expr))


def _weights_only(call: ast.Call) -> bool:
    return any(
        k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True for k in call.keywords
    )


FORBIDDEN: dict[str, Callable[[str, ast.Call], bool]] = {
    "eval and exec": lambda name, call: name in ("eval", "exec", "compile"),
    "pickle": lambda name, call: name in ("pickle.load", "pickle.loads", "pickle.Unpickler"),
    "torch.load without weights_only=True": lambda name, call: name == "torch.load" and not _weights_only(call),
    "numpy's pickles": lambda name, call: any(
        k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in call.keywords
    ),
    "os.system": lambda name, call: (
        name in ("os.system", "os.popen")
        or any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in call.keywords)
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nowhere(what: str) -> None:
    for path, tree in trees():
        assert not [call.lineno for name, call in calls(tree) if FORBIDDEN[what](name, call)], path


def test_the_library_does_not_print() -> None:
    for path, tree in trees("landscape", "landscape_kernels"):
        assert not [call.lineno for name, call in calls(tree) if name == "print"], path


def test_every_public_object_says_what_it_is() -> None:
    for path, tree in trees():
        assert ast.get_docstring(tree) or not tree.body, path
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"


def loaded_by(statement: str) -> set[str]:
    """Modules in memory after a statement in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; sys.stdout.write(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    heavy = {
        "mpi4py.MPI",
        "matplotlib",
        "scipy",
        "pyhessian",
        "plotly",
        "xarray",
        "pandas",
        "PIL",
        "gudhi",
        "lightning",
        "transformers",
    }
    assert not loaded_by("import landscape") & heavy


def test_pictures_never_load_pyplot() -> None:
    """Of any result; pyplot would keep every figure, and choose a window system."""
    plot = "[make('whole').plot() for make in made.KINDS.values()]"
    loaded = loaded_by(f"import sys; sys.path.insert(0, 'tests'); import made; {plot}")
    assert "matplotlib.figure" in loaded
    assert "matplotlib.pyplot" not in loaded


def test_kernels_stand_alone() -> None:
    statement = "import landscape_kernels.layout, landscape_kernels.perturb, landscape_kernels.normalise"
    assert not loaded_by(statement) & {"landscape", "landscape_jobs", "h5py", "mpi4py"}
