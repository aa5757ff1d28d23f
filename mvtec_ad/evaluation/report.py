"""From scores and maps to the numbers that are printed and stored, each with its interval and its seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.evaluation.histograms import PixelHistograms
from mvtec_ad.evaluation.intervals import interval, newcombe, resample_weights, wilson
from mvtec_ad.evaluation.ranking import average_precision, f1_max, image_auroc
from mvtec_ad.evaluation.regions import pixel_metrics
from mvtec_ad.evaluation.thresholds import operating_point, oracle


def evaluate(
    labels: ArrayLike,
    scores_by_seed: ArrayLike,
    maps_by_seed: Sequence[ArrayLike] | None = None,
    masks: ArrayLike | None = None,
    resamples: int = 1000,
) -> dict[str, dict]:
    """Every metric of one method on one test set, over its seeds.

    Args:
        labels: 0 (good) or 1 (defect), shape `(N,)`.
        scores_by_seed: Raw image scores, shape `(S, N)`, higher is more anomalous.
        maps_by_seed: Raw anomaly maps, one array of shape `(N, H, W)` per seed; any iterable of S arrays will do, and
            each is used once. None for a method without maps.
        masks: Ground truth of shape `(N, H, W)`, true where defective; None where there is none.
        resamples: Bootstrap resamples for the pixel metrics; the same ones serve all seeds.

    Returns:
        `{"image_auroc", "image_ap", "f1_max", "pixel_auroc", "pixel_ap", "au_pro"}`, each
        `{"mean", "sd", "low", "high", "values"}`: mean and sample standard deviation over seeds (0.0 for one seed), the
        95 % interval of the mean over draws of test images (`intervals`), and the value of each seed. The pixel
        metrics are absent without maps or without masks.

    Raises:
        DataError: Only one class is present, shapes differ, or a score or map is not finite.
    """
    scores_by_seed = np.asarray(scores_by_seed, dtype=np.float64)
    if scores_by_seed.ndim != 2 or len(scores_by_seed) == 0:
        raise DataError(f"scores_by_seed must have shape (seeds, images), not {scores_by_seed.shape}")
    labels = np.asarray(labels)
    auroc = [image_auroc(labels, scores) for scores in scores_by_seed]
    defects = int(labels.sum())
    ap = [average_precision(labels, scores) for scores in scores_by_seed]
    f1 = [f1_max(labels, scores)[0] for scores in scores_by_seed]
    metrics = {
        "image_auroc": _metric(auroc, newcombe(float(np.mean(auroc)), defects, len(labels) - defects)),
        "image_ap": _metric(ap, wilson(float(np.mean(ap)), defects)),
        "f1_max": _metric(f1, wilson(float(np.mean(f1)), defects)),
    }
    if maps_by_seed is None or masks is None:
        return metrics

    masks = np.asarray(masks)
    if len(masks) != len(labels):
        raise DataError(f"{len(labels)} labels need {len(labels)} masks, not {len(masks)}")
    weights = resample_weights(labels, resamples)
    values: dict[str, list[float]] = {"pixel_auroc": [], "pixel_ap": [], "au_pro": []}
    resampled = dict.fromkeys(values, 0.0)
    for maps in maps_by_seed:
        for name, value in pixel_metrics(maps, masks).items():
            values[name].append(value)
        histograms = PixelHistograms.from_maps(maps, masks).coarsen()
        resampled["pixel_auroc"] += histograms.auroc(weights)
        resampled["pixel_ap"] += histograms.average_precision(weights)
        resampled["au_pro"] += histograms.au_pro(weights=weights)
    seeds = len(values["au_pro"])
    if seeds != len(scores_by_seed):
        raise DataError(f"{len(scores_by_seed)} seeds of scores need as many seeds of maps, not {seeds}")
    for name in values:
        bounds = interval(resampled[name] / seeds, float(np.mean(values[name])), defects)
        metrics[name] = _metric(values[name], bounds)
    return metrics


def _metric(values: list[float], bounds: tuple[float, float]) -> dict:
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "low": bounds[0],
        "high": bounds[1],
        "values": [float(value) for value in values],
    }


def format_number(value: float) -> str:
    """Three decimals without the leading zero, as metrics are printed: `.997`, `1.000`, `-.012`."""
    text = f"{round(value, 3) + 0.0:.3f}"  # + 0.0 turns -0.0 into 0.0
    return text.replace("0.", ".", 1) if abs(value) < 0.9995 else text


def format_metric(metric: dict) -> str:
    """Mean and interval of one metric of `evaluate`: `.997 [.983, 1.000]`."""
    return f"{format_number(metric['mean'])} [{format_number(metric['low'])}, {format_number(metric['high'])}]"


def threshold_summary(labels: ArrayLike, scores: ArrayLike, calibrated_value: float) -> dict[str, dict]:
    """What the calibrated threshold does to the test set, beside the oracle that has seen the test labels.

    Args:
        labels: 0 (good) or 1 (defect), shape `(N,)`.
        scores: Raw finite scores, shape `(N,)`.
        calibrated_value: A threshold from `calibrated`.

    Returns:
        `{"calibrated", "oracle"}`, both as from `operating_point`; with one class only there is no oracle.

    Raises:
        DataError: Shapes differ or a score is not finite.
    """
    summary = {"calibrated": operating_point(labels, scores, calibrated_value)}
    if len(np.unique(labels)) == 2:
        summary["oracle"] = operating_point(labels, scores, oracle(labels, scores))
    return summary


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, first column to the left and the others to the right; `|` inside a cell is escaped."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [columns, *rows]]
    rule = [":---"] + ["---:"] * (len(columns) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])
