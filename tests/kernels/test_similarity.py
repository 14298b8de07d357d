"""Similarity of representations against formulas written out, scipy, and identities that hold exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from landscape_kernels.similarity import (
    SMALLEST_CHUNK,
    comoments,
    hsic_unbiased,
    jackknife,
    jensen_shannon,
    linear_cka,
    merged,
    normalised,
    squared_norms,
    without,
)
from landscape_kernels.similarity import linear_cka_gram as cka_gram
from scipy.spatial.distance import jensenshannon

PAIRS = [(0, 0), (1, 1), (2, 2), (0, 1), (2, 0)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal values."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def related(n: int, d: int) -> torch.Tensor:
    """Three representations (3, n, d) that have something in common and an offset each."""
    shared = draw(n, d)
    return torch.stack([shared + k * draw(n, d, seed=k + 1) + 3 * k for k in range(3)])


def naive_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, eq. 5, with loops."""
    n = len(x)
    k = [[0.0 if a == b else float(x[a] @ x[b]) for b in range(n)] for a in range(n)]
    l = [[0.0 if a == b else float(y[a] @ y[b]) for b in range(n)] for a in range(n)]  # noqa: E741
    trace = sum(k[a][b] * l[b][a] for a in range(n) for b in range(n))
    totals = sum(map(sum, k)) * sum(map(sum, l))
    across = sum(sum(k[c][a] for c in range(n)) * sum(l[a]) for a in range(n))
    return (trace + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * across) / (n * (n - 3))


# -- linear CKA -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "e"), [(50, 7, 4), (9, 30, 21), (20, 20, 1)])
def test_feature_form_is_gram_form(n: int, d: int, e: int) -> None:
    x, y = draw(n, d), torch.cat([draw(n, d)[:, :1], draw(n, e - 1, seed=1)], 1)
    centre = np.eye(n) - 1 / n
    k, l = (centre @ (m @ m.T).numpy() @ centre for m in (x, y))  # noqa: E741
    naive = np.trace(k @ l) / math.sqrt(np.trace(k @ k) * np.trace(l @ l))
    assert 0.01 < naive < 0.99
    assert linear_cka(x, y) == pytest.approx(naive, rel=1e-12)
    assert cka_gram(x, y) == pytest.approx(linear_cka(x, y), rel=1e-12)


def test_rotation_scale_and_offset_change_nothing() -> None:
    x = draw(40, 6)
    rotation = torch.linalg.qr(draw(6, 6, seed=1)).Q
    moved = 2.5 * x @ rotation + draw(6, seed=2)
    assert linear_cka(x, x) == pytest.approx(1, rel=1e-14)
    assert linear_cka(x, moved) == pytest.approx(1, rel=1e-13)
    assert cka_gram(x, moved) == pytest.approx(1, rel=1e-13)
    assert linear_cka(x, x @ draw(6, 6, seed=3)) < 0.95  # other linear maps do


# -- sums over chunks -------------------------------------------------------------------------------------------------


