"""Surfaces of models that are their own centre, against those of whole vectors: bit for bit."""

from __future__ import annotations

import json
import linecache
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import landscape_kernels.pieces as cutting
import numpy as np
import pytest
import streamed_cases
import torch
from conftest import GUARD, PROGRAMS, RunMpi
from landscape_kernels.pieces import Piece
from safetensors.torch import save_file
from streamed_cases import AXES, data, forward, network, surface
from torch import Tensor, nn

import landscape as ls
from landscape.errors import InputError
from landscape.files.scratch import Scratch
from landscape.files.slices import StoredTensors
from landscape.studies.surface.measure import surface_task


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few values."""
    monkeypatch.setattr(cutting, "PIECE", 16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streamed_cases.checkpoint(tmp_path_factory.mktemp("model"))


def bits(model: nn.Module) -> list[bytes]:
    return [
        value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for value in model.state_dict().values()
    ]


def losses(found: ls.Surface) -> bytes:
    return found.values["loss"].tobytes() + found.stderr["loss"].tobytes()


@pytest.mark.parametrize("normalize", ["filter", "layer", "model", "weight", "none"])
def test_values_are_those_of_whole_vectors(normalize: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ignore = ("bias", "*.norm.*") if normalize == "none" else ("bias", "norm")
    flat = ls.Objective(network(), data=data())
    plane = ls.random_plane(flat, normalize=normalize, ignore=ignore, seed=3)
    assert not plane.streamed
    expected = losses(ls.measure_surface(flat, plane, **AXES))
    assert losses(ls.measure_surface(flat, plane, **AXES, memory="streamed")) == expected
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    for given in (None, checkpoint):
        model = network()
        objective = ls.Objective(model, data=data(), checkpoint=given)
        seeds = ls.random_plane(objective, normalize=normalize, ignore=ignore, seed=3)
        assert seeds.streamed
        assert seeds.identity() == plane.identity()
        assert objective.identity() == flat.identity()
        assert torch.equal(seeds.point([0.5, -2.0]), plane.point([0.5, -2.0]))
        for key, value in plane.geometry().items():
            np.testing.assert_allclose(seeds.geometry()[key], value, atol=1e-12)
        assert losses(ls.measure_surface(objective, seeds, **AXES)) == expected
        assert losses(ls.measure_surface(objective, seeds, **AXES, memory="flat")) == expected
        assert losses(ls.measure_surface(objective, plane, **AXES)) == expected  # its vectors, in slices
        assert bits(model) == bits(network())


@pytest.mark.mpi
def test_two_ranks_give_the_bytes_of_one(run_mpi: RunMpi, tmp_path: Path) -> None:
    """For every normalisation; four do so in run/test_same_bytes."""
    done = run_mpi(2, "streamed_cases.py", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert json.loads((tmp_path / "result.json").read_text()) == streamed_cases.results()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("trouble", ["none", "no room", "write", "values"])
@pytest.mark.parametrize("threads", [1, 3])
def test_directions_are_read_or_drawn_again(
    trouble: str, threads: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn once where a disk has room; the same bits where it has none, or fails in the middle."""
    expected = losses(surface(None, None))
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    calls = 0

    def fails(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError("no space left on device")
        return whole(*given)

    if trouble == "no room":
        monkeypatch.setattr(Scratch, "where_there_is_room", lambda size: None)
    elif trouble != "none":
        whole = getattr(Scratch, trouble)
        monkeypatch.setattr(Scratch, trouble, lambda *given: fails(*given))
    objective = ls.Objective(network(), data=[data()], forward=forward, checkpoint=checkpoint)
    plane = ls.random_plane(objective, seed=3)
    assert (plane.scratch is None) == (trouble in ("no room", "write"))
    told = surface_task(objective, plane, **AXES).memory["directions are"]
    assert told.startswith("read from a file without" if plane.scratch else "drawn anew for every point")
    if trouble == "none":
        monkeypatch.setattr("landscape_kernels.seeded.SeededDirections.at", None)
    assert losses(ls.measure_surface(objective, plane, **AXES)) == expected
    assert (plane.scratch is None) == (trouble != "none")


def test_statistics_and_complex_parameters(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.cfloat))

        def forward(self, x: Tensor) -> Tensor:
            return (x.to(torch.cfloat) @ self.a.T).abs()

    def measured() -> list[bytes]:
        waves = ls.Objective(Waves(), data=data())
        plane = ls.random_plane(waves, seed=1)
        model = ls.Objective(network(), data=data(), checkpoint=None if plane.streamed is False else checkpoint)
        return [
            losses(ls.measure_surface(waves, plane, x=(-1, 1, 3), y=(0.5, 1, 2))),
            losses(ls.measure_surface(model, ls.random_plane(model, seed=1), **AXES, batchnorm="reestimated")),
        ]

    flat = measured()
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    assert measured() == flat


