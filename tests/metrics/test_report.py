"""The report holds the numbers of the rooms below it, in the promised shape."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from mvtec_ad.errors import DataError
from mvtec_ad.metrics import (
    calibrated,
    evaluate,
    f1_max,
    format_metric,
    format_number,
    markdown_table,
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


def test_bootstrap_of_the_mean_over_seeds_agrees_with_a_loop_that_repeats_images():
    report = evaluate(LABELS, SCORES, MAPS, MASKS, resamples=400)
    generator = np.random.default_rng(5)
    means = []
    for _ in range(200):
        drawn = np.concatenate([generator.integers(0, 8, 8), generator.integers(8, 24, 16)])
        means.append(np.mean([pixel_metrics(maps[drawn], MASKS[drawn])["au_pro"] for maps in MAPS]))
    low, high = np.quantile(means, [0.025, 0.975])
    spread = high - low
    assert report["au_pro"]["low"] == pytest.approx(low, abs=0.2 * spread)
    assert report["au_pro"]["high"] == pytest.approx(high, abs=0.2 * spread)


def test_pixel_metrics_are_absent_without_masks_or_maps():
    image_metrics = ["image_auroc", "image_ap", "f1_max"]
    assert list(evaluate(LABELS, SCORES)) == image_metrics
    assert list(evaluate(LABELS, SCORES, masks=MASKS)) == image_metrics
    assert list(evaluate(LABELS, SCORES, maps_by_seed=MAPS)) == image_metrics


def test_one_seed_has_no_spread_but_an_interval_and_perfection_is_no_point():
    report = evaluate(LABELS, LABELS[None], MASKS[None].astype(np.float32), MASKS, resamples=50)
    for metric in report.values():
        assert metric["mean"] == metric["high"] == 1.0
        assert metric["sd"] == 0.0
        assert 0.5 < metric["low"] < 0.99


def test_same_input_same_report():
    assert evaluate(LABELS, SCORES, MAPS, MASKS, 50) == evaluate(LABELS, SCORES, iter(MAPS), MASKS, 50)


def test_input_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="no AUROC: all 8 test images are good"):
        evaluate(LABELS[:8], SCORES[:, :8])
    with pytest.raises(DataError, match=r"shape \(seeds, images\)"):
        evaluate(LABELS, SCORES[0])
    with pytest.raises(DataError, match="3 seeds of scores need as many seeds of maps, not 2"):
        evaluate(LABELS, SCORES, MAPS[:2], MASKS, resamples=5)
    with pytest.raises(DataError, match="24 labels need 24 masks, not 23"):
        evaluate(LABELS, SCORES, MAPS, MASKS[1:], resamples=5)


def test_threshold_summary_shows_both_thresholds_and_no_oracle_for_one_class():
    good = np.random.default_rng(1).normal(31, 0.5, size=39)
    value = calibrated(good, 0.05)
    summary = threshold_summary(LABELS, SCORES[0], value)
    assert summary["calibrated"]["value"] == value
    assert summary["calibrated"]["detection_rate"] == (SCORES[0][8:] > value).mean()
    assert summary["oracle"]["value"] == f1_max(LABELS, SCORES[0])[1]
    assert list(threshold_summary(LABELS[:8], SCORES[0][:8], value)) == ["calibrated"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9971, ".997"),
        (1.0, "1.000"),
        (0.9996, "1.000"),
        (0.9994, ".999"),
        (0.0, ".000"),
        (-0.0121, "-.012"),
        (-1e-9, ".000"),
        (10.5, "10.500"),
    ],
)
def test_numbers_are_printed_with_three_decimals(value, text):
    assert format_number(value) == text


def test_metrics_and_tables_are_printed_as_promised():
    assert format_metric({"mean": 0.997, "low": 0.9832, "high": 1.0}) == ".997 [.983, 1.000]"
    assert markdown_table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| :--- | ---: |\n| x\\|y | 1 |"
