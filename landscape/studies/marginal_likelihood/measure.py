"""The probability of a labelling under random networks: the kernel, then the evidence of each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.evidence import (
    exact_orthant,
    integrated_orthant,
    laplace_evidence,
    regression_evidence,
    signed_correlations,
)
from landscape_kernels.nngp import packed, unpacked
from landscape_kernels.probes import derive_seed
from landscape_kernels.propagation import propagated_orthant

from landscape.arguments import Count, Natural, Seed, checked
from landscape.errors import InputError
from landscape.network.random_kernel import initial_network, network_kernel
from landscape.objective.random_state import keeps_random_state
from landscape.results.attributes import provenance, whole_time
from landscape.results.measured import Measurement
from landscape.results.stages import Stage
from landscape.run.comm import Communicator, world
from landscape.run.failures import Tolerance
from landscape.run.progress import Progress
from landscape.run.task import Description, Row, Rows
from landscape.run.together import agree
from landscape.studies.marginal_likelihood.plan import Plan
from landscape.studies.marginal_likelihood.result import MarginalLikelihood
from landscape.studies.marginal_likelihood.settings import MarginalLikelihoodSettings

KERNEL, EVIDENCE = "random_networks", "evidence"  # names of the tasks, and of their folders
STAGES = (KERNEL, EVIDENCE)
_PARTS = ("log_evidence", "kl", "train_error")
_OF = {
    "ep": "expectation propagation, whose own error is not in these: where P is known it is low, 0.05 nats for 1,000 "
    "correlations of 1/2, 0.6 for 100 copies of a sample",
    "laplace": "Laplace's method, whose own error is not in these",
    "exact": "closed form",
    "orthant": "quasi-Monte Carlo integral, with its standard error",
    "regression": "closed form",
}


class NetworksTask:
    """Item i: the kernel of a group of networks, which follow from the seed and their numbers."""

    headline = "scale"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.count = plan.groups

    def describe(self) -> Description:
        """See `Task`."""
        size = self._plan.samples * (self._plan.samples + 1) // 2
        columns: dict[str, tuple[int, ...]] = {"kernel": (size,), "scale": ()}
        return Description(KERNEL, columns, self._plan.identity, self._plan.about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        plan = self._plan
        total = np.zeros((plan.samples, plan.samples))
        for number in members(plan.settings.nets, plan.groups, index):
            total += self.one(number)
        return {"kernel": packed(total), "scale": float(np.diag(total).mean())}

    def one(self, number: int) -> FloatArray:
        """The part of one network."""
        plan = self._plan
        assert plan.factory is not None
        model = initial_network(plan.factory, plan.settings.seed, number)
        return network_kernel(model, plan.inputs, plan.device)

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


def members(nets: int, groups: int, group: int) -> range:
    """The numbers of the networks of a group, as many in each as can be."""
    return range(group * nets // groups, (group + 1) * nets // groups)


class EvidenceTask:
    """Item i: one class by one kernel, first of all networks, then without each group of them."""

    headline = "log_evidence"

    def __init__(self, plan: Plan, rows: Rows | None = None) -> None:
        """`rows` are those of the networks; None to ask how much there is to do, or for a kernel in closed form."""
        self._plan, self._rows = plan, rows
        self.count = len(plan.classes) * (1 + plan.groups)
        self._held: tuple[int, FloatArray] | None = None  # the kernel of the last item

    def describe(self) -> Description:
        """See `Task`."""
        asked = self._plan.settings
        identity = {
            **self._plan.identity,
            "method": asked.method,
            "link": "" if asked.method == "regression" else asked.link,
            **({"noise": asked.noise} if asked.method == "regression" else {}),
            **({"integral_seed": asked.seed} if asked.method == "orthant" else {}),
        }
        columns = dict.fromkeys((*_PARTS, "numerical_error", "sweeps"), ())
        return Description(EVIDENCE, columns, identity, self._plan.about)

    def evaluate(self, index: int, group: Communicator) -> Row:
        """See `Task`."""
        without, number = divmod(index, len(self._plan.classes))
        if self._held is None or self._held[0] != without:
            self._held = (without, self._kernel(without))
        return self.evidence(self._held[1], number)

    def _kernel(self, without: int) -> FloatArray:
        """Of all networks, or without group `without` - 1."""
        if self._plan.groups == 0:
            return self._plan.closed_form()
        assert self._rows is not None
        parts, nets, groups = self._rows.columns["kernel"], self._plan.settings.nets, self._plan.groups
        total, count = np.zeros(parts.shape[1]), 0
        for g in range(groups):
            if g != without - 1:
                total += parts[g]
                count += len(members(nets, groups, g))
        total /= count
        return unpacked(total)

    def evidence(self, kernel: FloatArray, number: int) -> Row:
        """The row of a class by a kernel."""
        asked, signs = self._plan.settings, self._plan.signs[number]
        if asked.method == "regression":
            fit = regression_evidence(kernel, signs, asked.noise)
            parts = {"log_evidence": fit.log, "kl": fit.kl, "train_error": fit.train_error}
            return {**parts, "numerical_error": 0.0, "sweeps": 0.0}
        if asked.method == "laplace":
            found = laplace_evidence(kernel, signs)
        else:
            if asked.link == "probit":
                kernel = kernel + np.eye(len(kernel))
            try:
                correlations = signed_correlations(kernel, signs)
            except ValueError as error:
                raise InputError(
                    f"{error}: networks are 0 there whatever their weights; give bias_variance above 0, or leave the "
                    "sample out"
                ) from error
            if asked.method == "exact":
                found = exact_orthant(correlations)
            elif asked.method == "orthant":
                found = integrated_orthant(correlations, derive_seed(asked.seed, "orthant", number) % 2**63)
            else:
                found = propagated_orthant(correlations)
        parts = {"log_evidence": found.log, "kl": -found.log, "train_error": 0.0}
        return {**parts, "numerical_error": found.error, "sweeps": float(found.sweeps)}

    def extend(self, rows: Rows) -> int:
        """See `Task`: one round."""
        return self.count


@keeps_random_state
@checked(MarginalLikelihoodSettings)
def marginal_likelihood_bound(
    inputs: Any,
    labels: Any,
    kernel: str = "nngp",
    depth: int = 2,
    method: str = "ep",
    out: str | Path | None = None,
    *,
    factory: Callable[..., Any] | None = None,
    link: str = "heaviside",
    weight_variance: float = 2.0,
    bias_variance: float = 0.01,
    nets: int = 64,
    noise: float = 1.0,
    seed: Seed = 0,
    device: str | torch.device | None = None,
    ranks_per_item: Count = 1,
    limit_items: Natural | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[Progress], None] | None = None,
    job: str = "",
) -> MarginalLikelihood:
    """The probability P that a random network labels the samples as they are, and PAC-Bayes bounds on the error by it.

    `inputs` (m, ...) and `labels` (m,), whole numbers. The network is a Gaussian process f ~ N(0, K) at the inputs, and
    P = P(sign f = y), y of +1 and -1. With link="probit" labels are noisy: P = E prod Phi(y f). Of more than two
    classes each is told from the others by an output of its own, and log P is the sum over classes.

    K with kernel="nngp" is that of fully connected ReLU networks of infinite width with `depth` hidden layers, weights
    of variance `weight_variance` / fan-in and biases of `bias_variance`, at the flattened inputs. With
    kernel="empirical" it is the mean over `nets` networks `factory()`, made from random streams that follow from
    `seed` and the network's number, in eval mode; a linear last layer is averaged over in closed form. Then the
    standard errors and `bias` come from a jackknife over eight groups of networks. Groups, and classes, are shared out
    over the ranks.

    `method` is "ep" (expectation propagation), "laplace" (probit alone), "exact" (m <= 3), "orthant" (a quasi-Monte
    Carlo integral with its error, m <= 50) or "regression": y = f + N(0, `noise`), whose KL of posterior and prior and
    whose posterior's training error enter the bound in place of -log P and 0. Where the iterations do not settle, as
    where the kernel is of low rank and P is 0, log P is NaN.

    Bounds: `bound`, 1 - exp(-(-log P + 2 ln m + 1 - ln delta) / m) with delta = 2^-10, on the mean error of networks
    drawn given the labels (Valle-Perez, Camargo and Louis, ICLR 2019), and `bound_on_draw`, 1 - exp(-(-log P + ln m -
    ln delta - ln gamma) / (m - 1)) with delta = gamma = 0.01, on the error of 99 % of them (Valle-Perez and Louis,
    arXiv:2012.04115, theorem 5.1). Memory is 3 m^2 numbers, with an empirical kernel 8 m^2.

    Raises InputError before any work for inputs, labels and settings that cannot be; see `run_task` for the rest.
    """
    if ranks_per_item != 1:
        raise InputError(f"ranks_per_item={ranks_per_item}: an item is computed by one rank; leave it out")
    plan = marginal_likelihood_plan(
        inputs,
        labels,
        factory=factory,
        device=device,
        kernel=kernel,
        depth=depth,
        method=method,
        link=link,
        weight_variance=weight_variance,
        bias_variance=bias_variance,
        nets=nets,
        noise=noise,
        seed=seed,
    )
    run = Measurement(out, stages=STAGES, limit_items=limit_items, tolerance=tolerance, progress=progress, job=job)
    rows = run.run(NetworksTask(plan), tolerant=False).rows if plan.groups else None
    if run.going:
        run.run(EvidenceTask(plan, rows))
    return run.result(marginal_likelihood_from_stages)


def marginal_likelihood_plan(
    inputs: Any,
    labels: Any,
    *,
    factory: Callable[..., Any] | None = None,
    device: str | torch.device | None = None,
    **asked: Any,
) -> Plan:
    """The plan of `marginal_likelihood_bound`, `asked` being fields of its settings; all ranks call this."""
    return agree(world(), lambda: Plan(inputs, labels, MarginalLikelihoodSettings(**asked), factory, device))


def marginal_likelihood_from_stages(stages: Mapping[str, Stage]) -> MarginalLikelihood:
    """The result of what its tasks left, masked where rows are missing."""
    last = stages.get(EVIDENCE) or stages[KERNEL]
    identity, about = last.description.identity, last.description.about
    classes, groups = tuple(about["classes"]), int(about["groups"])
    shape = (1 + groups, len(classes))
    rows = (
        stages[EVIDENCE].rows
        if EVIDENCE in stages
        else Rows.empty(dict.fromkeys((*_PARTS, "numerical_error"), ()), math.prod(shape))
    )
    found = {name: rows.columns[name].reshape(shape) for name in (*_PARTS, "numerical_error")}
    kept = (
        "samples",
        "kernel",
        "depth",
        "weight_variance",
        "bias_variance",
        "factory",
        "nets",
        "seed",
        "method",
        "link",
        "noise",
    )
    histories = [stages[name].history for name in STAGES if name in stages]
    method = str(identity.get("method", ""))
    attributes = {
        "task": last.description.name,
        **{name: identity[name] for name in kept if name in identity},
        "data_hash": identity["inputs"],
        "device": about["device"],
        **provenance(last.description, last.history),
        **whole_time(histories),
        "error": "; ".join(
            text
            for text in (
                _OF.get(method, ""),
                f"stderr by a jackknife over {groups} groups of networks" if groups else "the kernel is exact",
            )
            if text
        ),
    }
    return MarginalLikelihood(
        classes=classes,
        log_evidences=found["log_evidence"][0],
        kls=found["kl"][0],
        train_errors=found["train_error"][0],
        numerical_errors=found["numerical_error"][0],
        without=np.stack([found[name][1:].T for name in _PARTS]),
        computed=rows.done.reshape(shape)[0],
        samples=int(identity["samples"]),
        method=method,
        kernel=str(identity["kernel"]),
        attributes=attributes,
    )
