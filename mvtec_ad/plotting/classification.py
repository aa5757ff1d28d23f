"""Figures of a classifier of parts: verdicts, calibration, training, and what errors cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics import calibration_error, cost_threshold, format_number, mean_cost, reliability
from mvtec_ad.plotting.style import CLASS_COLOURS, CLASS_NAMES, FAINT, INK, METHOD_COLOURS, STYLE, new_figure

_CHECKED = ["train_accuracy", "validation_loss", "validation_accuracy", "validation_auroc"]


def _colour(index: int) -> str:
    return METHOD_COLOURS[index % len(METHOD_COLOURS)]


@rc_context(STYLE)
def confusion_matrices(counts_by_name: Mapping[str, ArrayLike]) -> Figure:
    """Confusion matrices side by side; in each cell the number of parts and their share of the row, which is the shade.

    Args:
        counts_by_name: Counts of shape `(2, 2)` as from `confusion`: rows are the truth, columns the verdict.

    Raises:
        DataError: There is no matrix, or one is not `(2, 2)` whole numbers from 0.
    """
    if not counts_by_name:
        raise DataError("there is no confusion matrix to draw")
    figure = new_figure(0.8 + 2.3 * len(counts_by_name), 2.9)
    panels = figure.subplots(1, len(counts_by_name), squeeze=False)[0]
    for axes, (name, counts) in zip(panels, counts_by_name.items(), strict=True):
        counts = np.asarray(counts)
        if counts.shape != (2, 2) or counts.dtype.kind not in "iu" or counts.min() < 0:
            raise DataError(f"the confusion matrix of {name} must hold (2, 2) counts; make it with `confusion`")
        _matrix(axes, counts)
        axes.set(title=name, xlabel="verdict")
        axes.tick_params(labelleft=axes is panels[0])
    panels[0].set_ylabel("truth")
    return figure


def _matrix(axes: Axes, counts: np.ndarray) -> None:
    parts = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(parts, 1)
    axes.imshow(shares, cmap="Greys", vmin=-0.1, vmax=1.25)  # neither white nor black
    for (row, column), count in np.ndenumerate(counts):
        share = f"{100 * shares[row, column]:.1f} %" if parts[row] else "no part"
        colour = "white" if shares[row, column] > 0.6 else INK
        axes.text(column, row - 0.08, f"{count}", ha="center", va="center", color=colour, fontsize=14)
        axes.text(column, row + 0.2, share, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks([0, 1], CLASS_NAMES)
    axes.set_yticks([0, 1], CLASS_NAMES)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, colour in zip(labels, CLASS_COLOURS, strict=True):
            label.set_color(colour)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.axhline(0.5, color="white", linewidth=2)
    axes.axvline(0.5, color="white", linewidth=2)


@rc_context(STYLE)
def reliability_diagram(predictions_by_name: Mapping[str, tuple[ArrayLike, ArrayLike]], bins: int = 10) -> Figure:
    """Share of defects against the predicted probability of a defect, with 95 % intervals; calibrated is the diagonal.

    Args:
        predictions_by_name: Name -> (labels, probabilities of a defect), two arrays of shape `(N,)`.
        bins: Number of bins of equal width, as in `reliability`; a bin without a part has no dot.

    Raises:
        DataError: There is nothing to draw, shapes differ, or a probability is not in [0, 1].
        SettingsError: `bins` is below 1.
    """
    if not predictions_by_name:
        raise DataError("there are no probabilities to draw")
    figure = new_figure(5.2, 4.9)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":", label="calibrated")
    for index, (name, (labels, probabilities)) in enumerate(predictions_by_name.items()):
        table = reliability(labels, probabilities, bins)
        error = format_number(calibration_error(labels, probabilities, bins))
        axes.vlines(table.confidence, table.low, table.high, color=_colour(index), alpha=0.4, linewidth=4)
        axes.plot(
            table.confidence,
            table.frequency,
            "o-",
            color=_colour(index),
            linewidth=1.4,
            markersize=5,
            label=f"{name}: ECE {error}",
            clip_on=False,
        )
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="predicted probability of a defect (mean in the bin)",
        ylabel="share of defects (bar: 95 % interval)",
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@rc_context(STYLE)
def learning_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and accuracy against the step; a ring marks the kept check, the first with the highest validation AUROC.

    Args:
        curves: Name -> columns step (counted from 0), loss, train_accuracy, validation_loss, validation_accuracy and
            validation_auroc, a row a step; the last four are nan but at checks. Shares are in [0, 1].

    Raises:
        DataError: There is no curve, or one lacks a column.
    """
    if not curves:
        raise DataError("there is no curve to draw")
    figure = new_figure(10, 4.2)
    losses, accuracies = figure.subplots(1, 2, sharex=True)
    for index, (name, curve) in enumerate(curves.items()):
        missing = [column for column in ["step", "loss", *_CHECKED] if column not in curve]
        if missing:
            raise DataError(f"the learning curve of {name} lacks the columns {', '.join(missing)}")
        colour = _colour(index)
        smooth = curve["loss"].rolling(20, min_periods=1).mean()
        losses.plot(curve["step"] + 1, smooth, color=colour)
        checks = curve.dropna(subset=_CHECKED)
        accuracies.plot(checks["step"] + 1, checks["train_accuracy"], ".-", color=colour)
        for axes, column in ((losses, "validation_loss"), (accuracies, "validation_accuracy")):
            axes.plot(checks["step"] + 1, checks[column], "o", color=colour, markersize=5)
            if len(checks):
                kept = checks.loc[checks["validation_auroc"].idxmax()]
                axes.plot(kept["step"] + 1, kept[column], "o", markersize=12, fillstyle="none", color=colour)
        losses.plot([], [], color=colour, linewidth=6, label=name)
    losses.set(xlabel="step", ylabel="loss", yscale="log", title="Loss (training: mean of 20 steps)")
    accuracies.set(xlabel="step", ylabel="accuracy", title="Accuracy (share of right verdicts)")
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter("{x:g}")
    losses.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(*losses.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    _forms_legend(figure)
    return figure


def _forms_legend(figure: Figure) -> None:
    """What lines, dots and rings are: a legend of its own, so that it does not grow with the number of runs."""
    forms = [
        Line2D([], [], color=INK, label="training"),
        Line2D([], [], color=INK, marker="o", markersize=5, linestyle="none", label="validation"),
        Line2D(
            [],
            [],
            color=INK,
            marker="o",
            markersize=12,
            fillstyle="none",
            linestyle="none",
            label="kept: highest validation AUROC",
        ),
    ]
    figure.legend(handles=forms, loc="outside lower center", ncols=3)


@rc_context(STYLE)
def cost_curve(labels: ArrayLike, scores: ArrayLike, ratios: ArrayLike) -> Figure:
    """Mean cost per part of the cost-optimal threshold against the cost ratio, beside two verdicts without a model.

    The threshold is chosen on the very labels that price it, so a further batch of parts will cost rather more.

    Args:
        labels: 0 (good) or 1 (defect), shape `(N,)`, in the proportion in which parts come.
        scores: Raw finite logits, shape `(N,)`, higher is more defective.
        ratios: How many false alarms a miss costs, positive, shape `(R,)`, in any order.

    Raises:
        DataError: Only one class is present, shapes differ, or a score is not finite.
        SettingsError: There is no ratio, or one is not positive.
    """
    ratios = np.sort(np.asarray(ratios, dtype=np.float64), axis=None)
    if ratios.size == 0 or not (np.isfinite(ratios) & (ratios > 0)).all():
        raise SettingsError("ratios are what a miss costs in false alarms: positive finite numbers, such as 1, 10, 100")
    thresholds = [cost_threshold(labels, scores, ratio, 1.0) for ratio in ratios]
    costs = {
        "call all good": [mean_cost(labels, scores, np.inf, ratio, 1.0) for ratio in ratios],
        "call all defective": [mean_cost(labels, scores, -np.inf, ratio, 1.0) for ratio in ratios],
        "cost-optimal threshold": [
            mean_cost(labels, scores, threshold, ratio, 1.0)
            for threshold, ratio in zip(thresholds, ratios, strict=True)
        ],
    }
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    looks = ((CLASS_COLOURS[0], "--"), (CLASS_COLOURS[1], "--"), (METHOD_COLOURS[0], "-"))
    for (name, values), (colour, dashes) in zip(costs.items(), looks, strict=True):
        axes.plot(ratios, values, color=colour, linestyle=dashes, label=name)
    # The worse of the two verdicts without a model may cost a hundred times more: it leaves through the top.
    top = 1.25 * np.minimum(costs["call all good"], costs["call all defective"]).max()
    axes.set(
        xscale="log",
        ylim=(-0.02 * top, top),  # a cost of 0 is seen as a line, not hidden by the axis
        xlabel="cost of a miss / cost of a false alarm",
        ylabel="mean cost per part (in false alarms)",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
