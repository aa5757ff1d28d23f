"""Lab 09, the honest comparison: the checks of its exercises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
from scipy import stats

from mvtec_ad.course.exercises import Message, breaks, choose, implement, register, same, say

# --- 09.museum --------------------------------------------------------------------------------------------------------

_MUSEUM = (
    (
        63 / 83,
        [
            (20 / 83, say("figure 1: this is the share of good pictures, which the rule gets wrong")),
            (0.5, say("figure 1: this would be its AUROC; the accuracy depends on how many are defective")),
        ],
        say("figure 1: how many of the 83 verdicts are right?"),
    ),
    (
        0.86 + 0.08 * 19 / 20,
        [
            (0.9, say("figure 2: this is the mean of all seeds, the honest figure: asked is the best")),
            (0.94, say("figure 2: this is the end of the range, which the best of 19 does not quite reach")),
            (19 / 20, say("figure 2: bring n / (n + 1) from [0, 1] to the range of the seeds")),
        ],
        say("figure 2: the lower end of the range, and n / (n + 1) of its length"),
    ),
    (
        0.7,
        [
            (0.5, say("figure 3: what do the twins find as their nearest neighbour?")),
            (1.0, say("figure 3: only 20 of the 50 pictures have a twin")),
            ((10 + 40 * 0.5) / 50, say("figure 3: both pictures of a part find each other: 20 of 50")),
            ((10 + 30 * 0.5) / 40, say("figure 3: count pictures, not parts")),
        ],
        say("figure 3: pictures with a twin are right, and half of the others"),
    ),
    (
        15 * 0.967 - 14,
        [
            (0.967, say("figure 4: the categories need not be equal: let all others be perfect")),
            (0.0, say("figure 4: with a 0 the mean would be .933 at most")),
        ],
        say("figure 4: let the 14 others have an AUROC of 1"),
    ),
)


def _museum(answer: Any) -> Message | None:
    try:
        values = np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != (4,):
        return say("give four numbers, as a tuple")
    for value, (expected, mistakes, hint) in zip(values, _MUSEUM, strict=True):
        if not same(value, expected, 1e-3):
            return next((message for wrong, message in mistakes if same(value, wrong, 1e-3)), hint)
    return None


register("09.museum", "predict", _museum)

# --- 09.background ----------------------------------------------------------------------------------------------------

_PART = np.s_[:, 2:6, 2:6]


def _auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Share of pairs in the right order, half of those with equal scores."""
    return float((np.sign(scores[labels == 1][:, None] - scores[labels == 0]) + 1).mean() / 2)


def _background(answer: Any) -> Message | None:
    good, defective = (np.asarray(pictures, dtype=float) for pictures in answer)
    if not (good.shape == defective.shape and good.shape[1:] == (8, 8) and 6 <= len(good) <= 40):
        return say("give as many good as defective pictures, 6 to 40 of 8 × 8 pixels each")
    both = np.concatenate([good, defective])
    if not (np.isfinite(both).all() and both.min() >= 0 and both.max() <= 1):
        return say(
            "values lie between 0 and 1; yours reach from {low:.2f} to {high:.2f}", low=both.min(), high=both.max()
        )
    if not np.allclose(good[_PART], defective[_PART]):
        return say("the parts differ: defective[i] must have the same middle as good[i]")
    if good[_PART].std() < 0.05:
        return say("your parts are the same everywhere: let their pixels vary more")
    if (largest := np.abs(good.mean(0) - defective.mean(0)).max()) > 0.06 + 1e-9:
        return say("the background differs by {largest:.2f} at a pixel: .06 at most", largest=largest)
    labels = np.repeat([0, 1], len(good))
    if (auroc := _auroc(labels, both.mean((1, 2)))) < 0.95:
        return say(
            "the brightness has an image AUROC of {auroc:.2f}: what covers the differences of the parts?", auroc=auroc
        )
    return None


breaks("09.background", _background)

# --- 09.min_max -------------------------------------------------------------------------------------------------------

_good_scores = np.array([1.0, 1.2, 1.3, 1.5, 1.6, 1.9])
_defect_scores = np.array([2.6, 3.0, 3.3, 3.8])


