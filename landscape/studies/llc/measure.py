"""The local learning coefficient: the Task whose items are some chains each, and its result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from landscape_kernels.arrays import FloatArray
from landscape_kernels.langevin import quadratic_coefficient

from landscape.arguments import Count, Natural, Seed, checked
from landscape.curvature.operator import CurvatureOperator
from landscape.curvature.small import unit_products
from landscape.errors import InputError, NumericalError, raised_by
from landscape.objective.gate import of_objective
from landscape.objective.objective import Objective
from landscape.results.attributes import result_attributes
from landscape.results.measured import Measurement
from landscape.results.study import of_rows
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.store import History
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.llc.losses import BatchLosses, ChainLosses
from landscape.studies.llc.result import LLC
from landscape.studies.llc.sampler import Sampler
from landscape.studies.llc.settings import LLCSettings, planned

logger = logging.getLogger(__name__)
STATE_FOLDER = "chains"  # in the run folder while chains run
_TOGETHER = 8_000_000  # parameters times samples of the chains of one item: more are no faster side by side
_MOST_CHAINS = 256  # of one item
_LEAST_STEPS = 500  # of all chains, from which on tracing their operations, about 0.3 s, is little
_MOST_ROWS, _MOST_WORK = 1024, 4e9  # parameters, and their square times samples, up to which the Hessian is computed
_ERROR = {
    "mala": "stderr is that of a mean over draws, for the data given; exact steps, so no bias but of the burn-in",
    "sgld": "stderr is that of a mean over draws, for the data given, and the bias of the step from chains of half the "
    "step, with its own error, added as squares",
    "devinterp": "stderr is that of a mean over all draws, burn-in included; the bias of the step is not in it",
}


class LLCTask:
    """Items are some chains each, as many as sizes say, never a clock; of small networks the last is the Hessian."""

    headline = "llc"

    def __init__(self, objective: Objective, settings: LLCSettings, folder: Path | None = None) -> None:
        """`folder` is where the states of chains that run go."""
        self._objective, self._folder = objective, folder
        self._plan = plan = planned(settings, objective.samples)
        self._centre = objective.theta
        size, samples = len(self._centre), objective.samples
        self._losses = losses = ChainLosses(objective)
        each = min(plan.chains, _MOST_CHAINS, _TOGETHER // (size * (plan.batch_size or samples)))
        with losses.bound():
            table = losses.settle()
            loss, _ = losses.at(self._centre[None])
            self._batches = BatchLosses(losses, objective, table, plan.batch_size) if plan.batch_size else None
            pays = each >= 1 and plan.chains * plan.steps >= _LEAST_STEPS
            if not (pays and (self._batches or losses).put_together(each)):
                each = 1
        self.loss = float(loss)
        count = -(-plan.chains // each)
        self._chains = [range(i * plan.chains // count, (i + 1) * plan.chains // count) for i in range(count)]
        self._hessian = size <= _MOST_ROWS and samples * size**2 <= _MOST_WORK
        self.count = count + self._hessian
        self.report: Callable[[str], None] | None = None  # see `task.Telling`
        self.stopping: Callable[[], bool] | None = None

    def describe(self) -> Description:
        """See `Task`."""
        plan = self._plan
        most = max(len(chains) for chains in self._chains)
        columns: dict[str, tuple[int, ...]] = {
            "llc": (),
            "trace": (most, plan.burn_in + plan.draws),
            "halved": (most, plan.draws if plan.halved else 0),
            "step": (most,),
            "acceptance": (most,),
            "quadratic": (),
        }
        identity = {
            "objective": self._objective.identity(),
            **{name: getattr(plan, name) for name in ("method", "chains", "draws", "burn_in", "nbeta", "localisation")},
            **{name: getattr(plan, name) for name in ("step", "batch_size", "seed", "parity")},
            "items": [list(chains) for chains in self._chains],
        }
        about = {"device": str(self._objective.device), "loss": self.loss, "hessian": self._hessian}
        return Description("llc", columns, identity, about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`; chains are computed by one rank."""
        row: dict[str, Any] = {name: np.full(shape, np.nan) for name, shape in self.describe().columns.items()}
        if index == len(self._chains):
            return {**row, "quadratic": self._quadratic()}
        chains = self._chains[index]
        state = None if self._folder is None else self._folder / STATE_FOLDER / f"{index:04d}.npz"

        def tell(text: str) -> None:
            if self.report is not None:
                self.report(text)

        with self._losses.bound():
            found = self._sampler(chains, state).run(tell, self.stopping)
        for name in ("trace", "halved", "step", "acceptance"):
            row[name][: len(chains)] = getattr(found, name)
        draws = found.trace[:, self._plan.burn_in :]
        return {**row, "llc": float(self._plan.nbeta * (draws.mean() - self.loss))}

    def _sampler(self, chains: range, state: Path | None) -> Sampler:
        return Sampler(self._plan, self._losses, self._batches, self._centre, chains, state)

    def _quadratic(self) -> float:
        """The coefficient of the quadratic form of the Hessian at the centre; NaN where there is none."""
        try:
            # no errors are asked for, so chunks need not be many, and larger ones take a tenth of the time
            with CurvatureOperator(self._objective, chunk=self._objective.chunk) as operator:
                eigenvalues: FloatArray = np.linalg.eigvalsh(unit_products(operator).matrix).astype(np.float64)
        except (InputError, NumericalError) as error:
            logger.info("the quadratic form is left out: %s", raised_by(error))
            return float("nan")
        return quadratic_coefficient(eigenvalues, self._plan.nbeta, self._plan.localisation)

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count

    @property
    def chains(self) -> list[range]:
        """The chains of each item."""
        return self._chains

    @property
    def steps(self) -> int:
        """Steps of a chain."""
        return self._plan.steps

    def walk(self, steps: int) -> None:
        """So many steps of the first item's chains, nothing kept."""
        sampler = self._sampler(self._chains[0], None)
        with self._losses.bound():
            for _ in range(steps):
                sampler.advance()


