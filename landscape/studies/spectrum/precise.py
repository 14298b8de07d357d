"""The largest eigenvalues to a stated error: a task in rounds, each with the samples that the last one asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.krylov import eigenpairs
from landscape_kernels.probes import derive_seed, rademacher_vector
from torch import Tensor

from landscape.curvature.matrix import Matrix
from landscape.curvature.pairs import padded
from landscape.curvature.sampling import Balanced
from landscape.run.comm import Communicator
from landscape.run.task import Description, ItemStopped, Row, Rows
from landscape.studies.spectrum.brackets import (
    ALL,
    GROUPS,
    KRYLOV,
    SINGLE,
    VECTORS,
    Bracket,
    More,
    Spent,
    Step,
    next_step,
    with_more,
)
from landscape.studies.spectrum.eigen import EigenTask

FEWEST = 2048  # samples of the data from which on some of them may do
_FIRST, _FEWEST_PAIRS = 32, 4  # draws of the first round for each pair, of which there are taken to be some
_GROWN = 2  # times as many in the second
_FURTHER = 4  # vectors beside those asked for: what lies next to the last of them is seen apart
_FOLDED = 4096  # columns that residuals of groups are folded to: 16 groups of 14 take 7 MiB
_LOOSE = 1 / 8  # residual^2 of a sample's vectors in units of the error asked, which squares it
# Krylov products for each eigenpair (28 for ten of a ResNet-20 to residuals of 1e-3), and the check of its residual
PRODUCTS_PER_PAIR = 4


class PreciseTask:
    """An item is a round: Krylov vectors of a small sample first, then what `following` says of the rounds so far."""

    headline = "error_max"
    count = 1

    def __init__(
        self,
        matrix: Matrix,
        k: int,
        *,
        error: float,
        tol: float,
        seed: int,
        state: Path | None,
        start: Tensor | None = None,
    ) -> None:
        """`state` is where the Krylov vectors of a measurement of all data are kept while it runs.

        `start` (j, size) are guesses of eigenvectors.
        """
        self._matrix, self._k, self._error, self._tol, self._seed = matrix, k, error, tol, seed
        self._state, self._start = state, start
        self._m = min(k + _FURTHER, matrix.size)
        self._samples = matrix.sample.objective.samples
        self._draws: Balanced | None = None
        self._steps: list[Step] = [self._first()]
        self._known: Known | None = None  # what the rounds so far say
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None

    def _first(self) -> Step:
        """That of the first round; all data where they are few."""
        objective = self._matrix.sample.objective
        small = self._samples < fewest_samples(self._k) or not objective.data.divisible
        return Step(ALL, self._samples) if small else Step(KRYLOV, first_draws(self._k))

    def describe(self) -> Description:
        """See `Task`."""
        plain = self._of_all().describe()
        k, m = self._k, self._m
        columns = {name: shape for name, shape in plain.columns.items() if not name.endswith("vectors")}
        columns |= {"kind": (), "draws": (), "basis": (m, self._matrix.size), "forms": (GROUPS, m, m)}
        columns |= {
            "outside": (m, m),
            "around": (GROUPS, m, m),
            "singles": (GROUPS, k, m),
            "sample_products": (),
            "error_max": (),
        }
        identity = {**plain.identity, "error": self._error}
        about = {**plain.about, "samples": self._samples, "pairs": k}
        return Description("eigenpairs", columns, identity, about)

    def plan(self, rows: Rows) -> None:
        """See `Planned`."""
        self._steps, description = [self._first()], self.describe()
        for n in range(1, len(rows.done)):
            self._steps.append(following(description, head(rows, n)) or self._steps[-1])
        self._known = known(description, rows)

    def extend(self, rows: Rows) -> int:
        """See `Task`: one more round while the error is larger than asked."""
        return len(rows.done) + (following(self.describe(), rows) is not None)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        step, before = self._steps[index], self._known
        row: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in self.describe().columns.items()}
        row |= {"kind": float(step.kind), "draws": float(step.draws)}
        if step.kind == ALL:
            row |= self._all_data(before, group)
        elif step.kind == KRYLOV:
            row |= self._krylov(step.draws, group)
        else:
            assert before is not None
            measure = self._single if step.kind == SINGLE else self._vectors
            row |= measure(step, before, index, group)
        return {name: row[name] for name in self.describe().columns}

    # -- inside -------------------------------------------------------------------------------------------------

    def _of_all(self, start: Tensor | None = None) -> EigenTask:
        """The task of a measurement without sampling."""
        return EigenTask(
            self._matrix,
            self._k,
            smallest=0,
            tol=self._tol,
            block=None,
            start=start,
            seed=self._seed,
            independent=None,
            max_products=None,
            state=self._state,
        )

    def balanced(self) -> Balanced:
        """The draws, from a forward pass over the data."""
        if self._draws is None:
            self._draws = Balanced.of(self._matrix.sample.objective, self._matrix.theta, self._matrix.buffers)
        return self._draws

    def _all_data(self, before: Known | None, group: Communicator) -> dict[str, Any]:
        """The row of a measurement without sampling."""
        start = self._start if before is None else torch.from_numpy(before.following).to(self._matrix.theta)
        task = self._of_all(start)
        task.report, task.stopping = self.report, self.stopping
        row = dict(task.evaluate(0, group))
        vectors = np.asarray(row.pop("vectors"))
        row.pop("smallest_vectors")
        spent = float(np.asarray(row["products"])) * self._samples
        return {**row, "basis": padded(vectors, self._m), "sample_products": spent, "error_max": 0.0}

    def _krylov(self, draws: int, group: Communicator) -> dict[str, Any]:
        """Eigenvectors of a sample's matrix, and a few further ones."""

        def tell(products: int, converged: int) -> None:
            if self.stopping is not None and any(group.gather_all(self.stopping())):
                raise ItemStopped
            if self.report is not None:
                self.report(f"{products} products, {converged} of {self._k} pairs converged")

        sample = self.balanced().drawn(1, draws, self._seed, "krylov")
        with self._matrix.bind(group, sample=sample) as H:
            tol = max(self._tol, (_LOOSE * self._error) ** 0.5)
            seed = derive_seed(self._seed, "eigenpairs")
            found = eigenpairs(H, self._k, tol=tol, start=self._start, seed=seed, report=tell)
        basis = torch.cat([found.largest.vectors, found.further.vectors])[: self._m]
        return {
            "basis": padded(basis.double().cpu().numpy(), self._m),
            "products": found.products,
            "passes": found.passes,
            "searched": found.searched,
            "missed": found.missed,
            "sample_products": found.products * draws,
        }

    def _vectors(self, step: Step, before: Known, index: int, group: Communicator) -> dict[str, Any]:
        """V H V' and R'R of independent blocks of draws, and as the next vectors an orthonormal basis of H V'."""
        blocks, size = blocks_of(step.draws, self._matrix.sample.objective.chunk)
        sample = self.balanced().drawn(blocks, size, self._seed, "values", index)
        m, most = len(before.following), self._m
        with self._matrix.bind(group, sample=sample, chunk=size) as H:
            vectors = torch.from_numpy(before.following).to(H.device, H.dtype)
            exact = vectors.double()
            forms = torch.zeros((H.chunks, m, m), dtype=torch.float64, device=H.device)
            squares = torch.zeros_like(forms)
            images = torch.zeros((m, H.size), dtype=torch.float64, device=H.device)
            fold = _Fold(H.size, self._seed, index)
            folded = torch.zeros((GROUPS, m, fold.width), dtype=torch.float64)
            for number, _, image in H.chunk_products(m, lambda _: vectors):
                part = image.double()
                images += part
                forms[number], squares[number] = part @ exact.T, part @ part.T
                folded[number % GROUPS] += fold(part)
            forms, squares, images, folded = (H.over_ranks(x).cpu() for x in (forms, squares, images, folded))
            weights = torch.from_numpy(H.denominators)
        mean, count = images / weights.sum(), len(weights)
        inside = mean @ exact.cpu().T
        forms = forms / weights[:, None, None]
        # over pairs of unlike blocks: what a block's noise has in common with itself is taken out
        own = (squares / weights[:, None, None].square() - forms @ forms.transpose(1, 2)).sum(0) / count**2
        row = {"forms": np.full((GROUPS, most, most), np.nan), "outside": np.full((most, most), np.nan)}
        groups = forms.reshape(-1, GROUPS, m, m).mean(0)
        row["forms"][:, :m, :m] = groups.numpy()
        rests = folded / weights.reshape(-1, GROUPS).sum(0)[:, None, None] - groups @ fold(exact.cpu())
        row["around"] = np.full((GROUPS, most, most), np.nan)
        row["around"][:, :m, :m] = _without_each(rests).numpy()
        row["outside"][:m, :m] = ((mean @ mean.T - inside @ inside.T - own) / (1 - 1 / count)).numpy()
        basis = torch.linalg.qr(mean.T)[0].T.numpy()
        spent = m * blocks * size
        return {**row, "basis": padded(basis, most), "products": m, "passes": 1, "sample_products": spent}

    def _single(self, step: Step, before: Known, index: int, group: Communicator) -> dict[str, Any]:
        """V H v' of Ritz vectors v by groups of blocks, or of all data."""
        assert before.bracket is not None
        pairs, basis = list(step.pairs), torch.from_numpy(before.basis)
        vectors = torch.from_numpy(before.ritz[pairs] @ before.basis)
        objective, everything = self._matrix.sample.objective, step.draws >= self._samples
        blocks, size = (1, None) if everything else blocks_of(step.draws, objective.chunk)
        sample = None if size is None else self.balanced().drawn(blocks, size, self._seed, "forms", index)
        with self._matrix.bind(group, sample=sample, chunk=size) as H:
            rows, across = vectors.to(H.device, H.dtype), basis.to(H.device)
            forms = torch.zeros((H.chunks, len(pairs), len(basis)), dtype=torch.float64, device=H.device)
            for number, _, image in H.chunk_products(len(pairs), lambda _: rows):
                forms[number] = image.double() @ across.T
            found, weights = H.over_ranks(forms).cpu().numpy(), H.denominators
        if size is None:
            groups, spent = np.tile(found.sum(0) / weights.sum(), (GROUPS, 1, 1)), self._samples
        else:
            found = found / weights[:, None, None]
            groups, spent = found.reshape(-1, GROUPS, *found.shape[1:]).mean(0), blocks * size
        singles = np.full((GROUPS, self._k, self._m), np.nan)
        singles[:, pairs, : len(basis)] = groups
        count = len(pairs)
        return {"singles": singles, "products": count, "passes": 1, "sample_products": count * spent}


