"""The objective against naive loops: full-batch means and sample standard errors in float64, for many models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from landscape.errors import InputError
from landscape.objective.objective import Objective

N = 29


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


X, Y = seeded(N, 6), labels(N)
TOKENS = labels(N, 7, classes=11, seed=4)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU | nn.RNN]) -> None:
        super().__init__()
        self.rnn, self.head = kind(2, 4, num_layers=2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.view(len(x), 3, 2))[0][:, -1])


class Tied(nn.Module):
    """A language model whose output weights are its embedding, with an unused and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(11, 4), nn.Linear(4, 4), nn.Linear(4, 11, bias=False)
        self.out.weight = self.embed.weight
        self.unused = nn.Parameter(torch.ones(3))
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.mix.bias.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(tokens)))) * self.gain


class Viewing(nn.Module):
    """Its .view refuses channels-last activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(x.view(x.shape[0], -1))


class Writing(nn.Module):
    """It changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.mul_(0.5))


def conv() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )
    model[1].running_mean.normal_()
    model[1].running_var.exponential_()
    return model


def shared_layer() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(6, 3))


IMAGES = seeded(N, 2, 4, 4)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor]] = {
    "mlp": (mlp, X, Y),
    "conv": (conv, IMAGES, Y),
    "view": (Viewing, IMAGES, Y),
    "lstm": (lambda: Recurrent(nn.LSTM), X, Y),
    "gru": (lambda: Recurrent(nn.GRU), X, Y),
    "rnn": (lambda: Recurrent(nn.RNN), X, Y),
    "transformer": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (3, 2)),
            nn.Linear(2, 8),
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        X,
        Y,
    ),
    "embedding bag": (lambda: nn.Sequential(nn.EmbeddingBag(11, 4), nn.Linear(4, 3)), TOKENS, Y),
    "tied": (Tied, TOKENS, TOKENS.roll(1, 1).where(seeded(N, 7) > -0.5, -100)),
    "shared layer": (shared_layer, X, Y),
    "writing": (Writing, X, Y),
    "weight norm": (
        lambda: nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(5, 3)),
        X,
        Y,
    ),
    "spectral norm": (lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)), X, Y),
    "old weight norm": (lambda: nn.utils.weight_norm(nn.Linear(6, 3)), X, Y),
}


