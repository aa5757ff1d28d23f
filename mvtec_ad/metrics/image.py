"""Image-level ranking metrics: AUROC, average precision, F1-max and false alarms at a detection rate.

AUROC and average precision call scikit-learn, which sees ranks in place of scores: no metric here depends on more than
their order, and ranks can neither overflow nor lose tiny differences. The functions `…_of` take counts, the form that
image scores, pixel histograms and their resamples share: `negative` and `positive` hold how many normal and how many
defective items fall at each rank, along the last axis and ascending; items at one rank are tied. Leading axes are
resamples; where a row lacks a class, the result is nan.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad.errors import SettingsError
from mvtec_ad.metrics._checks import both_classes


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Image-level AUROC: how often a defective image scores above a good one; ties count one half, chance is 0.5.

    Args:
        labels: 0 (good) or 1 (defect), shape `(N,)`.
        scores: Raw finite scores, shape `(N,)`.

    Raises:
        DataError: Only one class is present, shapes differ, or a score is not finite.

    Examples:
        >>> image_auroc([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8])
        0.75
    """
    labels, scores = both_classes(labels, scores, "AUROC")
    return float(roc_auc_score(labels, rankdata(scores, method="dense")))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision Σ (R_k − R_{k−1}) P_k, the step-wise area under the precision–recall curve, in (0, 1].

    Chance is the share of defects; arguments and errors as in `image_auroc`.

    Examples:
        >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8]), 3)
        0.833
    """
    labels, scores = both_classes(labels, scores, "average precision")
    # A sum of rounded terms: a perfect ranking can come out one unit in the last place above 1.
    return min(float(average_precision_score(labels, rankdata(scores, method="dense"))), 1.0)


def f1_max(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """F1-max: largest F1 over all thresholds, and the threshold that reaches it on these very labels.

    Calling every image defective already reaches 2m / (2m + n) for m defects and n good images: read F1-max beside it.
    `score > threshold` is a defect; the threshold lies half-way between the last image flagged and the first not
    flagged, or just below all scores. Where several tie, the highest. Arguments and errors as in `image_auroc`.

    Examples:
        >>> f1_max([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8])
        (0.8, 0.2)
    """
    levels, negative, positive = per_level(*both_classes(labels, scores, "F1-max"))
    f1 = f1_of(negative, positive)
    best = int(np.argmax(f1))
    below = np.append(np.nextafter(levels[0], -np.inf), between(levels))
    return float(f1[best]), float(below[::-1][best])


def false_alarms_at(labels: ArrayLike, scores: ArrayLike, detection: float = 0.95) -> float:
    """False-alarm rate at a detection rate: share of good images called defective where enough defects are found.

    The threshold is the highest at which ⌈detection · m⌉ of the m defects score as high or higher: the score of the
    weakest defect that has to be found. A good image counts when its score reaches it, so a tie is a false alarm. It is
    chosen on these very labels, as in F1-max: an oracle to rank methods by, none to deploy.

    In [0, 1], lower is better; a score that tells nothing has `detection`, and a constant one has 1. Labels, scores and
    errors as in `image_auroc`; a `detection` that is not in (0, 1] is a SettingsError.

    Examples:
        >>> false_alarms_at([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8])
        0.5
    """
    _, negative, positive = per_level(*both_classes(labels, scores, "false-alarm rate"))
    return float(false_alarms_of(negative, positive, detection))


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


def from_above(counts: np.ndarray) -> np.ndarray:
    """Items at this rank or higher, ranks in descending order."""
    return np.cumsum(counts[..., ::-1], axis=-1)


def ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """Quotient; `empty` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, empty), where=denominator > 0)


def auroc_of(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Share of pairs in which the defective item ranks higher; a tie counts one half (Mann–Whitney)."""
    below = np.cumsum(negative, axis=-1)
    wins = (positive * (below - 0.5 * negative)).sum(axis=-1)
    return ratio(wins, below[..., -1] * positive.sum(axis=-1))


def average_precision_of(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Σ (R_k − R_{k−1}) P_k over descending thresholds, scikit-learn's definition."""
    hits = from_above(positive)
    precision = ratio(hits, hits + from_above(negative), empty=0.0)
    return ratio((positive[..., ::-1] * precision).sum(axis=-1), hits[..., -1])


def f1_of(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """F1 of flagging each rank and all above it, thresholds in descending order."""
    hits = from_above(positive)
    return ratio(2 * hits, hits + from_above(negative) + hits[..., -1:])


def false_alarms_of(negative: np.ndarray, positive: np.ndarray, detection: float) -> np.ndarray:
    """`false_alarms_at` from counts."""
    if not 0 < detection <= 1:
        raise SettingsError(f"the share of defects to find must lie in (0, 1], for example 0.95, not {detection}")
    share = Fraction(float(detection)).limit_denominator(10**9)  # 0.95 is 19/20, not the binary number next to it
    hits, alarms = from_above(positive), from_above(negative)
    first = np.argmax(hits * share.denominator >= hits[..., -1:] * share.numerator, axis=-1)[..., None]
    shares = ratio(np.take_along_axis(alarms, first, axis=-1)[..., 0], alarms[..., -1])
    return np.where(hits[..., -1] > 0, shares, np.nan)
