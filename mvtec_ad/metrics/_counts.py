"""Ranking metrics from counts, the form that image scores, pixel histograms and their resamples share.

Everywhere `negative` and `positive` hold how many normal and how many defective items fall at each rank, along the last
axis and in ascending order of score; items at one rank are tied. Leading axes are resamples. Where a row lacks a class,
the result is nan.
"""

from __future__ import annotations

import numpy as np


def per_level(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, ascending, and how many normal and how many defective items are at each, `(K,)` int64."""
    levels, rank = np.unique(scores, return_inverse=True)
    negative, positive = (np.bincount(rank[which], minlength=len(levels)) for which in (~labels, labels))
    return levels, negative, positive


def between(levels: np.ndarray) -> np.ndarray:
    """Thresholds half-way between neighbouring levels, `(K − 1,)`; `level > threshold` holds for the upper one only."""
    middles = levels[:-1] / 2 + levels[1:] / 2  # a sum of halves cannot overflow
    # Between neighbouring floats the middle rounds onto one of them; only the lower one keeps the verdicts.
    return np.where(middles < levels[1:], middles, levels[:-1])


def _from_above(counts: np.ndarray) -> np.ndarray:
    """Items at this rank or higher, ranks in descending order."""
    return np.cumsum(counts[..., ::-1], axis=-1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, nan where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def auroc(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Share of pairs in which the defective item ranks higher; a tie counts one half (Mann–Whitney)."""
    below = np.cumsum(negative, axis=-1)
    wins = (positive * (below - 0.5 * negative)).sum(axis=-1)
    return _ratio(wins, below[..., -1] * positive.sum(axis=-1))


def average_precision(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Σ (R_k − R_{k−1}) P_k over descending thresholds, scikit-learn's definition."""
    hits = _from_above(positive)
    flagged = hits + _from_above(negative)
    precision = np.divide(hits, flagged, out=np.zeros(np.shape(flagged)), where=flagged > 0)
    return _ratio((positive[..., ::-1] * precision).sum(axis=-1), hits[..., -1])


def f1_scores(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """F1 of flagging each rank and all above it, thresholds in descending order."""
    hits = _from_above(positive)
    flagged = hits + _from_above(negative)
    return _ratio(2 * hits, flagged + hits[..., -1:])


def pro_vertices(negative: np.ndarray, overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False-positive rate and mean region overlap as the threshold falls, from (0, 0) to (1, 1).

    Args:
        negative: Normal pixels per rank, shape `(…, B)`.
        overlap: Sum over regions of the share of the region at each rank, shape `(…, B)`; in all, one per region.
    """
    false = _from_above(negative)
    found = _from_above(overlap)
    start = np.zeros((*false.shape[:-1], 1))
    fpr = np.concatenate([start, _ratio(false, false[..., -1:])], axis=-1)
    pro = np.concatenate([start, _ratio(found, found[..., -1:])], axis=-1)
    return fpr, pro


def area_up_to(fpr: np.ndarray, pro: np.ndarray, limit: float) -> np.ndarray:
    """Area under a curve of straight segments over `[0, limit]`, divided by `limit`.

    Args:
        fpr: Ascending abscissae, shape `(…, V)`.
        pro: Ordinates, shape `(…, V)`.
        limit: Where to stop; the segment that crosses it is cut by linear interpolation.
    """
    start, width = fpr[..., :-1], np.diff(fpr, axis=-1)
    height, rise = pro[..., :-1], np.diff(pro, axis=-1)
    inside = np.clip(limit - start, 0.0, width)
    share = np.divide(inside, width, out=np.zeros_like(width), where=width > 0)
    return (inside * (height + 0.5 * share * rise)).sum(axis=-1) / limit
