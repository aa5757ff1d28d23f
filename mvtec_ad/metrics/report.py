"""From scores and maps to the numbers that are printed and stored, each with its interval and its seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.metrics._checks import checked_table
from mvtec_ad.metrics.image import average_precision, f1_max, image_auroc
from mvtec_ad.metrics.intervals import interval, newcombe, over_seeds, resample_weights, wilson
from mvtec_ad.metrics.pixels import PixelHistograms
from mvtec_ad.metrics.thresholds import operating_point, oracle

_PIXEL = {
    "pixel_auroc": PixelHistograms.auroc,
    "pixel_ap": PixelHistograms.average_precision,
    "au_pro": PixelHistograms.au_pro,
}


def evaluate(
    labels: ArrayLike,
    scores_by_seed: ArrayLike,
    maps_by_seed: Sequence[ArrayLike] | None = None,
    masks: ArrayLike | None = None,
    resamples: int = 1000,
    masked: ArrayLike | None = None,
) -> dict[str, dict]:
    """Report of one method on one test set: every metric over its seeds, with intervals.

    Args:
        labels: 0 (good) or 1 (defect), shape `(N,)`.
        scores_by_seed: Raw image scores, shape `(S, N)`, higher is more anomalous.
        maps_by_seed: Raw anomaly maps, S arrays of shape `(N, H, W)`, each used once.
        masks: Ground truth of shape `(N, H, W)`, true where defective; without maps or masks no pixel metrics.
        resamples: Bootstrap resamples for the pixel metrics; the same ones serve all seeds.
        masked: Shape `(N,)`, true where the mask is known; pixel metrics are of these images. None: of all.

    Returns:
        `{"image_auroc", "image_ap", "f1_max", "pixel_auroc", "pixel_ap", "au_pro"}`, each as `over_seeds` gives it,
        with the 95 % interval of the mean over draws of test images (`intervals`).

    Raises:
        DataError: Only one class is present, shapes differ, or a score or map is not finite.

    Examples:
        >>> evaluate([0, 0, 1, 1], [[0.1, 0.4, 0.3, 0.8]])["image_auroc"]["mean"]
        0.75
    """
    labels, scores_by_seed = np.asarray(labels), checked_table(scores_by_seed, "scores_by_seed", "seeds")
    auroc, ap, f1 = (
        [metric(labels, scores) for scores in scores_by_seed]
        for metric in (image_auroc, average_precision, lambda *pair: f1_max(*pair)[0])
    )
    defects = int(labels.sum())
    measured = {
        "image_auroc": over_seeds(auroc, newcombe(float(np.mean(auroc)), defects, len(labels) - defects)),
        "image_ap": over_seeds(ap, wilson(float(np.mean(ap)), defects)),
        "f1_max": over_seeds(f1, wilson(float(np.mean(f1)), defects)),
    }
    if maps_by_seed is None or masks is None:
        return measured

    masks = np.asarray(masks)
    if len(masks) != len(labels):
        raise DataError(f"{len(labels)} labels need {len(labels)} masks, not {len(masks)}")
    masked = np.ones(len(labels), bool) if masked is None else np.asarray(masked, bool)
    labels, masks = labels[masked], masks[masked]
    defects, weights = int(labels.sum()), resample_weights(labels, resamples)
    values: dict[str, list[float]] = {name: [] for name in _PIXEL}
    resampled = dict.fromkeys(_PIXEL, 0.0)
    for maps in maps_by_seed:
        histograms = PixelHistograms.from_maps(np.asarray(maps)[masked], masks)
        coarse = histograms.coarsen()
        for name, measure in _PIXEL.items():
            values[name].append(measure(histograms))
            resampled[name] += measure(coarse, weights=weights)
    seeds = len(values["au_pro"])
    if seeds != len(scores_by_seed):
        raise DataError(f"{len(scores_by_seed)} seeds of scores need as many seeds of maps, not {seeds}")
    for name in values:
        bounds = interval(resampled[name] / seeds, float(np.mean(values[name])), defects)
        measured[name] = over_seeds(values[name], bounds)
    return measured


def format_number(value: float) -> str:
    """A number as metrics are printed, three decimals without the leading zero.

    Examples:
        >>> format_number(0.9971), format_number(1.0), format_number(-0.0121)
        ('.997', '1.000', '-.012')
    """
    text = f"{round(value, 3) + 0.0:.3f}"  # + 0.0 turns -0.0 into 0.0
    return text.replace("0.", ".", 1) if abs(value) < 0.9995 else text


def format_metric(metric: dict) -> str:
    """Mean and interval of one metric of `evaluate`, as printed.

    Examples:
        >>> format_metric({"mean": 0.997, "low": 0.983, "high": 1.0})
        '.997 [.983, 1.000]'
    """
    return f"{format_number(metric['mean'])} [{format_number(metric['low'])}, {format_number(metric['high'])}]"


def threshold_summary(labels: ArrayLike, scores: ArrayLike, calibrated_value: float) -> dict[str, dict]:
    """Operating points of the calibrated threshold and, where both classes are there, of the oracle beside it.

    Examples:
        >>> threshold_summary([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8], 0.5)["calibrated"]["detection_rate"]
        0.5
    """
    summary = {"calibrated": operating_point(labels, scores, calibrated_value)}
    if len(np.unique(labels)) == 2:
        summary["oracle"] = operating_point(labels, scores, oracle(labels, scores))
    return summary


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, first column to the left and the others to the right; `|` inside a cell is escaped.

    Examples:
        >>> markdown_table(["method", "AUROC"], [["PaDiM", ".997"]]).splitlines()[-1]
        '| PaDiM | .997 |'
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [columns, *rows]]
    rule = [":---"] + ["---:"] * (len(columns) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])
