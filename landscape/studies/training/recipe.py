"""How a model is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from landscape_kernels.descent import OPTIMIZERS

from landscape.arguments import require_fields
from landscape.errors import InputError, nearest
from landscape.objective.objective import PRECISIONS

SCHEDULES = ("constant", "step", "cosine", "linear", "growing")
NOISES = ("redrawn", "permuted")
POISON_LOSSES = ("wrong", "unlikely")
KEEPS = ("last", "best")
_STEP = 0.1  # what the step size is multiplied by at each milestone


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; everything random in it follows from the model's seed and, of the data, `data_seed`.

    Raises InputError for a key that does not exist and for values that cannot be, or do not go together.
    """

    optimizer: str = "sgd"  # or "adam", "adamw", "m3", "rm3", "ra3"
    lr: float = 0.1  # the largest step size; of "growing" the first
    momentum: float = 0.9  # of sgd
    nesterov: bool = False  # of sgd
    weight_decay: float = 0.0
    schedule: str = "constant"  # or "step", "cosine", "linear", "growing"
    milestones: tuple[float, ...] = (0.5, 0.75)  # of "step": shares of the steps after which lr is divided by 10
    lr_end: float = 0.0  # what "cosine", "linear" and "growing" (geometrically) come to
    warmup: float = 0.0  # share of the steps over which lr rises linearly, before the schedule begins
    lr_decay: float = 1.0  # what lr (and lr_end) is multiplied by from each model of a sequence to the next
    batch_size: int = 128
    epochs: int = 20
    steps: int | None = None  # ends the training in the place of epochs
    clip: float | None = None  # largest norm of a gradient
    winsorise: float = 0.0  # per cent of a batch's examples whose gradients are clipped, entry by entry, at either end
    stop_error: float | None = None  # training ends after the epoch whose training error is at most that
    stop_loss: float | None = None  # and the same of the training loss
    keep: str = "last"  # which weights are final: the last ones, or "best": of the epoch of lowest held-out loss
    fraction: float = 1.0  # of the samples that is trained on
    label_noise: float = 0.0  # fraction of those whose label is changed
    noise: str = "redrawn"  # uniformly over the classes, or "permuted" among the samples that are changed
    poison: float = 0.0  # share of the samples that are set apart, and trained to be wrong beside the others
    poison_weight: float = 1.0  # of their mean loss, which is added to that of the others
    poison_schedule: tuple[float, ...] = (1.0,)  # what that is multiplied by in equal parts of the steps; (0, 1) waits
    poison_loss: str = "wrong"  # cross-entropy with a wrong label, or "unlikely": -ln(1 - p) of the right one
    data_seed: int = 0  # of the fraction, the noise and the poison, which all seeds of a model share
    precision: str | None = None  # "float32", "float64" or "bf16"; by default that of the model's parameters

    def __new__(cls, *given: Any, **named: Any) -> Recipe:
        """Refuse keys that do not exist with the nearest that do, which Python itself does not tell."""
        known = [field.name for field in fields(cls)]
        for name in named:
            if name not in known:
                raise InputError(f"a recipe has no key {name!r}; {nearest(name, known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        require_fields(self)
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("keep", KEEPS),
            ("noise", NOISES),
            ("poison_loss", POISON_LOSSES),
            ("precision", (None, *(p for p in PRECISIONS if p != "own"))),
        ):
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name}={value!r} is unknown; {nearest(str(value), filter(None, known))}")
        if type(self.nesterov) is not bool:
            raise InputError(f"nesterov={self.nesterov!r}; give true or false")
        for name, least in (("batch_size", 1), ("epochs", 1), ("steps", 1), ("data_seed", 0)):
            value = getattr(self, name)
            if (type(value) is not int or value < least) and not (name == "steps" and value is None):
                raise InputError(f"{name}={value!r}; give a whole number of {least} or more")
        _require("lr", self.lr, "a positive number", lambda v: v > 0)
        _require("momentum", self.momentum, "0 or more and less than 1", lambda v: 0 <= v < 1)
        _require("weight_decay", self.weight_decay, "0 or more", lambda v: v >= 0)
        _require("winsorise", self.winsorise, "0 or more and less than 50, a percentage", lambda v: 0 <= v < 50)
        _require("lr_end", self.lr_end, "0 or more", lambda v: v >= 0)
        _require("lr_decay", self.lr_decay, "more than 0 and at most 1", lambda v: 0 < v <= 1)
        _require("warmup", self.warmup, "0 or more and less than 1, a share of the steps", lambda v: 0 <= v < 1)
        _require("fraction", self.fraction, "more than 0 and at most 1", lambda v: 0 < v <= 1)
        _require("label_noise", self.label_noise, "a fraction from 0 to 1", lambda v: 0 <= v <= 1)
        _require("poison", self.poison, "0 or more and less than 1, a share of the samples", lambda v: 0 <= v < 1)
        _require("poison_weight", self.poison_weight, "a positive number", lambda v: v > 0)
        if not isinstance(self.poison_schedule, (list, tuple)):
            raise InputError(f"poison_schedule={self.poison_schedule!r}; give a list of factors, as [0, 1]")
        object.__setattr__(self, "poison_schedule", tuple(self.poison_schedule))
        for factor in self.poison_schedule:
            _require("poison_schedule", factor, "factors of poison_weight, 0 or more each", lambda v: v >= 0)
        if not any(self.poison_schedule):
            raise InputError(
                f"poison_schedule={self.poison_schedule} is without poison from end to end; give a factor above 0, or "
                "poison=0"
            )
        if self.poison and self.winsorise:
            raise InputError("poison and winsorise do not go together: clipped gradients of wrong labels are no poison")
        for name, allowed, fits in (
            ("clip", "a positive number", lambda v: v > 0),
            ("stop_error", "a fraction from 0 to 1", lambda v: 0 <= v <= 1),
            ("stop_loss", "a number", lambda v: True),
        ):
            if getattr(self, name) is not None:
                _require(name, getattr(self, name), allowed, fits)
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for share in self.milestones:
            _require("milestones", share, "shares of the steps, more than 0 and less than 1", lambda v: 0 < v < 1)
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise InputError("nesterov=True needs optimizer='sgd' and a momentum above 0")
        if self.schedule == "growing" and self.lr_end <= self.lr:
            raise InputError(
                f"schedule='growing' grows from lr={self.lr} to lr_end={self.lr_end}; give a larger lr_end"
            )
        if self.schedule in ("cosine", "linear") and self.lr_end > self.lr:
            raise InputError(
                f"schedule={self.schedule!r} goes from lr={self.lr} down to lr_end={self.lr_end}; give less"
            )
        if self.lr_end and self.schedule in ("constant", "step"):
            raise InputError(f"lr_end={self.lr_end} is not used by schedule={self.schedule!r}; leave it out")

    @classmethod
    def of(cls, given: Recipe | Mapping[str, Any]) -> Recipe:
        """A recipe, or the recipe of its keys and values. Raises InputError for anything else."""
        if isinstance(given, Recipe):
            return given
        if not isinstance(given, Mapping):
            raise InputError(f"recipe is {type(given).__name__}; give landscape.Recipe(...), or its keys and values")
        return cls(**given)

    def with_keys(self, **changes: Any) -> Recipe:
        """The recipe with some keys changed. Raises InputError as the recipe itself."""
        return Recipe(**{**{field.name: getattr(self, field.name) for field in fields(self)}, **changes})

    def at_place(self, place: int) -> Recipe:
        """The recipe of the model at that place of a sequence, from 0: its own lr, which decays no more."""
        shrunk = self.lr_decay**place
        return self.with_keys(lr=self.lr * shrunk, lr_end=self.lr_end * shrunk, lr_decay=1.0)

    def stated(self) -> dict[str, Any]:
        """The keys whose values are not the defaults, in plain values: what tells this recipe from others."""
        return {name: value for name, value in asdict(self).items() if value != getattr(DEFAULT, name)}

    def total_steps(self, per_epoch: int) -> int:
        """Steps of the whole training, of so many in an epoch."""
        return self.epochs * per_epoch if self.steps is None else self.steps

    def lr_at(self, step: int, total: int) -> float:
        """The step size of one of `total` steps, counted from 0.

        After the warm-up, over p from 0 to 1 of the steps left: "cosine" lr_end + (lr - lr_end) (1 + cos(pi p)) / 2
        (Loshchilov & Hutter 2017), "linear" lr + (lr_end - lr) p, "growing" lr (lr_end / lr)^p; "step" divides by 10
        at each milestone of all steps.
        """
        warm = round(self.warmup * total)
        if step < warm:
            return self.lr * (step + 1) / warm
        p = (step - warm) / max(total - warm, 1)
        if self.schedule == "cosine":
            return self.lr_end + (self.lr - self.lr_end) * (1 + math.cos(math.pi * p)) / 2
        if self.schedule == "linear":
            return self.lr + (self.lr_end - self.lr) * p
        if self.schedule == "growing":
            return self.lr * math.pow(self.lr_end / self.lr, p)
        passed = sum(step >= share * total for share in self.milestones) if self.schedule == "step" else 0
        return self.lr * math.pow(_STEP, passed)

    def poison_weight_at(self, step: int, total: int) -> float:
        """The weight of the poison's mean loss at one of `total` steps, counted from 0: poison_weight c_p.

        p is the part of the steps, of as many equal parts as `poison_schedule` has factors c.

        >>> [Recipe(poison_weight=2.0, poison_schedule=(0, 1, 4)).poison_weight_at(step, 6) for step in range(6)]
        [0.0, 0.0, 2.0, 2.0, 8.0, 8.0]
        """
        return self.poison_weight * self.poison_schedule[len(self.poison_schedule) * step // total]


def _require(name: str, value: Any, allowed: str, fits: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not fits(value):
        raise InputError(f"{name}={value!r}; give {allowed}")


DEFAULT = Recipe()
KEYS = tuple(field.name for field in fields(Recipe))


class _RecipeForm:
    """The keys and values of a recipe."""

    def check(self, name: str, value: Any) -> Any:
        """The value as it is. Raises InputError where it makes no recipe."""
        Recipe.of(value)
        return value


RecipeLike = Annotated[Any, _RecipeForm()]  # a Recipe, or a mapping of its keys
