"""Peak memory and time of a 3 x 3 surface of large models, of an eigenvalue and a critical sharpness; a Markdown table.

    python scripts/bench_memory.py [--threads 2] [--only mlp gpt2 decoder eigen sharpness] [--width 5650]
        [--ways mapped copy flat]

"eigen" is the largest eigenvalue of the MLP's Hessian (k=1) with vectors in a file (way "bf16": in bf16, "recompute":
activations computed again; `bench_recompute.py` has models of which these are most), "sharpness" its critical sharpness
along the gradient; "decoder-sharpness" is that of the decoder, "decoder-lora" a surface in the space of its adapters
alone. "flat" is the eigenvalue with vectors in memory.

Every row is a process of its own. Memory is the peak of resident memory above the built model after a first forward
pass, in copies of the model's parameters: "mapped" puts the model back from a safetensors file, "copy" makes points in
one copy, "flat" holds vectors of all parameters. Time is from the Objective to the result, in units of as many plain
forward passes over the same data, timed in the same process. A point is what the nine of a surface take above nine
passes, a ninth of it, in units of one copy_ of all parameters, which reads and writes them once: all are timed in
turn, once the plane is there, and the shortest of some rounds are taken. A pass is that of the model on all data, or
that of `Objective.evaluate`, in chunks as points are. The digests of the losses say that values are
the same; parameters that are not the same to the bit afterwards end the run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import seconds, with_transformers
from safetensors.torch import save_file
from torch import Tensor, nn

import landscape as ls
from landscape.run.comm import SERIAL
from landscape.studies.surface.measure import surface_task

WAYS = ("mapped", "copy", "flat", "bf16", "recompute")  # the last two of "eigen" alone
ASKED = {"mapped": 0.3, "copy": 1.3, "flat": None, "bf16": None, "recompute": None}  # copies of the model


def mlp(width: int) -> tuple[nn.Module, dict[str, Any]]:
    """Four hidden layers; 100 million parameters with the default width."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(784, width)]
    for _ in range(3):
        layers += [nn.ReLU(), nn.Linear(width, width)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, 10))
    return model, {"data": (torch.randn(512, 784), torch.randint(10, (512,)))}


def tokens(size: int, length: int) -> dict[str, Any]:
    batch = torch.randint(size, (1, length), generator=torch.Generator().manual_seed(0))
    return {"data": [(batch,)], "forward": shifted}


