"""Curves: ROC and precision–recall, PRO, histograms of scores, the spread over seeds, losses of a training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from mvtec_ad.errors import DataError
from mvtec_ad.metrics import average_precision, format_metric, format_number, image_auroc
from mvtec_ad.plotting.style import CLASS_COLOURS, CLASS_NAMES, FAINT, INK, METHOD_COLOURS, STYLE, in_font, new_figure

_DASHES = ("-", "--", "-.", ":")


@rc_context(STYLE)
def roc_and_pr(labels: ArrayLike, scores_by_name: Mapping[str, ArrayLike]) -> Figure:
    """ROC curve and precision–recall curve of one or several methods, with AUROC and average precision.

    Labels are 0 (good) or 1 (defect), `(N,)`, and so many raw scores of each method, higher is more anomalous.
    """
    labels = np.asarray(labels)
    figure = new_figure(10, 4.6)
    roc, pr = figure.subplots(1, 2)
    for index, (name, scores) in enumerate(scores_by_name.items()):
        dashes, colour = divmod(index, len(METHOD_COLOURS))
        look = {"color": METHOD_COLOURS[colour], "linestyle": _DASHES[dashes]}
        auroc, ap = image_auroc(labels, scores), average_precision(labels, scores)
        false_alarms, detections, _ = roc_curve(labels, scores, drop_intermediate=False)
        roc.plot(false_alarms, detections, label=f"{name}: AUROC {format_number(auroc)}", clip_on=False, **look)
        precision, recall, _ = precision_recall_curve(labels, scores)
        # The precision at a recall holds back to the recall before it: these steps enclose the average precision.
        pr.step(recall, precision, where="post", label=f"{name}: AP {format_number(ap)}", clip_on=False, **look)
    share = float(np.mean(labels))
    dotted = {"color": FAINT, "linewidth": 1, "linestyle": ":"}
    roc.plot([0, 1], [0, 1], label="chance: .500", **dotted)
    pr.axhline(share, label=f"chance, the share of defects: {format_number(share)}", **dotted)
    roc.set(xlabel="false-alarm rate (good images called defective)", ylabel="detection rate (defects found)")
    pr.set(xlabel="recall (defects found)", ylabel="precision (alarms that are defects)")
    for axes, title, place in ((roc, "ROC", "lower right"), (pr, "Precision–recall", "lower left")):
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=title)
        axes.legend(loc=place)
    return figure


@rc_context(STYLE)
def pro_curve_figure(fpr: ArrayLike, pro: ArrayLike, limit: float = 0.3) -> Figure:
    """The per-region-overlap curve, with the area that AUPRO integrates.

    `fpr` and `pro`, `(V,)` each, are as from `pro_curve`; the area ends at `limit`.
    """
    fpr, pro = np.asarray(fpr, dtype=np.float64), np.asarray(pro, dtype=np.float64)
    inside = fpr <= limit
    grid = np.append(fpr[inside], limit)
    heights = np.append(pro[inside], np.interp(limit, fpr, pro))
    area = auc(grid, heights) / limit

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
def score_histogram(
    labels: ArrayLike, scores: ArrayLike, calibrated: float | None = None, oracle: float | None = None
) -> Figure:
    """Histogram of the image scores of both classes, each image as a tick below it, and the thresholds.

    Labels, 0 (good) or 1 (defect), and raw scores are `(N,)`; one class alone will do. The thresholds are that from
    good images and the one with the largest F1 on these labels.
    """
    labels, scores = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or labels.shape != scores.shape:
        raise DataError(f"labels and scores must both have shape (N,), not {labels.shape} and {scores.shape}")
    figure = new_figure(8.4, 4.2)
    top, strip = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    edges = np.histogram_bin_edges(scores, bins=30)
    for index, colour in enumerate(CLASS_COLOURS):
        chosen = scores[labels == index]
        label = f"{CLASS_NAMES[index]} ({len(chosen)} images)"
        top.hist(chosen, edges, color=colour, alpha=0.6, edgecolor="white", linewidth=0.6, label=label)
        strip.plot(
            chosen, np.full(len(chosen), 1 - index), "|", color=colour, markersize=11, markeredgewidth=1.2, alpha=0.8
        )
    calibrated_line = calibrated, "calibrated on good images", INK, "-"
    for value, name, colour, dashes in (calibrated_line, (oracle, "oracle (uses test labels)", FAINT, "--")):
        if value is not None:
            top.axvline(value, color=colour, linewidth=1.6, linestyle=dashes, label=f"{name}: {value:.4g}")
            strip.axvline(value, color=colour, linewidth=1.6, linestyle=dashes)
    top.set_ylabel("images")
    top.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    strip.set(xlabel="image score (raw; higher is more anomalous)", ylim=(-0.7, 1.7))
    strip.set_yticks([1, 0], CLASS_NAMES)
    strip.tick_params(axis="y", length=0)
    strip.grid(False)
    strip.spines["left"].set_visible(False)
    return figure


@rc_context(STYLE)
def seeds_strip(metrics_by_name: Mapping[str, Mapping], metric: str = "image AUROC") -> Figure:
    """One row per method: a dot for each seed, and the mean over seeds with its 95 % interval.

    The dots show what the seed moves, the bar what another draw of test images would move.

    Each row is one metric of `evaluate`, `{"mean", "low", "high", "values"}`; `metric` says which, for the axis.
    """
    if not metrics_by_name:
        raise DataError("there is no row to draw")
    figure = new_figure(7.4, 1.1 + 0.55 * len(metrics_by_name))
    axes = figure.subplots()
    for row, values in enumerate(metrics_by_name.values()):
        colour = METHOD_COLOURS[row % len(METHOD_COLOURS)]
        seeds = np.asarray(values["values"], dtype=np.float64)
        ends = [values["low"], values["high"]]
        axes.plot(ends, [row, row], color=colour, alpha=0.35, linewidth=7, solid_capstyle="butt")
        axes.plot(values["mean"], row, marker="|", color=INK, markersize=17, markeredgewidth=2, linestyle="none")
        offsets = np.linspace(-0.16, 0.16, len(seeds)) if len(seeds) > 1 else np.zeros(1)
        axes.plot(seeds, row + offsets, "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.7)
        place = {"xy": (1.01, row), "xycoords": ("axes fraction", "data"), "va": "center"}
        axes.annotate(format_metric(values), fontsize=9, color=INK, **place)
    axes.plot([], [], "o", color=FAINT, markersize=5, label="one seed")
    axes.plot(
        [], [], marker="|", color=INK, markersize=12, markeredgewidth=2, linestyle="none", label="mean over seeds"
    )
    axes.plot([], [], color=FAINT, alpha=0.45, linewidth=7, label="95 % interval of the mean")
    figure.legend(loc="outside upper center", ncols=4, handletextpad=0.9, columnspacing=1.6)
    axes.set_yticks(range(len(metrics_by_name)), list(map(in_font, metrics_by_name)))  # an axis writes them itself
    axes.set_ylim(len(metrics_by_name) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(metric)
    return figure


@rc_context(STYLE)
def training_curves(curves: Mapping[str, pd.DataFrame], what: str = "loss") -> Figure:
    """Loss against steps; a line for the training, dots for held-out images, and a mark at the kept weights.

    Curves are as `Run.curve` gives them: columns step, loss and, where looked at, held_out; `what` is for the axis.
    """
    if not curves:
        raise DataError("there is no curve to draw")
    figure = new_figure(7.4, 3.2)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        colour = METHOD_COLOURS[index % len(METHOD_COLOURS)]
        smooth = curve["loss"].rolling(20, min_periods=1).mean()
        axes.plot(curve["step"] + 1, smooth, color=colour, label=f"{name}, training")
        if "held_out" in curve:
            seen = curve.dropna(subset="held_out")
            best = seen.loc[seen["held_out"].idxmin()]
            axes.plot(seen["step"] + 1, seen["held_out"], "o--", color=colour, label=f"{name}, held-out good images")
            axes.plot(best["step"] + 1, best["held_out"], "o", markersize=12, fillstyle="none", color=colour)
    axes.set(xlabel="step", ylabel=what, yscale="log")
    axes.legend()
    return figure
