"""False alarms at a detection rate, against a ten-line search over all thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import (
    average_precision,
    false_alarms_at,
    false_alarms_interval,
    resample_weights,
    resampled_ranking,
    wilson,
)

GENERATOR = np.random.default_rng(0)


def brute_force(labels: np.ndarray, scores: np.ndarray, detection: float) -> float:
    """Try every score as a threshold, from the highest down."""
    for threshold in sorted(set(scores), reverse=True):
        found = sum(score >= threshold for score, label in zip(scores, labels, strict=True) if label)
        if found >= detection * labels.sum() - 1e-9:
            return float(np.mean([score >= threshold for score in scores[labels == 0]]))
    raise AssertionError("the lowest score finds every defect")


@pytest.mark.parametrize("detection", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("tied", [False, True])
def test_every_threshold_tried(detection: float, tied: bool) -> None:
    """Any mixture of classes, with and without ties."""
    for _ in range(40):
        defects, good = GENERATOR.integers(1, 30, 2)
        labels = GENERATOR.permutation(np.repeat([0, 1], [good, defects]))
        scores = GENERATOR.normal(size=good + defects) + labels
        scores = np.round(scores) if tied else scores
        assert false_alarms_at(labels, scores, detection) == pytest.approx(brute_force(labels, scores, detection))


def test_numbers_by_hand() -> None:
    """Twenty defects: 19 must be found, so the weakest may be missed; a tie is a false alarm; a constant costs all."""
    labels = np.repeat([0, 1], [4, 20])
    defects = np.arange(1.0, 21)
    assert false_alarms_at(labels, [0, 1.5, 2, 3, *defects]) == 0.5  # threshold 2: the tie counts
    assert false_alarms_at(labels, [0, 1.5, 2, 3, *defects], detection=1.0) == 0.75  # threshold 1
    assert false_alarms_at(labels, np.ones(24)) == 1.0
    assert false_alarms_at(labels, np.repeat([0.0, 1.0], [4, 20])) == 0.0
    assert false_alarms_at([0, 1], [1e300, -1e300]) == 1.0


def test_resamples_are_the_metric_of_repeated_images() -> None:
    """A weight of two is an image that is there twice."""
    labels = np.repeat([0, 1], [12, 21])
    scores = np.round(GENERATOR.normal(size=33) + labels, 1)
    weights = resample_weights(labels, 50)
    found = resampled_ranking(labels, scores, weights)["false_alarms"]
    expected = [brute_force(np.repeat(labels, w), np.repeat(scores, w), 0.95) for w in weights]
    np.testing.assert_allclose(found, expected)


def test_a_resample_without_a_class_is_nan() -> None:
    """As with the other metrics."""
    found = resampled_ranking([0, 1], [1.0, 2.0], [[1, 1], [2, 0], [0, 2]])["false_alarms"]
    np.testing.assert_array_equal(found, [0.0, np.nan, np.nan])


def test_the_interval_holds_both_of_its_parts() -> None:
    """At least as wide as Wilson's with the threshold fixed, and as the percentile bootstrap; the mean over seeds."""
    labels = np.repeat([0, 1], [20, 30])
    scores = GENERATOR.normal(size=(3, 50)) + 2 * labels
    found = false_alarms_interval(labels, scores, resamples=500)
    values = [brute_force(labels, one, 0.95) for one in scores]
    assert found["values"] == pytest.approx(values)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["sd"] == pytest.approx(np.std(values, ddof=1))
    weights = resample_weights(labels, 500)
    drawn = np.mean([resampled_ranking(labels, one, weights)["false_alarms"] for one in scores], axis=0)
    low, high = wilson(found["mean"], 20)
    assert found["low"] == pytest.approx(min(low, np.quantile(drawn, 0.025)))
    assert found["high"] == pytest.approx(max(high, np.quantile(drawn, 0.975)))
    assert false_alarms_interval(labels, scores[:1])["sd"] == 0.0


def test_the_interval_is_no_point_where_nothing_is_wrong() -> None:
    """Perfectly told apart, by every resample too: what 20 good images cannot rule out stays."""
    labels = np.repeat([0, 1], [20, 30])
    found = false_alarms_interval(labels, labels[None].astype(float))
    assert (found["mean"], found["low"]) == (0.0, 0.0)
    assert found["high"] == pytest.approx(wilson(0.0, 20)[1])


def test_a_perfect_average_precision_is_not_above_one() -> None:
    """scikit-learn's sum can be one unit in the last place above 1, for which there is no interval."""
    for defects in range(1, 60):
        labels = np.repeat([0, 1], [6, defects])
        assert average_precision(labels, np.arange(6.0 + defects)) <= 1.0


@pytest.mark.parametrize("detection", [0.0, -0.1, 1.1, np.nan])
def test_a_share_outside_of_its_range_is_refused(detection: float) -> None:
    """And the message gives an example."""
    with pytest.raises(SettingsError, match=r"for example 0\.95"):
        false_alarms_at([0, 1], [1.0, 2.0], detection)


def test_bad_input_is_refused() -> None:
    """One class, other shapes."""
    with pytest.raises(DataError, match="all 2 test images are defective"):
        false_alarms_at([1, 1], [1.0, 2.0])
    with pytest.raises(DataError, match="must have shape"):
        false_alarms_interval([0, 1], [1.0, 2.0])
