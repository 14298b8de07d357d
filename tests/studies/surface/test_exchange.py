"""Files of the loss-landscape tool: golden ones read, ours written, both ways with nx != ny."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from landscape_kernels.layout import Layout

from landscape.errors import InputError
from landscape.objective.objective import Objective
from landscape.studies.surface.exchange import (
    read_loss_landscape_directions,
    read_loss_landscape_surface,
    write_loss_landscape_directions,
    write_loss_landscape_surface,
)
from landscape.studies.surface.result import Surface


class Shapes(Objective):
    """The part of an Objective that directions need."""

    def __init__(self, layout: Layout, state_shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = layout, state_shapes

    @property
    def layout(self) -> Layout:
        return self._shapes[0]

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes[1]


DENSE = {f"fc{i}.{k}": s for i in range(1, 5) for k, s in (("weight", (64, 64)), ("bias", (64,)))}
DENSE |= {"fc1.weight": (64, 784), "fc4.weight": (10, 64), "fc4.bias": (10,)}
NORMED = {"conv.weight": (2, 1, 3, 3), "bn.weight": (2,), "bn.bias": (2,), "head.weight": (3, 2)}
BUFFERS = {"bn.running_mean": (2,), "bn.running_var": (2,), "bn.num_batches_tracked": ()}
NORMED_STATE = {**dict(list(NORMED.items())[:3]), **BUFFERS, "head.weight": (3, 2)}


def golden(name: str) -> Path:
    shared = Path(os.environ.get("LANDSCAPE_SHARED", Path(__file__).resolve().parents[4] / "shared"))
    path = shared / "data" / "surfaces_mnist_h5" / name
    if not path.exists():
        pytest.skip(f"golden file {path} is not here; set LANDSCAPE_SHARED to the folder that holds data/")
    return path


def surface(*sizes: int) -> Surface:
    axes = {name: np.linspace(-1.0, 1.0, n) for name, n in zip("xyz", sizes, strict=False)}
    shape = tuple(reversed(sizes))
    rng = np.random.default_rng(0)
    loss, accuracy = rng.uniform(0, 3, shape), rng.integers(0, 101, shape) / 100
    computed = rng.uniform(size=shape) < 0.8
    values = {"loss": np.where(computed, loss, np.nan), "accuracy": np.where(computed, accuracy, np.nan)}
    return Surface(axes, values, {name: np.full(shape, 0.1) for name in values}, computed)


def test_golden_surface_is_indexed_y_first() -> None:
    path = golden("dense_margin.surface.h5")
    read = read_loss_landscape_surface(path)
    with h5py.File(path) as file:
        loss, percent, x, y = (file[k][:] for k in ("train_loss", "train_acc", "xcoordinates", "ycoordinates"))
    np.testing.assert_array_equal(read.x, x)
    np.testing.assert_array_equal(read.y, y)
    np.testing.assert_array_equal(read.values["loss"], loss)
    np.testing.assert_allclose(read.values["accuracy"], percent / 100, rtol=1e-15)
    assert read.complete
    assert set(read.stderr) == {"loss", "accuracy"}
    assert all(np.isnan(errors).all() for errors in read.stderr.values())
    assert read.attributes["origin"] == "loss-landscape"
    assert read.attributes["dir_file"].startswith("MNIST/trained/dense_margin/model_10_states")


def test_golden_partial_file_has_525_of_625_cells_masked() -> None:
    read = read_loss_landscape_surface(golden("small_dense_entropy.surface_25x25_partial.h5"))
    assert read.computed.shape == (25, 25)
    assert int((~read.computed).sum()) == 525
    for values in read.values.values():
        np.testing.assert_array_equal(np.isnan(values), ~read.computed)
    assert float(np.nanmin(read.values["loss"])) > 0


@pytest.mark.parametrize("sizes", [(7,), (5, 3), (4, 4), (1, 3)])
def test_surface_round_trip(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    before = surface(*sizes)
    path = write_loss_landscape_surface(tmp_path / "s.h5", before, directions_file="folder/é.h5")
    after = read_loss_landscape_surface(path)
    assert list(after.axes) == list(before.axes)
    for name, axis in before.axes.items():
        np.testing.assert_array_equal(after.axes[name], axis)
    np.testing.assert_array_equal(after.computed, before.computed)
    np.testing.assert_array_equal(after.values["loss"], before.values["loss"])
    np.testing.assert_allclose(after.values["accuracy"], before.values["accuracy"], rtol=1e-15)
    assert after.attributes["dir_file"] == "folder/é.h5"


def test_written_file_is_what_the_tool_reads(tmp_path: Path) -> None:
    """Its plotting scripts pair Z[i, j] with meshgrid(x, y)[i, j] and count values <= 0 as open work."""
    before = surface(5, 3)
    with h5py.File(write_loss_landscape_surface(tmp_path / "s.h5", before)) as file:
        X, Y = np.meshgrid(file["xcoordinates"][:], file["ycoordinates"][:])
        assert file["train_loss"].shape == file["train_acc"].shape == X.shape == (3, 5)
        for i, j in np.ndindex(3, 5):
            assert (X[i, j], Y[i, j]) == (before.x[j], before.y[i])
            expected = before.values["loss"][i, j] if before.computed[i, j] else -1.0
            assert file["train_loss"][i, j] == expected
        np.testing.assert_allclose(file["train_acc"][:], np.where(before.computed, before.values["accuracy"] * 100, -1))
        assert file["dir_file"][()] == b""


def test_array_created_by_the_tool_as_nx_by_ny_is_unscrambled(tmp_path: Path) -> None:
    """The tool allocates (nx, ny) but fills flat places in the order of an (ny, nx) mesh."""
    x, y = np.linspace(-1, 1, 5), np.linspace(0, 1, 3)
    X, Y = np.meshgrid(x, y)
    stored = np.full((5, 3), -1.0)
    stored.ravel()[:] = (10 + 3 * X + Y).ravel()
    with h5py.File(tmp_path / "tool.h5", "w") as file:
        file.update(xcoordinates=x, ycoordinates=y, train_loss=stored)
    np.testing.assert_array_equal(read_loss_landscape_surface(tmp_path / "tool.h5").values["loss"], 10 + 3 * X + Y)


def test_a_cell_with_one_of_two_quantities_is_computed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "tool.h5", "w") as file:
        file.update(
            xcoordinates=np.arange(4.0), train_loss=np.array([0.0, 2, -1, -1]), test_acc=np.array([50.0, -1, 7, -1])
        )
    read = read_loss_landscape_surface(tmp_path / "tool.h5")
    np.testing.assert_array_equal(read.computed, [True, True, True, False])
    np.testing.assert_array_equal(read.values["loss"], [0.0, 2.0, np.nan, np.nan])
    np.testing.assert_array_equal(read.values["test_accuracy"], [0.5, np.nan, 0.07, np.nan])


def test_nan_and_inf_survive_as_computed(tmp_path: Path) -> None:
    loss = np.array([np.nan, np.inf, 0.0])
    before = Surface({"x": np.arange(3.0)}, {"loss": loss}, {"loss": loss}, np.array([True, True, True]))
    after = read_loss_landscape_surface(write_loss_landscape_surface(tmp_path / "s.h5", before))
    np.testing.assert_array_equal(after.values["loss"], loss)
    assert after.complete


def test_imported_dir_file_is_kept_on_export(tmp_path: Path) -> None:
    first = write_loss_landscape_surface(tmp_path / "a.h5", surface(3), directions_file="d.h5")
    second = write_loss_landscape_surface(tmp_path / "b.h5", read_loss_landscape_surface(first))
    assert read_loss_landscape_surface(second).attributes["dir_file"] == "d.h5"


def test_surfaces_the_layout_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3 axes.*1 or 2"):
        write_loss_landscape_surface(tmp_path / "s.h5", surface(2, 2, 2))
    line = surface(3)
    with pytest.raises(InputError, match=r"perplexity.*test_loss"):
        write_loss_landscape_surface(
            tmp_path / "s.h5", Surface(line.axes, {"perplexity": line.values["loss"]}, {}, line.computed)
        )
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_surfaces_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.update(weights=np.zeros(3))
    with pytest.raises(InputError, match=r"weights.*xcoordinates"):
        read_loss_landscape_surface(tmp_path / "other.h5")
    with h5py.File(tmp_path / "edited.h5", "w") as file:
        file.update(xcoordinates=np.zeros(3), ycoordinates=np.zeros(4), train_loss=np.zeros((3, 5)))
    with pytest.raises(InputError, match=r"train_loss has shape \(3, 5\).*\(4, 3\)"):
        read_loss_landscape_surface(tmp_path / "edited.h5")


def test_golden_directions_equal_the_stored_tensors() -> None:
    path = golden("dense_margin.directions.h5")
    layout = Layout.of(DENSE)
    directions = read_loss_landscape_directions(path, Shapes(layout, DENSE))
    assert [tuple(d.shape) for d in directions] == [(layout.size,)] * 2
    with h5py.File(path) as file:
        for name, direction in zip(("xdirection", "ydirection"), directions, strict=True):
            for i, tensor in enumerate(layout.unflatten(direction).values()):
                np.testing.assert_array_equal(tensor.numpy(), file[name][str(i)][:])
    cosine = torch.nn.functional.cosine_similarity(*(d.double() for d in directions), dim=0)
    assert float(cosine) == pytest.approx(0.006706261541694403, abs=1e-7)  # the value beside the golden data


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_directions_round_trip(tmp_path: Path, count: int, dtype: torch.dtype) -> None:
    shapes = Shapes(Layout.of(NORMED), NORMED_STATE)
    generator = torch.Generator().manual_seed(0)
    before = [torch.randn(shapes.layout.size, generator=generator).to(dtype) for _ in range(count)]
    path = write_loss_landscape_directions(tmp_path / "d.h5", shapes, before)
    after = read_loss_landscape_directions(path, shapes)
    assert len(after) == count
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.double(), new.double())
    with h5py.File(path) as file:
        assert [file["xdirection"][str(i)].shape for i in range(4)] == list(NORMED.values())


@pytest.mark.parametrize("moved", [None, "bn.running_var"])
def test_entries_of_buffers_are_skipped_and_told_when_they_move(tmp_path: Path, moved: str | None) -> None:
    layout = Layout.of(NORMED)
    expected = torch.arange(1.0, layout.size + 1)
    tensors = {**layout.unflatten(expected), **{name: torch.zeros(shape) for name, shape in BUFFERS.items()}}
    if moved:
        tensors[moved][1] = -0.25
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for i, name in enumerate(NORMED_STATE):
            file[f"xdirection/{i}"] = tensors[name].numpy()
    if moved:
        with pytest.warns(UserWarning, match=r"xdirection/4 moves bn.running_var.*0\.25"):
            (found,) = read_loss_landscape_directions(tmp_path / "d.h5", Shapes(layout, NORMED_STATE))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (found,) = read_loss_landscape_directions(tmp_path / "d.h5", Shapes(layout, NORMED_STATE))
    assert torch.equal(found, expected)


def test_directions_of_another_model_are_refused_by_entry() -> None:
    path = golden("dense_margin.directions.h5")
    wrong = {**DENSE, "fc2.weight": (32, 64)}
    with pytest.raises(InputError, match=r"xdirection/2 has shape \(64, 64\), fc2.weight of this model \(32, 64\)"):
        read_loss_landscape_directions(path, Shapes(Layout.of(wrong), wrong))
    with pytest.raises(InputError, match=r"8 entries.*4 trainable parameters.*7 of its state_dict"):
        read_loss_landscape_directions(path, Shapes(Layout.of(NORMED), NORMED_STATE))
    with pytest.raises(InputError, match="no group xdirection"):
        read_loss_landscape_directions(golden("dense_margin.surface.h5"), Shapes(Layout.of(DENSE), DENSE))


def test_directions_of_a_wrong_length_or_number_are_not_written(tmp_path: Path) -> None:
    shapes = Shapes(Layout.of(NORMED), NORMED_STATE)
    good = torch.zeros(shapes.layout.size)
    with pytest.raises(InputError, match=r"ydirection has shape \(3,\)"):
        write_loss_landscape_directions(tmp_path / "d.h5", shapes, [good, torch.zeros(3)])
    for number in (0, 3):
        with pytest.raises(InputError, match=f"{number} directions given"):
            write_loss_landscape_directions(tmp_path / "d.h5", shapes, [good] * number)
    assert list(tmp_path.iterdir()) == []