def built(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    make, x, y = MODELS[name]
    torch.manual_seed(3)
    return make().double(), x.clone(), y


def shifted(model: nn.Module, theta: Tensor) -> Callable[..., Any]:
    """Functional twin: the model at flat theta, trainable parameters in named_parameters order, eval mode."""
    parts, offset = {}, 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[name] = theta[offset : offset + parameter.numel()].view(parameter.shape)
            offset += parameter.numel()
    assert offset == theta.numel()
    model.eval()
    return lambda *inputs: torch.func.functional_call(model, parts, inputs)


def naive(model: nn.Module, theta: Tensor, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean over kept labels and its standard error, one sample at a time."""
    call, sums, counts = shifted(model, theta), [], []
    with torch.no_grad():
        for i in range(len(x)):
            scores, target = call(x[i : i + 1].clone())[0], y[i].reshape(-1)
            sums.append(float(F.cross_entropy(scores.reshape(len(target), -1), target, reduction="sum")))
            counts.append(int((target != -100).sum()))
    n, d = np.array(sums), np.array(counts)
    value = n.sum() / d.sum()
    return value, math.sqrt(((n - value * d) ** 2).sum() * N / (N - 1)) / d.sum()


@pytest.mark.parametrize("name", MODELS)
def test_value_and_error_are_those_of_a_naive_loop(name: str) -> None:
    model, x, y = built(name)
    objective = Objective(model, data=(x, y), metrics=("accuracy",))
    objective.chunk = 8
    objective._data = objective._undivided.divided(8)  # 29 samples: a last chunk of 5
    theta = objective.theta + 0.3 * seeded(objective.layout.size, seed=9)
    for vector in (objective.theta, theta):
        value, stderr = naive(built(name)[0], vector, x, y)
        found = objective.evaluate(vector)
        assert found["loss"] == pytest.approx(value, rel=1e-12)
        assert found["loss"].stderr == pytest.approx(stderr, rel=1e-9)
        assert (found["loss"].n, found["loss"].unit) == (N, "sample")
        scores = shifted(built(name)[0], vector)(x.clone())
        kept = y != -100
        assert found["accuracy"] == pytest.approx(float((scores.argmax(-1) == y)[kept].double().mean()), rel=1e-12)
    assert torch.equal(x, built(name)[1])  # the user's data are as they were


@pytest.mark.parametrize("name", ["shared layer", "tied", "weight norm"])
def test_parameters_given_for_a_call_leave_the_model_as_it_was(name: str) -> None:
    model, x, y = built(name)
    objective = Objective(model, data=(x, y))
    before = dict(model.named_parameters(remove_duplicate=False))
    theta = objective.theta * 1.5
    values = [
        part.view(block.shape)
        for part, block in zip(
            theta.split([b.size for b in objective.layout.blocks]), objective.layout.blocks, strict=True
        )
    ]
    batch = objective.batch(0)

    def scores(given: nn.Module, batch: Any) -> Tensor:
        return objective.outputs(given, batch)[0]

    with torch.no_grad(), objective.differentiable() as (_, parameters):
        objective.call_with(parameters, scores, batch)
        found = objective.call_with(values, scores, batch)
        objective.call_with(parameters, scores, batch)
    with torch.no_grad(), objective.differentiable(theta) as (bound, _):
        assert torch.equal(found, scores(bound, batch))
    after = dict(model.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[key] is before[key] for key in before)


def test_the_centre_is_the_trainable_parameters_in_order() -> None:
    model, x, y = built("tied")
    objective = Objective(model, data=(x, y))
    assert objective.layout.names == ("unused", "gain", "embed.weight", "mix.weight")
    expected = [p.detach().reshape(-1) for p in model.parameters() if p.requires_grad]
    assert torch.equal(objective.theta, torch.cat(expected))
    assert list(objective.frozen) == ["mix.bias"]
    objective.theta.zero_()  # a copy
    assert bool(objective.theta.any())
    with pytest.raises(InputError, match="theta has 3 values, the model"):
        objective.evaluate(torch.zeros(3))
    with pytest.raises(InputError, match="theta of type dict"):
        objective.evaluate({"gain": torch.zeros(3)})


# -- data -----------------------------------------------------------------------------------------------


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[i], Y[i]


class Flow(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, Y, strict=True))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(X.split(list(sizes)), Y.split(list(sizes)), strict=True))


FORMS: dict[str, Any] = {
    "tensors": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "TensorDataset": TensorDataset(X, Y),
    "Dataset": Pairs(),
    "IterableDataset": Flow(),
    "DataLoader": DataLoader(Pairs(), batch_size=8),
    "uneven batches": batches(1, 20, 8),
    "mapping": {"input": X, "labels": Y},
    "batches of mappings": [{"input": x, "label": y} for x, y in batches(10, 10, 9)],
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_data_held_or_streamed(form: str) -> None:
    plain = Objective(built("mlp")[0], data=(X, Y))
    held = Objective(built("mlp")[0], data=FORMS[form])
    streamed = Objective(built("mlp")[0], data=FORMS[form], memory_budget=0)
    expected = plain.evaluate()["loss"]
    for objective in (held, streamed):
        found = objective.evaluate()["loss"]
        assert found == pytest.approx(expected, rel=1e-13)
        assert found.stderr == pytest.approx(expected.stderr, rel=1e-10)
        assert objective.samples == N
        assert objective.identity()["data"] == plain.identity()["data"]
    if form in ("tensors", "TensorDataset", "Dataset"):  # chunks are then the same: the same bits
        assert streamed.evaluate()["loss"] == held.evaluate()["loss"]


def test_autocast_around_a_call_changes_nothing() -> None:
    low, full = (Objective(built("mlp")[0].float(), data=(X.float(), Y), precision=p) for p in ("bf16", "float32"))
    expected = low.evaluate()["loss"], low.evaluate(full_precision=True)["loss"], full.evaluate()["loss"]
    assert expected[0] != expected[1] == expected[2]
    with torch.autocast("cpu", torch.bfloat16):
        assert (low.evaluate()["loss"], low.evaluate(full_precision=True)["loss"], full.evaluate()["loss"]) == expected
        assert torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", torch.float16):
        assert low.evaluate()["loss"] == expected[0]


def test_ranks_that_share_the_chunks_add_up_to_the_same_bits() -> None:
    class Group:
        """Two ranks, one after the other: the first leaves its sums, the second adds them."""

        size = 2

        def __init__(self) -> None:
            self.rank, self.sums = 0, np.zeros(0)

        def allreduce_(self, array: Any) -> None:
            if self.rank == 0:
                self.sums = array.copy()
            else:
                array += self.sums

    objective = Objective(built("mlp")[0], data=(X, Y))
    objective._data = objective._undivided.divided(8)
    group: Any = Group()
    half = objective.evaluate(group=group)["loss"]
    group.rank = 1
    both, alone = objective.evaluate(group=group)["loss"], objective.evaluate()["loss"]
    assert (both, both.stderr) == (alone, alone.stderr)
    assert half != alone


# -- forward --------------------------------------------------------------------------------------------


def truth(theta: Tensor | None = None) -> Tensor:
    model = built("mlp")[0]
    scores = model(X) if theta is None else shifted(model, theta)(X)
    return F.cross_entropy(scores, Y, reduction="none").detach()


def popping(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    y = batch.pop("y")
    return model(batch.pop("x").requires_grad_()), y


RETURNED: dict[str, tuple[Callable[..., Any], int]] = {  # forward with loss=None, units it gives for two batches
    "scalar": (lambda model, b: F.cross_entropy(model(b["x"]), b["y"]), 2),
    "per sample": (lambda model, b: F.cross_entropy(model(b["x"]), b["y"], reduction="none"), N),
    "pair": (lambda model, b: (F.cross_entropy(model(b["x"]), b["y"], reduction="none"), torch.ones(len(b["y"]))), N),
    "pair of sums": (lambda model, b: (F.cross_entropy(model(b["x"]), b["y"], reduction="sum"), len(b["y"])), 2),
    "number": (lambda model, b: F.cross_entropy(model(b["x"]), b["y"]).item(), 2),
}


@pytest.mark.parametrize("case", RETURNED)
def test_forward_may_return_the_loss(case: str) -> None:
    forward, units = RETURNED[case]
    data = [{"x": x, "y": y} for x, y in batches(20, 9)]
    found = Objective(built("mlp")[0], loss=None, data=data, forward=forward).evaluate()["loss"]
    assert found == pytest.approx(float(truth().mean()), rel=1e-12)
    assert found.n == units
    if units == N:
        assert found.stderr == pytest.approx(float(truth().std() / math.sqrt(N)), rel=1e-10)


def test_forward_may_return_outputs_and_targets_and_empty_its_batch() -> None:
    data = [{"x": x.clone(), "y": y} for x, y in batches(20, 9)]
    objective = Objective(built("mlp")[0], data=data, forward=popping, metrics=("error",))
    for _ in range(2):
        assert objective.evaluate()["loss"] == pytest.approx(float(truth().mean()), rel=1e-12)
    assert not any(batch["x"].requires_grad for batch in data)


def test_forward_may_rewrite_its_batch() -> None:
    def doubling(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        batch["x"] = 2 * batch["x"]
        return model(batch["x"]), batch["y"]

    objective = Objective(built("mlp")[0], data=[{"x": X / 2, "y": Y}], forward=doubling)
    for _ in range(2):
        assert objective.evaluate()["loss"] == pytest.approx(float(truth().mean()), rel=1e-12)


def test_a_loss_with_derivatives_inside() -> None:
    """u'' = -u on points and u(0) = 1, by autograd; the twin differentiates tanh by hand."""

    def residual(model: nn.Module, points: Tensor) -> Tensor:
        x = points.requires_grad_()
        u = model(x)
        du = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        ddu = torch.autograd.grad(du.sum(), x, create_graph=True)[0]
        return ((ddu + u) ** 2)[:, 0]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    points = seeded(40, 1)
    objective = Objective(model, loss=None, data=points, forward=residual)
    found = objective.evaluate(objective.theta * 1.5)["loss"]
    w, b, v, c = (1.5 * p.detach() for p in model.parameters())
    t = torch.tanh(points @ w.T + b)
    squares = ((-2 * t * (1 - t**2) * w[:, 0] ** 2 @ v[0] + t @ v[0] + c[0]) ** 2).numpy()
    assert found == pytest.approx(squares.mean(), rel=1e-12)
    assert found.stderr == pytest.approx(squares.std(ddof=1) / math.sqrt(40), rel=1e-10)
    assert not points.requires_grad


@dataclass
class Output:
    logits: Tensor


class Answering(nn.Module):
    """A model whose answer is wrapped."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.wrap = mlp(), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.net(x))


def test_wrapped_outputs() -> None:
    torch.manual_seed(3)
    for loss in ("cross_entropy", nn.CrossEntropyLoss(), F.cross_entropy, lambda o, t: F.cross_entropy(o, t)):
        torch.manual_seed(3)
        objective = Objective(Answering(Output).double(), loss, (X, Y))
        assert objective.evaluate()["loss"] == pytest.approx(float(truth().mean()), rel=1e-12)
    for wrap in (lambda o: {"scores": o}, lambda o: (o, o)):
        for named in ("cross_entropy", nn.CrossEntropyLoss()):
            with pytest.raises(InputError, match=r"the model returned (dict|tuple).*forward="):
                Objective(Answering(wrap).double(), named, (X, Y))


# -- precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_precision_follows_the_model_or_the_wish(dtype: torch.dtype) -> None:
    model = built("mlp")[0].to(dtype)
    objective = Objective(model, data=(X, Y))
    assert objective.precision == ("float64" if dtype == torch.float64 else "float32")
    twin = built("mlp")[0].to(dtype).double()
    expected = float(F.cross_entropy(twin(X), Y))
    eps = torch.finfo(objective.dtype).eps
    assert objective.evaluate()["loss"] == pytest.approx(expected, rel=20 * eps)
    assert Objective(model, data=(X, Y), precision="float64").evaluate()["loss"] == pytest.approx(expected, rel=1e-14)
    assert next(model.parameters()).dtype == dtype
    low = Objective(model, nn.CrossEntropyLoss(), (X, Y), precision="bf16")
    error = abs(low.evaluate()["loss"] / expected - 1)
    assert 1e-7 < error < 0.02
    assert low.evaluate(full_precision=True)["loss"] == pytest.approx(expected, rel=2e-6)
    with pytest.raises(InputError, match="precision 'float16' is not one of"):
        Objective(model, data=(X, Y), precision="float16")


@pytest.mark.parametrize(
    ("device", "told"), [("gpu", " is no device; give 'cpu', 'cuda'"), (3.5, r"; give a text or a torch\.device")]
)
def test_what_is_no_device_is_refused(device: Any, told: str) -> None:
    with pytest.raises(InputError, match=f"device={device!r}{told}"):
        Objective(nn.Linear(4, 3), data=(X, Y), device=device)


def test_a_metric_with_a_name_of_the_file_is_told_why() -> None:
    with pytest.raises(InputError, match="metric name 'x' is taken: the result file uses it"):
        Objective(nn.Linear(4, 3), data=(torch.randn(3, 4), torch.tensor([0, 1, 2])), metrics=("x",))


def test_a_callable_sees_float32_under_bf16() -> None:
    objective = Objective(built("mlp")[0], lambda o, t: (o**2).mean(), (X, Y), precision="bf16")
    assert objective.evaluate()["loss"].n == N


def test_losses_that_are_not_numbers_are_results() -> None:
    objective = Objective(built("mlp")[0], data=(X, Y))
    assert math.isnan(objective.evaluate(objective.theta * math.nan)["loss"])
    assert objective.evaluate()["loss"] == pytest.approx(float(truth().mean()), rel=1e-12)


# -- refused --------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """Dropout that forgets to look at self.training, in one of several ways."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.draw = mlp(), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.draw(self.net(x))


def test_models_that_draw_random_numbers_are_refused_by_cause() -> None:
    for draw in (
        lambda x: F.dropout(x, 0.5, True),
        lambda x: x * (1 + 1e-3 * torch.randn_like(x)),
        lambda x: x * float(np.random.rand()),
    ):
        with pytest.raises(InputError, match=r"draws random numbers \(modules that may: Dropping\).*self\.training"):
            Objective(Dropping(draw).double(), data=(X, Y))
    Objective(nn.Sequential(mlp(), nn.Dropout(0.9)).double(), data=(X, Y))  # off in eval mode


def test_samples_coupled_in_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match="changes with the other samples of its batch"):
        Objective(Dropping(lambda x: x - x.mean(0)).double(), data=(X, Y))
    no_statistics = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()
    with pytest.raises(InputError, match="track_running_stats=False"):
        Objective(no_statistics, data=(X, Y))


def test_bad_calls_are_named() -> None:
    model = built("mlp")[0]
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "data is missing"),
        ({"data": (X, Y), "loss": None}, "loss=None needs forward="),
        ({"data": (X, Y), "loss": None, "forward": popping, "metrics": ("error",)}, "metrics need outputs"),
        ({"data": (X, Y), "forward": lambda model, b: model(b[0])}, "forward returned Tensor"),
        ({"data": {"x": X, "z": Y}}, "no label key"),
        ({"data": [X[:9], X[9:]]}, "holds no targets.*forward="),
        ({"data": X}, "holds no targets.*forward="),
        ({"data": (X, Y), "device": "meta"}, "'meta' is not supported"),
        ({"data": (X, Y), "loss": "crossentropy"}, "did you mean 'cross_entropy'"),
    ]
    for options, says in cases:
        with pytest.raises(InputError, match=says):
            Objective(model, **options)
    with pytest.raises(InputError, match=r"give a torch\.nn\.Module"):
        Objective(lambda x: x, data=(X, Y))  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            Objective(model, data=(X, Y), device="cuda")


