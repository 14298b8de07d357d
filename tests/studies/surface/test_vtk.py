"""VTK files opened by meshio: every value at its coordinates, on lines, planes and volumes of unequal sides."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import meshio
import numpy as np
import pytest

from landscape.errors import InputError, StoreError
from landscape.studies.surface.result import Surface
from landscape.studies.surface.vtk import write_vtk


def grid(*sizes: int) -> Surface:
    """A surface whose loss names its point (100 x + 10 y + z), with one cell missing, one NaN and one Inf."""
    axes = {name: np.linspace(-1.0, 1.0, n) + i / 7 for i, (name, n) in enumerate(zip("xyzuv", sizes, strict=False))}
    mesh = np.meshgrid(*reversed(axes.values()), indexing="ij")[::-1]
    loss = np.asarray(sum(100.0 / 10**i * m for i, m in enumerate(mesh)))
    computed = np.ones(loss.shape, dtype=bool)
    computed.ravel()[1] = False
    loss.ravel()[:4] = [loss.ravel()[0], np.nan, np.nan, np.inf]
    values = {"loss": loss, "top 5 error": loss**2}
    return Surface(axes, values, {"loss": np.abs(loss) / 10, "top 5 error": np.full(loss.shape, np.nan)}, computed)


def by_point(mesh: Any, name: str) -> dict[tuple[float, ...], float]:
    data = np.asarray(mesh.point_data[name]).ravel()
    return {tuple(point): float(value) for point, value in zip(mesh.points.tolist(), data, strict=True)}


@pytest.mark.parametrize("sizes", [(5,), (4, 3), (5, 3, 2), (2, 1, 4)])
def test_every_value_stands_at_its_coordinates(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    surface = grid(*sizes)
    mesh = meshio.read(write_vtk(tmp_path / "s.vtk", surface), file_format="vtk")
    expected = {
        "loss": surface.values["loss"],
        "loss_stderr": surface.stderr["loss"],
        "top_5_error": surface.values["top 5 error"],
        "top_5_error_stderr": surface.stderr["top 5 error"],
        "computed": surface.computed,
    }
    assert set(mesh.point_data) == set(expected)
    axes = [*surface.axes.values(), np.zeros(1), np.zeros(1)][:3]
    for name, array in expected.items():
        found = by_point(mesh, name)
        assert len(found) == array.size
        full = array.reshape([axis.size for axis in reversed(axes)])
        for k, j, i in np.ndindex(full.shape):
            point = (float(axes[0][i]), float(axes[1][j]), float(axes[2][k]))
            np.testing.assert_equal(found[point], float(full[k, j, i]), err_msg=f"{name} at {point}")


def test_types_are_double_and_unsigned_char(tmp_path: Path) -> None:
    mesh = meshio.read(write_vtk(tmp_path / "s.vtk", grid(4, 3)), file_format="vtk")
    assert np.asarray(mesh.point_data["loss"]).dtype.itemsize == 8
    assert np.asarray(mesh.point_data["computed"]).dtype == np.uint8


def test_more_than_three_axes_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"4 axes.*1 to 3"):
        write_vtk(tmp_path / "s.vtk", grid(2, 2, 2, 2))
    assert list(tmp_path.iterdir()) == []


def test_names_equal_in_vtk_are_refused(tmp_path: Path) -> None:
    surface = grid(4, 3)
    values = {"top 5": surface.values["loss"], "top_5": surface.values["loss"]}
    with pytest.raises(InputError, match=r"top_5.*Rename"):
        write_vtk(tmp_path / "s.vtk", dataclasses.replace(surface, values=values, stderr={}))


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "s.vtk"
    path.mkdir()  # a folder in the way: the rename fails after the content was written
    (path / "kept").touch()
    with pytest.raises(StoreError, match=r"cannot write .*s\.vtk"):
        write_vtk(path, grid(4, 3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.vtk"]
    assert (path / "kept").exists()
