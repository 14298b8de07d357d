"""What a measurement returns: frozen records, every number beside its error."""

from __future__ import annotations

from typing import Any


class Estimate(float):
    """A number with its standard error; behaves as a float.

    `stderr` is the standard error of the value as an estimate for the population the data were drawn from,
    with the `n` units (samples, batches where only batch values are known, or the groups of samples that a jackknife
    leaves out in turn) taken as independent draws; `unit` says which.
    For the data given the value is exact: every sample was used once. `stderr` is NaN where fewer than two
    units leave it unknown.

    >>> e = Estimate(0.5, stderr=0.125, n=16)
    >>> e + 1, e.stderr, e.n
    (1.5, 0.125, 16)
    """

    __slots__ = ("n", "stderr", "unit")
    stderr: float
    n: int
    unit: str

    def __new__(cls, value: float, *, stderr: float, n: int, unit: str = "sample") -> Estimate:
        self = super().__new__(cls, value)
        object.__setattr__(self, "stderr", float(stderr))
        object.__setattr__(self, "n", int(n))
        object.__setattr__(self, "unit", unit)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an Estimate is frozen; cannot set {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _estimate, (float(self), self.stderr, self.n, self.unit)

    def __repr__(self) -> str:
        return f"Estimate({float(self)!r}, stderr={self.stderr:.3g}, n={self.n})"


def _estimate(value: float, stderr: float, n: int, unit: str) -> Estimate:
    return Estimate(value, stderr=stderr, n=n, unit=unit)
