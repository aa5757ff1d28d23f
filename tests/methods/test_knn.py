"""DN2 against scikit-learn's nearest neighbours, on features that are pooled by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mvtec_ad.backbones import load_backbone
from mvtec_ad.methods.knn import Knn

RNG = np.random.default_rng(0)
GOOD, TEST = (RNG.integers(0, 256, (count, 32, 32, 3), np.uint8) for count in (9, 4))
SMALL = {"backbone": "resnet18", "weights": "random", "image_size": 32, "crop": 32}


def pooled(images: np.ndarray, depths: tuple[int, ...]) -> np.ndarray:
    """Mean over all positions of each layer, in float64."""
    layers = load_backbone("resnet18", "random")(images)
    return np.concatenate([layers[depth - 1].double().numpy().mean((1, 2)) for depth in depths], 1)


@pytest.mark.parametrize(("depths", "k"), [((2, 3), 2), ((3,), 1), ((1,), 5)])
def test_scores_are_mean_distances_to_the_nearest(depths: tuple[int, ...], k: int) -> None:
    """Of test images to all good ones; of each good image to the others."""
    detector = Knn(**SMALL, layers=depths, neighbours=k).fit(GOOD)
    bank = NearestNeighbors(n_neighbors=k).fit(pooled(GOOD, depths))
    np.testing.assert_allclose(detector.score(TEST).image, bank.kneighbors(pooled(TEST, depths))[0].mean(1), rtol=1e-5)
    np.testing.assert_allclose(detector.good_scores, bank.kneighbors()[0].mean(1), rtol=1e-5)  # without itself


def test_no_map_and_no_draw() -> None:
    """A whole image has one place; and every seed gives the same."""
    one, other = (Knn(**SMALL).fit(GOOD, seed).score(TEST) for seed in (0, 1))
    assert one.maps is None
    np.testing.assert_array_equal(one.image, other.image)


def test_more_neighbours_than_images() -> None:
    """All of them are taken."""
    assert np.isfinite(Knn(**SMALL, neighbours=50).fit(GOOD).score(TEST).image).all()
