"""Training images without a subject: reproducible, labelled as composed, spread like natural images, kinds apart."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mvtec_ad.synthetic.textures import FAMILIES, draw_composition, draw_many, image_seed, recipe, texture


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return draw_many(60, 128, seed=3, workers=1, progress=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_set_is_its_images_one_by_one(workers: int) -> None:
    images, labels = draw_many(70, 32, seed=5, recipes=30, workers=workers, progress=False)
    assert images.shape == (70, 32, 32, 3)
    assert labels.shape == (70, 32, 32)
    for index in (0, 1, 63, 64, 69):  # both sides of the border between two parts
        one = draw_composition(image_seed(5, index), 32, 30)
        np.testing.assert_array_equal(images[index], one.image)
        np.testing.assert_array_equal(labels[index], one.labels)


def test_no_two_images_of_two_sets_are_the_same(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    others, _ = draw_many(60, 128, seed=4, workers=1, progress=False)
    assert len({image.tobytes() for image in [*drawn[0], *others]}) == 120


def test_labels_name_one_to_nine_recipes(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = drawn
    assert (images.dtype, labels.dtype) == (np.uint8, np.int16)
    assert labels.min() >= 0
    assert labels.max() < 500
    counts = [len(np.unique(one)) for one in labels]
    assert max(counts) <= 9
    assert np.mean(counts) > 2.5
    few = draw_many(10, 64, recipes=3, workers=1, progress=False)[1]
    assert set(np.unique(few)) == {0, 1, 2}


def test_the_image_changes_where_the_label_does(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    at_border, mirrored = [], []
    for image, label in zip(*drawn, strict=True):
        jump = np.abs(np.diff(image.astype(int), axis=1)).mean(2)
        border = np.diff(label, axis=1) != 0
        at_border.append(jump[border])
        mirrored.append(jump[border[::-1, ::-1]])  # the same lines where nothing is composed
    assert np.concatenate(at_border).mean() > 1.4 * np.concatenate(mirrored).mean()


def test_the_spectrum_falls_as_in_natural_images(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    grey = drawn[0].mean(3)
    window = np.outer(np.hanning(128), np.hanning(128))
    power = (np.abs(np.fft.fft2((grey - grey.mean((1, 2), keepdims=True)) * window)) ** 2).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128))) * 128
    ring = np.round(frequency).astype(int).ravel()
    mean = np.bincount(ring, power.ravel()) / np.bincount(ring)
    used = np.arange(3, 49)
    slope = np.polyfit(np.log(used), np.log(mean[used]), 1)[0]
    assert -3 < slope < -1, slope  # Field 1987: about -2


def test_images_are_neither_grey_mush_nor_burnt_out(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    grey = drawn[0].mean(3)
    assert 70 < grey.mean() < 160
    assert np.median(grey.std((1, 2))) > 25
    assert ((grey > 250) | (grey < 3)).mean() < 0.15
    assert grey.mean((1, 2)).std() > 15


def _spectrum(sample: np.ndarray) -> np.ndarray:
    """Returns how the power of a texture is spread over frequencies and directions, whatever its contrast."""
    grey = sample.mean(2)
    size = len(grey)
    power = np.abs(np.fft.fft2((grey - grey.mean()) * np.outer(np.hanning(size), np.hanning(size)))) ** 2
    rows, columns = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    ring = np.clip(np.log2(np.hypot(rows, columns) * size + 1e-9) * 2, 0, 11).astype(int)
    turn = ((np.arctan2(rows, columns) % np.pi) / np.pi * 6 + 0.5).astype(int) % 6
    bins = np.bincount((ring * 6 + turn).ravel(), power.ravel(), minlength=72)
    return np.sqrt(cv2.GaussianBlur(bins.reshape(12, 6) / bins.sum(), (3, 1), 0.6)).ravel()


def test_samples_of_a_recipe_resemble_each_other_in_structure() -> None:
    samples = [
        texture(recipe(number), np.random.default_rng([number, k]), 64) for number in range(40) for k in range(6)
    ]
    assert all(one.shape == (64, 64, 3) and one.dtype == np.float32 for one in samples)
    assert min(one.min() for one in samples) >= 0
    assert max(one.max() for one in samples) <= 1
    features = np.stack([_spectrum(one) for one in samples])
    distance = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    number = np.arange(240) // 6
    by_structure = (number[distance.argmin(1)] == number).mean()
    colour = np.stack([one.mean((0, 1)) for one in samples])
    distance = np.linalg.norm(colour[:, None] - colour[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    by_colour = (number[distance.argmin(1)] == number).mean()
    assert by_structure > 0.4, by_structure  # chance is 0.02
    assert by_colour < 0.5 * by_structure, by_colour


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_at_every_size(family: str) -> None:
    of_family = [recipe(number) for number in range(200) if recipe(number).family == family]
    for index, one in enumerate(of_family):
        sample = texture(one, np.random.default_rng(index), (16, 40, 96)[index % 3])
        assert np.isfinite(sample).all()
        assert sample.dtype == np.float32
    assert len({one.finish for one in of_family}) > 1
