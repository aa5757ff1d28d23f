"""Figures of learned embeddings: maps of them, how far types lie apart, and what they are good for."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.style import FAINT, GOOD, INK, METHOD_COLOURS, STYLE, bare, new_figure

TYPE_COLOURS = (
    *("#D55E00", "#56B4E9", "#009E73", "#AA4499", "#E6A700", "#332288"),
    *("#A6761D", "#E7298A", "#7FB800", "#882255", "#00A6A6", "#6C757D"),
)
MARKERS = ("o", "^", "s", "D", "v", "h", "P", "*")
MAP_NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
_CHANCE = {"color": FAINT, "linewidth": 1.4, "linestyle": "--", "label": "chance"}


def type_looks(table: pd.DataFrame) -> dict[tuple[str, str], tuple[str, str]]:
    """(category, defect) -> (colour, matplotlib marker), in sorted order.

    The marker tells the category. Colours go round through all types; a category of at most 12 types has none twice,
    so that marker and colour together tell the type. Good parts are blue.

    Args:
        table: Columns category and defect.

    Raises:
        DataError: A column is missing or there is no row.
    """
    missing = [column for column in ("category", "defect") if column not in table]
    if missing or not len(table):
        raise DataError(f"a map needs images and their category and defect; missing: {', '.join(missing) or 'images'}")
    pairs = sorted(set(zip(table["category"].astype(str), table["defect"].astype(str), strict=True)))
    categories = sorted({category for category, _ in pairs})
    markers, colours = dict(zip(categories, cycle(MARKERS), strict=False)), cycle(TYPE_COLOURS)
    return {(one, type_): (GOOD if type_ == "good" else next(colours), markers[one]) for one, type_ in pairs}


def checked_maps(maps: Mapping[str, ArrayLike], count: int) -> dict[str, np.ndarray]:
    """The maps as arrays `(count, 2)`.

    Raises:
        DataError: There is no map, or one has another shape or holds a number that is not finite.
    """
    if not maps:
        raise DataError("there is no map to draw: make one with `project`")
    arrays = {str(name): np.asarray(points, dtype=np.float64) for name, points in maps.items()}
    for name, points in arrays.items():
        if points.shape != (count, 2) or not np.isfinite(points).all():
            raise DataError(f"the map {name} must hold ({count}, 2) finite numbers; its shape is {points.shape}")
    return arrays


@rc_context(STYLE)
def embedding_maps(maps: Mapping[str, ArrayLike], table: pd.DataFrame) -> Figure:
    """Maps of one set of images side by side: the colour is the defect type, the marker the category.

    Only the axes of a map whose name begins with "pca" have a unit, and so ticks; both axes have one scale everywhere.

    Args:
        maps: Name -> points of shape `(N, 2)`.
        table: Columns category and defect, N rows in the same order.

    Raises:
        DataError: There is no map or image, one does not fit the table, or a column is missing.
    """
    looks, maps = type_looks(table), checked_maps(maps, len(table))
    handles = _legend_lines(looks)
    columns = min(len(maps), 3)
    rows = -(-len(maps) // columns)
    legend_columns = -(-len(handles) // (17 * rows))
    figure = new_figure(3.9 * columns + 1.9 * legend_columns, 3.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    types = list(zip(table["category"].astype(str), table["defect"].astype(str), strict=True))
    for axes, (name, points) in zip(grid, maps.items(), strict=False):
        for own, (colour, marker) in looks.items():
            chosen = points[[one == own for one in types]]
            axes.scatter(*chosen.T, s=34, c=colour, marker=marker, edgecolors="white", linewidths=0.5)
        axes.set_title(MAP_NAMES.get(name, name))
        axes.set_aspect("equal", "datalim")
        if name.lower().startswith("pca"):
            axes.set(xlabel="component 1", ylabel="component 2")
        else:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="#DDDDDD")
    for axes in grid[len(maps) :]:
        axes.remove()
    legend = figure.legend(handles=handles, loc="outside right upper", ncols=legend_columns)
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        text.set_fontweight("normal" if handle.get_marker() in MARKERS else "bold")
    return figure


def _legend_lines(looks: Mapping[tuple[str, str], tuple[str, str]]) -> list[Line2D]:
    """A line for each type, and where there are several categories, one without a marker for the name of each."""
    lines, several, before = [], len({category for category, _ in looks}) > 1, None
    for (category, defect), (colour, marker) in looks.items():
        if several and category != before:
            lines.append(Line2D([], [], linestyle="", label=category))
        before = category
        look = {"color": colour, "marker": marker, "markersize": 7, "markeredgecolor": "white"}
        lines.append(Line2D([], [], linestyle="", label=defect, **look))
    return lines


@rc_context(STYLE)
def dendrogram_and_distances(distances: pd.DataFrame) -> Figure:
    """Which types are alike: a tree that joins the nearest first (average linkage), and the distances in its order.

    Two groups are as far apart as pairs of their members are on average (Sokal & Michener, "A statistical method for
    evaluating systematic relationships", 1958). Up to 12 types, the distances are written in the cells.

    Args:
        distances: As from `type_distances`: `(T, T)`, T from 2, symmetric, 0 on the diagonal, named on both sides.

    Raises:
        DataError: The table is something else.
    """
    values = distances.to_numpy(dtype=np.float64)
    names = [str(name) for name in distances.index]
    if len(names) < 2 or list(distances.columns) != list(distances.index):
        raise DataError(f"distances must name the same 2 or more types on both sides; the shape is {values.shape}")
    if not np.isfinite(values).all() or (values != values.T).any() or np.diag(values).any() or values.min() < 0:
        raise DataError("distances must be finite, symmetric, from 0, and 0 on the diagonal: use `type_distances`")
    joined = linkage(squareform(values), "average", optimal_ordering=True)
    side = max(0.24 * len(names), 2.4)
    figure = new_figure(side + 5.2, side + 1.6)
    tree, matrix = figure.subplots(1, 2, width_ratios=[2 + 0.1 * side, side])
    drawn = dendrogram(joined, no_plot=True)
    for heights, places in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        tree.plot(heights, (np.array(places) - 5) / 10, color=INK, linewidth=1.2)  # scipy puts leaves at 5, 15, 25 …
    tree.set(xlabel="mean distance", ylim=(len(names) - 0.5, -0.5), yticks=[])
    tree.set_xlim(1.05 * max(joined[-1, 2], 1e-9), 0)
    tree.spines["left"].set_visible(False)
    _distance_cells(matrix, values[np.ix_(drawn["leaves"], drawn["leaves"])], [names[i] for i in drawn["leaves"]])
    bar = figure.colorbar(matrix.images[0], ax=matrix, fraction=0.05, pad=0.02, aspect=30)
    bar.set_label("cosine distance")
    bar.outline.set_visible(False)
    return figure


def _distance_cells(axes: Axes, values: np.ndarray, names: list[str]) -> None:
    """The matrix, near dark and far light; types are named on the left and below."""
    axes.imshow(values, cmap="viridis", vmin=0, vmax=max(values.max(), 1e-9), aspect="auto")
    bare(axes)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.tick_params(length=0)
    if len(names) <= 12:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value < 0.6 * values.max() else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)


@rc_context(STYLE)
def compared(
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    measure: str = "share named rightly (bar: 95 % interval)",
    chance: float | None = None,
) -> Figure:
    """A row per way, and in it a dot with its interval per look, each look in its own colour.

    Args:
        values: Way -> look -> `mean`, `low` and `high`; a way need not have every look.
        measure: What the numbers are; the label of the axis.
        chance: What guessing gives; a dashed line.

    Raises:
        DataError: There is no way or no look, or a value lacks a number.
    """
    looks = list(dict.fromkeys(look for own in values.values() for look in own))
    if not looks:
        raise DataError("there is nothing to compare: give at least one way with one look")
    height = 0.26 * len(looks) + 0.2  # inches of a row
    figure = new_figure(7.6, height * len(values) + 1.2)
    axes = figure.subplots()
    for index, look in enumerate(looks):
        rows = [row for row, own in enumerate(values.values()) if look in own]
        mean, low, high = _numbers({name: own[look] for name, own in values.items() if look in own})
        places = np.array(rows) + (index - (len(looks) - 1) / 2) * 0.26 / height
        colour = METHOD_COLOURS[index % len(METHOD_COLOURS)]
        axes.hlines(places, low, high, color=colour, linewidth=2.2, alpha=0.55)
        axes.plot(mean, places, "o", color=colour, markersize=6.5, label=look, clip_on=False)
    if chance is not None:
        axes.axvline(chance, **_CHANCE)
    for edge in range(1, len(values)):
        axes.axhline(edge - 0.5, color="#E6E6E6", linewidth=0.8)
    axes.set_yticks(range(len(values)), list(values))
    axes.set(ylim=(len(values) - 0.5, -0.5), xlabel=measure)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


@rc_context(STYLE)
def few_shot_curve(
    curves: Mapping[str, Mapping[int, Mapping[str, float]]],
    measure: str = "share named rightly (band: 95 % interval)",
    chance: float | None = None,
) -> Figure:
    """What few images of a new type are worth: the measure against the number shown of each type, on a log scale.

    Args:
        curves: Name -> number of images, from 1 -> `mean`, `low` and `high`.
        measure, chance: As in `compared`.

    Raises:
        DataError: There is no curve, one is empty or counts from below 1, or a value lacks a number.
    """
    if not curves or any(not curve or min(curve) < 1 for curve in curves.values()):
        raise DataError("curves need a name and values at 1 or more images")
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        counts = sorted(curve)
        mean, low, high = _numbers({f"{name} at {count}": curve[count] for count in counts})
        colour = METHOD_COLOURS[index % len(METHOD_COLOURS)]
        axes.fill_between(counts, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(counts, mean, "o-", color=colour, markersize=5, label=name)
    if chance is not None:
        axes.axhline(chance, **_CHANCE)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({count for curve in curves.values() for count in curve}))
    axes.xaxis.set(major_formatter="{x:g}", minor_locator=NullLocator())
    axes.set(xlabel="images shown of the new type", ylabel=measure)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _numbers(values: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """Means, lower and upper ends, shape `(3, N)`."""
    for name, value in values.items():
        if not {"mean", "low", "high"} <= set(value):
            raise DataError(f"{name} must have mean, low and high; it has {', '.join(map(str, value)) or 'nothing'}")
    return np.array([[value[key] for value in values.values()] for key in ("mean", "low", "high")], dtype=np.float64)
