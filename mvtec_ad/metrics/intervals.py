"""95 % intervals. The image is the unit: the pixels of one image are not independent evidence.

Image AUROC, average precision and F1-max have closed intervals; pixel metrics, and every difference of two methods, are
bootstrapped over images, stratified by label. Simulations decided: how often does a nominal 95 % interval hold the true
value, of binormal scores with a true AUROC of .90 to .999, 500 test sets each?

| defects / good | 63 / 20 | 30 / 12 | 119 / 41 | 20 / 40 |
|---|---|---|---|---|
| AUROC, percentile bootstrap | .24 to .95 | .11 to .91 | .45 to .93 | .14 to .94 |
| AUROC, Newcombe (used) | .96 to .99 | .94 to .98 | .96 to 1.00 | .88 to .99 |
| average precision and F1-max, percentile bootstrap | .24 to .94 | .11 to .90 | .45 to .93 | .14 to .90 |
| average precision and F1-max, Wilson (used) | .98 to 1.00 | .98 to 1.00 | .99 to 1.00 | .98 to 1.00 |

The bootstrap fails because a test set without errors resamples to itself: at AUROC 1 it shrinks to a point. Of pixel
metrics it holds .78 to .97, least with 20 defects; of differences of two equally good methods .92 to 1.00.

False alarms at 95 % detection: the threshold is the score of one weak defect and moves with every draw. Wilson over the
good images alone holds the truth .20 to 1.00 of the time, the bootstrap .05 to .97, the envelope of both (used) .89 to
1.00 in the first three columns and .74 to 1.00 with 20 defects; below 30 defects the interval is too narrow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics._checks import both_classes, checked_labels, checked_table
from mvtec_ad.metrics.image import auroc_of, average_precision_of, f1_of, false_alarms_at, false_alarms_of

_Z = float(norm.ppf(0.975))


def resample_weights(labels: ArrayLike, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Bootstrap weights: how often each image is drawn in each resample, stratified by label.

    One matrix serves all seeds, methods and metrics of a test set, so that their resampled values are paired. Labels
    `(N,)`, 0 or 1, give counts `(R, N)`, int64; in each row the good images sum to their number, and so do the others.

    Examples:
        >>> resample_weights([0, 1, 1], resamples=50).shape
        (50, 3)
    """
    labels = np.asarray(labels)
    labels = checked_labels(labels, labels.size)
    if resamples < 1:
        raise SettingsError(f"resamples must be at least 1, not {resamples}")
    generator = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(labels)), dtype=np.int64)
    for stratum in (np.flatnonzero(~labels), np.flatnonzero(labels)):
        if len(stratum):
            even = np.full(len(stratum), 1 / len(stratum))
            weights[:, stratum] = generator.multinomial(len(stratum), even, size=resamples)
    return weights


def resampled_ranking(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike, detection: float = 0.95
) -> dict[str, np.ndarray]:
    """Bootstrap of the image metrics: their values in every resample at once.

    Labels, scores and detection as in `false_alarms_at`, weights, `(R, N)`, as from `resample_weights`, give
    `{"image_auroc", "image_ap", "f1_max", "false_alarms"}`, `(R,)` each: the first three equal scikit-learn's metrics
    with these sample weights; nan where a resample lacks a class.

    Examples:
        >>> resampled_ranking([0, 0, 1], [1.0, 3.0, 2.0], [[1, 1, 1], [2, 0, 1]])["image_auroc"].tolist()
        [0.5, 1.0]
    """
    labels, scores = both_classes(labels, scores, "resampled AUROC")
    weights = checked_table(weights, "weights", "R", len(labels))
    order = np.argsort(scores, kind="stable")
    levels = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # equal scores share a level
    positive = np.add.reduceat(weights[:, order] * labels[order], levels, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~labels[order], levels, axis=1)
    return {
        "image_auroc": auroc_of(negative, positive),
        "image_ap": average_precision_of(negative, positive),
        "f1_max": f1_of(negative, positive).max(axis=-1),
        "false_alarms": false_alarms_of(negative, positive, detection),
    }


