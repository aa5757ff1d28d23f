"""Wrong answers to lab 08, and what is said to each."""

import math

import numpy as np
from scipy import stats


def _euclidean(x, means, covariance, limits):
    answers = []
    for row in x:
        ratios = [np.sqrt(((row - mean) ** 2).sum()) / limit for mean, limit in zip(means, limits, strict=True)]
        answers.append(-1 if min(ratios) > 1 else int(np.argmin(ratios)))
    return answers


def _distances(x, means, covariance):
    inverse = np.linalg.inv(covariance)
    return np.array([[np.sqrt((row - mean) @ inverse @ (row - mean)) for mean in means] for row in x])


def _never_none(x, means, covariance, limits):
    return np.argmin(_distances(x, means, covariance) / limits, axis=1)


def _limit_of_the_nearest(x, means, covariance, limits):
    answers = []
    for row in _distances(x, means, covariance):
        nearest = int(row.argmin())
        answers.append(nearest if row[nearest] <= limits[nearest] else -1)
    return answers


def _squared(x, means, covariance, limits):
    ratios = _distances(x, means, covariance) ** 2 / limits
    return [-1 if row.min() > 1 else row.argmin() for row in ratios]


def _around_zero(logits, scores, threshold, width, limit):
    pairs = zip(logits, scores, strict=True)
    return [width * math.tanh((s - limit) / abs(limit)) if abs(z) < width else z - threshold for z, s in pairs]


def _not_shifted(logits, scores, threshold, width, limit):
    inside = abs(logits - threshold) < width
    return inside * width * np.tanh((scores - limit) / abs(limit)) + ~inside * logits


def _raw_score(logits, scores, threshold, width, limit):
    answer = logits - threshold
    for n, value in enumerate(scores):
        if -width < answer[n] < width:
            answer[n] = value - limit
    return answer


def _edge_included(logits, scores, threshold, width, limit):
    inside = abs(logits - threshold) <= width
    return np.where(inside, width * np.tanh((scores - limit) / abs(limit)), logits - threshold)


def _signed_limit(logits, scores, threshold, width, limit):
    inside = abs(logits - threshold) < width
    return np.where(inside, width * np.tanh(scores / limit - 1), logits - threshold)


def _binomial(good_scores, alpha, coming):
    k = math.ceil((len(good_scores) + 1) * (1 - alpha))
    return sorted(good_scores)[k - 1], *stats.binom(coming, alpha).interval(0.95)


def _quantile(good_scores, alpha, coming):
    n = len(good_scores)
    k = math.ceil((n + 1) * (1 - alpha))
    return np.quantile(good_scores, 1 - alpha), *stats.betabinom(coming, n + 1 - k, k).interval(0.95)


def _n_only(good_scores, alpha, coming):
    n = len(good_scores)
    k = math.ceil(n * (1 - alpha))
    return sorted(good_scores)[k - 1], *stats.betabinom(coming, n + 1 - k, k).interval(0.95)


def _exchanged(good_scores, alpha, coming):
    n = len(good_scores)
    k = math.ceil((n + 1) * (1 - alpha))
    passing = stats.betabinom(coming, k, n + 1 - k)
    return sorted(good_scores)[k - 1], passing.ppf(0.025), passing.ppf(0.975)


def _true_rate(good_scores, alpha, coming):
    n = len(good_scores)
    k = math.ceil((n + 1) * (1 - alpha))
    return sorted(good_scores)[k - 1], *stats.beta(n + 1 - k, k).interval(0.95)


def _without_step(mean, covariance, count, new):
    total = count + len(new)
    centred = new - new.mean(axis=0)
    scatter = (count - 1) * covariance + centred.T @ centred
    return np.concatenate([[(count * mean + new.sum(axis=0)) / total], scatter / (total - 1)])


def _moments(mean, covariance, count, new, divisor):
    """By the sums of squares of all images."""
    total = count + len(new)
    middle = (count * mean + new.sum(0)) / total
    squares = (count - 1) * covariance + count * np.outer(mean, mean) + new.T @ new
    return middle, (squares - total * np.outer(middle, middle)) / divisor(total)


def _too_many(mean, covariance, count, new):
    middle, spread = _moments(mean, covariance, count, new, lambda total: total)
    return np.concatenate([middle[None], spread])


