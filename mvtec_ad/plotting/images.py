"""Figures of images: the gallery, and heat maps on one colour scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.style import CLASS_COLOURS, CLASS_NAMES, HEAT, INK, MASK, STYLE, bare, new_figure, outlined


def show_image(axes: Axes, image: ArrayLike) -> tuple[int, int]:
    """Draw one image and return its (height, width).

    Args:
        axes: Where to draw.
        image: `(H, W, 3)` or grey `(H, W)`; uint8 in [0, 255] or float in [0, 1].
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise DataError(f"an image must have shape (H, W, 3) or (H, W), not {image.shape}")
    full = 255 if image.dtype == np.uint8 else 1.0
    axes.imshow(image, cmap="gray", vmin=0, vmax=full)  # the limits concern grey images only
    bare(axes)
    return image.shape[0], image.shape[1]


def draw_mask(axes: Axes, mask: ArrayLike, size: tuple[int, int], width: float = 1.6) -> QuadContourSet | None:
    """Outline a mask half-way between the pixels inside and outside; nothing for an empty one.

    Args:
        axes: Axes that show an image.
        mask: Bool array `(h, w)`, of the image's size or to be stretched over it.
        size: Height and width of the image.
        width: Of the line, in points.

    Returns:
        The contour, in the pixel coordinates of the image, or None.
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


def _grid(
    cells: int, columns: int, side: float, extra_width: float = 0.0, aspect: float = 1.0
) -> tuple[Figure, list[Axes]]:
    """A figure with `cells` axes in rows of `columns`, each `aspect` times as high as wide; the rest stays empty."""
    columns = min(columns, cells)
    rows = -(-cells // columns)
    figure = new_figure(columns * side + extra_width, rows * (side * aspect + 0.3))
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
    side: float = 2.1,
) -> Figure:
    """Images side by side, defects outlined.

    Args:
        images: N images of shape `(H, W, 3)` or `(H, W)`, uint8 or float in [0, 1]; sizes may differ.
        titles: One line for each.
        columns: Images per row.
        masks: N masks of shape `(H, W)`, true where defective; outlined where not empty.
        labels: 0 (good) or 1 (defect) for each; colours the titles.
        side: Width of an image in inches; below 1.8 titles and outlines shrink with it.

    Raises:
        DataError: There is no image, or as many titles, masks or labels as images are not given.
    """
    if len(images) == 0:
        raise DataError("a gallery needs at least one image")
    _same_length(len(images), titles=titles, masks=masks, labels=labels)
    aspect = max(np.shape(image)[0] / np.shape(image)[1] for image in images)
    figure, grid = _grid(len(images), columns, side, aspect=aspect)
    small = min(side / 1.8, 1.0)
    for index, (axes, image) in enumerate(zip(grid, images, strict=True)):
        size = show_image(axes, image)
        if masks is not None:
            draw_mask(axes, masks[index], size, 1.6 * small)
        if titles is not None:
            colour = INK if labels is None else CLASS_COLOURS[int(labels[index])]
            axes.set_title(titles[index], color=colour, fontsize=10 * small)
    return figure


def heat_scale(maps: Sequence[ArrayLike]) -> tuple[float, float]:
    """Colour limits that suit all maps of a category: their 1st and their 99.8th percentile.

    Compute it once, from the maps of the whole test set, and give it to every figure of the category.
    """
    pixels = np.concatenate([np.asarray(anomaly_map, dtype=np.float64).ravel() for anomaly_map in maps])
    low, high = np.percentile(pixels, [1, 99.8])
    return float(low), float(high if high > low else low + 1)


@rc_context(STYLE)
def heat_maps(
    images: Sequence[ArrayLike],
    maps: Sequence[ArrayLike],
    masks: Sequence[ArrayLike] | None = None,
    scores: ArrayLike | None = None,
    threshold: float | None = None,
    titles: Sequence[str] | None = None,
    scale: tuple[float, float] | None = None,
    labels: Sequence[int] | None = None,
    pairs: int = 2,
) -> Figure:
    """Each image with its defect outlined, and beside it the anomaly map over the grey image, all on one colour scale.

    Scaling each map by its own minimum and maximum makes good parts look defective; here one scale, shown by the colour
    bar, serves all.

    Args:
        images: N images of shape `(H, W, 3)` or `(H, W)`, uint8 or float in [0, 1].
        maps: N raw anomaly maps of shape `(h, w)`, higher is more anomalous; stretched over the image.
        masks: N masks of shape `(h, w)`, true where defective.
        scores: Raw image scores, shape `(N,)`; printed above the maps.
        threshold: With scores: `score > threshold` is called a defect.
        titles: One line for each image.
        scale: Lowest and highest score of the colour scale; by default `heat_scale` of the maps given.
        labels: 0 (good) or 1 (defect) for each; by default whether the mask marks anything. With them, a verdict is
            said to be right or wrong.
        pairs: Image and map pairs per row.

    Raises:
        DataError: There is no image, or one of the other lists has another length.
    """
    if len(images) == 0:
        raise DataError("heat maps need at least one image")
    _same_length(len(images), maps=maps, masks=masks, scores=scores, titles=titles, labels=labels)
    if labels is None and masks is not None:
        labels = [int(np.any(mask)) for mask in masks]
    norm = Normalize(*(scale or heat_scale(maps)), clip=True)
    figure, grid = _grid(2 * len(images), 2 * pairs, side=2.2, extra_width=0.7)
    for index, image in enumerate(images):
        photo, heat = grid[2 * index : 2 * index + 2]
        size = show_image(photo, image)
        _show_map(heat, image, maps[index], norm)
        if masks is not None:
            draw_mask(photo, masks[index], size)
        if titles is not None:
            photo.set_title(titles[index])
        if scores is not None:
            truth = None if labels is None else int(labels[index])
            _verdict(heat, float(scores[index]), threshold, truth)
    bar = figure.colorbar(
        ScalarMappable(norm, HEAT), ax=grid, fraction=0.05, pad=0.01, extend="both", extendfrac=0.03, aspect=30
    )
    bar.set_label("anomaly score of the pixel")
    bar.outline.set_visible(False)
    return figure


def _show_map(axes: Axes, image: ArrayLike, anomaly_map: ArrayLike, norm: Normalize) -> None:
    """The map over the grey image; low scores let the image through, high ones cover it."""
    image = np.asarray(image)
    grey = image[..., :3].mean(axis=2) if image.ndim == 3 else image.astype(float)
    show_image(axes, grey / (255 if image.dtype == np.uint8 else 1))
    anomaly_map = np.asarray(anomaly_map, dtype=np.float64)
    height, width = grey.shape
    opacity = 0.2 + 0.65 * np.asarray(norm(anomaly_map))
    axes.imshow(
        anomaly_map,
        cmap=colormaps[HEAT],
        norm=norm,
        alpha=opacity,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="bilinear",
    )


def _verdict(axes: Axes, score: float, threshold: float | None, truth: int | None) -> None:
    """Score, verdict and whether it is right, as the title of the map."""
    if threshold is None:
        axes.set_title(f"score {score:.4g}")
        return
    called = int(score > threshold)
    text = f"score {score:.4g} {'>' if called else '≤'} {threshold:.4g}\n{CLASS_NAMES[called]}"
    if truth is not None:
        text += ", right" if called == truth else ", wrong"
    axes.set_title(text, color=CLASS_COLOURS[called], fontweight="bold" if truth not in (None, called) else "normal")
