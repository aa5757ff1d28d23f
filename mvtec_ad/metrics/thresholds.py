"""Thresholds on image scores: calibrated from good images, or the oracle that has seen the test labels.

A verdict is the same everywhere: `score > threshold` is a defect.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics._checks import checked_labels, checked_scores
from mvtec_ad.metrics.image import f1_max


def images_needed(false_alarm_rate: float) -> int:
    """Fewest good images that can vouch for a false-alarm rate: ⌈1 / rate⌉ − 1; not in (0, 1) is a SettingsError.

    Examples:
        >>> images_needed(0.05)
        19
    """
    return math.ceil(1 / _exact(false_alarm_rate)) - 1


def _exact(false_alarm_rate: float) -> Fraction:
    """The rate as the fraction that was meant: 0.05 is 1/20, not the binary number next to it."""
    if not 0 < false_alarm_rate < 1:
        raise SettingsError(f"the false-alarm rate must lie between 0 and 1, for example 0.05, not {false_alarm_rate}")
    exact = Fraction(float(false_alarm_rate))
    meant = exact.limit_denominator(10**9)
    return meant if 0 < meant < 1 else exact


def check_enough(count: int, false_alarm_rate: float) -> None:
    """Refuse early, before anything is fitted, where `count` good images are fewer than `images_needed`: a DataError.

    Examples:
        >>> check_enough(19, false_alarm_rate=0.05)  # with 18 a DataError
    """
    needed = images_needed(false_alarm_rate)
    if count < needed:
        raise DataError(
            f"a false-alarm rate of {false_alarm_rate:g} needs at least {needed} good images "
            f"to calibrate on, but there are {count}; add good images, hold more of them out or allow a higher rate"
        )


def calibrated_rank(count: int, false_alarm_rate: float) -> int:
    """Rank k = ⌈(n + 1)(1 − rate)⌉ of the calibrated threshold among n good scores, 1 the lowest; see `calibrated`.

    Examples:
        >>> calibrated_rank(209, false_alarm_rate=0.05)
        200
    """
    check_enough(count, false_alarm_rate)
    return math.ceil((count + 1) * (1 - _exact(false_alarm_rate)))


def calibrated(good_scores: ArrayLike, false_alarm_rate: float) -> float:
    """Calibrated threshold, which a further good image exceeds with probability at most `false_alarm_rate`.

    The k-th smallest of n scores, k = ⌈(n + 1)(1 − rate)⌉: the finite-sample quantile of split conformal prediction
    (Vovk et al. 2005; Lei et al., JASA 2018, section 2.2). The promise holds for every n and every distribution as long
    as calibration and future images are exchangeable; the plain quantile breaks it, the more so the smaller n.

    `good_scores`, `(n,)`, are those of good images that the model was not fitted on.

    Raises:
        DataError: Too few images for this rate (the message says how many it takes), or a score is not finite.

    Examples:
        >>> calibrated(np.arange(39), false_alarm_rate=0.05)
        37.0
    """
    k = calibrated_rank(np.size(good_scores), false_alarm_rate)
    return float(np.sort(checked_scores(good_scores))[k - 1])


def oracle(labels: ArrayLike, scores: ArrayLike) -> float:
    """Oracle threshold, with the largest F1 on these test labels: one to compare with, never one to deploy.

    Arguments and errors as in `image_auroc`.

    Examples:
        >>> oracle([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8])
        0.2
    """
    return f1_max(labels, scores)[1]


def operating_point(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float | None]:
    """Operating point: what a threshold does to a test set; one class alone will do.

    Returns:
        `{"value", "accuracy", "false_alarm_rate", "detection_rate"}`: the threshold; the share of right verdicts; the
        share of good images called defective; the share of defects found. A rate whose class is absent is None.

    Examples:
        >>> operating_point([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8], threshold=0.2)["detection_rate"]
        1.0
    """
    scores = checked_scores(scores)
    labels = checked_labels(labels, len(scores))
    flagged = scores > threshold
    return {
        "value": float(threshold),
        "accuracy": float((flagged == labels).mean()),
        "false_alarm_rate": None if labels.all() else float(flagged[~labels].mean()),
        "detection_rate": float(flagged[labels].mean()) if labels.any() else None,
    }
