"""Lab 06, types of defects: the checks of its exercises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax
from scipy.stats import norm, t

from mvtec_ad.course.exercises import Message, breaks, implement, predict, say
from mvtec_ad.metrics import verdict_metrics

# --- 06.temperature ---------------------------------------------------------------------------------------------------

_negatives = np.array([0.9, 0.3, -0.4])
_at_large, _at_small = (softmax(_negatives / tau)[0] for tau in (1.0, 0.1))

predict(
    "06.temperature",
    (0.5 / 2**2, _at_large, _at_small),
    [
        ((0.5 / 2, _at_large, _at_small), say("both vectors of a product are twice as long, not only the anchor")),
        ((0.5 * 2**2, _at_large, _at_small), say("longer vectors act as a smaller temperature, not as a larger one")),
        ((0.5, _at_large, _at_small), say("nothing brings the vectors to length 1 here: their products do change")),
        ((0.5 / 2**2, _at_small, _at_large), say("the two shares are swapped: small temperatures favour the nearest")),
        ((0.5 / 2**2, 1 / 3, 1 / 3), say("negatives are not pushed alike: the softmax favours those that are near")),
    ],
    say("products grow by 2 × 2; each share is exp(cosine / τ) over the sum of the three"),
    tolerance=0.01,
)

# --- 06.nt_xent -------------------------------------------------------------------------------------------------------


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _nt_xent(
    first: np.ndarray,
    second: np.ndarray,
    temperature: float,
    *,
    unit: bool = True,
    itself: bool = False,
    positive: bool = True,
    same_view: bool = True,
    anchors: int = 2,
) -> float:
    views = np.concatenate([first, second]).astype(float)
    views = _unit(views) if unit else views
    logits, count, losses = views @ views.T / temperature, len(first), []
    for i in range(anchors * count):
        twin = (i + count) % (2 * count)
        others = [
            a
            for a in range(2 * count)
            if (itself or a != i) and (positive or a != twin) and (same_view or (a < count) != (i < count))
        ]
        losses.append(logsumexp(logits[i, others]) - logits[i, twin])
    return float(np.mean(losses))


def _overflowing(first: np.ndarray, second: np.ndarray, temperature: float, *, quotient: bool) -> float:
    views = _unit(np.concatenate([first, second]))
    power, twins = np.exp(views @ views.T / temperature), np.roll(np.arange(len(views)), len(first))
    np.fill_diagonal(power, 0)
    positive = power[np.arange(len(views)), twins]
    if quotient:
        return float(-np.log(positive / power.sum(1)).mean())
    return float((np.log(power.sum(1)) - (views * views[twins]).sum(1) / temperature).mean())


_random = np.random.default_rng(6)
_first = _random.normal(size=(4, 3)) * np.array([[1.0], [2.0], [0.5], [3.0]])
_second = 1.5 * _first + 0.4 * _random.normal(size=(4, 3))
_overflows = say("exp overflows at τ = 0.001: subtract the largest value of the row before exp")

implement(
    "06.nt_xent",
    _nt_xent,
    [
        (np.eye(2), np.eye(2), 1.0),  # the cosine is 1 to the twin, 0 to the two others: log(1 + 2 / e)
        (_first, _second, 0.5),
        (_first, _second, 0.001),
    ],
    [
        (
            lambda a, b, t: _nt_xent(a, b, t, unit=False),
            say("bring all vectors to length 1 first: these are no cosines"),
        ),
        (lambda a, b, t: _nt_xent(a, b, t, itself=True), say("the sum runs over a ≠ i: the anchor itself is in yours")),
        (lambda a, b, t: _nt_xent(a, b, t, positive=False), say("the twin belongs into the denominator, too")),
        (
            lambda a, b, t: _nt_xent(a, b, t, same_view=False),
            say("copies in the anchor's own array are negatives, too: 2n − 2 negatives an anchor"),
        ),
        (
            lambda a, b, t: _nt_xent(a, b, t, anchors=1),
            say("each of the 2n copies is an anchor, those of `second` too"),
        ),
        (lambda a, b, t: 2 * len(a) * _nt_xent(a, b, t), say("this is the sum of the losses: take their mean")),
        (lambda a, b, t: -_nt_xent(a, b, t), say("the minus before the logarithm is missing")),
        (lambda a, b, t: _nt_xent(a, b, 1 / t), say("the cosines are divided by τ, not multiplied by it")),
        (lambda a, b, t: _overflowing(a, b, t, quotient=True), _overflows),
        (lambda a, b, t: _overflowing(a, b, t, quotient=False), _overflows),
    ],
)

# --- 06.supcon --------------------------------------------------------------------------------------------------------


def _log_shares(vectors: np.ndarray, temperature: float, drop: Callable[[int], np.ndarray]) -> np.ndarray:
    logits = _unit(vectors.astype(float)) @ _unit(vectors.astype(float)).T / temperature
    return np.stack([row - logsumexp(np.where(drop(i), -np.inf, row)) for i, row in enumerate(logits)])


def _supcon(vectors: np.ndarray, types: np.ndarray, temperature: float) -> float:
    order = np.arange(len(types))
    shares = _log_shares(vectors, temperature, lambda i: order == i)
    return float(np.mean([-shares[i, (types == types[i]) & (order != i)].mean() for i in order]))


def _supcon_by(form: str) -> Callable[..., float]:
    """A loss that many write in place of SupCon."""

    def loss(vectors: np.ndarray, types: np.ndarray, temperature: float) -> float:
        order, same_type = np.arange(len(types)), types[:, None] == types
        partner = same_type & ~np.eye(len(types), dtype=bool)
        if form == "negatives":
            shares = _log_shares(vectors, temperature, lambda i: same_type[i])
        elif form == "itself":
            shares = _log_shares(vectors, temperature, lambda i: order < 0)
        else:
            shares = _log_shares(vectors, temperature, lambda i: order == i)
        by_anchor = {
            "inside": lambda i: np.log(np.exp(shares[i, partner[i]]).mean()),
            "sum": lambda i: shares[i, partner[i]].sum(),
            "itself": lambda i: shares[i, same_type[i]].mean(),
            "nearest": lambda i: shares[i, partner[i]].max(),
        }.get(form, lambda i: shares[i, partner[i]].mean())
        if form == "pairs":
            return float(-shares[partner].mean())
        return float(-np.mean([by_anchor(i) for i in order]))

    return loss


_types = np.array([0, 0, 0, 1, 1, 2, 2])
_vectors = np.eye(3)[_types] + 0.5 * _random.normal(size=(7, 3))

implement(
    "06.supcon",
    _supcon,
    [
        (np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]), 1.0),  # as for 06.nt_xent: log(1 + 2 / e)
        (_vectors, _types, 0.3),
        (_vectors[::-1].copy(), _types[::-1].copy(), 0.1),
    ],
    [
        (_supcon_by("inside"), say("the mean over the positives stands before the logarithm, not inside it")),
        (_supcon_by("sum"), say("divide the sum over the positives by their number, |P(i)|")),
        (_supcon_by("itself"), say("the anchor itself is neither a positive of its own nor in the denominator")),
        (_supcon_by("negatives"), say("the denominator has all others: positives stand in it, too")),
        (
            _supcon_by("pairs"),
            say("first a mean for each anchor, then one over anchors: types with many images count more here"),
        ),
        (_supcon_by("nearest"), say("all others of its type are positives, not only the nearest")),
        (lambda v, y, t: len(y) * _supcon(v, y, t), say("this is the sum over the anchors: take the mean")),
    ],
)

# --- 06.augmentation --------------------------------------------------------------------------------------------------


def _windows(kind: str) -> np.ndarray:
    """Windows, (9, 9, 9), with a defect of five bright pixels each, at nine positions."""
    images = np.zeros((9, 9, 9))
    for number, image in enumerate(images):
        row, column = 3 + number // 3, 3 + number % 3
        if kind == "along":
            image[row, column - 2 : column + 3] = 1
        elif kind == "across":
            image[row - 2 : row + 3, column] = 1
        else:
            image[row, column - 1 : column + 2] = 1
            image[row - 1 : row + 2, column] = 1
    return images


def _read(image: np.ndarray) -> str:
    """What a defect is by its height and width."""
    rows, columns = np.nonzero(image > 0.5)
    longer = np.ptp(columns) - np.ptp(rows)
    return "along" if longer >= 2 else "across" if longer <= -2 else "pit"


def _label_lost(augment: Any) -> Message | None:
    if not callable(augment):
        return say("give the function itself, augment(image, rng), without calling it")
    rng, share = np.random.default_rng(0), {}
    for kind in ("along", "across", "pit"):
        copies = []
        for image in _windows(kind):
            for _ in range(20):
                view = augment(image.copy(), rng)
                if view is None or view is Ellipsis:
                    return say("it returns nothing yet: write your code in place of the dots, and return the copy")
                if np.shape(view) != image.shape or not np.array_equal(
                    np.sort(view, axis=None), np.sort(image, axis=None)
                ):
                    return say("a copy must hold the same pixels in the same window: only move them")
                copies.append(_read(np.asarray(view)))
        share[kind] = float(np.mean([name == kind for name in copies]))
    if share["pit"] < 0.9:
        return say("this tears pits apart as well: {share:.0%} of them can still be read", share=share["pit"])
    if min(share["along"], share["across"]) == 1:
        return say("all copies of a scratch run as it did: both types can still be told apart")
    if max(share["along"], share["across"]) == 0:
        return say("all copies swap the two types, and a pair of copies still agrees: leave it to chance")
    if any(not 0.35 <= share[kind] <= 0.65 for kind in ("along", "across")):
        share = {kind: round(value, 2) for kind, value in share.items()}
        return say("of the copies {along} stay along and {across} across: half of each leaves no type", **share)
    return None


breaks("06.augmentation", _label_lost)

# --- 06.prototypes ----------------------------------------------------------------------------------------------------


def _prototypes(known: np.ndarray, types: np.ndarray, new: np.ndarray) -> np.ndarray:
    means = [_unit(known)[types == kind].mean(0) for kind in np.unique(types)]
    return _unit(new) @ _unit(np.array(means)).T


def _means(known: np.ndarray, types: np.ndarray) -> np.ndarray:
    return np.array([known[types == kind].mean(0) for kind in np.unique(types)])


def _nearest_of_type(known: np.ndarray, types: np.ndarray, new: np.ndarray) -> np.ndarray:
    cosines = _unit(new) @ _unit(known).T
    return np.stack([cosines[:, types == kind].max(1) for kind in np.unique(types)], axis=1)


def _distances(known: np.ndarray, types: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.linalg.norm(_unit(new)[:, None] - _unit(_means(_unit(known), types)), axis=-1)


_kinds = np.array([2, 0, 2, 1, 0, 0])
_known = (np.eye(3)[_kinds] + 0.4 * _random.normal(size=(6, 3))) * np.array([[1.0], [5.0], [2.0], [3.0], [1.0], [0.5]])

implement(
    "06.prototypes",
    _prototypes,
    [
        (np.array([[1.0, 0.0], [0.0, 4.0], [-3.0, 0.0]]), np.array([0, 0, 1]), np.array([[2.0, 0.0], [0.0, 1.0]])),
        (_known, _kinds, 2 * _random.normal(size=(4, 3))),
    ],
    [
        (
            lambda k, y, n: _unit(n) @ _unit(_means(k, y)).T,
            say("long embeddings outweigh the others in the mean: length 1 first"),
        ),
        (
            lambda k, y, n: _unit(n) @ _means(_unit(k), y).T,
            say("a mean of directions is shorter than 1: bring prototypes to length 1"),
        ),
        (lambda k, y, n: n @ _unit(_means(_unit(k), y)).T, say("the new embeddings, too, are brought to length 1")),
        (_nearest_of_type, say("this compares with the nearest image of each type: compare with its prototype")),
        (_distances, say("these are distances, smaller when nearer: give the cosines")),
        (lambda k, y, n: _prototypes(k, y, n).T, say("rows are new defects and columns are types: transpose")),
        (
            lambda k, y, n: _prototypes(k, y, n).argmax(1),
            say("give all cosines, one column a type: the largest names the type"),
        ),
    ],
)

# --- 06.unknown -------------------------------------------------------------------------------------------------------

_learned = np.array([2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 9, 9, 10, 12, 15]) / 100
_held_out = np.array([11, 14, 16, 17, 19, 20, 21, 22, 24, 25, 26, 28, 29, 31, 33, 36, 41, 47, 58]) / 100
_left_out = np.array([23, 34, 39, 44, 52, 61, 66, 74]) / 100


def _limit(novelty: np.ndarray, rank: int) -> tuple[float, float]:
    limit = float(np.sort(novelty)[rank - 1])
    return limit, float((_left_out > limit).mean())


_rank = int(np.ceil(round((len(_held_out) + 1) * 0.9, 9)))
_interpolated = float(np.quantile(_held_out, 0.9))

predict(
    "06.unknown",
    _limit(_held_out, _rank),
    [
        (
            _limit(_learned, _rank),
            say("images that were learned from look too familiar: nearly all new ones lie above"),
        ),
        (_limit(_left_out, 8), say("the type left out is not known on the day the limit is set")),
        (_limit(_held_out, _rank - 1), say("the next defect counts, too: the rank is ⌈(n + 1)(1 − α)⌉")),
        (_limit(_held_out, len(_held_out)), say("this keeps the promise, but a smaller limit keeps it, too")),
        (
            (_interpolated, float((_left_out > _interpolated).mean())),
            say("a quantile between two values promises less: take the value at the rank"),
        ),
        (
            (_limit(_held_out, _rank)[0], 0.1),
            say("the promise is on known types; the share asked for is of the type left out"),
        ),
    ],
    say("sort the list that the models had not seen, take the value at the rank, count what lies above it"),
    kind="decide",
)

# --- 06.two_means -----------------------------------------------------------------------------------------------------


def _metrics_disagree(answer: Any) -> Message | None:
    types, first, second = (np.asarray(part).astype(str) for part in answer)
    if not len(types) == len(first) == len(second):
        return say("the three lists differ in length: {lengths}", lengths=[len(types), len(first), len(second)])
    if not 20 <= len(types) <= 500:
        return say("{count} images: take 20 to 500", count=len(types))
    ours, theirs = verdict_metrics(types, first), verdict_metrics(types, second)
    gain = {name: round(ours[name] - theirs[name], 3) for name in ours}
    if gain["balanced_accuracy"] < 0.1 and gain["macro_f1"] > -0.1:
        return say("both metrics hardly differ, or favour the same predictions: {gain}", gain=list(gain.values()))
    if gain["balanced_accuracy"] < 0.1:
        value = gain["balanced_accuracy"]
        return say("first minus second is {value} in balanced accuracy: at least 0.1 is asked for", value=value)
    if gain["macro_f1"] > -0.1:
        value = -gain["macro_f1"]
        return say("second minus first is {value} in macro F1: at least 0.1 is asked for", value=value)
    return None


breaks("06.two_means", _metrics_disagree)

# --- 06.folds ---------------------------------------------------------------------------------------------------------


def _interval(differences: np.ndarray, spread: float, quantile: float) -> tuple[float, float, float]:
    middle = float(differences.mean())
    return middle, middle - quantile * spread, middle + quantile * spread


def _corrected(ours: np.ndarray, theirs: np.ndarray, trained: int, tested: int) -> tuple[float, float, float]:
    differences = ours - theirs
    folds = len(differences)
    spread = np.sqrt((1 / folds + tested / trained) * differences.var(ddof=1))
    return _interval(differences, spread, t.ppf(0.975, folds - 1))


def _corrected_by(form: str) -> Callable[..., Any]:
    """An interval that many write in place of the corrected one."""

    def interval(ours: np.ndarray, theirs: np.ndarray, trained: int, tested: int) -> tuple[float, float, float]:
        differences = ours - theirs
        folds, variance = len(differences), differences.var(ddof=1)
        share, quantile = tested / trained, t.ppf(0.975, folds - 1)
        if form == "usual":
            share = 0.0
        elif form == "reversed":
            share = trained / tested
        elif form == "of all":
            share = tested / (trained + tested)
        elif form == "ddof":
            variance = differences.var()
        elif form == "unpaired":
            variance = ours.var(ddof=1) + theirs.var(ddof=1)
        elif form == "normal":
            quantile = norm.ppf(0.975)
        elif form == "rounded normal":
            quantile = 1.96
        elif form == "freedom":
            quantile = t.ppf(0.975, folds)
        elif form == "half":
            quantile = t.ppf(0.95, folds - 1)
        return _interval(differences, np.sqrt((1 / folds + share) * variance), quantile)

    return interval


_normal = say("ten folds are few: take the quantile of Student's t with J − 1 degrees of freedom")

implement(
    "06.folds",
    _corrected,
    [
        (np.array([0.8, 0.6]), np.array([0.5, 0.5]), 40, 10),  # 0.2 ± 12.706 · sqrt((1/2 + 1/4) · 0.02)
        (_random.uniform(0.6, 0.9, 10), _random.uniform(0.5, 0.8, 10), 48, 12),
        (_random.uniform(0.6, 0.9, 5), _random.uniform(0.5, 0.8, 5), 30, 15),
    ],
    [
        (_corrected_by("usual"), say("this takes the folds for independent: n_test / n_train is missing")),
        (_corrected_by("reversed"), say("the correction is n_test / n_train, not its reverse")),
        (_corrected_by("of all"), say("divide n_test by n_train, not by the number of all images")),
        (_corrected_by("ddof"), say("the variance is that of a sample: divide by J − 1 (ddof=1)")),
        (_corrected_by("unpaired"), say("both met the same folds: take the variance of their differences")),
        (_corrected_by("normal"), _normal),
        (_corrected_by("rounded normal"), _normal),
        (_corrected_by("freedom"), say("Student's t has J − 1 degrees of freedom, not J")),
        (_corrected_by("half"), say("95 % leave 2.5 % on both ends: take the quantile at 0.975")),
    ],
    tolerance=1e-4,
)
