"""MuSc against a loop over all pairs of patches, and what a batch can bear."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvtec_ad.backbones import load_backbone
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.musc import musc, mutual_scores, nearest_in_each
from mvtec_ad.methods.subspace_ad import SubspaceAd
from mvtec_ad.metrics import image_auroc

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 32, 32, 3), np.uint8)
LOOKING = SubspaceAd(backbone="resnet18", weights="random", image_size=32, crop=32, layers=(2,), top_share=1 / 16)


def scores_by_loop(features: np.ndarray, share: float) -> np.ndarray:
    """(N, P) of (N, P, C), as the paper says it in words."""
    found = np.empty(features.shape[:2])
    for i, image in enumerate(features):
        for m, patch in enumerate(image):
            others = [np.linalg.norm(other - patch, axis=1).min() for j, other in enumerate(features) if j != i]
            found[i, m] = np.mean(sorted(others)[: max(1, int(share * len(others)))])
    return found


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_patches_are_judged_by_the_other_images(share: float) -> None:
    """By the nearest share of them; an image never by itself."""
    features = torch.from_numpy(RNG.normal(size=(6, 7, 3)))
    found = mutual_scores(nearest_in_each(features), share)
    np.testing.assert_allclose(found, scores_by_loop(features.numpy(), share), rtol=1e-6)


def test_scores_of_images_and_their_order() -> None:
    """The largest of the 16 cells of layer 2, of unit length; another order of the batch gives the same scores."""
    layer = load_backbone("resnet18", "random")(IMAGES)[1].double().numpy().reshape(5, 16, -1)
    expected = scores_by_loop(layer / np.linalg.norm(layer, axis=-1, keepdims=True), 0.5).max(1)
    found = musc(IMAGES, LOOKING, share=0.5)
    np.testing.assert_allclose(found.image, expected, rtol=1e-4)
    assert found.maps.shape == (5, 32, 32)
    np.testing.assert_allclose(musc(IMAGES[::-1], LOOKING, share=0.5).image, expected[::-1], rtol=1e-4)
    both = musc(IMAGES, LOOKING, (1, 3), share=0.5).maps
    np.testing.assert_allclose(both, (found.maps + musc(IMAGES, LOOKING, (3,), share=0.5).maps) / 2, rtol=1e-4)


def test_a_defect_is_found_unless_most_of_the_batch_has_the_same() -> None:
    """Each image is the good one with a little noise; of 20, 4 have a dark square, or 17."""
    good = RNG.integers(80, 176, (32, 32, 3))
    batch = np.clip(good + RNG.normal(0, 4, (20, 32, 32, 3)), 0, 255).astype(np.uint8)
    for count, expected in ((4, 1.0), (17, 0.0)):
        images, labels = batch.copy(), np.arange(20) < count
        images[labels, 8:20, 8:20] = 0
        assert image_auroc(labels, musc(images, LOOKING).image) == expected


def test_what_cannot_be_judged_is_said() -> None:
    """Two images, no degree, no share."""
    with pytest.raises(DataError, match="2 images cannot judge each other: give at least 3"):
        musc(IMAGES[:2], LOOKING)
    for wrong in ({"degrees": ()}, {"share": 0.0}, {"degrees": (2,)}):
        with pytest.raises(SettingsError):
            musc(IMAGES, LOOKING, **wrong)
