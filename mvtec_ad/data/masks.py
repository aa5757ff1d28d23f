"""What a mask file means: which of its pixels are marked, whatever its writer took for marking."""

from __future__ import annotations

import cv2
import numpy as np

from mvtec_ad.errors import DataError

CLASSES = 31  # the largest value that is taken for a class number
LEVELS = 32  # a mask with more different values is a soft or a lossy one
_WAY = "save it black where nothing is, white where the defect is, or remove it"


def marked_pixels(pixels: np.ndarray, name: str, *, lossy: bool = False) -> np.ndarray:
    """Which pixels a mask marks, (H, W) bool.

    Two values, class numbers, colours of classes on black, marks painted on a transparent ground and soft edges are
    understood, and dark marks on white where the whole frame is white. Nothing is dropped in silence: what can be read
    in two ways is refused.

    Args:
        pixels: (H, W) or (H, W, 3 or 4), as stored; alpha is last.
        name: of the file, for messages.
        lossy: whether the values next to 0 may be noise, as those of a JPEG.

    Raises:
        DataError: with the values levels, where it cannot be told what is marked.
    """
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"mask {name} holds {pixels.dtype} numbers: {_WAY}")
    values = _gray(pixels, name)
    levels = np.flatnonzero(np.bincount(values.ravel()))
    top = int(levels[-1])
    listed = ", ".join(map(str, levels)) if len(levels) <= 8 else f"{levels[0]} … {top}, {len(levels)} different"
    if top == 0:
        return np.zeros(values.shape, bool)
    if len(levels) == 1:
        raise DataError(f"mask {name} has the value {top} everywhere, so it marks all of its image or nothing: {_WAY}")
    if 8 * levels[0] > top or (lossy and top < 64):
        raise DataError(f"mask {name} holds the values {listed}, and it is unclear which of them is no defect: {_WAY}")
    few, strong = len(levels) <= LEVELS, values > top / 2
    if few and top > CLASSES and levels[-2] <= CLASSES and levels[-2] > 0 and not lossy:
        raise DataError(f"mask {name} holds the values {listed}: is {top} a class, or to be ignored? {_WAY}")
    weak = (values > top / (8 if few and not lossy else 4)) & ~strong  # below is what a JPEG leaves around an edge
    between = (values > top / 8) & (values < top * 7 / 8)
    beyond_edges = weak & (cv2.dilate(strong.view(np.uint8), np.ones((5, 5), np.uint8)) == 0)
    if few and not lossy and (top <= CLASSES or beyond_edges.any()):
        marked = values > 0  # class numbers
    elif (lossy or not few) and (between.mean() > 0.3 or (beyond_edges.any() and _apart(strong | weak, strong))):
        raise DataError(f"mask {name} holds the values {listed}, too many to tell which are marks: {_WAY}")
    else:
        marked = strong
    return _dark_on_white(marked, f"mask {name}, which holds the values {listed},")


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as they are displayed under an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])


def _gray(pixels: np.ndarray, name: str) -> np.ndarray:
    """(H, W): the largest colour of each pixel, or its alpha where that is what was painted with."""
    if pixels.ndim == 2:
        return pixels
    colours, alpha = pixels[..., :3].max(2), pixels[..., 3] if pixels.shape[2] == 4 else None
    if alpha is None or alpha.min() == alpha.max():
        return colours
    visible = colours[alpha > 0] > 0  # what the transparent ones would be nobody sees
    if visible.all() or not visible.any():
        return alpha
    raise DataError(f"mask {name} marks other pixels by its colours than by its transparency: {_WAY}")


def _apart(marked: np.ndarray, strong: np.ndarray) -> bool:
    """Whether a region of `marked` holds no pixel of `strong`."""
    count, regions = cv2.connectedComponents(marked.view(np.uint8), connectivity=8)
    return len(np.unique(regions[strong])) < count - 1


def _dark_on_white(marked: np.ndarray, what: str) -> np.ndarray:
    """The inverse where the frame is marked, and with it most of the image."""
    frame = np.concatenate([marked[0], marked[-1], marked[:, 0], marked[:, -1]])
    if frame.mean() <= 0.8:
        return marked
    if frame.all() and marked.mean() > 0.5:
        return ~marked
    raise DataError(f"{what} marks {marked.mean():.0%} of its image and the frame: is it dark on white? {_WAY}")
