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
from matplotlib.text import Annotation
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.images import _show_map, draw_mask, heat_scale, show_image
from mvtec_ad.plotting.style import (
    CLASS_NAMES,
    DEFECT,
    FAINT,
    GOOD,
    HEAT,
    INK,
    STYLE,
    bare,
    new_figure,
    outlined,
)

WORD_COLOURS = {"good": GOOD, "defect": DEFECT, "sure: good": GOOD, "sure: defect": DEFECT}  # other words are in ink


@rc_context(STYLE)
def inspection_figure(inspection: Any, mask: ArrayLike | None = None, truth: int | None = None) -> Figure:
    """The picture, the heat map over it, and the way to the verdict; the verdict is the headline.

    A white line on the heat map runs where it crosses the middle of its colour scale.

    Args:
        inspection: An `Inspection`; where it has no picture or no heat map, it is said why or that there is none.
        mask: True defect, bool `(h, w)`, to be stretched over the picture; outlined where not empty.
        truth: 0 (good) or 1 (defect): says whether the verdict is right.

    Raises:
        DataError: The heat map is not `(h, w)`.
    """
    heat, picture = inspection.heat, inspection.picture
    if heat is not None and np.ndim(heat) != 2:
        raise DataError(f"the heat map of {inspection.image} must be (h, w), not {np.shape(heat)}")
    figure = new_figure(10.4, 3.7)
    photo, hot, way = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    if picture is None:
        _nothing(photo, inspection.problem or "no picture")
    else:
        size = show_image(photo, picture)
        if mask is not None:
            draw_mask(photo, mask, size)
        photo.set_title(_name(inspection.image), parse_math=False)
    if picture is None or heat is None:
        _nothing(hot, "no heat map")
    else:
        norm = Normalize(*(inspection.heat_scale or heat_scale([heat])), clip=True)
        _show_map(hot, picture, heat, norm)
        _middle(hot, np.asarray(heat, dtype=np.float64), norm, size)
        hot.set_title(f"heat map: {inspection.heat_name}" if inspection.heat_name else "heat map", parse_math=False)
        bar = figure.colorbar(ScalarMappable(norm, HEAT), ax=hot, fraction=0.05, pad=0.02, extend="both")
        bar.outline.set_visible(False)
    _way(way, inspection.path)
    figure.suptitle(
        _headline(inspection, truth),
        color=WORD_COLOURS.get(inspection.verdict, INK),
        fontweight="bold",
        fontsize=14,
        x=0.01,
        ha="left",
        parse_math=False,
    )
    return figure


def _name(image: str) -> str:
    """The last two parts of a path, as much of their end as fits over a picture."""
    name = "/".join(Path(image).parts[-2:])
    return name if len(name) <= 36 else "…" + name[-35:]


def _headline(inspection: Any, truth: int | None) -> str:
    """Verdict, product and view, and whether it is right; a verdict other than good and defect is neither."""
    words = inspection.verdict
    if inspection.product:
        words += f" · {inspection.product} {inspection.view}".rstrip()
    if truth is None:
        return words
    if inspection.verdict not in CLASS_NAMES:
        return f"{words}; truly {CLASS_NAMES[int(truth)]}"
    return words + (", right" if CLASS_NAMES[int(truth)] == inspection.verdict else ", wrong")


def _nothing(axes: Axes, words: str) -> None:
    """An empty place, and why it is empty."""
    bare(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", facecolor="#F3F3F1")
    axes.text(0.5, 0.5, textwrap.fill(words, 28), ha="center", va="center", color=FAINT, parse_math=False)


def _middle(axes: Axes, heat: np.ndarray, norm: Normalize, size: tuple[int, int]) -> None:
    """Outline what lies above the middle of the colour scale."""
    half = (norm.vmin + norm.vmax) / 2
    if not heat.min() < half < heat.max():
        return
    rows, columns = (
        (np.arange(cells) + 0.5) * length / cells - 0.5 for cells, length in zip(heat.shape, size, strict=True)
    )
    contour = axes.contour(columns, rows, heat, levels=[half], colors=["white"], linewidths=1.3)
    contour.set_path_effects(outlined(2.4))
    axes.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))


def _way(axes: Axes, path: Sequence[Any]) -> None:
    """The steps from top to bottom: a bead each on a string, its stage and outcome, its words below."""
    bare(axes)
    axes.set_title("the way" if path else "")
    places, bottom = [], 0.2
    for step in path:
        lines = textwrap.wrap(step.words, 52)
        colour = WORD_COLOURS.get(step.outcome, FAINT if step.outcome == "skipped" else INK)
        places.append(bottom + 0.3)
        axes.plot(0.2, places[-1], "o", color=colour, markersize=8, zorder=3)
        stage = axes.text(0.6, places[-1], f"{step.stage}: ", va="center_baseline")
        beside(axes, stage, step.outcome, colour, fontweight="bold")
        words = {"fontsize": 8.5, "color": "#555555", "linespacing": 1.3, "parse_math": False}
        axes.text(0.6, places[-1] + 0.4, "\n".join(lines), va="top", **words)
        bottom += 1.0 + 0.5 * len(lines)
    if places:
        axes.plot([0.2, 0.2], [places[0], places[-1]], color=FAINT, linewidth=1.2, zorder=1)
    axes.set(xlim=(0, 10), ylim=(max(bottom, 8.0), 0))


def beside(axes: Axes, text: Any, words: str, colour: str, **looks: Any) -> Annotation:
    """Words to the right of a text, on its line."""
    looks |= {"color": colour, "va": "bottom", "annotation_clip": False, "parse_math": False}
    return axes.annotate(words, (1, 0), xycoords=text, **looks)
