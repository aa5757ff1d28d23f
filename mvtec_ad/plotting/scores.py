"""Figure of image scores: where both classes lie, and where the thresholds cut."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.style import CLASS_COLOURS, CLASS_NAMES, FAINT, INK, STYLE, new_figure


@rc_context(STYLE)
def score_histogram(
    labels: ArrayLike,
    scores: ArrayLike,
    calibrated: float | None = None,
    oracle: float | None = None,
    false_alarm_rate: float | None = None,
    bins: int = 30,
) -> Figure:
    """Histogram of the image scores of both classes, each image as a tick below it, and the thresholds.

    Args:
        labels: 0 (good) or 1 (defect), shape `(N,)`; one class alone will do.
        scores: Raw image scores, shape `(N,)`, higher is more anomalous.
        calibrated: Threshold from good images.
        oracle: Threshold with the largest F1 on these labels.
        false_alarm_rate: The rate that the calibrated threshold was made for; named in its label.
        bins: Number of bins, the same for both classes.

    Raises:
        DataError: There is no score, or shapes differ.
    """
    labels, scores = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or labels.shape != scores.shape:
        raise DataError(f"labels and scores must both have shape (N,), not {labels.shape} and {scores.shape}")
    figure = new_figure(8.4, 4.2)
    top, strip = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    edges = np.histogram_bin_edges(scores, bins=bins)
    for index, colour in enumerate(CLASS_COLOURS):
        chosen = scores[labels == index]
        label = f"{CLASS_NAMES[index]} ({len(chosen)} images)"
        top.hist(chosen, edges, color=colour, alpha=0.6, edgecolor="white", linewidth=0.6, label=label)
        strip.plot(
            chosen, np.full(len(chosen), 1 - index), "|", color=colour, markersize=11, markeredgewidth=1.2, alpha=0.8
        )
    if calibrated is not None:
        rate = "on good images" if false_alarm_rate is None else f"at {100 * false_alarm_rate:g} % false alarms"
        _threshold(top, strip, calibrated, f"calibrated {rate}: {calibrated:.4g}", INK, "-")
    if oracle is not None:
        _threshold(top, strip, oracle, f"oracle (uses test labels): {oracle:.4g}", FAINT, "--")
    top.set_ylabel("images")
    top.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    strip.set(xlabel="image score (raw; higher is more anomalous)", ylim=(-0.7, 1.7))
    strip.set_yticks([1, 0], CLASS_NAMES)
    strip.tick_params(axis="y", length=0)
    strip.grid(False)
    strip.spines["left"].set_visible(False)
    return figure


def _threshold(top: Axes, strip: Axes, value: float, label: str, colour: str, dashes: str) -> None:
    top.axvline(value, color=colour, linewidth=1.6, linestyle=dashes, label=label)
    strip.axvline(value, color=colour, linewidth=1.6, linestyle=dashes)
