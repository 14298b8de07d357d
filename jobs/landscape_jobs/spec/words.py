"""What values of a job file may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from landscape.errors import InputError, nearest
from landscape.planes.grid import axis_values

_CALLABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _callable_name(value: str) -> str:
    if not _CALLABLE.fullmatch(value):
        raise InputError("is not of the form 'package.module:callable'")
    return value


def named_or_callable(names: Sequence[str]) -> AfterValidator:
    """A name of these, or that of a callable."""

    def check(value: str) -> str:
        if ":" in value:
            return _callable_name(value)
        if value not in names:
            raise InputError(f"unknown; {nearest(value, names)} A callable is given as 'package.module:callable'.")
        return value

    return AfterValidator(check)


def one_of(names: Sequence[str]) -> AfterValidator:
    """One of these names."""

    def check(value: str) -> str:
        if value not in names:
            raise InputError(f"not one of {', '.join(names)}")
        return value

    return AfterValidator(check)


def _range(value: Any, info: ValidationInfo) -> Any:
    if not (isinstance(value, (list, tuple)) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)):
        raise InputError("a range is three numbers, [start, stop, n]")
    if not isinstance(value[2], int):
        raise InputError(f"n={value[2]} is not a whole number; give [start, stop, n] with n of at least 1")
    axis_values(str(info.field_name), value)
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _names(value: Any) -> Any:
    # modules of a Sequential are named by numbers
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [str(name) if type(name) is int else name for name in listed]


def _accuracy(value: float) -> float:
    if not 0 < value < 1:
        raise InputError("a relative accuracy, so a number between 0 and 1")
    return value


CallableName = Annotated[str, AfterValidator(_callable_name)]
Range = Annotated[tuple[float, float, int], BeforeValidator(_range)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Accuracy = Annotated[float, AfterValidator(_accuracy)]
Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[int, Field(strict=True, ge=1)]


class JobTable(BaseModel):
    """A table of a job file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
