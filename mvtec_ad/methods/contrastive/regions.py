"""Where to look: the whole picture, around the peak of an anomaly map, or around the true mask.

All regions show the same share of their picture, so that a large break stays larger than a small one, and have the
defect in the middle: where one leaves the picture, the picture is mirrored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from mvtec_ad.errors import DataError


@dataclass(frozen=True)
class Regions:
    """A square region of each image.

    Attributes:
        centres: (N, 2) float64, x and y in image sides, 0 to 1.
        side: of every region, in image sides, above 0 up to 1.
    """

    centres: np.ndarray
    side: float

    def __len__(self) -> int:
        return len(self.centres)

    def __getitem__(self, rows: np.ndarray) -> Regions:
        """The regions of some images."""
        return Regions(self.centres[rows], self.side)

    def boxes(self, size: int) -> np.ndarray:
        """(N, 4) float64: left, top, right and bottom in pixels of a picture of this side."""
        return np.concatenate([self.centres - self.side / 2, self.centres + self.side / 2], axis=1) * size


def whole(count: int) -> Regions:
    """The whole of each picture."""
    return Regions(np.full((count, 2), 0.5), 1.0)


def around_peaks(maps: np.ndarray, side: float) -> Regions:
    """Around the highest value of each anomaly map, (N, H, W); of several as high the first in reading order.

    Raises:
        DataError: a map holds values that are not finite.
    """
    maps = np.asarray(maps, dtype=np.float32)
    finite = np.isfinite(maps).all((1, 2))
    if not finite.all():
        raise DataError(f"anomaly map {int(np.argmin(finite))} holds values that are not finite: score its image again")
    height, width = maps.shape[1:]
    rows, columns = np.unravel_index(maps.reshape(len(maps), -1).argmax(1), (height, width))
    return Regions(np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=1), side)


def around_masks(masks: Iterable[np.ndarray], side: float) -> Regions:
    """Around the middle of the largest connected part of each of N masks, (H, W) bool, each of any size.

    An upper bound: no inspection line is told where the defect is.

    Raises:
        DataError: a mask is empty.
    """
    centres = []
    for number, mask in enumerate(masks):
        _, _, stats, middles = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask).view(np.uint8))
        if len(stats) < 2:
            raise DataError(f"mask {number} is empty: there is no defect to look at")
        height, width = mask.shape
        centres.append((middles[1 + stats[1:, cv2.CC_STAT_AREA].argmax()] + 0.5) / (width, height))
    return Regions(np.array(centres).reshape(-1, 2), side)
