"""Lab 08, the inspection line: the checks of its exercises."""

from __future__ import annotations

from math import ceil, log
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import betaln, gammaln

from mvtec_ad.course.exercises import Message, breaks, choose, implement, predict, say

# --- 08.stages --------------------------------------------------------------------------------------------------------

_DEFECTIVE, _RECOGNISED = 1 / 200, 0.98
_stopped = {"defective": 0.9 * 0.95 + 0.1 * 0.6, "good": 0.95 * 0.04 + 0.05 * 0.2}  # of the recognised parts
_detected = _RECOGNISED * _stopped["defective"]
_alarms = _RECOGNISED * _stopped["good"]
_precision = _DEFECTIVE * _detected / (_DEFECTIVE * _detected + (1 - _DEFECTIVE) * _alarms)

predict(
    "08.stages",
    (_detected, _precision),
    [
        ((_stopped["defective"], _precision), say("the first number leaves out the parts that are not recognised")),
        ((_detected, _detected / (_detected + _alarms)), say("so many are defective where half of all parts are")),
        ((_detected, _DEFECTIVE), say("the second number is about all parts: which of them are stopped?")),
        (
            (0.98 * 0.95 * 0.6, _precision),
            say("the ways of a part are alternatives: add them, do not multiply all shares"),
        ),
    ],
    say("multiply along each way that ends in stopped, add the ways, then count defective and good parts"),
)

# --- 08.product -------------------------------------------------------------------------------------------------------


def _ratios(x: np.ndarray, means: np.ndarray, covariance: np.ndarray, limits: np.ndarray) -> np.ndarray:
    white = np.linalg.inv(np.linalg.cholesky(covariance))  # its rows make the covariance a unit matrix
    return np.stack([np.linalg.norm((x - mean) @ white.T, axis=1) for mean in means], axis=1) / limits


def _named(ratios: np.ndarray) -> np.ndarray:
    answers = ratios.argmin(1)
    answers[ratios.min(1) > 1] = -1
    return answers


def _product(x: np.ndarray, means: np.ndarray, covariance: np.ndarray, limits: np.ndarray) -> np.ndarray:
    return _named(_ratios(x, means, covariance, limits))


def _nearest_first(x: np.ndarray, means: np.ndarray, covariance: np.ndarray, limits: np.ndarray) -> np.ndarray:
    distances = _ratios(x, means, covariance, np.ones(len(means)))
    nearest = distances.argmin(1)
    return np.where(distances.min(1) > limits[nearest], -1, nearest)


_random = np.random.default_rng(8)
_corner = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.5]])

implement(
    "08.product",
    _product,
    [
        (  # distances 1.5 and 0.5; 2 and 2.8; 1.45 and 3.45
            np.array([[3.0, 0.0], [0.0, 2.0], [-2.9, 0.0]]),
            np.array([[0.0, 0.0], [4.0, 0.0]]),
            np.diag([4.0, 1.0]),
            np.array([1.5, 1.5]),
        ),
        (_random.normal(0, 2, (60, 3)), _random.normal(0, 2, (3, 3)), _corner, np.array([1.0, 2.0, 3.0])),
    ],
    [
        (lambda x, m, c, s: _product(x, m, np.eye(len(c)), s), say("this is the Euclidean distance: Σ is not used")),
        (
            lambda x, m, c, s: _ratios(x, m, c, s).argmin(1),
            say("a picture that is too far from all products must get −1"),
        ),
        (_nearest_first, say("divide by the limits before you look for the smallest, not after")),
        (
            lambda x, m, c, s: _named(_ratios(x, m, c, np.ones(len(s)))),
            say("the limits are not used: divide each distance by that of its product"),
        ),
        (
            lambda x, m, c, s: _named(_ratios(x, m, c, np.sqrt(s)) ** 2),
            say("these are squared distances: the root is missing before the limit"),
        ),
        (lambda x, m, c, s: _product(x, m, np.linalg.inv(c), s), say("Σ is to be inverted: this weighs with Σ itself")),
    ],
)

# --- 08.combined_score ------------------------------------------------------------------------------------------------


def _combined_score(logits: np.ndarray, scores: np.ndarray, threshold: float, width: float, limit: float) -> np.ndarray:
    combined = logits - threshold
    asked = np.flatnonzero((combined < width) & (combined > -width))
    combined[asked] = [width * np.tanh((score - limit) / abs(limit)) for score in scores[asked]]
    return combined


def _asked_by(unsure: np.ndarray, z: np.ndarray, s: np.ndarray, t: float, w: float, c: float) -> np.ndarray:
    return np.where(unsure, w * np.tanh((s - c) / abs(c)), z - t)


