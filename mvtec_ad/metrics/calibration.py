"""Calibration: verdicts on parts, probabilities of a defect, and thresholds that weigh a miss against a false alarm.

Label 1 is a defect, a score is a raw logit, higher is more defective, and a verdict is `score > threshold`. Intervals
are Wilson's at 95 %, the units are parts (`intervals`). Everywhere `labels`, `verdicts`, `scores` and `probabilities`
have shape `(N,)`; another shape, label or verdict than 0 and 1, score that is not finite and probability outside [0, 1]
are DataErrors, costs and temperatures that are not positive SettingsErrors. Only `fit_temperature` and `cost_threshold`
need both classes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import brier_score_loss

from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.metrics._checks import both_classes, checked_labels, checked_scores
from mvtec_ad.metrics.image import between, per_level
from mvtec_ad.metrics.intervals import wilson

_TEMPERATURES = (0.05, 20.0)


def confusion(labels: ArrayLike, verdicts: ArrayLike) -> np.ndarray:
    """Confusion matrix: counts `(2, 2)`, int64; rows are the truth, columns the verdict, good before defect.

    Examples:
        >>> confusion([0, 0, 1, 1], [0, 1, 1, 1]).tolist()
        [[1, 1], [0, 2]]
    """
    verdicts = np.asarray(verdicts)
    if verdicts.ndim != 1 or verdicts.size == 0:
        raise DataError(f"verdicts must be one 0 or 1 per part, not an array of shape {verdicts.shape}")
    if not np.isin(verdicts, (0, 1)).all():
        raise DataError("verdicts must be 0 (good) or 1 (defect); make them from scores with score > threshold")
    labels = checked_labels(labels, len(verdicts))
    return np.bincount(2 * labels + verdicts.astype(np.int64), minlength=4).reshape(2, 2)


def _share(hits: float, total: float, units: int) -> dict[str, float]:
    """A share with its Wilson interval; nan where there is no unit."""
    share = float(hits / total) if units else float("nan")
    low, high = wilson(share, int(units)) if units else (share, share)
    return {"mean": share, "low": low, "high": high}


def accuracy(labels: ArrayLike, verdicts: ArrayLike) -> dict[str, float]:
    """Accuracy: share of right verdicts, `{"mean", "low", "high"}`.

    Examples:
        >>> accuracy([0, 0, 1, 1], [0, 1, 1, 1])["mean"]
        0.75
    """
    counts = confusion(labels, verdicts)
    return _share(np.trace(counts), counts.sum(), counts.sum())


def per_class(labels: ArrayLike, verdicts: ArrayLike) -> dict[str, dict[str, dict[str, float] | int]]:
    """Precision, recall and F1 of both classes.

    Returns:
        `{"good", "defect"}`, each `{"precision", "recall", "f1", "support"}`: three shares with their intervals, and
        the number of parts. The units of a precision are the parts called so; of recall and F1 those that are so.

    Examples:
        >>> per_class([0, 0, 1, 1], [0, 1, 1, 1])["defect"]["recall"]["mean"]
        1.0
    """
    counts = confusion(labels, verdicts)
    classes = {}
    for index, name in enumerate(("good", "defect")):
        hits, called, support = counts[index, index], counts[:, index].sum(), counts[index].sum()
        classes[name] = {
            "precision": _share(hits, called, called),
            "recall": _share(hits, support, support),
            "f1": _share(2 * hits, called + support, support),
            "support": int(support),
        }
    return classes


def _positive(**settings: float) -> None:
    for name, value in settings.items():
        if not (np.isfinite(value) and value > 0):
            raise SettingsError(f"{name} must be a positive finite number, for example 1, not {value}")


def probability(scores: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Probability of a defect, 1 / (1 + exp(−score / temperature)), shape `(N,)`, float64; nothing overflows.

    Examples:
        >>> probability([0.0, 2.0], temperature=2.0).round(3).tolist()
        [0.5, 0.731]
    """
    _positive(temperature=temperature)
    return expit(checked_scores(scores) / temperature)


def fit_temperature(labels: ArrayLike, scores: ArrayLike) -> float:
    """Temperature scaling: the T with the smallest negative log-likelihood of softened labels.

    The likelihood is that of `probability(scores, T)`. Guo et al., "On Calibration of Modern Neural Networks", ICML
    2017, arXiv:1706.04599, section 4.2, for two classes, with the targets of Platt, "Probabilistic outputs for support
    vector machines", 1999, section 2.2: among m defects and n good parts a defect counts as (m + 1)/(m + 2) and a good
    part as 1/(n + 2). Labels of 0 and 1 would make T vanish, and each probability 0 or 1, where a few dozen parts are
    told apart without a mistake. T is kept within [0.05, 20].

    Examples:
        >>> fit_temperature([0, 0, 1, 1], [-9.0, 9.0, 9.0, 9.0]) > 1  # too sure, for one mistake in four
        True
    """
    labels, scores = both_classes(labels, scores, "temperature")
    defects, good = labels.sum(), (~labels).sum()
    targets = np.where(labels, (defects + 1) / (defects + 2), 1 / (good + 2))

    def loss(logarithm: float) -> float:
        logits = scores / np.exp(logarithm)
        return float((targets * np.logaddexp(0.0, -logits) + (1 - targets) * np.logaddexp(0.0, logits)).mean())

    low, high = np.log(_TEMPERATURES)
    inner = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-8}).x
    # The search comes near a bound but never reaches it.
    return float(np.exp(min((low, inner, high), key=loss)))


