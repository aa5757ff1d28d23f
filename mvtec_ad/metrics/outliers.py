"""Outliers among images that are called good: p-values, and which of them are too small to be chance.

A false discovery is a good image that is called an outlier. The false-discovery rate is the mean share of these among
all that are called so, 0 where none is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control, gumbel_r

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics._checks import checked_scores

QUANTILES = (0.1, 0.5)  # of leave-one-out scores that the law of the good ones is laid through
ROUNDS = 20


def conformal_p_values(scores: ArrayLike, good_scores: ArrayLike) -> np.ndarray:
    """Conformal p-values `(N,)`, float64: (1 + number of good scores that are as large or larger) / (n + 1).

    A further good image gets a p-value of at most α with probability at most α, for every n and every distribution, as
    long as it and the n calibration images are exchangeable and the model has seen none of them (Vovk et al. 2005).
    None is below 1 / (n + 1): of m images a lone outlier cannot be discovered where m > rate · (n + 1), but several
    that all exceed every good score can. `good_scores`, `(n,)`, are as in `calibrated`.

    Examples:
        >>> conformal_p_values([5.0, 0.5], good_scores=[1.0, 2.0, 3.0]).tolist()
        [0.25, 1.0]
    """
    scores, good = checked_scores(scores), np.sort(checked_scores(good_scores))
    return (1 + len(good) - np.searchsorted(good, scores, side="left")) / (len(good) + 1)


def fewest_discoveries(count: int, good: int, false_discovery_rate: float) -> int:
    """Fewest of `count` images that can be discovered together by conformal p-values of `good` scores.

    None of these is below 1 / (n + 1), and the k smallest of m are discovered when the last is at most k·rate/m: fewer
    than m / (rate·(n + 1)) outliers go unnoticed, however odd they are.

    Examples:
        >>> fewest_discoveries(100, good=99, false_discovery_rate=0.1)
        10
    """
    return max(1, math.ceil(count / (false_discovery_rate * (good + 1)) - 1e-9))


def discoveries(p_values: ArrayLike, false_discovery_rate: float) -> np.ndarray:
    """Which p-values are outliers at this false-discovery rate, `(N,)` bool: Benjamini and Hochberg, 1995.

    With `conformal_p_values`, all from one set of calibration scores, the rate is controlled: they depend on one
    another in the way that the procedure allows (Bates, Candès, Lei, Romano, Sesia, "Testing for outliers with
    conformal p-values", Annals of Statistics 2023, theorem 2.3).

    Raises:
        DataError: a p-value lies outside [0, 1].
        SettingsError: the rate does not lie between 0 and 1.

    Examples:
        >>> discoveries([0.01, 0.04, 0.5], false_discovery_rate=0.1).tolist()
        [True, True, False]
    """
    p_values = checked_scores(p_values)
    if p_values.min() < 0 or p_values.max() > 1:
        raise DataError("p-values must lie in [0, 1]; make them from scores with `conformal_p_values`")
    if not 0 < false_discovery_rate < 1:
        wanted = "must lie between 0 and 1, for example 0.1"
        raise SettingsError(f"the false-discovery rate {wanted}, not {false_discovery_rate}")
    return false_discovery_control(p_values) <= false_discovery_rate * (1 + 1e-12)


def leave_one_out_p_values(good_scores: ArrayLike, false_discovery_rate: float = 0.1) -> np.ndarray:
    """P-values `(n,)` of leave-one-out scores among themselves, some of which may be those of defects, float64.

    Ranks alone say nothing about how many are odd, so a law of good scores has to be believed. A score is the largest
    of thousands of distances, for which extreme-value theory has laws; the Fréchet law (a Gumbel law of the logarithm)
    is laid through the 10 % and 50 % quantiles, which defects, having large scores, move little while they are few.
    What is discovered at the false-discovery rate is left out and the law laid again, until nothing changes; the
    p-values are its upper tail. Nothing is guaranteed. The law was chosen on real products: with a lighter tail, as of
    a Gumbel law of the scores or a normal law of their logarithm, more defects are found, but the false-discovery rate
    is not kept (`benchmarks/contamination.py`).

    Scores that are not positive, or equal in their lower half, are beyond that law: then all p-values are 1.

    Examples:
        >>> bool(leave_one_out_p_values([1.0, 1.1, 1.2, 1.3, 99.0])[4] < 0.01)
        True
    """
    scores = checked_scores(good_scores)
    left = np.ones(len(scores), bool)
    for _ in range(ROUNDS):
        if scores.min() <= 0 or not np.ptp(np.quantile(scores[left], QUANTILES)) > 0:
            return np.ones(len(scores))
        logarithms = np.log(scores)
        low, middle = np.quantile(logarithms[left], QUANTILES)
        scale = (middle - low) / np.ptp(gumbel_r.ppf(QUANTILES))
        p_values = gumbel_r.sf((logarithms - middle) / scale + gumbel_r.ppf(QUANTILES[1]))
        before, left = left, ~discoveries(p_values, false_discovery_rate)
        if (left == before).all() or not left.any():
            break
    return p_values
