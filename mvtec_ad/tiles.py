"""Tiles: features of a large picture piece by piece, equal to those of the whole, in bounded memory.

A convolutional network sees of a picture, for one feature, its receptive field and nothing else. A tile that brings as
much of the picture around it as that field reaches, and begins at a multiple of the largest stride, has therefore the
features of the whole inside; at the picture's border the tile ends where the picture does, and is padded as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvtec_ad.errors import SettingsError

ALIGNED = 16  # pixels: the largest stride of the layers that are taken
REACH = 512  # pixels around a tile, at most


@dataclass(frozen=True)
class Tile:
    """A part of a picture.

    Attributes:
        seen: rows and columns of the padded picture that the network is shown, pixels.
        inner: rows and columns among these that the tile is for, pixels.
        place: the same in the padded picture.
    """

    seen: tuple[slice, slice]
    inner: tuple[slice, slice]
    place: tuple[slice, slice]


def receptive_reach(features: Callable[[Tensor], Tensor]) -> int:
    """How far a feature sees beyond its own cell, in pixels, a multiple of `ALIGNED`: measured, not computed.

    A strip of pixels that are no numbers makes every feature that depends on them no number, through any layer. The
    strip is `ALIGNED` pixels wide, so that it meets the strides in all their phases. `features` maps RGB
    (1, 3, H, W) float32 to (1, h, w, C).

    Raises:
        SettingsError: the strip reaches `REACH` pixels or more, as with layers that average over the whole picture.

    Examples:
        >>> receptive_reach(lambda pixels: torch.nn.functional.avg_pool2d(pixels, 33, 1, 16).permute(0, 2, 3, 1))
        16
    """
    length, reach = 2 * REACH + ALIGNED, 0
    for axis in (2, 3):
        pixels = torch.full((1, 3, *((length, 4 * ALIGNED) if axis == 2 else (4 * ALIGNED, length))), 0.5)
        pixels.narrow(axis, REACH, ALIGNED).fill_(torch.nan)
        with torch.inference_mode():
            damaged = features(pixels)[0].isnan().any(-1).any(3 - axis)  # cells along the axis
        cell = length // len(damaged)
        cells = damaged.nonzero().flatten().tolist()
        first, last = cells[0] * cell, (cells[-1] + 1) * cell
        reach = max(reach, REACH - first, last - REACH - ALIGNED)
    if reach >= REACH:
        raise SettingsError(
            f"features of this network depend on {REACH} pixels around them or on the whole picture: no tile can equal "
            "it; choose efficientnet_lite0 or resnet18"
        )
    return math.ceil(reach / ALIGNED) * ALIGNED


def cut(height: int, width: int, tile: int, reach: int) -> list[Tile]:
    """Tiles that cover a picture of this size, padded to multiples of `ALIGNED`, row by row.

    Args:
        tile: side of their inner part, pixels, rounded up to a multiple of `ALIGNED`.
        reach: pixels around it, as from `receptive_reach`.

    Examples:
        >>> [part.seen for part in cut(40, 100, tile=64, reach=16)]
        [(slice(0, 48, None), slice(0, 80, None)), (slice(0, 48, None), slice(48, 112, None))]
    """
    if tile < 1:
        raise SettingsError(f"tile {tile} is no side in pixels: use 512 or more")

    def along(length: int) -> list[tuple[slice, slice, slice]]:
        whole, step = padded(length), padded(tile)
        parts = []
        for start in range(0, whole, step):
            stop = min(start + step, whole)
            low, high = max(0, start - reach), min(whole, stop + reach)
            parts.append((slice(low, high), slice(start - low, stop - low), slice(start, stop)))
        return parts

    pairs = [(rows, columns) for rows in along(height) for columns in along(width)]
    return [Tile(*zip(rows, columns, strict=True)) for rows, columns in pairs]


def padded(length: int) -> int:
    """The next multiple of `ALIGNED`."""
    return math.ceil(length / ALIGNED) * ALIGNED


def piece(picture: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """A part of a picture (H, W, 3) padded to multiples of `ALIGNED`; beyond its end its last pixels go on."""
    inside = picture[rows, columns]
    below, right = (part.stop - part.start - size for part, size in zip((rows, columns), inside.shape[:2], strict=True))
    return np.pad(inside, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else inside


def tiled_features(
    features: Callable[[np.ndarray], Tensor], picture: np.ndarray, tile: int, reach: int
) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """Features of a picture tile by tile: the cells that they are for, and (h, w, C) of these.

    They equal `features` of the whole picture, padded by its last pixels to multiples of `ALIGNED`, up to rounding.
    Cells that lie in the padding alone are left out. `features` maps (1, H, W, 3) uint8 to (1, h, w, C).
    """
    height, width = picture.shape[:2]
    for part in cut(height, width, tile, reach):
        shown = features(np.ascontiguousarray(piece(picture, *part.seen))[None])[0]
        cell = (part.seen[0].stop - part.seen[0].start) // len(shown)
        cells = [math.ceil(size / cell) for size in (height, width)]
        place = tuple(
            slice(at.start // cell, min(at.stop // cell, end)) for at, end in zip(part.place, cells, strict=True)
        )
        rows, columns = (
            slice(at.start // cell, at.start // cell + to.stop - to.start)
            for at, to in zip(part.inner, place, strict=True)
        )
        yield place, shown[rows, columns]