_random = np.random.default_rng(88)

implement(
    "08.combined_score",
    _combined_score,
    [
        (np.array([3.0, 0.0, -2.0, -5.0]), np.array([1.0, 4.0, 1.0, 9.0]), -1.0, 2.0, 2.0),
        (_random.normal(-2, 3, 30), _random.normal(-4, 2, 30), -2.3, 1.5, -4.0),
        (np.array([1.0, 2.0, 0.0]), np.array([5.0, 5.0, 5.0]), 1.0, 0.0, 3.0),  # a band of no width
        (np.array([1.0, 3.0, 2.0]), np.array([5.0, 1.0, 5.0]), 1.0, 2.0, 3.0),  # 3 lies on the edge of the band
    ],
    [
        (
            lambda z, s, t, w, c: _asked_by(np.abs(z) < w, z, s, t, w, c),
            say("your band lies around 0: its middle is the threshold"),
        ),
        (
            lambda z, s, t, w, c: _asked_by(np.abs(z - t) >= w, z, s, t, w, c),
            say("inside and outside are exchanged: the second opinion decides inside of the band"),
        ),
        (
            lambda z, s, t, w, c: _asked_by(np.abs(z - t) <= w, z, s, t, w, c),
            say("at the edge, and for a width of 0, the classifier decides: |z − t| < w"),
        ),
        (
            lambda z, s, t, w, c: np.where(np.abs(z - t) < w, _combined_score(z, s, t, w, c), z),
            say("outside the band the threshold is to be subtracted, so that 0 divides"),
        ),
        (
            lambda z, s, t, w, c: np.where(np.abs(z - t) < w, s - c, z - t),
            say("the detector's score leaves the band: w · tanh keeps it inside"),
        ),
        (
            lambda z, s, t, w, c: np.where(np.abs(z - t) < w, np.tanh((s - c) / abs(c)), z - t),
            say("tanh reaches from −1 to 1: multiply by the half-width"),
        ),
        (
            lambda z, s, t, w, c: np.where(np.abs(z - t) < w, w * np.tanh((s - c) / c), z - t),
            say("for a negative limit the order is reversed: divide by its absolute value"),
        ),
    ],
)

# --- 08.sure_and_wrong ------------------------------------------------------------------------------------------------

_T = log(1 / 10)


def _cost(labels: np.ndarray, stopped: np.ndarray) -> float:
    return float(np.mean(10 * ((labels == 1) & ~stopped) + ((labels == 0) & stopped)))


def _sure_and_wrong(answer: dict[str, Any]) -> Message | None:
    labels, logits, second = (np.asarray(answer[key], dtype=float) for key in ("labels", "logits", "second"))
    if not (labels.ndim == 1 and labels.shape == logits.shape == second.shape and 8 <= len(labels) <= 40):
        return say("give three lists of one length, 8 to 40: labels, logits and second")
    if not (set(labels) == {0, 1} and set(second) <= {0, 1} and np.isfinite(logits).all()):
        return say("labels and second hold 0 and 1, and both kinds of parts must be there")
    if errs := int((second != labels).sum()):
        return say("the second opinion is wrong about {count} parts: it must be right about all", count=errs)
    alone = logits > _T
    if (missed := int(((labels == 1) & ~alone).sum())) < 2:
        return say("the classifier misses {count} defects, two are wanted: logits below −2.3", count=missed)
    order = np.sign(logits[labels == 1][:, None] - logits[labels == 0])
    if (auroc := float((order + 1).mean() / 2)) < 0.8 - 1e-9:
        return say("the image AUROC is {auroc:.2f}: add defects that the classifier finds", auroc=auroc)
    for width in (0.5, 1, 2, 3):
        merged = np.where(np.abs(logits - _T) < width, second == 1, alone)
        if (cost := _cost(labels, merged)) < (before := _cost(labels, alone)):
            values = {"width": width, "before": before, "cost": cost}
            return say("half-width {width:g} helps: it lowers the cost from {before:.2f} to {cost:.2f}", **values)
    return None


breaks("08.sure_and_wrong", _sure_and_wrong)

# --- 08.promise -------------------------------------------------------------------------------------------------------


def _range(probabilities: np.ndarray) -> tuple[float, float]:
    cumulated = probabilities.cumsum()
    return float(np.argmax(cumulated >= 0.025)), float(np.argmax(cumulated >= 0.975))


def _beta_binomial(coming: int, first: float, second: float) -> np.ndarray:
    a = np.arange(coming + 1)
    ways = gammaln(coming + 1) - gammaln(a + 1) - gammaln(coming - a + 1)
    return np.exp(ways + betaln(a + first, coming - a + second) - betaln(first, second))