def shifted(model: nn.Module, batch: tuple[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores and the tokens that follow."""
    return model(batch[0], use_cache=False).logits[:, :-1].reshape(batch[0].numel() - 1, -1), batch[0][:, 1:].reshape(
        -1
    )


def gpt2(_: int) -> tuple[nn.Module, dict[str, Any]]:
    """124 million parameters, from its configuration."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(attn_implementation="eager")), tokens(50257, 65)


def decoder(_: int) -> tuple[nn.Module, dict[str, Any]]:
    """1.1 billion parameters in bfloat16, from its configuration, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
    config = LlamaConfig(**sizes, num_key_value_heads=4, vocab_size=32000, attn_implementation="eager")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    buffers = dict(
        LlamaForCausalLM(
            LlamaConfig(
                **{**sizes, "num_hidden_layers": 1, "intermediate_size": 8}, num_key_value_heads=4, vocab_size=8
            )
        ).named_buffers()
    )
    model = model.to_empty(device="cpu")
    noise = (0.02 * torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))).bfloat16()
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            for start in range(0, len(flat), len(noise)):
                flat[start : start + len(noise)] = noise[: len(flat) - start] if parameter.ndim > 1 else 1
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return model, tokens(32000, 33)


def adapted(_: int) -> tuple[nn.Module, dict[str, Any]]:
    """The decoder with adapters of rank 8 in float32, as if trained, on the queries and values of all layers."""
    from peft import LoraConfig, get_peft_model

    model, given = decoder(0)
    model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model, {**given, "precision": "own"}


MODELS = {
    "mlp": mlp,
    "gpt2": gpt2,
    "decoder": decoder,
    "decoder-lora": adapted,
    "eigen": mlp,
    "sharpness": mlp,
    "decoder-sharpness": decoder,
}
EIGEN_ASKED = 4.0  # copies of the model
TIMED = ("mlp", "gpt2")  # whose points are timed
POINT_ASKED = 3.0  # times that all parameters are read and written
ROUNDS = 3


def asked_of(name: str, way: str) -> float | None:
    """Copies of the model that are asked for; None where none are."""
    if name == "eigen":
        return None if way == "flat" else EIGEN_ASKED
    return None if "sharpness" in name else ASKED[way]


def memory(key: str) -> int:
    """Bytes of resident memory (VmRSS), or at most so far (VmHWM)."""
    found = re.search(rf"{key}:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def digest_of(model: nn.Module) -> str:
    """Hash of all parameters."""
    state = hashlib.blake2b()
    for parameter in model.parameters():
        state.update(parameter.detach().view(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def per_point(evaluate: Callable[[int], object], passes: list[Callable[[], object]], model: nn.Module) -> list[float]:
    """What the nine points take above nine of each kind of passes, a ninth of it, in copies of all parameters."""
    every = [p.detach() for p in model.parameters()]
    others = [torch.zeros_like(values) for values in every]

    def copy() -> None:
        for other, values in zip(others, every, strict=True):
            other.copy_(values)

    points, passed, copies = [math.inf] * 9, [math.inf] * len(passes), math.inf
    for _ in range(ROUNDS):
        for index in range(9):
            points[index] = min(points[index], seconds(lambda index=index: evaluate(index)))
            if index % 3 == 0:
                copies = min(copies, seconds(copy))
                passed = [min(least, seconds(one)) for least, one in zip(passed, passes, strict=True)]
    return [(sum(points) / 9 - least) / copies for least in passed]


def child(name: str, way: str, width: int, folder: Path) -> None:
    _held = with_transformers()
    model, given = MODELS[name](width)
    model.eval()
    file = folder / f"{name}.safetensors"
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    before = digest_of(model)
    if way == "mapped":
        save_file({key: p for key, p in model.named_parameters() if p.requires_grad}, file)
    forward = given.get("forward", lambda m, batch: m(batch[0]))
    batch = given["data"] if isinstance(given["data"], tuple) else given["data"][0]
    with torch.no_grad():
        forward(model, batch)
        began = time.perf_counter()
        for _ in range(9):
            forward(model, batch)
        passes = time.perf_counter() - began
    base = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = time.perf_counter()
    objective = ls.Objective(
        model, "cross_entropy", **given, checkpoint=file if way == "mapped" else None, recompute=way == "recompute"
    )
    built = time.perf_counter() - began
    error: float | None = None
    point: list[float] | None = None
    if name == "eigen":
        memory_way = "flat" if way == "flat" else "streamed"
        kind = "bf16" if way == "bf16" else None
        spectrum = ls.measure_spectrum(objective, k=1, trace=False, density=False, memory=memory_way, vectors=kind)
        found = np.array([*spectrum.eigenvalues, *spectrum.residuals])
        print(f"eigenvalue {found[0]:.6g}, residual {found[1]:.1e}, {spectrum.products} products", file=sys.stderr)
    elif "sharpness" in name:
        sharpness = ls.critical_sharpness(objective)
        found = np.array([float(sharpness), sharpness.stderr])
        print(f"critical sharpness {found[0]:.6g} +- {found[1]:.2g}", file=sys.stderr)
    else:
        plane = ls.random_plane(objective, normalize="filter", seed=0)
        built = time.perf_counter() - began
        kind = "flat" if way == "flat" else None
        surface = ls.measure_surface(objective, plane, x=(-1, 1, 3), y=(-1, 1, 3), memory=kind)
        found, error = surface.values["loss"], surface.attributes.get("precision_error_relative")
    took, peak = time.perf_counter() - began, memory("VmHWM")
    if name in TIMED:
        task = surface_task(objective, plane, x=(-1, 1, 3), y=(-1, 1, 3), memory=kind)
        plain = torch.no_grad()(lambda: forward(model, batch))
        point = per_point(lambda index: task.evaluate(index, SERIAL), [plain, objective.evaluate], model)
    if digest_of(model) != before:
        raise SystemExit("the model's parameters are not what they were")
    print(
        json.dumps(
            {
                "parameters": objective.layout.size,
                "bytes": size,
                "copies": (peak - base) / size,
                "peak": peak,
                "point": point,
                "passes": passes,
                "plane": built,
                "ratio": took / passes,
                "error": error,
                "losses": hashlib.blake2b(found.tobytes(), digest_size=4).hexdigest(),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=["mlp", "gpt2"])
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS[:3]))
    parser.add_argument("--width", type=int, default=5650, help="of the MLP's hidden layers")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child:
        name, way, folder = given.child
        child(name, way, given.width, Path(folder))
        return
    print(
        "| model | way | copies above it | asked | peak, GiB | time / 9 passes | 9 passes, s "
        "| a point above a plain pass, read-and-writes of all parameters | above a pass in chunks | asked "
        "| error | losses |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in given.only:
        for way in given.ways:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--threads", str(given.threads), "--width", str(given.width)]
                done = subprocess.run(
                    [*command, "--child", name, way, folder], stdout=subprocess.PIPE, text=True, check=True
                )
            found = json.loads(done.stdout.strip().splitlines()[-1])
            most = asked_of(name, way)
            asked = "" if most is None else f"<= {most}"
            error = "" if found["error"] is None else f"{found['error']:.1e}"
            point = (
                " | | "
                if found["point"] is None
                else "{:.1f} | {:.1f} | <= {:.0f}".format(*found["point"], POINT_ASKED)
            )
            print(
                f"| {name}, {found['parameters']:,} | {way} | {found['copies']:.2f} | {asked} | "
                f"{found['peak'] / 2**30:.2f} | {found['ratio']:.1f} | {found['passes']:.2f} | {point} | {error} | "
                f"{found['losses']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
