"""PatchCore step by step against numpy, scipy and scikit-learn, its coreset against the naive loop, and as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from mvtec_ad.backbones import load_backbone
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods import patchcore
from mvtec_ad.methods.patchcore import Patchcore

TestSet = tuple[np.ndarray, np.ndarray]
SIDE, GOOD, EACH = 64, 8, 5
NEIGHBOURS = 9  # of the published recipe


def small(**options: Any) -> Patchcore:
    """Not fitted yet."""
    default = {"backbone": "resnet18", "weights": "random", "coreset": 0.25, "projection": 32}
    default |= {"image_size": SIDE, "crop": SIDE}
    return Patchcore(**{**default, **options})


@pytest.fixture(scope="module")
def fitted(good: np.ndarray) -> Patchcore:
    """On the good surfaces, seed 0."""
    return small().fit(good)


def features_of(images: np.ndarray) -> torch.Tensor:
    """(B, h, w, C) patch features."""
    return patchcore.patch_features(load_backbone("resnet18", "random")(images), (2, 3), 3)


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
    found = patchcore.patch_features([torch.from_numpy(layer) for layer in layers], chosen, side)
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
    scores, distances = patchcore.measure(patches, bank, bank.square().sum(1), neighbours)
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
    scores, distances = patchcore.measure(patches, bank, bank.square().sum(1), NEIGHBOURS)
    assert torch.isfinite(scores).all()
    assert (scores <= distances.amax(1)).all()
    assert (scores >= distances.amax(1) * (1 - 1 / 2)).all()  # m* is the nearest: its share of the sum is the smallest


def test_left_out_images_meet_the_bank_of_the_others(good: np.ndarray, fitted: Patchcore) -> None:
    """The bank filtered by hand, image by image."""
    features = features_of(good).flatten(1, 2)  # 8×64×384
    bank = fitted.bank.double().numpy()
    origins = fitted.picks // features.shape[1]
    np.testing.assert_array_equal(fitted.bank, features.flatten(0, 1)[fitted.picks])
    expected = [
        score_by_hand(own.double().numpy(), bank[origins != index], NEIGHBOURS) for index, own in enumerate(features)
    ]
    np.testing.assert_allclose(fitted.good_scores, expected, rtol=1e-4)
    assert fitted.good_scores.dtype == np.float32
    assert (fitted.good_scores > fitted.score(good).image).all()


def test_a_bank_of_drawn_patches(good: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 512 patches 100 are drawn; picks still say where a row comes from, and every image calibrates with all of its
    own."""
    monkeypatch.setattr(patchcore, "MOST_PATCHES", 100)
    detector = small().fit(good, seed=3)
    features = features_of(good).flatten(1, 2)  # 8×64×384
    drawn = patchcore.draw_patches(512, 100, 3)
    assert (len(drawn), len(detector.bank)) == (len(set(drawn)), 25)
    assert set(detector.picks) <= set(drawn)
    assert (np.diff(drawn) > 0).all()
    assert len(set(drawn // 64)) == 8
    np.testing.assert_array_equal(detector.bank, features.flatten(0, 1)[detector.picks])
    expected = patchcore.leave_one_out(features, detector.bank, detector.picks // 64, NEIGHBOURS)
    np.testing.assert_array_equal(detector.good_scores, expected)
    assert not np.array_equal(drawn, patchcore.draw_patches(512, 100, 4))
    np.testing.assert_array_equal(patchcore.draw_patches(100, 100, 3), np.arange(100))


def test_scores_equal_their_derivation_by_hand(fitted: Patchcore, test_set: TestSet) -> None:
    """Distances by scipy, enlarged and blurred by scipy for the map; the image score knows nothing of the blur."""
    images = test_set[0][4:6]
    scores = fitted.score(images)
    bank = fitted.bank.double().numpy()
    for index, own in enumerate(features_of(images).flatten(1, 2).double().numpy()):
        assert scores.image[index] == pytest.approx(score_by_hand(own, bank, NEIGHBOURS), rel=1e-4)
        grid = cdist(own, bank).min(1).reshape(8, 8)
        large = ndimage.zoom(grid, 8, order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(scores.maps[index], ndimage.gaussian_filter(large, fitted.sigma), rtol=1e-3)


def test_a_planted_patch_is_found(good: np.ndarray, fitted: Patchcore, test_set: TestSet) -> None:
    """Whichever seed, by image and by pixel."""
    images, masks = test_set
    labels = masks.any((1, 2))
    other = small().fit(good, seed=1)
    for detector in (fitted, other):
        scores = detector.score(images)
        assert roc_auc_score(labels, scores.image) == 1
        assert roc_auc_score(masks.ravel(), scores.maps.ravel()) > 0.9
        assert (scores.image[labels] > detector.good_scores.max()).all()
    assert (fitted.picks != other.picks).any()


def test_a_share_of_one_keeps_all_patches(good: np.ndarray) -> None:
    """Then nothing fitted is anomalous, and leaving one out is leaving its patches out."""
    detector = small(coreset=1.0).fit(good[:4])
    features = features_of(good[:4]).flatten(0, 2)
    np.testing.assert_array_equal(detector.bank, features)
    np.testing.assert_allclose(detector.score(good[:4]).image, 0, atol=1e-4)
    others = score_by_hand(features[:64].double().numpy(), features[64:].double().numpy(), NEIGHBOURS)
    assert detector.good_scores[0] == pytest.approx(others, rel=1e-4)


@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_constant_images_divide_nothing_by_zero(share: float) -> None:
    """Many equal patches, in a bank of one row, of some or of all."""
    images = np.full((3, SIDE, SIDE, 3), 127, np.uint8)
    detector = small(coreset=share)
    detector.fit_seen(detector.parts(images), 3, 0)  # `fit` would take them for one image
    scores = detector.score(images)
    assert np.isfinite(detector.good_scores).all()
    assert np.isfinite(scores.image).all()
    if share == 1:
        np.testing.assert_allclose(scores.image, 0, atol=1e-4)
        np.testing.assert_allclose(detector.good_scores, 0, atol=1e-4)
    else:
        assert len(detector.bank) < 3 * 64 * share + 1  # equal patches fill no bank


def test_layers_of_another_grid_are_refused(fitted: Patchcore) -> None:
    """With a way out."""
    with pytest.raises(SettingsError, match=r"12, 12.* fitted on \(8, 8\): fit again"):
        fitted.score_seen([fitted.look(np.zeros((1, 96, 96, 3), np.uint8))])


# --- the coreset ------------------------------------------------------------------------------------------------------


def clusters(count: int, width: int, seed: int) -> torch.Tensor:
    """Like features: a few kinds of patches of unequal spread and frequency, far from the origin, float32."""
    generator = np.random.default_rng(seed)
    kinds = generator.normal(3, 2, (12, width))
    kind = generator.choice(12, count, p=generator.dirichlet(np.ones(12)))
    spread = generator.gamma(2, 0.3, 12)
    points = kinds[kind] + spread[kind, None] * generator.normal(size=(count, width))
    return torch.from_numpy(points.astype(np.float32))


def naive(points: np.ndarray, number: int, first: int) -> list[int]:
    """Algorithm 1 as it is written: every distance to every pick."""
    picks, distances = [first], np.full(len(points), np.inf)
    while len(picks) < number:
        distances = np.minimum(distances, np.linalg.norm(points - points[picks[-1]], axis=1))
        picks.append(int(distances.argmax()))
    return picks


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("count", "width", "number"), [(1000, 8, 300), (3000, 128, 300), (200, 40, 199), (50, 3, 1)])
def test_picks_equal_those_of_the_naive_loop(count: int, width: int, number: int, seed: int) -> None:
    """In their order; the active sets are much smaller than the points."""
    points = clusters(count, width, seed)
    points -= points.mean(0)
    found = patchcore.greedy(points, number, first=seed)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, naive(points.double().numpy(), number, seed))


@pytest.mark.parametrize(("share", "numbers"), [(4, 1000), (500, 100), (1, 2**22)])
def test_picks_depend_on_neither_active_set_nor_chunks(
    monkeypatch: pytest.MonkeyPatch, share: int, numbers: int
) -> None:
    """Two active points or all of them, products of a few rows or one."""
    points = clusters(1000, 16, 0)
    points -= points.mean(0)
    expected = naive(points.double().numpy(), 150, 7)
    monkeypatch.setattr(patchcore, "ACTIVE_SHARE", share)
    monkeypatch.setattr(patchcore, "ACTIVE_LEAST", 2)
    monkeypatch.setattr(patchcore, "CHUNK_NUMBERS", numbers)
    np.testing.assert_array_equal(patchcore.greedy(points, 150, 7), expected)


def test_a_far_outlier_hides_nobody() -> None:
    """It makes the products of all others coarse; the others are still covered as well."""
    points = clusters(600, 16, 3)
    points[100] += 3000
    found = patchcore.greedy(points - points.mean(0), 2, 0)
    np.testing.assert_array_equal(found, [0, 100])
    found = patchcore.greedy(points - points.mean(0), 60, 0)
    distances = cdist(points.double(), points[found].double()).min(1)
    assert distances.max() <= 1.01 * cdist(points.double(), points[naive(points.double().numpy(), 60, 0)]).min(1).max()


@pytest.mark.parametrize("width", [6, 200])
@pytest.mark.parametrize("count", [1, 40])
def test_duplicates_are_picked_once(width: int, count: int) -> None:
    """Distinct points, each many times: one pick of each; the bank is smaller than asked for, unless all are."""
    distinct = clusters(count, width, 0)
    points = distinct[torch.from_numpy(np.random.default_rng(0).permutation(1000) % count)]
    picks = patchcore.select(points, 100, projection=64)
    assert len(picks) == count
    assert len(np.unique(points[picks].numpy(), axis=0)) == count
    assert len(patchcore.select(torch.full((500, width), 1 / 3), 50, projection=64)) == 1
    np.testing.assert_array_equal(patchcore.select(points, 1000), np.arange(1000))


def test_ties_are_filled_evenly() -> None:
    """Points of a line, of which many are equally far: 5 picks of 0 … 16 leave none farther than 2."""
    points = torch.arange(17.0)[:, None] - 8
    picks = patchcore.greedy(points, 5, 0)
    assert sorted(picks) == [0, 4, 8, 12, 16]


def test_the_seed_decides() -> None:
    """Over the first pick and the projection; distinct indices within range."""
    points = clusters(400, 150, 1)
    one, again, other = (patchcore.select(points, 40, projection=20, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert len(np.unique(one)) == 40
    assert 0 <= one.min() <= one.max() < 400


def test_the_projection_keeps_distances() -> None:
    """Squared ratios scatter around 1 with variance 2/d (Johnson, Lindenstrauss); narrow features stay exact."""
    points = clusters(60, 500, 0)
    before = pdist(points)
    draws = [patchcore.project(points, 200, np.random.default_rng(seed)) for seed in range(20)]
    assert draws[0].shape == (60, 200)
    ratios = np.stack([(pdist(draw) / before) ** 2 for draw in draws])
    assert ratios.mean() == pytest.approx(1, abs=0.05)
    assert ratios.std(0).mean() == pytest.approx(np.sqrt(2 / 200), rel=0.2)
    kept = patchcore.project(points, 500, np.random.default_rng(0))
    np.testing.assert_allclose(kept, points - points.mean(0), rtol=1e-6)
    np.testing.assert_allclose(kept.mean(0), 0, atol=1e-5)


def test_the_number_of_threads_is_given_back() -> None:
    """The picking takes one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        patchcore.select(clusters(100, 4, 0), 10)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
