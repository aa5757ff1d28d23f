"""Figures of images: galleries, anomaly maps on one colour scale, rows of pictures, mosaics, animations."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.style import (
    ANOMALY_MAP,
    CLASS_COLOURS,
    CLASS_NAMES,
    INK,
    MASK,
    STYLE,
    bare,
    in_font,
    new_figure,
    outlined,
    to_png,
)

# --- parts of figures -------------------------------------------------------------------------------------------------


def show_image(axes: Axes, image: ArrayLike) -> tuple[int, int]:
    """Draw one image, `(H, W, 3)` or grey `(H, W)`, uint8 or float in [0, 1], and return its (height, width)."""
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise DataError(f"an image must have shape (H, W, 3) or (H, W), not {image.shape}")
    full = 255 if image.dtype == np.uint8 else 1.0
    axes.imshow(image, cmap="gray", vmin=0, vmax=full)  # the limits concern grey images only
    bare(axes)
    return image.shape[0], image.shape[1]


def draw_mask(axes: Axes, mask: ArrayLike, size: tuple[int, int], width: float = 1.6) -> QuadContourSet | None:
    """Outline a mask `(h, w)`, stretched over an image of `size` (height, width), half-way between inside and outside.

    Returns the contour in the image's pixel coordinates, None for an empty mask; `width` is the line's, in points.
    """
    mask = np.asarray(mask).astype(bool)
    if not mask.any():
        return None
    # A border of zeros closes the outline where a defect touches the edge of the image.
    padded = np.pad(mask.astype(float), 1)
    rows, columns = (
        (np.arange(-1, cells + 1) + 0.5) * length / cells - 0.5 for cells, length in zip(mask.shape, size, strict=True)
    )
    contour = axes.contour(columns, rows, padded, levels=[0.5], colors=[MASK], linewidths=width)
    contour.set_path_effects(outlined(1.75 * width))
    axes.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    return contour


def map_scale(maps: Sequence[ArrayLike]) -> tuple[float, float]:
    """Colour limits that suit all anomaly maps of a category: their 1st and their 99.8th percentile.

    Compute it once, from the maps of the whole test set, and give it to every figure of the category.
    """
    pixels = np.concatenate([np.asarray(anomaly_map, dtype=np.float64).ravel() for anomaly_map in maps])
    low, high = np.percentile(pixels, [1, 99.8])
    return float(low), float(high if high > low else low + 1)


def show_map(axes: Axes, image: ArrayLike, anomaly_map: ArrayLike, norm: Normalize) -> None:
    """An anomaly map over the grey image; low scores let the image through, high ones cover it."""
    image = np.asarray(image)
    grey = image[..., :3].mean(axis=2) if image.ndim == 3 else image.astype(float)
    show_image(axes, grey / (255 if image.dtype == np.uint8 else 1))
    anomaly_map = np.asarray(anomaly_map, dtype=np.float64)
    height, width = grey.shape
    axes.imshow(
        anomaly_map,
        cmap=ANOMALY_MAP,
        norm=norm,
        alpha=0.2 + 0.65 * np.asarray(norm(anomaly_map)),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="bilinear",
    )


def tiles(images: ArrayLike, columns: int) -> np.ndarray:
    """Mosaic of images in rows of `columns`, one white pixel between neighbours; places that stay empty are white.

    Images are `(N, H, W)` or `(N, H, W, 3)`, uint8, N from 1, else a DataError; R rows of C of them give
    `(R * (H + 1) - 1, C * (W + 1) - 1)`, with a last axis of 3 for coloured ones.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[3:] not in ((), (3,)) or images.ndim < 3 or 0 in images.shape:
        raise DataError(f"a mosaic needs uint8 (N, H, W) or (N, H, W, 3), N from 1, not {images.dtype} {images.shape}")
    count, height, width = images.shape[:3]
    columns = min(columns, count)
    rows = -(-count // columns)
    mosaic = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *images.shape[3:]), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        mosaic[top : top + height, left : left + width] = image
    return mosaic


# --- figures ----------------------------------------------------------------------------------------------------------


