"""Printed text, in the DejaVu fonts that matplotlib carries."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

_CAP_HEIGHT = 96  # pixels of a capital letter in the cached print
_LOCK = threading.Lock()  # FreeType's faces are not made for threads


@lru_cache(maxsize=256)
def print_of(text: str, font: str = "DejaVuSans-Bold") -> np.ndarray:
    """Returns one line of text, cut close, large enough to be scaled down.

    Args:
        text: What to print.
        font: File name of a DejaVu font without its suffix: DejaVuSans, DejaVuSans-Bold, DejaVuSansMono-Bold, ...

    Returns:
        Array of shape `(rows, columns)`, float32, 1 where there is ink, read-only; a capital is 96 pixels high.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    with _LOCK:
        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
        face = ImageFont.truetype(str(path), round(_CAP_HEIGHT / 0.729), layout_engine=ImageFont.Layout.BASIC)
        left, top, right, bottom = face.getbbox(text)
        picture = Image.new("L", (right - left + 4, bottom - top + 4))
        ImageDraw.Draw(picture).text((2 - left, 2 - top), text, font=face, fill=255)
        ink = np.asarray(picture, np.float32) / 255
    ink.setflags(write=False)
    return ink


def stamp(picture: np.ndarray, shape: tuple[int, int], matrix: np.ndarray) -> np.ndarray:
    """Lays a small picture (a print, a bar code) onto a canvas, averaged where it shrinks.

    Args:
        picture: Array of shape `(rows, columns)`, float32.
        shape: Rows and columns of the canvas.
        matrix: 2×3 affine or 3×3 projective matrix from picture pixels to canvas pixels.

    Returns:
        Array of `shape`, float32; 0 outside the picture.
    """
    scale = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    if scale < 0.5:  # average before sampling, or thin strokes break up
        rows, columns = (max(2, round(side * 2 * scale)) for side in picture.shape)
        shrink = np.array([picture.shape[1] / columns, picture.shape[0] / rows, 1.0])
        picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
        matrix = matrix * shrink
    warp = cv2.warpAffine if len(matrix) == 2 else cv2.warpPerspective
    return warp(np.asarray(picture, np.float32), matrix.astype(np.float64), shape[::-1], flags=cv2.INTER_LINEAR)


def text(
    line: str,
    shape: tuple[int, int],
    pixels: float,
    centre: tuple[float, float],
    height: float,
    angle: float = 0.0,
    font: str = "DejaVuSans-Bold",
) -> np.ndarray:
    """Prints one line on a canvas.

    Args:
        line: What to print.
        shape: Rows and columns of the canvas.
        pixels: Canvas pixels per unit of `centre` and `height`.
        centre: x and y of the middle of the line, from the top left corner.
        height: Of a capital letter.
        angle: Radians, clockwise on the picture.
        font: As in `print_of`.

    Returns:
        Ink, float32 of `shape`, 0 to 1, anti-aliased.
    """
    ink = print_of(line, font)
    scale = height * pixels / _CAP_HEIGHT
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([ink.shape[1], ink.shape[0]]) / 2
    offset = np.asarray(centre) * pixels - 0.5 - turn @ middle
    return stamp(ink, shape, np.column_stack([turn, offset]))
