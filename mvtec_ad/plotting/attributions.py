"""Figures of explanations: maps over images, what deleting their pixels does, and what random weights leave of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.metrics import format_number
from mvtec_ad.plotting.images import draw_mask, show_image
from mvtec_ad.plotting.style import FAINT, HEAT, METHOD_COLOURS, STYLE, new_figure, outlined

_PEAKS = {  # shape and colour both tell whether the largest value lies in the region
    "peak inside": {"marker": "o", "color": "#56F5A5", "markerfacecolor": "none"},
    "peak outside": {"marker": "x", "color": "#FFFFFF"},
    "peak": {"marker": "+", "color": "#FFFFFF"},
}


@rc_context(STYLE)
def attribution_rows(
    images: Sequence[ArrayLike],
    maps_by_name: Mapping[str, Sequence[ArrayLike]],
    regions: Sequence[ArrayLike] | None = None,
    titles: Sequence[str] | None = None,
    outlines: Sequence[ArrayLike] | None = None,
    side: float = 1.7,
) -> Figure:
    """A row per image: the image, its defect outlined, and a column per method or network with its map as heat.

    Methods have units of their own, so each column has a scale of its own, common to all its images: from 0, where
    the grey image shows alone, to the 99.5th percentile of the positive values (1). The largest value is marked.

    Args:
        images: N images `(H, W, 3)` or `(H, W)`, uint8 or float in [0, 1].
        maps_by_name: Name -> N maps `(H, W)` of the image's size; only positive values show.
        regions: N bool arrays `(H, W)`, true where the defect is; with them a peak is marked as inside or outside.
        titles: One line for each image, on the left of its row.
        outlines: N bool arrays `(H, W)` to be outlined, where these are not the regions.
        side: Width of a picture, in inches.

    Raises:
        DataError: There is no image or no map, or lists differ in length, or a map in size from its image.
    """
    lists = [*maps_by_name.values(), *(one for one in (regions, titles, outlines) if one is not None)]
    if not len(images) or not maps_by_name or any(len(one) != len(images) for one in lists):
        raise DataError(f"{len(images)} images need as many maps, regions, titles and outlines, at least 1")
    outlines = regions if outlines is None else outlines
    aspect = max(np.shape(image)[0] / np.shape(image)[1] for image in images)
    figure = new_figure((len(maps_by_name) + 1) * side + 1.6, len(images) * side * aspect + 0.7)
    grid = figure.subplots(len(images), len(maps_by_name) + 1, squeeze=False)
    norms = [Normalize(0, _positive_limit(maps), clip=True) for maps in maps_by_name.values()]
    for row, (line, image) in enumerate(zip(grid, images, strict=True)):
        size = show_image(line[0], image)
        if outlines is not None:
            draw_mask(line[0], outlines[row], size, 1.2)
        if titles is not None:
            line[0].set_ylabel(titles[row], rotation=0, ha="right", va="center")
        for axes, maps, norm in zip(line[1:], maps_by_name.values(), norms, strict=True):
            _show_attribution(axes, image, np.asarray(maps[row]), norm, None if regions is None else regions[row])
    for axes, name in zip(grid[0], ["image", *maps_by_name], strict=True):
        axes.set_title(name, fontsize=9)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), HEAT), ax=grid, fraction=0.05, pad=0.01, aspect=30)
    bar.set_label("evidence, per column")
    bar.outline.set_visible(False)
    _peak_legend(figure, ["peak"] if regions is None else ["peak inside", "peak outside"])
    return figure


def _positive_limit(maps: Sequence[ArrayLike]) -> float:
    """99.5th percentile of the positive values, 1 where there is none."""
    values = np.concatenate([np.ravel(one) for one in maps])
    positive = values[values > 0]
    return float(np.percentile(positive, 99.5)) if len(positive) else 1.0


def _show_attribution(
    axes: Axes, image: ArrayLike, attribution: np.ndarray, norm: Normalize, region: ArrayLike | None
) -> None:
    """Heat over the grey image, clear where nothing speaks for the answer, and the peak; a constant map has none."""
    image = np.asarray(image)
    grey = image[..., :3].mean(axis=2) if image.ndim == 3 else image.astype(float)
    size = show_image(axes, grey / (255 if image.dtype == np.uint8 else 1))
    if attribution.shape != size:
        raise DataError(f"a map has shape {attribution.shape}, its image {size}: enlarge it first")
    opacity = np.minimum(1.5 * np.asarray(norm(attribution)), 0.85)
    axes.imshow(attribution, cmap=colormaps[HEAT], norm=norm, alpha=opacity)
    if np.ptp(attribution) == 0:
        return
    row, column = np.unravel_index(attribution.argmax(), size)
    kind = "peak" if region is None else "peak inside" if np.asarray(region)[row, column] else "peak outside"
    axes.plot(column, row, **_PEAKS[kind], markersize=8, markeredgewidth=1.6, path_effects=outlined(3.2))
    axes.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))


def _peak_legend(figure: Figure, kinds: list[str]) -> None:
    handles = [
        Line2D([], [], **_PEAKS[kind], linestyle="", markersize=8, markeredgewidth=1.6, path_effects=outlined(3.2))
        for kind in kinds
    ]
    labels = [kind.replace("peak", "largest value") for kind in kinds]
    figure.legend(handles, labels, loc="outside lower center", ncols=2)


@rc_context(STYLE)
def deletion_insertion_curves(results: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """Mean probability of the explained answer, pixels being deleted or inserted in the order of each method's map.

    Args:
        results: Name -> what `deletion_insertion` returns: `deletion` and `insertion` `(N, steps + 1)`, and their
            areas `(N,)`.

    Raises:
        DataError: There is no result.
    """
    if not results:
        raise DataError("the curves need at least one method")
    figure = new_figure(10, 5.0)  # curves go anywhere, so the legends stand below them
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind, done, good in zip(
        panels, ("deletion", "insertion"), ("deleted", "inserted"), ("small", "large"), strict=True
    ):
        for index, (name, result) in enumerate(results.items()):
            curve = np.asarray(result[kind]).mean(0)
            area = float(np.mean(result[f"{kind}_area"]))
            colour = METHOD_COLOURS[index % len(METHOD_COLOURS)]
            axes.plot(
                np.linspace(0, 1, len(curve)),
                curve,
                color=colour,
                label=f"{name}: {format_number(area)}",
                clip_on=False,
            )
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"share of pixels {done}")
        axes.set_title(f"{kind}: a {good} area is good")
        axes.legend(title="mean area", alignment="left", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    panels[0].set_ylabel("probability of the answer explained, mean")
    return figure


@rc_context(STYLE)
def randomisation_figure(correlations: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """How much of each method's maps is left while the weights are drawn anew, from the output towards the input.

    Args:
        correlations: Method -> group of layers, in order -> rank correlation of each image's map with that of the
            trained network, `(N,)`; nan is left out.

    Raises:
        DataError: There is no method, or methods saw different groups.
    """
    groups = {tuple(values) for values in correlations.values()}
    if len(groups) != 1 or groups == {()}:
        raise DataError(f"methods must share one cascade of at least one group, not {sorted(groups)}")
    names = groups.pop()
    figure = new_figure(max(6.0, 1.1 * len(names) + 3.4), 4.2)
    axes = figure.subplots()
    axes.axhline(0, color=FAINT, linewidth=1, linestyle=":")
    for index, (method, values) in enumerate(correlations.items()):
        places = np.arange(len(names)) + 0.1 * (index - (len(correlations) - 1) / 2)
        finite = [np.asarray(values[name])[np.isfinite(values[name])] for name in names]
        quartiles = [np.quantile(one, [0.25, 0.5, 0.75]) if len(one) else [np.nan] * 3 for one in finite]
        low, middle, high = np.transpose(quartiles)
        colour = METHOD_COLOURS[index % len(METHOD_COLOURS)]
        axes.vlines(places, low, high, color=colour, linewidth=1.2)
        axes.plot(places, middle, color=colour, marker="o", markersize=5, label=method)
    axes.set_xticks(range(len(names)), [names[0], *(f"+ {name}" for name in names[1:])])
    axes.set(
        ylim=(-1, 1),
        xlabel="weights drawn anew, from the output towards the input",
        ylabel="rank correlation with the trained network's map",
        title="median and quartiles over images; a map that stays near 1 does not show what was learnt",
    )
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside right center")
    return figure
