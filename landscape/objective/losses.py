"""Losses and metrics as numerators and denominators per unit, from names, torch criteria or any callable."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.errors import InputError, nearest, user_code
from landscape.objective.callables import callable_quantity
from landscape.objective.described import describe_callable
from landscape.objective.gpu import on_host
from landscape.objective.trees import kind_of, shapes_in, tensors_in
from landscape.objective.units import Quantity, Units, broadcast_error, main_output, per_sample_sums

LossLike = str | Callable[..., Any]
_RESERVED = {"loss", "computed", "items", "file", "x", "y", "z", "u", "v", "w"}  # names the result file gives itself


def named_losses() -> tuple[str, ...]:
    """Names accepted as `loss`."""
    return tuple(_LOSSES)


def named_metrics() -> tuple[str, ...]:
    """Names accepted in `metrics`."""
    return tuple(_METRICS)


def loss_quantity(loss: LossLike, outputs: Any, targets: Any) -> Quantity:
    """The loss as a Quantity; `outputs, targets` is a trial batch that decides how a scalar callable reduces."""
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise InputError(f"loss {loss!r} is unknown; {nearest(loss, _LOSSES)} A callable is accepted too.")
        weigh = _class_weights(_NAMED_SETTINGS.get(loss, {}))
        return _by_elements("loss", loss, _LOSSES[loss], weigh, classes=loss in _OF_CLASSES)
    reducible = _unreduced(loss, next(tensors_in(outputs), None))
    if reducible is not None:
        elements, settings = reducible
        weigh = _class_weights(settings)
        quantity = _by_elements("loss", describe_callable(loss), elements, weigh, classes=_is_of_classes(loss))
        # BCELoss scores are probabilities, those of every other loss with one score per label are logits
        probabilities = any(name in quantity.describe for name in ("BCELoss(", ".binary_cross_entropy("))
        threshold = 0.5 if probabilities or quantity.describe.endswith(".binary_cross_entropy") else 0.0
        return replace(quantity, ignored=settings.get("ignore_index", -100), threshold=threshold)
    with _label_types_told("loss", outputs, targets):
        return callable_quantity("loss", loss, outputs, targets)


def metric_quantities(
    metrics: Sequence[str | Callable[..., Any]] | Mapping[str, str | Callable[..., Any]],
    outputs: Any,
    targets: Any,
    loss: Quantity,
) -> list[Quantity]:
    """The metrics as Quantities, named by `__name__` or key; labels the loss ignores do not count."""
    items: list[tuple[str, str | Callable[..., Any]]] = (
        list(metrics.items())
        if isinstance(metrics, Mapping)
        else [(m if isinstance(m, str) else getattr(m, "__name__", type(m).__name__), m) for m in metrics]
    )
    result: list[Quantity] = []
    for name, metric in items:
        if name in _RESERVED or name.endswith("_stderr") or name in {q.name for q in result}:
            raise InputError(
                f"metric name {name!r} is taken: the result file uses it for something else, or two metrics have it; "
                "name it otherwise: metrics={'my_name': function}"
            )
        if not name.isidentifier():
            raise InputError(
                f"metric name {name!r} cannot name a variable of the result file; use letters, digits and _, and name "
                "a function without a name of its own: metrics={'my_name': function}"
            )
        if isinstance(metric, str):
            if metric not in _METRICS:
                raise InputError(f"metric {metric!r} is unknown; {nearest(metric, _METRICS)} A callable works too.")
            units = functools.partial(_METRICS[metric], ignored=loss.ignored, threshold=loss.threshold)
            result.append(Quantity(name, metric, units))
        else:
            with _label_types_told(name, outputs, targets):
                result.append(callable_quantity(name, metric, outputs, targets))
    return result


def _by_elements(
    name: str,
    describe: str,
    elements: Callable[[Any, Any], Tensor],
    weigh: Callable[[Any, Any, Tensor], Tensor | None],
    *,
    classes: bool,
) -> Quantity:
    """Units from element-wise values: summed over everything but the first axis; the weights decide the denominator.

    Whole numbers as targets are numbers of `classes`, which torch wants in int64, or values like the outputs.
    """

    def units(outputs: Any, targets: Any) -> Units:
        outputs, targets = _aligned(outputs, targets, describe)
        if not targets.is_floating_point() and not targets.is_complex():
            targets = _class_numbers(outputs, targets, describe) if classes else targets.to(outputs.dtype)
        values = elements(outputs, targets)
        if isinstance(targets, Tensor) and targets.shape != outputs.shape and values.ndim >= outputs.ndim:
            raise broadcast_error(outputs, targets, describe)
        weights = weigh(outputs, targets, values)
        if weights is None and values.ndim == 1:
            return Units(values, None, per_sample=True)
        size = values.shape[0]
        weights = torch.ones_like(values) if weights is None else weights
        return Units(per_sample_sums(values, size), per_sample_sums(weights, size), per_sample=True)

    return Quantity(name, describe, units)


def _class_numbers(outputs: Tensor, targets: Tensor, describe: str) -> Tensor:
    """Numbers of classes in int64, exactly: torch takes no other type but uint8, which is a mask where it indexes."""
    if outputs.shape == targets.shape and "multilabel" not in describe.lower():
        raise InputError(
            f"the targets are {shapes_in(targets)}, whole numbers of the outputs' shape (one-hot?), and {describe!r} "
            "needs the number of a class for each sample, or floating-point probabilities of all classes: give "
            "y.argmax(1), or y.float()"
        )
    return _as_int64(targets)


def _as_int64(labels: Tensor) -> Tensor:
    """Whole numbers in int64. Raises InputError where one has no place there."""
    found = labels.long()
    if labels.dtype == torch.uint64 and bool((found < 0).any()):
        raise InputError("a label in uint64 is larger than int64 holds; give labels as class numbers from 0 on")
    return found


def _is_of_classes(loss: Callable[..., Any]) -> bool:
    """Whether a criterion or functional loss of torch takes whole numbers for numbers of classes."""
    base = loss.func if isinstance(loss, functools.partial) else loss
    kinds = {kind.__name__ for kind in type(base).__mro__} | {getattr(base, "__name__", "")}
    return bool(kinds & _OF_CLASSES)


def no_such_class(error: IndexError, outputs: Any, targets: Any) -> str | None:
    """What is to be said of a label that torch found out of bounds: whose it is, and which there are; else None."""
    found = re.search(r"Target (-?\d+) is out of bounds", str(error))
    outputs = main_output(outputs)
    if found is None or not isinstance(targets, Tensor) or targets.ndim == 0:
        return None
    at = (targets == int(found[1])).nonzero()
    whose = f"Sample {int(at[0, 0])} of the batch tried has the label {found[1]}" if len(at) else "A label is no class"
    of_scores = isinstance(outputs, Tensor) and outputs.ndim == 2
    scores = f", and the model gives {outputs.shape[1]} scores: labels are numbers from 0 on, below that"
    return f"{whose}{scores if of_scores else ': labels are numbers from 0 on, below the number of scores'}"


def _label_types_told(name: str, outputs: Any, targets: Any) -> AbstractContextManager[Any]:
    """Inside, what a callable of the user's raises is told with a way out where labels are of a type torch refuses."""
    kinds = {t.dtype for t in tensors_in(targets) if not (t.is_floating_point() or t.is_complex())}
    odd = sorted(str(kind).removeprefix("torch.") for kind in kinds - {torch.int64, torch.uint8})
    if not odd:
        return nullcontext()
    return user_code(
        f"{name} cannot be computed from outputs and targets",
        lambda: f"outputs {shapes_in(outputs)}; targets {shapes_in(targets)}",
        f"The targets are {' and '.join(odd)}: torch takes numbers of classes in int64, as y.long() makes, and values "
        "or yes and no as floats, as y.float() makes; give the data so",
    )


