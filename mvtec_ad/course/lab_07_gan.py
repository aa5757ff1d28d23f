"""Lab 07, generative adversarial networks: the checks of its exercises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit

from mvtec_ad.course.exercises import Message, breaks, choose, implement, predict, say

# --- 07.optimal -------------------------------------------------------------------------------------------------------

_real = np.array([0.5, 0.25, 0.25, 0.0])
_generated = np.array([0.25, 0.25, 0.0, 0.5])

predict(
    "07.optimal",
    tuple(_real / (_real + _generated)),
    [
        (tuple(_generated / (_real + _generated)), say("D is the probability of real: these are those of generated")),
        (tuple(_real), say("this is how often a real image is it: D asks how often it is real when it is seen")),
        ((0.5, 0.5, 0.5, 0.5), say("0.5 everywhere is right only when the generator has become perfect")),
        ((1.0, 0.5, 1.0, 0.0), say("D is no vote: at the first image both kinds occur, and the odds are 2 : 1")),
        ((2.0, 1.0, np.inf, 0.0), say("these are the odds p / q: D is the probability that belongs to them")),
    ],
    say("set the derivative of p log D + q log(1 − D) to zero, one image at a time"),
    tolerance=0.005,
)

# --- 07.gradients -----------------------------------------------------------------------------------------------------


def _gradients(logits: np.ndarray) -> np.ndarray:
    return np.stack([np.logaddexp(0, -logits), -expit(-logits), -expit(logits)])


def _gradients_by(form: str) -> Callable[[np.ndarray], np.ndarray]:
    """What many write in place of the two slopes."""

    def rows(logits: np.ndarray) -> np.ndarray:
        loss, slope, saturating = _gradients(logits)
        return {
            "saturating": np.stack([-np.logaddexp(0, logits), slope, saturating]),
            "swapped": np.stack([loss, saturating, slope]),
            "positive": np.stack([loss, -slope, -saturating]),
            "second positive": np.stack([loss, slope, -saturating]),
            "probability": np.stack([loss, -1 / expit(logits), -1 / expit(-logits)]),
            "naive": np.stack([-np.log(1 / (1 + np.exp(-logits))), slope, saturating]),
        }[form]

    return rows


implement(
    "07.gradients",
    _gradients,
    [(np.array([0.0, np.log(3)]),), (np.array([-4.0, -0.5, 1.0, 6.0]),), (np.array([-800.0, 30.0]),)],
    [
        (
            _gradients_by("saturating"),
            say("the loss of the first row is −log D, which is positive: yours is log(1 − D)"),
        ),
        (
            _gradients_by("swapped"),
            say("the two slopes are swapped: where D rejects an image, −log D is the steep one"),
        ),
        (_gradients_by("positive"), say("both losses fall when the logit rises: their slopes are negative")),
        (_gradients_by("second positive"), say("log(1 − D) falls, too, when the logit rises: its slope is negative")),
        (_gradients_by("probability"), say("this is the slope over D: go on to the logit, with dD/dl = D(1 − D)")),
        (_gradients_by("naive"), say("at l = −800 D rounds to 0 and its logarithm is infinite: use log(1 + exp(−l))")),
    ],
)

# --- 07.transposed ----------------------------------------------------------------------------------------------------


def _transposed(grid: np.ndarray, kernel: np.ndarray, stride: int, padding: int) -> np.ndarray:
    size = len(kernel)
    apart = np.zeros([(length - 1) * stride + 1 + 2 * (size - 1) for length in grid.shape])
    apart[size - 1 : apart.shape[0] - size + 1 : stride, size - 1 : apart.shape[1] - size + 1 : stride] = grid
    patches = np.lib.stride_tricks.sliding_window_view(apart, (size, size))
    total = (patches * kernel[::-1, ::-1]).sum((2, 3))
    return total[padding : total.shape[0] - padding, padding : total.shape[1] - padding]


def _overwritten(grid: np.ndarray, kernel: np.ndarray, stride: int, padding: int) -> np.ndarray:
    size = len(kernel)
    total = np.zeros([(length - 1) * stride + size for length in grid.shape])
    for row, column in np.ndindex(grid.shape):
        total[row * stride : row * stride + size, column * stride : column * stride + size] = grid[row, column] * kernel
    return total[padding : total.shape[0] - padding, padding : total.shape[1] - padding]


_random = np.random.default_rng(7)

implement(
    "07.transposed",
    _transposed,
    [
        (np.array([[1.0, 2.0], [0.0, -1.0]]), np.arange(16.0).reshape(4, 4) / 10, 2, 1),  # of notebook 07
        (_random.normal(size=(3, 3)), _random.normal(size=(3, 3)), 2, 0),
        (_random.normal(size=(1, 4)), _random.normal(size=(5, 5)), 3, 1),
    ],
    [
        (lambda g, k, s, p: _transposed(g, k[::-1, ::-1], s, p), say("the kernel is flipped: add it as it stands")),
        (lambda g, k, s, p: _transposed(g, k.T, s, p), say("rows and columns of the kernel are swapped")),
        (_overwritten, say("where kernels overlap their values add up: yours are overwritten")),
        (
            lambda g, k, s, p: _transposed(g, k, s, 0),
            say("padding cuts that many cells from each border: nothing is cut"),
        ),
        (
            lambda g, k, s, p: np.pad(_transposed(g, k, s, 0), p),
            say("here padding takes cells away: it undoes the padding of a convolution"),
        ),
        (
            lambda g, k, s, p: _transposed(g, k, 1, p),
            say("the kernels lie `stride` cells apart: yours lie side by side"),
        ),
    ],
)

# --- 07.frechet -------------------------------------------------------------------------------------------------------


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


def _frechet(mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray) -> float:
    root = _root(covariance)
    shared = np.trace(_root(root @ other_covariance @ root))
    return float(((mean - other_mean) ** 2).sum() + np.trace(covariance + other_covariance) - 2 * shared)


def _frechet_by(form: str) -> Callable[..., float]:
    """What many write in place of the distance."""

    def distance(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
        away, traces = ((mean - other_mean) ** 2).sum(), np.trace(cov + other_cov)
        shared = (traces + away - _frechet(mean, cov, other_mean, other_cov)) / 2
        return float(
            {
                "once": away + traces - shared,
                "cells": away + traces - 2 * np.trace(np.sqrt(cov @ other_cov)),
                "no root": away + traces - 2 * np.trace(cov @ other_cov),
                "diagonal": away + ((np.sqrt(np.diag(cov)) - np.sqrt(np.diag(other_cov))) ** 2).sum(),
                "norm": np.sqrt(away) + traces - 2 * shared,
                "root": np.sqrt(away + traces - 2 * shared),
                "no mean": traces - 2 * shared,
            }[form]
        )

    return distance


def _covariance(size: int) -> np.ndarray:
    factor = _random.normal(size=(size, size))
    return factor @ factor.T + 0.1 * np.eye(size)


implement(
    "07.frechet",
    _frechet,
    [
        (np.array([0.0]), np.array([[1.0]]), np.array([2.0]), np.array([[9.0]])),  # 2² + (1 − 3)²
        (np.array([1.0, 0.0]), np.diag([4.0, 1.0]), np.array([1.0, 1.0]), np.diag([1.0, 1.0])),  # 1² + (2 − 1)²
        (_random.normal(size=3), _covariance(3), _random.normal(size=3), _covariance(3)),
    ],
    [
        (_frechet_by("once"), say("the last trace counts twice: equal Gaussians must come to 0")),
        (
            _frechet_by("cells"),
            say("np.sqrt takes the root of each cell: a matrix whose square is the product is meant"),
        ),
        (_frechet_by("no root"), say("the root of the product of the covariances is missing")),
        (_frechet_by("diagonal"), say("this uses the variances only: covariances differ in their other cells, too")),
        (_frechet_by("norm"), say("the distance of the means is squared")),
        (_frechet_by("root"), say("no root of the whole: the squared distance is asked for, as FID gives it")),
        (_frechet_by("no mean"), say("the distance of the means is missing")),
    ],
    tolerance=1e-5,
)

# --- 07.modes ---------------------------------------------------------------------------------------------------------


def _collapsed(answer: Any) -> Message | None:
    samples = np.asarray(answer, dtype=float)
    if samples.ndim != 2 or samples.shape[1] != 2 or not 100 <= len(samples) <= 5000:
        return say("its shape is {shape}: give 100 to 5,000 points, (N, 2)", shape=samples.shape)
    angles = np.arange(8) * np.pi / 4
    centres = 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distances = np.linalg.norm(samples[:, None] - centres, axis=-1)
    inside = float((distances.min(1) < 0.5).mean())
    if inside < 1:
        return say("{share:.0%} of your points lie in a cluster: each must look real, within 0.5", share=inside)
    count = len(set(distances.argmin(1)))
    if count > 4:
        return say("your points lie in {count} of 8 clusters: at most four of them", count=count)
    real = np.concatenate([centres + offset for offset in np.random.default_rng(0).normal(0, 0.1, (100, 1, 2))])
    moments = [(points.mean(0), np.cov(points.T)) for points in (real, samples)]
    distance = _frechet(*moments[0], *moments[1])
    if distance > 0.05:
        away = moments[1][0].round(2).tolist()
        return say("the distance is {value:.2f}: below 0.05; your mean is {mean}", value=distance, mean=away)
    return None


breaks("07.modes", _collapsed)

# --- 07.search --------------------------------------------------------------------------------------------------------


def _search(
    image: np.ndarray,
    weights: np.ndarray,
    offset: np.ndarray,
    features: np.ndarray,
    share: float,
    lr: float,
    steps: int,
    *,
    factor: float = 2.0,
) -> np.ndarray:
    latent = np.zeros(weights.shape[1])
    metric = (1 - share) * np.eye(len(image)) + share * features.T @ features
    for _ in range(steps):
        latent = latent + lr * factor * weights.T @ metric @ (image - offset - weights @ latent)
    return latent


def _searched(
    image: np.ndarray, weights: np.ndarray, offset: np.ndarray, features: np.ndarray, *rest: Any
) -> np.ndarray:
    return offset + weights @ _search(image, weights, offset, features, *rest)


def _unweighted(
    image: np.ndarray, weights: np.ndarray, offset: np.ndarray, features: np.ndarray, share: float, *rest: Any
):
    both = np.sqrt(share) * features, 0.5, *rest
    return _search(image, weights, offset, *both, factor=4.0)  # 2 (residual + share · features)


def _at_end(image: np.ndarray, weights: np.ndarray, offset: np.ndarray, features: np.ndarray, share: float, *rest: Any):
    root = np.concatenate([np.sqrt(1 - share) * np.eye(len(image)), np.sqrt(share) * features])
    return np.linalg.lstsq(root @ weights, root @ (image - offset), rcond=None)[0]


implement(
    "07.search",
    _search,
    [
        # residual (2, 1), its feature 3: 2 (0.9 · 2 + 0.1 · 3) = 4.2 uphill, a quarter of it downhill
        (np.array([2.0, 1.0]), np.array([[1.0], [0.0]]), np.zeros(2), np.array([[1.0, 1.0]]), 0.1, 0.25, 1),
        *[
            (*(_random.normal(size=size) for size in ((5,), (5, 2), (5,), (3, 5))), share, 0.02, steps)
            for share, steps in ((0.1, 3), (0.6, 8))
        ],
    ],
    [
        (
            lambda x, w, b, f, a, lr, n: _search(x, w, b, f, a, -lr, n),
            say("this climbs: a step goes against the gradient"),
        ),
        (lambda *case: _search(*case, factor=1.0), say("the derivative of a square has a factor 2")),
        (
            lambda x, w, b, f, a, lr, n: _search(x, w, b, f, 0.0, lr, n),
            say("the feature term does not move z in yours"),
        ),
        (_unweighted, say("the residual is weighted by 1 − λ")),
        (
            lambda x, w, b, f, a, lr, n: _search(x, w, b, f, 1 - a, lr, n),
            say("the weights are swapped: λ belongs to the features"),
        ),
        (lambda x, w, b, f, *rest: _search(x, w, 0 * b, f, *rest), say("the generator's b is missing: G(z) = Wz + b")),
        (
            lambda x, w, b, f, a, lr, n: _search(x, w, b, f, a, lr, 1),
            say("this is one step: take as many as `steps` says"),
        ),
        (_at_end, say("this is where the search ends: take as many steps as `steps` says")),
        (_searched, say("this is the image G(z): return z")),
    ],
)

# --- 07.redrawn -------------------------------------------------------------------------------------------------------


def _patterns() -> np.ndarray:
    """The generator's three patterns as columns, (64, 3): brightness, a slope of brightness, a printed label."""
    label = np.zeros((8, 8))
    label[4:7, 1:4] = 1
    return np.stack([np.ones((8, 8)), np.tile(np.linspace(-1, 1, 8), (8, 1)), label]).reshape(3, 64).T


