"""The manual: every block of its pages and of the README runs, and it is made without a warning.

What a page holds besides its text, in comments that are not shown:

    <!-- run            Python that runs at that place: what the page takes for granted, and what must hold
    ... -->
    <!-- not run: why -->    of the block that follows

A block with a caption is a file of that name in the page's folder. The Python blocks of a page share one namespace.
TOML is read as a job, a sweep, stages or a site profile. Of shell lines those of `landscape` run where they are cheap.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from landscape_jobs.cli import app
from landscape_jobs.cluster.site import read_profile
from landscape_jobs.cluster.stages import load_stages
from landscape_jobs.spec.job import TABLES, load_job
from landscape_jobs.spec.toml import to_toml, toml_key
from landscape_jobs.sweeps.sweep_file import load_sweep
from test_zoo import installed
from typer.testing import CliRunner

import landscape as ls
from landscape.files import hdf5

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]

RUN = ("check", "run", "resume", "show", "status", "plot", "merge", "report")  # the others are parsed
SHELL = ("sh", "bash", "console")
NOT_CODE = ("text", "diff", "")
NEEDS = {"models-and-data.md": ("torchvision", "transformers", "peft", "timm")}  # the extra zoo
INDENTED = re.compile(r"    (?:mpiexec .*)?landscape \w")  # commands of the README

# What the README's blocks take for granted: code that runs before the block that holds the text.
README_SETUP = {
    "ls.random_plane(": """
from landscape_jobs.demo import digits, digits_mlp
torch.manual_seed(0)
model, dataset = digits_mlp(), tuple(part[:200] for part in digits())
""",
    "ls.measure_spectrum(objective": """
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
objective = ls.Objective(net, data=(dataset[0][:50, 20:23], dataset[1][:50] % 2))
""",
    "ls.fit_curve(objective": """
def trained(seed):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(dataset[0]), dataset[1]).backward()
        optimizer.step()
    return net.state_dict()
net = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
objective = ls.Objective(net, data=dataset)
checkpoints = [trained(seed) for seed in range(3)]
theta_a, theta_b = checkpoints[:2]
train_loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*dataset), batch_size=100, shuffle=True)
""",
}


@dataclass(frozen=True)
class Block:
    """One fenced block or hidden comment, and the number of the line above its text."""

    language: str
    caption: str
    text: str
    line: int
    reason: str = ""  # why it does not run


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    reason, i = "", 0
    while i < len(lines):
        line, i = lines[i], i + 1
        if skipped := re.fullmatch(r"<!-- not run: (.{10,}) -->", line):
            reason = skipped[1]
        elif line == "<!-- run":
            end = lines.index("-->", i)
            yield Block("python", "", "\n".join(lines[i:end]), i)
            i = end + 1
        elif line.startswith("<!--"):
            raise AssertionError(f"{page.name}, line {i}: {line!r} is neither code to run nor a reason of ten letters")
        elif fence := re.fullmatch(r"(```+|:::+)\s*(?:\{([\w-]+)\})?\s*(.*)", line):
            end = lines.index(fence[1], i)
            caption, begin = "", i
            while fence[2] and begin < end and (option := re.fullmatch(r":(\w+): *(.*)|", lines[begin])):
                caption, begin = option[2] if option[1] == "caption" else caption, begin + 1
            if fence[2] in (None, "code-block"):
                yield Block(fence[3], caption, "\n".join(lines[begin:end]), begin, reason)
            reason, i = "", end + 1
        elif page == README and INDENTED.match(line):
            yield Block("sh", "", line.strip(), i, "in the README commands are parsed")
    assert not reason, f"{page}: nothing follows the reason {reason!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDS.get(page.name, ()):
        installed(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no profile"))
    loaded, threads = set(sys.modules), torch.get_num_threads()
    try:
        run_page(page, list(blocks(page)), {"__name__": page.stem})
    finally:
        torch.set_num_threads(threads)
        for name in set(sys.modules) - loaded:  # the page's own modules; another page may have some of the same name
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]


def run_page(page: Path, found: list[Block], namespace: dict[str, Any]) -> None:
    """Run the blocks of a page in the current folder."""
    for block in found:  # jobs name files that a page may show after them
        if block.caption:
            Path(block.caption).parent.mkdir(parents=True, exist_ok=True)
            Path(block.caption).write_text(block.text + "\n", encoding="utf-8")
    namespace |= {"ls": ls, "torch": torch} if page == README else {}
    setups = dict(README_SETUP) if page == README else {}
    base: dict[str, Any] = {}
    for block in found:
        where = f"{page.name}, line {block.line}"
        if block.language == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")
            for text in [text for text in setups if text in block.text]:
                exec(setups.pop(text), namespace)
            if not block.reason and not block.caption:
                exec(code, namespace)
        elif block.language == "toml":
            base = base if block.reason else read(block, base)
        elif block.language in SHELL:
            for line in block.text.replace("\\\n", " ").splitlines():
                if (words := shlex.split(line, comments=True)) and (words[0] in COMMANDS or not block.reason):
                    assert words[0] in COMMANDS, f"{where}: {words[0]} is not run; say why before the block"
                    COMMANDS[words[0]](words, not block.reason)
        else:
            assert block.language in NOT_CODE, f"{where}: what is {block.language}?"
    assert not setups, f"no block of the README holds {list(setups)}"


def read(block: Block, base: dict[str, Any]) -> dict[str, Any]:
    """Read a block of TOML by what it is for; returns the content of the last whole job.

    A part of a job is completed from the job before it.
    """
    content = tomllib.loads(block.text)
    text, kind, use = block.text, "landscape-site.toml", read_profile
    if "job" in content:
        kind, use = "sweep.toml", load_sweep
    elif "stage" in content:
        kind, use = "stages.toml", load_stages
    elif all(isinstance(value, dict) for value in content.values()):
        kind, use = "job.toml", load_job
        if not {"model", "run"} <= set(content):
            other = (*TABLES, "plane") if set(content) & set(TABLES) else ()
            whole = {name: table for name, table in base.items() if name not in other} | content
            text = "\n".join(f"{toml_key(name)} = {to_toml(table)}" for name, table in whole.items())
        else:
            base = content
    path = Path(block.caption or kind)
    if not block.caption and not (path.exists() and text is not block.text):
        path.write_text(text, encoding="utf-8")
    use(path) if block.caption or text is block.text else use_part(use, path, text)
    return base


def use_part(use: Callable[[Path], object], path: Path, text: str) -> None:
    """Read a completed part of a job from a file of its own."""
    part = path.with_name(f"part-{path.name}")
    part.write_text(text, encoding="utf-8")
    use(part)


def landscape(words: list[str], run: bool) -> None:
    """Run a command line of `landscape`, or have its arguments parsed."""
    expanded = [name for word in words[2:] for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    name, arguments = words[1], expanded or words[2:]
    if name == "submit" and run:
        arguments = [*arguments, "--dry-run"]
    if run and (name in RUN or name == "submit") and "--watch" not in arguments:
        torch.manual_seed(0)  # as a process of its own begins: an untrained model is the same in each
        done = CliRunner().invoke(app, [name, *arguments])
        assert done.exit_code == 0, f"{shlex.join(words)}: {done.output or done.exception!r}"
    else:
        command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
        assert command.make_context(name, arguments).command is command


def mpiexec(words: list[str], run: bool) -> None:
    """Have the command line parsed that mpiexec starts; ranks are for other tests."""
    if "landscape" in words:
        landscape(words[words.index("landscape") :], run=False)
    else:
        assert "python" in words, f"{shlex.join(words)}: neither landscape nor python"


COMMANDS = {"landscape": landscape, "mpiexec": mpiexec}


# -- the page of the file format --------------------------------------------------------------------------------------

# Run -> the word of the page for what attributes its file has.
WORDS = {
    "diagonal": "measures",
    "probed": "measures",
    "random": "surface",
    "through": "surface",
    "pca": "surface",
    "bf16": "surface",
    "precise": "surface",
    "lines": "profiles",
    "line": "path",
    "sampled": "spectrum",
    "eigenvalues": "spectrum",
}


def results(out: Path) -> dict[str, Path]:
    """Run a small measurement of every kind; {name: file}."""
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(64, 4, generator=draw), torch.randint(3, (64,), generator=draw)
    torch.manual_seed(0)

    def network(*hidden: torch.nn.Module) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 6), *hidden, torch.nn.Linear(6, 3)).eval()

    nets = [network(torch.nn.BatchNorm1d(6), torch.nn.ReLU()) for _ in range(3)]
    states = [net.state_dict() for net in nets]
    objective = ls.Objective(nets[0], data=data, metrics=("accuracy",), device="cpu")
    fast = ls.Objective(nets[0], data=data, precision="bf16", device="cpu")
    smooth = ls.Objective(network(torch.nn.Tanh()), data=data, device="cpu")
    grid: dict[str, Any] = {"x": (0, 1, 3), "y": (0, 1, 2)}
    ls.measure_surface(objective, ls.random_plane(objective), **grid, out=out / "random")
    ls.measure_surface(objective, ls.plane_through(objective, states), **grid, out=out / "through")
    ls.measure_surface(objective, ls.pca_plane(objective, states), **grid, out=out / "pca")
    ls.measure_surface(fast, ls.random_plane(fast), **grid, out=out / "bf16")
    ls.measure_surface(objective, ls.random_plane(objective), **grid, error=0.1, out=out / "precise")
    ls.measure_profiles(objective, n=2, x=(-1, 1, 3), out=out / "profiles")
    ls.measure_profiles(objective, n=2, x=(-1, 1, 3), error=0.1, out=out / "lines")
    curve = ls.fit_curve(objective, *states[:2], epochs=1, out=out / "curve")
    ls.measure_path(objective, curve, t=3, test=data, out=out / "path")
    ls.measure_path(objective, curve, t=3, error=0.1, out=out / "line")
    ls.measure_connectivity(objective, states[:2], epochs=1, t=3, align="weights", out=out / "connectivity")
    ls.measure_agreement(objective, states, features="1", out=out / "agreement")
    some: dict[str, Any] = {"trace": "hutchinson", "trace_tol": 0.5}
    ls.measure_spectrum(smooth, k=1, smallest=1, samples=32, sampling="importance", **some, out=out / "sampled")
    ls.measure_spectrum(smooth, k=1, trace=False, density=False, out=out / "spectrum")
    wide = torch.nn.Sequential(torch.nn.Linear(4, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))
    many = ls.Objective(wide, data=tuple(part.repeat(33, *[1] * (part.ndim - 1)) for part in data), device="cpu")
    few: dict[str, Any] = {"trace": False, "density_probes": 1, "density_steps": 2}
    ls.measure_spectrum(many, k=1, error=0.2, **few, out=out / "eigenvalues")
    ls.measure_layer_spectra(smooth, k=1, **some, out=out / "layers")
    ls.measure_layer_structure(objective, k=2, other=nets[1], out=out / "structure")
    ls.measure_diagonal(objective, out=out / "diagonal")
    ls.measure_diagonal(smooth, method="probes", tol=0.9, out=out / "probed")
    settings: dict[str, Any] = {"recipe": {"epochs": 1}, "cells": {"width": [6.0], "lr": [0.1]}, "seeds": 2}
    run = ls.train_models(lambda width: network(torch.nn.ReLU()), data, test=data, **settings, out=out / "training")
    asked: dict[str, Any] = {"load": "width", "temperature": "lr", "curve_epochs": 1, "device": "cpu"}
    ls.measure_phases(run, **asked, out=out / "phases")
    ls.measure_curvature_map(smooth, ls.random_plane(smooth), x=(0, 1, 2), y=(0, 1, 2), out=out / "map")
    return {folder.name: folder / "landscape.h5" for folder in out.iterdir()}


def described(name: str, quantities: list[str]) -> str:
    """The name as the page has it, QUANTITY in the place of each quantity's, NAME in that of a key of cells."""
    if name.startswith("key_"):
        return "key_NAME"
    for quantity in sorted(quantities, key=len, reverse=True):
        if found := re.fullmatch(rf"(.*_)?{quantity}(_.*)?", name):
            return f"{found[1] or ''}QUANTITY{found[2] or ''}"
    return name