def _promise(good: np.ndarray, alpha: float, coming: int, lower_rank: int = 0) -> tuple[float, float, float]:
    n = len(good)
    k = ceil((n + 1) * (1 - alpha) - 1e-9) - lower_rank
    return (float(np.partition(good, k - 1)[k - 1]), *_range(_beta_binomial(coming, n + 1 - k, k)))


def _by_binomial(good: np.ndarray, alpha: float, coming: int) -> tuple[float, float, float]:
    return (_promise(good, alpha, coming)[0], *_range(stats.binom.pmf(np.arange(coming + 1), coming, alpha)))


def _by_quantile(good: np.ndarray, alpha: float, coming: int) -> tuple[float, float, float]:
    return (float(np.quantile(good, 1 - alpha)), *_promise(good, alpha, coming)[1:])


def _without_plus(good: np.ndarray, alpha: float, coming: int) -> tuple[float, float, float]:
    n = len(good)
    k = ceil(n * (1 - alpha) - 1e-9)
    return (float(np.sort(good)[k - 1]), *_range(_beta_binomial(coming, n + 1 - k, k)))


def _exchanged(good: np.ndarray, alpha: float, coming: int) -> tuple[float, float, float]:
    threshold, low, high = _promise(good, alpha, coming)
    return threshold, coming - high, coming - low


def _as_shares(good: np.ndarray, alpha: float, coming: int) -> tuple[float, float, float]:
    n = len(good)
    k = ceil((n + 1) * (1 - alpha) - 1e-9)
    low, high = stats.beta(n + 1 - k, k).ppf([0.025, 0.975])
    return float(np.sort(good)[k - 1]), float(low), float(high)


_random = np.random.default_rng(11)

implement(
    "08.promise",
    _promise,
    [
        (np.arange(19.0)[::-1], 0.05, 100),  # the largest, 18
        (_random.normal(size=49), 0.1, 80),
        (_random.normal(size=209), 0.05, 1000),
    ],
    [
        (_by_binomial, say("a binomial range takes α for the true rate, but the threshold was drawn, too")),
        (_by_quantile, say("np.quantile interpolates, and breaks the promise: take the k-th smallest score")),
        (_without_plus, say("the coming part counts, too: k is of n + 1")),
        (
            lambda g, a, m: _promise(g, a, m, 1),
            say("your threshold is the next lower score: the k-th smallest is at k − 1"),
        ),
        (_exchanged, say("you count the good parts that pass: the parameters of Beta are exchanged")),
        (_as_shares, say("this is the range of the true rate: asked is the number of alarms among the coming parts")),
    ],
)

# --- 08.equal_graph ---------------------------------------------------------------------------------------------------

choose(
    "08.equal_graph",
    "be",
    {
        "a": say("a correlation does not see a factor: count the verdicts that change"),
        "b": say("no verdict changes, and all 220 scores agree to 2e-6"),
        "c": say("no verdict changes, but 60 pictures leave room for 6 %"),
        "d": say("three scores are 10 % off: the mean hides them, the largest difference does not"),
        "e": say("single precision differs by less than 1e-6: equal need not be identical"),
        "f": say("the scores agree to 2e-5, and still a verdict changes: look at picture 17"),
    },
)

# --- 08.update --------------------------------------------------------------------------------------------------------


def _scatter(x: np.ndarray) -> np.ndarray:
    return sum((np.outer(row, row) for row in x - x.mean(0)), np.zeros((x.shape[1], x.shape[1])))


def _update(
    mean: np.ndarray,
    covariance: np.ndarray,
    count: int,
    new: np.ndarray,
    step_weight: float = 1.0,
    less: int = 1,
) -> np.ndarray:
    mean, covariance, number = mean.astype(float), covariance.astype(float), count
    middle, more = new.mean(0), len(new)
    total = number + more
    scatter = (number - 1) * covariance + _scatter(new)
    scatter = scatter + step_weight * number * more / total * np.outer(middle - mean, middle - mean)
    return np.vstack([(number * mean + more * middle) / total, scatter / (total - less)])


def _even_means(mean: np.ndarray, covariance: np.ndarray, count: int, new: np.ndarray) -> np.ndarray:
    right = _update(mean, covariance, count, new)
    return np.vstack([(mean + new.mean(0)) / 2, right[1:]])


def _by_covariances(mean: np.ndarray, covariance: np.ndarray, count: int, new: np.ndarray) -> np.ndarray:
    fresh = np.divide(_scatter(new), len(new) - 1)  # undefined for a single image
    right = _update(mean, covariance, count, new)
    step, total = new.mean(0) - mean, count + len(new)
    scatter = (count - 1) * covariance + (len(new) - 1) * fresh + count * len(new) / total * np.outer(step, step)
    return np.vstack([right[:1], scatter / (total - 1)])


