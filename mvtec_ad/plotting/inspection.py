"""The figure of an inspection: the image, where the defect is seen, and the way to the verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.images import map_scale, show_image, show_map
from mvtec_ad.plotting.style import (
    ANOMALY_MAP,
    CLASS_NAMES,
    DEFECT,
    FAINT,
    GOOD,
    INK,
    STYLE,
    bare,
    file_title,
    new_figure,
    outlined,
)

# all other words are in ink
WORD_COLOURS = {"good": GOOD, "sure: good": GOOD, "defect": DEFECT, "sure: defect": DEFECT, "skipped": FAINT}


@rc_context(STYLE)
def inspection_figure(inspection: Any, truth: int | None = None) -> Figure:
    """The picture, the anomaly map over it, and the way to the verdict; the verdict is the headline.

    A white line on the map runs where it crosses the middle of its colour scale.

    Args:
        inspection: An `Inspection`; where it has no picture or no map, it is said why or that there is none.
        truth: 0 (good) or 1 (defect): says whether the verdict is right.
    """
    anomaly_map, picture = inspection.anomaly_map, inspection.picture
    if anomaly_map is not None and np.ndim(anomaly_map) != 2:
        raise DataError(f"the heat map of {inspection.image} must be (h, w), not {np.shape(anomaly_map)}")
    figure = new_figure(10.4, 3.7)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    if picture is None:
        _nothing(left, inspection.problem or "no picture")
    else:
        size = show_image(left, picture)
        left.set_title(file_title(Path(inspection.image)))
    if picture is None or anomaly_map is None:
        _nothing(middle, "no heat map")
    else:
        norm = Normalize(*(inspection.map_scale or map_scale([anomaly_map])), clip=True)
        show_map(middle, picture, anomaly_map, norm)
        _outline(middle, np.asarray(anomaly_map, dtype=np.float64), (norm.vmin + norm.vmax) / 2, size)
        middle.set_title(f"heat map: {inspection.map_name}" if inspection.map_name else "heat map")
        bar = figure.colorbar(ScalarMappable(norm, ANOMALY_MAP), ax=middle, fraction=0.05, pad=0.02, extend="both")
        bar.outline.set_visible(False)
    _way(right, inspection.path)
    words = inspection.verdict
    if inspection.product:
        words += f" · {inspection.product} {inspection.view}".rstrip()
    if truth is not None and inspection.verdict in CLASS_NAMES:
        words += ", right" if CLASS_NAMES[int(truth)] == inspection.verdict else ", wrong"
    elif truth is not None:  # neither right nor wrong
        words += f"; truly {CLASS_NAMES[int(truth)]}"
    looks = {"fontweight": "bold", "fontsize": 14, "x": 0.01, "ha": "left"}
    figure.suptitle(words, color=WORD_COLOURS.get(inspection.verdict, INK), **looks)
    return figure


def _nothing(axes: Axes, words: str) -> None:
    """An empty place, and why it is empty."""
    bare(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", facecolor="#F3F3F1")
    axes.text(0.5, 0.5, textwrap.fill(words, 28), ha="center", va="center", color=FAINT)


def _outline(axes: Axes, anomaly_map: np.ndarray, level: float, size: tuple[int, int]) -> None:
    """A line round what lies above a level, over a picture of this height and width."""
    if not anomaly_map.min() < level < anomaly_map.max():
        return
    rows, columns = (
        (np.arange(cells) + 0.5) * length / cells - 0.5 for cells, length in zip(anomaly_map.shape, size, strict=True)
    )
    contour = axes.contour(columns, rows, anomaly_map, levels=[level], colors=["white"], linewidths=1.3)
    contour.set_path_effects(outlined(2.4))
    axes.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))


def _way(axes: Axes, path: Sequence[Any]) -> None:
    """The steps from top to bottom: a bead each on a string, its stage and result, its words below."""
    bare(axes)
    axes.set_title("the way" if path else "")
    heights, bottom = [], 0.2
    for step in path:
        lines = textwrap.wrap(step.words, 52)
        colour = WORD_COLOURS.get(step.result, INK)
        heights.append(bottom + 0.3)
        axes.plot(0.2, heights[-1], "o", color=colour, markersize=8, zorder=3)
        stage = axes.text(0.6, heights[-1], f"{step.stage}: ", va="center_baseline")
        looks = {"color": colour, "fontweight": "bold", "va": "bottom", "annotation_clip": False}
        axes.annotate(step.result, (1, 0), xycoords=stage, **looks)
        looks = {"fontsize": 8.5, "color": "#555555", "linespacing": 1.3}
        axes.text(0.6, heights[-1] + 0.4, "\n".join(lines), va="top", **looks)
        bottom += 1.0 + 0.5 * len(lines)
    if heights:
        axes.plot([0.2, 0.2], [heights[0], heights[-1]], color=FAINT, linewidth=1.2, zorder=1)
    axes.set(xlim=(0, 10), ylim=(max(bottom, 8.0), 0))
