"""Figures one after the other, as a GIF that GitHub shows."""

from __future__ import annotations

import io
from collections.abc import Iterable

from matplotlib.figure import Figure
from PIL import Image

from mvtec_ad.errors import DataError
from mvtec_ad.plotting.style import to_png


def animation(figures: Iterable[Figure], seconds: float = 1.2, dpi: float = 100) -> bytes:
    """An endless GIF.

    Args:
        figures: At least one; the first decides the size, in inches, that all must have.
        seconds: How long each is shown.
        dpi: Pixels per inch.

    Returns:
        The bytes of a GIF file with one frame per figure.

    Raises:
        DataError: There is no figure, or sizes differ.
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
