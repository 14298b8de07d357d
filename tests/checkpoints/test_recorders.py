"""Trajectories recorded in real trainings: a plain loop, Lightning, transformers; and drawn on their own planes."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_zoo import installed
from torch import Tensor, nn

import landscape as ls
from landscape.checkpoints.reading import step_files
from landscape.checkpoints.recorder import TrajectoryRecorder
from landscape.errors import InputError, StoreError
from landscape.files import durable as files

# Warnings of these libraries are theirs; and processes of pytest hand on none whose class only a worker can import.
pytestmark = pytest.mark.filterwarnings("ignore")

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Tied(nn.Module):
    """An embedding whose table is also the output layer, and BatchNorm between."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.table = nn.Embedding(5, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, 5, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.table(x)))


X = torch.arange(40) % 5
Y = (X + 1) % 5


def net(width: int = 6, seed: int = 0) -> Tied:
    torch.manual_seed(seed)
    return Tied(width)


def train(model: nn.Module, steps: int) -> Iterator[None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(steps):
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def copy(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def names(*steps: int) -> list[str]:
    return [f"step-{step:08d}.safetensors" for step in steps]


def stored(folder: Path, step: int) -> State:
    return load_file(folder / names(step)[0])


# -- a plain loop -----------------------------------------------------------------------------------------------------


def test_states_of_a_plain_loop_are_those_it_passed_through(tmp_path: Path) -> None:
    model, folder = net(), tmp_path / "träjectory"
    expected = {0: copy(model)}
    with TrajectoryRecorder(model, folder, every=5) as recorder:
        for number, _ in enumerate(train(model, 12), 1):
            recorder.step()
            expected[number] = copy(model)
    assert steps_in(folder) == names(0, 5, 10, 12)
    for step in (0, 5, 10, 12):
        del expected[step]["out.weight"]  # tied to the table, under whose name it stands
        assert same(stored(folder, step), expected[step])
        with safe_open(folder / names(step)[0], "pt") as file:
            assert file.metadata()["step"] == str(step)
    fresh = net(seed=1)
    ls.load_checkpoint(fresh, folder / names(12)[0])
    assert same(copy(fresh), copy(model))
    assert fresh.out.weight is fresh.table.weight


def test_it_goes_on_where_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    with TrajectoryRecorder(model, tmp_path, every=4) as recorder:
        for _ in train(model, 9):
            recorder.step()
    with TrajectoryRecorder(model, tmp_path, every=4) as recorder:  # where the last state left it
        for _ in train(model, 4):
            recorder.step()
    assert steps_in(tmp_path) == names(0, 4, 8, 9, 12, 13)
    ls.load_checkpoint(model, tmp_path / names(8)[0])  # from an earlier one: what comes after is done again
    with caplog.at_level(logging.WARNING):
        recorder = TrajectoryRecorder(model, tmp_path, every=4, start=8)
    assert steps_in(tmp_path) == [*names(0, 4, 8), *(f"{name}.old" for name in names(9, 12, 13))]
    assert "goes on from step 8; 3 states of later steps are set aside" in caplog.text
    recorder.step(11)
    recorder.step(13)  # a multiple of 4 is passed, as with two optimisers that count together
    assert [path.name for path in step_files(tmp_path)] == names(0, 4, 8, 13)


def test_other_trainings_and_models_are_refused(tmp_path: Path) -> None:
    model = net()
    with TrajectoryRecorder(model, tmp_path, every=2) as recorder:
        for _ in train(model, 2):
            recorder.step()
    before = steps_in(tmp_path)
    for other, start, says in (
        (net(), None, "another state of step 2"),
        (net(seed=1), 0, "another state of step 0"),
        (net(width=7), None, r"of another model: 'norm\.bias' is \(6,\) in it and \(7,\) in this one"),
        (nn.Linear(2, 2), None, r"'bias' is not there in it"),
    ):
        with pytest.raises(InputError, match=says):
            TrajectoryRecorder(other, tmp_path, every=2, start=start)
        assert steps_in(tmp_path) == before
    for path in (tmp_path / names(0)[0], tmp_path / names(2)[0]):
        path.rename(path.with_name(path.name.replace("-0000000", "-0000010")))
    with pytest.raises(InputError, match="states from step 100 on, not of 3"):
        TrajectoryRecorder(model, tmp_path, start=3)


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    for arguments, says in (
        ((nn.Linear(1, 1), tmp_path / "a", 0), "every=0"),
        ((nn.Linear(1, 1), tmp_path / "a", 1, -1), "start=-1"),
        ((3, tmp_path / "a"), "model is int"),
    ):
        with pytest.raises(InputError, match=says):
            TrajectoryRecorder(*arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        TrajectoryRecorder(net(), tmp_path / "file" / "below")


def test_names_are_those_without_wrappers(tmp_path: Path) -> None:
    plain = net()
    inner = nn.Sequential(net(), nn.ReLU())
    inner[0] = torch.compile(inner[0])  # type: ignore[call-overload]
    for number, (wrapped, own) in enumerate(
        (
            (nn.DataParallel(plain), plain),
            (torch.compile(plain), plain),
            (torch.compile(nn.DataParallel(plain)), plain),
            (inner, nn.Sequential(net(), nn.ReLU())),
        )
    ):
        folder = tmp_path / str(number)
        TrajectoryRecorder(wrapped, folder)
        TrajectoryRecorder(own, folder.with_name(f"{number} plain"))
        assert same(stored(folder, 0), stored(folder.with_name(f"{number} plain"), 0))
        for model in (wrapped, own):
            ls.load_checkpoint(model, folder / names(0)[0])


def test_what_shares_memory_is_written_once_or_apart(tmp_path: Path) -> None:
    model = nn.Module()
    table = torch.arange(12.0).reshape(3, 4)
    model.register_buffer("whole", table)
    model.register_buffer("rows", table[1:])
    model.register_buffer("turned", table.t())
    model.register_parameter("weight", nn.Parameter(torch.ones(2)))
    TrajectoryRecorder(model, tmp_path)
    assert same(stored(tmp_path, 0), copy(model))


def test_a_state_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    recorder = TrajectoryRecorder(model, tmp_path, every=1)

    def full(temporary: Path, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync_replace", full)
    with pytest.raises(StoreError, match=r"state of the model cannot be written to .*step-00000001.*No space left"):
        recorder.step()
    assert steps_in(tmp_path) == names(0)
    monkeypatch.undo()
    recorder.save()  # it is still to be written
    assert steps_in(tmp_path) == names(0, 1)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_rank_0_alone_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(net())
        for rank in (0, 1):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            with TrajectoryRecorder(model, tmp_path / f"rank{rank}", every=2) as recorder:
                for _ in train(model, 3):
                    recorder.step()
    finally:
        monkeypatch.undo()
        torch.distributed.destroy_process_group()
    assert steps_in(tmp_path / "rank0") == names(0, 2, 3)
    assert not (tmp_path / "rank1").exists()
    assert stored(tmp_path / "rank0", 3).keys() == copy(net()).keys() - {"out.weight"}


def test_models_in_shards_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.weight.ds_id = 0  # type: ignore[assignment]  # as ZeRO-3 marks what it cuts
    with pytest.raises(InputError, match=r"in shards.*no process has its whole state"):
        TrajectoryRecorder(model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


# -- trainers ---------------------------------------------------------------------------------------------------------


def drawn(objective: ls.Objective, folder: Path, steps: tuple[int, ...], picture: Path) -> ls.Surface:
    """The surface of a recorded trajectory, whose last state is the objective's centre; its picture is kept."""
    plane = ls.pca_plane(objective, folder)
    assert plane.points is not None
    x, y = ((float(c.min()) - 0.3, float(c.max()) + 0.3) for c in plane.points.coordinates.T)
    surface = ls.measure_surface(objective, plane, x=(*x, 9), y=(*y, 7))
    points = surface.points
    assert points is not None
    assert points.labels == tuple(map(str, steps))
    assert abs(points.coordinates[-1]).max() < 1e-4
    assert points.true["loss"][-1] == pytest.approx(float(objective.evaluate()["loss"]), rel=1e-5)
    assert points.explained_variance is not None
    assert points.explained_variance.sum() > 0.7
    figure = surface.plot()
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {str(steps[0]), str(steps[-1])} <= texts
    figure.savefig(picture, dpi=80)
    return surface


def test_a_plain_loop_is_drawn(tmp_path: Path) -> None:
    model, folder = net(), tmp_path / "trajectory"
    with TrajectoryRecorder(model, folder, every=4) as recorder:
        for _ in train(model, 110):
            recorder.step()
    surface = drawn(ls.Objective(model, data=(X, Y)), folder, (*range(0, 110, 4), 110), tmp_path / "plain.png")
    true = surface.points.true["loss"]  # type: ignore[union-attr]
    assert true[-1] < 0.2 * true[0]


@pytest.fixture(params=["lightning", "pytorch_lightning"])
def lightning(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Any]:
    """(a package of Lightning, the callback made for it), whichever of the two a script imports."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed: pip install 'loss-landscape-engine[lightning]'")
    if importlib.util.find_spec("torchvision") is not None:
        installed("torchvision")  # which torchmetrics loads
    other = {"lightning": "pytorch_lightning", "pytorch_lightning": "lightning"}[request.param]
    for name in (other, "landscape.lightning_callback"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    package = importlib.import_module(request.param)
    package = getattr(package, "pytorch", package)
    logging.getLogger(package.__name__).setLevel(logging.ERROR)
    callback = importlib.import_module("landscape.lightning_callback").TrajectoryCallback
    assert issubclass(callback, package.Callback)
    return package, callback


def test_a_training_by_lightning(lightning: tuple[ModuleType, Any], tmp_path: Path) -> None:
    package, callback = lightning
    states: dict[int, State] = {}

    class Module(package.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = net(seed=seed)
            self.weigh = nn.CrossEntropyLoss(weight=torch.ones(5))

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self.weigh(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Spy(package.Callback):  # type: ignore[name-defined, misc]
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            states.setdefault(trainer.global_step, copy(pl_module))  # at the step, not half a batch later

    def fit(steps: int, callbacks: list[Any], seed: int = 0, **options: Any) -> tuple[Any, Any]:
        module = Module(seed)
        trainer = package.Trainer(
            max_steps=steps,
            accumulate_grad_batches=2,
            callbacks=callbacks,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        data = torch.utils.data.TensorDataset(X, Y)
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=5), **options)
        return trainer, module

    folder = tmp_path / "trajectory"
    trainer, _ = fit(14, [callback(folder, every=4), Spy()])
    assert steps_in(folder) == names(0, 4, 8, 12, 14)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer, module = fit(22, [Spy(), callback(str(folder), 4)], ckpt_path=tmp_path / "last.ckpt")
    assert steps_in(folder) == names(0, 4, 8, 12, 14, 16, 20, 22)
    for step in (4, 12, 14, 16, 22):
        found = stored(folder, step)
        assert all(torch.equal(value, states[step][name]) for name, value in found.items())
        assert states[step].keys() - found.keys() == {"net.out.weight"}
    with pytest.raises(InputError, match="another state of step 0"):
        fit(2, [callback(folder)], seed=1)
    objective = ls.Objective(module.net, data=(X, Y))  # the network alone: the module's `net.` comes off
    drawn(objective, folder, (0, 4, 8, 12, 14, 16, 20, 22), tmp_path / "lightning.png")


def test_an_error_ends_the_recording_with_the_last_whole_state(tmp_path: Path) -> None:
    """It may come between the optimiser's step and the recorder's, or with the statistics of half a batch."""
    model = net()
    states: list[State] = [copy(model)]

    def loop() -> None:
        with ls.TrajectoryRecorder(model, tmp_path, every=2) as recorder:
            for number, _ in enumerate(train(model, 5), start=1):
                states.append(copy(model))
                if number == 5:
                    raise KeyboardInterrupt
                recorder.step()

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert steps_in(tmp_path) == names(0, 2, 4)
    for step in (0, 2, 4):
        del states[step]["out.weight"]  # tied
        assert same(stored(tmp_path, step), states[step])
    ls.load_checkpoint(model, tmp_path / "step-00000004.safetensors")
    ls.TrajectoryRecorder(model, tmp_path, every=2)
    assert steps_in(tmp_path) == names(0, 2, 4)


@pytest.fixture
def transformers() -> ModuleType:
    return installed("transformers")


TOKENS = (torch.arange(8)[:, None] * 3 + torch.arange(6)[None]) % 11


def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    return model(input_ids=batch[0]).logits[:, :-1].transpose(1, 2), batch[0][:, 1:]


def test_a_training_by_transformers(transformers: ModuleType, tmp_path: Path) -> None:
    from landscape.transformers_callback import TrajectoryCallback

    states: dict[int, State] = {}

    class Spy(transformers.TrainerCallback):  # type: ignore[name-defined, misc]
        def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
            states[state.global_step] = copy(model)

    def fit(
        folder: Path, steps: int, resume: str | None = None, every: int = 2, more: Any = (), **options: Any
    ) -> nn.Module:
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        model = transformers.GPT2LMHeadModel(config)
        settings = transformers.TrainingArguments(
            output_dir=tmp_path / "out",
            max_steps=steps,
            save_steps=3,
            learning_rate=3e-2,
            per_device_train_batch_size=4,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            **options,
        )
        data = [{"input_ids": row, "labels": row} for row in TOKENS]
        callbacks = [TrajectoryCallback(folder, every), Spy(), *more]
        trainer = transformers.Trainer(model, settings, train_dataset=data, eval_dataset=data, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return model

    folder = tmp_path / "trajectory"
    fit(folder, 7)
    assert steps_in(folder) == names(0, 2, 4, 6, 7)
    model = fit(folder, 15, str(tmp_path / "out" / "checkpoint-6"))
    assert steps_in(folder) == sorted([*names(0, 2, 4, 6, 8, 10, 12, 14, 15), f"{names(7)[0]}.old"])
    for step in (2, 6, 8, 14, 15):
        found = stored(folder, step)
        assert all(torch.equal(value, states[step][name]) for name, value in found.items())
        assert states[step].keys() - found.keys() == {"lm_head.weight"}
    objective = ls.Objective(model, data=(TOKENS,), forward=forward)
    drawn(objective, folder, (0, 2, 4, 6, 8, 10, 12, 14, 15), tmp_path / "transformers.png")

    # the same plane from the Trainer's own checkpoints, by number and not by text
    plane = ls.pca_plane(objective, tmp_path / "out")
    assert plane.points is not None
    assert plane.points.labels == ("3", "6", "7", "9", "12", "15")  # the first training left 7 there
    assert torch.equal(plane.points.vectors[-1], objective.theta)

    # the best model, here the first evaluated, takes the last one's place before the end
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True, "eval_steps": 3}
    table = "transformer.wte.weight"
    for number, (evaluated, saved, early, last) in enumerate(
        (
            ("steps", "best", False, 7),
            ("steps", "best", True, 6),
            ("epoch", "epoch", True, 4),
            ("epoch", "best", True, None),  # no call tells the end before the best model is there: left out, not wrong
        )
    ):
        recorded, first = tmp_path / str(number), 3 if evaluated == "steps" else 2
        options = {**best, "eval_strategy": evaluated, "save_strategy": saved}
        more = [transformers.EarlyStoppingCallback(1)] if early else []
        model = fit(recorded, 7, every=5, more=more, **options)
        assert torch.equal(model.state_dict()[table], states[first][table])
        reached = max(step for step in states if step <= (last or 4))
        assert not torch.equal(states[first][table], states[reached][table])
        expected = {0, *([5] if reached > 5 else []), *([last] if last else [])}
        assert steps_in(recorded) == names(*sorted(expected))
        if last:
            assert torch.equal(stored(recorded, last)[table], states[last][table])


@pytest.mark.parametrize("name", ["lightning_callback", "transformers_callback"])
def test_without_the_library_the_way_out_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(wanted: str, package: str | None = None) -> None:
        return None

    monkeypatch.delitem(sys.modules, f"landscape.{name}", raising=False)
    for library in ("lightning", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(ImportError, match=rf"pip install 'loss-landscape-engine\[{name.partition('_')[0]}\]'"):
        importlib.import_module(f"landscape.{name}")
