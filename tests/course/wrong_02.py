"""Wrong answers to lab 02, and what is said to each."""

import math

import numpy as np


def _without_ridge(x, mean, covariance, ridge):
    return np.array([np.sqrt((p - mean) @ np.linalg.solve(covariance, p - mean)) for p in x])


def _squared(x, mean, covariance, ridge):
    away = x - mean
    return np.einsum("nd,nd->n", away, np.linalg.solve(covariance + ridge * np.eye(len(mean)), away.T).T)


def _ridge_everywhere(x, mean, covariance, ridge):
    inverse = np.linalg.inv(covariance + ridge)
    return np.sqrt([(p - mean) @ inverse @ (p - mean) for p in x])


def _gaussian(x, ridge, divisor=None):
    mean = x.mean(axis=0)
    scatter = sum(np.outer(row - mean, row - mean) for row in x)
    return mean, scatter / (divisor or len(x) - 1) + ridge * np.eye(x.shape[1])


def _distance(x, mean, covariance):
    return math.sqrt((x - mean) @ np.linalg.solve(covariance, x - mean))


def _at_each_position(good, image, distance):
    _, h, w, _ = good.shape
    return [[distance(good[:, i, j], image[i, j]) for j in range(w)] for i in range(h)]


def _one_for_all(good, image, ridge):
    fitted = _gaussian(good.reshape(-1, good.shape[-1]), ridge)
    return [[_distance(x, *fitted) for x in row] for row in image]


def _variances_only(good, image, ridge):
    return np.sqrt(((image - good.mean(0)) ** 2 / (good.std(0, ddof=1) ** 2 + ridge)).sum(axis=2))


def _divided_by_n(good, image, ridge):
    return _at_each_position(good, image, lambda g, x: _distance(x, *_gaussian(g, ridge, len(g))))


def _no_root(good, image, ridge):
    return _at_each_position(good, image, lambda g, x: _distance(x, *_gaussian(g, ridge)) ** 2)


def _image_score(good, image, ridge):
    return np.max(_at_each_position(good, image, lambda g, x: _distance(x, *_gaussian(g, ridge))))


def _lower(centred, penalty):
    return np.linalg.cholesky(centred @ centred.T + penalty * np.identity(len(centred)))


def _in_the_fit(x, ridge):
    return [_distance(row, *_gaussian(x, ridge)) for row in x]


def _old_mean(x, ridge):
    covariances = [_gaussian(np.delete(x, i, 0), ridge)[1] for i in range(len(x))]
    return [_distance(row, x.mean(0), covariance) for row, covariance in zip(x, covariances, strict=True)]


def _wrong_divisor(x, ridge):
    n = len(x)
    q = np.array(_in_the_fit(x, ridge)) ** 2
    return n / (n - 1) * np.sqrt(q / (1 - n / (n - 1) / (n - 2) * q))


def _not_downdated(x, ridge):
    n = len(x)
    return [n / (n - 1) * _distance(row, *_gaussian(x, ridge, n - 2)) for row in x]


def _no_infinity(scores, alpha):
    k = math.ceil(round((len(scores) + 1) * (1 - alpha), 9))
    return sorted(scores)[min(k, len(scores)) - 1]


def _without_the_next(scores, alpha):
    return sorted(scores)[math.ceil(round(len(scores) * (1 - alpha), 9)) - 1]


def _rounded_down(scores, alpha):
    k = int(round((len(scores) + 1) * (1 - alpha), 9))
    return sorted(scores)[k - 1] if (len(scores) + 1) * alpha > 0.999 else float("inf")


def _too_high(scores, alpha):
    k = math.ceil(round((len(scores) + 1) * (1 - alpha), 9))
    return sorted(scores)[k] if k < len(scores) else max(scores) if k == len(scores) else float("inf")


def _unweighted(x, poses):
    means = [np.mean(x[poses == pose], axis=0) for pose in sorted(set(poses.tolist()))]
    return np.var(means, axis=0).sum() / np.var(x, axis=0).sum()


