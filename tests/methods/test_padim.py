"""PaDiM step by step against numpy and scipy, its algebra in float64, and as a whole on a surface with a patch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import mahalanobis
from sklearn.metrics import roc_auc_score

from mvtec_ad.backbones import Backbone
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import padim
from mvtec_ad.methods.padim import Padim

TestSet = tuple[np.ndarray, np.ndarray]
SIDE, GOOD, EACH = 32, 20, 6
RIDGE = 0.01


def numbers(images: np.ndarray) -> list[np.ndarray]:
    """Three layers computed by numpy alone: mean and spread of the colours in blocks of 4, 8 and 16 pixels."""
    layers = []
    for stride in (4, 8, 16):
        blocks = images.reshape(len(images), images.shape[1] // stride, stride, images.shape[2] // stride, stride, 3)
        blocks = blocks.astype(np.float32) / 255
        layers.append(np.concatenate([blocks.mean((2, 4)), blocks.std((2, 4))], -1))
    return layers


def backbone_of(forward: Callable[[np.ndarray], list[torch.Tensor]], raw: bool = True) -> Backbone:
    """A Backbone around any function."""
    return Backbone("numbers", "none", raw, forward)


NUMBERS = backbone_of(lambda images: [torch.from_numpy(layer) for layer in numbers(images)])


def small(backbone: Backbone = NUMBERS, **options: Any) -> Padim:
    """Not fitted yet, on a given network."""
    detector = Padim(**{"channels": 6, "image_size": SIDE, "crop": SIDE, "sigma": 1.0, **options})
    detector.use_backbone(backbone)
    return detector


@pytest.fixture(scope="module")
def fitted(good: np.ndarray) -> Padim:
    """On the good surfaces."""
    return small().fit(good)


# --- channels and embedding -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "number"), [(448, 100), (18, 18), (10, 1)])
def test_channel_draws(total: int, number: int) -> None:
    """Sorted, without repetition, within range; the seed decides."""
    drawn = padim.draw_channels(total, number, seed=0)
    assert drawn.dtype == np.int64
    assert drawn.shape == (number,)
    assert (np.diff(drawn) > 0).all()
    assert 0 <= drawn.min() <= drawn.max() < total
    np.testing.assert_array_equal(drawn, padim.draw_channels(total, number, seed=0))
    if 1 < number < total:
        assert (drawn != padim.draw_channels(total, number, seed=1)).any()


def test_every_channel_is_drawn_as_often() -> None:
    """448 channels, 100 at a time, 400 seeds: 89 draws each are expected."""
    counts = np.bincount(np.concatenate([padim.draw_channels(448, 100, seed) for seed in range(400)]), minlength=448)
    assert counts.sum() == 40_000
    spread = np.sqrt(400 * 100 / 448 * (1 - 100 / 448))
    assert np.abs(counts - 400 * 100 / 448).max() < 5 * spread


def test_more_channels_than_there_are(good: np.ndarray) -> None:
    """A draw is refused in words; a preset of 100 channels takes all that a small network has."""
    with pytest.raises(SettingsError, match="101 channels asked for, the backbone has 100"):
        padim.draw_channels(100, 101, 0)
    np.testing.assert_array_equal(small(channels=100).fit(good[:4]).indices, np.arange(18))


LAYERS = [
    np.random.default_rng(depth).normal(size=(3, 16 >> depth, 8 >> depth, channels)).astype(np.float32)
    for depth, channels in enumerate((4, 6, 10))
]


@pytest.mark.parametrize(
    "channels", [list(range(20)), [0, 3, 4, 9, 10, 19], [1, 2], [5], [12, 13, 19]], ids=lambda value: f"{len(value)}"
)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_selecting_before_enlarging_equals_the_other_way_round(channels: list[int], interpolation: str) -> None:
    """Against numpy and scipy: enlarge whole layers, concatenate, then select."""
    large = []
    for depth, layer in enumerate(LAYERS):
        if interpolation == "nearest":
            large.append(layer.repeat(2**depth, 1).repeat(2**depth, 2))
        else:
            zoom = (1, 2**depth, 2**depth, 1)
            large.append(ndimage.zoom(layer, zoom, order=1, mode="nearest", grid_mode=True))
    expected = np.concatenate(large, -1)[..., channels]  # 3×16×8×d
    detector = small(interpolation=interpolation)
    detector.indices = np.array(channels)
    found = detector.embed([torch.from_numpy(layer) for layer in LAYERS])
    assert found.shape == (128, 3, len(channels))
    np.testing.assert_allclose(found.numpy(), expected.reshape(3, 128, -1).transpose(1, 0, 2), atol=1e-5)


# --- the algebra ------------------------------------------------------------------------------------------------------


def features(positions: int, count: int, dimension: int, seed: int) -> torch.Tensor:
    """Correlated float32 features with a mean of their own, of the size of a network's."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(0, 0.1, (positions, dimension, dimension))
    mean = np.random.default_rng(98).normal(0.5, 0.2, (positions, 1, dimension))
    return torch.tensor(generator.normal(size=(positions, count, dimension)) @ mixing + mean, dtype=torch.float32)


