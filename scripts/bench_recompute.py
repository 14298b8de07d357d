"""Peak memory and time of a Hessian product with activations kept, by torch's checkpoints, and computed again.

    python scripts/bench_recompute.py [--threads 1] [--only mlp transformer]

"mlp" has 24 layers of 256 and one chunk of 8,192 samples, "transformer" 12 blocks of width 128 and one batch of two
texts of 512 tokens. "torch" is torch.utils.checkpoint (use_reentrant=False) around the same blocks. Every row is a
process of its own; memory is the peak of resident memory above the bound model and its data. Freed memory is given back
to the system at once (MALLOC_MMAP_THRESHOLD_), so that the peak is that of what is held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench_memory import memory
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import landscape as ls
from landscape.curvature.check import ProductCheck
from landscape.curvature.operator import CurvatureOperator

WAYS = ("kept", "torch", "recompute")
_TOKENS, _WORDS = 512, 200


class Layers(nn.Module):
    """24 layers of 256."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.layers = nn.Sequential(*[layer for _ in range(24) for layer in (nn.Linear(256, 256), nn.Tanh())])
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.way != "torch" or not torch.is_grad_enabled():
            return self.head(self.layers(x))
        for start in range(0, 48, 7):
            x = checkpoint(self.layers[start : start + 7], x, use_reentrant=False)
        return self.head(x)


class Block(nn.Module):
    """Attention with four heads, and two layers."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.into(self.norms[0](x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.norms[1](x))))


class Transformer(nn.Module):
    """12 blocks."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.words, self.head = nn.Embedding(_WORDS, 128), nn.Linear(128, _WORDS)
        self.blocks = nn.ModuleList([Block() for _ in range(12)])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        for block in self.blocks:
            again = self.way == "torch" and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return self.head(x)


def next_word(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    return model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten()


def child(name: str, way: str) -> None:
    torch.manual_seed(0)
    if name == "mlp":
        model: nn.Module = Layers(way)
        given: dict[str, Any] = {"data": (torch.randn(8192, 256), torch.randint(10, (8192,)))}
    else:
        model = Transformer(way)
        given = {"data": [(torch.randint(_WORDS, (2, _TOKENS + 1)),)], "forward": next_word}
    blocks = "layers" if name == "mlp" else "blocks"
    objective = ls.Objective(model, **given, recompute=blocks if way == "recompute" else False)
    objective.evaluate()
    check = ProductCheck("double backward", 0, 0, 0, 0, {})  # its own passes are not what is measured
    base = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    with CurvatureOperator(objective, check=check, chunk=8192) as H:
        vector = torch.randn(1, H.size, generator=torch.Generator().manual_seed(1))
        began = time.perf_counter()
        product = H.apply(vector)
        took = time.perf_counter() - began
    print(json.dumps({"mib": (memory("VmHWM") - base) / 2**20, "seconds": took, "form": float(vector[0] @ product[0])}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=("mlp", "transformer"), default=["mlp", "transformer"])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.child:
        child(*given.child)
        return
    print("| model | activations | memory above it, MiB | seconds | v'Hv |")
    print("|---|---|---|---|---|")
    for name in given.only:
        for way in WAYS:
            command = [sys.executable, __file__, "--threads", str(given.threads), "--child", name, way]
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
            )
            found = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"| {name} | {way} | {found['mib']:.0f} | {found['seconds']:.1f} | {found['form']:.6g} |", flush=True)


if __name__ == "__main__":
    main()
