"""Regions lie where they do by hand; maps and numbers equal those of the functions they are made of."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mvtec_ad.data.boxes import Annotation, Box
from mvtec_ad.data.items import LEVELS, Finder
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods import attribution
from mvtec_ad.methods.attribution import METHODS, study
from mvtec_ad.methods.base import as_tensor
from mvtec_ad.methods.classifier import Classifier, DefectClassifier
from mvtec_ad.settings import AttributionSettings, ClassifierSettings

SIZE = 32
SETTINGS = AttributionSettings(path_steps=4, noisy_copies=3, windows=15, removals=4)
HALF = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])  # of a picture of 64×64, pixel areas onto pixel areas
RARITY = np.zeros((LEVELS,) * 3, np.float32)


def model_of(look: str = "item", **finders: Finder) -> DefectClassifier:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1))
    network = Classifier(body, 6, (1, 2), pretrained=False).eval()
    return DefectClassifier(network, ClassifierSettings(image_size=SIZE, look=look), 0, "random", finders)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A mask, a box, and nothing."""
    folder = Path(tmp_path_factory.mktemp("annotations"))
    mask = np.zeros((64, 64), np.uint8)
    mask[8:16, 20:40] = 255
    cv2.imwrite(str(folder / "mask.png"), mask)
    (folder / "box.xml").write_bytes(Annotation((64, 64), "damaged", Box(20, 8, 39, 15)).xml("box.png"))
    return pd.DataFrame(
        {
            "mask_path": [str(folder / "mask.png"), "", ""],
            "box_path": ["", str(folder / "box.xml"), ""],
            "view": ["top", "top", "side"],
        }
    )


def test_regions_lie_where_mask_and_box_do(table: pd.DataFrame) -> None:
    regions = study.regions_of(model_of(), table, np.stack([HALF] * 3))
    expected = np.zeros((SIZE, SIZE), bool)
    expected[4:8, 10:20] = True
    assert np.array_equal(regions[1], expected)
    assert np.array_equal(regions[0], expected)
    assert not regions[2].any()


def test_regions_of_a_table_without_boxes(table: pd.DataFrame) -> None:
    regions = study.regions_of(model_of(), table.drop(columns="box_path"), np.stack([HALF] * 3))
    assert [bool(one.any()) for one in regions] == [True, False, False]


def test_the_item_is_what_the_margin_leaves(table: pd.DataFrame) -> None:
    registering = Finder(RARITY, places=np.zeros((1, 2), np.float32))
    turned = HALF.copy()
    turned[:2, :2] = 0.5 * np.array([[0.8, -0.6], [0.6, 0.8]])
    model = model_of("registered", top=registering, side=Finder(RARITY))
    found = study.items_of(model, table, np.stack([turned, HALF, turned]))
    # 32 / 1.05 = 30.5 pixels hold 30 centres; 32 / 1.2 = 26.7 pixels hold 26
    assert [int(one[SIZE // 2].sum()) for one in found] == [30, 26, 26]
    assert [int(one.sum()) for one in found] == [30**2, 26**2, 26**2]
    assert study.items_of(model_of("whole"), table, np.stack([HALF] * 3)).all()


def test_background_share_by_hand() -> None:
    items = np.zeros((2, 2, 2), bool)
    items[:, 0] = True
    maps = np.array([[[1.0, 2.0], [1.0, -5.0]], [[0.0, -1.0], [0.0, 0.0]]])
    assert study.background_share(maps, items)[0] == pytest.approx(0.25)
    assert np.isnan(study.background_share(maps, items)[1])


def test_maps_are_those_of_the_methods(images: np.ndarray) -> None:
    model, signs = model_of(), [1, -1, 1]
    maps, errors = study.explain_all(model, images, signs, SETTINGS)
    assert list(maps) == list(METHODS)
    baseline = images.reshape(-1, 3).mean(0)[:, None, None] / 255
    pixels = as_tensor(images)
    for name in ("grad_cam", "grad_cam_plus_plus", "occlusion"):  # 15 windows a side are those of METHODS
        expected = METHODS[name](model.network, model.network.body, pixels, signs, torch.from_numpy(baseline))
        np.testing.assert_allclose(maps[name], expected, atol=1e-5)
    expected, completeness = attribution.integrated_gradients(
        model.network, pixels, signs, baseline=baseline, steps=SETTINGS.path_steps
    )
    np.testing.assert_allclose(maps["integrated_gradients"], expected, atol=1e-5)
    np.testing.assert_allclose(errors, completeness, atol=1e-4)
    expected = attribution.smooth_grad(model.network, pixels, samples=SETTINGS.noisy_copies)
    np.testing.assert_allclose(maps["smooth_grad"], expected, atol=1e-6)


def test_some_methods_of_another_network(images: np.ndarray) -> None:
    model = model_of()
    _, other = next(attribution.cascade(model.network, ["head"], seed=1))
    maps, errors = study.explain_all(model, images, [1, 1, 1], SETTINGS, methods=["grad_cam"], network=other)
    assert list(maps) == ["grad_cam"]
    assert len(errors) == 0
    own, _ = study.explain_all(model, images, [1, 1, 1], SETTINGS, methods=["grad_cam"])
    assert not np.allclose(maps["grad_cam"], own["grad_cam"])
    with pytest.raises(SettingsError, match="guess"):
        study.explain_all(model, images, [1, 1, 1], SETTINGS, methods=["guess"])


def test_numbers_by_hand(images: np.ndarray) -> None:
    model, signs = model_of(), [1, -1, 1]
    regions = np.zeros((3, SIZE, SIZE), bool)
    regions[:2, :8, :8] = True  # a sixteenth; the third image has none
    maps = np.zeros((3, SIZE, SIZE), np.float32)
    maps[0, 3, 3], maps[0, 20, 20] = 3, 1
    maps[1, 20, 20] = 1
    row = study.assess(model, images, {"own": maps}, regions, signs, SETTINGS)["own"]
    assert row["images"] == 2
    assert row["hits"] == 0.5
    assert row["covered"] == 1 / 16
    assert row["gain"] == pytest.approx(0.5 - 1 / 16)
    assert row["gain_low"] < row["gain"] < row["gain_high"]
    assert row["energy"] == pytest.approx((0.75 + 0) / 2)
    curves = study.removal_curves(model, images, {"own": maps}, signs, SETTINGS)
    assert row["deletion"] == pytest.approx(curves["own"]["deletion_area"].mean())
    assert row["insertion"] == pytest.approx(curves["own"]["insertion_area"].mean())
    assert study.assess(model, images, {"own": maps}, regions, signs, SETTINGS, curves)["own"] == row


def test_numbers_where_nothing_is_annotated(images: np.ndarray) -> None:
    maps = {"own": np.ones((3, SIZE, SIZE), np.float32)}
    row = study.assess(model_of(), images, maps, np.zeros((3, SIZE, SIZE), bool), [1, 1, 1], SETTINGS)["own"]
    assert row["images"] == 0
    assert np.isnan(row["gain"])
    assert np.isfinite(row["deletion"])