@of_objective
@checked(LLCSettings)
def measure_llc(
    objective: Objective,
    chains: int = 4,
    draws: int = 1000,
    nbeta: float | None = None,
    localisation: float | None = None,
    step: float | None = None,
    out: str | Path | None = None,
    *,
    method: str | None = None,
    batch_size: int | None = None,
    burn_in: int | None = None,
    seed: Seed = 0,
    parity: str | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> LLC:
    """The local learning coefficient of the objective's loss at its centre w*, on all MPI ranks of this run.

        nbeta (E[L(w)] - L(w*)),   w ~ exp(-nbeta L(w) - localisation |w - w*|^2 / 2)

    (Lau et al. 2023, arXiv 2308.12108). As nbeta grows and localisation falls it goes to the learning coefficient of
    the minimum (Watanabe 2009): d/2 of d parameters where it is not degenerate, and less where it is. At finite values
    it depends on both, which stand beside it. `nbeta` is n / ln n of the n samples by default, `localisation` 1.

    E is taken by `chains` that begin at w*, each of `burn_in` steps that are left out (by default as many as `draws`)
    and `draws` that count. `method` is "mala" on all data by default: steps of Langevin that a Metropolis test takes or
    not, so that they have no bias (Roberts and Tweedie 1996). With `batch_size` it is "sgld", whose steps are always
    taken and follow the slope of a batch (Welling and Teh 2011); each chain then goes on with half the step, and the
    bias that is seen goes into the error. "sgld" without `batch_size` takes the slope of all data. `step` is eps of
    w - eps/2 grad + sqrt(eps) xi; without it each chain finds its own in the burn-in, by acceptance (0.8 of MALA; 0.95
    of SGLD, as a test on the step's own batch would have it), and it stays from then on. The model is in eval mode, the
    loss of w* is exact and on the same data.

    Networks of up to 1,024 parameters have the value of their quadratic form beside it, 1/2 sum nbeta h / (nbeta h +
    localisation) over the eigenvalues h > 0 of the Hessian. parity="devinterp" has the conventions of devinterp 2.0.1:
    SGLD in batches of 32, localisation 0 and nbeta B / ln B of a batch unless said, no burn-in left out, no half steps;
    but for the loss of w*, which stays that of eval mode on all data.

    Chains are items, or some of them together where they are computed side by side (vmap) in less time. All random
    numbers follow from (seed, chain, draw): equal bits for any number of ranks, and a killed run goes on to the same.
    Chains that diverge are left out with their reason. `believable` is False, and `verdict` says why, where R-hat
    exceeds 1.05, draws are worth fewer than 50 independent ones, chains drift, the value is below 0, or the step is too
    large. All chains begin at w*, so that what none of them reaches is not seen by any of these.

    Raises InputError, before any chain runs, for settings that do not go together, a loss at w* that is not finite, and
    batches of data that have no single samples; see `run_task` for the rest.
    """
    require_one_rank(ranks_per_item)
    settings: dict[str, Any] = {
        "chains": chains,
        "draws": draws,
        "nbeta": nbeta,
        "localisation": localisation,
        "step": step,
        "method": method,
        "batch_size": batch_size,
        "burn_in": burn_in,
        "seed": seed,
        "parity": parity,
    }
    folder = None if out is None else Path(out)
    task = llc_task(objective, folder, **settings)
    run = Measurement(out, limit_items=limit_items, tolerance=tolerance, progress=progress, job=job)
    run.run(task, kept=None if folder is None else folder / STATE_FOLDER)
    return run.result(of_rows(llc_from_rows))


def require_one_rank(ranks_per_item: int) -> None:
    """Raise InputError for chains that several ranks are to share."""
    if ranks_per_item != 1:
        raise InputError(f"ranks_per_item={ranks_per_item}: chains are computed by one rank; leave it out")


def llc_task(objective: Objective, folder: Path | None = None, **asked: Any) -> LLCTask:
    """The task of `measure_llc`, `asked` being the fields of its settings; all ranks call this."""
    return agree(world(), lambda: LLCTask(objective, LLCSettings(**asked), folder))


def llc_from_rows(description: Description, rows: Rows, history: History) -> LLC:
    """The result in the rows of an LLC task, masked where chains are missing."""
    identity, about, columns = description.identity, description.about, rows.columns
    count, items = int(identity["chains"]), identity["items"]
    found = {
        name: np.full((count, *columns[name].shape[2:]), np.nan) for name in ("trace", "halved", "step", "acceptance")
    }
    done = np.zeros(count, dtype=bool)
    for item, chains in enumerate(items):
        done[chains] = rows.done[item]
        for name, values in found.items():
            values[chains] = columns[name][item, : len(chains)]
    method = str(identity["method"])
    attributes = {
        **result_attributes(description, history),
        **{name: identity[name] for name in ("method", "seed", "parity")},
        "batch_size": int(identity["batch_size"]) or int(identity["objective"]["samples"]),
        "error": _ERROR[identity["parity"] or method],
    }
    return LLC(
        loss=float(about["loss"]),
        nbeta=float(identity["nbeta"]),
        localisation=float(identity["localisation"]),
        burn_in=int(identity["burn_in"]),
        traces=found["trace"],
        halved=found["halved"],
        steps=found["step"],
        acceptance=found["acceptance"],
        quadratic=float(columns["quadratic"][-1]) if about["hessian"] else float("nan"),
        parameters=int(identity["objective"]["parameters"]),
        computed=done,
        attributes=attributes,
    )
