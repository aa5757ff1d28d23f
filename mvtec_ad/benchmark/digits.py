"""Digits as anomalies: one digit is normal, every other one is not, and four ways of reconstruction compete."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from mvtec_ad import metrics
from mvtec_ad.data.digits import Digits
from mvtec_ad.methods.autoencoder import Autoencoder
from mvtec_ad.methods.f_anogan import FAnogan


@dataclass(frozen=True)
class Reconstructed:
    """What one way makes of the test digits.

    Attributes:
        scores: (M,) float32, higher is more anomalous.
        pictures: (M, 28, 28) uint8, the reconstructions.
        milliseconds: to reconstruct and score one digit.
    """

    scores: np.ndarray
    pictures: np.ndarray
    milliseconds: float


def in_colour(images: np.ndarray) -> np.ndarray:
    """Gray digits (N, S, S) as detectors take them, (N, S, S, 3): three times the same.

    Examples:
        >>> in_colour(np.zeros((2, 28, 28), np.uint8)).shape
        (2, 28, 28, 3)
    """
    return np.repeat(images[..., None], 3, axis=3)


def compare(
    detector: FAnogan, good: Digits, test: Digits, *, autoencoder_steps: int = 600, progress: bool = True
) -> dict[str, Reconstructed]:
    """Reconstructions and scores of all test digits by f-AnoGAN, AnoGAN, an autoencoder and PCA.

    AnoGAN searches through the generator and critic of f-AnoGAN, so that the two differ in the way back only.
    Autoencoder and PCA are fitted here, PCA on all good digits, and squeeze a digit into as many numbers as the
    generator draws from.

    Args:
        detector: fitted on `in_colour(good.images)`.
        good: the digits that are normal.
        test: digits, all ten kinds.
        autoencoder_steps: that it trains for at most.
        progress: show a bar of the autoencoder.

    Returns:
        `f_anogan`, `anogan`, `autoencoder` and `pca`.

    Examples:
        >>> images = np.random.default_rng(0).integers(0, 256, (8, 28, 28), np.uint8)
        >>> ones = Digits(images, np.ones(8, int), "no ones at all")
        >>> detector = FAnogan.preset("digits", width=2, latent=4, steps=1, encoder_steps=1, search_steps=1)
        >>> detector = detector.fit(in_colour(ones.images), seed=0)
        >>> list(compare(detector, ones, ones, autoencoder_steps=1, progress=False))
        ['f_anogan', 'anogan', 'autoencoder', 'pca']
    """
    seen, latent, reconstructed = in_colour(test.images), detector.latent, {}
    for inverter in (detector, detector.as_search()):
        (pictures, scores), spent = _timed(lambda inverter=inverter: inverter.invert(seen))
        reconstructed[inverter.name] = Reconstructed(scores.image, pictures[..., 0], 1000 * spent / len(seen))
    autoencoder = Autoencoder(image_size=28, crop=28, depth=2, latent=latent, loss="mse", steps=autoencoder_steps)
    autoencoder.fit(in_colour(good.images), detector.seed, progress=progress)
    reconstructed["autoencoder"] = _by_error(test.images, lambda: autoencoder.reconstruct(seen)[..., 0])
    linear = PCA(min(latent, len(good.images)), random_state=detector.seed).fit(_flat(good.images))
    reconstructed["pca"] = _by_error(test.images, lambda: _by_components(linear, test.images))
    return reconstructed


def _by_components(linear: PCA, images: np.ndarray) -> np.ndarray:
    flat = linear.inverse_transform(linear.transform(_flat(images)))
    return flat.clip(0, 255).round().astype(np.uint8).reshape(images.shape)


def _by_error(images: np.ndarray, reconstruct: Callable[[], np.ndarray]) -> Reconstructed:
    """Scored by the mean squared error of the reconstruction."""
    pictures, spent = _timed(reconstruct)
    errors = np.square(images.astype(np.float32) - pictures).mean((1, 2))
    return Reconstructed(errors, pictures, 1000 * spent / len(images))


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the seconds it took."""
    begun = time.perf_counter()
    return work(), time.perf_counter() - begun


def mean_auroc(
    scores: Mapping[int, np.ndarray], digits: np.ndarray, other: Mapping[int, np.ndarray] | None = None
) -> dict[str, float]:
    """AUROC averaged over the digits that were normal in turn, or the difference of two ways, with a 95 % interval.

    Args:
        scores: normal digit -> scores (M,) of the same M test digits.
        digits: (M,) which digit each is.
        other: of another way, which is taken from the first.

    Returns:
        `{"mean", "low", "high"}`: percentile bootstrap, 1,000 resamples of the test digits, as many of each kind.

    Examples:
        >>> digits = np.repeat([0, 1], 30)
        >>> mean_auroc({0: digits * 1.0, 1: 1.0 - digits}, digits)["mean"]
        1.0
    """
    weights = np.zeros((1000, len(digits)), np.int64)
    for digit in np.unique(digits):
        rows = np.flatnonzero(digits == digit)
        weights[:, rows] = metrics.resample_weights(np.zeros(len(rows), int), len(weights), seed=int(digit))

    def averaged(scores: Mapping[int, np.ndarray]) -> tuple[float, np.ndarray]:
        aurocs = [metrics.image_auroc(digits != normal, values) for normal, values in scores.items()]
        resampled = [
            metrics.resampled_ranking(digits != normal, values, weights)["image_auroc"]
            for normal, values in scores.items()
        ]
        return float(np.mean(aurocs)), np.mean(resampled, 0)

    mean, resampled = averaged(scores)
    if other is None:
        low, high = metrics.interval(resampled, mean, len(digits))
        return {"mean": mean, "low": low, "high": high}
    second, also = averaged(other)
    return metrics.paired_difference(resampled, also, mean, second, len(digits))