def _half_and_half(mean, covariance, count, new):
    _, spread = _moments(mean, covariance, count, new, lambda total: total - 1)
    return np.concatenate([[mean / 2 + new.mean(0) / 2], spread])


def _scatter_only(mean, covariance, count, new):
    middle, spread = _moments(mean, covariance, count, new, lambda total: 1)
    return np.concatenate([middle[None], spread])


def _sample_covariance(mean, covariance, count, new):
    middle, spread = _moments(mean, covariance, count, new, lambda total: total - 1)
    return np.vstack([middle, spread if len(new) > 1 else spread * np.nan])


def _bets(good_scores, new_scores, chance, epsilon, joins=True, itself=1, larger=lambda a, b: a > b):
    seen, factors = [float(score) for score in good_scores], []
    for score, u in zip(new_scores, chance, strict=True):
        count = sum(larger(other, score) for other in seen)
        equal = sum(other == score for other in seen) + itself
        factors.append(epsilon * ((count + u * equal) / (len(seen) + itself)) ** (epsilon - 1))
        if joins:
            seen.append(float(score))
    return factors


def _no_epsilon(good_scores, new_scores, chance, epsilon):
    factors = _bets(good_scores, new_scores, chance, epsilon)
    return np.cumprod([factor / epsilon for factor in factors])


_LABELS = [1] * 10 + [0] * 10

WRONG = {
    "08.stages": [
        ((0.915, 0.0874), "not recognised"),
        ([0.897, 0.950], "where half of all parts are"),
        ((0.8967, 0.005), "about all parts"),
        ((0.5586, 0.0874), "alternatives"),
        ((0.9, 0.5), "multiply along each way"),
    ],
    "08.product": [
        (_euclidean, "Euclidean"),
        (_never_none, "−1"),
        (_limit_of_the_nearest, "before you look"),
        (_squared, "squared"),
        (lambda x, means, covariance, limits: _distances(x, means, covariance) / limits, "shape"),
    ],
    "08.combined_score": [
        (_around_zero, "around 0"),
        (_not_shifted, "subtracted"),
        (_raw_score, "leaves the band"),
        (_edge_included, "edge"),
        (_signed_limit, "absolute value"),
    ],
    "08.sure_and_wrong": [
        ({"labels": _LABELS, "logits": [5] * 8 + [-4] * 2 + [-6] * 10, "second": _LABELS}, "half-width 2 helps"),
        ({"labels": _LABELS, "logits": [5] * 8 + [-7] * 2 + [-6] * 10, "second": [1] * 8 + [0] * 12}, "wrong about 2"),
        ({"labels": _LABELS, "logits": [5] * 6 + [-7] * 4 + [-6] * 10, "second": _LABELS}, "AUROC is 0.60"),
        ({"labels": _LABELS, "logits": [5] * 9 + [-7] + [-6] * 10, "second": _LABELS}, "misses 1"),
        ({"labels": [1, 0], "logits": [1, 2], "second": [1, 0]}, "8 to 40"),
        ([1, 2, 3], "cannot be tried"),
    ],
    "08.promise": [
        (_binomial, "binomial range"),
        (_quantile, "np.quantile"),
        (_n_only, "n + 1"),
        (_exchanged, "exchanged"),
        (_true_rate, "number of alarms"),
    ],
    "08.equal_graph": [
        ("ab", "a does not hold"),
        ("bce", "60 pictures"),
        ("bde", "three scores"),
        ("b", "single precision"),
        ("bef", "picture 17"),
        ("e", "agree to 2e-6"),
        (3, "give the letters"),
    ],
    "08.update": [
        (_without_step, "the step"),
        (_too_many, "N + M − 1"),
        (_half_and_half, "mean of two means"),
        (_sample_covariance, "single new image"),
        (_scatter_only, "this is the scatter"),
    ],
    "08.martingale": [
        (lambda good, new, chance, e: np.cumprod(_bets(good, new, chance, e, joins=False)), "must join"),
        (
            lambda good, new, chance, e: np.cumprod(_bets(good, new, chance, e, larger=lambda a, b: a < b)),
            "small for low scores",
        ),
        (lambda good, new, chance, e: np.cumprod(_bets(good, new, chance, e, itself=0)), "itself"),
        (_no_epsilon, "not fair"),
        (lambda good, new, chance, e: _bets(good, new, chance, e), "product so far"),
        (lambda good, new, chance, e: float(np.prod(_bets(good, new, chance, e))), "shape"),
    ],
}
