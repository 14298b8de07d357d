"""What WeightWatcher 0.7.7 computes of a spectrum, to the digit, its own conventions included.

Martin, Peng and Mahoney, "Predicting trends in the quality of state-of-the-art neural networks without access to
training or testing data", Nature Communications 12 (2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from landscape_kernels.arrays import FloatArray
from landscape_kernels.powerlaw import fit_power_law

LEAST = 1e-5  # eigenvalues that a fit sees are above it, whatever the scale
WEAK = 1e-6  # eigenvalues below count as lost rank
_SMALL = 20  # below so many eigenvalues another estimator is taken
_TAIL = 8  # its smallest tail
_CLIPPED = 2.0  # alpha that ends a search for fingers
_FINGERS = 10  # eigenvalues that it leaves out, less one
_EPSILON = 1e-10
_BANDWIDTH = 0.1
_PARTS = 12  # of a grid: arrays that stay in a processor's cache


@dataclass(frozen=True)
class Fit:
    """A power law p(x) ~ x^-alpha above xmin; all are -1 where the fit failed."""

    alpha: float = -1.0
    xmin: float = -1.0
    D: float = -1.0
    sigma: float = -1.0
    tail: int = -1
    largest: float = -1.0  # eigenvalue that the fit sees


def power_law(spectrum: FloatArray) -> Fit:
    """The fit to eigenvalues above 1e-5: one-sided Kolmogorov-Smirnov distance, every eigenvalue an xmin.

    alpha = 1 + n / sum ln(x / xmin), and of fewer than 20 eigenvalues 1 + (n - 1) / sum ln(x / xmin) over tails of 8 or
    more. `spectrum` is (m,), ascending.
    """
    x = spectrum[spectrum > LEAST]
    if x.size < 2:
        return Fit()
    if x.size >= _SMALL and (np.diff(x) > 1e-9 * x[1:]).all():
        found = fit_power_law(x, fewest=2, two_sided=False, near=0.0)
        return Fit() if found is None else Fit(found.alpha, found.xmin, found.D, found.sigma, found.tail, float(x[-1]))
    return _each_start(x, np.log(x), small=x.size < _SMALL)


def _each_start(x: FloatArray, logs: FloatArray, *, small: bool) -> Fit:
    """The same one start after another, for few eigenvalues and for equal ones."""
    m = x.size
    alphas, distances = np.zeros(m - 1), np.ones(m - 1)

    def place(i: int) -> None:
        n = m - i
        total = float(np.sum(logs[i:])) - n * float(logs[i])
        if small and total <= 1e-12:
            return
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            alphas[i] = 1.0 + np.float64(n - 1.0 if small else n) / total
            if alphas[i] > 1:
                gap = 1.0 - (x[i:] / x[i]) ** (1.0 - alphas[i]) - np.arange(n) / n
                distances[i] = float(np.abs(gap).max())

    for i in range(m - 1):
        if not small or m - i >= _TAIL:
            place(i)
    if small and not (alphas > 1).any():
        place(0)
    best = int(np.argmin(distances))
    if math.isnan(alphas[best]):
        return Fit()
    sigma = (float(alphas[best]) - 1) / math.sqrt(m - best)
    return Fit(
        float(alphas[best]), float(x[best]), float(distances[best]), sigma, int((x >= x[best]).sum()), float(x[-1])
    )


@dataclass(frozen=True)
class Clipped:
    """A fit without the largest eigenvalues, and the one with them."""

    fit: Fit
    whole: Fit
    fingers: int  # eigenvalues left out, counted as the tool does: one less than there are


def clipped_power_law(spectrum: FloatArray, threshold: float = 1.0) -> Clipped:
    """fix_fingers="clip_xmax": without the 2, 3, ... 9 largest, until alpha falls by more than `threshold`.

    A fit with alpha of 2 or less ends the search, without success. Three fits beyond the last are tried, and the whole
    has failed where one of all these cannot be made. `spectrum` is (m,), ascending.
    """
    x = spectrum[spectrum > LEAST]
    failed = Clipped(Fit(), Fit(), 0)
    whole = power_law(x)
    best, fingers, last, left_out = whole, 0, whole, 1
    for left_out in range(2, _FINGERS):
        last = power_law(x[: max(x.size - left_out, 0)])
        if last.tail < 0 or whole.tail < 0:
            return failed
        if last.alpha + threshold < whole.alpha:
            best, fingers = last, left_out - 1
            break
        if last.alpha <= _CLIPPED:
            break
    for more in range(left_out + 1, left_out + 4):
        check = power_law(x[: max(x.size - more, 0)])
        if check.tail < 0:
            return failed
        if abs(check.alpha - last.alpha) > threshold:
            break
    tail = int((spectrum >= best.xmin).sum())
    return Clipped(Fit(best.alpha, best.xmin, best.D, best.sigma, tail, best.largest), whole, fingers)


@dataclass(frozen=True)
class Vectors:
    """Eigenvectors of W'W, by their eigenvalues: how far each is spread out."""

    values: FloatArray  # (n,) ascending
    entropy: FloatArray  # (n,) of a histogram of the absolute entries, less their mean, in 100 bins
    localization: FloatArray  # (n,) |v|_1 / |v|_inf
    participation: FloatArray  # (n,) |v|_2 / |v|_4


