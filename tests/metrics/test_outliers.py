"""Conformal p-values and false discoveries against their definitions, and against simulations with known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mvtec_ad import metrics
from mvtec_ad.errors import DataError, SettingsError


def test_p_values_equal_their_definition() -> None:
    """Count by hand, ties among them."""
    rng = np.random.default_rng(0)
    good, scores = rng.integers(0, 9, 30).astype(float), rng.integers(0, 9, 50).astype(float)
    by_hand = [(1 + sum(value >= score for value in good)) / 31 for score in scores]
    np.testing.assert_allclose(metrics.conformal_p_values(scores, good), by_hand)


def by_hand(p_values: np.ndarray, rate: float) -> np.ndarray:
    """Benjamini and Hochberg as they wrote it: the largest k with p₍ₖ₎ ≤ k·q/m."""
    order, count = np.argsort(p_values), len(p_values)
    fitting = [k for k in range(1, count + 1) if p_values[order[k - 1]] <= k * rate / count]
    discovered = np.zeros(count, bool)
    discovered[order[: max(fitting, default=0)]] = True
    return discovered


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_discoveries_equal_the_procedure(rate: float) -> None:
    """On p-values with and without small ones."""
    rng = np.random.default_rng(1)
    for share in (0, 0.1, 0.5, 1):
        p_values = np.where(rng.random(60) < share, rng.beta(0.1, 5, 60), rng.random(60))
        np.testing.assert_array_equal(metrics.discoveries(p_values, rate), by_hand(p_values, rate))


@pytest.mark.parametrize(
    ("count", "good", "rate"), [(100, 100, 0.1), (100, 99, 0.1), (5, 25, 0.1), (30, 120, 0.2), (3, 19, 0.3)]
)
def test_fewer_outliers_than_the_fewest_go_unnoticed(count: int, good: int, rate: float) -> None:
    """However odd they are; from that number on they are found."""
    fewest, reference = metrics.fewest_discoveries(count, good, rate), np.arange(good)
    for number in range(1, count + 1):
        scores = np.where(np.arange(count) < number, 1e6, -1)
        discovered = metrics.discoveries(metrics.conformal_p_values(scores, reference), rate)
        assert discovered.sum() == (number if number >= fewest else 0)


def test_conformal_p_values_keep_the_false_discovery_rate() -> None:
    """Of 800 lines with 20 % outliers: the mean share of false discoveries is q · 0.8, up to its error."""
    rng, rate, false = np.random.default_rng(2), 0.2, []
    for _ in range(800):
        good, scores = rng.lognormal(size=100), rng.lognormal(size=50)
        scores[:10] = 1e6
        discovered = metrics.discoveries(metrics.conformal_p_values(scores, good), rate)
        false.append(discovered[10:].sum() / max(1, discovered.sum()))
        assert discovered[:10].all()
    error = np.std(false) / len(false) ** 0.5
    assert rate * 0.8 - 0.03 < np.mean(false) < rate * 0.8 + 3 * error


def test_the_law_of_leave_one_out_scores_is_the_one_it_says() -> None:
    """Of Fréchet scores the p-values are uniform; of contaminated ones the large scores are discovered."""
    rng = np.random.default_rng(3)
    scores = stats.invweibull.rvs(6, scale=7, size=2000, random_state=rng)
    assert stats.kstest(metrics.leave_one_out_p_values(scores), "uniform").statistic < 0.05
    parts = scores.reshape(20, 100)  # of such few the law is known less well
    assert np.mean([metrics.discoveries(metrics.leave_one_out_p_values(part), 0.1).any() for part in parts]) < 0.4
    planted = np.concatenate([scores[:180], rng.uniform(60, 90, 20)])
    discovered = metrics.discoveries(metrics.leave_one_out_p_values(planted), 0.1)
    assert discovered[180:].all()
    assert discovered[:180].sum() <= 2


def test_the_law_is_laid_again_without_what_was_discovered() -> None:
    """Nearly a third of the scores are outliers: at first the law is too wide for some of them."""
    rng = np.random.default_rng(4)
    good = stats.invweibull.rvs(6, scale=7, size=140, random_state=rng)
    scores = np.concatenate([good, rng.uniform(12, 30, 60)])
    p_values = metrics.leave_one_out_p_values(scores)
    logarithms = np.log(scores)
    low, middle = np.quantile(logarithms, (0.1, 0.5))
    ends = stats.gumbel_r.ppf((0.1, 0.5))
    scale = (middle - low) / (ends[1] - ends[0])
    first = stats.gumbel_r.sf(logarithms, middle - scale * ends[1], scale)
    counts = [metrics.discoveries(values, 0.1)[140:].sum() for values in (first, p_values)]
    assert 0 < counts[0] < counts[1]


@pytest.mark.parametrize("scores", [[3.0] * 9, [0.0, 1.0, 2.0], [-1.0, 2.0, 3.0]])
def test_scores_without_a_law_are_no_outliers(scores: list[float]) -> None:
    """Constant ones, and those that have no logarithm."""
    np.testing.assert_array_equal(metrics.leave_one_out_p_values(scores), np.ones(len(scores)))


def test_what_is_refused() -> None:
    """In words."""
    with pytest.raises(DataError, match=r"p-values must lie in \[0, 1\]"):
        metrics.discoveries([0.5, 1.5], 0.1)
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(SettingsError, match="false-discovery rate must lie between 0 and 1"):
            metrics.discoveries([0.5], rate)
    with pytest.raises(DataError, match="finite"):
        metrics.conformal_p_values([np.nan], [1.0])
