"""Peak memory and time of a 3 x 3 surface of large models, of an eigenvalue and a critical sharpness; a Markdown table.

    python scripts/bench_memory.py [--threads 2] [--only mlp gpt2 decoder eigen sharpness] [--width 5650]
        [--ways mapped copy flat]

"eigen" is the largest eigenvalue of the MLP's Hessian (k=1) with vectors in a file (way "bf16": in bf16, "recompute":
activations computed again; `bench_recompute.py` has models of which these are most), "sharpness" its critical sharpness
along the gradient; "decoder-sharpness" is that of the decoder. "flat" is the eigenvalue with vectors in memory.

Every row is a process of its own. Memory is the peak of resident memory above the built model after a first forward
pass, in copies of the model's parameters: "mapped" puts the model back from a safetensors file, "copy" makes points in
one copy, "flat" holds vectors of all parameters. Time is from the Objective to the result, in units of as many plain
forward passes over the same data, timed in the same process. The digests of the losses say that values are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import with_transformers
from safetensors.torch import save_file
from torch import Tensor, nn

import landscape as ls

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


MODELS = {"mlp": mlp, "gpt2": gpt2, "decoder": decoder, "eigen": mlp, "sharpness": mlp, "decoder-sharpness": decoder}
EIGEN_ASKED = 4.0  # copies of the model


def memory(key: str) -> int:
    """Bytes of resident memory (VmRSS), or at most so far (VmHWM)."""
    found = re.search(rf"{key}:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def child(name: str, way: str, width: int, folder: Path) -> None:
    _held = with_transformers()
    model, given = MODELS[name](width)
    model.eval()
    file = folder / f"{name}.safetensors"
    trainable = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() * p.element_size() for p in trainable)
    if way == "mapped":
        save_file(dict(model.named_parameters()), file)
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
    took = time.perf_counter() - began
    print(
        json.dumps(
            {
                "parameters": objective.layout.size,
                "bytes": size,
                "copies": (memory("VmHWM") - base) / size,
                "peak": memory("VmHWM"),
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
    print("| model | way | copies above it | asked | peak, GiB | time / 9 passes | 9 passes, s | error | losses |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in given.only:
        for way in given.ways:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--threads", str(given.threads), "--width", str(given.width)]
                done = subprocess.run(
                    [*command, "--child", name, way, folder], stdout=subprocess.PIPE, text=True, check=True
                )
            found = json.loads(done.stdout.strip().splitlines()[-1])
            most = EIGEN_ASKED if name == "eigen" and way != "flat" else ASKED[way]
            asked = "" if most is None else f"<= {most}"
            error = "" if found["error"] is None else f"{found['error']:.1e}"
            print(
                f"| {name}, {found['parameters']:,} | {way} | {found['copies']:.2f} | {asked} | "
                f"{found['peak'] / 2**30:.2f} | {found['ratio']:.1f} | {found['passes']:.2f} | {error} | "
                f"{found['losses']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
