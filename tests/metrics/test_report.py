"""The report holds the numbers of the rooms below it, in the promised shape; thresholds keep the conformal promise."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import (
    calibrated,
    check_enough,
    evaluate,
    f1_max,
    format_metric,
    format_number,
    images_needed,
    markdown_table,
    operating_point,
    pixel_metrics,
    threshold_summary,
)

GENERATOR = np.random.default_rng(0)
LABELS = np.repeat([0, 1], [8, 16])
MASKS = np.zeros((24, 32, 32), dtype=bool)
MASKS[8:, 5:15, 8:20] = True
NOISE = ndimage.gaussian_filter(GENERATOR.normal(size=(3, 24, 32, 32)), (0, 0, 1, 1))
MAPS = (30 + NOISE + 0.5 * MASKS * GENERATOR.uniform(0, 1, (24, 1, 1))).astype(np.float32)
SCORES = MAPS.max(axis=(2, 3))


def test_evaluate_has_the_promised_shape_and_the_right_numbers():
    report = evaluate(LABELS, SCORES, MAPS, MASKS, resamples=200)
    assert list(report) == ["image_auroc", "image_ap", "f1_max", "pixel_auroc", "pixel_ap", "au_pro"]
    for metric in report.values():
        assert list(metric) == ["mean", "sd", "low", "high", "values"]
        assert metric["mean"] == pytest.approx(np.mean(metric["values"]))
        assert metric["sd"] == pytest.approx(np.std(metric["values"], ddof=1))
        assert 0 <= metric["low"] < metric["mean"] < metric["high"] <= 1
        assert all(type(value) is float for value in [metric["low"], metric["high"], *metric["values"]])
    assert report["image_auroc"]["values"] == pytest.approx([roc_auc_score(LABELS, scores) for scores in SCORES])
    for name in ("pixel_auroc", "pixel_ap", "au_pro"):
        assert report[name]["values"] == [pixel_metrics(maps, MASKS)[name] for maps in MAPS]
    assert report == evaluate(LABELS, SCORES, iter(MAPS), MASKS, resamples=200)


def test_bootstrap_of_the_mean_over_seeds_agrees_with_a_loop_that_repeats_images():
    report = evaluate(LABELS, SCORES, MAPS, MASKS, resamples=400)
    generator = np.random.default_rng(5)
    means = []
    for _ in range(200):
        drawn = np.concatenate([generator.integers(0, 8, 8), generator.integers(8, 24, 16)])
        means.append(np.mean([pixel_metrics(maps[drawn], MASKS[drawn])["au_pro"] for maps in MAPS]))
    low, high = np.quantile(means, [0.025, 0.975])
    assert report["au_pro"]["low"] == pytest.approx(low, abs=0.2 * (high - low))
    assert report["au_pro"]["high"] == pytest.approx(high, abs=0.2 * (high - low))


def test_pixel_metrics_are_absent_without_masks_or_maps():
    for given in ({}, {"masks": MASKS}, {"maps_by_seed": MAPS}):
        assert list(evaluate(LABELS, SCORES, **given)) == ["image_auroc", "image_ap", "f1_max"]


def test_one_seed_has_no_spread_but_an_interval_and_perfection_is_no_point():
    report = evaluate(LABELS, LABELS[None], MASKS[None].astype(np.float32), MASKS, resamples=50)
    for metric in report.values():
        assert metric["mean"] == metric["high"] == 1.0
        assert metric["sd"] == 0.0
        assert 0.5 < metric["low"] < 0.99


def test_input_that_does_not_fit_is_refused():
    refused = [
        ((LABELS[:8], SCORES[:, :8]), "no AUROC: all 8 test images are good"),
        ((LABELS, SCORES[0]), r"shape \(seeds, images\)"),
        ((LABELS, SCORES, MAPS[:2], MASKS, 5), "3 seeds of scores need as many seeds of maps, not 2"),
        ((LABELS, SCORES, MAPS, MASKS[1:], 5), "24 labels need 24 masks, not 23"),
    ]
    for arguments, message in refused:
        with pytest.raises(DataError, match=message):
            evaluate(*arguments)


def test_threshold_summary_shows_both_thresholds_and_no_oracle_for_one_class():
    value = calibrated(np.random.default_rng(1).normal(31, 0.5, size=39), 0.05)
    summary = threshold_summary(LABELS, SCORES[0], value)
    assert summary["calibrated"] == operating_point(LABELS, SCORES[0], value)
    assert summary["oracle"]["value"] == f1_max(LABELS, SCORES[0])[1]
    assert list(threshold_summary(LABELS[:8], SCORES[0][:8], value)) == ["calibrated"]


def test_what_is_printed():
    numbers = [0.9971, 1.0, 0.9996, 0.9994, 0.0, -0.0121, -1e-9, 10.5]
    expected = [".997", "1.000", "1.000", ".999", ".000", "-.012", ".000", "10.500"]
    assert [format_number(value) for value in numbers] == expected
    assert format_metric({"mean": 0.997, "low": 0.9832, "high": 1.0}) == ".997 [.983, 1.000]"
    assert markdown_table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| :--- | ---: |\n| x\\|y | 1 |"


# Thresholds ---------------------------------------------------------------------------------------------------------


def test_a_tiny_rate_is_a_rate_that_no_number_of_images_reaches():
    """1e-12 lies between 0 and 1: what is missing is said."""
    with pytest.raises(DataError, match="a false-alarm rate of 1e-12 needs at least 1000000000000 good images"):
        check_enough(20, 1e-12)


@pytest.mark.parametrize(
    ("rate", "needed"),
    [(0.05, 19), (0.1, 9), (0.01, 99), (0.001, 999), (0.5, 1), (1 / 3, 2), (0.3, 3), (0.1 + 0.2, 3), (0.07, 14)],
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
    rate, trials = 0.05, 20_000
    scores = np.random.default_rng(count).gamma(2.0, size=(trials, count + 1))
    alarms = np.mean([row[-1] > calibrated(row[:-1], rate) for row in scores])
    spread = 3 * np.sqrt(rate * (1 - rate) / trials)
    assert rate - 1 / (count + 1) - spread <= alarms <= rate + spread  # below: what the next threshold would cost


def test_what_cannot_be_calibrated_is_refused():
    for rate in (0.0, 1.0, -0.1, 5, np.nan):
        with pytest.raises(SettingsError, match="between 0 and 1"):
            calibrated(np.arange(30.0), rate)
    for scores, message in (([1.0, 2.0, np.nan] * 10, "score of image 2 is nan"), ([], "there are 0; add good images")):
        with pytest.raises(DataError, match=message):
            calibrated(scores, 0.05)


def test_operating_points_by_hand():
    wrong = {"accuracy": 4 / 6, "false_alarm_rate": 1 / 4, "detection_rate": 1 / 2}  # 3 does not exceed 3
    assert operating_point([0, 0, 0, 0, 1, 1], [1, 2, 3, 4, 3, 5], 3) == {"value": 3.0, **wrong}
    assert list(operating_point([0, 0], [1, 3], 2).values()) == [2.0, 0.5, 0.5, None]
    assert list(operating_point([1, 1, 1, 1], [1, 3, 3, 3], 2).values()) == [2.0, 0.75, None, 0.75]
    scores = np.float32([0.1] * 19)  # calibrated on them, none of their ties is defective
    assert operating_point([0] * 19, scores, calibrated(scores, 0.05))["false_alarm_rate"] == 0.0