def test_a_surface_to_an_error_and_a_line_through_models(checkpoint: Path) -> None:
    found = []
    for given in (None, checkpoint):
        objective = ls.Objective(network(), data=data(), checkpoint=given)
        other = network()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5 if parameter.requires_grad else 1)
        line = ls.plane_through(objective, [network(), other])
        plane = ls.random_plane(objective, seed=2)
        found.append(
            losses(ls.measure_surface(objective, line, x=(-0.5, 1.5, 3)))
            + losses(ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(-1, 1, 3), error=0.1))
        )
    assert found[0] == found[1]


def test_interrupted_it_has_its_own_weights(checkpoint: Path) -> None:
    model, calls = network(), 0

    def stops(module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 0:
            assert bits(model) != bits(network())  # it is written to in place
            raise KeyboardInterrupt
        return forward(module, batch)

    objective = ls.Objective(model, data=[data()], forward=stops, checkpoint=checkpoint)
    plane = ls.random_plane(objective, seed=3)
    calls = -2
    with pytest.raises(KeyboardInterrupt):
        ls.measure_surface(objective, plane, **AXES)
    assert bits(model) == bits(network())


def test_a_point_does_not_read_what_the_model_holds(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions are added in place; the file is read to put the model back, and no more."""
    objective = ls.Objective(network(), data=data(), checkpoint=checkpoint)
    plane = ls.random_plane(objective, seed=3)
    expected, own, read = plane.point([0.5, -1.0]), objective.centre, []
    fill = StoredTensors.fill
    monkeypatch.setattr(StoredTensors, "fill", lambda *given: read.append(given[2]) or fill(*given))

    def write(chosen: Sequence[Piece], parts: Mapping[str, Tensor]) -> None:
        plane.write([0.5, -1.0], chosen, parts)
        assert torch.equal(torch.cat([parts[block.name].flatten() for block in objective.layout.blocks]), expected)

    with own.written(write):
        assert not read
    assert len(read) == len(cutting.pieces(objective.layout))


def test_interrupted_while_it_is_put_back(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    objective = ls.Objective(model, data=data(), checkpoint=checkpoint)
    own = objective.centre
    restore, calls = own._restore, 0

    def interrupted(piece: Piece, out: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        restore(piece, out)

    monkeypatch.setattr(own, "_restore", interrupted)

    def write(_: object, parts: Mapping[str, Tensor]) -> None:
        for part in parts.values():
            part.zero_()

    with pytest.raises(KeyboardInterrupt), own.written(write):
        pass
    assert bits(model) == bits(network())


def test_killed_nothing_of_the_users_is_changed(checkpoint: Path, tmp_path: Path) -> None:
    before = checkpoint.read_bytes()
    program = [sys.executable, str(PROGRAMS / "streamed_cases.py"), str(checkpoint), str(tmp_path / "run")]
    assert subprocess.run(program, check=False, timeout=GUARD).returncode == -signal.SIGKILL
    assert checkpoint.read_bytes() == before
    assert losses(surface(checkpoint, tmp_path / "run")) == losses(surface(None, None))


def test_what_cannot_be_is_told(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = ls.Objective(network(), data=data())
    with pytest.raises(InputError, match="memory='mapped'; give one of streamed, flat"):
        ls.measure_surface(objective, ls.random_plane(objective), **AXES, memory="mapped")
    other = network()
    with torch.no_grad():
        other[0].weight[0, 0] += 1
    with pytest.raises(InputError, match=r"has other values of 0\.weight than the model"):
        ls.Objective(other, data=data(), checkpoint=checkpoint)
    with pytest.raises(InputError, match="checkpoint=5; give a path"):
        ls.Objective(network(), data=data(), checkpoint=5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"needs dense parameters of torch\.float64"):
        ls.Objective(network(), data=data(), precision="float64", checkpoint=checkpoint)
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    model = network()
    objective = ls.Objective(model, data=data())
    plane = ls.random_plane(objective)
    model[0].weight.data[0, 0] += 1  # torch does not count this
    with pytest.raises(
        InputError, match="changed after the plane was made, which is scaled to them and keeps no copy of them"
    ):
        ls.measure_surface(objective, plane, **AXES)
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    with pytest.raises(
        InputError, match="changed after the objective was made, and it holds no copy of them; make a new"
    ):
        ls.measure_surface(objective, plane, **AXES)


def test_parameters_that_share_memory_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    assert ls.Objective(model, data=data()).centre.live
    model[1].weight.data = model[0].weight.data
    assert not ls.Objective(model, data=data()).centre.live


class Half(nn.Module):
    """Layers, a tied output, a buffer that is not in half precision, and inputs that are numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm, self.last = nn.Linear(6, 12), nn.LayerNorm(12), nn.Linear(12, 6)
        self.last.weight = nn.Parameter(self.first.weight.T.contiguous())
        self.to(torch.bfloat16)
        self.register_buffer("scale", torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.norm(self.first(x)))) * self.scale
        return found


def test_half_precision_stays_and_its_error_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are those of a model with parameters rounded once; anchors those of one in float32, written out."""
    save_file(Half().state_dict(), tmp_path / "half.safetensors")
    monkeypatch.setattr("landscape.objective.model.LARGE", 0)
    model = Half()
    objective = ls.Objective(model, data=data(), checkpoint=tmp_path / "half.safetensors")
    assert (objective.precision, objective.dtype, objective.buffers["scale"].dtype) == (
        "own",
        torch.bfloat16,
        torch.float32,
    )
    plane = ls.random_plane(objective, seed=4)
    found = ls.measure_surface(objective, plane, **AXES)
    twin = Half()
    worst = 0.0
    for j, y in enumerate(found.axes["y"]):
        for i, x in enumerate(found.axes["x"]):
            exact = objective.theta.float() + float(x) * plane.directions[0] + float(y) * plane.directions[1]
            low, full = (value(twin, exact, kind) for kind in (torch.bfloat16, torch.float32))
            np.testing.assert_allclose(found.values["loss"][j, i], low, rtol=1e-5)
            worst = max(worst, abs(low - full) / full)
    assert 0 < worst == pytest.approx(found.attributes["precision_error_relative"], rel=1e-2)
    assert found.attributes["precision_error_points"] == 6
    assert bits(model) == bits(Half())
    with pytest.raises(InputError, match="precision is 'own'"):
        ls.measure_surface(objective, plane, **AXES, error=0.1)
    with pytest.raises(InputError, match="bfloat16 or float16 as they are"):
        ls.Objective(network(), data=data(), precision="own")


def value(model: nn.Module, theta: Tensor, kind: torch.dtype) -> float:
    """The mean loss with parameters and inputs of a type."""
    model.to(kind)
    model.register_buffer("scale", torch.tensor(0.1))
    with torch.no_grad():
        nn.utils.vector_to_parameters(theta.to(kind), model.parameters())
        inputs = data()[0].bfloat16().to(kind)
        return float(nn.functional.cross_entropy(model(inputs).float(), data()[1]))


class Scaled(nn.Module):
    """A layer, and parameters of a list, which is never called."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer, self.scales = nn.Linear(6, 3), nn.ParameterList([torch.randn(3), torch.randn(3)])
        self.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x) * self.scales[0] + self.scales[1]
        return found