def _from_counts(mean: np.ndarray, covariance: np.ndarray, count: int, new: np.ndarray) -> np.ndarray:
    return _update(mean, covariance * count / (count - 1), count, new)


_random = np.random.default_rng(80)
_few = _random.normal(size=(9, 3))

implement(
    "08.update",
    _update,
    [
        (np.array([1.0]), np.array([[2.0]]), 2, np.array([[4.0]])),  # 0, 2 and a new 4
        (_few.mean(0), np.cov(_few.T), 9, _random.normal(2, 0.5, (5, 3))),
        (_few.mean(0), np.cov(_few.T), 9, _random.normal(-1, 2, (20, 3))),
    ],
    [
        (lambda m, c, n, x: _update(m, c, n, x, 0.0), say("the step between the two means is missing in the scatter")),
        (lambda m, c, n, x: _update(m, c, n, x, 1.0, 0), say("divide the scatter by N + M − 1, as np.cov does")),
        (_even_means, say("the mean of two means counts few images as much as many: weigh by their numbers")),
        (_by_covariances, say("a single new image has no covariance, but a scatter of 0: do not divide by M − 1")),
        (_from_counts, say("the scatter of the old images is N − 1 times the covariance")),
        (
            lambda m, c, n, x: np.vstack([_update(m, c, n, x)[:1], _update(m, c, n, x)[1:] * (n + len(x) - 1)]),
            say("this is the scatter: the covariance is wanted below the mean"),
        ),
    ],
)

# --- 08.martingale ----------------------------------------------------------------------------------------------------


def _p_values(good: np.ndarray, new: np.ndarray, chance: np.ndarray) -> np.ndarray:
    known = np.concatenate([good, new])
    p = []
    for at, score in enumerate(new):
        before = known[: len(good) + at]
        p.append(((before > score).sum() + chance[at] * ((before == score).sum() + 1)) / (len(before) + 1))
    return np.array(p)


def _wealth(good: np.ndarray, new: np.ndarray, chance: np.ndarray, epsilon: float) -> np.ndarray:
    logarithms = np.log(epsilon) + (epsilon - 1) * np.log(_p_values(good, new, chance))
    return np.exp(np.cumsum(logarithms))


def _never_joining(good: np.ndarray, new: np.ndarray, chance: np.ndarray, epsilon: float) -> np.ndarray:
    p = [_p_values(good, new[at : at + 1], chance[at:])[0] for at in range(len(new))]
    return np.cumprod(epsilon * np.array(p) ** (epsilon - 1))


def _not_itself(good: np.ndarray, new: np.ndarray, chance: np.ndarray, epsilon: float) -> np.ndarray:
    size = len(good) + np.arange(len(new))
    p = (_p_values(good, new, chance) * (size + 1) - chance) / size
    return np.cumprod(epsilon * p ** (epsilon - 1))


def _without_ties(good: np.ndarray, new: np.ndarray, chance: np.ndarray, epsilon: float) -> np.ndarray:
    return _wealth(good, new, np.ones(len(new)), epsilon)


implement(
    "08.martingale",
    _wealth,
    [
        (np.array([1.0, 2.0, 3.0]), np.array([2.5]), np.array([0.5]), 0.5),  # p = 1.5 / 4
        (
            np.array([2.0, 1.0, 4.0, 3.0, 2.0, 5.0]),
            np.array([2.0, 3.5, 4.0, 3.5, 1.0, 4.5]),
            np.array([0.3, 0.7, 0.2, 0.9, 0.4, 0.6]),
            0.7,
        ),
    ],
    [
        (_never_joining, say("a new score must join those that the next is compared with")),
        (lambda g, x, u, e: _wealth(-g, -x, u, e), say("your p-value is small for low scores: count the larger ones")),
        (_not_itself, say("the new score is among the N + 1, and ties with itself")),
        (_without_ties, say("ties are broken by chance: multiply the equal scores by u")),
        (
            lambda g, x, u, e: np.cumprod(_p_values(g, x, u) ** (e - 1)),
            say("the factor ε is missing: without it the game is not fair"),
        ),
        (
            lambda g, x, u, e: e * _p_values(g, x, u) ** (e - 1),
            say("these are the factors: the wealth is their product so far"),
        ),
        (lambda g, x, u, e: _p_values(g, x, u), say("these are the p-values: bet on them")),
        (
            lambda g, x, u, e: np.log(_wealth(g, x, u, e)),
            say("this is the logarithm of the wealth"),
        ),
    ],
)
