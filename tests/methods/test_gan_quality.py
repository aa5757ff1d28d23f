"""Measures of drawn digits against closed forms, a general matrix root and double loops; the network behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from mvtec_ad.config import torch_device
from mvtec_ad.data.digits import Digits, cut, load
from mvtec_ad.errors import DataError, TrainingError
from mvtec_ad.methods.gan_quality import DigitNetwork, Judge, fit_judge, frechet_distance, precision_recall, quality


def drawn(count: int, size: int = 5, seed: int = 0) -> np.ndarray:
    """(count, size) correlated features, not centred."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + rng.normal(size=size)


def with_moments(mean: np.ndarray, covariance: np.ndarray, count: int = 50) -> np.ndarray:
    """Samples with exactly these moments."""
    noise = np.random.default_rng(1).normal(size=(count, len(mean)))
    noise -= noise.mean(0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise, rowvar=False))).T
    values, axes = np.linalg.eigh(covariance)
    return white @ (axes * np.sqrt(values.clip(0))).T + mean


# --- Fréchet distance ---------------------------------------------------------------------------------------------


def test_normal_distributions_along_the_axes() -> None:
    """Σ (m₁ − m₂)² + (σ₁ − σ₂)², from samples with exactly these moments."""
    means = np.array([0.0, 1.0, -2.0, 5.0]), np.array([1.0, 1.0, 0.5, 4.0])
    deviations = np.array([1.0, 2.0, 0.3, 0.0]), np.array([3.0, 0.5, 0.3, 2.0])
    first, second = (with_moments(m, np.diag(s**2)) for m, s in zip(means, deviations, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert expected == pytest.approx(8.25 + 4 + 2.25 + 4)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(200, 200), (30, 500), (9, 8)])
def test_against_a_general_matrix_root(first: int, second: int) -> None:
    """The formula as it is printed, with scipy's root of C₁C₂."""
    one, other = drawn(first, seed=2), drawn(second, seed=3)
    c1, c2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(c1 + c2 - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-7)
    assert expected > 1


@pytest.mark.parametrize("count", [2, 4, 300])
def test_equal_sets_are_nowhere_apart(count: int) -> None:
    """Also with fewer samples than features, in another order, in float32; moved by d they are d² apart."""
    features = drawn(count, 12).astype(np.float32)
    spread = np.var(features.astype(np.float64), axis=0, ddof=1).sum()
    assert 0 <= frechet_distance(features, features[::-1]) < 1e-12 * spread
    shift = np.arange(12) / 4
    moved = features.astype(np.float64) + shift
    assert frechet_distance(features, moved) == pytest.approx((shift**2).sum(), rel=1e-9)


def test_a_constant_and_a_repeated_feature_do_no_harm() -> None:
    """Covariances are singular then; a feature that is given twice counts twice."""
    one, other = drawn(60, 3, seed=4), drawn(60, 3, seed=5)
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
    real, other = drawn(40, 3, seed=6), 0.6 * drawn(33, 3, seed=6) + 0.4
    expected = share_by_loops(other, real, neighbours), share_by_loops(real, other, neighbours)
    assert 0 < expected[1] < expected[0] <= 1
    assert precision_recall(real, other, neighbours) == pytest.approx(expected)
    assert precision_recall(other, real, neighbours) == pytest.approx(expected[::-1])
    monkeypatch.setattr("mvtec_ad.methods.gan_quality.CHUNK", 7)
    assert precision_recall(real, other, neighbours) == pytest.approx(expected)


def test_precision_and_recall_of_plain_cases() -> None:
    """The same set, sets far apart, one picture drawn again and again, and the reverse."""
    real = drawn(200, seed=7)
    assert precision_recall(real, real.copy()) == (1.0, 1.0)
    assert precision_recall(real, real + 1000) == (0.0, 0.0)
    heap = real[:1].repeat(100, 0)
    assert precision_recall(real, heap) == (1.0, 1 / 200)
    assert precision_recall(heap, real) == (1 / 200, 1.0)