def _middle(extra: float) -> float:
    values = [*_good_scores, *_defect_scores, extra]
    return (min(values) + max(values)) / 2


def _min_max(answer: Any) -> Message | None:
    values = np.asarray(answer, dtype=float)
    if values.shape != (2,) or not np.isfinite(values).all():
        return say("give two scores, as a tuple: that of a defect, and that of a good part")
    high, low = map(float, values)
    if high > 6 or low < -2:
        return say("the first score is 6 at most, and the second −2 at least")
    if (passed := int((_defect_scores <= _middle(high)).sum())) < 3:
        values_of = {"count": passed, "limit": _middle(high)}
        return say("with the first, .5 lies at a score of {limit:.2f}: {count} of the four defects pass", **values_of)
    if (stopped := int((_good_scores > _middle(low)).sum())) < 4:
        values_of = {"count": stopped, "limit": _middle(low)}
        return say(
            "with the second, .5 lies at a score of {limit:.2f}: {count} of the six good parts are stopped", **values_of
        )
    return None


breaks("09.min_max", _min_max)

# --- 09.newcombe ------------------------------------------------------------------------------------------------------

Ends = tuple[float, float]
_Z = 1.959963984540054  # of the normal distribution, .975


def _newcombe(area: float, defects: int, good: int, z: float = _Z, less: float = 1.0, pairs: int = 0) -> Ends:
    """Squared, and multiplied by the denominators, the equation is a polynomial of degree four in θ."""
    theta = Polynomial([0, 1])
    below = (2 - theta) * (1 + theta)
    number = (defects + good) / 2 - less
    spread = theta * (1 - theta) * (below + number * ((1 - theta) * (1 + theta) + theta * (2 - theta)))
    roots = ((area - theta) ** 2 * below * (pairs or defects * good) - z**2 * spread).roots()
    real = np.sort(roots[np.abs(roots.imag) < 1e-9].real)
    inside = real[(real > -1e-9) & (real < 1 + 1e-9)]
    return float(inside[0].clip(0, 1)), float(inside[-1].clip(0, 1))


def _of_the_estimate(area: float, defects: int, good: int) -> Ends:
    number = (defects + good) / 2 - 1
    spread = 1 + number * ((1 - area) / (2 - area) + area / (1 + area))
    reach = _Z * np.sqrt(area * (1 - area) * spread / (defects * good))
    return area - reach, area + reach


def _clipped(area: float, defects: int, good: int) -> Ends:
    low, high = _of_the_estimate(area, defects, good)
    return max(low, 0.0), min(high, 1.0)


def _a_point_at_the_end(area: float, defects: int, good: int) -> Ends:
    return (area, area) if area in (0, 1) else _newcombe(area, defects, good)


