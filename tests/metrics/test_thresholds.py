"""The conformal promise, to the last image, and the strict rule of the verdict."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import calibrated, f1_max, images_needed, operating_point, oracle


@pytest.mark.parametrize(
    ("rate", "needed"),
    [
        (0.05, 19),
        (0.1, 9),
        (0.01, 99),
        (0.001, 999),
        (0.5, 1),
        (1 / 3, 2),
        (0.3, 3),
        (0.1 + 0.2, 3),
        (0.9, 1),
        (0.07, 14),
    ],
)
def test_images_needed_is_exactly_where_calibration_begins(rate, needed):
    assert images_needed(rate) == needed
    scores = np.arange(needed, dtype=float)
    assert calibrated(scores, rate) == scores.max()
    if needed > 1:
        with pytest.raises(DataError, match=f"needs at least {needed} good images .* but there are {needed - 1}"):
            calibrated(scores[1:], rate)


@pytest.mark.parametrize(
    ("count", "rate", "k"), [(19, 0.05, 19), (39, 0.05, 38), (38, 0.05, 38), (99, 0.1, 90), (100, 0.1, 91)]
)
def test_the_threshold_is_the_kth_smallest_score(count, rate, k):
    scores = np.random.default_rng(0).permutation(count) + 1.0  # 1, 2, … in any order
    assert calibrated(scores, rate) == k


@pytest.mark.parametrize("count", [19, 30, 59])
def test_the_false_alarm_rate_is_kept_on_average_and_not_wasted(count):
    generator = np.random.default_rng(count)
    rate, trials = 0.05, 20_000
    scores = generator.gamma(2.0, size=(trials, count + 1))
    alarms = np.mean([row[-1] > calibrated(row[:-1], rate) for row in scores])
    spread = 3 * np.sqrt(rate * (1 - rate) / trials)
    assert alarms <= rate + spread
    assert alarms >= rate - 1 / (count + 1) - spread  # what the next smaller threshold would cost


def test_a_threshold_of_float32_scores_calls_none_of_their_ties_defective():
    scores = np.float32([0.1] * 19)
    threshold = calibrated(scores, 0.05)
    assert not (scores > threshold).any()
    assert operating_point([0] * 19, scores, threshold)["false_alarm_rate"] == 0.0


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5, np.nan, 1e-12])
def test_rates_outside_zero_and_one_are_refused(rate):
    with pytest.raises(SettingsError, match="between 0 and 1"):
        calibrated(np.arange(30.0), rate)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="score of image 2 is nan"):
        calibrated([1.0, 2.0, np.nan] * 10, 0.05)
    with pytest.raises(DataError, match="one number per image"):
        calibrated([], 0.05)


@pytest.mark.parametrize("decimals", [0, 6])
def test_oracle_reaches_f1_max_under_the_strict_rule(decimals):
    generator = np.random.default_rng(3)
    labels = (generator.random(80) < 0.7).astype(int)
    scores = np.round(generator.normal(size=80) + labels, decimals)
    assert f1_score(labels, scores > oracle(labels, scores)) == pytest.approx(f1_max(labels, scores)[0], abs=1e-12)


def test_operating_point_by_hand():
    labels, scores = [0, 0, 0, 0, 1, 1], [1, 2, 3, 4, 3, 5]
    assert operating_point(labels, scores, 3) == {
        "value": 3.0,
        "accuracy": 4 / 6,  # wrong: the good image at 4 and the defect at 3, which does not exceed 3
        "false_alarm_rate": 1 / 4,
        "detection_rate": 1 / 2,
    }


def test_operating_point_of_one_class():
    good = operating_point([0, 0], [1, 3], 2)
    assert (good["accuracy"], good["false_alarm_rate"], good["detection_rate"]) == (0.5, 0.5, None)
    defects = operating_point([1, 1, 1, 1], [1, 3, 3, 3], 2)
    assert (defects["accuracy"], defects["false_alarm_rate"], defects["detection_rate"]) == (0.75, None, 0.75)
