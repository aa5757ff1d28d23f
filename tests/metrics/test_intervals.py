"""Resampled metrics against scikit-learn, closed intervals against scipy, coverage by simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import (
    false_alarms_at,
    false_alarms_interval,
    image_auroc,
    interval,
    newcombe,
    paired_difference,
    resample_weights,
    resampled_ranking,
    verdict,
    wilson,
)

GENERATOR = np.random.default_rng(0)
LABELS = np.repeat([0, 1], [20, 63])
SCORES = GENERATOR.normal(size=83) + 1.5 * LABELS


def test_weights_keep_the_size_of_both_classes_and_come_from_the_seed():
    weights = resample_weights(LABELS, 200)
    assert weights.shape == (200, 83)
    assert (weights[:, LABELS == 0].sum(axis=1) == 20).all()
    assert (weights[:, LABELS == 1].sum(axis=1) == 63).all()
    np.testing.assert_array_equal(weights, resample_weights(LABELS, 200, seed=0))
    assert (weights != resample_weights(LABELS, 200, seed=1)).any()
    # An image is left out of a resample with probability (1 − 1/n)^n.
    assert (weights[:, LABELS == 1] == 0).mean() == pytest.approx((1 - 1 / 63) ** 63, abs=0.01)


@pytest.mark.parametrize("decimals", [0, 12])
def test_resampled_metrics_equal_scikit_learn_with_sample_weights(decimals):
    scores = np.round(SCORES, decimals)
    weights = resample_weights(LABELS, 4)
    resampled = resampled_ranking(LABELS, scores, weights)
    for row, weight in enumerate(weights):
        auroc = roc_auc_score(LABELS, scores, sample_weight=weight)
        ap = average_precision_score(LABELS, scores, sample_weight=weight)
        thresholds = [scores.min() - 1, *np.unique(scores)[:-1]]
        f1 = max(f1_score(LABELS, scores > threshold, sample_weight=weight) for threshold in thresholds)
        assert resampled["image_auroc"][row] == pytest.approx(auroc, abs=1e-12)
        assert resampled["image_ap"][row] == pytest.approx(ap, abs=1e-12)
        assert resampled["f1_max"][row] == pytest.approx(f1, abs=1e-12)
        repeated = false_alarms_at(np.repeat(LABELS, weight), np.repeat(scores, weight))
        assert resampled["false_alarms"][row] == pytest.approx(repeated)


def test_a_resample_without_a_class_is_nan():
    resampled = resampled_ranking([0, 1], [1.0, 2.0], [[1, 1], [2, 0], [0, 2]])
    np.testing.assert_array_equal(resampled["image_auroc"], [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(resampled["false_alarms"], [0.0, np.nan, np.nan])
    assert np.isnan(resampled["image_ap"][1])


@pytest.mark.parametrize("auroc", [0.0, 0.2, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize(("defects", "good"), [(63, 20), (1, 1), (8, 300)])
def test_newcombe_solves_its_equation_and_is_symmetric(auroc, defects, good):
    def away(theta):
        bracket = 1 + ((defects + good) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return norm.ppf(0.975) * np.sqrt(theta * (1 - theta) * bracket / (defects * good))

    low, high = newcombe(auroc, defects, good)
    assert 0 <= low <= auroc <= high <= 1
    assert low < high
    if auroc > 0:
        assert auroc - low == pytest.approx(away(low), abs=1e-9)
    if auroc < 1:
        assert high - auroc == pytest.approx(away(high), abs=1e-9)
    assert newcombe(1 - auroc, defects, good) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize("truth", [0.9, 0.97, 0.99])
def test_newcombe_covers_the_truth_about_95_times_in_100(truth):
    generator = np.random.default_rng(7)
    distance = norm.ppf(truth) * np.sqrt(2)
    trials, covered = 600, 0
    for _ in range(trials):
        scores = generator.normal(size=83) + distance * LABELS
        defect, good = scores[LABELS == 1], np.sort(scores[LABELS == 0])
        auroc = np.searchsorted(good, defect).mean() / len(good)
        low, high = newcombe(auroc, 63, 20)
        covered += low <= truth <= high
    assert 0.93 <= covered / trials <= 0.995


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (3, 5), (60, 63), (63, 63)])
def test_wilson_equals_scipy(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_interval_is_the_percentiles_and_holds_the_estimate():
    values = np.linspace(0.0, 1.0, 1001)
    assert interval(values, 0.5, units=10) == pytest.approx((0.025, 0.975))
    assert interval(values, 0.99, units=10) == pytest.approx((0.025, 0.99))
    assert interval([np.nan, *values], 0.5, units=10) == pytest.approx((0.025, 0.975))


def test_no_interval_is_a_point():
    assert interval(np.ones(100), 1.0, units=63) == wilson(1.0, 63)
    assert wilson(1.0, 63)[0] == pytest.approx(63 / (63 + 1.96**2), abs=1e-4)
    same = paired_difference(np.ones(100), np.ones(100), 1.0, 1.0, units=63)
    assert same["mean"] == 0.0
    assert same["low"] < 0 < same["high"]


def test_paired_difference_is_narrower_than_the_methods_apart_and_antisymmetric():
    weights = resample_weights(LABELS, 500)
    better = SCORES + 0.5 * LABELS  # the same noise: what is hard for one is hard for the other
    first = resampled_ranking(LABELS, better, weights)["image_auroc"]
    second = resampled_ranking(LABELS, SCORES, weights)["image_auroc"]
    estimates = image_auroc(LABELS, better), image_auroc(LABELS, SCORES)
    difference = paired_difference(first, second, *estimates, units=63)
    assert difference["mean"] == pytest.approx(estimates[0] - estimates[1])
    assert 0 < difference["low"] < difference["mean"] < difference["high"]
    low, high = interval(second, estimates[1], units=63)
    assert difference["high"] - difference["low"] < high - low
    back = paired_difference(second, first, *estimates[::-1], units=63)
    assert (back["low"], back["high"]) == pytest.approx((-difference["high"], -difference["low"]))


def test_the_interval_of_false_alarms_holds_both_of_its_parts():
    """At least as wide as Wilson's with the threshold fixed, and as the percentile bootstrap; the mean over seeds."""
    labels = np.repeat([0, 1], [20, 30])
    scores = np.random.default_rng(4).normal(size=(3, 50)) + 2 * labels
    measured = false_alarms_interval(labels, scores, resamples=500)
    values = [false_alarms_at(labels, row) for row in scores]
    assert measured["values"] == values
    assert (measured["mean"], measured["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    weights = resample_weights(labels, 500)
    drawn = np.mean([resampled_ranking(labels, row, weights)["false_alarms"] for row in scores], axis=0)
    low, high = wilson(measured["mean"], 20)
    assert measured["low"] == pytest.approx(min(low, np.quantile(drawn, 0.025)))
    assert measured["high"] == pytest.approx(max(high, np.quantile(drawn, 0.975)))
    perfect = false_alarms_interval(labels, labels[None].astype(float))  # no point: what 20 good images leave open
    assert (perfect["mean"], perfect["sd"], perfect["low"]) == (0.0, 0.0, 0.0)
    assert perfect["high"] == pytest.approx(wilson(0.0, 20)[1])


def test_what_cannot_be_is_refused():
    with pytest.raises(DataError, match=r"scores_by_seed must have shape \(seeds, images\)"):
        false_alarms_interval([0, 1], [1.0, 2.0])
    with pytest.raises(DataError, match="no interval for an AUROC"):
        newcombe(0.9, 0, 20)
    with pytest.raises(DataError, match="no interval for a share"):
        wilson(1.2, 10)
    with pytest.raises(DataError, match="the same resamples"):
        paired_difference(np.ones(3), np.ones(4), 1, 1, units=5)
    with pytest.raises(DataError, match=r"weights must have shape \(R, 83\)"):
        resampled_ranking(LABELS, SCORES, np.ones(83))
    with pytest.raises(SettingsError, match="at least 1"):
        resample_weights(LABELS, 0)


@pytest.mark.parametrize(
    ("ends", "word"),
    [((0.1, 0.2), "ahead"), ((-0.2, -0.1), "behind"), ((-0.1, 0.1), "undecided"), ((0.0, 0.1), "undecided")],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(ends: tuple[float, float], word: str) -> None:
    """An end at zero decides nothing."""
    assert verdict(*ends) == word


@pytest.mark.parametrize("ends", [(0.2, 0.1), (float("nan"), 0.1)])
def test_a_verdict_refuses_what_is_no_interval(ends: tuple[float, float]) -> None:
    """Turned around, or not a number."""
    with pytest.raises(DataError, match="an interval reaches"):
        verdict(*ends)
