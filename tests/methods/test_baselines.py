"""The trivial baselines on hand-made images whose answer is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mvtec_ad.methods.baselines import IMAGE_SIZE, mean_image, trivial_scores

ROWS = ["all_defective", "mean_intensity", "mean_intensity_inverted", "distance_to_mean", "pixel_z_score"]
LABELS = np.repeat([0, 1], 4)


def flat(level: int, count: int) -> np.ndarray:
    """(count, IMAGE_SIZE, IMAGE_SIZE, 3) of one gray level."""
    return np.full((count, IMAGE_SIZE, IMAGE_SIZE, 3), level, np.uint8)


def brighter() -> tuple[np.ndarray, np.ndarray]:
    """Taken under another light: every defective picture is brighter."""
    return flat(100, 4), np.concatenate([flat(100, 4), flat(120, 4)])


def darker() -> tuple[np.ndarray, np.ndarray]:
    """Every defective picture is darker."""
    return flat(100, 4), np.concatenate([flat(100, 4), flat(80, 4)])


def balanced_spots() -> tuple[np.ndarray, np.ndarray]:
    """A bright and a dark square: the mean brightness does not change at all."""
    test = np.concatenate([flat(100, 4), flat(100, 4)])
    test[4:, 20:40, 20:40] = 160
    test[4:, 80:100, 80:100] = 40
    return flat(100, 4), test


def restless_region() -> tuple[np.ndarray, np.ndarray]:
    """Good pictures vary by ±60 on the left; a defect is 30 on the calm right. Only spread tells them apart."""
    train = np.concatenate([flat(100, 4), flat(100, 4)])
    train[:4, :, :64] = 160
    train[4:, :, :64] = 40
    test = flat(100, 8)
    test[:2, :, :64] = 160
    test[2:4, :, :64] = 40
    test[4:, 50:80, 90:120] = 130
    test[4:, 10:40, 90:120] = 70
    return train, test


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (brighter, [0.5, 1.0, 0.0, 1.0, 1.0]),
        (darker, [0.5, 0.0, 1.0, 1.0, 1.0]),
        (balanced_spots, [0.5, 0.5, 0.5, 1.0, 1.0]),
        (restless_region, [0.5, 0.5, 0.5, 0.0, 1.0]),
    ],
)
def test_auroc_of_each_row(make: object, expected: list[float]) -> None:
    """In the order of the rows."""
    scores = trivial_scores(*make())
    assert list(scores) == ROWS
    assert [roc_auc_score(LABELS, scores[name]) for name in ROWS] == expected


def test_values_by_hand() -> None:
    """A uniform change of 20: 20 away, 4 spreads of five gray levels away."""
    scores = trivial_scores(*brighter())
    assert scores["distance_to_mean"] == pytest.approx([0] * 4 + [20] * 4, abs=1e-3)
    assert scores["pixel_z_score"] == pytest.approx([0] * 4 + [4] * 4, abs=1e-3)
    assert scores["mean_intensity"] == pytest.approx([100] * 4 + [120] * 4)
    assert all(one.dtype == np.float64 and one.shape == (8,) for one in scores.values())


def test_images_of_any_size() -> None:
    """They are brought to one size first."""
    train, test = (np.repeat(np.repeat(one, 2, 1), 2, 2) for one in balanced_spots())
    for name, scores in trivial_scores(train, test).items():
        np.testing.assert_allclose(scores, trivial_scores(*balanced_spots())[name], rtol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (64, 512)], ids=["both axes grow", "one axis grows"])
def test_small_images_are_interpolated(shape: tuple[int, int]) -> None:
    """A ramp is the same ramp at any size; repeated pixels would make stairs of it, more than a gray level off."""

    def ramp(height: int, width: int) -> np.ndarray:
        levels = np.broadcast_to(250 * (np.arange(height)[:, None] + 0.5) / height, (height, width))
        return np.repeat(levels[None, :, :, None], 3, 3).round().astype(np.uint8)

    scores = trivial_scores(ramp(512, 512), ramp(*shape))
    assert scores["distance_to_mean"][0] < 0.95


def test_mean_image_maps_what_differs_from_the_mean() -> None:
    """By hand without smoothing; a blurred map keeps its sum and its peak where it was."""
    train = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (90, 110)])  # mean 100
    test = np.full((2, 32, 32, 3), 100, np.uint8)
    test[1, 16, 12] = (130, 70, 100)  # (30 + 30 + 0) / 3
    scores = mean_image(train, test, 0)
    expected = np.zeros((2, 32, 32))
    expected[1, 16, 12] = 20
    np.testing.assert_allclose(scores.maps, expected, atol=1e-5)
    np.testing.assert_allclose(scores.image, [0, 20], atol=1e-5)
    smooth = mean_image(train, test, 1.0).maps[1]
    assert smooth.sum() == pytest.approx(20, rel=1e-4)
    assert np.unravel_index(smooth.argmax(), smooth.shape) == (16, 12)
    assert smooth.max() < 4  # 20 / 2π