def reference(given: torch.Tensor, judged: torch.Tensor, ridge: float) -> np.ndarray:
    """Distances of one position by scipy, from eq. 1 and 2 as they are written; all float64."""
    given, judged = given.double().numpy(), judged.double().numpy()
    inverse = np.linalg.inv(np.cov(given, rowvar=False) + ridge * np.eye(given.shape[1]))
    return np.array([mahalanobis(one, given.mean(0), inverse) for one in judged])


# positions, images, dimension: direct, square, dual, just dual, more positions than a chunk, the paper's larger network
SHAPES = [(3, 40, 10), (2, 12, 12), (3, 9, 30), (2, 10, 11), (70, 6, 8), (2, 209, 550)]


@pytest.mark.parametrize("ridge", [1e-3, RIDGE, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_distances_equal_scipy_on_held_out_features(shape: tuple[int, int, int], ridge: float) -> None:
    """To 1e-4, relative, at every position, through whichever shape."""
    given, held_out = features(*shape, seed=0), features(shape[0], 7, shape[2], seed=1)
    gaussians = padim.fit_gaussians(given, ridge)
    assert gaussians.dual == (shape[1] < shape[2])
    found = gaussians.distance(held_out).numpy()
    assert found.dtype == np.float32
    for position in range(shape[0]):
        np.testing.assert_allclose(found[position], reference(given[position], held_out[position], ridge), rtol=1e-4)


@pytest.mark.parametrize(
    "shape", [(2, 30, 8), (2, 8, 30), (70, 5, 4), (2, 12, 12), (2, 3, 2), (2, 3, 9), (2, 20, 64)], ids=str
)
def test_leaving_one_out_equals_refitting(shape: tuple[int, int, int]) -> None:
    """Each image against the Gaussian of all the others, fitted anew by scipy."""
    given = features(*shape, seed=6)
    given *= (padim.REFERENCE_VARIANCE / given.var(1).mean()) ** 0.5  # what a ridge of 0.01 is meant beside
    found = padim.leave_one_out(given, RIDGE).numpy()
    assert found.shape == shape[:2]
    for position in range(0, shape[0], 13):
        for image in range(shape[1]):
            rest = torch.cat([given[position, :image], given[position, image + 1 :]])
            (expected,) = reference(rest, given[position, [image]], RIDGE)
            assert found[position, image] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shape", [(70, 12, 9), (70, 6, 9)], ids=["direct", "dual"])
def test_one_pass_gives_both(shape: tuple[int, int, int]) -> None:
    """The same numbers as the two functions alone; the features stay as they are."""
    given, tested = features(*shape, seed=8), features(70, 2, 9, seed=9)
    before = given.clone()
    expected_left_out = padim.leave_one_out(given, RIDGE)
    expected = padim.fit_gaussians(given, RIDGE).distance(tested)
    held_out, gaussians = padim.leave_one_out_and_fit(given.shape, given.__getitem__, RIDGE)
    assert torch.equal(given, before)
    assert torch.equal(held_out, expected_left_out)
    assert torch.equal(gaussians.distance(tested), expected)


@pytest.mark.parametrize("count", [12, 4], ids=["direct", "dual"])
def test_features_that_never_vary_do_not_divide_by_zero(count: int) -> None:
    """The covariance is the ridge alone: the distance is ‖δ‖ / √ε, and 0 to the images themselves."""
    given = torch.full((2, count, 6), 0.75)
    step = torch.tensor([0.3, 0, 0, 0.4, 0, 0])
    found = padim.fit_gaussians(given, RIDGE).distance(given[:, :1] + step)
    np.testing.assert_allclose(found, 0.5 / np.sqrt(RIDGE), rtol=1e-5)
    np.testing.assert_allclose(padim.leave_one_out(given, RIDGE), 0, atol=1e-6)
    assert padim.measured_scale(given.shape, given.__getitem__) == 1


@pytest.mark.parametrize(
    ("call", "count", "least"), [(padim.fit_gaussians, 1, 2), (padim.leave_one_out, 2, 3), (padim.fit_gaussians, 0, 2)]
)
def test_too_few_features_are_refused(call: Callable[..., Any], count: int, least: int) -> None:
    """The message says how many it takes."""
    with pytest.raises(DataError, match=f"^{count} good .*at least {least}"):
        call(torch.zeros(2, count, 4), RIDGE)


# --- as a whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [6, 18], ids=["direct", "dual"])
def test_a_map_equals_its_derivation_by_hand(good: np.ndarray, test_set: TestSet, channels: int) -> None:
    """Concatenate, Mahalanobis by scipy per position, enlarge, blur, maximum."""
    given = good if channels == 6 else good[:10]
    detector = small(channels=channels).fit(given)
    assert detector.gaussians.dual == (channels == 18)
    scores = detector.score(test_set[0][5:7])

    def embedding(images: np.ndarray) -> np.ndarray:
        large = [layer.repeat(2**depth, 1).repeat(2**depth, 2) for depth, layer in enumerate(numbers(images))]
        return np.concatenate(large, -1)[..., detector.indices].astype(np.float64)

    train, judged = embedding(given), embedding(test_set[0][5:7])
    for image in range(2):
        grid = np.empty((8, 8))
        for row, column in np.ndindex(8, 8):
            position = train[:, row, column]
            inverse = np.linalg.inv(np.cov(position, rowvar=False) + detector.ridge * np.eye(channels))
            grid[row, column] = mahalanobis(judged[image, row, column], position.mean(0), inverse)
        expected = ndimage.zoom(grid, 4, order=1, mode="nearest", grid_mode=True)
        expected = ndimage.gaussian_filter(expected, detector.sigma)
        np.testing.assert_allclose(scores.maps[image], expected, rtol=1e-3)
        assert scores.image[image] == scores.maps[image].max()


def test_good_scores_are_those_of_images_left_out(good: np.ndarray, fitted: Padim) -> None:
    """Each equals the score of that image by a detector fitted on all the others."""
    assert fitted.good_scores.shape == (20,)
    for image in (0, 7, 19):
        expected = small().fit(np.delete(good, image, axis=0)).score(good[[image]]).image[0]
        assert fitted.good_scores[image] == pytest.approx(expected, rel=1e-3)


def test_a_planted_patch_is_found(fitted: Padim, test_set: TestSet) -> None:
    """Every defective image above every good one, and the peak of its map inside the patch."""
    images, masks = test_set
    scores = fitted.score(images)
    assert roc_auc_score(np.repeat([0, 1], 6), scores.image) == 1
    for one, mask in zip(scores.maps[6:], masks[6:], strict=True):
        assert mask[np.unravel_index(one.argmax(), one.shape)]


def test_keras_and_torch_take_equal_features_to_equal_distances(good: np.ndarray, test_set: TestSet) -> None:
    """Channels-last tensors of TensorFlow, and the transposed channels-first ones of torch."""
    tf = pytest.importorskip("tensorflow")

    def from_keras(images: np.ndarray) -> list[torch.Tensor]:
        return [torch.from_numpy(tf.constant(layer).numpy()) for layer in numbers(images)]

    def from_torch(images: np.ndarray) -> list[torch.Tensor]:
        first = [torch.from_numpy(np.ascontiguousarray(layer.transpose(0, 3, 1, 2))) for layer in numbers(images)]
        return [layer.permute(0, 2, 3, 1) for layer in first]

    for more in ({}, {"channels": 18, "interpolation": "bilinear"}):
        one, other = (small(backbone_of(forward), **more).fit(good[:15]) for forward in (from_keras, from_torch))
        np.testing.assert_allclose(one.good_scores, other.good_scores, rtol=1e-6)
        np.testing.assert_allclose(one.score(test_set[0]).maps, other.score(test_set[0]).maps, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e4])
def test_features_of_any_size_give_the_same_scores(good: np.ndarray, test_set: TestSet, factor: float) -> None:
    """Where the network is none of the published ones, one stored scalar brings its features to the ridge's scale."""

    def scaled(by: float) -> Padim:
        def forward(images: np.ndarray) -> list[torch.Tensor]:
            return [torch.from_numpy(layer * np.float32(by)) for layer in numbers(images)]

        return small(backbone_of(forward, raw=False)).fit(good)

    plain, detector = scaled(1.0), scaled(factor)
    assert detector.scale == pytest.approx(plain.scale / factor, rel=1e-4)
    np.testing.assert_allclose(detector.score(test_set[0]).image, plain.score(test_set[0]).image, rtol=1e-3)


def test_the_scale_is_what_it_says(good: np.ndarray, fitted: Padim) -> None:
    """Afterwards the mean variance is the reference; published recipes stay raw; a given scale is taken."""
    measured = small(backbone_of(NUMBERS.forward, raw=False)).fit(good)
    embedded = measured.embed(NUMBERS(good)).numpy().astype(np.float64) * measured.scale
    assert embedded.var(1, ddof=1).mean() == pytest.approx(padim.REFERENCE_VARIANCE, rel=1e-4)
    assert fitted.scale == 1
    assert small(feature_scale=3.0).fit(good).scale == 3


def test_a_share_of_the_images_can_be_fitted(good: np.ndarray) -> None:
    """Always the same share, whatever the seed; at least the three that leaving one out needs."""
    share = small(fit_fraction=0.8, channels=18)  # all channels: a seed draws nothing
    chosen = share.fitted(20)
    assert len(chosen) == 16
    assert (np.diff(chosen) > 0).all()
    by_hand = small(channels=18).fit(good[chosen])
    for seed in (0, 1):
        np.testing.assert_array_equal(share.fit(good, seed).good_scores, by_hand.good_scores)
    assert len(small(fit_fraction=0.01).fit(good).good_scores) == 3


def test_layers_of_another_grid_are_refused(fitted: Padim) -> None:
    """Positions would not match."""
    with pytest.raises(SettingsError, match=r"16, 16.* fitted on \(8, 8\): fit again"):
        fitted.score_seen([NUMBERS(np.zeros((1, 64, 64, 3), np.uint8))])


def test_the_direct_factor_is_kept_as_its_triangle(good: np.ndarray, fitted: Padim) -> None:
    """Half of L⁻¹ is zero and takes no room; in the dual shape all of A is kept."""
    factor = fitted.state()["factor"]
    assert factor.shape == (64, 6 * 7 // 2)
    np.testing.assert_array_equal(factor[:, 0], fitted.gaussians.factor[:, 0, 0])
    assert not fitted.gaussians.factor.triu(1).any()
    assert small(channels=18).fit(good[:17]).state()["factor"].shape == (64, 17, 18)


def test_a_ridge_that_rounding_swallows_is_refused() -> None:
    """In one line: the matrix has no root."""
    with pytest.raises(SettingsError, match="the ridge is lost beside features of this size: choose a larger one"):
        padim.leave_one_out(torch.rand(1, 5, 20, generator=torch.Generator().manual_seed(0)), 1e-30)
