"""Figures of generated pictures: mosaics, how they grow, and AnoGAN's search for an image.

Pictures stand as they are given, MNIST's white ink on black included. A pixel is shown as a square of a whole number of
dots wherever a picture is smaller than its place, so that nothing is blurred and no row of pixels is thinner than
another.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.animation import animation
from mvtec_ad.plotting.images import show_image
from mvtec_ad.plotting.style import FAINT, METHOD_COLOURS, STYLE, new_figure

DOTS = 90  # to an inch, as `to_png` draws; all lengths below are in dots
PAPER = 255  # between pictures
EDGE = 8
LINE = 20  # height of a line of text


def tiles(images: ArrayLike, columns: int) -> np.ndarray:
    """Pictures in rows of `columns`, one white pixel between neighbours; places that stay empty are white.

    Args:
        images: `(N, H, W)` or `(N, H, W, 3)`, uint8, N from 1.
        columns: From 1; more than N count as N.

    Returns:
        R rows of C pictures, `(R * (H + 1) - 1, C * (W + 1) - 1)`, with a last axis of 3 for coloured ones; uint8.

    Raises:
        DataError: The pictures or the number of columns are something else.
    """
    images = _pictures(images)
    if columns < 1:
        raise DataError(f"a mosaic needs 1 or more columns, not {columns}")
    count, height, width = images.shape[:3]
    columns = min(columns, count)
    rows = -(-count // columns)
    mosaic = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *images.shape[3:]), PAPER, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        mosaic[top : top + height, left : left + width] = image
    return mosaic


def _pictures(images: ArrayLike, what: str = "pictures") -> np.ndarray:
    """The pictures as one array, once it is clear that they are pictures of one size."""
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise DataError(f"{what} must have one size") from error
    if array.dtype != np.uint8 or array.shape[3:] not in ((), (3,)) or array.ndim < 3 or 0 in array.shape:
        raise DataError(f"{what} must be uint8 (N, H, W) or (N, H, W, 3), N from 1, not {array.dtype} {array.shape}")
    return array


@rc_context(STYLE)
def drawn_grid(images: ArrayLike, columns: int = 4, title: str | None = None, side: float = 0.8) -> Figure:
    """A mosaic of small pictures.

    Args:
        images: `(N, H, W)` or `(N, H, W, 3)`, uint8.
        columns: Pictures per row.
        title: Above the mosaic; broken into lines where it is wider.
        side: About how wide a picture is, in inches: pixels are a whole number of dots wide.

    Raises:
        DataError: The images or the number of columns are wrong, see `tiles`.
    """
    mosaic = tiles(images, columns)
    width, height = _shown_size(mosaic, _dots_per_pixel(images, side))
    lines = [] if title is None else textwrap.wrap(title, max(width // 7, 12))
    figure = _sheet(max([width, *map(_text_width, lines)]) + 2 * EDGE, height + 2 * EDGE + LINE * len(lines))
    axes = _show(figure, mosaic, EDGE, EDGE + LINE * len(lines), width, height)
    axes.set_title("\n".join(lines))
    return figure


@rc_context(STYLE)
def drawn_strips(rows: Mapping[str, ArrayLike], columns: int | None = None, side: float = 0.6) -> Figure:
    """Named mosaics of small pictures, one below the other, each with its name at the left.

    Args:
        rows: Name -> `(N, H, W)` or `(N, H, W, 3)`, uint8; N, H and W are the same for all.
        columns: Pictures per line of a mosaic; all in one line when not given.
        side: As in `drawn_grid`.

    Raises:
        DataError: There is no row, rows differ in number or size of pictures, or one holds something else.
    """
    arrays = {str(name): _pictures(images, f"pictures of {name}") for name, images in rows.items()}
    shapes = {array.shape[:3] for array in arrays.values()}
    if len(shapes) != 1:
        raise DataError(f"rows must hold as many pictures of one size, at least one row, not {sorted(shapes)}")
    mosaics = {name: tiles(array, len(array) if columns is None else columns) for name, array in arrays.items()}
    first = next(iter(arrays))
    width, height = _shown_size(mosaics[first], _dots_per_pixel(arrays[first], side))
    label, step = max(map(_text_width, arrays)) + EDGE, height + EDGE
    figure = _sheet(EDGE + label + width + EDGE, EDGE + step * len(rows))
    for index, (name, mosaic) in enumerate(mosaics.items()):
        axes = _show(figure, mosaic, EDGE + label, EDGE + index * step, width, height)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=EDGE * 72 / DOTS)
    return figure


@rc_context(STYLE)
def growth(grids: ArrayLike, titles: Sequence[str], columns: int = 4, side: float = 0.6, seconds: float = 0.8) -> bytes:
    """What a generator makes of the same noise as it learns, as an endless GIF.

    Args:
        grids: `(K, N, H, W)` or `(K, N, H, W, 3)`, uint8: N pictures at each of K moments.
        titles: One short line for each moment, such as "epoch 5".
        columns: Pictures per row.
        side: As in `drawn_grid`.
        seconds: How long each moment is shown.

    Returns:
        The bytes of the GIF.

    Raises:
        DataError: Grids are something else, or titles are not K.
    """
    moments = [_pictures(grid, "pictures of a moment") for grid in grids]
    if len({moment.shape for moment in moments}) != 1 or len(titles) != len(moments):
        raise DataError(f"growth needs grids of one shape and a title for each, not {len(moments)} and {len(titles)}")
    width, height = _shown_size(tiles(moments[0], columns), _dots_per_pixel(moments[0], side))
    room = max(width, *map(_text_width, titles))

    def frame(moment: np.ndarray, title: str) -> Figure:
        figure = _sheet(EDGE + room + EDGE, EDGE + LINE + height + EDGE)
        _show(figure, tiles(moment, columns), EDGE, EDGE + LINE, width, height).set_title(title)
        return figure

    return animation(map(frame, moments, titles), seconds, dpi=DOTS)


@rc_context(STYLE)
def search_figure(
    target: ArrayLike,
    pictures: Sequence[ArrayLike],
    losses: ArrayLike,
    steps: Sequence[int],
    chosen: int | None = None,
    side: float = 0.9,
) -> Figure:
    """AnoGAN's search through the latent space: the image searched for, what was found on the way, and the losses.

    Args:
        target: The image searched for, `(H, W)` or `(H, W, 3)`; uint8, as all pictures.
        pictures: K pictures of the chosen restart on its way, of the size of the target.
        losses: `(T, R)`, finite: row t holds the losses of R restarts at step t.
        steps: K of the steps 0 to T - 1, one for each picture; dots on the line.
        chosen: The restart to emphasise, 0 to R - 1; by default the one with the lowest loss at the end.
        side: As in `drawn_grid`.

    Raises:
        DataError: Something has another shape, size or range.
    """
    pictures, target = _pictures(pictures), _pictures([target], "the target")[0]
    try:
        losses, steps = np.asarray(losses, dtype=np.float64), np.asarray(steps)
    except (TypeError, ValueError) as error:
        raise DataError("losses and steps must be tables of numbers") from error
    if losses.ndim != 2 or not losses.size or not np.isfinite(losses).all():
        raise DataError(f"losses must be finite numbers for each step and restart, (T, R), not {losses.shape}")
    if pictures.shape[1:] != target.shape:
        raise DataError(f"pictures must have the target's shape {target.shape}, not {pictures.shape[1:]}")
    if (
        steps.shape != (len(pictures),)
        or steps.dtype.kind not in "iu"
        or not 0 <= steps.min() <= steps.max() < len(losses)
    ):
        raise DataError(f"each of the {len(pictures)} pictures needs a step from 0 to {len(losses) - 1}")
    if chosen is None:
        chosen = int(losses[-1].argmin())
    if not 0 <= chosen < losses.shape[1]:
        raise DataError(f"the chosen restart must be 0 to {losses.shape[1] - 1}, not {chosen}")
    width, height = _shown_size(target, _dots_per_pixel(pictures, side))
    left, apart = EDGE + width + 3 * EDGE, width + EDGE
    below = EDGE + LINE + height + 2 * LINE
    figure = _sheet(max(left + apart * len(steps), 460), below + 190 + 45)
    _show(figure, target, EDGE, EDGE + LINE, width, height).set_title("target", fontsize=9, fontweight="bold")
    for index, (step, picture) in enumerate(zip(steps, pictures, strict=True)):
        axes = _show(figure, picture, left + index * apart, EDGE + LINE, width, height)
        axes.set_title(f"step {step}", fontsize=9)
    axes = _place(figure, 60, below, figure.bbox.width * DOTS / figure.dpi - 60 - 2 * EDGE, 190)
    _restarts(axes, losses, steps, chosen)
    return figure


def _restarts(axes: Axes, losses: np.ndarray, steps: np.ndarray, chosen: int) -> None:
    """The chosen restart over the others, dots where pictures were taken."""
    others = np.delete(losses, chosen, axis=1)
    for index, loss in enumerate(others.T):
        name = None if index else f"the other {others.shape[1]}".removesuffix(" 1")
        axes.plot(loss, color=FAINT, linewidth=1.0, alpha=0.7, label=name)
    axes.plot(losses[:, chosen], color=METHOD_COLOURS[0], linewidth=2.2, label="chosen restart")
    axes.plot(steps, losses[steps, chosen], "o", color=METHOD_COLOURS[0], markersize=5.5, markeredgecolor="white")
    axes.margins(x=0.02)
    axes.set(xlabel="step")
    axes.set_title("loss")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1, reverse=True)


def _dots_per_pixel(images: ArrayLike, side: float) -> float:
    """How large a pixel is shown so that a picture is about `side` inches wide or high; whole if 1 or more."""
    scale = side * DOTS / max(np.shape(images)[1:3])
    if not scale > 0:
        raise DataError(f"pictures need a side above 0 inches, not {side}")
    return scale if scale < 1 else round(scale)


def _shown_size(image: np.ndarray, scale: float) -> tuple[int, int]:
    """Width and height in dots."""
    return round(image.shape[1] * scale), round(image.shape[0] * scale)


def _sheet(width: float, height: float) -> Figure:
    """An empty figure on which every part gets its place by hand: only so do pixels fall on whole dots."""
    figure = new_figure((width + 1e-6) / DOTS, (height + 1e-6) / DOTS)
    figure.set_layout_engine("none")
    return figure


def _place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in dots from the upper left corner."""
    whole, high = figure.get_size_inches() * DOTS
    return figure.add_axes((left / whole, 1 - (top + height) / high, width / whole, height / high))


def _show(figure: Figure, image: np.ndarray, left: float, top: float, width: float, height: float) -> Axes:
    """An image that fills its place."""
    axes = _place(figure, left, top, width, height)
    show_image(axes, image)
    axes.images[0].set_interpolation("nearest" if width >= image.shape[1] else "auto")
    return axes


def _text_width(text: str) -> int:
    """Of one line of a figure's ordinary text."""
    written = new_figure(1, 1).text(0, 0, text)
    return int(np.ceil(written.get_window_extent().width * DOTS / written.figure.dpi)) + 2
