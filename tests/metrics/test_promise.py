"""What may be promised, against simulations, brute force and numbers from tables."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from mvtec_ad import metrics
from mvtec_ad.errors import DataError, SettingsError

LINES = 1000


@pytest.fixture(scope="module")
def realised_rates() -> np.ndarray:
    """True false-alarm rates of thresholds calibrated at 5 % on 209 log-normal scores, a line each."""
    rng = np.random.default_rng(0)
    thresholds = [metrics.calibrated(np.exp(rng.normal(size=209)), 0.05) for _ in range(LINES)]
    return stats.lognorm.sf(thresholds, 1)


def test_the_realised_rate_falls_into_the_printed_range(realised_rates: np.ndarray) -> None:
    """In 95 % of 1,000 simulated lines, up to what a binomial count of as many allows (99.9 %)."""
    low, high = metrics.true_rate_interval(209, 0.05)
    inside = ((realised_rates >= low) & (realised_rates <= high)).sum()
    assert stats.binom.ppf(0.0005, LINES, 0.95) <= inside <= stats.binom.ppf(0.9995, LINES, 0.95)
    assert stats.kstest(realised_rates, metrics.true_rate(209, 0.05).cdf).pvalue > 0.001


def test_alarms_among_coming_images_are_predicted(realised_rates: np.ndarray) -> None:
    """Counts of simulated lines lie in the predicted range at least as often as it says, and it is no wider than that
    takes: a narrower one would hold fewer."""
    alarms = np.random.default_rng(1).binomial(200, realised_rates)
    predicted = metrics.alarms_among(209, 0.05, 200)
    low, high = predicted.interval(0.95)
    assert ((alarms >= low) & (alarms <= high)).mean() > stats.binom.ppf(0.0005, LINES, 0.95) / LINES
    assert predicted.cdf(low - 1) < 0.025 <= predicted.cdf(low)
    assert predicted.mean() == pytest.approx(200 * 10 / 210)


@pytest.mark.parametrize(("largest", "count"), [(0.05, 59), (0.01, 299), (0.1, 29), (0.5, 5)])
def test_images_to_vouch_are_those_of_the_tables(largest: float, count: int) -> None:
    """First-order sample sizes of Wilks at 95 %; one image less does not vouch."""
    assert metrics.images_to_vouch(largest) == count
    assert 1 - (1 - largest) ** count >= 0.95 > 1 - (1 - largest) ** (count - 1)
    assert metrics.images_to_vouch(0.5, confidence=0.75) == 2  # exactly, and a logarithm must not round it up


@pytest.mark.parametrize("ties", [False, True])
def test_the_permutation_test_counts_every_way(ties: bool) -> None:
    """Against all ways to choose the new ones out of ten images."""
    rng = np.random.default_rng(2)
    scores = rng.normal(size=10)
    scores[:4] += 1
    scores = np.round(2 * scores) if ties else scores
    ranks, statistic = stats.rankdata(scores), []
    for chosen in combinations(range(10), 4):
        statistic.append(ranks[list(chosen)].sum() - 4 * 5.5)
    tails = [np.mean(sign * np.array(statistic) >= sign * statistic[0] - 1e-9) for sign in (1, -1)]
    result = metrics.same_as_before(scores[4:], scores[:4])
    assert result["p"] == pytest.approx(min(1, 2 * min(tails)), rel=1e-12)
    pairs = np.sign(scores[:4, None] - scores[None, 4:])
    assert result["higher"] == pytest.approx((pairs.mean() + 1) / 2)


def test_many_images_are_permuted_at_random() -> None:
    """Where scipy's count would take minutes and end in nan: near the normal approximation."""
    rng = np.random.default_rng(3)
    old, new = rng.normal(size=900), rng.normal(0.15, size=300)
    expected = stats.mannwhitneyu(new, old, method="asymptotic").pvalue
    assert metrics.same_as_before(old, new)["p"] == pytest.approx(expected, abs=0.01)


def test_the_permutation_test_keeps_its_level() -> None:
    """Of 200 pairs of samples that are alike, with and without ties, at most as many are refused as chance allows."""
    rng = np.random.default_rng(4)
    samples = [np.round(rng.normal(size=40), 1 + 9 * (number % 8 > 0)) for number in range(200)]
    refused = sum(metrics.same_as_before(sample[:30], sample[30:])["p"] <= 0.05 for sample in samples)
    assert refused <= stats.binom.ppf(0.999, 200, 0.05)
    assert metrics.same_as_before(np.arange(30.0), np.arange(10) + 25.0)["p"] < 0.001


def test_what_cannot_be_promised_is_refused() -> None:
    """In one line each."""
    with pytest.raises(DataError, match="at least 99"):
        metrics.true_rate_interval(98, 0.01)
    with pytest.raises(SettingsError, match="confidence"):
        metrics.true_rate_interval(209, 0.05, confidence=1)
    with pytest.raises(SettingsError, match="largest rate"):
        metrics.images_to_vouch(0)
    with pytest.raises(SettingsError, match="1 or more"):
        metrics.alarms_among(209, 0.05, 0)
    with pytest.raises(DataError, match="scores must be"):
        metrics.same_as_before([], [1.0])
