"""Regions of an anomaly map: where it lies above a level, in boxes and areas, and what is said of it in a sentence.

Needs numpy and OpenCV alone, so that a service without torch has it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from mvtec_ad.errors import DataError

Box = tuple[float, float, float, float]  # x, y, width, height in shares of the picture, 0 to 1, from the upper left
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
MOST = 20  # regions of a map: a noisy one has thousands of specks
MIDDLE = (0.4, 0.6)  # of width and height
WIDE = 2 / 3  # of the picture's width and height: a region that covers more has no place in it


@dataclass(frozen=True)
class Region:
    """A connected part of an anomaly map above a level.

    Attributes:
        box: x, y, width and height of its pixels, edges included, in shares of the picture.
        area: share of the picture that it covers, 0 to 1.
        peak: largest value of the map in it.
        where: "upper left", "top", …, "centre", or "all over": where it is anomalous most, by the centre of gravity of
            what exceeds the level.
    """

    box: Box
    area: float
    peak: float
    where: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self) | {"box": list(self.box)}


def regions(anomaly_map: np.ndarray, level: float, seen: Box = WHOLE, most: int = MOST) -> list[Region]:
    """Connected components of an anomaly map above a level, 8-connected, the largest area first.

    Args:
        anomaly_map: (H, W) finite numbers.
        level: a pixel belongs to a region where the map is larger, as a score is a defect where it is larger than the
            threshold.
        seen: the part of the picture that the map covers; see `seen_box`.
        most: regions that are returned.

    Raises:
        DataError: the map has another shape, or values that are not finite.

    Examples:
        >>> anomaly_map = np.zeros((10, 10), np.float32)
        >>> anomaly_map[1:3, 0:4] = 5
        >>> regions(anomaly_map, level=2)
        [Region(box=(0.0, 0.1, 0.4, 0.2), area=0.08, peak=5.0, where='upper left')]
    """
    if np.ndim(anomaly_map) != 2 or not np.size(anomaly_map) or not np.isfinite(anomaly_map).all():
        raise DataError(f"an anomaly map must hold (H, W) finite numbers; its shape is {np.shape(anomaly_map)}")
    above = (anomaly_map > level).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    size = np.array(anomaly_map.shape[::-1])  # width, height
    start, share = np.array(seen[:2]), np.array(seen[2:])
    largest = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:most]  # label 0 is what lies below
    result = []
    for label in largest:
        corner, extent, pixels = stats[label, :2], stats[label, 2:4], int(stats[label, cv2.CC_STAT_AREA])
        (x, y), (width, height) = corner, extent
        inside = (slice(y, y + height), slice(x, x + width))
        excess = np.where(labels[inside] == label, anomaly_map[inside] - float(level), 0.0)
        across, down = excess.sum(0) @ np.arange(x, x + width), excess.sum(1) @ np.arange(y, y + height)
        centre = start + (np.array([across, down]) / excess.sum() + 0.5) / size * share
        peak = float(anomaly_map[inside][labels[inside] == label].max())
        box = tuple(map(float, [*(start + corner / size * share), *(extent / size * share)]))
        area = float(pixels / size.prod() * share.prod())
        result.append(Region(box, area, peak, position_words(centre, box[2:])))
    return result


def seen_box(image_size: int, crop: int) -> Box:
    """The part of a picture that a detector looks at: the central `crop` of `image_size` pixels, as a box in shares.

    Examples:
        >>> seen_box(256, 224)
        (0.0625, 0.0625, 0.875, 0.875)
    """
    start = (image_size - crop) // 2 / image_size
    return start, start, crop / image_size, crop / image_size


def region_level(anomaly_map: np.ndarray, threshold: float | None) -> float:
    """Level above which a map shows what made its picture a defect.

    The threshold of the score, where the map crosses it: the score of PaDiM is the largest value of its map, and that
    of PatchCore is of the same distances. A map that does not, or of other units (threshold None), is cut halfway
    between its median and its peak.

    Examples:
        >>> region_level(np.array([[0.0, 0.0], [0.0, 4.0]]), 3.0), region_level(np.array([[0.0, 0.0], [0.0, 4.0]]), 90)
        (3.0, 2.0)
    """
    median, peak = float(np.median(anomaly_map)), float(np.max(anomaly_map))
    return float(threshold) if threshold is not None and threshold < peak else (median + peak) / 2


def position_words(centre: Sequence[float], extent: Sequence[float] = (0.0, 0.0)) -> str:
    """Which of nine fields of the picture a point lies in, its x and y in shares; "all over" for what is as wide.

    The middle is a fifth: what is as far off the centre as that has a side that people see it on.

    Examples:
        >>> position_words((0.1, 0.2)), position_words((0.5, 0.9)), position_words((0.5, 0.5), (0.9, 0.8))
        ('upper left', 'bottom', 'all over')
    """
    if min(extent) > WIDE:
        return "all over"
    column, row = (int(value >= MIDDLE[0]) + int(value > MIDDLE[1]) for value in centre)
    return (
        ("upper left", "top", "upper right"),
        ("left", "centre", "right"),
        ("lower left", "bottom", "lower right"),
    )[row][column]


def sentence(
    verdict: str,
    regions: Sequence[Region] = (),
    *,
    score: float | None = None,
    largest_good: float | None = None,
    defect_type: str | None = None,
    neighbours: tuple[int, int] | None = None,
) -> str:
    """What is known of a picture, in a sentence for people.

    Areas are of the picture: how much of it the part fills, nobody measures.

    Args:
        verdict: good, defect, undecided or none of these.
        regions: of its map, the largest first.
        score, largest_good: its score, and the largest of the good pictures that the threshold comes from. Their ratio
            is said where both are positive; other scores have no zero.
        defect_type: of the defect; "unknown" where it is like none that is known.
        neighbours: how many of the nearest known defects have this type, and how many were asked.

    Examples:
        >>> upper_left = Region((0.1, 0.1, 0.2, 0.1), 0.014, 64.0, "upper left")
        >>> sentence("defect", [upper_left], score=64, largest_good=20, defect_type="broken_large", neighbours=(4, 5))
        'upper left, 1.4 % of the picture, 3.2 × the largest good score; looks like broken_large, 4 of 5 neighbours'
        >>> sentence("good", score=12, largest_good=20)
        'nothing stands out, 0.60 × the largest good score'
    """
    if verdict == "none of these":
        return "like no product that is known here"
    if verdict == "undecided":
        return "nothing here can decide about it"
    parts = []
    if regions:
        more = len(regions) - 1
        others = f" and {more} more place{'s' * (more > 1)}" * (more > 0)
        parts.append(f"{regions[0].where}{others}, {_percent(sum(region.area for region in regions))} of the picture")
    if verdict == "good":
        parts = [f"{parts[0]}, but not enough to be stopped" if parts else "nothing stands out"]
    if score is not None and largest_good is not None and score > 0 and largest_good > 0:
        ratio = score / largest_good
        parts.append(f"{ratio:.{1 if ratio >= 1 else 2}f} × the largest good score")
    text = ", ".join(parts) or "a defect, by its score alone"
    if verdict == "defect" and defect_type == "unknown":
        text += "; like no defect that is known"
    elif verdict == "defect" and defect_type:
        text += f"; looks like {defect_type}"
    if neighbours and verdict == "defect" and defect_type not in (None, "unknown"):
        text += f", {neighbours[0]} of {neighbours[1]} neighbours"
    return text


def _percent(share: float) -> str:
    """Two digits, as far as they mean something."""
    percent = 100 * share
    if percent < 0.01:
        return "less than 0.01 %"
    return f"{percent:.{0 if percent >= 9.95 else 1 if percent >= 0.995 else 2}f} %"