def contents(group: hdf5.Group, path: str, quantities: list[str]) -> Iterator[tuple[str, ...]]:
    """(group, variable, dimensions, type, units) and (group, attribute) of all there is below a group."""
    listed = str(group.attributes.get("quantities") or group.attributes.get("history", "")).split()
    quantities = [name for name in listed if name != "lr"] or quantities
    for name, variable in group.variables.items():
        kind = {"b": "bool", "O": "text", "U": "text"}.get(variable.data.dtype.kind, str(variable.data.dtype))
        units = str(variable.attributes.get("units", "-"))
        assert variable.attributes["long_name"]
        dims = ", ".join(variable.dims or ()) or "-"
        if "tensor" in variable.attributes:
            assert dims == ", ".join(f"{name}@{axis}" for axis in range(variable.data.ndim))
            yield path, "TENSOR", "TENSOR@AXIS", kind, units
            continue
        yield path, described(name, quantities), dims, kind, units
    for name in group.attributes:
        yield path, described(name, quantities)
    for name, child in group.groups.items():
        yield from contents(child, f"{path}/{'ARRAY' if path.endswith('/arrays') else name}", quantities)


def test_the_page_of_the_format_tells_what_files_hold(tmp_path: Path) -> None:
    root, told, group = dict[str, set[str]](), set[tuple[str, ...]](), ""
    for line in (DOCS / "file-format.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"#+ (.*)", line):
            group = heading[1].strip("`") if "`" in heading[1] else "" if "root" in heading[1] else "-"
        elif (cells := re.split(r" ?(?<!\\)\| ?", line)[1:-1]) and re.fullmatch("`.*`", cells[0]) and group != "-":
            assert len(cells[-1]) > 2, f"{line}: no meaning"
            name, *columns = cells[0].strip("`"), *cells[1:-1]
            if group:
                told.add((group, name, *columns))
            else:
                root[name] = set(columns[0].split(", "))
    found: dict[str, set[str]] = {}
    held = set[tuple[str, ...]]()
    kinds = set[str]()
    for run, file in results(tmp_path).items():
        tree = hdf5.read(file)
        kinds.add(WORDS.get(run, run))
        for name in tree.attributes:
            found.setdefault(name, set()).add(WORDS.get(run, run))
        for name, child in tree.groups.items():
            held |= set(contents(child, name, []))
    assert {name: {"all"} if words == kinds else words for name, words in found.items()} == root
    assert held == told


def test_the_page_of_job_files_tells_every_key() -> None:
    told: dict[str, tuple[str, set[str]]] = {}
    for line in (DOCS / "job-files.md").read_text(encoding="utf-8").splitlines():
        if row := re.fullmatch(r"\| `\[(\w+)\]` \| `(\w+)` \| `(.*)` \|", line):
            told[row[1]] = (row[2], set(row[3].split("`, `")))
    assert told == {
        name: (getattr(table.study.measure, "__name__", ""), set(table.model_fields)) for name, table in TABLES.items()
    }


def test_every_test_that_the_architecture_names_is_there() -> None:
    """`studies/x/test_x.py::test_name`, and further names of that file after a comma."""
    found: dict[str, list[str]] = {}
    table = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## 8. Faults")[2]
    for row in table.splitlines():
        file = ""
        for name in re.findall(r"`((?:[\w/]+\.py)?(?:::)?(?:test_\w+)?)(?:\[\w+\])?`", row):
            path, _, test = name.rpartition("::") if "::" in name else (name, "", "") if "/" in name else ("", "", name)
            file = path or file
            found.setdefault(file, []).append(test)
    assert len(found) > 25
    for file, tests in found.items():
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not [test for test in tests if test and f"def {test}(" not in text], file


def test_every_public_name_stands_in_the_reference() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    documented = re.findall(r"^\.\. auto\w+:: (\S+)$", text, re.MULTILINE)
    assert len(set(documented)) == len(documented)
    names = {name.removeprefix("landscape.") for name in documented if name.count(".") == 1}
    assert names == set(ls.__all__)


@pytest.mark.filterwarnings("ignore")  # of myst-parser about Sphinx
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs the extra docs: Sphinx is not installed")
def test_the_manual_is_made_without_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a plain theme, in this process, which has torch: its own and the site's theme would take twice as long."""
    from sphinx.cmd.build import main

    # preserved defaults would be put into our functions, for all tests that come after
    asked = ("html_theme=basic", "autodoc_preserve_defaults=0")
    settings = [word for one in asked for word in ("-D", one)]
    told = ["-W", "--keep-going", "-q", "-b", "html", *settings, str(DOCS), str(tmp_path)]
    assert main(told) == 0, capsys.readouterr().err
    for page in DOCS.rglob("*.md"):
        assert (tmp_path / page.relative_to(DOCS)).with_suffix(".html").is_file()
    assert "assert" not in (tmp_path / "first-steps.html").read_text(encoding="utf-8")  # what is hidden stays so
