"""Lab 02, PaDiM: the checks of its exercises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mvtec_ad.course.exercises import Message, breaks, choose, implement, predict, say
from mvtec_ad.metrics import calibrated, images_needed, images_to_vouch

_random = np.random.default_rng(2)

# --- a Gaussian at each position --------------------------------------------------------------------------------------

predict(
    "02.gaussians",
    56 * 56 * (100 + 100 * 101 // 2),
    [
        (56 * 56 * (100 + 100 * 100), say("a covariance is symmetric: how many of its numbers differ?")),
        (56 * 56 * 100 * 101 // 2, say("something of 100 numbers is missing: the mean, or the diagonal of Σ")),
        (56 * 56 * (100 + 100), say("these are variances only: channels vary together, so Σ is a full matrix")),
        (100 + 100 * 101 // 2, say("this is one position: there are 56 × 56")),
    ],
    say("count mean and covariance of one position, then the positions"),
)


def _mahalanobis(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray, ridge: float) -> np.ndarray:
    away = x - mean
    return np.sqrt((away @ np.linalg.inv(covariance + ridge * np.eye(len(mean))) * away).sum(1))


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
        (lambda x, m, c, r: _mahalanobis(x, 0 * m, c, r), say("μ is not subtracted")),
    ],
)


def _map(good: np.ndarray, image: np.ndarray, ridge: float, ddof: int = 1) -> np.ndarray:
    distances = np.zeros(image.shape[:2])
    for position in np.ndindex(distances.shape):
        x = good[(slice(None), *position)]
        covariance = np.atleast_2d(np.cov(x, rowvar=False, ddof=ddof))
        distances[position] = _mahalanobis(image[position][None], x.mean(0), covariance, ridge)[0]
    return distances


def _pooled_map(good: np.ndarray, image: np.ndarray, ridge: float) -> np.ndarray:
    x = good.reshape(-1, good.shape[-1])
    covariance = np.atleast_2d(np.cov(x, rowvar=False))
    return _mahalanobis(image.reshape(-1, image.shape[-1]), x.mean(0), covariance, ridge).reshape(image.shape[:2])


def _diagonal_map(good: np.ndarray, image: np.ndarray, ridge: float) -> np.ndarray:
    return np.sqrt(((image - good.mean(0)) ** 2 / (good.var(0, ddof=1) + ridge)).sum(-1))


implement(
    "02.map",
    _map,
    [
        (np.array([0.0, 2.0, 4.0]).reshape(3, 1, 1, 1), np.array([[[6.0]]]), 0.5),  # μ 2, variance 4: 4 / √4.5
        (_random.normal(size=(7, 3, 4, 2)) @ [[1.0, 0.8], [0.0, 0.6]], _random.normal(size=(3, 4, 2)), 0.1),
    ],
    [
        (_pooled_map, say("one Gaussian serves all positions here: PaDiM fits one at each")),
        (_diagonal_map, say("only the variances are used: channels vary together, so Σ is a full matrix")),
        (lambda g, x, r: _map(g, x, r, ddof=0), say("equation (1) divides by N − 1")),
        (lambda g, x, r: _map(g, x, r) ** 2, say("these are squared distances: the root is missing")),
        (lambda g, x, r: _map(g, x, 0.0), say("you left out ε: it is added to the diagonal of each Σ")),
        (lambda g, x, r: _map(g, x, r).max(), say("this is the score of the image: asked is the map")),
    ],
)

# --- two identities ---------------------------------------------------------------------------------------------------


def _factor(centred: np.ndarray, ridge: float) -> np.ndarray:
    """A = L⁻¹ X̄ by a QR decomposition: (X̄ √λI) (X̄ √λI)ᵀ = X̄ X̄ᵀ + λI."""
    n = len(centred)
    upper = np.linalg.qr(np.vstack([centred.T, math.sqrt((n - 1) * ridge) * np.eye(n)]), mode="r")
    return np.linalg.solve((np.sign(np.diag(upper))[:, None] * upper).T, centred)


def _inner(centred: np.ndarray, penalty: float) -> np.ndarray:
    return centred @ centred.T + penalty * np.eye(len(centred))


def _solved(penalty: Callable[[int, float], float]) -> Callable[[np.ndarray, float], np.ndarray]:
    return lambda x, r: np.linalg.solve(np.linalg.cholesky(_inner(x, penalty(len(x), r))), x)


def _symmetric(centred: np.ndarray, ridge: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(_inner(centred, (len(centred) - 1) * ridge))
    return vectors / np.sqrt(values) @ vectors.T @ centred


_few = _random.normal(size=(4, 6))

implement(
    "02.woodbury",
    _factor,
    [(np.array([[1.0, 0.0, 2.0], [-1.0, 0.0, -2.0]]), 1.0), (_few - _few.mean(0), 0.2)],
    [
        (_solved(lambda n, r: r), say("λ is (N − 1) ε: here it is ε")),
        (_solved(lambda n, r: n * r), say("λ is (N − 1) ε: here it is N ε")),
        (_solved(lambda n, r: 1e-12), say("λ is missing on the diagonal of the inner matrix")),
        (
            lambda x, r: np.linalg.cholesky(_inner(x, (len(x) - 1) * r)) @ x,
            say("X̄ is multiplied by L: solve L A = X̄ instead"),
        ),
        (
            lambda x, r: np.linalg.solve(_inner(x, (len(x) - 1) * r), x),
            say("this solves with the whole inner matrix: solve with its Cholesky factor L"),
        ),
        (
            lambda x, r: np.linalg.solve(np.linalg.cholesky(_inner(x, (len(x) - 1) * r)).T, x),
            say("L is transposed here: it is the lower triangle"),
        ),
        (_symmetric, say("this is with the symmetric root: L is the Cholesky factor, a lower triangle")),
        (
            lambda x, r: np.linalg.inv(x.T @ x + (len(x) - 1) * r * np.eye(x.shape[1])),
            say("this is a d × d matrix: the inner one is N × N, X̄ X̄ᵀ"),
        ),
    ],
)


def _left_out(x: np.ndarray, ridge: float) -> np.ndarray:
    distances = []
    for i in range(len(x)):
        others = np.delete(x, i, axis=0)
        covariance = np.atleast_2d(np.cov(others, rowvar=False))
        distances.append(_mahalanobis(x[[i]], others.mean(0), covariance, ridge)[0])
    return np.array(distances)


def _identity(x: np.ndarray, ridge: float, divisor: int = 2, moved: bool = True, downdated: bool = True) -> np.ndarray:
    """Sherman and Morrison's, with its parts left out one by one: wrong answers."""
    n, away = len(x), x - x.mean(0)
    q = _mahalanobis(x, x.mean(0), away.T @ away / (n - divisor), ridge) ** 2
    c = n / ((n - 1) * (n - 2)) if downdated else 0.0
    return (n / (n - 1) if moved else 1.0) * np.sqrt(q / (1 - c * q))