class _Fold:
    """Rows with random signs, folded to few columns: scalar products of them are right on average, and nearly so."""

    def __init__(self, size: int, seed: int, index: int) -> None:
        self.width = min(size, _FOLDED)
        self._signs = rademacher_vector(size, seed, "fold", index)

    def __call__(self, rows: Tensor) -> Tensor:
        """(b, width) float64 on the CPU."""
        signed = rows.double().cpu() * self._signs
        padded_rows = torch.nn.functional.pad(signed, (0, -signed.shape[1] % self.width))
        return padded_rows.reshape(len(rows), -1, self.width).sum(1)


def _without_each(rests: Tensor) -> Tensor:
    """(G, m, m), the mean product of two unlike groups of `rests` (G, m, s), without each group in turn."""
    left = rests.sum(0) - rests
    own = rests @ rests.transpose(1, 2)
    pairs = (len(rests) - 1) * (len(rests) - 2)
    return (left @ left.transpose(1, 2) - (own.sum(0) - own)) / pairs


def first_draws(k: int) -> int:
    """Draws of the first round."""
    return _FIRST * max(k, _FEWEST_PAIRS)


def fewest_samples(k: int) -> int:
    """Samples of the data below which all of them are measured."""
    return max(FEWEST, 4 * first_draws(k))