def test_chunks_add_up_to_the_whole() -> None:
    x = related(57, 5)
    parts = [comoments(part, PAIRS) for part in x.split([20, 1, 30, 6], dim=1)]
    total = parts[0]
    for part in parts[1:]:
        total = merged(total, part, PAIRS)
    whole = comoments(x, PAIRS)
    assert total.samples == whole.samples == 57
    np.testing.assert_allclose(total.mean, x.mean(1).numpy(), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(total.products, whole.products, rtol=1e-12, atol=1e-12)
    found = normalised(squared_norms(total.products), PAIRS)
    np.testing.assert_allclose(found, [linear_cka(x[0], x[1]), linear_cka(x[2], x[0])], rtol=1e-12)


def test_a_chunk_is_taken_out_again() -> None:
    x = related(57, 5)
    first, second = (comoments(part, PAIRS) for part in x.split([40, 17], dim=1))
    left = without(merged(first, second, PAIRS), second, PAIRS)
    assert left.samples == first.samples
    np.testing.assert_allclose(left.mean, first.mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(left.products, first.products, rtol=1e-11, atol=1e-11)


def test_large_offsets_lose_no_digits() -> None:
    """Sums of squares less the squared mean would have lost all digits but four."""
    x = related(64, 3)
    near, far = (
        merged(*(comoments(part, PAIRS) for part in (x + offset).split(32, dim=1)), PAIRS) for offset in (0.0, 1e6)
    )
    # The offset itself rounds x to 1e6 eps = 2e-10.
    np.testing.assert_allclose(far.products, near.products, atol=64 * 10 * 1e6 * 2.3e-16)


def test_normalised_keeps_the_order_of_the_pairs() -> None:
    hsic = np.array([[4.0, 9.0, 16.0, 3.0, 2.0]])
    np.testing.assert_allclose(normalised(hsic, PAIRS), [[3 / 6, 2 / 8]])
    assert np.isnan(normalised(np.array([0.0, 1.0, -1.0, 0.0, 1.0]), PAIRS)).all()


# -- unbiased HSIC ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(4, 9), (6, 6), (13, 2)])
def test_hsic_is_the_formula(n: int, d: int) -> None:
    x = related(n, d)
    expected = [naive_hsic((x[i] - x[i].mean(0)).numpy(), (x[j] - x[j].mean(0)).numpy()) for i, j in PAIRS]
    np.testing.assert_allclose(hsic_unbiased(x, PAIRS), expected, rtol=1e-10, atol=1e-12)
    raw = [naive_hsic(x[i].numpy(), x[j].numpy()) for i, j in PAIRS]  # offsets change nothing
    np.testing.assert_allclose(hsic_unbiased(x, PAIRS), raw, rtol=1e-9, atol=1e-9)


def test_both_forms_of_hsic_agree() -> None:
    """Columns of zeros change no product, but the form: n <= d takes Gram matrices."""
    x = related(12, 5)
    wide = torch.cat([x, torch.zeros(3, 12, 20, dtype=x.dtype)], 2)
    np.testing.assert_allclose(hsic_unbiased(wide, PAIRS), hsic_unbiased(x, PAIRS), rtol=1e-12, atol=1e-12)


def test_mean_over_all_minibatches_is_the_value_of_all_samples() -> None:
    """HSIC_1 is a U-statistic of order 4: its mean over all subsets of 4 or more samples is its value on all."""
    x = related(8, 3)
    whole = hsic_unbiased(x, PAIRS)
    for size in (4, 5, 7):
        chosen = [hsic_unbiased(x[:, list(rows)], PAIRS) for rows in itertools.combinations(range(8), size)]
        np.testing.assert_allclose(np.mean(chosen, axis=0), whole, rtol=1e-11, atol=1e-12)


def test_independent_representations_have_none() -> None:
    pairs = [(0, 0), (1, 1), (0, 1)]
    draws = np.array([hsic_unbiased(draw(2, 10, 4, seed=k), pairs) for k in range(2000)])
    mean, stderr = draws.mean(0), draws.std(0) / math.sqrt(len(draws))
    assert abs(mean[2]) < 3 * stderr[2]
    # E[HSIC_1(X, X)] with a linear kernel is |cov|_F^2 = 4 for 4 standard normal features
    assert abs(mean[0] - 4) < 3 * stderr[0]
    biased = [float(squared_norms(comoments(draw(2, 10, 4, seed=k), pairs).products)[2]) / 81 for k in range(100)]
    assert np.mean(biased) > 1


def test_three_samples_are_too_few() -> None:
    with pytest.raises(ValueError, match="needs 4 samples or more, not 3"):
        hsic_unbiased(related(SMALLEST_CHUNK - 1, 2), PAIRS)
    assert hsic_unbiased(related(SMALLEST_CHUNK, 2), PAIRS).shape == (5,)


# -- Jensen-Shannon distance ------------------------------------------------------------------------------------------


def test_jensen_shannon_is_scipys() -> None:
    first, second = 3 * draw(50, 10), 3 * draw(50, 10, seed=1)
    p, q = first.softmax(1).numpy(), second.softmax(1).numpy()
    np.testing.assert_allclose(jensen_shannon(first, second).numpy(), jensenshannon(p, q, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(jensen_shannon(second, first).numpy(), jensen_shannon(first, second).numpy())


def test_close_distributions_keep_their_digits() -> None:
    """JS = sum (p - q)^2 / p / 8 to second order; as a difference of entropies it would be rounding alone."""
    scores = draw(5)
    step = 1e-9 * draw(5, seed=1)
    p = scores.softmax(0)
    change = p * (step - (p * step).sum())
    expected = float((change.square() / p).sum() / 8) ** 0.5
    # scores + step rounds to eps, 2e-16 / 1e-9 of the step
    assert float(jensen_shannon(scores, scores + step)) == pytest.approx(expected, rel=1e-6)
    assert float(jensen_shannon(scores, scores)) == 0


def test_distributions_that_share_nothing() -> None:
    first, second = torch.tensor([0.0, -math.inf, -math.inf]), torch.tensor([-math.inf, 0.0, -math.inf])
    assert float(jensen_shannon(first, second)) == pytest.approx(math.sqrt(math.log(2)), rel=1e-14)
    far = torch.tensor([1e5, 0.0, 0.0]), torch.tensor([0.0, 1e5, 0.0])
    assert float(jensen_shannon(*far)) == pytest.approx(math.sqrt(math.log(2)), rel=1e-14)
    assert math.isnan(float(jensen_shannon(first, torch.tensor([math.nan, 0.0, 0.0]))))


# -- errors -----------------------------------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal((30, 3))
    left = (values.sum(0) - values) / 29
    np.testing.assert_allclose(jackknife(left), values.std(0, ddof=1) / math.sqrt(30), rtol=1e-12)
    assert np.isnan(jackknife(left[:1])).all()
