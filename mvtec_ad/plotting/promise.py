"""Figures of what may be promised: narrow ones, whose words can be read on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.metrics import images_needed, true_rate, true_rate_interval
from mvtec_ad.plotting.style import CLASS_COLOURS, DEFECT, FAINT, GOOD, INK, METHOD_COLOURS, STYLE, new_figure

WIDTH = 5.2  # inches
_TICKS = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:g} %")


@rc_context(STYLE)
def true_rate_figure(count: int, false_alarm_rate: float, confidence: float = 0.95) -> Figure:
    """Range of the true false-alarm rate against the number of good images, and where `count` of them stand.

    Arguments and errors as in `true_rate_interval`; the figure shows four times as many images at least.
    """
    fewest = images_needed(false_alarm_rate)
    counts = np.unique(np.geomspace(fewest, max(4 * count, 40 * fewest), 160).round().astype(int))
    low, high = np.array([true_rate_interval(int(n), false_alarm_rate, confidence) for n in counts]).T
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    axes.fill_between(
        counts, low, high, color=GOOD, alpha=0.2, linewidth=0, label=f"with {100 * confidence:g} % probability"
    )
    means = [true_rate(int(n), false_alarm_rate).mean() for n in counts]
    axes.plot(counts, means, color=GOOD, linewidth=1.2, label="on average")
    axes.axhline(false_alarm_rate, color=INK, linewidth=1, linestyle="--", label="promised")
    ends = true_rate_interval(count, false_alarm_rate, confidence)
    axes.plot([count, count], ends, color=DEFECT, linewidth=3, solid_capstyle="butt")
    words = f"your {count}: {100 * ends[0]:.3g} to {100 * ends[1]:.3g} %"
    right = np.log(count / counts[0]) < np.log(counts[-1] / counts[0]) / 2
    look = {"ha": "left" if right else "right", "va": "bottom", "color": DEFECT, "textcoords": "offset points"}
    axes.annotate(words, (count, ends[1]), (4 if right else -4, 3), **look)
    axes.set(xscale="log", xlim=(counts[0], counts[-1]), ylim=(0, None))
    axes.set(xlabel="good images that the threshold comes from", ylabel="true false-alarm rate")
    axes.set_xticks([n for n in _TICKS if counts[0] <= n <= counts[-1]])
    _plain_along(axes.xaxis)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.legend(loc="upper right")
    return figure


@rc_context(STYLE)
def score_steps(scores_by_name: Mapping[str, ArrayLike], threshold: float) -> Figure:
    """Empirical distribution functions of scores, and the threshold: groups that are alike lie on each other."""
    figure = new_figure(WIDTH, 3.2)
    axes = figure.subplots()
    for (name, scores), colour in zip(scores_by_name.items(), (FAINT, GOOD, DEFECT), strict=False):
        axes.ecdf(np.asarray(scores, np.float64), color=colour, label=f"{name} ({np.size(scores)})")
    axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="image score (raw; higher is more anomalous)", ylabel="share of images at or below", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(_PERCENT)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@rc_context(STYLE)
def defect_sizes(areas: ArrayLike, contrasts: ArrayLike, detected: ArrayLike) -> Figure:
    """Defects by area and contrast, shares `(N,)`: full marks for those that were detected, `(N,)` bool."""
    areas, contrasts, detected = np.asarray(areas), np.asarray(contrasts), np.asarray(detected, bool)
    figure = new_figure(WIDTH, 3.7)
    axes = figure.subplots()
    marks = ((detected, "o", CLASS_COLOURS[0], "detected"), (~detected, "X", CLASS_COLOURS[1], "missed"))
    for chosen, marker, colour, name in marks:
        look = {"color": colour, "alpha": 0.75, "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.6}
        axes.plot(areas[chosen], contrasts[chosen], marker, label=f"{name} ({chosen.sum()})", **look)
    axes.set(xscale="log", xlabel="area, share of what the model sees", ylabel="contrast to its surroundings")
    _plain_along(axes.xaxis, _PERCENT)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(_PERCENT)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _plain_along(axis: Axis, formatter: FuncFormatter = _PLAIN) -> None:
    """No powers of ten along a logarithmic axis."""
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


@rc_context(STYLE)
def detection_grid(
    detection_rates: Mapping[str, ArrayLike], areas: Sequence[float], contrasts: Sequence[float]
) -> Figure:
    """Detection rates by contrast and area, a heat map per shape: name -> `(contrasts, areas)` in [0, 1]."""
    tables = {name: np.asarray(table, np.float64) for name, table in detection_rates.items()}
    if not tables or any(table.shape != (len(contrasts), len(areas)) for table in tables.values()):
        raise DataError(f"give rates of shape ({len(contrasts)}, {len(areas)}) for each shape of defect")
    figure = new_figure(WIDTH, 0.6 + 2.3 * len(tables))
    for axes, (name, table) in zip(figure.subplots(len(tables), squeeze=False)[:, 0], tables.items(), strict=True):
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(table):
            colour = "white" if value > 0.55 else INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=10)
        axes.set_xticks(range(len(areas)), [f"{100 * area:g} %" for area in areas])
        axes.set_yticks(range(len(contrasts)), [f"{100 * contrast:g} %" for contrast in contrasts])
        axes.set(title=f"{name}: detected, %", ylabel="contrast")
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    axes.set_xlabel("area, share of what the model sees")
    return figure


@rc_context(STYLE)
def cost_curves(thresholds: ArrayLike, costs: Mapping[float, ArrayLike], threshold: float) -> Figure:
    """Expected cost per part against the threshold, a curve per share of defective parts; its least cost is marked.

    `thresholds` are `(T,)`, ascending, the costs `(T,)` each; the one in use is a line.
    """
    thresholds = np.asarray(thresholds, np.float64)
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    for (prevalence, values), colour in zip(costs.items(), METHOD_COLOURS, strict=False):
        values = np.asarray(values, np.float64)
        axes.step(thresholds, values, where="post", color=colour, label=f"{100 * prevalence:g} % defective")
        best = int(values.argmin())
        axes.plot(thresholds[best], values[best], "o", color=colour, markeredgecolor="white")
    axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="threshold", ylabel="expected cost per part", xlim=(thresholds[0], thresholds[-1]))
    positive = np.concatenate([np.asarray(values, np.float64) for values in costs.values()])
    axes.set_yscale("symlog", linthresh=positive[positive > 0].min() if (positive > 0).any() else 1)  # costs may be 0
    if positive.min() == 0:  # with room for its mark, and nothing below
        axes.set_ylim(bottom=-0.2 * positive[positive > 0].min(initial=1))
        axes.set_yticks([tick for tick in axes.get_yticks() if tick >= 0])
    _plain_along(axes.yaxis)
    figure.legend(loc="outside upper left", ncols=2)
    return figure
