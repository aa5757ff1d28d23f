"""Lab 02, PaDiM: the checks of its exercises."""

from __future__ import annotations

import numpy as np

from mvtec_ad.course.exercises import implement, predict, say


def _mahalanobis(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray, ridge: float) -> np.ndarray:
    away = x - mean
    return np.sqrt((away @ np.linalg.inv(covariance + ridge * np.eye(len(mean))) * away).sum(1))


_random = np.random.default_rng(2)
_points = _random.normal(size=(6, 3))

implement(
    "02.mahalanobis",
    _mahalanobis,
    [
        (np.array([[3.0, 0.0], [0.0, 2.0]]), np.zeros(2), np.diag([8.0, 3.0]), 1.0),  # sqrt(9 / 9), sqrt(4 / 4)
        (_points, _points.mean(0), np.cov(_points.T), 0.5),
    ],
    [
        (lambda x, m, c, r: _mahalanobis(x, m, c, 0.0), say("you left out ε: it is added to the diagonal of Σ")),
        (lambda x, m, c, r: _mahalanobis(x, m, c, r) ** 2, say("this is the squared distance: the root is missing")),
        (lambda x, m, c, r: _mahalanobis(x, m, c + r - r * np.eye(len(m)), r), say("ε belongs on the diagonal only")),
        (lambda x, m, c, r: np.linalg.norm(x - m, axis=1), say("this is the Euclidean distance: Σ is not used")),
    ],
)

predict(
    "02.gaussians",
    56 * 56 * (100 + 100 * 101 // 2),
    [
        (56 * 56 * (100 + 100 * 100), say("a covariance is symmetric: how many of its numbers differ?")),
        (56 * 56 * 100 * 101 // 2, say("the mean of each position is missing")),
        (100 + 100 * 101 // 2, say("this is one position: there are 56 × 56")),
    ],
    say("count mean and covariance of one position, then the positions"),
)
