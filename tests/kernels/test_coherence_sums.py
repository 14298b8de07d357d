"""Alpha and its error from sums over blocks, against all pairs, resamples and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from landscape_kernels.coherence import alpha_and_error, alpha_of_batches, coherence_bound

EPS = np.finfo(np.float64).eps


def by_blocks(g: np.ndarray, blocks: int, strata: np.ndarray | None = None) -> tuple[float, float]:
    """Alpha and its error of gradients (m, P) in so many blocks."""
    parts = np.array_split(np.arange(len(g)), blocks)
    dots = np.array([[g[part].sum(0) @ g.sum(0)] for part in parts])
    squares = np.array([[np.square(g[part]).sum()] for part in parts])
    counts = np.array([float(len(part)) for part in parts])
    alpha, stderr = alpha_and_error(dots, squares, counts, np.zeros(blocks, int) if strata is None else strata)
    return float(alpha[0]), float(stderr[0])


def test_alpha_is_the_mean_of_all_pairs() -> None:
    g = np.random.default_rng(0).normal(size=(30, 7)) + 0.3
    pairs = (g @ g.T).mean() / np.square(g).sum(1).mean()
    for blocks in (1, 4, 30):
        assert by_blocks(g, blocks)[0] == pytest.approx(pairs, rel=1e2 * EPS)


@pytest.mark.parametrize(
    ("g", "m_coherence"),
    [(np.tile([1.0, 2.0], (6, 1)), 6), (np.array([[1.0, 2.0], [-1.0, -2.0]]), 0), (np.eye(5), 1)],
    ids=["identical", "opposite", "orthonormal"],
)
def test_known_gradients(g: np.ndarray, m_coherence: float) -> None:
    alpha, stderr = by_blocks(g, len(g))
    assert alpha * len(g) == pytest.approx(m_coherence, abs=1e2 * EPS)
    assert stderr == pytest.approx(0, abs=1e-12)


def test_properties() -> None:
    """Scaling changes nothing, zeros take their share, and vectors lie as far apart as alpha says at most."""
    g = np.random.default_rng(1).normal(size=(50, 4)) + 0.4
    alpha = by_blocks(g, 5)[0]
    assert by_blocks(3 * g, 5)[0] == pytest.approx(alpha, rel=1e2 * EPS)
    with_zeros = np.concatenate([g, np.zeros((150, 4))])
    assert by_blocks(with_zeros, 5)[0] == pytest.approx(alpha / 4, rel=1e2 * EPS)
    gaps = np.linalg.norm(g[:, None] - g[None], axis=2).mean()
    assert gaps <= np.sqrt(2 * (1 - alpha) * np.square(g).sum(1).mean())
    u, v = np.zeros((50, 8)), np.zeros((50, 8))
    u[:, :4], v[:, 4:] = g, np.random.default_rng(2).normal(size=(50, 4))
    mixed = by_blocks(np.concatenate([u, v]), 5)[0]
    assert mixed <= (alpha + by_blocks(v, 5)[0]) / 2


def test_alpha_of_batches() -> None:
    """The published number, and the means of batches drawn from a finite population."""
    assert alpha_of_batches(0.16906, 5) == pytest.approx(0.504284, abs=5e-6)
    random = np.random.default_rng(0)
    g = random.normal(size=(400, 7)) + 0.5
    alpha = by_blocks(g, 8)[0]
    means = g[random.integers(400, size=(40_000, 5))].mean(1)
    found = float((np.square(means.mean(0)).sum()) / np.square(means).sum(1).mean())
    assert found == pytest.approx(float(alpha_of_batches(alpha, 5)), abs=0.01)


@pytest.mark.parametrize("blocks", [16, 32])
def test_error_covers_what_new_samples_give(blocks: int) -> None:
    """Within two standard errors of its mean over draws in 90 to 99 % of 200 draws."""
    random = np.random.default_rng(3)
    drawn = [by_blocks(random.normal(size=(320, 6)) * random.gamma(2, size=(320, 1)) + 0.6, blocks) for _ in range(200)]
    values, errors = np.array(drawn).T
    covered = np.abs(values - values.mean()) <= 2 * errors
    assert 0.90 <= covered.mean() <= 0.99
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_error_is_that_of_bootstrap_resamples() -> None:
    random = np.random.default_rng(4)
    g = random.normal(size=(200, 5)) + 0.5
    resampled = [by_blocks(g[random.integers(200, size=200)], 1)[0] for _ in range(2000)]
    assert by_blocks(g, 200)[1] == pytest.approx(np.std(resampled), rel=0.1)


def test_blocks_of_one_kind_each_tell_the_error_of_samples_as_they_come() -> None:
    """A kind of gradients that agree and one of noise: how many of a draw are of each scatters, too."""
    random = np.random.default_rng(5)

    def draw() -> tuple[np.ndarray, int]:
        agree = int(random.binomial(190, 0.4))
        first, second = 0.1 * random.normal(size=(agree, 3)) + [2, 0, 0], random.normal(size=(190 - agree, 3))
        return np.concatenate([first, second]), agree

    drawn = []
    for _ in range(200):
        g, agree = draw()
        parts = [*np.array_split(np.arange(agree), 9), *np.array_split(np.arange(agree, 190), 16)]
        dots = np.array([[g[part].sum(0) @ g.sum(0)] for part in parts])
        squares = np.array([[np.square(g[part]).sum()] for part in parts])
        counts = np.array([float(len(part)) for part in parts])
        alpha, stderr = alpha_and_error(dots, squares, counts, np.repeat([0, 1], [9, 16]))
        drawn.append((float(alpha[0]), float(stderr[0])))
    values, errors = np.array(drawn).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.1)
    assert 0.90 <= (np.abs(values - values.mean()) <= 2 * errors).mean() <= 0.99
    mixed = by_blocks(random.permutation(g), 190)[1]
    assert errors[-1] == pytest.approx(mixed, rel=0.15)


def test_undefined_and_unknown() -> None:
    with np.errstate(all="raise"):
        assert np.isnan(by_blocks(np.zeros((6, 2)), 3)).all()
    assert np.isnan(by_blocks(np.ones((6, 2)), 1)[1])
    g = np.random.default_rng(6).normal(size=(9, 2)) + 1
    alone = by_blocks(g, 3, np.array([0, 0, 1]))[1]  # one block of its kind counts with the others
    assert alone == by_blocks(g, 3, np.array([0, 0, 0]))[1]
    assert by_blocks(g, 3, np.array([0, 1, 2]))[1] == alone


def test_bound_is_the_sum_of_the_theorem() -> None:
    alpha, lr = np.array([0.9, 0.5, 0.2, 1.0]), np.array([0.1, 0.2, 0.1, 0.3])
    beta, lipschitz, m = 2.0, 1.5, 40
    for last in range(1, 5):
        terms = [np.prod(1 + lr[t + 1 : last] * beta) * lr[t] * np.sqrt(2 * (1 - alpha[t])) for t in range(last)]
        found = coherence_bound(alpha, lr, m, lipschitz=lipschitz, smoothness=beta)[last - 1]
        assert found == pytest.approx(lipschitz**2 / m * sum(terms), rel=1e2 * EPS)