implement(
    "02.leave_one_out",
    _left_out,
    [(np.array([[0.0], [1.0], [5.0]]), 0.5), (_random.normal(size=(6, 8)), 0.3), (_random.normal(size=(9, 2)), 0.01)],
    [
        (
            lambda x, r: _mahalanobis(x, x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)), r),
            say("image i is still in the fit: these are the distances that are too small"),
        ),
        (lambda x, r: _identity(x, r, moved=False), say("the mean moves as well: multiply by N / (N − 1)")),
        (lambda x, r: _identity(x, r, divisor=1), say("B divides the scatter by N − 2, for N − 1 images are left")),
        (lambda x, r: _identity(x, r, downdated=False), say("the factor 1 / (1 − c q) is missing")),
        (lambda x, r: _left_out(x, r) ** 2, say("these are squared distances: the root is missing")),
    ],
)

# --- the ridge --------------------------------------------------------------------------------------------------------

predict(
    "02.ridge_units",
    0.01 * 4**2,
    [
        (0.01 * 4, say("a variance grows with the square of the scale")),
        (0.01 / 16, say("the other way round: larger features have larger variances")),
        (0.01 / 4, say("the other way round, and squared: ε is a variance")),
        (0.01, say("then a squared deviation weighs 16 times too much against the ridge")),
    ],
    say("ε is added to variances: what do these become when features are 4 times as large?"),
    tolerance=1e-4,
)


