"""Figures of rankings: ROC and precision–recall, PRO, and the spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from sklearn.metrics import precision_recall_curve, roc_curve

from mvtec_ad.errors import DataError
from mvtec_ad.metrics import average_precision, format_metric, format_number, image_auroc
from mvtec_ad.plotting.style import FAINT, INK, METHOD_COLOURS, STYLE, new_figure

_DASHES = ("-", "--", "-.", ":")


@rc_context(STYLE)
def roc_and_pr(labels: ArrayLike, scores_by_name: Mapping[str, ArrayLike]) -> Figure:
    """ROC curve and precision–recall curve of one or several methods, with AUROC and average precision.

    Args:
        labels: 0 (good) or 1 (defect), shape `(N,)`.
        scores_by_name: Raw image scores of each method, shape `(N,)`, higher is more anomalous.

    Raises:
        DataError: Only one class is present, shapes differ, or a score is not finite.
    """
    labels = np.asarray(labels)
    figure = new_figure(10, 4.6)
    roc, pr = figure.subplots(1, 2)
    for index, (name, scores) in enumerate(scores_by_name.items()):
        look = {
            "color": METHOD_COLOURS[index % len(METHOD_COLOURS)],
            "linestyle": _DASHES[index // len(METHOD_COLOURS)],
        }
        auroc, ap = image_auroc(labels, scores), average_precision(labels, scores)
        false_alarms, detections, _ = roc_curve(labels, scores, drop_intermediate=False)
        roc.plot(false_alarms, detections, label=f"{name}: AUROC {format_number(auroc)}", clip_on=False, **look)
        precision, recall, _ = precision_recall_curve(labels, scores)
        # The precision at a recall holds back to the recall before it: these steps enclose the average precision.
        pr.step(recall, precision, where="post", label=f"{name}: AP {format_number(ap)}", clip_on=False, **look)
    share = float(np.mean(labels))
    roc.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":", label="chance: .500")
    pr.axhline(
        share, color=FAINT, linewidth=1, linestyle=":", label=f"chance, the share of defects: {format_number(share)}"
    )
    roc.set(
        xlabel="false-alarm rate (good images called defective)", ylabel="detection rate (defects found)", title="ROC"
    )
    pr.set(xlabel="recall (defects found)", ylabel="precision (alarms that are defects)", title="Precision–recall")
    for axes in (roc, pr):
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(loc="lower right" if axes is roc else "lower left")
    return figure


@rc_context(STYLE)
def pro_curve_figure(fpr: ArrayLike, pro: ArrayLike, limit: float = 0.3) -> Figure:
    """The per-region-overlap curve, with the area that AUPRO integrates.

    Args:
        fpr: False-positive rate of the pixels, ascending from 0 to 1, shape `(V,)`, as from `pro_curve`.
        pro: Mean share of a defect region found, shape `(V,)`.
        limit: Where the area ends.
    """
    fpr, pro = np.asarray(fpr, dtype=np.float64), np.asarray(pro, dtype=np.float64)
    inside = fpr <= limit
    grid = np.append(fpr[inside], limit)
    heights = np.append(pro[inside], np.interp(limit, fpr, pro))
    area = float((np.diff(grid) * (heights[1:] + heights[:-1]) / 2).sum() / limit)

    figure = new_figure(5.6, 4.4)
    axes = figure.subplots()
    axes.fill_between(grid, heights, color=METHOD_COLOURS[0], alpha=0.22, linewidth=0)
    axes.plot(fpr, pro, color=METHOD_COLOURS[0], clip_on=False)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    axes.text(0.72, 0.69, "chance", color=FAINT, fontsize=9, va="top")
    axes.axvline(limit, color=INK, linewidth=1, linestyle="--")
    axes.text(limit + 0.015, 0.03, f"limit {limit:g}", fontsize=9)
    axes.text(limit / 2, 0.4, f"AUPRO\n{format_number(area)}", ha="center", va="center", fontsize=11)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="false-positive rate (normal pixels at or above the threshold)",
        ylabel="PRO (share of a defect region found, mean)",
        title=f"AUPRO = shaded area / {limit:g}",
    )
    return figure


@rc_context(STYLE)
def seeds_strip(
    metrics_by_name: Mapping[str, Mapping], reported: Mapping[str, float] | None = None, metric: str = "image AUROC"
) -> Figure:
    """One row per method: a dot for each seed, the mean over seeds with its 95 % interval, and the reported value.

    The dots show what the seed moves, the bar what another draw of test images would move.

    Args:
        metrics_by_name: One metric of `evaluate` per row: `{"mean", "low", "high", "values"}`.
        reported: Published values of some of the rows.
        metric: What the values are, for the axis.

    Raises:
        DataError: There is no row, or a reported value belongs to none.
    """
    reported = reported or {}
    unknown = set(reported) - set(metrics_by_name)
    if not metrics_by_name or unknown:
        raise DataError(f"reported values without a row: {sorted(unknown)}" if unknown else "there is no row to draw")
    figure = new_figure(7.4, 1.1 + 0.55 * len(metrics_by_name))
    axes = figure.subplots()
    for row, (name, values) in enumerate(metrics_by_name.items()):
        colour = METHOD_COLOURS[row % len(METHOD_COLOURS)]
        seeds = np.asarray(values["values"], dtype=np.float64)
        axes.plot(
            [values["low"], values["high"]], [row, row], color=colour, alpha=0.35, linewidth=7, solid_capstyle="butt"
        )
        axes.plot(values["mean"], row, marker="|", color=INK, markersize=17, markeredgewidth=2, linestyle="none")
        offsets = np.linspace(-0.16, 0.16, len(seeds)) if len(seeds) > 1 else np.zeros(1)
        axes.plot(seeds, row + offsets, "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.7)
        if name in reported:
            axes.plot(
                reported[name], row, marker="D", color="white", markersize=7, markeredgecolor=INK, linestyle="none"
            )
        axes.annotate(
            format_metric(values), (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=INK
        )
    _seeds_legend(figure, bool(reported))
    axes.set_yticks(range(len(metrics_by_name)), list(metrics_by_name))
    axes.set_ylim(len(metrics_by_name) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(metric)
    return figure


def _seeds_legend(figure: Figure, with_reported: bool) -> None:
    axes = figure.axes[0]
    none = {"linestyle": "none"}
    axes.plot([], [], "o", color=FAINT, markersize=5, label="one seed")
    axes.plot([], [], marker="|", color=INK, markersize=12, markeredgewidth=2, label="mean over seeds", **none)
    axes.plot([], [], color=FAINT, alpha=0.45, linewidth=7, label="95 % interval of the mean")
    if with_reported:
        axes.plot([], [], marker="D", color="white", markersize=7, markeredgecolor=INK, label="reported", **none)
    figure.legend(loc="outside upper center", ncols=4, handletextpad=0.9, columnspacing=1.6)
