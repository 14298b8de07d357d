"""How often the stated error of a local learning coefficient holds its true value; prints a Markdown table.

    python scripts/llc_coverage.py [--sets 100] [--draws 1000] [--seed 1] [--models 6] [--sgld] [--batch-size 32]

The models are x w_1^p_1 w_2^p_2 with squared loss on 1,000 samples x ~ N(0, 2), y ~ N(0, 1/4), at w = 0, nbeta n / ln n
and localisation 1. Their true value for that very sample is an integral over w, taken on a grid. As chains follow from
(seed, number) alone, sets of four of them are what as many seeds give. With --sgld or a batch size steps are always
taken, and their bias is in the error. --models is how many of them, the first of the list.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time

import numpy as np
import torch
from torch import Tensor, nn

import landscape as ls

N, CHAINS = 1000, 4
NBETA = N / math.log(N)
POWERS = ((1,), (1, 1), (2, 0), (2, 1), (2, 2), (3, 1))


class Crossing(nn.Module):
    """x prod w_i^p_i."""

    def __init__(self, powers: tuple[int, ...]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(powers)))
        self.powers = powers

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1) outputs."""
        scale = x.new_ones(())
        for w, p in zip(self.w, self.powers, strict=True):
            scale = scale * w**p if p else scale
        return x * scale


def data() -> tuple[Tensor, Tensor]:
    """The sample, each array (n, 1)."""
    x, y = torch.randn(2, N, 1, generator=torch.Generator().manual_seed(0))
    return x * math.sqrt(2), y * 0.5


def by_quadrature(powers: tuple[int, ...]) -> float:
    """nbeta E[L - L(0)] on a grid of w, fine enough for its last digit shown."""
    x, y = (part.double().numpy() for part in data())
    axis = np.linspace(-7, 7, 2801)
    axes = np.meshgrid(*([axis] * len(powers)), indexing="ij")
    scale = np.prod([w**p for w, p in zip(axes, powers, strict=True)], axis=0)
    rise = NBETA * (np.mean(x * x) * scale**2 - 2 * np.mean(x * y) * scale)
    log = -rise - sum(w**2 for w in axes) / 2
    weight = np.exp(log - log.max())
    return float((weight * rise).sum() / weight.sum())


def sets_of(found: ls.LLC) -> list[ls.LLC]:
    """The result by each four chains."""
    names = ("traces", "halved", "steps", "acceptance", "computed")
    starts = range(0, len(found.steps), CHAINS)
    return [dataclasses.replace(found, **{n: getattr(found, n)[k : k + CHAINS] for n in names}) for k in starts]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=int, default=len(POWERS))
    parser.add_argument("--sgld", action="store_true")
    parser.add_argument("--batch-size", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked = {"method": "sgld", "batch_size": given.batch_size} if given.sgld or given.batch_size else {}
    print("| p | by quadrature | all chains | scatter of sets | their error | held | to be believed | held then | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for powers in POWERS[: given.models]:
        began, exact = time.process_time(), by_quadrature(powers)
        objective = ls.Objective(Crossing(powers), "mse", data(), check=False)
        found = ls.measure_llc(objective, CHAINS * given.sets, given.draws, seed=given.seed, **asked)
        each = sets_of(found)
        values, errors = np.array([float(one.value) for one in each]), np.array([one.stderr for one in each])
        held, trusted = np.abs(values - exact) <= 2 * errors, np.array([one.believable for one in each])
        print(
            f"| {list(powers)} | {exact:.4f} | {float(found.value):.4f} +- {found.stderr:.4f} | {values.std():.4f} | "
            f"{errors.mean():.4f} | {held.mean():.2f} | {trusted.mean():.2f} | "
            f"{held[trusted].mean() if trusted.any() else math.nan:.2f} | {time.process_time() - began:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