def blocks_of(draws: int, most: int) -> tuple[int, int]:
    """(number of blocks, a multiple of GROUPS, draws of each, at most `most`) for at least so many draws."""
    each = -(-draws // GROUPS)
    pieces = -(-each // most)
    return GROUPS * pieces, -(-each // pieces)


def head(rows: Rows, n: int) -> Rows:
    """The rows of the first n items."""
    return Rows({name: values[:n] for name, values in rows.columns.items()}, rows.done[:n])


@dataclass(frozen=True)
class Known:
    """What the rounds so far say."""

    whole: bool  # whether the last one was of all data
    following: FloatArray  # (m, size), vectors that are to be measured next
    basis: FloatArray  # (m, size), those that were measured
    bracket: Bracket | None  # of these; None where none were, or all data
    ritz: FloatArray  # (m, m) or none, the Ritz vectors in the basis of which further draws are made
    spent: Spent | None


def known(description: Description, rows: Rows) -> Known | None:
    """What the rows of the first rounds say; None without one."""
    done = int(np.argmin(np.append(rows.done, False)))
    if not done:
        return None
    columns, samples, k = rows.columns, int(description.about["samples"]), int(description.about["pairs"])

    def basis(number: int) -> FloatArray:
        found: FloatArray = columns["basis"][number]
        return found[~np.isnan(found).any(1)]

    rounds = np.flatnonzero(columns["kind"][:done] != SINGLE)
    last = int(rounds[-1])
    if columns["kind"][last] != VECTORS:
        return Known(columns["kind"][last] == ALL, basis(last), basis(last), None, np.zeros((0, 0)), None)
    measured, draws = basis(int(rounds[-2])), int(columns["draws"][last])
    m = len(measured)
    single, more = np.zeros(k), []
    for number in range(last + 1, done):
        groups = columns["singles"][number][:, :, :m]
        pairs = np.flatnonzero(~np.isnan(groups[0, :, 0]))
        count = math.inf if columns["draws"][number] >= samples else float(columns["draws"][number])
        single[pairs] += count
        more.append(More(count, tuple(pairs.tolist()), groups[:, pairs]))
    forms, around = (columns[name][last][:, :m, :m] for name in ("forms", "around"))
    found, ritz = with_more(forms, columns["outside"][last][:m, :m], min(k, m), draws, more, around)
    spent = Spent(int(columns["draws"][rounds[-2]]), draws, single)
    return Known(False, basis(last), measured, found, ritz, spent)


def following(description: Description, rows: Rows) -> Step | None:
    """The round after those of the rows; None where the error is reached."""
    found = known(description, rows)
    if found is None or found.whole:
        return None
    samples = int(description.about["samples"])
    if found.bracket is None or found.spent is None:
        return Step(VECTORS, _GROWN * int(rows.columns["draws"][0]))
    full = PRODUCTS_PER_PAIR * int(description.about["pairs"])
    return next_step(found.bracket, found.spent, float(description.identity["error"]), samples, full)


def settled(description: Description, rows: Rows) -> tuple[Rows, dict[str, Any]]:
    """(one row of the columns of an EigenTask, with lower, upper and error, what was asked and spent)."""
    found, k = known(description, rows), int(description.about["pairs"])
    plain = {name: shape for name, shape in description.columns.items() if name in rows.columns}
    row: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in plain.items()}
    row |= {name: np.full(k, np.nan) for name in ("lower", "upper", "error")}
    row |= {"vectors": np.full((k, row["basis"].shape[1]), np.nan)}
    row |= {"smallest_vectors": np.zeros((0, row["basis"].shape[1]))}
    asked = float(description.identity["error"])
    if found is None:
        return _one(row, False), {"error_asked": asked}
    done = int(np.argmin(np.append(rows.done, False)))
    columns = {name: values[:done] for name, values in rows.columns.items()}
    if found.whole:
        row |= {name: values[-1] for name, values in columns.items()}
        row |= {"lower": row["values"], "upper": row["values"], "error": np.zeros(k), "vectors": found.basis[:k]}
    elif found.bracket is not None:
        b = found.bracket
        row |= {name: padded(getattr(b, name), k) for name in ("values", "lower", "upper", "error", "residuals")}
        row["converged"] = padded((b.error <= asked * np.abs(b.values)).astype(float), k)
        row["vectors"] = padded(b.rotation @ found.basis, k)
        row |= {name: columns[name][0] for name in ("searched", "missed")}
    spent = float(columns["sample_products"].sum())
    row |= {name: columns[name].sum() for name in ("products", "passes")}
    samples = int(description.about["samples"])
    work = {
        "sample_products": int(spent),
        "products_of_all_data": spent / samples,
        "share_of_full": spent / samples / (PRODUCTS_PER_PAIR * k),
        "forward_passes": int(columns["kind"][0] != ALL),
        "rounds": done,
        "draws_of_vectors": samples if found.spent is None else found.spent.quality,
        "draws_of_values": samples if found.spent is None else found.spent.draws,
    }
    return _one(row, found.whole or found.bracket is not None), {"error_asked": asked, "work": work}


def _one(row: Mapping[str, Any], done: bool) -> Rows:
    return Rows({name: np.asarray(value)[None] for name, value in row.items()}, np.array([done]))
