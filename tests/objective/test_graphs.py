"""Recorded passes, without a GPU: a tape of torch's operations stands where CUDA records kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import landscape as ls
from landscape.objective import graphs
from landscape.objective.model import BoundModel
from landscape.run.comm import Serial


class Tape(TorchDispatchMode):
    """As a CUDA graph: operations on the memory that they met, and nothing of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # by address: what a parameter points to now, and not the parameter
        self.operations.append(tree_map_only(Tensor, Tensor.detach, (func, args, kwargs or {}, out)))
        return out

    def capture(self, function: Callable[[], None]) -> None:
        with self:
            function()

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.operations:
            found = func(*args, **kwargs)
            for old, new in zip(tensors(out), tensors(found), strict=True):
                if old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)


def tensors(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else [t for t in out or () if isinstance(t, Tensor)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(self.conv(x)).relu().flatten(1))
        return scores


def made(kind: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    model = kind()
    model(IMAGES)  # statistics of their own
    return model.eval()


IMAGES = torch.randn(40, 2, 4, 4, generator=torch.Generator().manual_seed(0))
DATA = IMAGES, torch.arange(40) % 5


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """The processor counts as a device that records; what was recorded."""
    found: list[Tape] = []

    def recorder_on(device: torch.device) -> Tape:
        found.append(Tape())
        return found[-1]

    monkeypatch.setattr(graphs, "recorder_on", recorder_on)
    monkeypatch.setattr("landscape.objective.losses.on_host", lambda tensor: False)
    for module in ("graphs", "sums"):
        monkeypatch.setattr(f"landscape.objective.{module}.is_host", lambda device: False)
    return found


def bits(found: dict[str, Any]) -> dict[str, tuple[str, str, int, str]]:
    return {name: (float(e).hex(), float(e.stderr).hex(), e.n, e.unit) for name, e in found.items()}


@pytest.mark.parametrize("options", [{}, {"precision": "float64"}, {"precision": "bf16"}, {"channels_last": False}])
def test_points_are_replayed_to_the_bit(tapes: list[Tape], options: dict[str, Any]) -> None:
    both = [
        ls.Objective(made(), data=DATA, metrics=("accuracy",), chunk=16, check=False, cuda_graphs=used, **options)
        for used in (False, True)
    ]
    plain, graphed = both
    assert graphed.cuda_graphs
    plane = ls.random_plane(plain, seed=0)
    theta = torch.empty_like(plane.centre)
    others = {"norm.running_mean": torch.tensor([0.5, 0.0, -0.5]).to(plain.dtype)}
    for place, buffers in (((0.1, 0.2), None), ((-0.4, 0.3), None), ((-0.4, 0.3), others), ((0.1, 0.2), None)):
        plane.point(place, theta)
        found = [bits(one.estimates(theta, buffers=buffers)) for one in both]
        assert found[0] == found[1]
    assert bits(plain.estimates()) == bits(graphed.estimates())
    assert len(tapes) == 1
    assert tapes[0].replays == 2 + 5  # at both places of the trial, then once a point
    with pytest.raises(ls.InputError, match="no buffer"):
        graphed.estimates(theta, buffers={"norm.running_men": theta})


def test_a_replayed_point_does_not_touch_the_model(tapes: list[Tape], monkeypatch: pytest.MonkeyPatch) -> None:
    model = made()
    objective = ls.Objective(model, data=DATA, cuda_graphs=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = bits(objective.estimates())
    monkeypatch.setattr(BoundModel, "at", lambda *_, **__: pytest.fail("the model was bound"))
    assert bits(objective.estimates()) == first
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_surface_with_statistics_of_every_point_is_the_same(tapes: list[Tape]) -> None:
    found = []
    for used in (False, True):
        objective = ls.Objective(made(), data=DATA, chunk=16, cuda_graphs=used)
        plane = ls.random_plane(objective, seed=0)
        found.append(ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(-1, 1, 2), batchnorm="reestimated"))
    assert (found[0].values["loss"] == found[1].values["loss"]).all()
    assert (found[0].stderr["loss"] == found[1].stderr["loss"]).all()
    assert tapes[0].replays > 6


class Second(Serial):
    """The second of two ranks, which adds nothing to its sums."""

    rank, size = 1, 2


def test_a_rank_of_a_group_records_its_own_chunks(tapes: list[Tape]) -> None:
    both = [ls.Objective(made(), data=DATA, chunk=16, cuda_graphs=used) for used in (False, True)]
    found = [bits(one.estimates(group=Second())) for one in both]
    assert found[0] == found[1]
    assert found[0] != bits(both[1].estimates())
    assert len(tapes) == 2


class Kept(Tape):
    """A recording that kept the values of the place where it was made."""

    def replay(self) -> None:
        out = self.operations[-1][-1]
        out.copy_(self.last) if hasattr(self, "last") else setattr(self, "last", out.clone())


class Silent(Tape):
    """A recording that starts nothing."""

    def replay(self) -> None:
        return


class Failing(Tape):
    """Torch refuses what waits for the device while it records."""

    def capture(self, function: Callable[[], None]) -> None:
        function()
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("recorder", "told"), [(Kept, "other values"), (Silent, "other values"), (Failing, "not permitted when stream")]
)
def test_what_cannot_be_replayed_is_told_and_computed_plainly(
    tapes: list[Tape],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recorder: type[Tape],
    told: str,
) -> None:
    monkeypatch.setattr(graphs, "recorder_on", lambda device: recorder())
    model = made()
    objective = ls.Objective(model, data=DATA, cuda_graphs=True)
    before = model.state_dict()["head.weight"].clone()
    theta = objective.theta * 1.5
    found = bits(objective.estimates(theta))
    assert told in caplog.text
    assert not objective.cuda_graphs
    assert found == bits(ls.Objective(made(), data=DATA).estimates(theta))
    assert torch.equal(model.state_dict()["head.weight"], before)
    caplog.clear()
    objective.estimates(theta)
    assert caplog.text == ""  # it is not tried again


class Writing(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.norm.num_batches_tracked.add_(1)
        return super().forward(x)


class Looking(Net):
    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        return scores * 2 if float(scores.sum()) > 1e9 else scores


class Drawing(Net):
    def forward(self, x: Tensor) -> Tensor:
        import random

        random.random()
        return super().forward(x)


def refused(kind: type[nn.Module], data: Any = DATA, **options: Any) -> str:
    with pytest.raises(ls.InputError, match="Leave it out") as caught:
        ls.Objective(made(kind), data=data, cuda_graphs=True, **options)
    return str(caught.value)


def test_what_is_no_list_of_kernels_is_refused(tapes: list[Tape], tmp_path: Path) -> None:
    assert "writes to the model's buffers" in refused(Writing)
    assert "_local_scalar_dense" in refused(Looking)
    assert "draws random numbers" in refused(Drawing)
    assert "streamed" in refused(Net, memory_budget=0)
    looks = {"forward": lambda model, batch: (model(batch[0]) * batch[1].max().item(), batch[1])}
    assert "looks at values" in refused(Net, [DATA], **looks)
    path = tmp_path / "model.safetensors"
    from safetensors.torch import save_file

    save_file(dict(made().state_dict()), path)
    assert "not exchanged" in refused(Net, checkpoint=path)
    assert tapes == []


def test_without_a_gpu_it_is_refused_before_anything_is_done() -> None:
    with pytest.raises(ls.InputError, match="records what a GPU computes at a point, and this objective is on cpu"):
        ls.Objective(made(), data=iter(()), device="cpu", cuda_graphs=True)


def test_other_data_have_recordings_of_their_own(tapes: list[Tape]) -> None:
    objective = ls.Objective(made(), data=DATA, cuda_graphs=True)
    few = objective.on(objective.data.head(8))
    assert few.cuda_graphs
    assert bits(few.estimates()) == bits(ls.Objective(made(), data=DATA).on(objective.data.head(8)).estimates())
    assert not objective.on(objective.data, cuda_graphs=False).cuda_graphs
    assert len(tapes) == 1


class Growing(Net):
    """A mask that is made anew where more is asked of it than it holds, as those of attention are."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(1))
        self.deep = {"of": [torch.ones(1)]}  # where nobody looks

    def forward(self, x: Tensor) -> Tensor:
        if len(self.mask) < len(x):
            self.mask = torch.ones(len(x)) * 2
        if len(self.deep["of"][0]) < len(x):
            self.deep["of"][0] = torch.ones(len(x))
        return super().forward(x) * self.mask[: len(x), None] * self.deep["of"][0][: len(x), None]


def test_what_a_recording_reads_stays_where_it_is(tapes: list[Tape]) -> None:
    objective = ls.Objective(Growing().eval(), data=DATA, chunk=16, check=False, cuda_graphs=True)
    objective.estimates()
    assert objective.cuda_graphs
    (graph,) = (objective._graphs or {}).values()
    assert graph is not None
    kept = {held.data_ptr() for held in graph._kept if isinstance(held, UntypedStorage)}
    made: set[int] = set()
    for _, args, kwargs, out in tapes[0].operations:
        read = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        assert read - made <= kept
        made |= {t.untyped_storage().data_ptr() for t in tensors(out)}


def test_a_recording_of_inference_mode_is_used_outside(tapes: list[Tape]) -> None:
    plain, graphed = (
        ls.Objective(made(), data=DATA, chunk=16, check=False, cuda_graphs=used) for used in (False, True)
    )
    expected = bits(plain.estimates())
    with torch.inference_mode():
        assert bits(graphed.estimates()) == expected
    assert bits(graphed.estimates()) == expected
    with torch.inference_mode():
        assert bits(graphed.estimates()) == expected
    assert len(tapes) == 1
    assert graphed.cuda_graphs


def test_a_trial_tells_whether_they_pay(tapes: list[Tape], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    at, moments = BoundModel.at, graphs.PointGraph.moments

    def bound(*args: Any, **options: Any) -> Any:
        nonlocal now
        now += 3.0
        return at(*args, **options)

    def replayed(*args: Any) -> Any:
        nonlocal now
        now += 1.0
        return moments(*args)

    monkeypatch.setattr(BoundModel, "at", bound)
    monkeypatch.setattr(graphs.PointGraph, "moments", replayed)
    objective = ls.Objective(made(), data=DATA)
    speed = ls.speed_trial(objective, tmp_path, lambda: now)
    assert speed.cuda_graphs["off"] == pytest.approx(3 * speed.cuda_graphs["on"])
    assert speed.proposal["cuda_graphs"] == ("on", pytest.approx(3.0))
    from landscape.objective.speed import speed_table

    assert "objective.cuda_graphs = true (3 times as fast)" in str(speed_table(speed))
    assert ls.speed_trial(objective, tmp_path, lambda: now) == speed  # as it is remembered