def _izif(images: np.ndarray) -> np.ndarray:
    """f-AnoGAN's scores of images (N, 8, 8), whose features are the differences of neighbours."""
    patterns = _patterns()
    flat = images.reshape(-1, 64)
    residual = (flat - flat @ np.linalg.pinv(patterns).T @ patterns.T).reshape(-1, 8, 8)
    features = np.concatenate([np.diff(residual, axis=1).reshape(-1, 56), np.diff(residual, axis=2).reshape(-1, 56)], 1)
    return (residual**2).mean((1, 2)) + (features**2).mean(1)


def _unseen(answer: Any) -> Message | None:
    defect = np.asarray(answer, dtype=float)
    if defect.shape != (8, 8) or not np.isfinite(defect).all():
        return say("its shape is {shape}: give an array of numbers, (8, 8)", shape=defect.shape)
    touched, strong = int((np.abs(defect) > 1e-9).sum()), int((np.abs(defect) >= 0.5).sum())
    if touched > 16:
        return say("it changes {count} pixels: a defect is local, 16 at most", count=touched)
    if strong < 8:
        return say(
            "{count} pixels change by 0.5 or more: at least eight, or nobody would call it a defect", count=strong
        )
    rng = np.random.default_rng(0)
    latents, noise = rng.normal(size=(200, 3)) * [0.1, 0.1, 0.3], rng.normal(0, 0.05, (200, 8, 8))
    good = (latents @ _patterns().T).reshape(-1, 8, 8) + noise
    scores, limit = _izif(good + defect), np.quantile(_izif(good), 0.9)
    caught = float((scores > limit).mean())
    if caught > 0.2:
        return say("it is caught on {share:.0%} of parts: what can this generator draw by itself?", share=caught)
    return None


breaks("07.redrawn", _unseen)

# --- 07.report --------------------------------------------------------------------------------------------------------

choose(
    "07.report",
    "ade",
    {
        "a": say("the slope is (3, 0), so the penalties are (3 − 1)² and 3² / 2"),
        "b": say("the largest singular values are 4 and 1, so 3 / 4 is left: 1 is a bound"),
        "c": say("the distance says better, not good: look at its recall in the table"),
        "d": say("two seeds say better and the third says worse"),
        "e": say("ziz sees generated images only, and the encoder can do as it likes away from them"),
        "f": say("a longer search redraws anomalies as well, and the AUROC fell with every seed"),
        "g": say("the two intervals overlap nearly whole, and no paired difference is given"),
    },
)
