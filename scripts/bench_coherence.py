"""Speed and memory of coherence and of winsorised steps, as ratios in one run; prints a Markdown table.

    python scripts/bench_coherence.py [--only PART ...] [--images 2000] [--shared FOLDER] [--quick]

Coherence of all layers is compared with a plain pass that makes the gradient of the mean loss, in batches of 100, and
with per-sample gradients by torch.func.vmap of grad and by opacus (1.6.0) where it is installed (`scripts/bench` makes
an environment for it). Times are processor seconds on one thread, medians of `--turns` turns of all of them; memory is
the most that a process has resident while it runs, looked at a thousand times a second, beyond what it has before, with
model, data and objective made and each tried on a few images.
Networks are the ResNet-20 checkpoint (random weights where it is not at hand), a GPT-2 of 2 layers and an LSTM, both of
random weights, each with as many samples.
Beside the ratios stand floors, what no method of the kind can do without: of coherence a pass forward and backward to
the outputs of the layers, without any gradient of parameters; of a winsorised step the forming of all examples' numbers
block by block, and that with each number compared once with another one; of memory a plain pass in batches of 50.
`coverage` draws 200 data sets and counts how often alpha lies within two standard errors of its mean.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import importlib.util
import itertools
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks import SHARED, Ratios, print_heading, print_row, ratios_of, resnet20, with_transformers
from landscape_jobs.demo import digits
from torch import Tensor, nn

import landscape as ls
from landscape.descents import WinsorisedSGD

BATCH = 100
PARTS = ("resnet20", "gpt2", "lstm", "winsorised", "coverage", "memory")


def in_turns(actions: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """{name: processor seconds of each turn}."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(turns):
        for name, action in actions.items():
            began = time.process_time()
            action()
            found[name].append(time.process_time() - began)
    return found


