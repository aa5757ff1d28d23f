"""Figures that put methods beside each other: intervals, paired differences, defect types, and what accuracy costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.metrics import format_metric, format_number
from mvtec_ad.plotting.style import FAINT, INK, METHOD_COLOURS, STYLE, new_figure


@rc_context(STYLE)
def interval_rows(
    metrics_by_part: Mapping[str, Mapping[str, Mapping]],
    trivial: Collection[str] = (),
    metric: str = "image AUROC",
    chance: float | None = 0.5,
) -> Figure:
    """A row per method, a column per set of images: the mean over seeds and its 95 % interval.

    Args:
        metrics_by_part: Name of the images -> row -> one metric of `evaluate`, `{"mean", "low", "high"}`. A row that is
            missing in a column was not scored there.
        trivial: Rows that need no model; they are grey.
        metric: What the values are, for the axis.
        chance: Where a line is drawn; None draws none.

    Raises:
        DataError: There is nothing to draw.
    """
    names = list(dict.fromkeys(name for rows in metrics_by_part.values() for name in rows))
    if not names:
        raise DataError("there is no row to draw")
    width = 1.9 + 0.075 * max(map(len, names)) + 3.6 * len(metrics_by_part)
    figure = new_figure(width, 0.9 + 0.32 * len(names))
    panels = figure.subplots(1, len(metrics_by_part), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (part, rows) in zip(panels, metrics_by_part.items(), strict=True):
        if chance is not None:
            axes.axvline(chance, color=FAINT, linewidth=1, linestyle=":")
        for place, name in enumerate(names):
            colour = FAINT if name in trivial else METHOD_COLOURS[0]
            _interval_row(axes, place, rows.get(name), colour)
        axes.set(title=part, xlabel=metric)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
        label.set_color(FAINT if name in trivial else INK)
    return figure


def _interval_row(axes: Axes, place: int, values: Mapping | None, colour: str) -> None:
    text = "not scored"
    if values is not None:
        text = format_metric(values)
        ends = [values["low"], values["high"]]
        axes.plot(ends, [place, place], color=colour, alpha=0.45, linewidth=5, solid_capstyle="butt")
        axes.plot(values["mean"], place, "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.8)
    colour = FAINT if values is None else INK
    axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=colour)


@rc_context(STYLE)
def difference_matrix(differences: pd.DataFrame, metric: str = "image AUROC") -> Figure:
    """How much the method of a row is above the method of a column; framed where the interval excludes 0.

    Args:
        differences: Columns first, second, mean, differs and differs_holm, as from `benchmark.compare.paired`.
        metric: What differs.

    Raises:
        DataError: There is no pair.
    """
    if differences.empty:
        raise DataError("there is no pair of methods to draw")
    names = list(dict.fromkeys([*differences["first"], *differences["second"]]))
    values = np.full((len(names), len(names)), np.nan)
    widest = 0.075 * max(map(len, names))
    figure = new_figure(1.6 + widest + 0.62 * len(names), 1.5 + widest * 0.75 + 0.44 * len(names))
    axes = figure.subplots()
    for line in differences.itertuples():
        one, other = names.index(line.first), names.index(line.second)
        values[one, other], values[other, one] = line.mean, -line.mean
    reach = max(float(np.nanmax(np.abs(values))), 1e-9)
    picture = axes.imshow(values, cmap="BrBG", vmin=-1.2 * reach, vmax=1.2 * reach, aspect="auto")
    for line in differences.itertuples():
        one, other = names.index(line.first), names.index(line.second)
        for row, column in ((one, other), (other, one)):
            _difference_cell(axes, row, column, values[row, column], reach, line.differs, line.differs_holm)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axes, label=f"{metric}: row − column", shrink=0.8)
    bar.outline.set_visible(False)
    forms = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=INK, linewidth=1.6, label="95 % interval excludes 0"),
        Line2D([], [], linestyle="none", marker="$\\mathbf{.1}$", color=INK, markersize=11, label="also after Holm"),
    ]
    figure.legend(handles=forms, loc="outside upper left", ncols=2)
    return figure


def _difference_cell(
    axes: Axes, row: int, column: int, value: float, reach: float, differs: bool, differs_holm: bool
) -> None:
    colour = "white" if abs(value) > 0.8 * reach else INK
    text = format_number(value).replace("-", "−")
    weight = "bold" if differs_holm else "normal"
    axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour, weight=weight)
    if differs:
        frame = Rectangle((column - 0.45, row - 0.44), 0.9, 0.88, fill=False, edgecolor=INK, linewidth=1.6)
        axes.add_patch(frame)


@rc_context(STYLE)
def defect_type_table(table: pd.DataFrame, metric: str = "image AUROC") -> Figure:
    """A row per method, a column per defect type; value, and below it the 95 % interval.

    Args:
        table: Columns row, defect, images, mean, low and high, as from `benchmark.compare.by_defect`.
        metric: What the values are; 0.5 is chance.

    Raises:
        DataError: There is no row.
    """
    if table.empty:
        raise DataError("there is no defect type to draw")
    names, defects = list(dict.fromkeys(table["row"])), list(dict.fromkeys(table["defect"]))
    values = np.full((len(names), len(defects)), np.nan)
    figure = new_figure(1.4 + 0.075 * max(map(len, names)) + 1.25 * len(defects), 1.1 + 0.5 * len(names))
    axes = figure.subplots()
    for line in table.itertuples():
        values[names.index(line.row), defects.index(line.defect)] = line.mean
    picture = axes.imshow(values, cmap="cividis", vmin=0.4, vmax=1.0, aspect="auto")
    for line in table.itertuples():
        row, column = names.index(line.row), defects.index(line.defect)
        colour = INK if line.mean > 0.72 else "white"
        interval = f"[{format_number(line.low)}, {format_number(line.high)}]"
        axes.text(column, row - 0.12, format_number(line.mean), ha="center", va="center", fontsize=10, color=colour)
        axes.text(column, row + 0.26, interval, ha="center", va="center", fontsize=7.5, color=colour)
    counts = table.groupby("defect")["images"].max()
    axes.set_xticks(range(len(defects)), [f"{name}\n{counts[name]} images" for name in defects], fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.colorbar(picture, ax=axes, label=metric, extend="min").outline.set_visible(False)
    return figure


@rc_context(STYLE)
def accuracy_and_cost(table: pd.DataFrame, metric: str = "image AUROC", trivial: Collection[str] = ()) -> Figure:
    """Accuracy against the time of one image; the larger a dot, the larger the model on disk.

    Args:
        table: Columns row, mean, low, high, milliseconds and model_mb (nan where no model was kept: a small dot). A row
            without a time is left out.
        metric: What mean, low and high are.
        trivial: Rows that need no model; they are grey.

    Raises:
        DataError: No row has a time.
    """
    table = table[np.isfinite(table["milliseconds"]) & (table["milliseconds"] > 0)].reset_index(drop=True)
    if table.empty:
        raise DataError("no row says how many milliseconds an image takes")
    figure = new_figure(8.4, max(3.8, 1.2 + 0.3 * len(table)))
    axes = figure.subplots()
    axes.set(xscale="log", xlabel="milliseconds per image", ylabel=metric, title="dot: size of the model on disk")
    axes.xaxis.set_major_formatter("{x:g}")
    low, high = table["milliseconds"].min() / 2, table["milliseconds"].max() * 2
    axes.set_xlim(low, high)
    bottom, top = table["low"].min() - 0.02, min(table["high"].max() + 0.02, 1.02)
    axes.set_ylim(bottom, top)
    heights = _spread(table["mean"], (top - bottom) / max(14, 1.15 * len(table)), bottom, top)
    for place, line in enumerate(table.itertuples()):
        colour = FAINT if line.row in trivial else METHOD_COLOURS[place % len(METHOD_COLOURS)]
        area = 30 if np.isnan(line.model_mb) else 30 + 22 * line.model_mb
        axes.vlines(line.milliseconds, line.low, line.high, color=colour, alpha=0.45, linewidth=3)
        axes.scatter(line.milliseconds, line.mean, s=area, color=colour, edgecolor="white", linewidth=0.8, zorder=3)
        size = "" if np.isnan(line.model_mb) else f" ({line.model_mb:.1f} MB)"
        axes.annotate(
            f"{line.row}{size}",
            (line.milliseconds, line.mean),
            xytext=(1.03, heights[place]),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=FAINT if line.row in trivial else INK,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "alpha": 0.7},
        )
    return figure


def _spread(values: ArrayLike, gap: float, bottom: float, top: float) -> np.ndarray:
    """Heights of labels: near the values, in their order, `gap` apart, and between `bottom` and `top`."""
    values = np.asarray(values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    placed = values[order].copy()
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    placed -= max(0.0, placed[-1] - top)  # what was pushed out at the top pushes the others down again
    for i in range(len(placed) - 2, -1, -1):
        placed[i] = min(placed[i], placed[i + 1] - gap)
    heights = np.empty_like(values)
    heights[order] = np.maximum(placed, bottom + gap * np.arange(len(placed)))
    return heights
