"""Segmentation: losses and overlap against numpy and segmentation-models-pytorch, views, levels, the way to disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from sklearn.metrics import f1_score, jaccard_score

from mvtec_ad import artifacts
from mvtec_ad.augment import standardise
from mvtec_ad.backbones import load_backbone
from mvtec_ad.backbones.efficientnet_lite import imagenet_file, to_timm
from mvtec_ad.backbones.trunk import read_state
from mvtec_ad.benchmark import supervised
from mvtec_ad.cli import main
from mvtec_ad.data import index, splits
from mvtec_ad.data.loading import load_masks, read_image
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import load_model
from mvtec_ad.methods.base import as_tensor
from mvtec_ad.methods.segmentation import (
    DeepLab,
    Segmentation,
    UNet,
    best_level,
    dice_loss,
    focal_loss,
    load_encoder,
    overlap,
)

SIZE = 32
UNET = Segmentation(architecture="unet", width=8, image_size=SIZE, crop=SIZE, steps=25, lr=5e-3, views=4, sigma=0.0)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def table(make_category: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Surfaces with bright patches, of two types, and their masks."""
    root = tmp_path_factory.mktemp("data")
    make_category(root, "part", train=44, test_good=6, defects={"patch": 8, "spot": 6}, size=SIZE)
    return index.read_category(root, "part")


@pytest.fixture(scope="module")
def parts(table: pd.DataFrame) -> supervised.Parts:
    """Its supervised split."""
    return supervised.Parts.of(table)


@pytest.fixture(scope="module")
def fitted(parts: supervised.Parts) -> Segmentation:
    """A small U-Net, trained."""
    return replace(UNET).fit(parts.learned, seed=1)


# --- losses and overlap -----------------------------------------------------------------------------------------------


def test_losses_are_those_of_a_library() -> None:
    """Dice with one added above and below (their smooth counts half), focal without a weight of classes."""
    logits, truth = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 8, 8)
    truth[0, 2:5, 1:7] = 1
    dice = smp.losses.DiceLoss("binary", smooth=0.5)(logits, truth)
    assert dice_loss(logits, truth).item() == pytest.approx(dice.item(), abs=1e-6)
    for gamma in (0.0, 2.0):
        focal = smp.losses.FocalLoss("binary", gamma=gamma)(logits, truth)
        assert focal_loss(logits, truth, gamma).item() == pytest.approx(focal.item(), abs=1e-6)
    assert dice_loss(torch.full((1, 4, 4), -30.0), torch.zeros(1, 4, 4)) == 0  # nothing there, nothing said


def test_overlap_is_scikit_learns() -> None:
    """F1 and Jaccard index of the pixels of each image; 1 where nothing is marked and nothing called."""
    predicted, masks = (RNG.random((2, 5, 6, 7)) > 0.6).astype(bool)
    predicted[0] = masks[0] = False
    dice, iou = overlap(predicted, masks)
    for number in range(1, 5):
        pair = masks[number].ravel(), predicted[number].ravel()
        assert (dice[number], iou[number]) == pytest.approx((f1_score(*pair), jaccard_score(*pair)))
    assert (dice[0], iou[0]) == (1, 1)


def test_the_level_is_the_best_of_all_values() -> None:
    """As good as the best of every value that occurs, up to the quantiles' grid; 0.5 without defects."""
    masks = np.zeros((2, 16, 16), bool)
    masks[0, 3:8, 3:8] = masks[1, 10:14, 2:9] = True
    maps = (RNG.random((2, 16, 16)) + masks).astype(np.float32)
    brute = max(overlap(maps > level, masks)[0].mean() for level in np.unique(maps))
    assert overlap(maps > best_level(maps, masks), masks)[0].mean() >= brute - 0.02
    assert best_level(maps[:0], masks[:0]) == 0.5


# --- networks ---------------------------------------------------------------------------------------------------------


