"""What values of a job file may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from landscape.errors import InputError, nearest

_CALLABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _callable_name(value: str) -> str:
    if not _CALLABLE.fullmatch(value):
        raise InputError("is not of the form 'package.module:callable'")
    return value


def truth_or_names(value: Any) -> Any:
    """True or false, or names as a tuple."""
    names = _listed(value)
    if isinstance(value, bool) or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return value if isinstance(value, bool) else tuple(names)
    raise InputError("give true, false, a name or a list of names")


def count_or_callable(value: Any) -> Any:
    """A whole number from 1 on, or the name of a callable."""
    if isinstance(value, str):
        return _callable_name(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError("is neither a whole number from 1 on nor of the form 'package.module:callable'")
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


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _named(value: Any) -> Any:
    if value == "":
        raise InputError("no path is given; name a file or folder")
    return value


# Numbers and truths are those of TOML: no texts of them, no true for 1.
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Truth = Annotated[bool, Field(strict=True)]
FilePath = Annotated[Path, BeforeValidator(_named)]
CallableName = Annotated[str, AfterValidator(_callable_name)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_listed)]


def called(constraint: Any) -> Any:
    """One of the constraints of settings, as pydantic takes it."""
    check: Callable[[str, Any], Any] | None = getattr(constraint, "check", None)
    if check is None:
        return constraint  # of annotated_types, which pydantic knows

    def validate(value: Any, info: ValidationInfo) -> Any:
        return check(str(info.field_name), value)

    return AfterValidator(validate) if getattr(constraint, "after", False) else BeforeValidator(validate)


class JobTable(BaseModel):
    """A table of a job file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
