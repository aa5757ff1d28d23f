"""Both shapes of the algebra against scipy and against refitting, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from mvtec_ad.errors import DataError
from mvtec_ad.methods.padim import gaussians

RIDGE = 0.01
# (positions, images, dimension): direct, square, dual, just dual, more positions than one chunk holds
SHAPES = [(3, 40, 10), (2, 12, 12), (3, 9, 30), (2, 10, 11), (70, 6, 8)]


def features(positions: int, count: int, dimension: int, seed: int) -> torch.Tensor:
    """Correlated float32 features with a mean of their own, of the size of a network's."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(0, 0.1, (positions, dimension, dimension))
    mean = np.random.default_rng(98).normal(0.5, 0.2, (positions, 1, dimension))
    return torch.tensor(generator.normal(size=(positions, count, dimension)) @ mixing + mean, dtype=torch.float32)


def reference(fitted: np.ndarray, judged: np.ndarray, ridge: float) -> np.ndarray:
    """Distances of one position by scipy, from eq. 1 and 2 as they are written; all float64."""
    fitted, judged = fitted.astype(np.float64), judged.astype(np.float64)
    mean = fitted.mean(0)
    covariance = np.cov(fitted, rowvar=False) + ridge * np.eye(fitted.shape[1])
    inverse = np.linalg.inv(covariance)
    return np.array([mahalanobis(one, mean, inverse) for one in judged])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_distances_equal_scipy_on_held_out_features(shape: tuple[int, int, int]) -> None:
    """To 1e-4, relative, at every position."""
    fitted, held_out = features(*shape, seed=0), features(shape[0], 7, shape[2], seed=1)
    model = gaussians.fit(fitted, RIDGE)
    assert model.dual == (shape[1] < shape[2])
    found = model.distance(held_out).numpy()
    assert found.dtype == np.float32
    for position in range(shape[0]):
        expected = reference(fitted[position].numpy(), held_out[position].numpy(), RIDGE)
        np.testing.assert_allclose(found[position], expected, rtol=1e-4)


@pytest.mark.parametrize("ridge", [1e-3, 0.01, 1.0])
def test_the_dual_equals_the_direct_shape(ridge: float) -> None:
    """The same features, N < d, through an explicit inverse of the d × d covariance."""
    fitted, held_out = features(4, 20, 50, seed=2), features(4, 9, 50, seed=3)
    dual = gaussians.fit(fitted, ridge)
    assert dual.dual
    centred = fitted - fitted.mean(1, keepdim=True)
    factor = gaussians._factor(centred, gaussians._scatter(centred, False), ridge, False)
    direct = gaussians.PositionGaussians(fitted.mean(1), factor, ridge, dual=False)
    np.testing.assert_allclose(dual.distance(held_out), direct.distance(held_out), rtol=1e-4)
    for position in range(4):
        expected = reference(fitted[position].numpy(), held_out[position].numpy(), ridge)
        np.testing.assert_allclose(dual.distance(held_out)[position], expected, rtol=1e-4)


def test_wide_features_keep_their_digits() -> None:
    """The shape of the paper's larger network: 209 images, 550 channels."""
    fitted, held_out = features(2, 209, 550, seed=4), features(2, 5, 550, seed=5)
    found = gaussians.fit(fitted, RIDGE).distance(held_out)
    for position in range(2):
        expected = reference(fitted[position].numpy(), held_out[position].numpy(), RIDGE)
        np.testing.assert_allclose(found[position], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "shape", [(2, 30, 8), (2, 8, 30), (70, 5, 4), (2, 12, 12), (2, 3, 2), (2, 3, 9), (2, 20, 64)], ids=str
)
def test_leaving_one_out_equals_refitting(shape: tuple[int, int, int]) -> None:
    """Each image against the Gaussian of all the others, fitted anew by scipy."""
    fitted = features(*shape, seed=6)
    fitted *= (0.0094 / fitted.var(1).mean()) ** 0.5  # the variance that a ridge of 0.01 is meant beside
    found = gaussians.leave_one_out(fitted, RIDGE).numpy()
    assert found.shape == shape[:2]
    for position in range(0, shape[0], 13):
        for image in range(shape[1]):
            rest = np.delete(fitted[position].numpy(), image, axis=0)
            (expected,) = reference(rest, fitted[position, [image]].numpy(), RIDGE)
            assert found[position, image] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 30, 8), (2, 8, 30)], ids=["direct", "dual"])
def test_an_outlier_among_the_good_is_seen_only_when_left_out(shape: tuple[int, int, int]) -> None:
    """Which is why thresholds come from left-out scores."""
    fitted = features(*shape, seed=7)
    fitted[:, 3] += 2
    held_out = gaussians.leave_one_out(fitted, RIDGE)
    inside = gaussians.fit(fitted, RIDGE).distance(fitted)
    assert (held_out.argmax(1) == 3).all()
    assert (held_out[:, 3] > 3 * inside[:, 3]).all()


@pytest.mark.parametrize("shape", [(70, 12, 9), (70, 6, 9)], ids=["direct", "dual"])
def test_one_pass_gives_both_and_the_dual_reuses_the_memory(shape: tuple[int, int, int]) -> None:
    """The same numbers as the two functions alone; in the dual shape the features are gone, to save memory."""
    fitted, tested = features(*shape, seed=8), features(70, 2, 9, seed=9)
    expected_left_out = gaussians.leave_one_out(fitted.clone(), RIDGE)
    expected = gaussians.fit(fitted.clone(), RIDGE).distance(tested)
    held_out, model = gaussians.leave_one_out_and_fit(fitted, RIDGE)
    assert torch.equal(held_out, expected_left_out)
    assert torch.equal(model.distance(tested), expected)
    assert (model.factor.data_ptr() == fitted.data_ptr()) == model.dual


@pytest.mark.parametrize("count", [12, 4], ids=["direct", "dual"])
def test_features_that_never_vary_do_not_divide_by_zero(count: int) -> None:
    """The covariance is the ridge alone: the distance is ‖δ‖ / √ε, and 0 to the images themselves."""
    fitted = torch.full((2, count, 6), 0.75)
    step = torch.tensor([0.3, 0, 0, 0.4, 0, 0])
    found = gaussians.fit(fitted, RIDGE).distance(fitted[:, :1] + step)
    np.testing.assert_allclose(found, 0.5 / np.sqrt(RIDGE), rtol=1e-5)
    np.testing.assert_allclose(gaussians.leave_one_out(fitted, RIDGE), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "count", "least"), [(gaussians.fit, 1, 2), (gaussians.leave_one_out, 2, 3), (gaussians.fit, 0, 2)]
)
def test_too_few_images_are_refused(call: object, count: int, least: int) -> None:
    """The message says how many it takes."""
    with pytest.raises(DataError, match=f"^{count} good .*at least {least}"):
        call(torch.zeros(2, count, 4), RIDGE)
