"""What a threshold from N good images may promise: statements that are exact for every N and every distribution.

A *good score* is that of a good image that the model was not fitted on. The statements hold where good and coming
scores are exchangeable: of parts alike, photographed alike, each scored by a model that has not seen it. Scores are
taken as continuous; where many tie the true rates are lower, never higher. Leave-one-out scores, of models that are
fitted on all images but one, are nearly what that asks for; `same_as_before` tells whether new images agree.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mvtec_ad.errors import SettingsError
from mvtec_ad.metrics._checks import checked_scores
from mvtec_ad.metrics.thresholds import calibrated_rank

MOST_PAIRS = 20_000  # of old and new images whose rank sums are enumerated; scipy's numbers overflow at a million
PERMUTATIONS = 9_999


def true_rate(count: int, false_alarm_rate: float) -> Any:
    """Distribution of the true false-alarm rate over draws of the good images: Beta(n + 1 − k, k), scipy's, frozen.

    The threshold is the k-th smallest of n good scores (`calibrated_rank`); of a continuous distribution the share
    beyond that order statistic is Beta, whatever the distribution: Vovk, "Conditional validity of inductive conformal
    predictors", ACML 2012, section 3; Wilks 1941. Too few images for the rate are a DataError.

    Examples:
        >>> round(float(true_rate(209, false_alarm_rate=0.05).mean()), 4)
        0.0476
    """
    k = calibrated_rank(count, false_alarm_rate)
    return stats.beta(count + 1 - k, k)


def true_rate_interval(count: int, false_alarm_rate: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval that holds the true false-alarm rate of a calibrated threshold with this probability, exactly.

    Equal tails of `true_rate`, which has the arguments and errors; a confidence outside (0, 1) is a SettingsError.

    Examples:
        >>> [round(bound, 3) for bound in true_rate_interval(209, false_alarm_rate=0.05)]
        [0.023, 0.08]
    """
    tail = (1 - _share("confidence", confidence)) / 2
    low, high = true_rate(count, false_alarm_rate).ppf([tail, 1 - tail])
    return float(low), float(high)


def images_to_vouch(largest: float, confidence: float = 0.95) -> int:
    """Fewest good images from which any threshold has a true false-alarm rate of at most `largest` with confidence.

    The largest of n scores as threshold has a true rate of Beta(1, n), so n = ⌈log(1 − confidence) / log(1 − largest)⌉.
    `images_needed` asks less: that the rate holds on average over draws of the good images, not for this one.

    Examples:
        >>> images_to_vouch(0.05), images_to_vouch(0.01)
        (59, 299)
    """
    logarithms = math.log1p(-_share("confidence", confidence)), math.log1p(-_share("largest rate", largest))
    return math.ceil(logarithms[0] / logarithms[1] * (1 - 1e-12))


def alarms_among(count: int, false_alarm_rate: float, coming: int) -> Any:
    """Distribution of the number of false alarms among `coming` good images: BetaBinomial, scipy's, frozen.

    BetaBinomial(coming, n + 1 − k, k): binomial with the unknown `true_rate`, which has the other arguments and errors.

    Examples:
        >>> [int(bound) for bound in alarms_among(209, false_alarm_rate=0.05, coming=1000).interval(0.95)]
        [21, 83]
    """
    if coming < 1:
        raise SettingsError(f"{coming} coming images give no alarms: ask for 1 or more")
    return stats.betabinom(coming, *true_rate(count, false_alarm_rate).args)


def same_as_before(good_scores: ArrayLike, new_scores: ArrayLike, seed: int = 0) -> dict[str, float]:
    """Exact permutation test of whether new good images score like the old ones: rank sum, two-sided.

    Under exchangeability each way to deal the scores into old and new is equally likely. Without ties and up to
    `MOST_PAIRS` pairs scipy counts all ways (Mann & Whitney 1947); else the p-value comes from that many random
    `PERMUTATIONS` with the observed one among them, which keeps its level just as exactly (Phipson & Smyth 2010).

    Returns:
        `{"p", "higher"}`: the p-value, and the share of pairs in which the new image scores higher, a tie counting
        half: .5 where they are alike, near 0 where the model was fitted on the new ones.

    Examples:
        >>> same_as_before([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0])["p"]  # 2 of the 35 ways are as extreme
        0.05714285714285714
    """
    old, new = checked_scores(good_scores), checked_scores(new_scores)
    ranks = stats.rankdata(np.concatenate([new, old]))  # in the middle where they tie
    pairs = len(old) * len(new)
    higher = (ranks[: len(new)].sum() - len(new) * (len(new) + 1) / 2) / pairs
    if pairs <= MOST_PAIRS and len(np.unique(ranks)) == len(ranks):
        p = stats.mannwhitneyu(new, old, method="exact").pvalue
    else:
        known = {"vectorized": True, "n_resamples": PERMUTATIONS, "batch": 500, "rng": seed}
        p = stats.permutation_test((ranks[: len(new)], ranks[len(new) :]), _mean_difference, **known).pvalue
    return {"p": float(p), "higher": float(higher)}


def _mean_difference(new: np.ndarray, old: np.ndarray, axis: int) -> np.ndarray:
    return new.mean(axis) - old.mean(axis)


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise SettingsError(f"the {name} must lie between 0 and 1, for example 0.05, not {value}")
    return float(value)