def test_identity_tells_apart_what_changes_the_values() -> None:
    def identity(change: Callable[[nn.Module], Any] | None = None, **options: Any) -> str:
        model = built("conv")[0]
        if change is not None:
            with torch.no_grad():
                change(model)
        return repr(Objective(model, **{"data": (IMAGES, Y), **options}).identity())

    plain = identity()
    assert plain == identity()
    assert plain == identity(data=DataLoader(TensorDataset(IMAGES, Y), batch_size=7))
    others = [
        identity(lambda model: model[0].weight.add_(1e-3)),
        identity(lambda model: model[1].running_var.add_(1e-3)),
        identity(data=(IMAGES * 1.001, Y)),
        identity(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
        identity(metrics=("accuracy",)),
        identity(precision="float32"),
        identity(forward=lambda model, batch: (model(batch[0]), batch[1])),
    ]
    assert len({plain, *others}) == 1 + len(others)


# -- models that keep something, and losses that no trial shows -------------------------------------------


class Cached(nn.Module):
    """Its first call settles the weights it uses for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.layer.weight.detach().t() * 1
        return x @ self.kept


def test_cached_weights_are_refused() -> None:
    with pytest.raises(InputError, match="do not change when all its trainable parameters do"):
        Objective(Cached(), data=(torch.randn(20, 4), torch.zeros(20, dtype=torch.long)))


class PartlyCached(nn.Module):
    """Its first call settles the first layer's weights; the second follows. Kept in an attribute or a dict."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.way = way
        if way == "a dict that is there":
            self.first.memo = {}  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        holder = vars(self.first)
        if self.way == "an attribute of the model":
            holder = vars(self)
        elif self.way != "an attribute of a layer":
            holder = vars(self.first).setdefault("memo", {})
        if "kept" not in holder:
            holder["kept"] = self.first.weight.detach() * 1
        return self.second(torch.tanh(x @ holder["kept"].t()))


@pytest.mark.parametrize(
    "way", ["an attribute of the model", "an attribute of a layer", "a new dict", "a dict that is there"]
)
def test_a_part_that_caches_is_refused_though_another_moves(way: str) -> None:
    torch.manual_seed(0)
    data = torch.randn(20, 4), torch.zeros(20, dtype=torch.long)
    with pytest.raises(InputError, match=r"keeps something made of the parameters \((first\.)?(kept|memo)\)"):
        Objective(PartlyCached(way), data=data)
    with pytest.raises(InputError, match="keeps something made of the parameters"):
        Objective(PartlyCached(way), None, data=[data], forward=lambda m, b: F.cross_entropy(m(b[0]), b[1]))


class Remembering(nn.Module):
    """Keeps what does not depend on the parameters (a table, a count), and activations that it never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.tables, self.calls = nn.Linear(4, 3), dict[int, Tensor](), 0
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] not in self.tables:
            self.tables[x.shape[1]] = torch.arange(x.shape[1]) / 10
        self.calls += 1
        hidden = x + self.tables[x.shape[1]]
        self.seen = [self.layer(hidden)]
        return self.seen[0]


def test_what_a_model_keeps_is_no_matter_where_the_parameters_have_no_part_in_it() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    model = Remembering()
    objective = Objective(model, data=(x, y))
    right = F.cross_entropy(model.layer(x + torch.arange(4) / 10), y)
    assert float(objective.evaluate()["loss"]) == pytest.approx(right.item(), rel=1e-6)
    assert list(model.tables) == [4]  # as the calls left it
    assert len(model.seen) == 1
    assert model.calls > 2


class Counting(nn.Module):
    """Scales by the number of calls, kept in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) * self.calls