@pytest.mark.parametrize("memory", ["streamed", "flat"])
@pytest.mark.parametrize("through", [False, True])
def test_half_precision_along_given_directions(memory: str, through: bool) -> None:
    """Directions in float32 stay so, a point is rounded once, and anchors are not, whatever module uses them."""
    objective = ls.Objective(Scaled(), data=data(), precision="own")
    centre, generator = objective.theta.float(), torch.Generator().manual_seed(7)
    along = [0.3 * torch.randn(objective.layout.size, generator=generator) for _ in range(2)]
    if through:
        plane = ls.plane_through(objective, [centre, centre + along[0], centre + along[1]])
        along = [direction.float() for direction in plane.directions]
    else:
        plane = ls.plane_from_directions(objective, along)
    worst, twin = 0.0, Scaled()
    found = ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(-0.37, 0.5, 3), memory=memory)
    assert torch.equal(plane.centre, objective.theta)
    for j, y in enumerate(found.axes["y"]):
        for i, x in enumerate(found.axes["x"]):
            exact = centre + float(x) * along[0] + float(y) * along[1]
            assert torch.equal(plane.point([float(x), float(y)]), exact.bfloat16())
            low, full = (value(twin, exact, kind) for kind in (torch.bfloat16, torch.float32))
            np.testing.assert_allclose(found.values["loss"][j, i], low, rtol=1e-5)
            worst = max(worst, abs(found.values["loss"][j, i] - full) / full)
    assert worst == pytest.approx(found.attributes["precision_error_relative"], rel=1e-2)


def test_half_precision_of_convolutions_has_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 8, 8, generator=generator), torch.randint(2, (4,), generator=generator)
    errors = []
    for large in (1 << 60, 0):
        monkeypatch.setattr("landscape.objective.centre.LARGE", large)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).bfloat16()
        objective = ls.Objective(model, data=images, precision="own")
        assert objective.channels_last
        found = ls.measure_surface(objective, ls.random_plane(objective), x=(-1, 1, 3), y=(-1, 1, 2))
        errors.append(found.attributes["precision_error_relative"])
    assert 0 < errors[0] == errors[1]