def _checked_probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    probabilities = checked_scores(probabilities)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise DataError("probabilities must lie in [0, 1]; make them from raw scores with `probability`")
    return checked_labels(labels, len(probabilities)), probabilities


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Reliability diagram: predicted probability of a defect against the share of defects, in bins of equal width.

    Of M bins, bin m holds ((m − 1) / M, m / M], as in Guo et al., and the first one 0 as well.

    Gives a row for each bin that holds a part, ascending: `confidence` (mean predicted probability), `frequency` (share
    of defects), `low` and `high` (its Wilson interval) and `count` (parts).

    Examples:
        >>> reliability([0, 1, 1], [0.1, 0.7, 0.7])["frequency"].tolist()
        [0.0, 1.0]
    """
    labels, probabilities = _checked_probabilities(labels, probabilities)
    if bins < 1:
        raise SettingsError(f"bins must be at least 1, not {bins}")
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probabilities)
    _, index, count = np.unique(index, return_inverse=True, return_counts=True)
    frequency = np.bincount(index, weights=labels) / count
    table = pd.DataFrame({"confidence": np.bincount(index, weights=probabilities) / count, "frequency": frequency})
    table[["low", "high"]] = [wilson(*pair) for pair in zip(frequency.tolist(), count.tolist(), strict=True)]
    return table.assign(count=count)


def calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error Σ (n_m / N) |frequency_m − confidence_m| of the probability of a defect, in [0, 1].

    Equation 3 of Guo et al., arXiv:1706.04599; bins as in `reliability`.

    Examples:
        >>> calibration_error([0, 1], [0.25, 0.75])
        0.25
    """
    table = reliability(labels, probabilities, bins)
    return float(np.average(np.abs(table["frequency"] - table["confidence"]), weights=table["count"]))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Brier score: mean squared distance of probability and label, in [0, 1].

    Examples:
        >>> brier([0, 1], [0.25, 0.75])
        0.0625
    """
    return float(brier_score_loss(*_checked_probabilities(labels, probabilities)))


def mean_cost(labels: ArrayLike, scores: ArrayLike, threshold: float, miss: float, false_alarm: float) -> float:
    """Mean cost per part: miss · P(defect and called good) + false_alarm · P(good and called defective).

    Labels in the proportion in which parts come, both costs in one unit; a threshold that is nan is a SettingsError.

    Examples:
        >>> mean_cost([0, 0, 1, 1], [-1.0, 2.0, -3.0, 4.0], threshold=0.0, miss=10.0, false_alarm=1.0)
        2.75
    """
    _positive(miss=miss, false_alarm=false_alarm)
    if np.isnan(threshold):
        raise SettingsError("the threshold is nan, which calls every part good; give a number")
    counts = confusion(labels, checked_scores(scores) > threshold)
    return float((miss * counts[1, 0] + false_alarm * counts[0, 1]) / counts.sum())


def cost_threshold(labels: ArrayLike, scores: ArrayLike, miss: float, false_alarm: float) -> float:
    """Threshold with the smallest `mean_cost` on labelled validation parts, in the unit of the scores.

    Candidates lie half-way between neighbouring distinct scores, and just below and just above all of them. Where
    several cost the same, the one in the widest gap wins: it is the least likely to cut through parts to come. Of gaps
    equally wide the lowest wins, and an outer candidate only where nothing between is as cheap.

    Examples:
        >>> cost_threshold([0, 0, 1, 1], [-1.0, 2.0, -3.0, 4.0], miss=1.0, false_alarm=1.0)
        3.0
    """
    _positive(miss=miss, false_alarm=false_alarm)
    labels, scores = both_classes(labels, scores, "cost threshold")
    levels, passed, missed = per_level(labels, scores)
    candidates = [np.nextafter(levels[0], -np.inf), *between(levels), np.nextafter(levels[-1], np.inf)]
    missed, passed = (np.cumsum(np.append(0, count)) for count in (missed, passed))  # called good at each candidate
    costs = miss * missed + false_alarm * (passed[-1] - passed)
    widths = np.concatenate([[0.0], np.diff(levels / 2), [0.0]])
    cheapest = costs <= costs.min() * (1 + 1e-12)  # 3 · 0.1 and 0.3 are one cost
    return float(candidates[np.argmax(np.where(cheapest, widths, -1.0))])


def bayes_threshold(miss: float, false_alarm: float, temperature: float = 1.0) -> float:
    """Threshold T · log(false_alarm / miss) on the logit, optimal where `probability(scores, T)` is calibrated.

    It is where the probability of a defect equals p* = false_alarm / (false_alarm + miss): Elkan, "The Foundations of
    Cost-Sensitive Learning", IJCAI 2001, equation 2, with right verdicts that cost nothing.

    Examples:
        >>> round(bayes_threshold(miss=10.0, false_alarm=1.0), 3)
        -2.303
    """
    _positive(miss=miss, false_alarm=false_alarm, temperature=temperature)
    return float(temperature * (np.log(false_alarm) - np.log(miss)))
