"""What a marginal likelihood is of: inputs, labels, kernel, looked at before any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from landscape_kernels.arrays import FloatArray
from landscape_kernels.evidence import EXACT_MOST, INTEGRATED_MOST
from landscape_kernels.nngp import nngp_kernel
from torch import Tensor

from landscape.errors import InputError
from landscape.network.random_kernel import initial_network
from landscape.objective.described import describe_callable
from landscape.objective.model import choose_device
from landscape.objective.trees import digest
from landscape.studies.marginal_likelihood.settings import MarginalLikelihoodSettings

_GROUPS = 8  # of networks at most, which the jackknife leaves out in turn


class Plan:
    """What is asked, looked at before any work. Raises InputError for what cannot be."""

    def __init__(
        self,
        inputs: Any,
        labels: Any,
        settings: MarginalLikelihoodSettings,
        factory: Callable[..., Any] | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.settings, self.factory = settings, factory
        self.inputs, found = _inputs(inputs), _labels(labels)
        self.samples = len(self.inputs)
        if len(found) != self.samples:
            raise InputError(f"{self.samples} inputs and {len(found)} labels; give one label for each")
        if settings.method in ("exact", "orthant"):
            most = EXACT_MOST if settings.method == "exact" else INTEGRATED_MOST
            if self.samples > most:
                raise InputError(
                    f"method={settings.method!r} is for {most} samples at most, and there are {self.samples}; give "
                    "fewer, or say method='ep'"
                )
        if settings.kernel == "empirical" and factory is None:
            raise InputError(
                "kernel='empirical' needs factory= (in a job [model]), a function that makes a network with its "
                "initial weights"
            )
        nothing = ~self.inputs.reshape(self.samples, -1).any(1)
        if settings.kernel == "nngp" and settings.bias_variance == 0 and bool(nothing.any()):
            raise InputError(
                f"bias_variance=0, and the inputs of {int(nothing.sum())} samples are all 0, the first of them sample "
                f"{int(nothing.nonzero()[0])}: every network is 0 there; give bias_variance above 0, or leave these out"
            )
        self.device = choose_device(device)
        names, places = np.unique(found, return_inverse=True)
        two = len(names) <= 2
        self.classes = (" or ".join(map(str, names)),) if two else tuple(map(str, names))
        self.signs = [np.where(places == k, 1.0, -1.0) for k in ((len(names) - 1,) if two else range(len(names)))]
        self.groups = 0 if settings.kernel == "nngp" else min(settings.nets, _GROUPS)
        self.identity = self._identity(found)

    def _identity(self, labels: Any) -> dict[str, Any]:
        asked = self.settings
        found: dict[str, Any] = {
            "inputs": digest(self.inputs),
            "labels": digest(torch.from_numpy(np.ascontiguousarray(labels))),
            "samples": self.samples,
            "kernel": asked.kernel,
        }
        if asked.kernel == "nngp":
            return found | {name: getattr(asked, name) for name in ("depth", "weight_variance", "bias_variance")}
        assert self.factory is not None
        first = initial_network(self.factory, asked.seed, 0)
        return found | {
            "factory": describe_callable(self.factory),
            "nets": asked.nets,
            "seed": asked.seed,
            "first_network": digest(*(value.detach() for value in first.state_dict().values())),
        }

    @property
    def about(self) -> dict[str, Any]:
        """What else the result tells."""
        return {"classes": list(self.classes), "groups": self.groups, "device": str(self.device)}

    def closed_form(self) -> FloatArray:
        """The kernel of infinitely wide networks, (m, m)."""
        asked = self.settings
        flat = self.inputs.reshape(self.samples, -1).double().cpu().numpy()
        return nngp_kernel(flat, asked.depth, asked.weight_variance, asked.bias_variance)


def _inputs(inputs: Any) -> Tensor:
    try:
        found = torch.as_tensor(inputs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"inputs are a {type(inputs).__name__}; give a tensor or an array (samples, ...)") from error
    if found.ndim < 1 or not found.numel():
        raise InputError(f"inputs have shape {tuple(found.shape)}; give a tensor (samples, ...) that holds some")
    if found.is_complex():
        raise InputError(f"inputs are {found.dtype}; give real numbers")
    bad = (~torch.isfinite(found)).reshape(len(found), -1).any(1)
    if bool(bad.any()):
        raise InputError(
            f"inputs hold NaN or Inf in {int(bad.sum())} samples, the first of them sample {int(bad.nonzero()[0])}; "
            "leave these out"
        )
    return found.detach()


def _labels(labels: Any) -> Any:
    """Whole numbers, (m,)."""
    try:
        found = torch.as_tensor(labels).detach().cpu().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels are a {type(labels).__name__}; give one whole number for each sample") from error
    found = found.reshape(len(found)) if found.ndim == 2 and found.shape[1] == 1 else found
    if found.ndim != 1 or not np.array_equal(found, np.round(found)):
        raise InputError(
            f"labels have shape {found.shape} and type {found.dtype}; give one whole number for each sample, its class"
        )
    return found.astype(np.int64)
