"""Lab 00, self-test: the checks of its exercises."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvtec_ad.course.exercises import Message, breaks, choose, implement, predict, say

_random = np.random.default_rng(0)

predict(
    "00.convolution",
    (64 - 5) // 2 + 1,
    [
        (30.5, say("half a position does not exist: round down before you add 1")),
        (29, say("the first position counts, too: add 1")),
        (32, say("64 / 2 would need padding: a kernel of 5 must lie inside the image")),
        (60, say("this is stride 1: the kernel moves by 2 pixels")),
    ],
    say("count where the kernel's left end can lie: 0, 2, 4 … and not beyond 64 − 5"),
)


def _receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    size, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        size, step = size + (kernel - 1) * step, step * stride
    return size


_kernels, _strides = (3, 3, 3), (2, 2, 1)
predict(
    "00.receptive_field",
    _receptive_field(_kernels, _strides),
    [
        (
            _receptive_field(_kernels, (1, 1, 1)),
            say("this is with stride 1 everywhere: steps of later layers are larger"),
        ),
        (_receptive_field(_kernels, (2, 1, 1)), say("the third layer's steps have passed two strides: 2 · 2 pixels")),
        (27, say("kernels do not multiply: each layer adds (k − 1) of its steps")),
        (9, say("neighbouring windows overlap: a layer adds k − 1, not k")),
        (21, say("a layer's own stride acts on the layers after it only")),
    ],
    say("start at 1 pixel; each layer adds (k − 1) times the product of the strides before it"),
)


def _covariance(x: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(x, rowvar=False))


implement(
    "00.covariance",
    _covariance,
    [(np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 2.0]]),), (_random.normal([1.0, 0.0, 5.0], size=(7, 3)),)],
    [
        (
            lambda x: np.cov(x, rowvar=False, bias=True),
            say("it divides by n: the mean was estimated, so divide by n − 1"),
        ),
        (lambda x: x.T @ x / (len(x) - 1), say("the mean is not subtracted")),
        (lambda x: np.cov(x), say("this compares points with points: sum over the n points, for a d × d matrix")),
        (
            lambda x: np.corrcoef(x, rowvar=False),
            say("these are correlations: do not divide by the standard deviations"),
        ),
        (lambda x: x.var(0, ddof=1), say("these are the variances only: the matrix has an entry for each pair")),
        (lambda x: _covariance(x) * (len(x) - 1), say("this is the sum of products: divide by n − 1")),
    ],
)


def _uncorrelated(answer: Any) -> Message | None:
    points = np.asarray(answer, float)
    if points.ndim != 2 or len(points) != 2:
        return say("give two rows, x and y: the shape of yours is {shape}", shape=points.shape)
    x, y = points
    if len(np.unique(x)) < 3:
        return say("give x at least three different values: with two, the covariance tells all")
    if np.ptp(y) == 0:
        return say("y is constant, so x tells nothing about it: let y change")
    if any(np.ptp(y[x == value]) > 0 for value in x):
        return say("equal x have different y here: y must follow from x")
    covariance = float(np.cov(x, y)[0, 1])
    if abs(covariance) > 1e-9 * x.std() * y.std():
        return say("the covariance is {value:.3g}: balance x that rise with y and x that fall", value=covariance)
    return None


breaks("00.uncorrelated", _uncorrelated)

predict(
    "00.auroc",
    6.5 / 9,
    [
        (6 / 9, say("a tie counts one half, not 0")),
        (7 / 9, say("a tie counts one half, not 1")),
        (2.5 / 9, say("turn it round: count pairs in which the defective image scores higher")),
        (6.5, say("this is the count: divide by the number of pairs")),
        (2 / 3, say("this is an accuracy: AUROC takes all pairs, and no threshold")),
    ],
    say("write down the 3 × 3 pairs; each is 1, one half or 0"),
)


def _bootstrap(values: np.ndarray, indices: np.ndarray) -> tuple[float, float]:
    means = [float(np.mean([values[index] for index in resample])) for resample in indices]
    low, high = np.quantile(means, [0.025, 0.975])
    return low, high


def _mean_and_reach(values: np.ndarray, indices: np.ndarray) -> tuple[float, float]:
    means = values[indices].mean(1)
    return means.mean() - 1.96 * means.std(), means.mean() + 1.96 * means.std()


implement(
    "00.bootstrap",
    _bootstrap,
    [
        (np.array([0.0, 10.0]), np.array([[0, 0], [0, 1], [1, 0], [1, 1]])),  # means 0, 5, 5, 10
        (_random.exponential(size=12), _random.integers(0, 12, (200, 12))),
    ],
    [
        (lambda v, d: np.quantile(v, [0.025, 0.975]), say("these are quantiles of the values: use those of the means")),
        (lambda v, d: np.quantile(v[d], [0.025, 0.975]), say("take the mean of each resample before the quantiles")),
        (lambda v, d: np.quantile(v[d].mean(0), [0.025, 0.975]), say("one mean for each row of `drawn`: axis 1")),
        (
            lambda v, d: np.quantile(v[d].mean(1), [0.05, 0.95]),
            say("between .05 and .95 lie 90 %: leave .025 at each end"),
        ),
        (_mean_and_reach, say("this is mean ± 1.96 standard deviations: take quantiles of the means")),
    ],
)

_true_alarms, _false_alarms = 0.01 * 0.95, 0.99 * 0.05
predict(
    "00.base_rate",
    _true_alarms / (_true_alarms + _false_alarms),
    [
        (0.95, say("this is P(alarm | defect): asked is P(defect | alarm)")),
        (_true_alarms, say("this is P(defect and alarm): divide by the share of all alarms")),
        (_true_alarms / _false_alarms, say("these are true per false alarm: divide by all alarms")),
        (_true_alarms + _false_alarms, say("this is the share of parts that raise an alarm")),
        (0.95 / (0.95 + 0.05), say("good parts are 99 times as many: weigh both kinds by their share")),
    ],
    say("of 10 000 parts 100 are defective: count the alarms of each kind"),
    tolerance=2e-3,
)

choose(
    "00.alarms",
    "ace",
    {
        "a": say("A is right on every good part, B on 95 % of either kind"),
        "b": say("A finds no defect: where 1 part in 100 is defective, accuracy hardly sees defects"),
        "c": say("it is your answer to 00.base_rate, 16 %"),
        "d": say("AUROC compares pairs of one defect and one good part: how many there are cancels"),
        "e": say("most alarms are false: 95 + 247.5 of 10 000 parts, against 100 + 495"),
    },
)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))


def _gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.mean([(_sigmoid(row @ w) - label) * row for row, label in zip(x, y, strict=True)], axis=0)


implement(
    "00.gradient",
    _gradient,
    [
        (np.zeros(1), np.array([[2.0], [4.0]]), np.array([0.0, 1.0])),  # (0.5 · 2 − 0.5 · 4) / 2
        (_random.normal(size=3), _random.normal(size=(8, 3)), np.array([0.0, 1, 1, 0, 1, 0, 0, 1])),
    ],
    [
        (lambda w, x, y: -_gradient(w, x, y), say("the sign is reversed: the gradient points to where the loss grows")),
        (lambda w, x, y: len(x) * _gradient(w, x, y), say("this is the sum over the points: the loss is their mean")),
        (lambda w, x, y: x.T @ (x @ w - y) / len(x), say("this is of the squared loss: σ is missing")),
        (
            lambda w, x, y: _sigmoid(x @ w) - y,
            say("the chain rule is not complete: each residual is multiplied by its x"),
        ),
        (lambda w, x, y: x.T @ _sigmoid(x @ w) / len(x), say("the labels y are not used")),
    ],
)
