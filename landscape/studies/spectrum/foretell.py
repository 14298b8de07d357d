"""What eigenvalues to a stated error are going to take, from their first two rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from landscape.results.inside import rows_of
from landscape.run.comm import SERIAL
from landscape.run.task import Description, Row, Rows
from landscape.studies.spectrum.brackets import ALL, SINGLE, Spent, next_step
from landscape.studies.spectrum.precise import PRODUCTS_PER_PAIR, PreciseTask, known

FIRST = 2  # rounds: vectors, and a bracket of them
_MOST = 40  # rounds


@dataclass(frozen=True)
class Foretold:
    """Work to come, and that is done: a guess, right to a factor of two or so."""

    products: float  # products with all data
    share: float  # of a measurement of all data
    rounds: int
    whole: bool  # whether all data are going to be measured

    def __str__(self) -> str:
        """In words."""
        if self.whole and self.rounds == 1:
            return "all data are measured: they are few, or cannot be taken apart"
        end = ", the last of them of all data, as samples are not cheaper" if self.whole else ""
        return (
            f"about {self.products:.2g} products of all data in {self.rounds} rounds, {self.share:.0%} of a full "
            f"measurement{end}"
        )


def first_rounds(task: PreciseTask) -> Rows:
    """The rows of the rounds that tell what the others are going to be."""
    description = task.describe()
    found: list[Row] = []
    while True:
        task.plan(rows_of(found, description, len(found) + 1))
        found.append(task.evaluate(len(found), SERIAL))
        rows = rows_of(found, description, len(found))
        if len(found) == FIRST or task.extend(rows) == len(found):
            return rows


def foretold(description: Description, rows: Rows) -> Foretold:
    """The rounds after those of the rows, two or more, if vectors and draws go on to gain as the bracket's rules say.

    Half the width falls with the draws that vectors follow from, a standard error with the root of its draws.
    """
    samples, pairs = int(description.about["samples"]), int(description.about["pairs"])
    full, error = PRODUCTS_PER_PAIR * pairs, float(description.identity["error"])
    cost, rounds = float(rows.columns["sample_products"].sum()), len(rows.done)
    found = known(description, rows)
    assert found is not None, "of no rows nothing is foretold"
    whole = found.whole
    if found.bracket is not None and found.spent is not None:
        bracket, spent = found.bracket, found.spent
        half, m = (bracket.upper - bracket.lower) / 2, bracket.rotation.shape[1]
        alone = bracket.stderr * np.sqrt(spent.draws + np.where(np.isinf(spent.single), 0.0, spent.single))
        while rounds < _MOST and (step := next_step(bracket, spent, error, samples, full)) is not None:
            rounds += 1
            if step.kind == ALL:
                cost, whole = cost + full * samples, True
                break
            if step.kind == SINGLE:
                pairs_now, single = list(step.pairs), spent.single.copy()
                single[pairs_now] += step.draws if step.draws < samples else math.inf
                cost, spent = cost + len(pairs_now) * step.draws, replace(spent, single=single)
            else:
                half = half * min(1.0, spent.quality / spent.draws)
                cost, spent = cost + m * step.draws, Spent(spent.draws, step.draws, np.zeros_like(spent.single))
            stderr = alone / np.sqrt(spent.draws + spent.single)
            bracket = replace(bracket, upper=bracket.lower + 2 * half, stderr=stderr)
    products = cost / samples
    return Foretold(products, products / full, rounds, whole)
