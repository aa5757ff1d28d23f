"""benchmarks/gan.py: four ways to reconstruct a digit, and the mean over digits that are normal in turn."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mvtec_ad.data import digits
from mvtec_ad.methods.autoencoder import Autoencoder
from mvtec_ad.methods.f_anogan import FAnogan

RNG = np.random.default_rng(0)
DIGITS = np.repeat(np.arange(4), [30, 20, 25, 40])
# the normal digit scores lower; the better way keeps farther apart
BETTER = {normal: RNG.normal(2.0 * (normal != DIGITS), 1) for normal in (0, 2)}
WORSE = {normal: RNG.normal(0.8 * (normal != DIGITS), 1) for normal in (0, 2)}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The benchmark as a module."""
    folder = Path(__file__).parents[2] / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        spec = importlib.util.spec_from_file_location("gan_benchmark", folder / "gan.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def mean_of(scores: dict[int, np.ndarray], rows: np.ndarray) -> float:
    """AUROC of some of the digits, averaged over the normal ones."""
    return float(np.mean([roc_auc_score(DIGITS[rows] != normal, values[rows]) for normal, values in scores.items()]))


@pytest.mark.parametrize("other", [None, WORSE], ids=["mean", "difference"])
def test_the_mean_has_its_bootstrap_interval(script: ModuleType, other: dict[int, np.ndarray] | None) -> None:
    """Digits drawn anew, as many of each kind, the same for both ways; ends to the noise of so many resamples."""
    result, generator, resampled = script.mean_auroc(BETTER, DIGITS, other), np.random.default_rng(5), []
    for number in range(401):
        kinds = [np.flatnonzero(digit == DIGITS) for digit in range(4)]
        rows = np.concatenate([generator.choice(kind, len(kind)) if number else kind for kind in kinds])
        resampled.append(mean_of(BETTER, rows) - (mean_of(other, rows) if other else 0))
    assert result["mean"] == pytest.approx(resampled[0])
    np.testing.assert_allclose([result["low"], result["high"]], np.quantile(resampled[1:], [0.025, 0.975]), atol=0.02)


def test_a_way_does_not_differ_from_itself(script: ModuleType) -> None:
    """And the interval is no point."""
    same = script.mean_auroc(BETTER, DIGITS, BETTER)
    assert same["low"] < same["mean"] == 0 < same["high"]


def test_four_ways_of_reconstruction(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scores every digit: PCA as an SVD gives it, the GANs as they do themselves."""
    monkeypatch.setattr(script, "Autoencoder", partial(Autoencoder, width=4))
    every = digits.load("sklearn")
    ones = digits.Digits(every.of(1).images[:14], np.ones(14, int), "ones")
    test = digits.Digits(every.images[-9:], every.labels[-9:], "some")
    detector = FAnogan.preset("digits", latent=5, width=4, steps=2, encoder_steps=2, search_steps=6)
    detector.fit(script.in_colour(ones.images), seed=3)
    results = script.compare(detector, ones, test, autoencoder_steps=2)
    assert list(results) == ["f_anogan", "anogan", "autoencoder", "pca"]
    assert all(scores.shape == (9,) and np.isfinite(scores).all() and ms > 0 for scores, ms in results.values())
    known, flat = ones.images.reshape(14, -1).astype(np.float64), test.images.reshape(9, -1).astype(np.float64)
    axes = np.linalg.svd(known - known.mean(0), full_matrices=False)[2][:5]
    expected = ((flat - known.mean(0)) @ axes.T @ axes + known.mean(0)).clip(0, 255).reshape(9, 28, 28)
    np.testing.assert_allclose(results["pca"][0], ((test.images - expected.round()) ** 2).mean((1, 2)), rtol=1e-3)
    seen = script.in_colour(test.images)
    assert (seen == test.images[..., None]).all()
    for name, way in {"f_anogan": detector, "anogan": detector.as_search()}.items():
        np.testing.assert_array_equal(results[name][0], way.score(seen).image)
    autoencoder = Autoencoder(image_size=28, crop=28, depth=2, latent=5, loss="mse", steps=2, width=4)
    pictures = autoencoder.fit(script.in_colour(ones.images), seed=3).reconstruct(seen)[..., 0].astype(np.float64)
    np.testing.assert_allclose(results["autoencoder"][0], ((test.images - pictures) ** 2).mean((1, 2)), rtol=1e-5)
