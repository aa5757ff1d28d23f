"""Lab 04, a classifier from few labels, its probabilities and costs: the checks of its exercises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import log

import numpy as np
from scipy.special import expit, log_expit

from mvtec_ad import metrics
from mvtec_ad.course.exercises import Message, breaks, choose, implement, predict, say

_random = np.random.default_rng(4)

# --- splits and rare colours ------------------------------------------------------------------------------------------


def _leaks(groups: np.ndarray, hashes: np.ndarray, parts: np.ndarray, groups_count: bool = True) -> np.ndarray:
    elsewhere = parts[:, None] != parts
    same_hash, same_group = hashes[:, None] == hashes, groups[:, None] == groups
    return (elsewhere & (same_hash | (same_group if groups_count else False))).any(1)


def _leaks_of_groups(groups: np.ndarray, hashes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    return _leaks(groups, np.arange(len(groups)), parts)


def _leaks_both(groups: np.ndarray, hashes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    pairs = (groups[:, None] == groups) & (hashes[:, None] == hashes)
    return (pairs & (parts[:, None] != parts)).any(1)


def _duplicates(groups: np.ndarray, hashes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    pairs = (groups[:, None] == groups) | (hashes[:, None] == hashes)
    return pairs.sum(1) > 1


implement(
    "04.leaks",
    _leaks,
    [
        (
            np.array([1, 1, 2, 2, 3, 3]),
            np.array(list("abcdef")),
            np.array(["train", "train", "train", "test", "test", "test"]),
        ),
        (
            np.array([1, 1, 2, 3, 4, 4, 5, 6, 6]),
            np.array(list("abccdefgg")),
            np.array(["train", "train", "train", "validation", "test", "validation", "test", "test", "test"]),
        ),
    ],
    [
        (_leaks_of_groups, say("equal hashes are overlooked: a picture may be in two parts under two groups")),
        (lambda g, h, p: _leaks(g, h, p, False), say("groups are overlooked: two views of an item are a leak")),
        (_leaks_both, say("equal group *or* equal hash: each of them is a leak by itself")),
        (lambda g, h, p: _leaks(g, h, p) & (p == "test"), say("the pictures of the other parts leak as well")),
        (_duplicates, say("within the same part the same item is no leak: compare the parts")),
    ],
)

predict(
    "04.twins",
    0.75 + 0.25 / 2,
    [
        (0.5, say("that is the honest result: here three quarters of the twins were learned by heart")),
        (0.75, say("the others are guessed, and half of the guesses are right")),
        (1.0, say("only pictures whose twin is in the training part are answered by heart")),
        (0.25 + 0.75 / 2, say("the other way round: three quarters of the pictures are in the training part")),
    ],
    say("how many test pictures have their twin in the training part, and what happens to the rest?"),
    tolerance=4e-3,
)

FLOOR = 1e-7


def _rarity(training: np.ndarray, picture: np.ndarray, floor: float = FLOOR, of: Callable = np.log) -> np.ndarray:
    counts = Counter(training.ravel().tolist())
    shares = np.array([counts[colour] / training.size for colour in picture.ravel().tolist()])
    return -of(shares + floor).reshape(picture.shape)


_colours = _random.choice(6, (3, 5, 5), p=[0.5, 0.2, 0.2, 0.05, 0.04, 0.01])
_colourful = _random.integers(0, 8, (4, 4))

implement(
    "04.rarity",
    _rarity,
    [(np.array([[[0, 0], [0, 1]]]), np.array([[0, 1, 2]])), (_colours, _colourful)],  # shares 3/4, 1/4 and 0
    [
        (lambda t, x: _rarity(x, x), say("the shares come from the training pictures, not from this picture")),
        (lambda t, x: _rarity(t, x, 0.0), say("a colour that was never seen has −log 0: add 1e-7 to each share")),
        (lambda t, x: _rarity(t, x, of=np.log2), say("the logarithm is the natural one")),
        (lambda t, x: -_rarity(t, x), say("the sign is wrong: rare colours get high values")),
        (lambda t, x: _rarity(t, x) - np.log(t.size), say("counts are not shares: divide by the number of pixels")),
    ],
)

# --- the loss ---------------------------------------------------------------------------------------------------------


def _loss(z: np.ndarray, y: np.ndarray, gamma: float, variant: str = "") -> float:
    right = np.where(y == 1, z, -z)  # the logit of the right class
    alpha = np.where(y == 1, 0.5 / np.mean(y == 1), 0.5 / np.mean(y == 0))
    if variant == "swapped":
        alpha = np.where(y == 1, 0.5 / np.mean(y == 0), 0.5 / np.mean(y == 1))
    if variant == "no alpha":
        alpha = np.ones(len(z))
    focus = {"right": expit(right), "damaged": expit(-z)}.get(variant, expit(-right)) ** gamma
    entropy = -np.log(expit(right)) if variant == "overflow" else -log_expit(right)
    return float((alpha * focus * entropy).sum() / (1 if variant == "sum" else len(z)))


_logits, _labels = _random.normal(0, 2, 9), np.array([1, 0, 0, 1, 0, 0, 0, 0, 1])

implement(
    "04.loss",
    _loss,
    [
        (np.zeros(2), np.array([1, 0]), 0.0),  # log 2
        (_logits, _labels, 0.0),
        (_logits, _labels, 2.0),
        (np.array([-800.0, 800.0, 3.0, -1.0]), np.array([1, 0, 1, 0]), 1.0),
    ],
    [
        (lambda z, y, g: _loss(z, y, g, "overflow"), say("log σ(z) is −∞ for z = −800: use np.logaddexp(0, −z)")),
        (lambda z, y, g: _loss(z, y, g, "no alpha"), say("the weights of the classes are missing: α = N / (2 N_c)")),
        (lambda z, y, g: _loss(z, y, g, "swapped"), say("α is swapped: the rare class has the larger weight")),
        (lambda z, y, g: _loss(z, y, g, "right"), say("the factor is (1 − p)^γ of the right class, not p^γ")),
        (
            lambda z, y, g: _loss(z, y, g, "damaged"),
            say("p is the probability of the right class, for intact items 1 − σ"),
        ),
        (lambda z, y, g: _loss(z, y, g, "sum"), say("this is the sum: return the mean over the images")),
    ],
)

predict(
    "04.constant",
    (0.1, 0.5),
    [
        ((0.1, 0.1), say("with the weights both classes count the same: what is the cheapest constant then?")),
        ((0.5, 0.5), say("without weights nine of ten items are intact, and the loss asks for their share")),
        ((0.5, 0.1), say("the other way round: the weights undo the imbalance")),
        ((0.1, 0.9), say("the weights make both classes equal, they do not swap them")),
    ],
    say("set the derivative of the loss with respect to b to zero, once without and once with weights"),
)

# --- two views --------------------------------------------------------------------------------------------------------


def _fuse(p: np.ndarray, prior: float, times: float | None = None) -> np.ndarray:
    views = p.shape[1]
    odds = np.prod(p / (1 - p), axis=1) / (prior / (1 - prior)) ** (views - 1 if times is None else times)
    return odds / (1 + odds)


_views = _random.uniform(0.05, 0.9, (5, 3))

implement(
    "04.fusion",
    _fuse,
    [
        (np.array([[0.8, 0.8], [0.8, 0.2]]), 0.5),  # odds 16 and 1
        (_views, 0.1),
        (_views[:, :2], 0.3),
    ],
    [
        (lambda p, q: _fuse(p, q, 0), say("each view has the prior in it: subtract its logit for all views but one")),
        (lambda p, q: _fuse(p, q, p.shape[1]), say("the prior is subtracted once too often: V − 1 times")),
        (lambda p, q: p.mean(1), say("this is the mean: add logits, not probabilities")),
        (lambda p, q: p.prod(1), say("a product of probabilities only gets smaller: multiply odds")),
        (lambda p, q: p.max(1), say("the surest view alone: the others are evidence, too")),
    ],
)


def _shared(answer: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Message | None:
    labels, *views = (np.asarray(part, float).ravel() for part in answer)
    if len(views) != 2 or len({len(part) for part in (labels, *views)}) > 1 or len(labels) < 20:
        return say("give labels and the probabilities of two views, of 20 items or more each")
    share = float(labels.mean())
    if not 0.4 <= share <= 0.6:
        return say("{share:.2f} of the items are damaged: keep it near one half, the prior of the sum", share=share)
    for number, view in enumerate(views, 1):
        error = metrics.calibration_error(labels, view, 5)
        if error > 0.05:
            return say("view {number} is not calibrated by itself: its ECE is {error:.3f}", number=number, error=error)
    error = metrics.calibration_error(labels, _fuse(np.stack(views, 1), 0.5), 5)
    if error < 0.1:
        return say("the sum is still calibrated, ECE {error:.3f}: let both views err on the same items", error=error)
    return None


breaks("04.shared", _shared)

# --- calibration ------------------------------------------------------------------------------------------------------


def _error(labels: np.ndarray, p: np.ndarray, bins: int, variant: str = "") -> float:
    edges, total, filled = np.linspace(0, 1, bins + 1), 0.0, 0
    for i in range(bins):
        inside = (p > edges[i]) & (p <= edges[i + 1]) | (i == 0) & (p == 0)
        if variant == "from below":
            inside = (p >= edges[i]) & (p < edges[i + 1]) | (i == bins - 1) & (p == 1)
        if inside.any():
            confidence = (edges[i] + edges[i + 1]) / 2 if variant == "middle" else p[inside].mean()
            gap = labels[inside].mean() - confidence
            weight = 1.0 if variant == "unweighted" else inside.mean()
            total += weight * (gap if variant == "signed" else gap**2 if variant == "squared" else abs(gap))
            filled += 1
    return float(total / filled if variant == "unweighted" else total)


_p = _random.uniform(0, 1, 40)
_damaged = (_random.uniform(0, 1, 40) < _p**2).astype(int)

implement(
    "04.calibration",
    _error,
    [
        (np.array([0, 1]), np.array([0.25, 0.75]), 2),  # both bins are off by 1/4
        (np.array([1, 0, 1, 0, 0, 1]), np.array([0.0, 0.25, 0.5, 0.5, 0.75, 1.0]), 4),  # on the edges
        (_damaged, _p, 5),
        (_damaged, _p, 20),
    ],
    [
        (lambda y, p, n: _error(y, p, n, "from below"), say("a bin holds its upper edge, not its lower one")),
        (lambda y, p, n: _error(y, p, n, "unweighted"), say("each bin is weighted by its share of the items")),
        (lambda y, p, n: _error(y, p, n, "signed"), say("distances are never negative: take the absolute value")),
        (lambda y, p, n: _error(y, p, n, "squared"), say("the distance itself counts, not its square")),
        (
            lambda y, p, n: _error(y, p, n, "middle"),
            say("compare with the mean probability in the bin, not its middle"),
        ),
        (
            lambda y, p, n: _error((p > 0.5) == (y == 1), np.maximum(p, 1 - p), n),
            say("this is the ECE of the surer class: here the probability of damage is examined"),
        ),
    ],
)


def _temperature(labels: np.ndarray, z: np.ndarray, grid: np.ndarray, variant: str = "") -> float:
    m, n = labels.sum(), (1 - labels).sum()
    softened = np.where(labels == 1, (m + 1) / (m + 2), 1 / (n + 2))
    targets = labels if variant == "hard" else softened
    losses = []
    for t in grid:
        logits = z * t if variant == "times" else z / t
        losses.append(-(targets * log_expit(logits) + (1 - targets) * log_expit(-logits)).mean())
    best = int(np.argmax(losses) if variant == "largest" else np.argmin(losses))
    return float({"index": best, "loss": losses[best]}.get(variant, grid[best]))


_grid = np.geomspace(0.05, 20, 400)
_overconfident = np.where(_damaged == 1, 4.0, -4.0) * np.where(np.arange(40) % 5 == 0, -1, 1) + _random.normal(size=40)

implement(
    "04.temperature",
    _temperature,
    [
        (np.array([0, 1]), np.array([-1.0, 1.0]), np.array([0.5, 1.0, 2.0])),  # σ(1/T) should be 2/3: T = 1.44
        (_damaged, _overconfident, _grid),
        (np.array([0, 0, 1, 1, 1]), np.array([-3.0, -2.0, 1.0, 2.0, 5.0]), _grid),
    ],
    [
        (
            lambda y, z, g: _temperature(y, z, g, "hard"),
            say("labels of 0 and 1: where all are right, T then shrinks to the end of the grid; soften them"),
        ),
        (lambda y, z, g: _temperature(y, z, g, "times"), say("the logits are divided by T, not multiplied")),
        (lambda y, z, g: _temperature(y, z, g, "largest"), say("this is the T with the largest cross-entropy")),
        (lambda y, z, g: _temperature(y, z, g, "index"), say("return T itself, not its index in the grid")),
        (lambda y, z, g: _temperature(y, z, g, "loss"), say("return T, not the cross-entropy at T")),
    ],
)

# --- costs and severity -----------------------------------------------------------------------------------------------

predict(
    "04.threshold",
    2 * log(1 / 10),
    [
        (log(1 / 10), say("this is the threshold on z / T: the logits here are not divided yet")),
        (-2 * log(1 / 10), say("the sign: where a miss is dear, items are stopped early")),
        (1 / 11, say("this is the threshold on the probability: turn it into a logit")),
        (log(1 / 10) / 2, say("T multiplies: z / T is compared with the logit of the probability")),
        (-2.0, say("the logarithm is the natural one")),
    ],
    say("solve σ(z / T) = c_false / (c_false + c_miss) for z"),
    kind="decide",
)

_odds = (1 - 0.01) / 0.01 / 10

predict(
    "04.line",
    _odds / (1 + _odds),
    [
        (
            1 / 11,
            say("the costs alone: on the line damaged items are a hundred times as rare as the classifier thinks"),
        ),
        (_odds, say("these are odds: turn them into a probability, odds / (1 + odds)")),
        (0.99, say("the prior alone: a miss still costs ten false alarms")),
        (1 / 991, say("the wrong way: rare damage needs more evidence, not less")),
    ],
    say("odds on the line = odds of the classifier · 0.01 / 0.99; stop where they exceed c_false / c_miss"),
    kind="decide",
)

Interval = Callable[[float, int], tuple[float, float]]


def _severity(
    severity: np.ndarray, detected: np.ndarray, edges: np.ndarray, interval: Interval, variant: str = ""
) -> float:
    answer = np.nan
    for i in reversed(range(len(edges) - 1)):
        inside = (severity > edges[i]) & (severity <= edges[i + 1])
        share, count = float(detected[inside].mean()), int(inside.sum())
        low, high = interval(share, count)
        if {"share": share, "high": high}.get(variant, low) > 0.5:
            answer = edges[i + 1] if variant == "right" else edges[i]
        elif variant != "lowest":
            break
    return float(answer)


_edges = np.array([0.1, 0.3, 0.5, 0.7, 1.0])
_severities = np.repeat([0.2, 0.4, 0.6, 0.9], 12)


def _hits(*counts: int) -> np.ndarray:
    return np.concatenate([np.arange(12) < count for count in counts])


implement(
    "04.severity",
    _severity,
    [
        (_severities, _hits(2, 8, 11, 12), _edges, metrics.wilson),  # 8 of 12: the interval begins below 1/2
        (_severities, _hits(11, 5, 10, 12), _edges, metrics.wilson),
        (_severities, _hits(0, 3, 6, 7), _edges, metrics.wilson),
        (np.repeat([0.25, 0.5, 0.75, 1.0], 12), _hits(3, 10, 12, 12), np.linspace(0, 1, 5), metrics.wilson),  # on edges
    ],
    [
        (
            lambda s, d, e, f: _severity(s, d, e, f, "share"),
            say("a recall above one half is not enough: the lower end of its interval must be above"),
        ),
        (
            lambda s, d, e, f: _severity(s, d, e, f, "high"),
            say("the upper end of the interval is only what may be: use the lower one"),
        ),
        (
            lambda s, d, e, f: _severity(s, d, e, f, "lowest"),
            say("from there on: each bin above must hold as well, not only the lowest one that does"),
        ),
        (lambda s, d, e, f: _severity(s, d, e, f, "right"), say("return the lower edge of that bin")),
    ],
)

choose(
    "04.networks",
    "aef",
    {
        "a": say("the interval of the paired difference lies below zero"),
        "b": say("its interval holds zero: undecided, however the two AUROCs look"),
        "c": say("undecided is not *no better*: it may be a little better or a little worse"),
        "d": say("ten steps and one seed: this says nothing about fine-tuning in general"),
        "e": say("both numbers stand there: the threshold decides, and false alarms pay for it"),
        "f": say("of the items on which the rules differ the interval of the share begins above one half"),
    },
)
