"""Measures of generated digits against closed forms, a general matrix root and double loops; their classifier."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from mvtec_ad.config import torch_device
from mvtec_ad.data.digits import Digits, cut, load
from mvtec_ad.errors import DataError
from mvtec_ad.methods import gan_quality
from mvtec_ad.methods.gan_quality import (
    DigitClassifier,
    fit_digit_classifier,
    frechet_distance,
    precision_recall,
    quality,
)


def samples(count: int, size: int = 5, seed: int = 0) -> np.ndarray:
    """(count, size) correlated features, not centred."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + rng.normal(size=size)


# --- Fréchet distance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(200, 200), (30, 500), (9, 8)])
def test_against_a_general_matrix_root(first: int, second: int) -> None:
    """The formula as it is printed, with scipy's root of C₁C₂."""
    one, other = samples(first, seed=2), samples(second, seed=3)
    c1, c2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(c1 + c2 - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-7)
    assert expected > 1


@pytest.mark.parametrize("count", [2, 4, 300])
def test_equal_sets_are_nowhere_apart(count: int) -> None:
    """Also with fewer samples than features, in another order, in float32; moved by d they are d² apart."""
    features = samples(count, 12).astype(np.float32)
    spread = np.var(features.astype(np.float64), axis=0, ddof=1).sum()
    assert 0 <= frechet_distance(features, features[::-1]) < 1e-12 * spread
    shift = np.arange(12) / 4
    moved = features.astype(np.float64) + shift
    assert frechet_distance(features, moved) == pytest.approx((shift**2).sum(), rel=1e-9)


def test_independent_constant_and_repeated_features() -> None:
    """By hand Σ (m₁ − m₂)² + (σ₁ − σ₂)²; covariances may be singular; a feature that is given twice counts twice."""
    line = np.array([[-1.0], [0.0], [1.0]])  # mean 0, deviation 1
    assert frechet_distance(line, 3 * line + 2) == pytest.approx(2**2 + (1 - 3) ** 2)
    one, other = samples(60, 3, seed=4), samples(60, 3, seed=5)
    dead = np.zeros((60, 2))
    expected = frechet_distance(one, other)
    assert frechet_distance(np.hstack([one, dead]), np.hstack([other, dead])) == pytest.approx(expected, rel=1e-9)
    twice = frechet_distance(np.hstack([one, one]), np.hstack([other, other]))
    assert twice == pytest.approx(2 * expected, rel=1e-9)


# --- precision and recall -----------------------------------------------------------------------------------------


def share_by_loops(samples: np.ndarray, members: np.ndarray, neighbours: int) -> float:
    """Share of samples within reach of a member, in the words of arXiv:1904.06991."""
    inside = 0
    for sample in samples:
        for number, member in enumerate(members):
            others = np.delete(members, number, 0)
            radius = sorted(np.sqrt(((other - member) ** 2).sum()) for other in others)[neighbours - 1]
            if np.sqrt(((sample - member) ** 2).sum()) <= radius:
                inside += 1
                break
    return inside / len(samples)