def test_on_a_line_by_hand() -> None:
    """Each real point reaches its nearest neighbour, borders included; the drawn reach 0.5."""
    real = np.array([[0.0], [1.0], [3.0]])  # reach 1, 1 and 2: all from −1 to 5
    other = np.array([[-1.5], [-1.0], [5.0], [5.5]])
    assert precision_recall(real, other, 1) == (0.5, 0.0)
    assert precision_recall(real - 1.5, other, 1) == (0.5, 2 / 3)  # −1.5 and −0.5 are reached, 1.5 is not


@pytest.mark.parametrize("measure", [frechet_distance, precision_recall])
@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((1, 4), (9, 4)), "1 and 9 samples are too few: give [24] of each"),
        (((9, 4), (0, 4)), "9 and 0 samples are too few"),
        (((9, 4), (9, 3)), r"features \(9, 4\) and \(9, 3\) do not compare"),
        (((9,), (9,)), "do not compare"),
    ],
)
def test_sets_that_cannot_be_measured(measure: object, shapes: tuple[tuple[int, ...], ...], words: str) -> None:
    """One line that says what to give."""
    with pytest.raises(DataError, match=words) as problem:
        measure(*map(np.ones, shapes))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("measure", [frechet_distance, precision_recall])
def test_features_that_are_no_numbers_are_refused(measure: object) -> None:
    """A network that diverged draws them."""
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match="features are not all finite"):
            measure(np.ones((9, 2)), np.full((9, 2), value))


@pytest.mark.parametrize(
    ("count", "neighbours", "words"), [(3, 3, "3 and 3 samples .* give 4"), (9, 0, "0 neighbours span no region")]
)
def test_neighbours_that_are_not_there(count: int, neighbours: int, words: str) -> None:
    """k need k + 1 samples, and one at least."""
    with pytest.raises(DataError, match=words):
        precision_recall(drawn(count), drawn(count), neighbours)
    assert precision_recall(drawn(4), drawn(4), 3) == (1.0, 1.0)


# --- all of them --------------------------------------------------------------------------------------------------


class Told(Judge):
    """Reads its answer in the picture: the digit in the first pixel, how sure it is, in percent, in the second."""

    def __init__(self) -> None:
        super().__init__(DigitNetwork(), 1.0)

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


def test_quality_counts_what_the_judge_says() -> None:
    """A digit counts as found where the judge is sure of it once; the shares count every picture."""
    answers = [(0, 99)] * 4 + [(1, 85), (1, 30), (7, 79), (7, 79), (9, 60), (3, 81)]
    real, other = pictures([(5, 90)] * 12, seed=1), pictures(answers)
    other[:, 1] = other[:, 1] // 2 + 64
    found = quality(Told(), real, other)
    assert found["digits_found"] == 3  # 0, 1 and 3
    assert found["sure"] == pytest.approx(0.6)
    assert found["shares"] == pytest.approx([0.4, 0.2, 0, 0.1, 0, 0, 0, 0.2, 0, 0.1])
    features = Told().features(real), Told().features(other)
    assert found["frechet"] == frechet_distance(*features)
    assert (found["precision"], found["recall"]) == precision_recall(*features)
    assert found["precision"] != found["recall"]
    lax = quality(Told(), real, other, sure=0.5)
    assert (lax["digits_found"], lax["sure"]) == (5, pytest.approx(0.9))
    assert {type(value) for value in found.values()} == {float, int, list}


def test_quality_needs_four_pictures() -> None:
    """Of both."""
    with pytest.raises(DataError, match="3 and 9 samples are too few: give 4 of each"):
        quality(Told(), pictures([(0, 99)] * 3), pictures([(0, 99)] * 9))


# --- the judge ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts() -> tuple[Digits, Digits]:
    """scikit-learn's digits."""
    return cut(load("sklearn"), 360)


@pytest.fixture(scope="module")
def judge(parts: tuple[Digits, Digits]) -> Judge:
    """A short training."""
    return fit_judge(*parts, steps=120, progress=False)


def test_a_judge_reads_digits(judge: Judge, parts: tuple[Digits, Digits]) -> None:
    """Nine in ten after 120 steps, where chance is one; the accuracy is that of its probabilities."""
    test = parts[1]
    probabilities = judge.probabilities(test.images)
    assert (probabilities.shape, probabilities.dtype) == ((360, 10), np.float32)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert judge.accuracy == np.mean(probabilities.argmax(1) == test.labels)
    assert judge.accuracy > 0.9
    untrained = fit_judge(*parts, steps=0, progress=False)
    assert untrained.accuracy < 0.4