def test_unet_sees_as_far_as_its_lowest_grid_and_keeps_the_place() -> None:
    """One logit a pixel; every level counts, and every skip."""
    torch.manual_seed(0)
    network = UNet(8).eval()
    images = torch.randn(2, 3, 32, 48)
    logits = network.decode(network.encode(images))
    assert logits.shape == (2, 1, 32, 48)
    widths = [block[0].in_channels for block in network.up]
    assert widths == [128 + 64, 64 + 32, 32 + 16, 16 + 8]
    for block in (*network.down, *network.up):  # gradients reach every level; of a way up, what it takes from its skip
        gradient = torch.autograd.grad(logits.sum(), block[0].weight, retain_graph=True)[0]
        assert gradient[:, : len(gradient)].abs().sum() > 0


def test_encoder_holds_the_weights_of_the_index_and_is_never_trained() -> None:
    """The features are those of smp's encoder with the same weights; only decoder and head learn."""
    network = DeepLab(8).eval()
    path, description = imagenet_file("efficientnet_lite0")
    assert load_encoder(network.encoder.model, "imagenet") == description
    state = to_timm(read_state(path))
    assert torch.equal(network.encoder.model.conv_stem.weight, state["conv_stem.weight"])
    assert {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad} == {"decoder", "head"}
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    features = network.encode(standardise(as_tensor(images)))
    backbone = load_backbone("efficientnet_lite0", "imagenet")(images)  # strides 4, 8 and 16 of the package's own cut
    for feature, layer in zip(features, backbone, strict=True):
        assert torch.allclose(feature.permute(0, 2, 3, 1), layer, atol=1e-4)
    assert network.decode(features).shape == (2, 1, 64, 64)


# --- learning ---------------------------------------------------------------------------------------------------------


def test_a_trained_network_finds_what_it_was_shown(fitted: Segmentation, parts: supervised.Parts) -> None:
    """On images that it has not seen; and every defect scores above every good image."""
    scores, masks = fitted.score(list(parts.test["image_path"])), load_masks(parts.test, SIZE)
    defects = parts.test["label"].to_numpy() == 1
    dice, _ = overlap(scores.maps > fitted.level, masks)
    assert dice[defects].mean() > 0.8
    assert scores.image[defects].min() > scores.image[~defects].max()
    np.testing.assert_array_equal(scores.image, scores.maps.max((1, 2)))
    assert 0 <= scores.maps.min() <= scores.maps.max() <= 1


def test_views_turn_mask_and_image_alike() -> None:
    """The patch is where the mask says, in every view; the pool spares the second look, and seeds do not matter."""
    image, mask = np.full((SIZE, SIZE, 3), 40, np.uint8), np.zeros((SIZE, SIZE), bool)
    mask[6:14, 18:28] = True
    image[mask] = 220
    detector, pool = replace(UNET, rotation=90.0, translation=0.2, color_jitter=0.05), {}
    detector.network = detector.new_network()
    pixels, masks = detector.views_of(image, mask, 16, pool)
    bright = (pixels * torch.tensor([0.229, 0.224, 0.225])[:, None, None]).mean(1) + 0.449 > 0.5
    assert overlap(bright.numpy(), masks.numpy())[0].min() > 0.9
    assert len({view.numpy().tobytes() for view in masks}) == 16
    assert detector.views_of(image, mask, 16, pool)[0] is pixels


def test_a_seed_repeats_and_held_out_images_are_good_scores(fitted: Segmentation, parts: supervised.Parts) -> None:
    """Bit by bit, with a shared pool or without; another seed gives other weights."""
    pool: dict = {}
    again, other = (replace(UNET, steps=3).fit(parts.learned, seed, pool=pool) for seed in (1, 2))
    alone = replace(UNET, steps=3).fit(parts.learned, 1)
    paths = list(parts.test["image_path"])
    np.testing.assert_array_equal(again.score(paths).maps, alone.score(paths).maps)
    assert not np.array_equal(again.score(paths).maps, other.score(paths).maps)
    held = fitted.hold_out(parts.learned, 1)
    good = held & (parts.learned["label"] == 0).to_numpy()
    assert good.sum() == len(fitted.good_scores) == fitted.calibration_images((parts.learned["label"] == 0).sum())
    images = list(parts.learned["image_path"][good])
    np.testing.assert_allclose(np.sort(fitted.score(images).image), np.sort(fitted.good_scores), rtol=1e-4)
    assert (held & ~good).sum() == round(0.2 * parts.learned["label"].sum())