def _wilson(area: float, count: int) -> Ends:
    centre = (area + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    reach = _Z * np.sqrt(area * (1 - area) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    return centre - reach, centre + reach


implement(
    "09.newcombe",
    _newcombe,
    [(1.0, 63, 20), (0.9, 63, 20), (0.97, 12, 8), (0.5, 30, 30)],
    [
        (_of_the_estimate, say("this is the variance of the estimate: it is that of θ, so solve for θ")),
        (_clipped, say("cutting at 0 and 1 does not help: the variance must be that of θ")),
        (_a_point_at_the_end, say("at an AUROC of 1 look for the other root, below 1")),
        (lambda a, m, n: _newcombe(a, m, n, less=0.0), say("N* is half of all pictures less 1")),
        (
            lambda a, m, n: _newcombe(a, m, n, z=1.6448536269514722),
            say("this is a 90 % interval: z is the .975 quantile"),
        ),
        (lambda a, m, n: _newcombe(a, m, n, pairs=m + n), say("divide by the number of pairs, m n, not by m + n")),
        (lambda a, m, n: _wilson(a, m + n), say("this is Wilson's interval of a share: an AUROC is a mean over pairs")),
        (lambda a, m, n: _newcombe(a, m, n)[::-1], say("the lower end comes first")),
    ],
)

# --- 09.paired --------------------------------------------------------------------------------------------------------

Difference = tuple[float, float, float]


def _resampled(labels: np.ndarray, scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """AUROC of each draw, of the pictures written out as often as they were drawn."""
    return np.array([_auroc(np.repeat(labels, row), np.repeat(scores, row)) for row in draws])


def _paired(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    draws: np.ndarray,
    tail: float = 0.025,
    values: Callable[..., np.ndarray] = _resampled,
) -> Difference:
    differences = values(labels, first, draws) - values(labels, second, draws)
    low, high = np.quantile(differences, [tail, 1 - tail])
    even = np.ones((1, len(labels)), dtype=int)
    return float((values(labels, first, even) - values(labels, second, even))[0]), float(low), float(high)


def _unpaired(labels: np.ndarray, first: np.ndarray, second: np.ndarray, draws: np.ndarray) -> Difference:
    differences = _resampled(labels, first, draws) - _resampled(labels, second, draws)[::-1]
    low, high = np.quantile(differences, [0.025, 0.975])
    return _paired(labels, first, second, draws)[0], float(low), float(high)


def _two_intervals(labels: np.ndarray, first: np.ndarray, second: np.ndarray, draws: np.ndarray) -> Difference:
    ends = [np.quantile(_resampled(labels, scores, draws), [0.025, 0.975]) for scores in (first, second)]
    return _paired(labels, first, second, draws)[0], float(ends[0][0] - ends[1][1]), float(ends[0][1] - ends[1][0])


def _mean_of_draws(labels: np.ndarray, first: np.ndarray, second: np.ndarray, draws: np.ndarray) -> Difference:
    differences = _resampled(labels, first, draws) - _resampled(labels, second, draws)
    return (float(differences.mean()), *_paired(labels, first, second, draws)[1:])


def _without_ties(labels: np.ndarray, scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    above = scores[labels == 1][:, None] > scores[labels == 0]
    bad, fine = draws[:, labels == 1], draws[:, labels == 0]
    return np.einsum("rb,bf,rf->r", bad, above, fine) / (bad.sum(1) * fine.sum(1))


def _without_counts(labels: np.ndarray, scores: np.ndarray, draws: np.ndarray) -> np.ndarray:
    return _resampled(labels, scores, np.minimum(draws, 1))


def _draws_of(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """How often each picture is drawn; good and defective ones are drawn separately."""
    random = np.random.default_rng(seed)
    draws = np.zeros((count, len(labels)), dtype=int)
    for row in draws:
        for label in (0, 1):
            where = np.flatnonzero(labels == label)
            np.add.at(row, random.choice(where, len(where)), 1)
    return draws


_six = np.array([0, 0, 0, 1, 1, 1])
_random = np.random.default_rng(9)
_many = np.repeat([0, 1], [8, 14])
_hard = _random.normal(_many * 1.5, 1.0)
_first, _second = ((_hard + _random.normal(0, 0.6, 22)).round(1) for _ in range(2))

implement(
    "09.paired",
    _paired,
    [
        (_six, np.array([1.0, 2, 4, 3, 5, 6]), np.array([1.0, 3, 5, 2, 4, 6]), _draws_of(_six, 40, 0)),
        (_many, _first, _second, _draws_of(_many, 40, 1)),
    ],
    [
        (_unpaired, say("each method has draws of its own here: the same draw must serve both")),
        (_two_intervals, say("this subtracts the ends of two intervals: resample the difference itself")),
        (_mean_of_draws, say("the first number is that of the pictures as they are, not the mean over draws")),
        (lambda *given: _paired(*given, tail=0.05), say("this is a 90 % interval: 2.5 % lie below and above")),
        (lambda *given: _paired(*given, values=_without_ties), say("a pair with equal scores counts one half")),
        (lambda *given: _paired(*given, values=_without_counts), say("a picture counts as often as it was drawn")),
        (
            lambda labels, first, second, draws: _paired(labels, second, first, draws),
            say("the sign is reversed: first minus second"),
        ),
    ],
)

# --- 09.holm ----------------------------------------------------------------------------------------------------------


def _holm(p: np.ndarray) -> np.ndarray:
    smallest_first, adjusted = sorted(p), {}
    for place, value in enumerate(smallest_first):
        adjusted[value] = max([min(1.0, value * (len(p) - place)), *adjusted.values()])
    return np.array([adjusted[value] for value in p])


def _not_monotone(p: np.ndarray) -> np.ndarray:
    return np.minimum(1, p * (len(p) - stats.rankdata(p, method="ordinal") + 1))


def _uncut(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)
    return np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))[np.argsort(order)]


implement(
    "09.holm",
    _holm,
    [
        (np.array([0.01, 0.04, 0.03, 0.005]),),
        (np.array([0.2, 0.0004, 0.9, 0.01, 0.6, 0.013]),),
        (np.array([0.03]),),
    ],
    [
        (lambda p: np.minimum(1, p * len(p)), say("this is Bonferroni: only the smallest is multiplied by K")),
        (_not_monotone, say("none may fall below the one before: take the running maximum")),
        (lambda p: np.sort(_holm(p)), say("these are in ascending order: bring them back to where they came from")),
        (_uncut, say("a p-value is 1 at most")),
        (
            lambda p: stats.false_discovery_control(p),
            say("this is Benjamini and Hochberg's rule, which bounds another share of errors"),
        ),
        (lambda p: p, say("these are the p-values as they came")),
    ],
)

# --- 09.corrected_t ---------------------------------------------------------------------------------------------------


def _corrected_t(differences: np.ndarray, train: int, test: int, ratio: float | None = None) -> Difference:
    count = len(differences)
    overlap = test / train if ratio is None else ratio
    mean = differences.sum() / count
    variance = ((differences - mean) ** 2).sum() / (count - 1)
    low, high = stats.t(df=count - 1, loc=mean, scale=np.sqrt((1 / count + overlap) * variance)).interval(0.95)
    return float(mean), float(low), float(high)


def _scaled(factor: Callable[[int], float]) -> Callable[..., Difference]:
    """The interval with another reach, by a factor that depends on the number of differences."""

    def wrong(differences: np.ndarray, train: int, test: int) -> Difference:
        mean, low, high = _corrected_t(differences, train, test)
        reach = (high - low) / 2 * factor(len(differences))
        return mean, mean - reach, mean + reach

    return wrong


_random = np.random.default_rng(99)

implement(
    "09.corrected_t",
    _corrected_t,
    [
        (np.array([0.01, 0.03]), 80, 20),
        (_random.normal(0.02, 0.03, 10), 66, 17),
        (_random.normal(-0.01, 0.05, 25), 100, 25),
    ],
    [
        (
            lambda d, n, m: _corrected_t(d, n, m, 0.0),
            say("this is s / √J: the term for overlapping training sets is missing"),
        ),
        (lambda d, n, m: _corrected_t(d, n, m, n / m), say("the ratio is turned over: test images by training images")),
        (lambda d, n, m: _corrected_t(d, n, m, m / (n + m)), say("divide by the training images, not by all of them")),
        (
            _scaled(lambda j: _Z / stats.t.ppf(0.975, j - 1)),
            say("1.96 is for many differences: take Student's t with J − 1"),
        ),
        (
            _scaled(lambda j: stats.t.ppf(0.95, j - 1) / stats.t.ppf(0.975, j - 1)),
            say("this is a 90 % interval: take the .975 quantile"),
        ),
        (_scaled(lambda j: np.sqrt((j - 1) / j)), say("the variance has J − 1 in its denominator: ddof=1")),
    ],
)

# --- 09.abstract ------------------------------------------------------------------------------------------------------

choose(
    "09.abstract",
    "abfi",
    {
        "a": say("it names the pictures, all seeds that were run, and their range"),
        "b": say("the difference is paired, and its interval excludes 0, although the two intervals overlap"),
        "c": say("this is the best of five seeds: the next user gets any of them"),
        "d": say("its threshold was chosen on these test pictures, and no word says so"),
        "e": say("ten comparisons were made: adjust their p-values first"),
        "f": say("two of ten adjusted p-values are below .05, and the others are called undecided"),
        "g": say("look at the smallest figure: the mean hides a category where it fails"),
        "h": say("folds share training images: with the corrected interval 0 is inside"),
        "i": say("a row without a model that ranks so well must be named"),
    },
)
