"""Pixel metrics from one histogram per image: pixel AUROC, pixel average precision and the official AUPRO of MVTec AD.

The per-region overlap (PRO) of a threshold is the share of a defect region at or above it, averaged over the regions of
all images, small and large alike. AUPRO integrates it over the false-positive rate of all normal pixels of all test
images, good and defective, up to 0.3, and divides by 0.3.

The histograms are exact. Between two neighbouring scores of defect pixels only normal pixels enter, and every curve is
straight: one bin for each such score and one for all that lies between two of them lose nothing. Since each image has
its own row, the metrics of any resample of images follow from a matrix product.

Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.2, and the evaluation code its
authors publish: 8-connected regions, trapezoid rule, linear interpolation at the limit. Fixed or equidistant thresholds
are another, biased, definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics._checks import checked_table
from mvtec_ad.metrics.image import auroc_of, average_precision_of, from_above, ratio

_CELLS_AT_ONCE = 2**20  # resamples × bins per step: a few arrays of 8 MB


@dataclass(frozen=True)
class PixelHistograms:
    """Histograms of normal pixels, defect pixels and region shares, one row per image, bins ascending in score.

    Its metrics take `weights`, how often each image counts, `(R, N)` for R resamples, and then return `(R,)`, nan where
    a resample lacks a kind of pixel; without them each image counts once, and they return a float in [0, 1].

    Attributes:
        normal: Normal pixels per image and bin, sparse `(N, B)`, uint32.
        defect: Defect pixels per image and bin, sparse `(N, B)`, uint32.
        overlap: Sum over the image's 8-connected defect regions of the share of the region in the bin, sparse `(N, B)`,
            float64; a row sums to the image's number of regions.

    Examples:
        >>> PixelHistograms.from_maps(np.float32([[[0, 1], [2, 3]]]), [[[0, 1], [0, 1]]]).auroc()
        0.75
    """

    normal: sparse.csr_array
    defect: sparse.csr_array
    overlap: sparse.csr_array

    @classmethod
    def from_maps(cls, maps: ArrayLike, masks: ArrayLike) -> PixelHistograms:
        """Exact histograms: 2K + 1 bins for the K distinct scores of defect pixels; arguments as in `pixel_metrics`."""
        maps, masks = np.asarray(maps), np.asarray(masks)
        if maps.ndim != 3 or maps.shape != masks.shape:
            raise DataError(
                f"maps and masks must both have shape (N, H, W), not {maps.shape} and {masks.shape}; "
                "resize both to the evaluation resolution first"
            )
        if maps.dtype not in (np.float32, np.float64):
            maps = maps.astype(np.float32 if maps.dtype == np.float16 else np.float64)
        masks = masks.astype(bool, copy=False)
        marked = np.count_nonzero(masks, axis=(1, 2))
        if not masks.any():
            raise DataError("no pixel metrics: the masks mark no defect pixel; masks of defective images are needed")
        if masks.all():
            raise DataError(
                "no pixel metrics: the masks mark every pixel as defect, so there is no false alarm to count"
            )
        levels, level = np.unique(maps[masks], return_inverse=True)
        _check_finite(levels)
        shape = len(maps), 2 * len(levels) + 1  # bin 2k + 1 is on level k, bin 2k below it
        cells = np.repeat(np.arange(len(maps)), marked), 2 * level + 1
        shares = np.concatenate([_region_shares(mask) for mask in masks])
        normal = (anomaly_map[~mask] for anomaly_map, mask in zip(maps, masks, strict=True))
        return cls(
            normal=_sorted_into(levels, normal),
            defect=sparse.csr_array((np.ones(len(level), np.uint32), cells), shape=shape),
            overlap=sparse.csr_array((shares, cells), shape=shape),
        )

    def coarsen(self, bins: int = 2048) -> PixelHistograms:
        """The same images in at most `bins` bins, merged from neighbours so that each holds about the same share.

        The share is the mean of a bin's shares of all normal pixels, all defect pixels and all regions, so that bins
        are fine wherever one of the three metrics bends. Pixels in one bin count as tied; where there are no more than
        `bins`, nothing changes.
        """
        if self.normal.shape[1] <= bins:
            return self
        tables = self.normal, self.defect, self.overlap
        share = np.mean([_total(table) / table.sum() for table in tables], axis=0)
        middle = np.cumsum(share) - share / 2
        _, target = np.unique(np.minimum(middle * bins, bins - 1).astype(np.int64), return_inverse=True)
        merge = sparse.csr_array((np.ones(len(target), np.uint32), (np.arange(len(target)), target)))
        return PixelHistograms(*(table @ merge for table in tables))

    def auroc(self, weights: ArrayLike | None = None) -> float | np.ndarray:
        """Pixel AUROC: how often a defect pixel scores above a normal one; ties count one half."""
        return _measured(auroc_of, self.normal, self.defect, weights)

    def average_precision(self, weights: ArrayLike | None = None) -> float | np.ndarray:
        """Pixel average precision Σ (R_k − R_{k−1}) P_k."""
        return _measured(average_precision_of, self.normal, self.defect, weights)

    def au_pro(self, limit: float = 0.3, weights: ArrayLike | None = None) -> float | np.ndarray:
        """AUPRO up to the false-positive rate `limit`; one that is not in (0, 1] is a SettingsError."""
        if not 0 < limit <= 1:
            raise SettingsError(f"limit is a false-positive rate in (0, 1], not {limit}")

        def area(normal: np.ndarray, overlap: np.ndarray) -> np.ndarray:
            fpr, pro = pro_vertices(normal, overlap)
            start, width = fpr[..., :-1], np.diff(fpr, axis=-1)
            inside = np.clip(limit - start, 0.0, width)  # the segment that crosses the limit is cut there
            share = ratio(inside, width, empty=0.0)
            return (inside * (pro[..., :-1] + 0.5 * share * np.diff(pro, axis=-1))).sum(axis=-1) / limit

        return _measured(area, self.normal, self.overlap, weights)


def pro_vertices(negative: np.ndarray, overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False-positive rate and mean region overlap as the threshold falls, from (0, 0) to (1, 1), `(…, B + 1)` each.

    Both arguments are `(…, B)`: normal pixels per rank, and the sum over regions of the region's share at each rank.
    """
    shares = (ratio(counts, counts[..., -1:]) for counts in (from_above(negative), from_above(overlap)))
    fpr, pro = (np.concatenate([np.zeros((*share.shape[:-1], 1)), share], axis=-1) for share in shares)
    return fpr, pro


