"""PatchCore step by step against numpy, scipy and scikit-learn, and as a whole on a surface with a planted patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from mvtec_ad.backbones import load_backbone
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import patchcore
from mvtec_ad.settings import PatchcoreSettings

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE = 64
SMALL = PatchcoreSettings(weights="random", coreset=0.25, projection=32, seeds=(0, 1), image_size=SIDE, crop=SIDE)


@pytest.fixture(scope="module")
def good(draw: Draw) -> np.ndarray:
    """(8, SIDE, SIDE, 3) good surfaces."""
    generator = np.random.default_rng(0)
    return np.stack([draw(generator, SIDE, False)[0] for _ in range(8)])


@pytest.fixture(scope="module")
def test_set(draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Five good and five defective surfaces, in that order, and their masks."""
    generator = np.random.default_rng(1)
    images, masks = zip(*[draw(generator, SIDE, index >= 5) for index in range(10)], strict=True)
    return np.stack(images), np.stack(masks)


@pytest.fixture(scope="module")
def model(good: np.ndarray) -> patchcore.Patchcore:
    """Fitted on the good surfaces."""
    return patchcore.fit(SMALL, good, progress=False)


def features_of(images: np.ndarray, settings: PatchcoreSettings = SMALL) -> torch.Tensor:
    """(B, h, w, C) patch features."""
    return patchcore.patch_features(load_backbone("resnet18", "random")(images), settings)


