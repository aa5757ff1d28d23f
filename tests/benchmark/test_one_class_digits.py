"""Digits as anomalies: four ways of reconstruction, and the mean over digits that are normal in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mvtec_ad.benchmark import digits as one_class
from mvtec_ad.benchmark.digits import compare, in_colour, mean_auroc
from mvtec_ad.data import digits
from mvtec_ad.methods.autoencoder import Autoencoder
from mvtec_ad.methods.f_anogan import FAnogan

RNG = np.random.default_rng(0)
DIGITS = np.repeat(np.arange(4), [30, 20, 25, 40])
# the normal digit scores lower; the better way keeps farther apart
BETTER = {one: RNG.normal(2.0 * (one != DIGITS), 1) for one in (0, 2)}
WORSE = {one: RNG.normal(0.8 * (one != DIGITS), 1) for one in (0, 2)}


def by_pairs(different: np.ndarray, scores: np.ndarray) -> float:
    """Share of pairs in which the digit that is not normal has the higher score."""
    return float((scores[different][:, None] > scores[~different]).mean())


def mean_of(scores: dict[int, np.ndarray], rows: np.ndarray, auroc: Callable = by_pairs) -> float:
    """AUROC of some of the digits, averaged."""
    return float(np.mean([auroc(DIGITS[rows] != one, values[rows]) for one, values in scores.items()]))


def bootstrap(scores: dict[int, np.ndarray], other: dict[int, np.ndarray] | None = None) -> np.ndarray:
    """Digits drawn anew, as many of each kind, the same for both ways."""
    generator, found = np.random.default_rng(5), []
    for _ in range(1000):
        drawn = [generator.choice(np.flatnonzero(one == DIGITS), (one == DIGITS).sum()) for one in np.unique(DIGITS)]
        rows = np.concatenate(drawn)
        found.append(mean_of(scores, rows) - (mean_of(other, rows) if other else 0))
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("other", [None, WORSE], ids=["mean", "difference"])
def test_the_mean_is_that_of_scikit_learn_with_its_bootstrap_interval(other: dict[int, np.ndarray] | None) -> None:
    """Ends to the noise of a thousand resamples, the same ones for both ways."""
    result, rows = mean_auroc(BETTER, DIGITS, other), np.arange(len(DIGITS))
    expected = mean_of(BETTER, rows, roc_auc_score) - (mean_of(other, rows, roc_auc_score) if other else 0)
    assert result["mean"] == pytest.approx(expected)
    np.testing.assert_allclose([result["low"], result["high"]], bootstrap(BETTER, other), atol=0.015)


def test_a_way_does_not_differ_from_itself() -> None:
    """And the interval is no point."""
    same = mean_auroc(BETTER, DIGITS, BETTER)
    assert same["mean"] == 0
    assert same["low"] < 0 < same["high"]


def test_four_ways_of_reconstruction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scores and reconstructs every digit; PCA as an SVD gives it."""
    monkeypatch.setattr(one_class, "Autoencoder", partial(Autoencoder, width=4))
    every = digits.load("sklearn")
    ones = digits.Digits(every.of(1).images[:14], np.ones(14, int), "ones")
    test = digits.Digits(every.images[-9:], every.labels[-9:], "some")
    detector = FAnogan.preset("digits", latent=5, width=4, steps=2, encoder_steps=2, search_steps=6)
    detector.fit(in_colour(ones.images), seed=3)
    with torch.random.fork_rng(devices=[]):
        found = compare(detector, ones, test, autoencoder_steps=2, progress=False)
    assert set(found) == {"f_anogan", "anogan", "autoencoder", "pca"}
    for way in found.values():
        assert way.scores.shape == (9,)
        assert way.scores.dtype == np.float32
        assert np.isfinite(way.scores).all()
        assert (way.pictures.shape, way.pictures.dtype) == ((9, 28, 28), np.uint8)
        assert way.milliseconds > 0

    known, flat = ones.images.reshape(14, -1).astype(np.float64), test.images.reshape(9, -1).astype(np.float64)
    axes = np.linalg.svd(known - known.mean(0), full_matrices=False)[2][:5]
    expected = ((flat - known.mean(0)) @ axes.T @ axes + known.mean(0)).clip(0, 255).reshape(9, 28, 28)
    assert np.abs(found["pca"].pictures - expected).max() < 0.51
    errors = ((test.images - np.round(expected)) ** 2).mean((1, 2))
    np.testing.assert_allclose(found["pca"].scores, errors, rtol=1e-3)

    gray = in_colour(test.images)
    assert gray.shape == (9, 28, 28, 3)
    assert (gray == test.images[..., None]).all()
    for name, own in {"f_anogan": detector, "anogan": detector.as_search()}.items():
        pictures, scores = own.invert(gray)
        np.testing.assert_array_equal(found[name].scores, scores.image)
        np.testing.assert_array_equal(found[name].pictures, pictures[..., 0])
    pictures = found["autoencoder"].pictures.astype(np.float64)
    np.testing.assert_allclose(found["autoencoder"].scores, ((test.images - pictures) ** 2).mean((1, 2)), rtol=1e-5)