def _patches() -> np.ndarray:
    """Good patches (40, 6) whose last channel is the difference of the first two."""
    x = np.random.default_rng(6).normal(size=(40, 6))
    x[:, 5] = x[:, 0] - x[:, 1]
    return x


_NEAR = 0.045


def _blind_direction(answer: Any) -> Message | None:
    good, x = _patches(), np.asarray(answer, float)
    if x.shape != (6,):
        return say("give a patch of 6 channels: the shape of yours is {shape}", shape=x.shape)
    distance = float(np.linalg.norm(x - good.mean(0)))
    if not distance <= _NEAR:
        return say("it lies {distance:.3f} from μ, more than {most}", distance=distance, most=_NEAR)
    fitted = good.mean(0), np.cov(good.T), 1e-4
    largest, reached = float(_mahalanobis(good, *fitted).max()), float(_mahalanobis(x[None], *fitted)[0])
    if reached <= largest:
        return say(
            "M is {reached:.2f}, the good patches reach {largest:.2f}: in which direction do these not vary?",
            reached=reached,
            largest=largest,
        )
    return None


breaks("02.blind_direction", _blind_direction)

# --- a threshold from good parts --------------------------------------------------------------------------------------


def _conformal(scores: np.ndarray, alpha: float) -> float:
    return calibrated(scores, alpha) if len(scores) >= images_needed(alpha) else math.inf


def _ranked(rank: Callable[[int, float], float]) -> Callable[[np.ndarray, float], float]:
    """Threshold at another rank, at most the largest score: a wrong answer."""
    return lambda scores, alpha: np.sort(scores)[int(min(max(rank(len(scores), alpha), 1), len(scores))) - 1]


def _or_infinite(threshold: Callable[[np.ndarray, float], float]) -> Callable[[np.ndarray, float], float]:
    return lambda scores, alpha: math.inf if len(scores) < images_needed(alpha) else threshold(scores, alpha)


_too_few = say("with too few scores no threshold keeps the promise: return infinity")
_wrong_ranks = [
    (lambda s, a: float(np.quantile(s, 1 - a)), say("np.quantile interpolates, and does not count the next image")),
    (_ranked(lambda n, a: math.ceil(n * (1 - a))), say("the next image counts, too: n + 1 in place of n")),
    (
        _ranked(lambda n, a: math.floor((n + 1) * (1 - a) + 1e-9)),
        say("round the rank up: rounded down it promises less"),
    ),
    (
        _ranked(lambda n, a: math.ceil((n + 1) * (1 - a) - 1e-9) + 1),
        say("rank 1 is the smallest score, index 0: yours lies a rank too high"),
    ),
]

implement(
    "02.conformal",
    _conformal,
    [
        (_random.permutation(np.arange(1.0, 20.0)), 0.05),  # the 19th of 19
        (_random.exponential(size=50), 0.1),  # ⌈45.9⌉
        (_random.exponential(size=99), 0.05),
        (_random.exponential(size=13), 0.3),  # ⌈9.8⌉
        (np.arange(10.0), 0.05),  # too few
    ],
    [
        (_ranked(lambda n, a: math.ceil((n + 1) * (1 - a) - 1e-9)), _too_few),
        *((_or_infinite(wrong), message) for wrong, message in _wrong_ranks),
        *_wrong_ranks,
        (
            lambda s, a: _conformal(-s, a) * -1,
            say("this is at the other end: good parts are called defective above the threshold"),
        ),
    ],
)