def score_by_hand(patches: np.ndarray, bank: np.ndarray, neighbours: int) -> float:
    """Eq. 6 and 7 for one image, patch by patch; (P, C) and (M, C)."""
    largest, patch, centre = -1.0, None, None
    for one in patches:
        distances = [float(np.linalg.norm(one - row)) for row in bank]
        if min(distances) > largest:
            largest, patch, centre = min(distances), one, int(np.argmin(distances))
    if min(neighbours, len(bank)) < 2:
        return largest
    _, around = NearestNeighbors(n_neighbors=min(neighbours, len(bank))).fit(bank).kneighbors(bank[centre : centre + 1])
    total = sum(np.exp(np.linalg.norm(patch - bank[row])) for row in around[0])
    return (1 - np.exp(largest) / total) * largest


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("chosen", [(2,), (1, 3), (3, 2), (1, 2, 3)])
def test_patch_features_equal_a_loop(side: int, chosen: tuple[int, ...]) -> None:
    """Averages with zeros around, cell by cell, then scipy's linear enlargement."""
    generator = np.random.default_rng(0)
    layers = [generator.normal(size=(2, 12 >> depth, 8 >> depth, 3 + depth)).astype(np.float32) for depth in range(3)]
    expected = []
    for depth in sorted(chosen):
        layer = layers[depth - 1]
        padded = np.pad(layer, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
        pooled = np.zeros_like(layer)
        for row in range(layer.shape[1]):
            for column in range(layer.shape[2]):
                pooled[:, row, column] = padded[:, row : row + side, column : column + side].mean((1, 2))
        factor = 2 ** (depth - min(chosen))
        expected.append(ndimage.zoom(pooled, (1, factor, factor, 1), order=1, mode="nearest", grid_mode=True))
    settings = replace(SMALL, layers=chosen, neighbourhood=side)
    found = patchcore.patch_features([torch.from_numpy(layer) for layer in layers], settings)
    np.testing.assert_allclose(found, np.concatenate(expected, -1), atol=1e-5)


@pytest.mark.parametrize("memory_gb", [1.0, 1e-6, 1e-12])
def test_nearest_neighbours_equal_those_of_scipy(memory_gb: float) -> None:
    """All at once, a few at a time (4 of 1000 numbers are 1e-6 GB / 4), one at a time; far from the origin."""
    generator = np.random.default_rng(0)
    patches, bank = (generator.normal(5, 1, (count, 40)).astype(np.float32) for count in (37, 60))
    patches[3] = bank[7]
    bank_ = torch.from_numpy(bank)
    distances, rows = patchcore.nearest(torch.from_numpy(patches), bank_, bank_.square().sum(1), memory_gb)
    expected = cdist(patches, bank)
    np.testing.assert_array_equal(rows, expected.argmin(1))
    np.testing.assert_allclose(distances, expected.min(1), rtol=1e-5)
    assert distances[3] == 0


@pytest.mark.parametrize(("neighbours", "size"), [(9, 30), (2, 30), (1, 30), (0, 30), (9, 4), (9, 1)])
def test_image_scores_equal_a_loop(neighbours: int, size: int) -> None:
    """Eq. 6 and 7, also where the bank has fewer rows than b, or b is none."""
    generator = np.random.default_rng(neighbours + size)
    patches, bank = (
        torch.from_numpy(generator.normal(size=shape).astype(np.float32)) for shape in ((3, 20, 6), (size, 6))
    )
    settings = replace(SMALL, neighbours=neighbours)
    scores, distances = patchcore.measure(patches, bank, bank.square().sum(1), settings)
    expected = [score_by_hand(one, bank.numpy().astype(np.float64), neighbours) for one in patches.double().numpy()]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    np.testing.assert_allclose(distances, [cdist(one, bank).min(1) for one in patches], rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_the_reweighting_survives_any_magnitude(scale: float) -> None:
    """Neither overflow nor division by zero: exp(10⁵) has no float."""
    generator = np.random.default_rng(0)
    patches, bank = (
        torch.from_numpy((scale * generator.normal(size=shape)).astype(np.float32)) for shape in ((4, 5, 6), (30, 6))
    )
    scores, distances = patchcore.measure(patches, bank, bank.square().sum(1), SMALL)
    assert torch.isfinite(scores).all()
    assert (scores <= distances.amax(1)).all()
    assert (scores >= distances.amax(1) * (1 - 1 / 2)).all()  # m* is the nearest: its share of the sum is the smallest


def test_left_out_images_meet_the_bank_of_the_others(good: np.ndarray, model: patchcore.Patchcore) -> None:
    """The bank filtered by hand, image by image."""
    features = features_of(good).flatten(1, 2)  # 8×64×384
    bank = model.bank.double().numpy()
    origins = model.picks // features.shape[1]
    np.testing.assert_array_equal(model.bank, features.flatten(0, 1)[model.picks])
    expected = [
        score_by_hand(own.double().numpy(), bank[origins != index], SMALL.neighbours)
        for index, own in enumerate(features)
    ]
    np.testing.assert_allclose(model.good_scores, expected, rtol=1e-4)
    assert model.good_scores.dtype == np.float32
    assert (model.good_scores > model.score(good).image).all()


def test_scores_equal_their_derivation_by_hand(
    model: patchcore.Patchcore, test_set: tuple[np.ndarray, np.ndarray]
) -> None:
    """Distances by scipy, enlarged and blurred by scipy for the map; the image score knows nothing of the blur."""
    images = test_set[0][4:6]
    scores = model.score(images)
    bank = model.bank.double().numpy()
    for index, own in enumerate(features_of(images).flatten(1, 2).double().numpy()):
        assert scores.image[index] == pytest.approx(score_by_hand(own, bank, SMALL.neighbours), rel=1e-4)
        grid = cdist(own, bank).min(1).reshape(8, 8)
        large = ndimage.zoom(grid, 8, order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(scores.maps[index], ndimage.gaussian_filter(large, SMALL.sigma), rtol=1e-3)


def test_a_planted_patch_is_found(good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray]) -> None:
    """Both seeds, image and pixels, and the trials hold what the models say."""
    images, masks = test_set
    trials = list(patchcore.fit_and_score(SMALL, good, images, progress=False))
    assert [trial.seed for trial in trials] == [0, 1]
    labels = masks.any((1, 2))
    for trial in trials:
        assert roc_auc_score(labels, trial.scores.image) == 1
        assert roc_auc_score(masks.ravel(), trial.scores.maps.ravel()) > 0.9
        assert (trial.scores.image[labels] > trial.good_scores.max()).all()
        np.testing.assert_array_equal(trial.good_scores, trial.model.good_scores)
        assert trial.scores.image.dtype == trial.scores.maps.dtype == np.float32
        assert trial.scores.maps.shape == masks.shape
    assert (trials[0].model.picks != trials[1].model.picks).any()


def test_fitting_again_gives_the_same(
    good: np.ndarray, model: patchcore.Patchcore, test_set: tuple[np.ndarray, np.ndarray]
) -> None:
    """`fit` takes the first seed, whatever random state the process is in."""
    torch.manual_seed(5)
    np.random.seed(5)
    again = patchcore.fit(replace(SMALL, seeds=(0,)), good, progress=False)
    np.testing.assert_array_equal(again.picks, model.picks)
    np.testing.assert_array_equal(again.good_scores, model.good_scores)
    np.testing.assert_array_equal(again.score(test_set[0]).image, model.score(test_set[0]).image)


def test_a_packed_model_scores_the_same(model: patchcore.Patchcore, test_set: tuple[np.ndarray, np.ndarray]) -> None:
    """To the bit."""
    description, arrays = patchcore.pack(model)
    arrays = {name: array.copy() for name, array in arrays.items()} | {"good_scores": model.good_scores}
    again = patchcore.unpack(SMALL, model.seed, {**description, "other": 1}, arrays, model.backbone)
    before, after = (one.score(test_set[0]) for one in (model, again))
    np.testing.assert_array_equal(before.image, after.image)
    np.testing.assert_array_equal(before.maps, after.maps)
    np.testing.assert_array_equal(model.good_scores, again.good_scores)
    assert again.grid == model.grid == (8, 8)
    assert again.seed == model.seed


def test_a_share_of_one_keeps_all_patches(good: np.ndarray) -> None:
    """Then nothing fitted is anomalous, and leaving one out is leaving its patches out."""
    model = patchcore.fit(replace(SMALL, coreset=1.0), good[:4], progress=False)
    features = features_of(good[:4]).flatten(0, 2)
    np.testing.assert_array_equal(model.bank, features)
    np.testing.assert_allclose(model.score(good[:4]).image, 0, atol=1e-4)
    others = score_by_hand(features[:64].double().numpy(), features[64:].double().numpy(), SMALL.neighbours)
    assert model.good_scores[0] == pytest.approx(others, rel=1e-4)


@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_constant_images_divide_nothing_by_zero(share: float) -> None:
    """Many equal patches, in a bank of one row, of some or of all."""
    images = np.full((3, SIDE, SIDE, 3), 127, np.uint8)
    model = patchcore.fit(replace(SMALL, coreset=share), images, progress=False)
    scores = model.score(images)
    assert np.isfinite(model.good_scores).all()
    assert np.isfinite(scores.image).all()
    if share == 1:
        np.testing.assert_allclose(scores.image, 0, atol=1e-4)
        np.testing.assert_allclose(model.good_scores, 0, atol=1e-4)
    else:
        assert len(model.bank) < 3 * 64 * share + 1  # equal patches fill no bank


def test_images_of_another_size_are_refused(model: patchcore.Patchcore) -> None:
    """With a way out."""
    with pytest.raises(SettingsError, match="96×96, not the size the model was fitted on: resize"):
        model.score(np.zeros((1, 96, 96, 3), np.uint8))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_images_are_refused(good: np.ndarray, count: int) -> None:
    """The message says how many are needed."""
    with pytest.raises(DataError, match=f"{count} good images are too few .* at least 3"):
        patchcore.fit(SMALL, good[:count], progress=False)