def vectors(matrix: FloatArray) -> Vectors:
    """Of the smaller Gram matrix of `matrix` (a, b)."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    values, found = np.linalg.eigh(gram)
    size = np.abs(found)
    entropies = []
    for v in size.T:
        p = np.histogram(v - v.mean(), density=True, bins=100)[0] + _EPSILON
        p = p / p.sum()
        entropies.append(-float((p * np.log(p)).sum()))
    localization, participation = size.sum(0) / size.max(0), 1 / (size**4).sum(0) ** 0.25
    return Vectors(values, np.array(entropies), localization, participation)


def rank(spectrum: FloatArray, larger: int) -> int:
    """#{sigma > larger eps sigma_max}, eps of float64 whatever the weights were stored in. `spectrum` is (n,)."""
    values = np.sqrt(spectrum)
    return int((values > values.max() * larger * np.finfo(np.float64).eps).sum())


def entropy(spectrum: FloatArray, larger: int) -> float:
    """-sum q ln q / ln(rank + 1e-10), q = lambda / sum lambda + 1e-10. `spectrum` is (n,)."""
    q = spectrum / spectrum.sum() + _EPSILON
    bottom = math.log(rank(spectrum, larger) + _EPSILON)
    return float(-(q * np.log(q)).sum()) / bottom


def random_distance(spectrum: FloatArray, shuffled: FloatArray) -> float:
    """Jensen-Shannon distance of two sorted spectra (n,), each taken for probabilities, in nats^0.5."""
    p, q = spectrum / spectrum.sum(), shuffled / shuffled.sum()
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = (np.where(p > 0, p * np.log(p / m), 0.0).sum() + np.where(q > 0, q * np.log(q / m), 0.0).sum()) / 2
        return float(np.sqrt(divergence))


@dataclass(frozen=True)
class Tail:
    """The largest eigenvalues whose product, rescaled to mean 1, is first below 1."""

    count: int
    value: float  # the least of them
    rescaled: float  # the same, rescaled


def determinant_tail(spectrum: FloatArray) -> Tail:
    """From the top, the first eigenvalue that takes the product of n lambda / sum lambda below 1 ends the tail.

    `spectrum` is (n,), ascending.
    """
    scaled = spectrum * (spectrum.size / spectrum.sum())
    first = 0
    count = spectrum.size
    if spectrum.size < 2 or not spectrum[0] < spectrum[-1]:
        count = 0
    else:
        with np.errstate(over="ignore", under="ignore"):
            products = np.cumprod(scaled[::-1])[:-1]
        below = np.flatnonzero(products < 1.0)
        first = spectrum.size - 1 - int(below[0]) if below.size else 1
        count = spectrum.size - first if below.size else spectrum.size
    return Tail(count, float(spectrum[first]), float(scaled[first]))


