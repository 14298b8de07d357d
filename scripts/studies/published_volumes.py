"""The published basin volumes of Scherlis and Belrose, as a check of scale.

    python scripts/studies/published_volumes.py TABLE.csv [--out FOLDER]

The table s4_basin_volume_published.csv has a row for each estimate: log-mean-exp, mean, standard deviation and largest
of n log contributions, and the mean radius, over training steps (`chkpts`) and cutoffs (`cutoff`) of a ConvNeXt on
CIFAR-10, unpoisoned (p001) and poisoned (p4), and of Pythia 31m. Told and drawn are the volumes over training, how the
radius grows with the cutoff, and what carries the means.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from landscape.pictures.style import StyledFigure, finish, line_look

NAMES = {"b16pai_p001": "unpoisoned", "b16pai_p4": "poisoned", "31m": "Pythia 31m"}
NUMBERS = ("logmeanexp", "mean", "sd", "max", "n", "mean_radius")


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with given.table.open(encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row |= {name: float(row[name]) for name in NUMBERS}
    say = sys.stdout.write
    # one contribution carries the whole mean where log-mean-exp is the largest one less ln n
    alone = [abs(row["logmeanexp"] - (row["max"] - math.log(row["n"]))) < 1 + 1e-6 * abs(row["max"]) for row in rows]
    say(f"{len(rows)} rows; in {sum(alone)} one contribution is the whole mean, to the digits that are given\n")
    say(f"spreads of log contributions: {min(r['sd'] for r in rows):.3g} to {max(r['sd'] for r in rows):.3g} nats\n\n")
    series = {(r["file"], NAMES.get(r["model"], r["model"]), r["precond"] or "none"): [] for r in rows}
    for row in rows:
        series[row["file"], NAMES.get(row["model"], row["model"]), row["precond"] or "none"].append(row)
    last = {key: max(group, key=lambda r: float(r["key"])) for key, group in series.items() if "chkpts" in key[0]}
    for (_, model, precondition), row in last.items():
        say(
            f"last step, {model}, preconditioner {precondition}: log-mean-exp {row['logmeanexp']:.8g}, "
            f"mean {row['mean']:.8g}, radius {row['mean_radius']:.4g}\n"
        )
    say("\nradius over the cutoff: d ln r / d ln cutoff from 1e-6 to 1e-2, 0.5 for a quadratic\n")
    for (file, model, precondition), group in series.items():
        if "cutoff" not in file:
            continue
        small = [r for r in group if float(r["key"]) < 0.02]
        logs = np.log([[float(r["key"]), r["mean_radius"]] for r in small])
        slopes = np.diff(logs[:, 1]) / np.diff(logs[:, 0])
        whole = group[-1]["logmeanexp"]
        say(
            f"  {model}, preconditioner {precondition}: {', '.join(f'{s:.2f}' for s in slopes)}; at a cutoff of 100, "
            f"which is all of space and has the log volume 0, the estimate is {whole:.5g}\n"
        )
    if given.out is not None:
        draw({key: group for key, group in series.items() if "chkpts" in key[0] and "convnext" in key[0]}, given.out)


def draw(series: dict[Any, list[dict[str, Any]]], out: Path) -> None:
    """Log volumes over training steps."""
    figure = StyledFigure(figsize=(6.4, 4.6), layout="constrained")
    ax = figure.add_subplot()
    for k, ((_, model, precondition), group) in enumerate(series.items()):
        group = sorted((r for r in group if r["key"].isdigit()), key=lambda r: int(r["key"]))
        steps, values = [int(r["key"]) for r in group], [r["logmeanexp"] for r in group]
        ax.plot(steps, values, label=f"{model}, preconditioner {precondition}", **line_look(k))
    ax.set_xscale("log")
    ax.set_xlabel("training step")
    ax.set_ylabel("log volume, log-mean-exp (nats)")
    ax.grid()
    out.mkdir(parents=True, exist_ok=True)
    finish(figure, [ax], ["ConvNeXt on CIFAR-10, Gaussian prior, KL cutoff 0.01"]).savefig(out / "published.png")


if __name__ == "__main__":
    main()