def batches(data: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(data[0].split(BATCH), data[1].split(BATCH), strict=True)


def plain(model: nn.Module, data: tuple[Tensor, Tensor], loss: Callable[..., Tensor] | None = None) -> None:
    """The gradient of the summed loss, batch by batch."""
    for x, y in batches(data):
        value = F.cross_entropy(model(x), y, reduction="sum") if loss is None else loss(model, x, y)
        torch.autograd.grad(value, list(model.parameters()))


def to_outputs(model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Forward, and backward to the output of the first layer, no gradient of parameters."""
    for p in model.parameters():
        p.requires_grad_(False)
    first = next(m for m in model.modules() if next(m.parameters(recurse=False), None) is not None)
    handle = first.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    for x, y in batches(data):
        F.cross_entropy(model(x), y, reduction="sum").backward()
    handle.remove()
    for p in model.parameters():
        p.requires_grad_()


def by_vmap(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """m-coherence from the gradients of single samples, torch's recipe for them."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, values, (x[None],)), y[None])

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    return _m_coherence(gradients(parameters, x, y).values() for x, y in batches(data))


def by_opacus(model: Any, data: tuple[Tensor, Tensor]) -> float:
    """m-coherence from the grad_sample of opacus's GradSampleModule."""

    def samples() -> Iterator[list[Tensor]]:
        for x, y in batches(data):
            model.zero_grad()
            F.cross_entropy(model(x), y, reduction="sum").backward()
            yield [p.grad_sample for p in model.parameters()]

    return _m_coherence(samples())


def _m_coherence(parts: Any) -> float:
    total: Any = None
    squares = 0.0
    for part in parts:
        rows = [one.flatten(1) for one in part]
        sums = [one.sum(0) for one in rows]
        squares += float(sum(one.double().square().sum() for one in rows))
        total = sums if total is None else [a + b for a, b in zip(total, sums, strict=True)]
    return float(sum(one.double().square().sum() for one in total)) / squares


def without_batchnorm(model: nn.Module) -> nn.Module:
    """The model with GroupNorm in the place of its BatchNorm."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.GroupNorm(8, module.num_features))
    return model


def has_opacus() -> bool:
    return importlib.util.find_spec("opacus") is not None


def opacus_model(model: nn.Module) -> Any:
    from opacus import GradSampleModule

    return GradSampleModule(model.train(), loss_reduction="sum", strict=False)  # it sees nothing in eval mode


def coherence_of(model: nn.Module, data: Any, **options: Any) -> Callable[[], Any]:
    objective = ls.Objective(model, "cross_entropy", data, **options)
    return lambda: ls.measure_coherence(objective)


def compared(given: argparse.Namespace, what: str, actions: dict[str, Callable[[], Any]], asked: str) -> None:
    found = in_turns(actions, given.turns)
    middle = {name: float(np.median(times)) for name, times in found.items()}
    ours, plain = found.pop("coherence"), found.pop("plain pass")
    print_row(what, "plain gradient passes", ratios(ours, plain, "theirs"), asked)
    for name, times in found.items():
        floor = f"a floor: {middle[name] / middle['plain pass']:.2f} plain passes" if name == "floor" else ""
        print_row("the same", name, ratios(ours, times), ">= 4" if name == "opacus" else "", floor)


def ratios(ours: list[float], theirs: list[float], over: str = "ours") -> Ratios:
    return Ratios(ratios_of(ours, theirs, over), float(np.median(ours)), float(np.median(theirs)))


def part_resnet20(given: argparse.Namespace) -> None:
    model, (images, labels), note = resnet20(given.shared)
    data = images.repeat(2, 1, 1, 1)[: given.images], labels.repeat(2)[: given.images]

    def actions_of(model: nn.Module) -> dict[str, Callable[[], Any]]:
        return {
            "plain pass": lambda: plain(model, data),
            "coherence": coherence_of(model, data),
            "floor": lambda: to_outputs(model, data),
        }

    actions = actions_of(model) | {"vmap of grad": lambda: by_vmap(model, data)}
    compared(given, f"coherence of ResNet-20, {given.images} images ({note})", actions, "<= 1.3")
    if not has_opacus():
        print_row("coherence of ResNet-20 with GroupNorm", "opacus", "not installed")
        return
    model = without_batchnorm(model)
    wrapped = opacus_model(copy.deepcopy(model))
    actions = actions_of(model) | {"opacus": lambda: by_opacus(wrapped, data)}
    compared(given, "coherence of ResNet-20 with GroupNorm, as opacus takes no BatchNorm", actions, "")


def part_gpt2(given: argparse.Namespace) -> None:
    _held = with_transformers()
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    settings = GPT2Config(
        vocab_size=1000, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(settings).eval()
    tokens = torch.randint(0, 1000, (given.images, 33))

    def forward(m: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
        return m(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten()

    def loss(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        outputs, targets = forward(m, x)
        return F.cross_entropy(outputs, targets, reduction="sum")

    rows = list(tokens.split(BATCH))
    ours = coherence_of(model, rows, forward=forward, batch_size=len)
    compared(
        given,
        f"coherence of a 2-layer GPT-2, {len(tokens)} texts of 32 tokens",
        {"plain pass": lambda: plain(model, (tokens, tokens), loss), "coherence": ours},
        "<= 2",
    )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(32, 128, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x)[0][:, -1])
        return scores


def part_lstm(given: argparse.Namespace) -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    data = torch.randn(given.images, 30, 32), torch.randint(0, 10, (given.images,))
    compared(
        given,
        f"coherence of an LSTM of 128, {given.images} sequences of 30",
        {"plain pass": lambda: plain(model, data), "coherence": coherence_of(model, data)},
        "<= 2",
    )


def part_winsorised(given: argparse.Namespace) -> None:
    torch.manual_seed(0)
    widths = (784, 256, 256, 256)
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    x, y = torch.randn(BATCH, 784), torch.randint(0, 10, (BATCH,))
    sgd, clipping = torch.optim.SGD(model.parameters(), lr=1e-3), WinsorisedSGD(model, lr=1e-3, percent=4)

    def step() -> None:
        sgd.zero_grad()
        F.cross_entropy(model(x), y).backward()
        sgd.step()

    layers = [module for module in model if isinstance(module, nn.Linear)]
    inputs = [torch.randn(layer.in_features, BATCH) for layer in layers]
    outputs = [torch.randn(layer.out_features, BATCH) for layer in layers]

    def form(compare: bool) -> None:
        for a, g in zip(inputs, outputs, strict=True):
            for part in g.split(max(1, (1 << 18) // a.numel())):
                first, second = (part[:, None] * a).chunk(2, -1)
                if compare:
                    torch.minimum(first, second), torch.maximum(first, second)

    found = in_turns(
        {
            "plain": lambda: [step() for _ in range(10)],
            "winsorised": lambda: clipping.step(lambda: F.cross_entropy(model(x), y, reduction="none")),
            "formed": lambda: form(False),
            "compared": lambda: form(True),
        },
        5 * given.turns,
    )
    plain_steps = [seconds / 10 for seconds in found["plain"]]
    one = float(np.median(plain_steps))
    told = ", ".join(f"{name} {float(np.median(found[name])) / one:.1f}" for name in ("formed", "compared"))
    what = f"winsorised step, batch {BATCH}, MLP of 3 x 256"
    print_row(what, "plain steps", ratios(found["winsorised"], plain_steps, "theirs"), "<= 4", f"floors: {told}")


def part_coverage(given: argparse.Namespace) -> None:
    """Of a small regression drawn anew, and of a trained network of digits on images drawn anew from all of them."""
    torch.manual_seed(1)
    small = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def regression(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(96, 4, generator=generator, dtype=torch.float64)
        return x, x[:, :1] + 0.5 * torch.randn(96, 1, generator=generator, dtype=torch.float64)

    images, labels = digits()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(300):
        batch = torch.randint(0, len(labels), (100,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()

    def resampled(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(0, len(labels), (320,), generator=generator)
        return images[rows], labels[rows]

    for what, net, loss, draw in (
        ("regression, 96 samples", small, "mse", regression),
        ("trained MLP of digits, 320 images", model, "cross_entropy", resampled),
    ):
        drawn = []
        for seed in range(200):
            data = draw(torch.Generator().manual_seed(seed))
            alpha = ls.measure_coherence(ls.Objective(net, loss, data, check=False)).alpha
            drawn.append((float(alpha), alpha.stderr))
        values, errors = np.array(drawn).T
        covered = float((np.abs(values - values.mean()) <= 2 * errors).mean())
        told = f"scatter {values.std():.4f}, error {errors.mean():.4f}, alpha {values.mean():.4f}"
        print_row(f"alpha within 2 standard errors in 200 draws: {what}", "", f"{covered:.3f}", "0.95", told)


def part_memory(given: argparse.Namespace) -> None:
    """Each in a process of its own."""
    found = {}
    for which in ("coherence", "floor", *(["opacus"] if has_opacus() else [])):
        words = [sys.executable, __file__, "--shared", str(given.shared), "--grows", which]
        words += ["--images", str(given.images)]
        found[which] = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    told = ", ".join(f"{name} {size:.0f} MiB" for name, size in found.items())
    ratio = found["coherence"] / found["opacus"] if "opacus" in found else float("nan")
    against = "opacus" if has_opacus() else ""
    print_row("memory of ResNet-20 (GroupNorm) beyond model and data", against, f"{ratio:.2f}", "<= 0.1", told)


def grows(which: str, given: argparse.Namespace) -> None:
    model, (images, labels), _ = resnet20(given.shared)
    data = images.repeat(2, 1, 1, 1)[: given.images], labels.repeat(2)[: given.images]
    few = data[0][:4], data[1][:4]
    model = without_batchnorm(model)
    actions: list[Callable[[], Any]]
    if which == "floor":
        parts = list(zip(data[0].split(50), data[1].split(50), strict=True))
        actions = [lambda: plain(model, few), lambda: [plain(model, part) for part in parts]]
    elif which == "coherence":
        actions = [coherence_of(model, few), coherence_of(model, data)]
    else:
        wrapped = opacus_model(model)
        actions = [lambda: by_opacus(wrapped, few), lambda: by_opacus(wrapped, data)]
    actions[0]()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    sys.stdout.write(f"{most_resident(actions[1])}")


def most_resident(action: Callable[[], Any]) -> float:
    """MiB that the process has more, at most, while the action runs."""
    pages = Path("/proc/self/statm")
    over = threading.Event()
    seen = [int(pages.read_text().split()[1])]

    def look() -> None:
        while not over.wait(1e-3):
            seen.append(int(pages.read_text().split()[1]))

    watch = threading.Thread(target=look)
    watch.start()
    action()
    over.set()
    watch.join()
    return (max(seen) - seen[0]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--quick", action="store_true", help="100 images, once: to see that all runs")
    parser.add_argument("--grows", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.grows:
        grows(given.grows, given)
        return
    if given.quick:
        given.images, given.turns = 100, 1
    print_heading()
    for part in given.only:
        globals()[f"part_{part}"](given)


if __name__ == "__main__":
    main()
