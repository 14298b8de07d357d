"""Spectra in result files: read back exactly, read by tools that do not know this package, refused when damaged."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import torch
import xarray
from test_hdf5 import example as example_surface

import landscape as ls
from landscape.errors import InputError, StoreError
from landscape.opening.several import save_together
from landscape.run.store import Store
from landscape.run.task import Description
from landscape.studies.layer_spectra.result import LayerSpectra
from landscape.studies.spectrum.result import Density, Eigenpairs, Spectrum, Trace
from landscape.studies.surface.result import Surface

TENSORS = {
    "conv1.weight": (8, 1, 3, 3),
    "conv1.bias": (8,),
    "conv2.weight": (8, 8, 3, 3),
    "norm.weight": (8,),
    "norm.größe": (8,),
    "fc.weight": (10, 32),
    "fc.bias": (10,),
}
SIZE = sum(int(np.prod(shape)) for shape in TENSORS.values())
OUTLIERS = np.array([41.0, 33.5, 30.2, 24.0, 19.1, 16.4, 14.8, 12.2, 10.9, 9.3])


def spectrum(**changes: Any) -> Spectrum:
    """10 outliers above a bulk that reaches from -0.8 to 3, with a density of 5 probes and traces of the layers."""
    draw = np.random.default_rng(0)
    bulk = np.sort(np.concatenate([0.2 * draw.standard_normal(SIZE - 40), draw.gamma(2.0, 0.5, 30)]))
    ends = Eigenpairs(
        np.concatenate([OUTLIERS, bulk[::-1][:4]]),
        np.concatenate([np.geomspace(1e-7, 8e-4, 12), [0.004, 0.09]]),
        np.arange(14) < 12,
        np.concatenate([OUTLIERS * np.linspace(0.04, 0.09, 10), np.full(4, 0.3)]),
        np.concatenate([OUTLIERS * np.linspace(0.01, 0.12, 10), np.full(4, 0.4)]),
        np.linalg.qr(draw.standard_normal((SIZE, 14)))[0].T.copy(),
    )
    unknown = np.full(3, np.nan)
    lower = Eigenpairs(bulk[:3], np.array([0.3, 0.1, 0.5]), np.zeros(3, dtype=bool), unknown, unknown)
    layers = {"conv1": 61.0, "conv2": 102.5, "norm": -3.25, "fc": 133.0}
    trace = Trace(
        293.25, 9.5, 4.25, 8.5, "hutchinson", 60, 12, 0.0, layers, dict.fromkeys(layers, 4.5), 71.0, 1.5
    )  # fmt: skip
    made = Spectrum(ends, lower, SIZE, 210, 105, trace, density(bulk, OUTLIERS), {**ATTRIBUTES})
    return replace(made, **changes)


def density(bulk: Any, deflated: Any, probes: int = 5, width: float = 0.25) -> Density:
    """What quadrature gives for a diagonal matrix: 30 nodes and one probe short of a node."""
    draw = np.random.default_rng(1)
    groups = np.array_split(bulk, 30)
    nodes = np.array([[group.mean() for group in groups]] * probes)
    weights = np.array([[(draw.standard_normal(len(group)) ** 2).sum() for group in groups] for _ in range(probes)])
    nodes[0, -1] = weights[0, -1] = np.nan
    weights /= np.nansum(weights, axis=1, keepdims=True)
    grid = np.linspace(bulk[0] - 6 * width, deflated.max(initial=bulk[-1]) + 6 * width, 1001)
    share = len(deflated) / SIZE

    def bumps(centres: Any, masses: Any) -> Any:
        return np.exp(-(((grid[:, None] - centres) / width) ** 2) / 2) @ masses / (width * np.sqrt(2 * np.pi))

    known = bumps(deflated, np.full(len(deflated), 1 / SIZE))
    curves = known + (1 - share) * np.array(
        [bumps(n, w) for n, w in zip(np.nan_to_num(nodes), np.nan_to_num(weights), strict=True)]
    )
    error = 2 * curves.std(axis=0, ddof=1) / np.sqrt(probes)
    mean = curves.mean(axis=0)
    return Density(grid, mean, mean - error, mean + error, nodes, weights, deflated, width, 150, 30)


def layers(count: int = 6, k: int = 3) -> LayerSpectra:
    """Spectra of `count` layers; the second is too small for k eigenvalues, the last not computed."""
    draw = np.random.default_rng(2)
    values = np.sort(draw.gamma(1.5, 4.0, (count, k)), axis=1)[:, ::-1].copy()
    values[1, 1:] = np.nan
    values[-1] = np.nan
    trace = 3 * values[:, 0] + 2
    computed = np.arange(count) < count - 1
    return LayerSpectra(
        tuple(f"stages.{i // 4}.blocks.{i % 4}.größe" for i in range(count)),
        tuple(range(100, 100 + count)),
        values,
        values * 1e-5,
        values * 0.05,
        (values > 9) & computed[:, None],
        trace,
        trace * 0.04,
        computed,
        300,
        150,
        spectrum().trace,
        {**ATTRIBUTES},
    )


ATTRIBUTES: dict[str, Any] = {
    "operator": "hessian",
    "seed": 3,
    "samples": 512,
    "params": ["conv1", "fc.*"],
    "tensors": {name: list(shape) for name, shape in TENSORS.items()},
    "check": {"route": "double backward", "symmetry": 1e-9, "passed": True, "nothing": None},
    "attempts": [{"host": "a"}],
    "job": "# ein großer Auftrag\n" + "seed = 3\n" * 10_000,
}


def assert_same(found: Any, expected: Any) -> None:
    """Equality of every field, bit for bit, of types, and of what is None."""
    assert type(found) is type(expected)
    for field in fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), field.name
            assert a.tobytes() == b.tobytes(), field.name
        elif hasattr(b, "__dataclass_fields__"):
            assert_same(a, b)
        elif field.name == "attributes":
            assert {name: a[name] for name in b} == dict(b)
        else:
            assert repr(a) == repr(b), field.name  # NaN equals NaN
            assert type(a) is type(b), field.name


def nothing() -> Eigenpairs:
    empty = np.zeros(0)
    return Eigenpairs(empty, empty, empty.astype(bool), empty, empty)


def sampled() -> Eigenpairs:
    pairs = spectrum().largest
    return replace(pairs, independent=pairs.values * 0.9, independent_stderr=np.full(14, np.nan))


def trace(**changes: Any) -> Trace:
    whole = spectrum().trace
    assert whole is not None
    return replace(whole, **changes)


SPECTRA = {
    "everything": spectrum(),
    "independent sample": spectrum(largest=sampled()),
    "no vectors": spectrum(largest=replace(spectrum().largest, vectors=None)),
    "both ends with vectors": spectrum(
        smallest=replace(spectrum().smallest, vectors=np.eye(3, SIZE)), trace=None, density=None
    ),
    "no eigenpairs": spectrum(largest=nothing(), smallest=nothing(), products=0, passes=0),
    "nothing deflated": spectrum(density=density(np.linspace(-1, 2, SIZE), np.zeros(0))),
    "trace without layers": spectrum(trace=trace(layers={}, layers_stderr={}, frobenius=np.nan, stderr_data=np.nan)),
    "layers without errors": spectrum(trace=trace(layers_stderr={})),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_spectrum_read_equals_written(name: str, tmp_path: Path) -> None:
    assert_same(ls.open(SPECTRA[name].save(tmp_path / "new folder" / "a.h5")), SPECTRA[name])


@pytest.mark.parametrize("made", [layers(), layers(2, 1), replace(layers(), whole_trace=None)])
def test_layers_read_equals_written(made: LayerSpectra, tmp_path: Path) -> None:
    assert_same(ls.open(made.save(tmp_path / "a.h5")), made)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return spectrum().save(tmp_path / "a folder, größer" / "spectrum.h5")


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
@pytest.mark.parametrize("name", SPECTRA)
def test_xarray_reads_every_spectrum(engine: Any, name: str, tmp_path: Path) -> None:
    made = SPECTRA[name]
    path = made.save(tmp_path / "a.h5")
    with xarray.open_dataset(path, group="spectrum", engine=engine) as data:
        assert data["eigenvalue"].dims == ("rank",)
        np.testing.assert_array_equal(data["eigenvalue"], made.eigenvalues)
        assert data["converged"].dtype == bool
        assert data["converged"].values.tolist() == made.converged.tolist()
        assert ("eigenvector" in data) == (made.eigenvectors is not None)
        assert int(data["size"]) == SIZE
    with xarray.open_datatree(path, engine=engine) as tree:
        assert json.loads(tree.attrs["tensors"])["conv1.weight"] == [8, 1, 3, 3]
        assert ("trace" in tree["spectrum"].children) == (made.trace is not None)
        if made.trace is not None:
            assert float(tree["spectrum/trace/trace"]) == made.trace.value
            assert str(tree["spectrum/trace/trace_method"].values) == "hutchinson"
        if made.density is not None:
            curve = tree["spectrum/density/density"]
            assert curve.dims == ("density_grid",)
            assert tree["spectrum/density/quadrature_node"].dims == ("probe", "node")
            assert float(curve.sel(density_grid=made.density.grid[7])) == made.density.values[7]


def test_netcdf4_reads_spectra_and_layers(path: Path) -> None:
    with netCDF4.Dataset(path) as file:
        group = file["spectrum"]
        assert {name: len(d) for name, d in group.dimensions.items()} == {
            "rank": 14,
            "smallest_rank": 3,
            "parameter": SIZE,
        }
        assert group["eigenvector"].dimensions == ("rank", "parameter")
        assert group["eigenvector"][2, 5] == spectrum().eigenvectors[2, 5]  # type: ignore[index]
        assert group["trace/trace_layer"][:].tolist() == ["conv1", "conv2", "norm", "fc"]
        assert group["trace/trace_by_layer"][:].tolist() == [61.0, 102.5, -3.25, 133.0]
        assert file.seed == 3
    with netCDF4.Dataset(layers().save(path.with_name("layers.h5"))) as file:
        group = file["layer_spectra"]
        assert group["eigenvalue"].dimensions == ("layer", "rank")
        assert group["layer"][1] == "stages.0.blocks.1.größe"
        assert group["layer_size"][:].tolist() == [100, 101, 102, 103, 104, 105]


def test_every_variable_says_what_it_is_and_in_what_unit(path: Path) -> None:
    found: dict[str, dict[str, Any]] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and b"but not a netCDF variable" not in item.attrs.get("NAME", b""):
            found[name] = {"text": h5py.check_string_dtype(item.dtype) is not None, **item.attrs}

    for file in (path, layers().save(path.with_name("layers.h5"))):
        with h5py.File(file) as content:
            content.visititems(note)
    assert len(found) > 50
    for name, attributes in found.items():
        assert len(attributes["long_name"]) > 3, name
        assert attributes["text"] or attributes["units"] == "1", name


def test_to_xarray_is_what_the_file_holds(path: Path) -> None:
    for made, file in ((spectrum(), path), (layers(), layers().save(path.with_name("layers.h5")))):
        data = made.to_xarray()
        with xarray.open_datatree(file) as tree:
            stored = {name: v for node in tree.subtree for name, v in node.to_dataset(inherit=False).variables.items()}
            assert set(data.variables) == set(stored)
            for name, variable in stored.items():
                xarray.testing.assert_equal(data.variables[name], variable.load())
                assert data.variables[name].attrs == variable.attrs
            assert data.attrs["seed"] == 3


def test_nested_attributes_come_back_nested_whatever_their_name(path: Path) -> None:
    nested = {"new": {"a": [1, 2]}, "text": '{"not": "json"}', "array": [np.float64(0.5), np.ones(2)]}
    attributes = ls.open(spectrum(attributes=nested).save(path)).attributes
    assert attributes["new"] == {"a": [1, 2]}
    assert attributes["text"] == '{"not": "json"}'
    assert attributes["array"] == [0.5, [1.0, 1.0]]
    assert not {"schema_version", "Conventions", "json_attributes"} & set(attributes)


def test_attributes_of_files_that_do_not_say_which_are_json(path: Path) -> None:
    example_surface().save(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["json_attributes"]
    assert ls.open(path).attributes["attempts"] == [{"host": "a"}]


# -- several results ----------------------------------------------------------------------------------------------


def test_results_side_by_side(path: Path) -> None:
    """Each comes back with its own attributes, although they share a root."""
    surface = replace(example_surface(), attributes={"seed": 3, "plane": {"kind": "random"}, "loss": "mse"})
    made = spectrum(attributes={"seed": 3, "check": {"route": "a"}, "loss": "cross_entropy"})
    blocks = replace(layers(), attributes={"seed": 4, "loss": "mse"})
    save_together(path, blocks, made, surface)
    again = ls.open(path)
    assert isinstance(again, Surface)
    np.testing.assert_array_equal(again.values["loss"], surface.values["loss"])
    for found, expected in ((again, surface), (ls.open(path, group="spectrum"), made)):
        assert {k: v for k, v in found.attributes.items() if k != "engine_version"} == expected.attributes
    assert_same(ls.open(path, group="spectrum"), made)
    assert_same(ls.open(path, group="layer_spectra"), blocks)
    save_together(path, blocks, made)
    assert isinstance(ls.open(path), Spectrum)
    with pytest.raises(InputError, match=r"no group 'surface'; known: layer_spectra, spectrum"):
        ls.open(path, group="surface")
    with pytest.raises(InputError, match=r"did you mean 'spectrum'"):
        ls.open(path, group="spectra")
    with xarray.open_datatree(path) as tree:
        assert set(tree.children) == {"spectrum", "layer_spectra"}
        assert tree["spectrum"].attrs["loss"] == "cross_entropy"


def test_what_cannot_stand_side_by_side(path: Path) -> None:
    with pytest.raises(InputError, match=r"one result of each kind, given: spectrum, spectrum; .* merge_runs"):
        save_together(path, spectrum(), spectrum())
    with pytest.raises(InputError, match="given: nothing"):
        save_together(path)


def test_merged_runs_of_every_kind(path: Path) -> None:
    """Files of results are merged like run folders; `run` and `group` go together."""
    files = {
        "plane": example_surface().save(path.with_name("a.h5")),
        "top": path,
        "blocks": layers().save(path.with_name("b.h5")),
    }
    merged = ls.merge_runs(files, path.with_name("all.h5"))
    assert isinstance(ls.open(merged, run="plane"), Surface)
    assert_same(ls.open(merged, run="top"), spectrum())
    assert_same(ls.open(merged, run="blocks", group="layer_spectra"), layers())
    with pytest.raises(InputError, match="no group 'surface'; known: spectrum"):
        ls.open(merged, run="top", group="surface")


def test_run_folders_open_as_what_their_task_makes(tmp_path: Path) -> None:
    objective = ls.Objective(torch.nn.Linear(3, 2), "cross_entropy", (torch.randn(9, 3), torch.randint(2, (9,))))
    ls.measure_surface(
        objective, ls.random_plane(objective, seed=0), x=(-1, 1, 3), y=(-1, 1, 2), out=tmp_path / "plane"
    )
    assert isinstance(ls.open(tmp_path / "plane", group="surface"), Surface)
    with pytest.raises(InputError, match="plane holds no group 'spectrum'; known: surface"):
        ls.open(tmp_path / "plane", group="spectrum")
    Store.create(tmp_path / "run", Description("unheard", {"a": ()}, {}, {}), 1, "")
    with pytest.raises(StoreError, match=r"task 'unheard', whose rows this version cannot open \(known: surface"):
        ls.open(tmp_path / "run")


# -- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("spectrum/eigenvalue", "the group 'spectrum' misses 'eigenvalue'"),
        ("spectrum/smallest_converged", "misses 'smallest_converged'"),
        ("spectrum/size", "misses 'size'"),
        ("spectrum/trace/trace_stderr", "misses 'trace_stderr'"),
        ("spectrum/trace/trace_by_layer", "misses 'trace_by_layer'"),
        ("spectrum/density/density_width", "misses 'density_width'"),
        ("spectrum", "no group 'surface', but no group at all"),
    ],
)
def test_spectrum_that_misses_a_part(lost: str, message: str, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[lost]
    with pytest.raises(StoreError, match=rf"spectrum\.h5 .*{message}"):
        ls.open(path)


@pytest.mark.parametrize("lost", ["layer_size", "computed", "products", "trace/trace"])
def test_layers_that_miss_a_part(lost: str, path: Path) -> None:
    layers().save(path)
    with h5py.File(path, "r+") as file:
        del file[f"layer_spectra/{lost}"]
    with pytest.raises(StoreError, match=rf"the group 'layer_spectra' misses '{lost.rsplit('/', 1)[-1]}'"):
        ls.open(path)


def test_variable_of_another_form(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["spectrum/size"]
        file["spectrum/size"] = "many"
    with pytest.raises(StoreError, match="group 'spectrum' cannot be read"):
        ls.open(path)


def test_newer_schema(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(StoreError, match="schema version 99"):
        ls.open(path, group="spectrum")


def test_truncated_file(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match=r"spectrum\.h5.* truncated"):
        ls.open(path)