@pytest.mark.parametrize("neighbours", [1, 3, 7])
def test_against_double_loops(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Different sets of different size, distances in one piece and in many."""
    real, other = samples(40, 3, seed=6), 0.6 * samples(33, 3, seed=6) + 0.4
    expected = share_by_loops(other, real, neighbours), share_by_loops(real, other, neighbours)
    assert 0 < expected[1] < expected[0] <= 1
    assert precision_recall(real, other, neighbours) == pytest.approx(expected)
    assert precision_recall(other, real, neighbours) == pytest.approx(expected[::-1])
    monkeypatch.setattr(gan_quality, "CHUNK", 7)
    assert precision_recall(real, other, neighbours) == pytest.approx(expected)


def test_precision_and_recall_of_plain_cases() -> None:
    """The same set, sets far apart, one picture generated again and again, and the reverse."""
    real = samples(200, seed=7)
    assert precision_recall(real, real.copy()) == (1.0, 1.0)
    assert precision_recall(real, real + 1000) == (0.0, 0.0)
    heap = real[:1].repeat(100, 0)
    assert precision_recall(real, heap) == (1.0, 1 / 200)
    assert precision_recall(heap, real) == (1 / 200, 1.0)


def test_on_a_line_by_hand() -> None:
    """Each real point reaches its nearest neighbour, borders included; the others reach 0.5."""
    real = np.array([[0.0], [1.0], [3.0]])  # reach 1, 1 and 2: all from −1 to 5
    other = np.array([[-1.5], [-1.0], [5.0], [5.5]])
    assert precision_recall(real, other, 1) == (0.5, 0.0)
    assert precision_recall(real - 1.5, other, 1) == (0.5, 2 / 3)  # −1.5 and −0.5 are reached, 1.5 is not


@pytest.mark.parametrize("measure", [frechet_distance, precision_recall])
@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (np.ones((1, 4)), np.ones((9, 4)), "1 and 9 samples are too few: give [24] of each"),
        (np.ones((9, 4)), np.ones((0, 4)), "9 and 0 samples are too few"),
        (np.ones((9, 2)), np.full((9, 2), np.nan), "features are not all finite"),
        (np.full((9, 2), np.inf), np.ones((9, 2)), "features are not all finite"),
    ],
)
def test_sets_that_cannot_be_measured(measure: object, first: np.ndarray, second: np.ndarray, words: str) -> None:
    """One line that says what to give; a network that diverged makes features that are no numbers."""
    with pytest.raises(DataError, match=words):
        measure(first, second)


def test_neighbours_that_are_not_there() -> None:
    """k need k + 1 samples."""
    with pytest.raises(DataError, match="3 and 3 samples are too few: give 4"):
        precision_recall(samples(3), samples(3), 3)
    assert precision_recall(samples(4), samples(4), 3) == (1.0, 1.0)


# --- all of them --------------------------------------------------------------------------------------------------


class Told(DigitClassifier):
    """Reads its answer in the picture: the digit in the first pixel, how sure it is, in percent, in the second."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        sure = images[:, 0, 1, None] / np.float32(100)
        hot = np.eye(10, dtype=np.float32)[images[:, 0, 0]]
        return hot * sure + (1 - hot) * (1 - sure) / 9

    def features(self, images: np.ndarray) -> np.ndarray:
        return images[:, 1, :6].astype(np.float32)


def pictures(answers: list[tuple[int, int]], seed: int = 0) -> np.ndarray:
    """Pictures with these answers, and features from the second row."""
    images = np.random.default_rng(seed).integers(0, 256, (len(answers), 28, 28), np.uint8)
    images[:, 0, :2] = answers
    return images


def test_quality_counts_what_the_classifier_reads() -> None:
    """A digit counts as found where it is read surely once; the shares count every picture."""
    answers = [(0, 99)] * 4 + [(1, 85), (1, 30), (7, 79), (7, 79), (9, 60), (3, 81)]
    real, other = pictures([(5, 90)] * 12, seed=1), pictures(answers)
    other[:, 1] = other[:, 1] // 2 + 64
    measures = quality(Told(), real, other)
    assert measures["digits_found"] == 3  # 0, 1 and 3
    assert measures["sure"] == pytest.approx(0.6)
    assert measures["shares"] == pytest.approx([0.4, 0.2, 0, 0.1, 0, 0, 0, 0.2, 0, 0.1])
    features = Told().features(real), Told().features(other)
    assert measures["frechet"] == frechet_distance(*features)
    assert (measures["precision"], measures["recall"]) == precision_recall(*features)
    assert measures["precision"] != measures["recall"]
    assert {type(value) for value in measures.values()} == {float, int, list}
    with pytest.raises(DataError, match="3 and 9 samples are too few: give 4 of each"):
        quality(Told(), pictures([(0, 99)] * 3), pictures([(0, 99)] * 9))


# --- the classifier -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts() -> tuple[Digits, Digits]:
    """scikit-learn's digits."""
    return cut(load("sklearn"), 360)


@pytest.fixture(scope="module")
def classifier(parts: tuple[Digits, Digits]) -> DigitClassifier:
    """A short training."""
    return fit_digit_classifier(*parts, steps=120, progress=False)


def test_it_reads_digits(classifier: DigitClassifier, parts: tuple[Digits, Digits]) -> None:
    """Nine in ten after 120 steps, where chance is one; the accuracy is that of its probabilities."""
    test = parts[1]
    probabilities = classifier.probabilities(test.images)
    assert (probabilities.shape, probabilities.dtype) == ((360, 10), np.float32)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert classifier.accuracy == np.mean(probabilities.argmax(1) == test.labels)
    assert classifier.accuracy > 0.9
    assert fit_digit_classifier(*parts, steps=0, progress=False).accuracy < 0.4


def test_features_are_what_the_last_layer_decides_on(classifier: DigitClassifier, parts: tuple[Digits, Digits]) -> None:
    """In every batch: more than one of them, the same for an image alone, on −1 … 1."""
    images = np.concatenate([parts[1].images] * 2)
    features = classifier.features(images)
    assert (features.shape, features.dtype) == ((720, 64), np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(images[700:701].astype(np.float32) * 2 / 255 - 1)[None]
        logits = classifier(pixels.to(torch_device()))[0].cpu()
    weights, bias = (values.detach().cpu().numpy() for values in classifier.layers[-1].parameters())
    np.testing.assert_allclose(weights @ features[700] + bias, logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(classifier.features(images[700:701])[0], features[700], rtol=1e-3, atol=1e-4)


def test_real_digits_are_nearer_than_bad_ones(classifier: DigitClassifier, parts: tuple[Digits, Digits]) -> None:
    """Noise is far, a single digit lacks recall: what the measures are there to tell."""
    train, test = parts
    noise = np.random.default_rng(0).integers(0, 256, test.images.shape, np.uint8)
    good, bad = (quality(classifier, test.images, images) for images in (train.images[:360], noise))
    single = quality(classifier, test.images, train.of(0).images)
    assert good["digits_found"] == 10
    assert good["frechet"] < single["frechet"] / 4
    assert good["frechet"] < bad["frechet"] / 4
    assert good["precision"] > 0.7 > bad["precision"]
    assert good["recall"] > 0.6 > single["recall"]
    assert single["precision"] > 0.7
    assert single["shares"][0] > 0.8


def test_the_seed_is_that_of_weights_and_batches(parts: tuple[Digits, Digits], monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights before the first step; where weights are the same, other batches; the same seed, the same."""
    images, seeded = parts[1].images[:20], torch.manual_seed

    def apart(steps: int, *seeds: int) -> float:
        one, other = (
            fit_digit_classifier(*parts, steps=steps, seed=seed, progress=False).features(images) for seed in seeds
        )
        return np.abs(one - other).max()

    assert apart(3, 1, 1) < 1e-4
    assert apart(0, 1, 2) > 0.01
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeded(0))
    assert apart(0, 1, 2) == 0
    assert apart(3, 1, 2) > 0.01


@pytest.mark.parametrize(
    "images",
    [np.zeros((0, 28, 28), np.uint8), np.zeros((4, 32, 32), np.uint8), np.zeros((4, 28, 28)), np.zeros((28, 28), "u1")],
    ids=["none", "large", "floats", "one"],
)
def test_images_that_are_no_digits_are_refused(images: np.ndarray, parts: tuple[Digits, Digits]) -> None:
    """By the classifier, and before its training."""
    strange = Digits(images, np.zeros(len(images), np.int64), "strange")
    for look in (DigitClassifier().probabilities, DigitClassifier().features):
        with pytest.raises(DataError, match=r"are no digits: give \(N, 28, 28\) uint8, N ≥ 1"):
            look(images)
    for pair in [(strange, parts[1]), (parts[0], strange)]:
        with pytest.raises(DataError, match="are no digits"):
            fit_digit_classifier(*pair, steps=1000000, progress=False)