def _grid(
    cells: int, columns: int, size: float, extra_width: float = 0.0, aspect: float = 1.0
) -> tuple[Figure, list[Axes]]:
    """A figure with `cells` axes in rows of `columns`, each `aspect` times as high as wide; the rest stays empty."""
    columns = min(columns, cells)
    rows = -(-cells // columns)
    figure = new_figure(columns * size + extra_width, rows * (size * aspect + 0.3))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[cells:]:
        axes.remove()
    return figure, list(grid[:cells])


def _same_length(count: int, **lists: Sequence | None) -> None:
    for name, values in lists.items():
        if values is not None and len(values) != count:
            raise DataError(f"{count} images need {count} {name}, not {len(values)}")


@rc_context(STYLE)
def gallery(
    images: Sequence[ArrayLike],
    titles: Sequence[str] | None = None,
    columns: int = 5,
    masks: Sequence[ArrayLike] | None = None,
    labels: Sequence[int] | None = None,
    size: float = 2.1,
) -> Figure:
    """Images beside each other, defects outlined.

    Args:
        images: N images as in `show_image`; sizes may differ.
        titles: One line for each.
        columns: Images per row.
        masks: N masks of shape `(H, W)`, true where defective.
        labels: 0 (good) or 1 (defect) for each; colours the titles.
        size: Width of an image in inches; below 1.8 titles and outlines shrink with it.
    """
    if len(images) == 0:
        raise DataError("a gallery needs at least one image")
    _same_length(len(images), titles=titles, masks=masks, labels=labels)
    aspect = max(np.shape(image)[0] / np.shape(image)[1] for image in images)
    figure, grid = _grid(len(images), columns, size, aspect=aspect)
    small = min(size / 1.8, 1.0)
    for index, (axes, image) in enumerate(zip(grid, images, strict=True)):
        shape = show_image(axes, image)
        if masks is not None:
            draw_mask(axes, masks[index], shape, 1.6 * small)
        if titles is not None:
            colour = INK if labels is None else CLASS_COLOURS[int(labels[index])]
            axes.set_title(titles[index], color=colour, fontsize=10 * small)
    return figure


@rc_context(STYLE)
def anomaly_map_gallery(
    images: Sequence[ArrayLike],
    maps: Sequence[ArrayLike],
    masks: Sequence[ArrayLike] | None = None,
    scores: ArrayLike | None = None,
    threshold: float | None = None,
    titles: Sequence[str] | None = None,
    scale: tuple[float, float] | None = None,
    labels: Sequence[int] | None = None,
) -> Figure:
    """Each image with its defect outlined, and beside it the anomaly map over the grey image, all on one colour scale.

    Scaling each map by its own minimum and maximum makes good parts look defective; here one scale, shown by the colour
    bar, serves all. Two images stand in a row.

    Args:
        images: N images as in `show_image`.
        maps: N raw anomaly maps of shape `(h, w)`, higher is more anomalous; stretched over the image.
        masks: N masks of shape `(h, w)`, true where defective.
        scores: Raw image scores, shape `(N,)`; printed above the maps.
        threshold: With scores: `score > threshold` is called a defect.
        titles: One line for each image.
        scale: Lowest and highest score of the colour scale; by default `map_scale` of the maps given.
        labels: 0 (good) or 1 (defect) for each; by default whether the mask marks anything. With them, a verdict is
            said to be right or wrong.
    """
    if len(images) == 0:
        raise DataError("a gallery of anomaly maps needs at least one image")
    _same_length(len(images), maps=maps, masks=masks, scores=scores, titles=titles, labels=labels)
    if labels is None and masks is not None:
        labels = [int(np.any(mask)) for mask in masks]
    norm = Normalize(*(scale or map_scale(maps)), clip=True)
    figure, grid = _grid(2 * len(images), columns=4, size=2.2, extra_width=0.7)
    for index, (image, photo, overlay) in enumerate(zip(images, grid[::2], grid[1::2], strict=True)):
        shape = show_image(photo, image)
        show_map(overlay, image, maps[index], norm)
        if masks is not None:
            draw_mask(photo, masks[index], shape)
        if titles is not None:
            photo.set_title(titles[index])
        if scores is not None:
            _verdict(overlay, float(scores[index]), threshold, None if labels is None else int(labels[index]))
    bar = figure.colorbar(
        ScalarMappable(norm, ANOMALY_MAP), ax=grid, fraction=0.05, pad=0.01, extend="both", extendfrac=0.03, aspect=30
    )
    bar.set_label("anomaly score of the pixel")
    bar.outline.set_visible(False)
    return figure


def _verdict(axes: Axes, score: float, threshold: float | None, truth: int | None) -> None:
    """Score, verdict and whether it is right, as the title of the map."""
    if threshold is None:
        axes.set_title(f"score {score:.4g}")
        return
    predicted = int(score > threshold)
    text = f"score {score:.4g} {'>' if predicted else '≤'} {threshold:.4g}\n{CLASS_NAMES[predicted]}"
    if truth is not None:
        text += ", right" if predicted == truth else ", wrong"
    weight = "normal" if truth in (None, predicted) else "bold"
    axes.set_title(text, color=CLASS_COLOURS[predicted], fontweight=weight)


@rc_context(STYLE)
def picture_rows(
    rows: Mapping[str, Sequence[ArrayLike]],
    titles: Sequence[str] | None = None,
    masks: Sequence[ArrayLike] | None = None,
    scales: Mapping[str, tuple[float, float]] | None = None,
    size: float = 1.5,
) -> Figure:
    """The same parts seen in several ways: a row per way, a column per part; defects are outlined in the first row.

    Args:
        rows: Name -> N pictures: images `(H, W, 3)`, or anomaly maps `(H, W)`, which are shown on one scale per row.
        titles: One line for each column.
        masks: N masks of shape `(H, W)`, true where defective; outlined where not empty.
        scales: Row -> lowest and highest value of its colours; by default `map_scale` of the maps in the row.
        size: Of a picture, in inches.
    """
    counts = {len(values) for values in (*rows.values(), titles, masks) if values is not None}
    if not rows or len(counts) != 1 or 0 in counts:
        raise DataError(f"rows, titles and masks must have one length, at least 1, not {sorted(counts)}")
    count = counts.pop()
    figure = new_figure(count * size + 1.1, len(rows) * size + 0.35)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        maps = np.ndim(pictures[0]) == 2
        low, high = ((scales or {}).get(name) or map_scale(pictures)) if maps else (0, 1)
        for axes, picture in zip(line, pictures, strict=True):
            if maps:
                axes.imshow(picture, cmap=ANOMALY_MAP, vmin=low, vmax=high)
                bare(axes)
            else:
                show_image(axes, picture)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    first = next(iter(rows.values()))
    for column, axes in enumerate(grid[0]):
        if titles is not None:
            axes.set_title(titles[column], fontsize=9)
        if masks is not None:
            draw_mask(axes, masks[column], np.shape(first[column])[:2], 1.2)
    return figure


@rc_context(STYLE)
def tile_rows(rows: Mapping[str, ArrayLike], columns: int = 16, zoom: int = 2) -> Figure:
    """Named mosaics of small images, one below the other; a pixel is a square of whole dots, so that none is blurred.

    `rows`: name, which stands at the left, -> images as in `tiles`, in all rows as many of one size (else a DataError).
    `columns` are images per line of a mosaic, `zoom` dots a pixel, at the 90 dots an inch of `to_png`.
    """
    mosaics = [tiles(images, columns).repeat(zoom, 0).repeat(zoom, 1) for images in rows.values()]
    if len({mosaic.shape[:2] for mosaic in mosaics}) != 1:
        raise DataError(f"give at least one row, and as many images of one size in each, not {len(rows)} that differ")
    height, width = mosaics[0].shape[:2]
    left = 8 + 8 * max(len(in_font(name)) for name in rows)  # hardly a letter is wider
    whole, high = left + width + 8, 8 + (height + 8) * len(rows)
    figure = new_figure((whole + 1e-6) / 90, (high + 1e-6) / 90)
    figure.set_layout_engine("none")
    for index, (name, mosaic) in enumerate(zip(rows, mosaics, strict=True)):
        bottom = high - (height + 8) * (index + 1)
        figure.figimage(mosaic, left, bottom, cmap="gray", vmin=0, vmax=255)
        figure.text((left - 8) / whole, (bottom + height / 2) / high, name, ha="right", va="center")
    return figure


def animation(figures: Iterable[Figure], seconds: float = 1.2, dpi: float = 100) -> bytes:
    """Figures one after the other, as an endless GIF that GitHub shows.

    Each is shown for so many seconds, at `dpi` pixels per inch; no figure, or different sizes, are a DataError.
    """
    frames = []
    for figure in figures:
        with Image.open(io.BytesIO(to_png(figure, dpi))) as picture:
            # one palette per frame: a common one would turn the smooth colour scale into steps
            frames.append(picture.convert("RGB").quantize(255, method=Image.Quantize.MEDIANCUT))
    if not frames:
        raise DataError("an animation needs at least one figure")
    if len({frame.size for frame in frames}) > 1:
        raise DataError("the figures of an animation must have one size")
    buffer = io.BytesIO()
    first, *rest = frames
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=round(1000 * seconds), loop=0, optimize=False)
    return buffer.getvalue()
