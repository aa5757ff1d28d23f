"""PaDiM step by step against numpy and scipy, and as a whole on a small surface with a planted patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import mahalanobis
from sklearn.metrics import roc_auc_score

from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import padim
from mvtec_ad.settings import PadimSettings

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE = 32
SMALL = PadimSettings(
    backbone="numbers", weights="none", channels=6, seeds=(0, 1, 2), image_size=SIDE, crop=SIDE, sigma=1.0
)


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


@pytest.fixture(scope="module")
def good(draw: Draw) -> np.ndarray:
    """(20, SIDE, SIDE, 3) good surfaces."""
    generator = np.random.default_rng(0)
    return np.stack([draw(generator, SIDE, False)[0] for _ in range(20)])


@pytest.fixture(scope="module")
def test_set(draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Six good and six defective surfaces, in that order, and their masks."""
    generator = np.random.default_rng(1)
    images, masks = zip(*[draw(generator, SIDE, index >= 6) for index in range(12)], strict=True)
    return np.stack(images), np.stack(masks)


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


def test_more_channels_than_there_are() -> None:
    """The message says how many there are."""
    with pytest.raises(SettingsError, match="101 channels asked for, the backbone has 100"):
        padim.draw_channels(100, 101, 0)


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
    found = padim.embed([torch.from_numpy(layer) for layer in LAYERS], np.array(channels), interpolation)
    assert found.shape == (128, 3, len(channels))
    np.testing.assert_allclose(found.numpy(), expected.reshape(3, 128, -1).transpose(1, 0, 2), atol=1e-5)


@pytest.mark.parametrize("channels", [6, 18])
def test_a_map_equals_its_derivation_by_hand(
    good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray], channels: int
) -> None:
    """Concatenate, Mahalanobis by scipy per position, enlarge, blur, maximum."""
    settings = replace(SMALL, channels=channels)
    fitted = good if channels == 6 else good[:10]  # direct with 20 images, dual with 10
    model = padim.Padim(NUMBERS, settings, seed=0).fit(fitted)
    assert model.gaussians.dual == (channels == 18)
    scores = model.score(test_set[0][5:7])

    def embedding(images: np.ndarray) -> np.ndarray:
        large = [layer.repeat(2**depth, 1).repeat(2**depth, 2) for depth, layer in enumerate(numbers(images))]
        return np.concatenate(large, -1)[..., model.channels].astype(np.float64)

    train, judged = embedding(fitted), embedding(test_set[0][5:7])
    for image in range(2):
        grid = np.empty((8, 8))
        for row, column in np.ndindex(8, 8):
            position = train[:, row, column]
            inverse = np.linalg.inv(np.cov(position, rowvar=False) + settings.ridge * np.eye(channels))
            grid[row, column] = mahalanobis(judged[image, row, column], position.mean(0), inverse)
        expected = ndimage.zoom(grid, 4, order=1, mode="nearest", grid_mode=True)
        expected = ndimage.gaussian_filter(expected, settings.sigma)
        np.testing.assert_allclose(scores.maps[image], expected, rtol=1e-3)
        assert scores.image[image] == scores.maps[image].max()


def test_normal_scores_are_those_of_images_left_out(good: np.ndarray) -> None:
    """Each equals the score of that image by a model fitted on all the others."""
    model = padim.Padim(NUMBERS, SMALL, seed=0).fit(good)
    assert model.good_scores.shape == (20,)
    for image in (0, 7, 19):
        refitted = padim.Padim(NUMBERS, SMALL, seed=0).fit(np.delete(good, image, axis=0))
        expected = refitted.score(good[[image]]).image[0]
        assert model.good_scores[image] == pytest.approx(expected, rel=1e-3)


def test_a_planted_patch_is_found(good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray]) -> None:
    """Every defective image above every good one, and the peak of its map inside the patch."""
    images, masks = test_set
    scores = padim.Padim(NUMBERS, SMALL, seed=0).fit(good).score(images)
    assert scores.image.dtype == scores.maps.dtype == np.float32
    assert scores.maps.shape == (12, SIDE, SIDE)
    assert roc_auc_score(np.repeat([0, 1], 6), scores.image) == 1
    for one, mask in zip(scores.maps[6:], masks[6:], strict=True):
        assert mask[np.unravel_index(one.argmax(), one.shape)]


def test_a_planted_patch_is_found_with_random_weights(
    good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray]
) -> None:
    """The network of the quick profile."""
    settings = replace(SMALL, backbone="resnet18", weights="random", channels=16)
    scores = padim.Padim(load_backbone("resnet18", "random"), settings).fit(good).score(test_set[0])
    assert roc_auc_score(np.repeat([0, 1], 6), scores.image) == 1


def count_images(backbone: Backbone, seen: list[int]) -> Backbone:
    """The same backbone; the size of every batch it gets is appended to `seen`."""

    def forward(images: np.ndarray) -> list[torch.Tensor]:
        seen.append(len(images))
        return backbone.forward(images)

    return backbone_of(forward, backbone.raw)