def _traces(x, poses):
    within = sum(np.sum((x[poses == pose] - x[poses == pose].mean(0)) ** 2) for pose in set(poses.tolist()))
    total = np.sum((x - x.mean(0)) ** 2)
    return within / len(x), total / len(x)


def _within(x, poses):
    within, total = _traces(x, poses)
    return within / total


def _ratio_of_both(x, poses):
    within, total = _traces(x, poses)
    return (total - within) / within


def _undivided(x, poses):
    within, total = _traces(x, poses)
    return total - within


PATCHES = np.random.default_rng(6).normal(size=(40, 6))
PATCHES[:, 5] = PATCHES[:, 0] - PATCHES[:, 1]
MEAN = PATCHES.mean(0)

WRONG = {
    "02.gaussians": [
        (31_673_600, "symmetric"),
        (15_836_800, "mean"),
        (627_200, "variances only"),
        (5150, "56 × 56"),
    ],
    "02.mahalanobis": [
        (_without_ridge, "left out ε"),
        (_squared, "squared"),
        (_ridge_everywhere, "diagonal"),
        (lambda x, mean, covariance, ridge: 2.0, "shape"),
    ],
    "02.map": [
        (_one_for_all, "one Gaussian"),
        (_variances_only, "only the variances"),
        (_divided_by_n, "N − 1"),
        (_no_root, "root"),
        (_image_score, "asked is the map"),
    ],
    "02.woodbury": [
        (lambda x, ridge: np.linalg.inv(_lower(x, ridge)) @ x, "here it is ε"),
        (lambda x, ridge: np.linalg.inv(_lower(x, len(x) * ridge)) @ x, "here it is N ε"),
        (lambda x, ridge: np.matmul(_lower(x, (len(x) - 1) * ridge), x), "multiplied"),
        (lambda x, ridge: np.linalg.inv(_lower(x, (len(x) - 1) * ridge).T) @ x, "transposed"),
        (lambda x, ridge: np.linalg.inv(x.T @ x + (len(x) - 1) * ridge * np.eye(x.shape[1])), "N × N"),
    ],
    "02.leave_one_out": [
        (_in_the_fit, "still in the fit"),
        (_old_mean, "mean moves"),
        (_wrong_divisor, "N − 2"),
        (_not_downdated, "1 − c q"),
    ],
    "02.ridge_units": [
        (0.04, "square"),
        (0.000625, "larger variances"),
        (0.0025, "and squared"),
        (0.01, "16 times"),
        (1.0, "too large"),
    ],
    "02.blind_direction": [
        (MEAN, "M is 0.00"),
        (MEAN + 0.045 * np.eye(6)[0], "do these not vary"),
        (MEAN + np.array([1, -1, 0, 0, 0, -1]), "1.732 from μ"),
        ([[1, 2]], "6 channels"),
    ],
    "02.conformal": [
        (_no_infinity, "infinity"),
        (lambda scores, alpha: np.percentile(scores, 100 - 100 * alpha), "interpolates"),
        (_without_the_next, "n + 1"),
        (_rounded_down, "rounded down"),
        (_too_high, "rank too high"),
    ],
    "02.nineteen": [
        (0.05, "mean"),
        (0.623, "stay below"),
        (0, "unlucky"),
        (0.5, "skewed"),
        (0.2, "too small"),
    ],
    "02.images": [
        (19, "on average"),
        (20, "right mean"),
        (58, "round up"),
        (299, "1 %"),
        (100, "too large"),
    ],
    "02.poses": [
        (_within, "within the poses"),
        (_unweighted, "weigh each pose"),
        (_ratio_of_both, "not by what is within"),
        (_undivided, "divide by the total"),
    ],
    "02.middle": [
        ([3.0, 0.0], "looks normal"),
        ([0.0, 5.0], "smallest"),
        ([0.0, 0.0, 0.0], "2 channels"),
        ("the mean", "cannot be tried"),
    ],
    "02.report": [
        ("abce", "b does not hold"),
        ("ce", "a holds, too"),
        ("acde", "d does not hold"),
        ("acef", "f does not hold"),
    ],
}
