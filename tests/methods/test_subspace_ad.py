"""SubspaceAD against scikit-learn's PCA, on features of images that numpy turned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from mvtec_ad.backbones import load_backbone
from mvtec_ad.data import index
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.subspace_ad import SubspaceAd, rotated, second_moments, subspace
from mvtec_ad.metrics import calibrated, image_auroc

RNG = np.random.default_rng(0)
GOOD, TEST = (RNG.integers(0, 256, (count, 32, 32, 3), np.uint8) for count in (4, 3))
SMALL = {"backbone": "resnet18", "weights": "random", "image_size": 32, "crop": 32, "layers": (1,)}


def patches(images: np.ndarray, unit: bool) -> np.ndarray:
    """Layer 1, in float64: (N, 64 cells, 64 channels)."""
    layer = load_backbone("resnet18", "random")(images)[0].double().numpy()
    return (layer / np.linalg.norm(layer, axis=-1, keepdims=True) if unit else layer).reshape(len(images), 64, -1)


def residuals_by_pca(good: np.ndarray, test: np.ndarray, variance: float) -> np.ndarray:
    """Squared distance of (N, P, C) to the subspace of scikit-learn."""
    flat = good.reshape(-1, good.shape[-1])
    pca = PCA(svd_solver="full").fit(flat)
    dimension = np.searchsorted(np.cumsum(pca.explained_variance_ratio_), variance) + 1
    basis = pca.components_[:dimension]
    centred = test - flat.mean(0)
    return np.square(centred - centred @ basis.T @ basis).sum(-1)


@pytest.mark.parametrize(("unit", "variance", "angles"), [(True, 0.9, 4), (False, 0.7, 1), (True, 0.5, 2)])
def test_scores_are_residuals_of_a_pca(unit: bool, variance: float, angles: int) -> None:
    """Of test images to all good ones and their turns, of each good image to the others and theirs."""
    detector = SubspaceAd(**SMALL, unit=unit, variance=variance, rotations=angles, top_share=0.5).fit(GOOD)
    views = np.stack([np.rot90(GOOD, 4 // angles * step, (1, 2)) for step in range(angles)], 1)  # N×angles×S×S×3
    good = np.stack([patches(np.ascontiguousarray(image), unit) for image in views])  # N×angles×P×C

    def scores(known: np.ndarray, images: np.ndarray) -> np.ndarray:
        return np.sort(residuals_by_pca(known, images, variance), 1)[:, 32:].mean(1)  # half of the cells

    np.testing.assert_allclose(detector.score(TEST).image, scores(good, patches(TEST, unit)), rtol=1e-4)
    for number, found in enumerate(detector.good_scores):
        expected = scores(np.delete(good, number, 0), good[number, :1])
        np.testing.assert_allclose(found, expected[0], rtol=1e-4)


def test_one_image_is_enough_for_scores_but_not_for_a_promise() -> None:
    """It has no score without itself; two have."""
    detector = SubspaceAd(**SMALL, rotations=4).fit(GOOD[:1])
    assert detector.good_scores.shape == (0,)
    assert detector.calibration_images(1) == 0
    assert np.isfinite(detector.score(TEST).image).all()
    np.testing.assert_allclose(detector.score(GOOD[:1]).image, 0, atol=0.05)
    restored = SubspaceAd(**SMALL, rotations=4).load_state(detector.state())
    np.testing.assert_array_equal(restored.score(TEST).image, detector.score(TEST).image)
    assert len(SubspaceAd(**SMALL, rotations=4).fit(GOOD[:2]).good_scores) == 2
    with pytest.raises(DataError, match="needs at least 19 good images"):
        calibrated(SubspaceAd(**SMALL).fit(GOOD).good_scores, 0.05)


def test_a_quarter_turn_is_exact_and_others_keep_the_border() -> None:
    """As numpy's, and an image of one colour stays one."""
    for step, copy in enumerate(rotated(GOOD[0], 4)):
        np.testing.assert_array_equal(copy, np.rot90(GOOD[0], step))
    assert len(np.unique(rotated(np.full((9, 9, 3), 7, np.uint8), 5))) == 1
    assert rotated(GOOD[0], 1).shape == (1, 32, 32, 3)


def test_moments_of_parts_add_up_and_can_be_taken_away() -> None:
    """To the mean and the covariance of numpy; patches that are all equal have no subspace."""
    one, other = torch.randn(30, 5), torch.randn(20, 5) + 3
    total = second_moments(one) + second_moments(other)
    mean, complement = subspace((total - second_moments(other)).numpy(), 0.5)
    np.testing.assert_allclose(mean, one.double().mean(0), rtol=1e-5)
    values, vectors = np.linalg.eigh(np.cov(one.double().T.numpy()))
    kept = np.flatnonzero(np.cumsum(values[::-1]) >= 0.5 * values.sum())[0] + 1
    left_out = vectors[:, : 5 - kept]
    np.testing.assert_allclose(complement @ complement.T, left_out @ left_out.T, atol=1e-5)
    assert subspace(second_moments(torch.ones(4, 3)).numpy(), 0.9)[1].shape == (3, 3)


@pytest.mark.parametrize(("options", "words"), [({"layers": ()}, "layers"), ({"neighbourhood": 2}, "no centre")])
def test_what_cannot_be_is_refused(options: dict, words: str) -> None:
    """In one line."""
    with pytest.raises(SettingsError, match=words):
        SubspaceAd(**options)


def test_one_real_bottle_finds_broken_ones(shared: Callable[[str], Path]) -> None:
    """A share of the official test images, with the default network, small."""
    table = index.read_category(shared("data/mvtec_anomaly_detection"), "bottle")
    detector = SubspaceAd(image_size=128, crop=128, rotations=1)
    detector.fit([table.query("split == 'train'")["image_path"].iloc[0]])
    test = table.query("split == 'test'").iloc[::4]
    assert image_auroc(test["label"], detector.score(list(test["image_path"])).image) > 0.9