def newcombe(auroc: float, defects: int, good: int) -> tuple[float, float]:
    """Newcombe's 95 % interval of an AUROC from m defects and n good images.

    The θ with |θ − AUROC| = z √V(θ), V(θ) = θ(1 − θ) [1 + N* ((1 − θ)/(2 − θ) + θ/(1 + θ))] / (m n) and
    N* = (m + n)/2 − 1: method 5 of Newcombe, "Confidence intervals for an effect size measure based on the Mann–Whitney
    statistic, part 2", Statistics in Medicine 2006.

    Of several seeds the mean AUROC, which makes the interval a little too wide. At AUROC 1 the upper end is 1 and the
    lower end stays below it. An estimate that is not in [0, 1] and an empty class are DataErrors.

    Examples:
        >>> [round(bound, 3) for bound in newcombe(1.0, defects=63, good=20)]
        [0.934, 1.0]
    """
    if not (0 <= auroc <= 1 and defects > 0 and good > 0):
        raise DataError(f"no interval for an AUROC of {auroc} from {defects} defects and {good} good images")
    pairs, half = defects * good, (defects + good) / 2 - 1

    def lower(estimate: float) -> float:
        def gap(theta: float) -> float:
            spread = 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
            return estimate - theta - _Z * np.sqrt(theta * (1 - theta) * spread / pairs)

        # At 1 the variance is 0, so 1 itself would solve the equation; the root wanted lies below it.
        return 0.0 if estimate == 0 else float(brentq(gap, 0.0, estimate * (1 - 1e-12)))

    return lower(auroc), 1.0 - lower(1.0 - auroc)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share among `count` units (JASA 1927).

    For average precision and F1-max the units are the defective images: Boyd, Eng & Page (ECML 2013) do so for average
    precision, with the Wald form, which collapses at 1; F1 is a share of TP + (FP + FN)/2, about the number of defects.

    Within [0, 1] and never a point. A share that is not in [0, 1] and no units are DataErrors.

    Examples:
        >>> [round(bound, 3) for bound in wilson(0.5, count=10)]
        [0.237, 0.763]
    """
    if not (0 <= share <= 1 and count > 0):
        raise DataError(f"no interval for a share of {share} among {count} units")
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    reach = _Z / (1 + _Z**2 / count) * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, float(centre - reach)), min(1.0, float(centre + reach))


def interval(values: ArrayLike, estimate: float, units: int) -> tuple[float, float]:
    """Percentile bootstrap: 95 % interval of a metric in [0, 1], widened to hold its estimate.

    Where no resample differs from the estimate, as at 1, the bootstrap knows nothing and the Wilson interval with
    `units` takes its place: the metric is then a mean over defective images that were all perfect.

    `values`, `(R,)`, and `estimate` are means over seeds, of each resample (nan is left out) and of the test set.

    Examples:
        >>> [round(bound, 3) for bound in interval(np.linspace(0, 1, 101), estimate=0.5, units=10)]
        [0.025, 0.975]
    """
    low, high = np.nanquantile(np.asarray(values, dtype=np.float64), [0.025, 0.975])
    low, high = min(float(low), estimate), max(float(high), estimate)
    return (low, high) if high - low > 1e-9 else wilson(min(max(estimate, 0.0), 1.0), units)


def paired_difference(
    first: ArrayLike, second: ArrayLike, first_estimate: float, second_estimate: float, units: int
) -> dict[str, float]:
    """Paired bootstrap: how much better the first of two methods is, with a 95 % interval, from the same resamples.

    Images that are hard for both cancel, so the interval is narrower than those of the two methods suggest. Where the
    methods differ in no resample, the interval is what could have stayed unseen in `units` images.

    Args:
        first, second: Each method's metric in the same resamples, averaged over its seeds, shape `(R,)`.
        first_estimate, second_estimate: The same on the test set.
        units: Number of defective images.

    Returns:
        `{"mean", "low", "high"}` of first − second; the methods differ where 0 lies outside.

    Examples:
        >>> paired_difference([0.75, 1.0], [0.5, 0.75], 0.875, 0.625, units=10)["mean"]
        0.25
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape:
        raise DataError(f"paired methods need the same resamples, not {first.shape} and {second.shape} of them")
    mean = float(first_estimate - second_estimate)
    low, high = np.nanquantile(first - second, [0.025, 0.975])
    low, high = min(float(low), mean), max(float(high), mean)
    if high - low <= 1e-9:
        unseen = 1.0 - wilson(1.0, units)[0]
        low, high = mean - unseen, mean + unseen
    return {"mean": mean, "low": low, "high": high}


def verdict(low: float, high: float, above: str = "ahead", below: str = "behind") -> str:
    """Verdict on a difference from the ends of its interval, or from the lowest and highest seed: `above`, `below`,
    or `undecided` where it reaches from one side of zero to the other.

    Examples:
        >>> verdict(0.01, 0.2), verdict(-0.1, 0.2)
        ('ahead', 'undecided')
    """
    if not low <= high:
        raise DataError(f"an interval reaches from its lower to its upper end, not from {low} to {high}")
    return above if low > 0 else below if high < 0 else "undecided"


def over_seeds(values: list[float], bounds: tuple[float, float]) -> dict:
    """`{"mean", "sd", "low", "high", "values"}` of a metric over its seeds; sd is 0.0 for one seed."""
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "low": bounds[0],
        "high": bounds[1],
        "values": [float(value) for value in values],
    }


def false_alarms_interval(
    labels: ArrayLike, scores_by_seed: ArrayLike, detection: float = 0.95, resamples: int = 1000
) -> dict:
    """False alarms at a detection rate over several seeds, with the envelope of bootstrap and Wilson interval.

    The Wilson part, over the good images, keeps it from becoming a point; the bootstrap part, `resamples` that serve
    all seeds, lets the threshold move. Arguments and result as in `evaluate`, errors as in `false_alarms_at`.

    Examples:
        >>> false_alarms_interval([0, 0, 1, 1], [[0.1, 0.4, 0.3, 0.8]])["mean"]
        0.5
    """
    labels, scores_by_seed = np.asarray(labels), checked_table(scores_by_seed, "scores_by_seed", "seeds")
    values = [false_alarms_at(labels, scores, detection) for scores in scores_by_seed]
    mean = float(np.mean(values))
    weights = resample_weights(labels, resamples)
    bootstrap = [resampled_ranking(labels, scores, weights, detection)["false_alarms"] for scores in scores_by_seed]
    still = wilson(mean, int((labels == 0).sum()))
    moving = np.quantile(np.mean(bootstrap, axis=0), [0.025, 0.975])
    return over_seeds(values, (min(still[0], float(moving[0]), mean), max(still[1], float(moving[1]), mean)))