def test_no_chunk_sees_what_another_left_in_a_buffer() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 4), torch.randint(0, 3, (40,))
    objective = Objective(Counting(), data=(x, y))
    whole = objective.evaluate()["loss"]
    objective._data = objective._undivided.divided(8)
    assert objective.evaluate()["loss"] == pytest.approx(whole, rel=1e-6)


def test_a_mean_over_kept_tokens_is_refused_wherever_the_padding_begins() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 6, 4), torch.randint(1, 5, (64, 6))
    y[40:, 3:] = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=0)

    with pytest.raises(InputError, match="halves"):
        Objective(nn.Linear(4, 5), loss, (x, y))


def test_shapes_are_named_where_the_model_and_the_data_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"float32 \(16, 7\)"):
        Objective(nn.Linear(4, 3), data=(torch.randn(20, 7), torch.zeros(20, dtype=torch.long)))
    with pytest.raises(InputError, match="loss or a metric cannot be computed"):
        Objective(nn.Linear(4, 3), data=(torch.randn(20, 4), torch.full((20,), 9)))


def test_the_data_held_are_the_objectives_own() -> None:
    x, y = torch.randn(20, 4), torch.zeros(20, dtype=torch.long)
    objective = Objective(nn.Linear(4, 3), data=(x, y))
    before = float(objective.evaluate()["loss"])
    x.zero_()
    assert objective.evaluate()["loss"] == before


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "2", nn.Linear(5, 3)),
        lambda model: setattr(model[0], "weight", nn.Parameter(torch.zeros(5, 6))),
        lambda model: model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}, assign=True),
    ],
)
def test_a_parameter_that_was_put_in_anothers_place_is_refused(change: Callable[[nn.Module], object]) -> None:
    model = mlp()
    objective = Objective(model, data=(X, Y))
    before = objective.identity(), float(objective.evaluate()["loss"])
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})  # has values of its own
    assert (objective.identity(), float(objective.evaluate()["loss"])) == before
    change(model)
    for ask in (objective.identity, objective.evaluate):
        with pytest.raises(InputError, match=r"parameter (0|2).* was put in another's place .* new Objective"):
            ask()