@pytest.mark.parametrize(("memory_gb", "passes"), [(2.0, 1), (1e-9, 3)])
@pytest.mark.parametrize("channels", [6, 18], ids=["direct", "mixed"])
def test_several_seeds_in_one_pass_equal_each_alone(
    good: np.ndarray,
    test_set: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    memory_gb: float,
    passes: int,
    channels: int,
) -> None:
    """Whether memory holds all seeds or one; the backbone sees each image once a pass."""
    seen: list[int] = []
    monkeypatch.setattr(padim.model, "load_backbone", lambda name, weights: count_images(NUMBERS, seen))
    settings = replace(SMALL, memory_gb=memory_gb, channels=channels)
    trials = list(padim.fit_and_score(settings, good, test_set[0], progress=False))
    assert [trial.seed for trial in trials] == [0, 1, 2]
    assert sum(seen) == passes * (20 + 12)
    for trial in trials:
        alone = padim.Padim(NUMBERS, settings, trial.seed).fit(good)
        np.testing.assert_array_equal(trial.model.channels, alone.channels)
        np.testing.assert_array_equal(trial.good_scores, alone.good_scores)
        np.testing.assert_array_equal(trial.scores.maps, alone.score(test_set[0]).maps)
        assert trial.fit_seconds > 0
        assert trial.score_seconds > 0
    if channels == 6:
        assert (trials[0].scores.image != trials[1].scores.image).any()


@pytest.mark.parametrize(("memory_gb", "expected"), [(2.0, 7), (0.3, 1), (0.0, 1), (0.53, 2)])
def test_seeds_that_fit_the_memory(memory_gb: float, expected: int) -> None:
    """209 images of 224 px, 100 channels: 3136 · 209 · 100 · 4 bytes are 0.262 GB a seed; one always fits."""
    settings = PadimSettings(memory_gb=memory_gb)
    assert padim.seeds_at_once(settings, (209, 224, 224, 3)) == expected


def test_keras_and_torch_take_equal_features_to_equal_distances(
    good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray]
) -> None:
    """Channels-last tensors of TensorFlow, and the transposed channels-first ones of torch."""
    tf = pytest.importorskip("tensorflow")

    def from_keras(images: np.ndarray) -> list[torch.Tensor]:
        return [torch.from_numpy(tf.constant(layer).numpy()) for layer in numbers(images)]

    def from_torch(images: np.ndarray) -> list[torch.Tensor]:
        first = [torch.from_numpy(np.ascontiguousarray(layer.transpose(0, 3, 1, 2))) for layer in numbers(images)]
        return [layer.permute(0, 2, 3, 1) for layer in first]

    for settings in (SMALL, replace(SMALL, channels=18, interpolation="bilinear")):
        one, other = (
            padim.Padim(backbone_of(forward), settings).fit(good[:15]) for forward in (from_keras, from_torch)
        )
        np.testing.assert_allclose(one.good_scores, other.good_scores, rtol=1e-6)
        np.testing.assert_allclose(one.score(test_set[0]).maps, other.score(test_set[0]).maps, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e4])
def test_features_of_any_size_give_the_same_scores(
    good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray], factor: float
) -> None:
    """Where the network is none of the published ones, one stored scalar brings its features to the ridge's scale."""

    def scaled(by: float) -> padim.Padim:
        backbone = backbone_of(
            lambda images: [torch.from_numpy(layer * np.float32(by)) for layer in numbers(images)], False
        )
        return padim.Padim(backbone, SMALL).fit(good)

    plain, model = scaled(1.0), scaled(factor)
    assert model.scale == pytest.approx(plain.scale / factor, rel=1e-4)
    np.testing.assert_allclose(model.score(test_set[0]).image, plain.score(test_set[0]).image, rtol=1e-3)


def test_the_scale_is_what_it_says(good: np.ndarray) -> None:
    """Afterwards the mean variance is the reference; published recipes stay raw; a given scale is taken."""
    measured = padim.Padim(backbone_of(NUMBERS.forward, raw=False), SMALL).fit(good)
    embedded = padim.embed(NUMBERS(good), measured.channels, "nearest").numpy().astype(np.float64) * measured.scale
    assert embedded.var(1, ddof=1).mean() == pytest.approx(padim.REFERENCE_VARIANCE, rel=1e-4)
    assert padim.Padim(NUMBERS, SMALL).fit(good).scale == 1
    assert padim.Padim(NUMBERS, replace(SMALL, feature_scale=3.0)).fit(good).scale == 3
    assert padim.measured_scale(torch.ones(4, 5, 6)) == 1


def test_a_share_of_the_images_can_be_fitted(good: np.ndarray) -> None:
    """Always the same share; at least the three that leaving one out needs."""
    first, again = (padim.Padim(NUMBERS, replace(SMALL, fit_fraction=0.8)).fit(good) for _ in range(2))
    assert len(first.good_scores) == 16
    np.testing.assert_array_equal(first.good_scores, again.good_scores)
    assert len(padim.Padim(NUMBERS, replace(SMALL, fit_fraction=0.01)).fit(good).good_scores) == 3


def test_more_channels_than_the_network_has_take_all(good: np.ndarray) -> None:
    """A preset of 100 channels on a small network."""
    model = padim.Padim(NUMBERS, replace(SMALL, channels=100)).fit(good)
    np.testing.assert_array_equal(model.channels, np.arange(18))


def test_scoring_before_fitting_is_refused(good: np.ndarray) -> None:
    """In words."""
    with pytest.raises(SettingsError, match="not fitted: call fit"):
        padim.Padim(NUMBERS, SMALL).score(good)


@pytest.mark.parametrize("side", [SIDE * 2, SIDE // 2])
def test_images_of_another_size_are_refused(good: np.ndarray, side: int) -> None:
    """Positions would not match."""
    model = padim.Padim(NUMBERS, SMALL).fit(good)
    with pytest.raises(SettingsError, match=f"{side}×{side}, not the size"):
        model.score(np.zeros((1, side, side, 3), np.uint8))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_are_refused(good: np.ndarray, count: int) -> None:
    """The message says how many are needed."""
    with pytest.raises(DataError, match=f"{count} good images are too few .* at least 3"):
        padim.Padim(NUMBERS, SMALL).fit(good[:count])