def _aligned(outputs: Any, targets: Any, describe: str) -> tuple[Tensor, Any]:
    """Outputs in float32 or better; (B, L, C) scores with (B, L) labels turned into torch's (B, C, L)."""
    outputs = main_output(outputs)
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"the model returned {type(outputs).__name__}, and loss {describe!r} needs a tensor; give "
            "forward=lambda model, batch: (outputs, targets)"
        )
    if not isinstance(targets, Tensor):
        raise InputError(
            f"the targets are {kind_of(targets)}, and {describe!r} needs a tensor; give a loss= that takes them as "
            "they are, or forward=lambda model, batch: (outputs, targets)"
        )
    if outputs.dtype in (torch.bfloat16, torch.float16):
        outputs = outputs.float()
    labels = not targets.is_floating_point()
    if targets.dtype in (torch.uint16, torch.uint32, torch.uint64):  # which torch compares and adds with little
        targets = _as_int64(targets)
    if targets.is_floating_point() and targets.shape != outputs.shape:
        raise broadcast_error(outputs, targets, describe)
    if labels and outputs.ndim == 3 and targets.ndim == 2:
        scores_last = outputs.shape[1] == targets.shape[1]
        if scores_last and outputs.shape[2] == targets.shape[1]:
            raise InputError(
                f"outputs of shape {tuple(outputs.shape)} with labels of shape {tuple(targets.shape)}: either of the "
                f"last two axes could hold the classes, in {describe}. Return (B*L, C) outputs and (B*L,) labels."
            )
        if scores_last:
            outputs = outputs.transpose(1, 2)
    return outputs, targets


