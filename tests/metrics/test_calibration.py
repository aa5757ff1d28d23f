"""Verdicts, probabilities and costs against scikit-learn, scipy, brute force and numbers by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import (
    accuracy,
    bayes_threshold,
    brier,
    calibration_error,
    confusion,
    cost_threshold,
    fit_temperature,
    mean_cost,
    per_class,
    probability,
    reliability,
)

GENERATOR = np.random.default_rng(0)
LABELS = (GENERATOR.random(300) < 0.3).astype(int)
SCORES = 4 * GENERATOR.normal(size=300) + np.where(LABELS, 4.0, -4.0)
VERDICTS = SCORES > 0


def wilson_by_scipy(hits, count):
    return tuple(binomtest(int(hits), int(count)).proportion_ci(0.95, method="wilson"))


def test_confusion_and_accuracy_equal_scikit_learn():
    np.testing.assert_array_equal(confusion(LABELS, VERDICTS), confusion_matrix(LABELS, VERDICTS))
    right = accuracy(LABELS, VERDICTS)
    assert right["mean"] == pytest.approx(accuracy_score(LABELS, VERDICTS))
    assert (right["low"], right["high"]) == pytest.approx(wilson_by_scipy((LABELS == VERDICTS).sum(), 300))
    assert confusion([0, 0, 0, 1], [1, 1, 0, 1]).tolist() == [[1, 2], [0, 1]]
    assert confusion([True], np.array([0.0])).tolist() == [[0, 0], [1, 0]]  # one class, and bool or float, will do


def test_both_classes_have_the_metrics_of_scikit_learn_with_wilson_intervals():
    measured = per_class(LABELS, VERDICTS)
    expected = precision_recall_fscore_support(LABELS, VERDICTS)
    for index, name in enumerate(("good", "defect")):
        precision, recall, f1, support = (values[index] for values in expected)
        row = measured[name]
        hits, called = ((index == LABELS) & (index == VERDICTS)).sum(), (index == VERDICTS).sum()
        assert row["support"] == support
        assert list(row["precision"].values()) == pytest.approx([precision, *wilson_by_scipy(hits, called)])
        assert list(row["recall"].values()) == pytest.approx([recall, *wilson_by_scipy(hits, support)])
        mean, low, high = row["f1"].values()
        assert mean == pytest.approx(f1)
        assert low < f1 < high
        # binomtest takes whole hits only; the bounds of Wilson solve (share − p)² = z² p (1 − p) / n.
        for bound in (low, high):
            assert (f1 - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / support, rel=1e-5)


def test_shares_of_nothing_are_nan_and_shares_of_something_are_not():
    measured = per_class([0, 0, 1, 1], [0, 0, 0, 0])  # never called defective
    assert np.isnan(list(measured["defect"]["precision"].values())).all()
    assert measured["defect"]["recall"]["mean"] == measured["defect"]["f1"]["mean"] == 0.0
    assert measured["defect"]["f1"]["high"] == pytest.approx(wilson_by_scipy(0, 2)[1])
    assert measured["good"]["precision"]["mean"] == 0.5
    absent = per_class([0, 0], [0, 1])["defect"]  # no defect there
    assert absent["support"] == 0
    assert absent["precision"]["mean"] == 0.0
    assert np.isnan([absent["recall"]["mean"], absent["f1"]["mean"], absent["f1"]["low"]]).all()


def test_probabilities_are_the_sigmoid_and_extreme_logits_do_not_overflow():
    measured = probability([-1e4, -2.0, 0.0, 2.0, 1e4])
    assert measured.tolist() == pytest.approx([0.0, 1 / (1 + np.e**2), 0.5, np.e**2 / (1 + np.e**2), 1.0])
    assert probability(np.float32([3.0]), temperature=3.0).tolist() == pytest.approx([np.e / (1 + np.e)], abs=1e-12)
    assert probability([-700.0])[0] > 0  # small, but not rounded away


def softened_log_loss(labels, scores, temperature):
    """Scikit-learn's, of every part counted as a defect and as good, in the shares of Platt's targets."""
    defects, good = sum(labels), len(labels) - sum(labels)
    shares = np.where(np.asarray(labels) == 1, (defects + 1) / (defects + 2), 1 / (good + 2))
    both = np.repeat([1, 0], len(labels))
    chances = np.tile(probability(scores, temperature), 2)
    return log_loss(both, chances, sample_weight=np.concatenate([shares, 1 - shares]))


@pytest.mark.parametrize("stretch", [0.3, 1.0, 5.0])
def test_the_temperature_minimises_the_log_loss_of_scikit_learn(stretch):
    grid = np.geomspace(0.05, 20, 2001)
    for step in (50, 1):  # the loss has one valley: it is convex in 1 / temperature
        losses = [softened_log_loss(LABELS, stretch * SCORES, temperature) for temperature in grid[::step]]
        best = int(np.argmin(losses)) * step
        around = grid[best - step], grid[best + step]
        grid = grid[best - step : best + step + 1]
    measured = fit_temperature(LABELS, stretch * SCORES)
    assert around[0] < measured < around[1]
    assert softened_log_loss(LABELS, stretch * SCORES, measured) <= min(losses) + 1e-12


def test_the_temperature_stays_within_its_bounds():
    assert fit_temperature([0, 1], [-3.0, 3.0]) == pytest.approx(3 / np.log(2))  # no mistake: the target is 2/3
    assert fit_temperature([0] * 98 + [1] * 98, [-3.0] * 98 + [3.0] * 98) == pytest.approx(3 / np.log(99))
    assert fit_temperature([0, 1], [-1e-3, 1e-3]) == pytest.approx(0.05)
    assert fit_temperature([0, 1], [-1e4, 1e4]) == pytest.approx(20)
    assert fit_temperature([0, 1], [3.0, -3.0]) == pytest.approx(20)  # every sign is wrong


@pytest.mark.parametrize("bins", [1, 4, 10])
def test_reliability_equals_scikit_learn_and_counts_every_part(bins):
    probabilities = probability(SCORES, 2.0)
    table = reliability(LABELS, probabilities, bins)
    frequency, confidence = calibration_curve(LABELS, probabilities, n_bins=bins)
    np.testing.assert_allclose(table.frequency, frequency)
    np.testing.assert_allclose(table.confidence, confidence)
    assert table["count"].sum() == 300
    for share, count, low, high in zip(table.frequency, table["count"], table.low, table.high, strict=True):
        assert (low, high) == pytest.approx(wilson_by_scipy(round(share * count), count), abs=1e-9)


def test_bins_are_closed_above_and_empty_ones_are_left_out():
    table = reliability([0, 1, 0, 1], [0.0, 0.5, 0.3, 1.0], bins=4)
    assert table["count"].tolist() == [1, 2, 1]  # [0, 0.25], (0.25, 0.5], nothing in (0.5, 0.75], (0.75, 1]
    assert table.frequency.tolist() == [0.0, 0.5, 1.0]
    assert table.confidence.tolist() == pytest.approx([0.0, 0.4, 1.0])
    assert calibration_error([0, 0], [0.1, 0.9]) == pytest.approx(0.5)  # one class will do
    assert brier([1, 1], [1.0, 0.5]) == pytest.approx(0.125)


@pytest.mark.parametrize("bins", [1, 7, 10, 100])
def test_calibration_error_and_brier_equal_their_definitions(bins):
    probabilities = probability(SCORES)
    index = np.ceil(probabilities * bins)  # 1 … bins, since no probability is 0
    gaps = [(LABELS - probabilities)[index == number].sum() for number in range(1, bins + 1)]
    assert calibration_error(LABELS, probabilities, bins) == pytest.approx(np.abs(gaps).sum() / 300)
    assert brier(LABELS, probabilities) == pytest.approx(((probabilities - LABELS) ** 2).mean())


def cost_by_hand(labels, scores, threshold, miss, false_alarm):
    pairs = [(bool(label), bool(score > threshold)) for label, score in zip(labels, scores, strict=True)]
    return (pairs.count((True, False)) * miss + pairs.count((False, True)) * false_alarm) / len(pairs)


@pytest.mark.parametrize("decimals", [0, 8])
@pytest.mark.parametrize(("miss", "false_alarm"), [(1, 1), (20, 1), (1, 7), (0.3, 0.1), (1e6, 1), (1, 1e6)])
def test_no_threshold_is_cheaper(decimals, miss, false_alarm):
    scores = np.round(SCORES, decimals)
    threshold = cost_threshold(LABELS, scores, miss, false_alarm)
    everywhere = [-np.inf, *scores]  # `score > threshold` changes at the scores only
    cheapest = min(cost_by_hand(LABELS, scores, other, miss, false_alarm) for other in everywhere)
    assert cost_by_hand(LABELS, scores, threshold, miss, false_alarm) == pytest.approx(cheapest, abs=1e-12)
    assert mean_cost(LABELS, scores, threshold, miss, false_alarm) == pytest.approx(cheapest, abs=1e-12)


def test_of_equally_cheap_thresholds_the_one_in_the_widest_gap_is_taken():
    assert cost_threshold([0, 1, 0, 1], [0.0, 1.0, 4.0, 10.0], 1, 1) == 7.0  # one error at 0.5 and at 7
    assert cost_threshold([0, 1, 0, 1], [0.0, 1.0, 2.0, 3.0], 1, 1) == 0.5  # equally wide: the lowest
    # Three false alarms above −4, or one miss below 3.5; in floating point 3 · 0.1 is not quite 0.3.
    assert cost_threshold([0, 1, 0, 0, 0, 1], [-8.0, 0.0, 1.0, 2.0, 3.0, 4.0], 0.3, 0.1) == -4.0


def test_an_outer_threshold_is_taken_only_where_nothing_between_is_as_cheap_and_extremes_have_one():
    labels, scores = [1, 0, 1, 0], [0.0, 1.0, 2.0, 3.0]
    below, above = cost_threshold(labels, scores, 100, 1), cost_threshold(labels, scores, 1, 100)
    assert (np.array(scores) > below).all()
    assert not (np.array(scores) > above).any()
    assert -1e-9 < below < 0 < 3 < above < 3 + 1e-9
    assert cost_threshold([0, 1, 1], [0.0, 0.0, 5.0], 1, 1) == 2.5  # calling all defective costs the same
    assert cost_threshold([0, 1], [-1e4, 1e4], 1, 1) == 0.0
    tied = cost_threshold([0, 1], [2.0, 2.0], 5, 1)  # one level: all defective, or all good
    assert mean_cost([0, 1], [2.0, 2.0], tied, 5, 1) == 0.5
    close = 1 + np.finfo(float).eps * np.array([1, 2])  # their middle rounds onto the upper one
    assert mean_cost([0, 1], close, cost_threshold([0, 1], close, 1, 1), 1, 1) == 0.0
    assert cost_threshold([0, 1], [-1.7e308, 1.7e308], 1, 1) == 0.0


def test_mean_cost_by_hand():
    labels, scores = [0, 0, 0, 1, 1], [-1.0, 0.0, 2.0, -3.0, 3.0]
    assert mean_cost(labels, scores, 0.0, 10, 2) == (10 + 2) / 5  # 0 does not exceed 0
    assert mean_cost(labels, scores, np.inf, 10, 2) == 20 / 5
    assert mean_cost(labels, scores, -np.inf, 10, 2) == 6 / 5
    assert mean_cost([1, 1], [1.0, -1.0], 0.0, 10, 2) == 5.0  # one class will do


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_bayes_threshold_is_where_both_verdicts_cost_the_same(temperature):
    threshold = bayes_threshold(9, 2, temperature)
    chance = probability([threshold], temperature)[0]
    assert chance == pytest.approx(2 / 11)
    assert chance * 9 == pytest.approx((1 - chance) * 2)
    assert bayes_threshold(4, 4, temperature) == 0.0
    assert np.isfinite(bayes_threshold(1e300, 1e-300))


def test_of_stretched_calibrated_logits_temperature_and_bayes_threshold_are_measured_again():
    generator = np.random.default_rng(5)
    logits = 2 * generator.normal(size=40_000)
    labels, logits = generator.random(40_000) < 1 / (1 + np.exp(-logits)), 3 * logits
    assert fit_temperature(labels, logits) == pytest.approx(3, rel=0.05)
    assert calibration_error(labels, probability(logits, 3)) < 0.01
    assert calibration_error(labels, probability(logits)) > 0.05
    cost = mean_cost(labels, logits, bayes_threshold(10, 1, temperature=3), 10, 1)
    cheapest = mean_cost(labels, logits, cost_threshold(labels, logits, 10, 1), 10, 1)
    assert cheapest <= cost < 1.01 * cheapest


@pytest.mark.parametrize("cost", [0, -1, np.nan, np.inf])
def test_costs_and_temperatures_must_be_positive_numbers(cost):
    with pytest.raises(SettingsError, match="miss must be a positive finite number"):
        cost_threshold([0, 1], [0.0, 1.0], cost, 1)
    with pytest.raises(SettingsError, match="false_alarm must be a positive finite number"):
        mean_cost([0, 1], [0.0, 1.0], 0.5, 1, cost)
    for call in (lambda: probability([1.0], cost), lambda: bayes_threshold(1, 1, cost)):
        with pytest.raises(SettingsError, match="temperature must be a positive finite number"):
            call()


def test_input_that_does_not_fit_is_refused_with_one_line():
    refused = [
        (lambda: confusion([0, 1], [0.2, 0.9]), "make them from scores with score > threshold"),
        (lambda: confusion([0, 1], [[0, 1]]), r"not an array of shape \(1, 2\)"),
        (lambda: accuracy([], []), r"not an array of shape \(0,\)"),
        (lambda: per_class([0, 1, 1], [0, 1]), "need 2 labels"),
        (lambda: per_class([0, 2], [0, 1]), r"labels must be 0 \(good\) or 1"),
        (lambda: probability([1.0, np.inf]), "the score of image 1 is inf"),
        (lambda: fit_temperature([1, 1], [1.0, 2.0]), "no temperature: all 2 .* are defective; add good images"),
        (lambda: cost_threshold([0, 0], [1.0, 2.0], 1, 1), "no cost threshold: all 2 .* are good; add defective"),
        (lambda: cost_threshold([0, 1], [1.0, np.nan], 1, 1), "the score of image 1 is nan"),
        (lambda: reliability([0, 1], [-2.0, 3.0]), "make them from raw scores with `probability`"),
        (lambda: brier([0, 1], [0.5]), "1 scores need 1 labels"),
    ]
    for call, line in refused:
        with pytest.raises(DataError, match=line):
            call()
    with pytest.raises(SettingsError, match="bins must be at least 1, not 0"):
        calibration_error([0, 1], [0.1, 0.9], bins=0)
    with pytest.raises(SettingsError, match="the threshold is nan"):
        mean_cost([0, 1], [0.0, 1.0], np.nan, 1, 1)