@pytest.mark.parametrize("memory", ["streamed", "flat"])
def test_what_was_changed_meanwhile_is_refused_and_kept(memory: str, checkpoint: Path, tmp_path: Path) -> None:
    """The user's own change stays in the model, also one that torch does not count; a file must stay as it was."""
    model = network()
    objective = ls.Objective(model, data=data(), checkpoint=checkpoint)
    size = objective.layout.size
    planes = [ls.random_plane(objective), ls.plane_from_directions(objective, [torch.ones(size), torch.arange(size)])]
    model[6].weight.data.mul_(2)
    changed = bits(model)
    for plane in planes:
        with pytest.raises(InputError, match="changed after the objective was made"):
            ls.measure_surface(objective, plane, **AXES, memory=memory)
    assert bits(model) == changed
    file = tmp_path / "copy.safetensors"
    file.write_bytes(checkpoint.read_bytes())
    objective = ls.Objective(network(), data=data(), checkpoint=file)
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\x80?")
    with pytest.raises(InputError, match="was written to while it was used"):
        ls.measure_surface(objective, ls.random_plane(objective), **AXES, memory=memory)


@pytest.mark.parametrize("name", ["0.bias", "6.bias"])  # one that does not vary, and one that does
def test_a_changed_model_is_not_evaluated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    model = network()
    objective = ls.Objective(model, data=data())
    with torch.no_grad():
        model.get_parameter(name).add_(1)
    with pytest.raises(InputError, match="changed after the objective was made"):
        objective.evaluate()


def test_a_plane_of_a_changed_model_has_no_centre_and_no_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    model = network()
    plane = ls.random_plane(ls.Objective(model, data=[data()], forward=forward), seed=3)
    assert torch.equal(plane.point((0.0, 0.0)), plane.centre)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    for asked in (lambda: plane.centre, lambda: plane.point((0.5, 0.0))):
        with pytest.raises(InputError, match="changed after the objective was made"):
            asked()


def test_a_plane_of_a_changed_model_is_not_made_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    model = network()
    plane = ls.random_plane(objective := ls.Objective(model, data=data()))
    model[6].weight.data.mul_(2)
    with pytest.raises(InputError, match="changed after the plane was made"):
        ls.measure_surface(objective, plane, **AXES, memory="flat")


@pytest.mark.parametrize("line", ["parameter.data = data", "self._put_back(stored)"])
def test_interrupted_on_the_way_out(line: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    model, left = network(), True

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        file = frame.f_code.co_filename
        if left and event == "line" and line in linecache.getline(file, frame.f_lineno):
            left = False
            raise KeyboardInterrupt
        return trace if file.endswith(("objective/model.py", "objective/centre.py", "contextlib.py")) else None

    objective = ls.Objective(model, data=data(), checkpoint=checkpoint if "_put_back" in line else None)
    plane = ls.random_plane(objective, seed=3)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            ls.measure_surface(objective, plane, **AXES)
    finally:
        sys.settrace(before)
    assert not left
    assert bits(model) == bits(network())


def test_a_view_of_a_parameter_that_a_module_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the centre's values at all points, as in a copy, so that the model is not written to."""

    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)
            self.kept = [self.layer.weight.data.T]

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.layer(x) + x @ self.kept[0]
            return found

    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    model = Viewed()
    assert not ls.Objective(model, data=data()).centre.live
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="share no memory"):
        ls.Objective(model, data=data(), checkpoint=tmp_path / "model.safetensors")


def test_adapters_in_float32_on_a_large_model_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.objective.model.LARGE", 0)
    model = nn.Sequential(nn.Linear(6, 6).bfloat16().requires_grad_(False), nn.Linear(6, 3))
    objective = ls.Objective(model, data=data())
    assert (objective.precision, objective.layout.size) == ("float32", 21)


def test_a_copy_holds_each_tensor_at_a_whole_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut from one vector they would begin anywhere, and be copied once more where that is in the middle of a word."""
    monkeypatch.setattr("landscape.objective.centre.LARGE", 0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3))
    before = [(p.data_ptr(), p.clone()) for p in model.parameters()]
    objective = ls.Objective(model, data=(torch.randn(8, 3), torch.arange(8) % 3))

    def write(_: object, parts: Mapping[str, Tensor]) -> None:
        for part in parts.values():
            part.fill_(2)

    with objective.centre.written(write) as theta:
        assert theta is None
        assert all(p.data_ptr() % 16 == 0 and bool((p == 2).all()) for p in model.parameters())
    assert [p.data_ptr() for p in model.parameters()] == [place for place, _ in before]
    assert all(torch.equal(p, values) for p, (_, values) in zip(model.parameters(), before, strict=True))