predict(
    "02.nineteen",
    0.95**19,
    [
        (0.05, say("5 % is the mean of the rate over all such lines: asked is how many exceed it")),
        (1 - 0.95**19, say("this is the share of the lines that stay below 5 %")),
        (0, say("the promise is of the mean over lines: some are unlucky")),
        (0.5, say("the rate's distribution is skewed: compute P(all 19 scores lie below)")),
        (0.95**20, say("20 images would be asked: the line has 19")),
    ],
    say("the rate exceeds 5 % where all 19 scores lie among the lowest 95 % of the distribution"),
    tolerance=5e-3,
)

predict(
    "02.images",
    images_to_vouch(0.05),
    [
        (19, say("19 promise it on average only: 38 % of such lines exceed 5 %")),
        (20, say("20 have the right mean: you want 95 % of such lines below")),
        (58, say("with 58 it is .051 of the lines: round up")),
        (58.4, say("images are whole: round up")),
        (13, say("this is log .5 in place of log .05: every second line would exceed 5 %")),
        (299, say("this is for a rate of 1 %")),
    ],
    say("find the smallest n with .95ⁿ at most .05"),
    tolerance=1e-4,
    kind="decide",
)

# --- poses ------------------------------------------------------------------------------------------------------------


def _between(x: np.ndarray, poses: np.ndarray) -> float:
    total = x.var(0).sum()
    within = sum((poses == pose).mean() * x[poses == pose].var(0).sum() for pose in np.unique(poses))
    return float(1 - within / total)


def _of_means(x: np.ndarray, poses: np.ndarray, weighted: bool, ddof: int) -> float:
    means = np.array([x[poses == pose].mean(0) for pose in (poses if weighted else np.unique(poses))])
    return float(means.var(0).sum() / x.var(0, ddof=ddof).sum())


implement(
    "02.poses",
    _between,
    [
        (np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1])),  # 25 of 26
        (
            _random.normal(size=(9, 3)) + np.repeat([0.0, 2.0, -1.0], [5, 3, 1])[:, None],
            np.repeat([0, 1, 2], [5, 3, 1]),
        ),
    ],
    [
        (lambda x, p: 1 - _between(x, p), say("this is the share within the poses")),
        (lambda x, p: _of_means(x, p, False, 0), say("weigh each pose by its share of the images")),
        (lambda x, p: _of_means(x, p, True, 1), say("divide by n in both variances: then the two terms add up")),
        (lambda x, p: _between(x, p) * x.var(0).sum(), say("this is the trace between poses: divide by the total")),
        (lambda x, p: _between(x, p) / (1 - _between(x, p)), say("divide by the total, not by what is within")),
    ],
)


def _two_poses() -> np.ndarray:
    """Good patches (80, 2) of parts that lie in one of two poses."""
    return np.random.default_rng(4).normal(np.repeat([[-3.0, 0.0], [3.0, 0.0]], 40, axis=0), 0.5)


def _middle(answer: Any) -> Message | None:
    good, x = _two_poses(), np.asarray(answer, float)
    if x.shape != (2,):
        return say("give a patch of 2 channels: the shape of yours is {shape}", shape=x.shape)
    nearest = float(np.linalg.norm(good - x, axis=1).min())
    if not nearest > 1.5:
        return say("a good patch lies {nearest:.2f} away: this patch looks normal", nearest=nearest)
    fitted = good.mean(0), np.cov(good.T), 0.01
    lowest, reached = float(_mahalanobis(good, *fitted).min()), float(_mahalanobis(x[None], *fitted)[0])
    if reached >= lowest:
        return say(
            "M is {reached:.2f}, a good patch has {lowest:.2f}: where is M smallest?", reached=reached, lowest=lowest
        )
    return None


breaks("02.middle", _middle)

choose(
    "02.report",
    "ace",
    {
        "a": say("the threshold saw good training parts only, so the test images are new to it"),
        "b": say("the oracle was chosen with the test labels, which no line has"),
        "c": say("both numbers belong together: accuracy follows the share of defects"),
        "d": say("the draw was chosen with the test labels: report all five, or one fixed before"),
        "e": say("the interval of the paired difference lies above 0, and the images are named"),
        "f": say("the interval of the difference reaches 0: undecided"),
    },
)
