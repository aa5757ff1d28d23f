"""Wrong answers to lab 00, and what is said to each."""

import math

import numpy as np


def _divided_by_n(x):
    mean = [sum(column) / len(x) for column in x.T]
    return sum(np.outer(row - mean, row - mean) for row in x) / len(x)


def _of_the_points(x):
    away = x - x.mean(1, keepdims=True)
    return away @ away.T / (x.shape[1] - 1)


def _not_centred(x):
    return sum(np.outer(row, row) for row in x) / (len(x) - 1)


def _correlations(x):
    z = (x - x.mean(0)) / x.std(0)
    return z.T @ z / len(x)


def _of_the_values(values, drawn):
    return tuple(np.percentile(values, [2.5, 97.5]))


def _ninety_percent(values, drawn):
    means = [np.mean(values[row]) for row in drawn]
    return float(np.quantile(means, 0.05)), float(np.quantile(means, 0.95))


def _pooled(values, drawn):
    return tuple(np.quantile(np.concatenate([values[row] for row in drawn]), [0.025, 0.975]))


def _normal(values, drawn):
    means = np.array([values[row].mean() for row in drawn])
    return means.mean() - 1.96 * np.std(means), means.mean() + 1.96 * np.std(means)


def _probabilities(w, x):
    return np.array([1 / (1 + math.exp(-float(row @ w))) for row in x])


WRONG = {
    "00.convolution": [
        (30.5, "round down"),
        (29, "first position"),
        (32, "padding"),
        (60, "stride 1"),
        (31, "too large"),
    ],
    "00.receptive_field": [
        (7, "with stride 1"),
        (11, "third layer"),
        (27, "multiply"),
        (9, "overlap"),
        (21, "own stride"),
    ],
    "00.covariance": [
        (_divided_by_n, "n − 1"),
        (_not_centred, "not subtracted"),
        (_of_the_points, "points with points"),
        (_correlations, "correlations"),
        (lambda x: [np.var(column, ddof=1) for column in x.T], "variances only"),
    ],
    "00.uncorrelated": [
        ([1, 2, 3], "two rows"),
        ([[1, 2, 3], [2, 4, 6]], "covariance is 2"),
        ([[1, 2, 3], [5, 5, 5]], "constant"),
        ([[0, 0, 1, 1], [0, 1, 0, 1]], "three different"),
        ([[-1, -1, 0, 0, 1, 1], [0, 1, 0, 1, 0, 1]], "must follow"),
        ([["a", "b"], ["c", "d"]], "cannot be tried"),
    ],
    "00.auroc": [
        (0.77778, "not 1"),
        (0.27778, "round"),
        (6.5, "count"),
        (0.66667, "not 0"),
        (1.0, "too large"),
    ],
    "00.bootstrap": [
        (_of_the_values, "of the values"),
        (_ninety_percent, "90 %"),
        (_pooled, "each resample"),
        (_normal, "standard deviations"),
    ],
    "00.base_rate": [
        (0.95, "P(alarm | defect)"),
        (0.0095, "P(defect and alarm)"),
        (0.1919, "per false alarm"),
        (0.059, "raise an alarm"),
        (0.5, "too large"),
    ],
    "00.alarms": [
        ("abce", "b does not hold"),
        ("ce", "a holds, too"),
        ("ac", "e holds, too"),
        ("acde", "d does not hold"),
        ("az", "give the letters"),
    ],
    "00.gradient": [
        (lambda w, x, y: x.T @ (y - _probabilities(w, x)) / len(y), "sign"),
        (lambda w, x, y: sum((p - t) * row for p, t, row in zip(_probabilities(w, x), y, x, strict=True)), "mean"),
        (lambda w, x, y: np.mean([(row @ w - t) * row for row, t in zip(x, y, strict=True)], axis=0), "squared"),
        (lambda w, x, y: _probabilities(w, x) - y, "chain rule"),
    ],
}