def test_features_are_what_the_last_layer_decides_on(judge: Judge, parts: tuple[Digits, Digits]) -> None:
    """In every batch: more than one of them, the same for an image alone, on −1 … 1."""
    images = np.concatenate([parts[1].images] * 2)
    features = judge.features(images)
    assert (features.shape, features.dtype) == ((720, 64), np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(images[700:701].astype(np.float32) * 2 / 255 - 1)[None]
        logits = judge.network(pixels.to(torch_device()))[0].cpu()
    weights, bias = (values.detach().cpu().numpy() for values in judge.network.last.parameters())
    np.testing.assert_allclose(weights @ features[700] + bias, logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(judge.features(images[700:701])[0], features[700], rtol=1e-3, atol=1e-4)


def test_real_digits_are_nearer_than_bad_ones(judge: Judge, parts: tuple[Digits, Digits]) -> None:
    """Noise is far, a single digit lacks recall: what the measures are there to tell."""
    train, test = parts
    noise = np.random.default_rng(0).integers(0, 256, test.images.shape, np.uint8)
    good, bad = (quality(judge, test.images, images) for images in (train.images[:360], noise))
    single = quality(judge, test.images, train.of(0).images)
    assert good["digits_found"] == 10
    assert good["frechet"] < single["frechet"] / 4
    assert good["frechet"] < bad["frechet"] / 4
    assert good["precision"] > 0.7 > bad["precision"]
    assert good["recall"] > 0.6 > single["recall"]
    assert single["precision"] > 0.7
    assert single["shares"][0] > 0.8


def test_the_same_seed_gives_the_same_judge(parts: tuple[Digits, Digits], tmp_path: Path) -> None:
    """With a checkpoint, which is gone on from, and refused for other digits."""
    images, path = parts[1].images, tmp_path / "judge.checkpoint"
    one, other, again = (fit_judge(*parts, steps=3, seed=seed, progress=False).features(images) for seed in (1, 2, 1))
    np.testing.assert_allclose(one, again, atol=1e-4)
    assert np.abs(one - other).max() > 0.01
    for _ in range(2):
        kept = fit_judge(*parts, steps=3, seed=1, checkpoint=path, progress=False)
        np.testing.assert_allclose(kept.features(images), one, atol=1e-4)
    with pytest.raises(TrainingError, match="of another run"):
        fit_judge(parts[1], parts[0], steps=3, seed=1, checkpoint=path, progress=False)


def test_the_seed_is_that_of_weights_and_batches(parts: tuple[Digits, Digits], monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights before the first step; and where weights are the same, other batches."""
    images, seeded = parts[1].images[:20], torch.manual_seed

    def apart(steps: int) -> float:
        one, other = (fit_judge(*parts, steps=steps, seed=seed, progress=False).features(images) for seed in (1, 2))
        return np.abs(one - other).max()

    assert apart(0) > 0.01
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeded(0))
    assert apart(0) == 0
    assert apart(3) > 0.01


@pytest.mark.parametrize(
    "images",
    [np.zeros((0, 28, 28), np.uint8), np.zeros((4, 32, 32), np.uint8), np.zeros((4, 28, 28)), np.zeros((28, 28), "u1")],
    ids=["none", "large", "floats", "one"],
)
def test_images_that_are_no_digits_are_refused(images: np.ndarray, parts: tuple[Digits, Digits]) -> None:
    """By the judge, and before its training."""
    judge, strange = Judge(DigitNetwork(), 0.0), Digits(images, np.zeros(len(images), np.int64), "strange")
    for look in (judge.probabilities, judge.features):
        with pytest.raises(DataError, match=r"are no digits: give \(N, 28, 28\) uint8, N ≥ 1"):
            look(images)
    for pair in [(strange, parts[1]), (parts[0], strange)]:
        with pytest.raises(DataError, match="are no digits"):
            fit_judge(*pair, steps=1000000, progress=False)
