"""Pixel metrics, exact, from one sort: pixel AUROC, pixel average precision and the official AUPRO of MVTec AD.

The per-region overlap (PRO) of a threshold is the share of a defect region at or above it, averaged over the regions of
all images, small and large alike. AUPRO integrates it over the false-positive rate of all normal pixels of all test
images, good and defective, up to 0.3, and divides by 0.3.

Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2, and the evaluation code its
authors publish: 8-connected regions, trapezoid rule, linear interpolation at the limit. Fixed or equidistant thresholds
are another, biased, definition.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError
from mvtec_ad.evaluation import _counts
from mvtec_ad.evaluation._checks import both_kinds_of_pixel, checked_limit, checked_maps


def region_shares(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """What each defect pixel of one mask is of its 8-connected region.

    Args:
        mask: Bool array of shape `(H, W)`.

    Returns:
        `(shares, regions)`: 1 / size of its region for each defect pixel, in row-major order, float64, and the number
        of regions. The shares of one region sum to 1.
    """
    if not mask.any():
        return np.zeros(0), 0
    regions, names = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    names = names[mask]
    return 1.0 / np.bincount(names)[names], regions - 1


class _Steps(NamedTuple):
    """What changes at each distinct score of a defect pixel, in descending order; all arrays of shape `(K,)`.

    Between two such scores only normal pixels enter, so every curve is known from these steps: they are its bends.
    """

    false_before: np.ndarray  # normal pixels strictly above the score
    false: np.ndarray  # normal pixels at or above it
    hits: np.ndarray  # defect pixels at or above it
    overlap: np.ndarray  # mean over regions of the share at or above it
    normal: int  # normal pixels in all


def _steps(maps: ArrayLike, masks: ArrayLike) -> _Steps:
    maps, masks = checked_maps(maps, masks)
    shares = np.concatenate([np.zeros(0), *(region_shares(mask)[0] for mask in masks)])
    both_kinds_of_pixel(masks.size - shares.size, shares.size)

    # Normal pixels, nine tenths and more, are sorted by value alone: ten times faster than an argsort of everything.
    normal = maps[~masks]
    normal.sort()
    defect = maps[masks]
    order = np.argsort(defect)[::-1]
    defect = defect[order]
    if not np.isfinite([normal[0], normal[-1], defect[0], defect[-1]]).all():
        raise DataError("anomaly maps hold nan or infinite values; pixel metrics need finite maps")

    last = np.flatnonzero(np.append(defect[1:] != defect[:-1], True))  # equal scores enter together
    overlap = np.cumsum(shares[order])  # its end is the number of regions, but for rounding
    return _Steps(
        false_before=normal.size - np.searchsorted(normal, defect[last], side="right"),
        false=normal.size - np.searchsorted(normal, defect[last], side="left"),
        hits=last + 1,
        overlap=overlap[last] / overlap[-1],
        normal=normal.size,
    )


def _pro_curve(steps: _Steps) -> tuple[np.ndarray, np.ndarray]:
    before = np.concatenate([[0.0], steps.overlap[:-1]])
    fpr = np.stack([steps.false_before, steps.false], axis=1).ravel() / steps.normal
    pro = np.stack([before, steps.overlap], axis=1).ravel()
    return np.concatenate([[0.0], fpr, [1.0]]), np.concatenate([[0.0], pro, [1.0]])


def pro_curve(maps: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The PRO curve at every threshold, exact; only its bends are returned, so it stays small.

    Args:
        maps: Raw anomaly maps, shape `(N, H, W)`, higher is more anomalous.
        masks: Ground truth, shape `(N, H, W)`, true where defective; all false for good images.

    Returns:
        `(fpr, pro)`, two float64 arrays of one shape, ascending from (0, 0) to (1, 1), joined by straight lines.

    Raises:
        DataError: Shapes differ, a map is not finite, or the masks mark no pixel or every pixel.
    """
    return _pro_curve(_steps(maps, masks))


def au_pro(maps: ArrayLike, masks: ArrayLike, limit: float = 0.3) -> float:
    """Area under the PRO curve up to a false-positive rate of `limit`, divided by `limit`.

    Args:
        maps: Raw anomaly maps, shape `(N, H, W)`, higher is more anomalous.
        masks: Ground truth, shape `(N, H, W)`, true where defective; all false for good images.
        limit: Upper end of the false-positive rate, in (0, 1]; 0.3 is the official value.

    Returns:
        A number in [0, 1]; chance is `limit` / 2.

    Raises:
        DataError: Shapes differ, a map is not finite, or the masks mark no pixel or every pixel.
        SettingsError: `limit` is not in (0, 1].
    """
    limit = checked_limit(limit)
    return float(_counts.area_up_to(*pro_curve(maps, masks), limit))


def pixel_metrics(maps: ArrayLike, masks: ArrayLike, limit: float = 0.3) -> dict[str, float]:
    """Pixel AUROC, pixel average precision and AUPRO from one sort of all pixels, exact and with ties counted right.

    Args:
        maps: Raw anomaly maps, shape `(N, H, W)`, higher is more anomalous.
        masks: Ground truth, shape `(N, H, W)`, true where defective; all false for good images.
        limit: Upper end of the false-positive rate of AUPRO, in (0, 1].

    Returns:
        `{"pixel_auroc", "pixel_ap", "au_pro"}`, each in [0, 1]. The first two equal scikit-learn's `roc_auc_score` and
        `average_precision_score` on the flattened pixels.

    Raises:
        DataError: Shapes differ, a map is not finite, or the masks mark no pixel or every pixel.
        SettingsError: `limit` is not in (0, 1].
    """
    limit = checked_limit(limit)
    steps = _steps(maps, masks)
    hits = np.diff(steps.hits, prepend=0)
    defect = float(steps.hits[-1])
    lost_pairs = (hits * (0.5 * steps.false_before + 0.5 * steps.false)).sum()
    precision = steps.hits / (steps.hits + steps.false)
    return {
        "pixel_auroc": float(1.0 - lost_pairs / (defect * steps.normal)),
        "pixel_ap": float((hits * precision).sum() / defect),
        "au_pro": float(_counts.area_up_to(*_pro_curve(steps), limit)),
    }
