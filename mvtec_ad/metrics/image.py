"""Image-level ranking metrics. AUROC and average precision call scikit-learn.

Label 1 is a defect and a higher score is more anomalous. Scores are replaced by their ranks before scikit-learn sees
them: no metric here depends on more than their order, and ranks can neither overflow nor lose tiny differences.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from mvtec_ad.errors import SettingsError
from mvtec_ad.metrics import _counts
from mvtec_ad.metrics._checks import both_classes


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Image-level AUROC: how often a defective image scores above a good one.

    Args:
        labels: 0 (good) or 1 (defect), shape `(N,)`.
        scores: Raw finite scores, shape `(N,)`.

    Returns:
        A number in [0, 1]; 0.5 is chance. Ties count one half.

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
    Arguments and errors as in `image_auroc`.

    Returns:
        `(f1, threshold)`, f1 in (0, 1]. `score > threshold` is a defect; the threshold lies half-way between the last
        image flagged and the first not flagged, or just below all scores. Where several thresholds tie, the highest.

    Examples:
        >>> f1_max([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8])
        (0.8, 0.2)
    """
    labels, scores = both_classes(labels, scores, "F1-max")
    levels, negative, positive = _counts.per_level(labels, scores)
    f1 = _counts.f1_scores(negative, positive)
    best = int(np.argmax(f1))
    below = np.concatenate([[np.nextafter(levels[0], -np.inf)], _counts.between(levels)])
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
    labels, scores = both_classes(labels, scores, "false-alarm rate")
    return float(alarms_from_counts(*_counts.per_level(labels, scores)[1:], detection))


def alarms_from_counts(negative: np.ndarray, positive: np.ndarray, detection: float) -> np.ndarray:
    """`false_alarms_at` from counts per rank, ranks ascending, any leading axes; nan where a class is absent.

    Raises:
        SettingsError: `detection` is not in (0, 1].
    """
    if not 0 < detection <= 1:
        raise SettingsError(f"the share of defects to find must lie in (0, 1], for example 0.95, not {detection}")
    share = Fraction(float(detection)).limit_denominator(10**9)  # 0.95 is 19/20, not the binary number next to it
    found = np.cumsum(positive[..., ::-1], axis=-1)
    flagged = np.cumsum(negative[..., ::-1], axis=-1)
    enough = found * share.denominator >= found[..., -1:] * share.numerator
    at = np.argmax(enough, axis=-1)[..., None]
    alarms = np.take_along_axis(flagged, at, axis=-1)[..., 0]
    present = (found[..., -1] > 0) & (flagged[..., -1] > 0)
    return np.where(present, alarms / np.maximum(flagged[..., -1], 1), np.nan)
