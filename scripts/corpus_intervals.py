"""How often the intervals of `analyse_corpus` hold the truth in simulated corpora, and how often it calls a paradox.

    python scripts/corpus_intervals.py [REPEATS]

In each design the groups differ in the means of metric and target, and have one correlation inside. The truth is that
of a corpus of 150 times as many models. Where it is 0 inside, every paradox is false.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

import landscape as ls

DESIGNS = (
    ((8, 8, 8), -0.6, 1.5),
    ((12, 12), 0.5, -1.0),
    ((5,) * 6, 0.0, 1.0),
)  # sizes, correlation, step of the target
NAMES = ("overall", "within", "spearman_overall", "spearman_within", "slope_overall", "slope_within")


def corpus(
    stream: np.random.Generator, sizes: tuple[int, ...], rho: float, step: float
) -> dict[str, npt.NDArray[np.float64]]:
    """A table of metric x and target y."""
    depth = np.repeat(np.arange(float(len(sizes))), sizes)
    first, second = stream.normal(size=(2, len(depth)))
    return {"x": first + 1.5 * depth, "y": rho * first + np.sqrt(1 - rho**2) * second + step * depth, "depth": depth}


def main() -> None:
    """Print a line for each design."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    stream = np.random.default_rng(1)
    for sizes, rho, step in DESIGNS:
        truth = ls.analyse_corpus(corpus(stream, tuple(150 * n for n in sizes), rho, step), "y", draws=100).values
        held, flags = dict.fromkeys(NAMES, 0), 0
        for _ in range(repeats):
            found = ls.analyse_corpus(corpus(stream, sizes, rho, step), "y", draws=500)
            flags += found.simpson == ("paradox",)
            for name in NAMES:
                low, high = (found.values[f"{name}_{end}"][0] for end in ("low", "high"))
                held[name] += bool(low <= truth[name][0] <= high)
        shares = ", ".join(f"{name} {count / repeats:.3f}" for name, count in held.items())
        print(
            f"groups {sizes}, tau {truth['overall'][0]:.2f} and {truth['within'][0]:.2f}:"
            f" {shares}; paradox {flags / repeats:.3f}"
        )


if __name__ == "__main__":
    main()