def _unreduced(
    loss: Callable[..., Any], like: Tensor | None
) -> tuple[Callable[[Any, Any], Tensor], dict[str, Any]] | None:
    """Element-wise form and settings of a torch criterion, a functional loss or a partial of one; None for others."""
    if getattr(loss, "reduction", None) in ("mean", "sum", "none") and type(loss).__module__.startswith("torch."):
        criterion: Any = copy.deepcopy(loss)
        if like is not None:  # class weights follow the scores, which losses see in float32 or better
            criterion.to(like.device, torch.promote_types(like.dtype, torch.float32))
        criterion.reduction = "none"
        classes = any(kind.__name__ in ("CrossEntropyLoss", "NLLLoss") for kind in type(loss).__mro__)
        return criterion, {k: getattr(criterion, k) for k in ("weight", "ignore_index")} if classes else {}
    base = loss.func if isinstance(loss, functools.partial) else loss
    given = dict(loss.keywords) if isinstance(loss, functools.partial) else {}
    if getattr(base, "__module__", None) == "torch.nn.functional" and "reduction" in inspect.signature(base).parameters:
        weight = given.get("weight")
        if isinstance(weight, Tensor) and like is not None:
            given["weight"] = weight = weight.to(like.device, torch.promote_types(like.dtype, torch.float32))
        settings = {"weight": weight, "ignore_index": given.get("ignore_index", -100)}
        classes = base in (F.cross_entropy, F.nll_loss)
        arguments = loss.args if isinstance(loss, functools.partial) else ()
        return functools.partial(base, *arguments, **{**given, "reduction": "none"}), settings if classes else {}
    return None


def _class_weights(settings: Mapping[str, Any]) -> Callable[[Any, Any, Tensor], Tensor | None]:
    """Weight of each element of a class loss in torch's mean: 0 where ignored, the class weight, else 1.

    None, for all ones, where nothing is ignored or weighted, as far as that is seen without waiting for a device, and
    for any other loss, which has no settings.
    """
    weight, ignore = settings.get("weight"), settings.get("ignore_index", -100)

    def weigh(outputs: Any, targets: Any, values: Tensor) -> Tensor | None:
        if (
            not settings
            or not isinstance(targets, Tensor)
            or targets.is_floating_point()
            or targets.shape != values.shape
        ):
            return None
        if weight is None and values.ndim == 1 and _none_ignored(targets, ignore):
            return None
        kept: Tensor = targets != ignore
        if weight is None:
            return kept.to(values.dtype)
        return torch.where(kept, weight.to(values)[targets.where(kept, 0)], torch.zeros_like(values))

    return weigh