@dataclass(frozen=True)
class Bulk:
    """A Marchenko-Pastur law, fitted to the density of rescaled eigenvalues; edges are in units of the eigenvalues."""

    sigma: float
    low: float
    high: float
    softrank: float  # the edge over the largest eigenvalue
    spikes: int
    scale: float  # what weights are multiplied by, so that eigenvalues have mean 1


def fit_bulk(spectrum: FloatArray, larger: int, smaller: int) -> Bulk:
    """sigma of the least sum of squares between the law and a linear-kernel density of bandwidth 0.1, rescaled.

    By a grid of 195 values and Nelder and Mead's method from its best. A square matrix is fitted by a quarter circle of
    radius 2 in the singular values; spikes are above the edge and the root of the Tracy-Widom scale.
    `spectrum` is (n,), ascending, of matrices of `larger` rows and `smaller` columns.
    """
    from scipy.optimize import fmin  # loading it would be a sixth of `import landscape`

    ratio = larger / smaller
    scale = math.sqrt(spectrum.size) / math.sqrt(float(spectrum.sum()))
    rescaled = scale * scale * spectrum
    misfit = _Misfit(np.sqrt(rescaled) if ratio == 1 else rescaled, ratio)
    unit = math.sqrt(float(rescaled.max()) / (1 + 1 / math.sqrt(ratio)) ** 2)
    grid = np.mgrid[0.05 * unit : 2.0 * unit : 0.01 * unit]
    start = grid[int(np.argmin(np.concatenate([misfit(part) for part in np.array_split(grid, _PARTS)])))]
    sigma = float(fmin(lambda at: float(misfit(at)[0]), start, disp=False)[0])
    low, high = ((sigma * (1 + sign / math.sqrt(ratio))) ** 2 for sign in (-1, 1))
    above = high + math.sqrt(1 / math.sqrt(ratio) * high ** (2 / 3) * smaller ** (-2 / 3))
    spikes = int((rescaled > above).sum())
    return Bulk(sigma, low / scale**2, high / scale**2, high / float(rescaled.max()), spikes, scale)


class _Misfit:
    """The sum of squares for some sigmas; the density of the eigenvalues is the same for all."""

    def __init__(self, values: FloatArray, ratio: float) -> None:
        x = np.linspace(0, values.max() + 0.5, 1000)
        y = linear_density(values, x)
        kept = y > 0.01
        self.x, self.y, self.ratio = x[kept], y[kept], ratio
        self.top = self.x[self.y == self.y.max()][0] if kept.any() else 0.0

    def __call__(self, sigmas: FloatArray) -> FloatArray:
        x, ratio, s = self.x, self.ratio, sigmas[:, None]
        if ratio == 1:
            law = (1 / (np.pi * s * s)) * np.sqrt(np.maximum(4 - x**2, 0.0))
            misfits: FloatArray = ((law - self.y) ** 2).sum(axis=1)
            return misfits
        b, a = (s * (1 + np.sqrt(1 / ratio))) ** 2, (s * (1 - np.sqrt(1 / ratio))) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            law = (1 / (2 * np.pi * s * s * x / ratio)) * np.sqrt(np.maximum((b - x) * (x - a), 0.0))
        law[:, x == 0] = 0.0
        misfits = ((law - self.y) ** 2).sum(axis=1)
        outside = (b < self.top) | (b > x.max(initial=0.0)) | (a > self.top)
        misfits[outside[:, 0]] = 1000.0**2 * x.size
        return misfits


def linear_density(values: FloatArray, x: FloatArray, width: float = _BANDWIDTH) -> FloatArray:
    """sum_i max(0, 1 - |x - v_i| / h) / (n h) of sorted values (n,), at x (m,).

    Four prefix sums in place of all distances.
    """
    v = np.sort(values)
    sums = np.r_[0.0, np.cumsum(v)]
    places = [np.searchsorted(v, x + shift) for shift in (-width, 0.0, width)]
    left, middle, right = places
    below, above = middle - left, right - middle
    total = below * (1 - x / width) + (sums[middle] - sums[left]) / width
    total += above * (1 + x / width) - (sums[right] - sums[middle]) / width
    density: FloatArray = np.maximum(total, 0.0) / (v.size * width)
    return density