def test_one_defect_is_enough_and_none_is_refused(
    parts: supervised.Parts, tmp_path: Path, write_image: Callable[[Path, np.ndarray], Path]
) -> None:
    """Of one none is held out, so that the level stays one half; nor of any where none is to be held out."""
    empty_mask = write_image(tmp_path / "mask.png", np.zeros((SIZE, SIZE), bool))
    learned = parts.learned
    good, first = learned[learned["label"] == 0], learned[learned["label"] == 1].head(1)
    model = replace(UNET, steps=1).fit(pd.concat([good, first]))
    assert model.level == 0.5
    assert len(replace(UNET, steps=1, held_out=0.0).fit(learned).good_scores) == 0
    with pytest.raises(DataError, match="no mask marks a pixel at 32 pixels: choose a larger image size"):
        replace(UNET, held_out=0.0).fit(pd.concat([good, first.assign(mask_path=str(empty_mask))]))
    with pytest.raises(DataError, match=r"and 0 defects with a mask are too few to fit segmentation: give at least"):
        replace(UNET).fit(pd.concat([good, first.assign(mask_path="")]))
    with pytest.raises(SettingsError, match="crop 40 cannot be halved four times: choose a multiple of 16"):
        replace(UNET, image_size=40, crop=40)
    with pytest.raises(SettingsError, match="this segmentation is not fitted"):
        replace(UNET).score([read_image(first["image_path"].iloc[0])])


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_model_on_disk_is_the_same(fitted: Segmentation, parts: supervised.Parts, tmp_path: Path) -> None:
    """Scores, maps, level, threshold's scores and curve."""
    limit = {"value": 0.5, "false_alarm_rate": 0.05}
    path = artifacts.save_model(tmp_path / "model.zip", fitted, "part", limit, data_source="own")
    loaded, description = load_model(path)
    images = list(parts.test["image_path"])
    np.testing.assert_array_equal(loaded.score(images).maps, fitted.score(images).maps)
    np.testing.assert_array_equal(loaded.good_scores, fitted.good_scores)
    assert (loaded.level, loaded.encoder, loaded) == (fitted.level, "none", fitted)
    assert description["method"] == "segmentation"
    pd.testing.assert_frame_equal(loaded.curve, fitted.curve, check_dtype=False)


def test_commands_fit_detect_and_evaluate(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DeepLabV3+ on the parts that are not tested; verdicts; a report with Dice, IoU and the maps' metrics."""
    root, model = str(Path(table["image_path"][0]).parents[3]), str(tmp_path / "model.zip")
    small = ["--image-size", str(SIZE), "--steps", "4", "--views", "1", "--channels", "8"]
    assert main(["fit", "segmentation", "--category", "part", "--root", root, "--out", model, *small]) == 0
    learned = splits.supervised(table, seed=0).query("part != 'test'")["label"]
    assert f"{(learned == 0).sum()} good images and {learned.sum()} defects of part" in capsys.readouterr().out
    images = [path for path in table["image_path"] if "patch" in path][:2]
    assert main(["detect", model, *images, "--heat-maps", str(tmp_path / "maps")]) == 0
    assert capsys.readouterr().out.count("threshold") == 2
    assert len(list((tmp_path / "maps").glob("*.png"))) == 2
    words = ["evaluate", "segmentation", "--category", "part", "--root", root, "--seeds", "0", "--jobs", "1"]
    report = tmp_path / "report.json"
    assert main([*words, *small, "--json", str(report)]) == 0
    measured = json.loads(report.read_text())["metrics"]
    assert {"image_auroc", "au_pro", "dice", "iou"} <= set(measured)
    assert 0 <= measured["iou"]["mean"] <= measured["dice"]["mean"] <= measured["dice"]["high"] <= 1
    assert "part segmentation: Dice" in capsys.readouterr().out