def _none_ignored(labels: Tensor, ignored: int) -> bool:
    """Whether no label is the ignored one, as far as that is seen without waiting for a device.

    It is asked of every chunk at every point; the least label mostly tells.
    """
    if not on_host(labels):
        return False
    return labels.numel() == 0 or labels.min().item() > ignored or bool((labels != ignored).all())


def _correct(outputs: Any, targets: Any, ignored: int = -100, threshold: float = 0.0) -> Units:
    scores, labels = _aligned(outputs, targets, "accuracy")
    if not isinstance(labels, Tensor):
        raise InputError(f"accuracy needs class labels as a tensor, the targets are {type(labels).__name__}")
    if scores.ndim == labels.ndim + 1 and scores.shape[1] == 1:
        scores = scores.squeeze(1)
    if labels.is_floating_point() and labels.shape == scores.shape and scores.ndim > 1 and scores.shape[1] > 1:
        if bool(((labels == labels.amax(1, keepdim=True)).sum(1) != 1).any()):
            raise InputError(
                "accuracy compares the largest score with the largest target, and some targets have no single largest "
                "one (several labels at once?); give a callable of (outputs, targets) that says what counts as right"
            )
        labels = labels.argmax(dim=1)
    by_element = scores.ndim == labels.ndim
    # of several largest scores both max and argmax give the first; on CPUs argmax takes half as long again
    hit = (scores > threshold) == (labels > 0.5) if by_element else scores.max(dim=1).indices == labels
    size = hit.shape[0]
    if hit.ndim == 1 and on_host(hit) and (by_element or _none_ignored(labels, ignored)):
        right, weights = hit.double(), None
    else:
        kept = torch.ones_like(hit) if by_element else labels != ignored
        right, weights = (part.reshape(size, -1).sum(1).double() for part in (hit & kept, kept))
    # no class is the largest of scores that are NaN; a sum shows whether there are any
    if not on_host(scores) or math.isnan(scores.sum().item()):
        right = right.masked_fill(scores.isnan().reshape(size, -1).any(1), float("nan"))
    return Units(right, weights, per_sample=True)


def _wrong(outputs: Any, targets: Any, ignored: int = -100, threshold: float = 0.0) -> Units:
    units = _correct(outputs, targets, ignored, threshold)
    total = torch.ones_like(units.numerators) if units.denominators is None else units.denominators
    return Units(total - units.numerators, units.denominators, per_sample=True)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """F.cross_entropy with reduction="none"; on CPUs many samples of few classes go by columns.

    There torch's softmax along a short last axis takes 20 times as long as along the first (10 classes, 1,800 samples),
    more than the rest of a small network.
    """
    tall = outputs.ndim == 2 and outputs.shape[0] > outputs.shape[1] and outputs.device.type == "cpu"
    if not tall or targets.is_floating_point():
        return F.cross_entropy(outputs, targets, reduction="none")
    return F.nll_loss(outputs.t().contiguous().log_softmax(0).t(), targets, reduction="none")


def _elements(function: Callable[..., Tensor]) -> Callable[[Any, Any], Tensor]:
    return functools.partial(function, reduction="none")


_LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "nll": _elements(F.nll_loss),
    "mse": _elements(F.mse_loss),
    "l1": _elements(F.l1_loss),
    "smooth_l1": _elements(F.smooth_l1_loss),
    "huber": _elements(F.huber_loss),
    "binary_cross_entropy_with_logits": _elements(F.binary_cross_entropy_with_logits),
    "multi_margin": _elements(F.multi_margin_loss),
}
_OF_CLASSES = {  # names given, and torch's own
    *("cross_entropy", "nll", "nll_loss", "multi_margin", "multi_margin_loss", "multilabel_margin_loss"),
    *("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "MultiLabelMarginLoss"),
}
_NAMED_SETTINGS = {"cross_entropy": {"ignore_index": -100}, "nll": {"ignore_index": -100}}
_METRICS: dict[str, Callable[..., Units]] = {"accuracy": _correct, "error": _wrong}
