"""Digits as anomalies: one digit is normal, every other one is not, and four ways of redrawing compete."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from sklearn.decomposition import PCA

from mvtec_ad import evaluation
from mvtec_ad.data.digits import Digits
from mvtec_ad.methods import autoencoder
from mvtec_ad.methods.anogan.fitting import fit
from mvtec_ad.methods.anogan.model import Anogan, inverted_by
from mvtec_ad.settings import AnoganSettings, AutoencoderSettings

Result = TypeVar("Result")


@dataclass(frozen=True)
class Redrawn:
    """What one way makes of the test digits.

    Attributes:
        scores: (M,) float32, higher is more anomalous.
        pictures: (M, 28, 28) uint8, as they were redrawn.
        milliseconds: to redraw and score one digit.
    """

    scores: np.ndarray
    pictures: np.ndarray
    milliseconds: float


def fit_on(
    settings: AnoganSettings, digits: Digits, *, checkpoint: Path | None = None, progress: bool = True
) -> Anogan:
    """`anogan.fit` on gray digits: `settings` at 28 pixels, all `digits` are normal."""
    return fit(settings, _colours(digits.images), checkpoint=checkpoint, progress=progress)


def compare(
    model: Anogan, good: Digits, test: Digits, *, autoencoder_steps: int = 600, progress: bool = True
) -> dict[str, Redrawn]:
    """Let every way redraw all test digits.

    AnoGAN searches through the generator and critic of f-AnoGAN, so that the two differ in the way back only.
    Autoencoder and PCA are fitted here, PCA on all good digits, and squeeze a digit into as many numbers as the
    generator draws from.

    Args:
        model: f-AnoGAN fitted on the good digits.
        good: the digits that are normal.
        test: digits, all ten kinds.
        autoencoder_steps: that it trains for at most.
        progress: show a bar of the autoencoder.

    Returns:
        `f_anogan`, `anogan`, `autoencoder` and `pca`.

    Raises:
        SettingsError: the model has no encoder.
    """
    seen, code, seed = _colours(test.images), model.settings.latent, model.seed
    found = {}
    for name, inversion in (("f_anogan", "encoder"), ("anogan", "search")):
        inverting = inverted_by(model, replace(model.settings, inversion=inversion))
        (pictures, scores), spent = _timed(lambda inverting=inverting: inverting.invert(seen))
        found[name] = Redrawn(scores.image, pictures[..., 0], 1000 * spent / len(seen))
    settings = AutoencoderSettings(
        image_size=28, crop=28, halvings=2, latent=code, loss="mse", steps=autoencoder_steps, seeds=(seed,)
    )
    squeezer = autoencoder.fit(settings, _colours(good.images), progress=progress)
    found["autoencoder"] = _by_error(test.images, lambda: squeezer.redraw(seen)[..., 0])
    linear = PCA(min(code, len(good.images)), random_state=seed).fit(good.images.reshape(len(good.images), -1))
    found["pca"] = _by_error(test.images, lambda: _by_components(linear, test.images))
    return found


def _by_components(linear: PCA, images: np.ndarray) -> np.ndarray:
    flat = linear.inverse_transform(linear.transform(images.reshape(len(images), -1)))
    return flat.clip(0, 255).round().astype(np.uint8).reshape(images.shape)


def _by_error(images: np.ndarray, redraw: Callable[[], np.ndarray]) -> Redrawn:
    """Scored by the mean squared error of what is redrawn."""
    pictures, spent = _timed(redraw)
    errors = np.square(images.astype(np.float32) - pictures).mean((1, 2))
    return Redrawn(errors, pictures, 1000 * spent / len(images))


def _colours(images: np.ndarray) -> np.ndarray:
    """(N, S, S) -> (N, S, S, 3), three times the same."""
    return np.repeat(images[..., None], 3, axis=3)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
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
        other: of another way, from which the first is compared.

    Returns:
        `{"mean", "low", "high"}`: percentile bootstrap, 1,000 resamples of the test digits, as many of each kind.
    """
    weights = np.zeros((1000, len(digits)), np.int64)
    for digit in np.unique(digits):
        own = np.flatnonzero(digits == digit)
        weights[:, own] = evaluation.resample_weights(np.zeros(len(own), int), len(weights), seed=int(digit))

    def averaged(scored: Mapping[int, np.ndarray]) -> tuple[float, np.ndarray]:
        found = [
            (
                evaluation.image_auroc(digits != normal, values),
                evaluation.resampled_ranking(digits != normal, values, weights)["image_auroc"],
            )
            for normal, values in scored.items()
        ]
        return float(np.mean([one for one, _ in found])), np.mean([many for _, many in found], 0)

    mean, resampled = averaged(scores)
    if other is None:
        low, high = evaluation.interval(resampled, mean, len(digits))
        return {"mean": mean, "low": low, "high": high}
    second, also = averaged(other)
    return evaluation.paired_difference(resampled, also, mean, second, len(digits))
