"""Eigenpairs of a large model's Hessian: Krylov vectors in a file, products in three copies of the model."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.filed import FiledVectors
from landscape_kernels.filed_krylov import FiledEigenpairs, FiledState, filed_eigenpairs, rows_of_file, wide_rows
from landscape_kernels.perturbation import eigenvalue_errors
from landscape_kernels.probes import derive_seed
from safetensors.torch import save_file

from landscape.curvature.check import ProductCheck
from landscape.curvature.filed import COPIES, FiledForms, FiledProducts, check_filed
from landscape.curvature.pairs import check_tol, pair_columns, pair_numbers, seen_row
from landscape.curvature.sampling import whole
from landscape.errors import InputError, NumericalError
from landscape.objective.centre import LARGE
from landscape.objective.objective import Objective
from landscape.objective.trees import digest
from landscape.results.trial import bytes_text
from landscape.run.comm import Communicator
from landscape.run.kept import Kept
from landscape.run.task import Description, ItemStopped, Row, Rows
from landscape.run.together import on_rank_0
from landscape.studies.spectrum.settings import SpectrumSettings

logger = logging.getLogger(__name__)
FILED = "krylov"  # in the folder of the eigenpairs while they are computed
_STATE, _VECTORS = "state.npz", "vectors"
_SAVE_EVERY, _SAVE_SHARE = 10.0, 20.0  # see `run.kept.Kept`
_SCRATCH = 2  # rows of the file beside those of the Krylov run


def is_streamed(objective: Objective, asked: SpectrumSettings, elsewhere: bool) -> bool:
    """Whether eigenpairs are computed with vectors in a file: where it is asked for, or possible and the model large.

    `elsewhere` says that a point, buffers or start vectors are given. Raises InputError where it is asked for and not
    possible.
    """
    left_out = {
        "trace": bool(asked.trace),
        "density": asked.density,
        "operator": asked.operator != "hessian",
        "params": asked.params is not None,
        "samples": asked.samples is not None,
        "error": asked.error is not None,
        "block": asked.block is not None,
        "theta, buffers or start": elsewhere,
        f"precision {objective.precision}": objective.precision != "float32",
    }
    cannot = [name for name, given in left_out.items() if given]
    if asked.memory == "streamed" and cannot:
        raise InputError(
            f"memory='streamed' computes eigenpairs of the whole hessian in float32, of all data, at the model itself, "
            f"and here is {', '.join(cannot)}; give trace=False, density=False and leave the others out, or "
            "memory='flat', which takes about 50 vectors of all parameters"
        )
    large = not cannot and objective.layout.size * objective.dtype.itemsize >= LARGE
    streamed = large if asked.memory is None else asked.memory == "streamed"
    if asked.vectors is not None and not streamed:
        raise InputError(
            f"vectors={asked.vectors!r} is the type of Krylov vectors in a file, and here they are held in memory; "
            "give memory='streamed' with trace=False and density=False, or leave vectors out"
        )
    return streamed


class FiledEigenTask:
    """Item 0: what `EigenTask` has, but for vectors, a search for copies, and what rounding moves values by."""

    headline = "residual_max"
    count = 1

    def __init__(self, objective: Objective, asked: SpectrumSettings, folder: Path | None) -> None:
        """`folder` is that of the task, where its state and the eigenvectors go."""
        self._objective, self._asked, self._folder = whole(objective).objective, asked, folder
        self.size = objective.layout.size
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None
        if not 1 <= asked.k + asked.smallest <= self.size:
            raise InputError(
                f"k={asked.k} and smallest={asked.smallest}; the matrix has {self.size} rows, so give 1 to {self.size}"
            )
        self._rounded = asked.vectors == "bf16"
        self._rows = rows_of_file(asked.k, asked.smallest, self.size, rounded=self._rounded) + _SCRATCH
        wide = len(self._types.get("wide", range(self._rows)))
        self.file_bytes = self.size * (4 * wide + 2 * (self._rows - wide))
        on_rank_0(self._require_room)
        logger.info("eigenpairs: %s", "; ".join(f"{name}: {text}" for name, text in self.memory.items()))
        self._check: ProductCheck = on_rank_0(lambda: check_filed(self._objective))
        check_tol(asked.tol, self._objective, self._check)

    @property
    def _types(self) -> dict[str, Any]:
        """The types of the rows of the file."""
        if not self._rounded:
            return {}
        return {
            "dtype": torch.bfloat16,
            "wide": wide_rows(self._asked.k, self._asked.smallest, self.size, self._rows),
        }

    @property
    def memory(self) -> dict[str, str]:
        """Where vectors are, and the memory that takes beside the model: name -> text."""
        kind = ", in bf16 but for those that are multiplied or wanted" if self._rounded else ", in float32"
        return {
            "vectors": f"in a file of up to {bytes_text(self.file_bytes)} in {self._place}{kind}",
            "memory beside the model": f"{COPIES} copies of its parameters at most, "
            f"{bytes_text(COPIES * 4 * self.size)}, and activations",
        }

    @property
    def _place(self) -> Path:
        return Path(tempfile.gettempdir()) if self._folder is None else self._folder

    def _require_room(self) -> None:
        there = next(folder for folder in (self._place, *self._place.parents) if folder.exists())
        free, smaller = shutil.disk_usage(there).free, "vectors='bf16', "
        if free < self.file_bytes:
            raise InputError(
                f"vectors take up to {bytes_text(self.file_bytes)} of disk, and {there} has {bytes_text(free)} free; "
                f"give out= (or TMPDIR) on a larger disk, fewer eigenpairs, {'' if self._rounded else smaller}"
                "or memory='flat'"
            )

    def timed_product(self) -> tuple[int, float]:
        """(chunks of the data, seconds of one product)."""
        vectors = FiledVectors(self.size)
        with FiledProducts(self._objective, vectors, self._asked.weight_decay) as H:
            started = time.perf_counter()
            H.multiply(0, 1)
            return H.chunks, time.perf_counter() - started

    def describe(self) -> Description:
        """See `Task`."""
        asked = self._asked
        k, low = asked.k, asked.smallest
        columns = pair_columns(k, "") | pair_columns(low or min(k, self.size), "smallest_")
        columns |= {"vectors": (0, self.size), "smallest_vectors": (0, self.size)}
        columns |= {"independent": (k,), "independent_stderr": (k,), "residual_max": ()}
        columns |= {"products": (), "passes": (), "searched": (), "missed": ()}
        known = self._objective.identity()
        identity = {
            "objective": known,
            "operator": "hessian",
            "params": None,
            "weight_decay": asked.weight_decay,
            "theta": known["centre"],
            "buffers": digest(),
            "weights": "",
            "k": k,
            "smallest": low,
            "tol": asked.tol,
            "seed": asked.seed,
            "max_products": asked.max_products,
            "memory": "streamed",
            **({"vectors": asked.vectors} if self._rounded else {}),
        }
        about = {
            "device": str(self._objective.device),
            "check": asdict(self._check),
            "size": self.size,
            "tensors": {block.name: list(block.shape) for block in self._objective.layout.blocks},
        }
        return Description("eigenpairs", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        asked = self._asked
        path = None if self._folder is None else self._folder / FILED
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
        vectors = FiledVectors(self.size, None if path is None else path / _VECTORS, **self._types)
        with FiledProducts(self._objective, vectors, asked.weight_decay) as H:
            found = self._eigenpairs(H, vectors, None if path is None else path / _STATE)
            rows = [*found.largest.rows, *found.smallest.rows]
            forms = H.forms(rows, list(found.further.rows), found.free)
        self._write(vectors, found)
        spectrum = np.concatenate([forms.values, found.further.values])
        row: dict[str, Any] = self._columns(forms, spectrum, 0, asked.k, "")
        if asked.smallest:
            row |= self._columns(forms, spectrum, len(found.largest.rows), asked.smallest, "smallest_")
        else:
            row |= seen_row(found.smallest, min(asked.k, self.size))
        unknown = np.full(asked.k, np.nan)
        row |= {
            "vectors": np.zeros((0, self.size)),
            "smallest_vectors": np.zeros((0, self.size)),
            "independent": unknown,
            "independent_stderr": unknown,
            "residual_max": float(np.max(row["residuals"], initial=0.0)),
            "products": found.products + len(rows),
            "passes": found.products + len(rows),
            "searched": 0,
            "missed": 0.0 if max(asked.k, asked.smallest) == 1 else np.nan,
        }
        self._warn(row)
        return row

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return 1

    # -- inside -------------------------------------------------------------------------------------------------

    def _eigenpairs(self, H: FiledProducts, vectors: FiledVectors, path: Path | None) -> FiledEigenpairs:
        asked = self._asked
        kept = Kept(path, "the eigenpairs then start anew", every=_SAVE_EVERY, share=_SAVE_SHARE, name="Krylov state")
        arrays = kept.read()
        try:
            last = None if arrays is None else FiledState.from_arrays(arrays)
        except (ValueError, LookupError, TypeError) as error:
            raise kept.damaged(error) from error

        def save(state: FiledState, restarted: bool) -> bool:
            stop = self.stopping is not None and self.stopping()
            keep = path is not None and (stop or restarted or kept.due)
            if keep:
                vectors.flush()  # the rows that the state tells of are there before it is
                kept.write(state.to_arrays())
            if stop:
                raise ItemStopped
            return keep

        def tell(products: int, converged: int) -> None:
            if self.report is not None:
                self.report(f"{products} products, {converged} of {asked.k + asked.smallest} pairs converged")

        try:
            return filed_eigenpairs(
                vectors,
                H.multiply,
                asked.k,
                smallest=asked.smallest,
                tol=asked.tol,
                seed=derive_seed(asked.seed, "eigenpairs"),
                max_products=asked.max_products,
                state=last,
                save=save,
                report=tell,
            )
        except FloatingPointError as error:
            raise NumericalError(
                f"{error}; look whether the loss is finite, or at fewer data: memory='flat' names the samples it is of"
            ) from error

    def _warn(self, row: Row) -> None:
        """Tell of pairs that did not make it, and what would."""
        asked = self._asked
        ends = ["", *(["smallest_"] if asked.smallest else [])]
        found = {name: np.concatenate([row[f"{end}{name}"] for end in ends]) for name in ("converged", "residuals")}
        missed = found["converged"] == 0
        if missed.any():
            finer = "vectors='float32', as rounding to bf16 leaves residuals of up to 8e-4 of the spectrum's width, "
            logger.warning(
                "%d of %d eigenpairs did not reach tol=%g in %d products: residuals are up to %.1e; `converged` says "
                "which; give %smore max_products, or a larger tol",
                *(int(missed.sum()), len(missed), asked.tol, row["products"], float(found["residuals"][missed].max())),
                finer if self._rounded else "",
            )

    def _columns(
        self, forms: FiledForms, spectrum: FloatArray, first: int, count: int, prefix: str
    ) -> dict[str, FloatArray]:
        """The columns of the pairs from the one numbered `first` on."""
        place = slice(first, first + min(count, len(forms.gaps) - first))
        errors = eigenvalue_errors(
            forms.forms[:, place],
            spectrum,
            first,
            forms.squares[:, place],
            forms.cross[place],
            forms.lengths[place],
            forms.denominators,
            self._asked.weight_decay,
        )
        norm = float(np.sqrt(forms.lengths.max(initial=0.0)))
        values = spectrum[place]
        unknown = np.full(len(values), np.nan)
        return pair_numbers(
            values,
            forms.gaps[place],
            norm,
            errors,
            self._asked.tol,
            count,
            prefix,
            dtype=torch.float32,
            rounding=unknown,
        )

    def _write(self, vectors: FiledVectors, found: FiledEigenpairs) -> None:
        """Every eigenvector asked for as a safetensors file with the parameters' own names."""
        if self._folder is None:
            return
        for end, rows in (("largest", found.largest.rows), ("smallest", found.smallest.rows)):
            for number, row in enumerate(rows):
                blocks = self._objective.layout.blocks
                tensors = {b.name: vectors.read(row, b.slice).view(tuple(b.shape)) for b in blocks}
                save_file(tensors, self._folder / f"{end}-{number + 1}.safetensors")