def _total(table: sparse.csr_array) -> np.ndarray:
    """What all images have in each bin, `(B,)` float64."""
    return table.sum(axis=0, dtype=np.float64)


def _measured(
    metric: Callable[[np.ndarray, np.ndarray], np.ndarray],
    first: sparse.csr_array,
    second: sparse.csr_array,
    weights: ArrayLike | None,
) -> float | np.ndarray:
    """`metric` of two tables summed over all images, or over those of each resample."""
    if weights is None:
        return float(metric(_total(first), _total(second)))
    images, bins = first.shape
    weights = checked_table(weights, "weights", "R", images)
    if images * bins <= _CELLS_AT_ONCE:  # three times faster; fine bins stay sparse
        first, second = first.toarray().astype(np.float64), second.toarray().astype(np.float64)
    rows = max(1, _CELLS_AT_ONCE // bins)
    parts = [weights[start : start + rows] for start in range(0, len(weights), rows)]
    return np.concatenate([metric(part @ first, part @ second) for part in parts])


def _check_finite(ascending: np.ndarray) -> None:
    """Raise a DataError where sorted scores hold nan, which sorts last, or an infinite value."""
    if not np.isfinite([ascending[:1], ascending[-1:]]).all():
        raise DataError("anomaly maps hold nan or infinite values; pixel metrics need finite maps")


def _region_shares(mask: np.ndarray) -> np.ndarray:
    """1 / size of its 8-connected region for each defect pixel of one mask `(H, W)`, in row-major order."""
    if not mask.any():
        return np.zeros(0)
    names = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1][mask]
    return 1.0 / np.bincount(names)[names]


def _sorted_into(levels: np.ndarray, images: Iterable[np.ndarray]) -> sparse.csr_array:
    """Normal pixels of each image per bin of `PixelHistograms.from_maps`, sparse `(N, 2K + 1)`, uint32."""
    ceiling = np.append(levels, levels.dtype.type(np.inf))
    columns, counts, ends = [], [], [0]
    for scores in images:
        scores = np.sort(scores)  # neighbours are found together: three times faster than unsorted
        _check_finite(scores)
        index = np.searchsorted(levels, scores)
        index = 2 * index + (ceiling[index] == scores)
        last = np.flatnonzero(np.diff(index, append=-1))
        columns.append(index[last])
        counts.append(np.diff(last, prepend=-1).astype(np.uint32))
        ends.append(ends[-1] + len(last))
    shape = len(columns), 2 * len(levels) + 1
    return sparse.csr_array((np.concatenate(counts), np.concatenate(columns), ends), shape=shape)


def pixel_metrics(maps: ArrayLike, masks: ArrayLike, limit: float = 0.3) -> dict[str, float]:
    """Pixel AUROC, pixel average precision and AUPRO, exact and with ties counted right.

    Args:
        maps: Raw anomaly maps, shape `(N, H, W)`, higher is more anomalous.
        masks: Ground truth, shape `(N, H, W)`, true where defective; all false for good images.
        limit: Upper end of the false-positive rate of AUPRO, in (0, 1]; 0.3 is the official value, half of it chance.

    Returns:
        `{"pixel_auroc", "pixel_ap", "au_pro"}`, each in [0, 1]. The first two equal scikit-learn's `roc_auc_score` and
        `average_precision_score` on the flattened pixels. Masks that mark no pixel, or every one, are a DataError.

    Examples:
        >>> pixel_metrics(np.float32([[[0, 1], [2, 3]]]), [[[0, 1], [0, 1]]])["pixel_auroc"]
        0.75
    """
    tables = PixelHistograms.from_maps(maps, masks)
    return {"pixel_auroc": tables.auroc(), "pixel_ap": tables.average_precision(), "au_pro": tables.au_pro(limit)}


def pro_curve(maps: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """PRO curve, exact: false-positive rate and mean per-region overlap, two float64 arrays of one shape.

    They hold the bends, ascending from (0, 0) to (1, 1), joined by straight lines; arguments and errors as in
    `pixel_metrics`.

    Examples:
        >>> pro_curve(np.float32([[[0, 1], [2, 3]]]), [[[0, 1], [0, 1]]])[1].tolist()
        [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    """
    tables = PixelHistograms.from_maps(maps, masks)
    return pro_vertices(_total(tables.normal), _total(tables.overlap))
