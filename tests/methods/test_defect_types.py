"""Defect types: windows and views against slices, networks against the backbone, runs that repeat, files that keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from alike import equal
from PIL import Image
from scipy import ndimage
from scipy.stats import norm
from sklearn.metrics import silhouette_score

from mvtec_ad import artifacts
from mvtec_ad.backbones import load_backbone
from mvtec_ad.backbones.trunk import trunk
from mvtec_ad.errors import ArtifactError, DataError, SettingsError, TrainingError, WeightsError
from mvtec_ad.methods import defect_types
from mvtec_ad.methods.defect_types import UNKNOWN, Defects, DefectTypes, around_masks, around_peaks
from mvtec_ad.training import Run, checkpoints_folder

SMALL = DefectTypes(
    **{"backbone": "resnet18", "weights": "synthetic", "copies": 3},
    **{"look": "mask", "roi_size": 0.5, "focus": 0.25, "image_size": 32},
    **{"steps": 4, "batch": 8, "projection": 8, "neighbours": 3},
)
WHOLE = replace(SMALL, look="whole")
COLOURS = {"red": (200, 60, 60), "blue": (60, 60, 200), "combined": (60, 180, 60)}
NAMES = ["red", "blue"] * 6
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
MIDDLE = np.full((1, 2), 0.5)


def noise(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """(count, size, size, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def standardised(views: torch.Tensor) -> torch.Tensor:
    """With the numbers of torchvision's networks."""
    return (views.cpu() - MEAN[:, None, None]) / DEVIATION[:, None, None]


def marked(folder: Path, names: list[str], seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """A table of grey pictures, 64 pixels, with a patch of the type's colour somewhere; and the middles of patches."""
    rng = np.random.default_rng(seed)
    centres, rows = rng.integers(16, 49, (len(names), 2)), []
    for number, ((x, y), name) in enumerate(zip(centres, names, strict=True)):
        image, mask = rng.normal(120, 12, (64, 64, 3)), np.zeros((64, 64), np.uint8)
        image[y - 8 : y + 8, x - 8 : x + 8] = COLOURS.get(name, (90, 90, 90)) + rng.normal(0, 12, (16, 16, 3))
        mask[y - 8 : y + 8, x - 8 : x + 8] = 255
        paths = [folder / f"{seed}-{number}.png", folder / f"{seed}-{number}_mask.png"]
        for path, pixels in zip(paths, (image.clip(0, 255).astype(np.uint8), mask), strict=True):
            Image.fromarray(pixels).save(path)
        rows.append([f"part/test/{name}/{number}", "part", name, 1, "test", *map(str, paths)])
    columns = ["image_id", "category", "defect", "label", "split", "image_path", "mask_path"]
    return pd.DataFrame(rows, columns=columns), centres / 64


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Twelve pictures of two types."""
    return marked(tmp_path_factory.mktemp("marked"), NAMES)[0]


@pytest.fixture(scope="module")
def defects(table: pd.DataFrame) -> Defects:
    """They, as the frozen layers see them."""
    return SMALL.gather(table)


def fitted(defects: Defects, rows: np.ndarray | None = None, seed: int = 0, **more: Any) -> DefectTypes:
    """A new detector with other options, on some rows; `checkpoints` among these is none."""
    checkpoints = more.pop("checkpoints", None)
    rows = np.arange(len(defects.types)) if rows is None else rows
    return replace(defects.options, **more).fit_rows(defects, rows, seed, checkpoints=checkpoints)


def renamed(defects: Defects, types: Any) -> Defects:
    """The same pictures under other names."""
    return replace(defects, table=defects.table.assign(defect=types))


# Where to look --------------------------------------------------------------------------------------------------------


def test_peaks_by_a_search_through_every_pixel() -> None:
    """Of maps that are not square; of equal ones the first in reading order; one that is not finite is named."""
    maps = np.random.default_rng(0).integers(0, 30, (50, 17, 40)).astype(float)
    expected = []
    for values in maps:
        row, column = next((r, c) for r in range(17) for c in range(40) if values[r, c] == values.max())
        expected.append([(column + 0.5) / 40, (row + 0.5) / 17])
    np.testing.assert_allclose(around_peaks(maps), expected)
    for value in (np.nan, np.inf, -np.inf):
        maps[2:, 1, 1] = value
        with pytest.raises(DataError, match="anomaly map 2 holds values that are not finite: score"):
            around_peaks(maps)


def test_the_largest_part_of_a_mask_is_looked_at() -> None:
    """Its middle, against scipy's labels and centres of mass; diagonal neighbours hang together; any memory layout."""
    rng = np.random.default_rng(1)
    masks, expected = [], []
    while len(masks) < 40:
        mask = ndimage.binary_opening(rng.random((30, 50)) < 0.55)
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        areas = ndimage.sum_labels(mask, labels, range(1, count + 1))
        if count < 3 or (areas == areas.max()).sum() > 1:
            continue
        y, x = ndimage.center_of_mass(mask, labels, 1 + areas.argmax())
        masks.append(mask)
        expected.append([(x + 0.5) / 50, (y + 0.5) / 30])
    np.testing.assert_allclose(around_masks(masks), expected)
    np.testing.assert_allclose(around_masks(mask.T for mask in masks), np.array(expected)[:, ::-1])
    with pytest.raises(DataError, match="mask 1 is empty"):
        around_masks([masks[0], np.zeros((4, 4), bool)])


@pytest.mark.parametrize("place", [(0, 0), (0, 63), (63, 0), (63, 63), (32, 63)])
def test_a_peak_in_a_corner_stays_in_the_middle(place: tuple[int, int]) -> None:
    """The view shows its pixel there; beyond the border the picture is mirrored, as numpy's symmetric padding."""
    maps, images = np.full((1, 64, 64), -3.0), noise(1)
    maps[0][place] = -2.0
    view = replace(SMALL, roi_size=33 / 64, image_size=33).cut(images, around_peaks(maps)).cpu()[0]
    row, column = place
    padded = np.pad(images[0], ((16, 16), (16, 16), (0, 0)), mode="symmetric")[row : row + 33, column : column + 33]
    torch.testing.assert_close(view, torch.from_numpy(padded).permute(2, 0, 1) / 255, atol=2e-4, rtol=0)
    assert (view[:, 16, 16] * 255).round().tolist() == images[0][place].tolist()


def test_a_cut_is_a_slice() -> None:
    """Where the window's pixels are the view's, also of more images than are cut at once; whole pictures stay whole."""
    images, corners = noise(40), np.random.default_rng(2).integers(0, 33, (40, 2))
    views = SMALL.cut(images, (corners + 16) / 64).cpu()
    assert (tuple(views.shape), views.dtype) == ((40, 3, 32, 32), torch.float32)
    for image, (left, top), view in zip(images, corners, views, strict=True):
        expected = torch.from_numpy(image[top : top + 32, left : left + 32]).permute(2, 0, 1) / 255
        torch.testing.assert_close(view, expected, atol=1e-4, rtol=0)
    whole = replace(WHOLE, image_size=64).cut(images, MIDDLE.repeat(40, 0)).cpu()
    torch.testing.assert_close(whole, torch.from_numpy(images).permute(0, 3, 1, 2) / 255, atol=1e-4, rtol=0)


# Augmentation ---------------------------------------------------------------------------------------------------------

STILL = replace(SMALL, rotation=0.0, translation=0.0, color_jitter=0.0)


class Highest(np.random.Generator):
    """A stream whose uniform numbers are always the highest."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low: float = 0.0, high: float = 1.0, size: object = None) -> np.ndarray:
        return np.full(() if size is None else size, high, dtype=float)


def test_quarter_and_half_turns_are_rot90() -> None:
    """One way or the other, but the same for all; a copy that may not vary is the cut, standardised."""
    images, centres = noise(3), np.array([[0.5, 0.5], [0.25, 0.5], [0.75, 0.25]])
    plain = standardised(STILL.cut(images, centres))
    torch.testing.assert_close(STILL.augment(images, centres, Highest()).cpu(), plain, atol=1e-4, rtol=0)
    quarter = replace(STILL, rotation=90.0).augment(images, centres, Highest()).cpu()
    assert [k for k in range(4) if torch.allclose(quarter, plain.rot90(k, (2, 3)), atol=1e-3)] in ([1], [3])
    half = replace(STILL, rotation=180.0).augment(images, centres, Highest()).cpu()
    torch.testing.assert_close(half, plain.rot90(2, (2, 3)), atol=1e-3, rtol=0)


def test_rotations_and_translations_stay_below_their_largest() -> None:
    """A picture whose colours are the place itself tells where the middle and the right edge of a view came from."""
    place = (np.arange(64) + 0.5) / 64
    image = np.zeros((64, 64, 3))
    image[..., 0], image[..., 1] = place[None, :], place[:, None]
    images = np.repeat((image * 255).round().astype(np.uint8)[None], 300, 0)
    detector = replace(STILL, rotation=30.0, translation=0.1, image_size=33)
    views = detector.augment(images, MIDDLE.repeat(300, 0), np.random.default_rng(0)).cpu()
    values = (views * DEVIATION[:, None, None] + MEAN[:, None, None]).numpy()[:, :2]
    moved = values[:, :, 16, 16] - 0.5
    assert 0.03 < np.abs(moved).max() <= 0.1 * 0.5 + 0.005  # a share of the window
    right = values[:, :, 16, 28] - values[:, :, 16, 4]
    angles, spans = np.degrees(np.arctan2(right[:, 1], right[:, 0])), np.hypot(*right.T) / (24 / 33 * 0.5)
    assert (angles.min(), angles.max()) == pytest.approx((-30, 30), abs=3)
    assert (spans.min(), spans.max()) == pytest.approx((np.exp(-0.2), np.exp(0.2)), abs=0.04)


def test_flipped_copies_come_only_where_they_are_wanted() -> None:
    """Then about half of them, left for right."""
    images, centres = noise(60), MIDDLE.repeat(60, 0)
    plain = standardised(STILL.cut(images, centres))
    for hflip, allowed in ((False, [0]), (True, range(15, 46))):
        views = replace(STILL, hflip=hflip).augment(images, centres, np.random.default_rng(1)).cpu()
        pairs = list(zip(views, plain, strict=True))
        flipped = sum(torch.allclose(view, cut.flip(2), atol=1e-3) for view, cut in pairs)
        assert flipped + sum(torch.allclose(view, cut, atol=1e-3) for view, cut in pairs) == 60
        assert flipped in allowed


def test_the_defect_is_never_cut_away() -> None:
    """A white patch, a third of its window's size: with the defaults all of it stays in view, off the border."""
    images = np.zeros((200, 96, 96, 3), np.uint8)
    images[:, 40:56, 40:56] = 255  # 16 pixels of 48
    detector = DefectTypes(image_size=48, color_jitter=0.0, roi_size=0.5)
    views = detector.augment(images, MIDDLE.repeat(200, 0), np.random.default_rng(0)).cpu()
    share = (views * DEVIATION[:, None, None] + MEAN[:, None, None]).mean(1)
    border = torch.ones(48, 48, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert share[:, border].abs().max() < 1e-4
    area = share.sum((1, 2)) / 16**2
    assert area.min() > 0.97 * np.exp(-4 * detector.translation)  # a view may show more around it
    assert area.max() < 1.03 * np.exp(4 * detector.translation)


# Network --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", ["all", "layer1", "layer2", "layer3"])
@pytest.mark.parametrize("look", ["whole", "mask"])
@pytest.mark.parametrize(("backbone", "weights"), [("resnet18", "synthetic"), ("efficientnet_lite0", "imagenet")])
def test_the_embedding_is_pooled_from_the_backbone(trained: str, look: str, backbone: str, weights: str) -> None:
    """Layer2, then layer3, of the same network with the same weights, wherever it is cut: mean and maximum, or the mean
    under a bell around the middle. No layer is lost, and what lies below the cut is frozen."""
    images = noise(3)
    detector = replace(SMALL, trained=trained, look=look, backbone=backbone, weights=weights)
    encoder, description = detector.new_encoder()
    assert description.startswith(weights)
    views = standardised(replace(WHOLE, image_size=64).cut(images, MIDDLE.repeat(3, 0)))
    with torch.no_grad():
        pooled = encoder(encoder.frozen(views.to(encoder.mean.device)))  # in units of 1 until they are measured
        assert encoder.head(pooled).shape == (3, SMALL.projection)
    expected, bell = [], norm.pdf
    for layer in load_backbone(backbone, weights)(images)[1:]:
        layer = layer.cpu().numpy().astype(np.float64)  # B, h, w, C
        if look == "whole":
            expected += [layer.mean((1, 2)), layer.max((1, 2))]
            continue
        heights = bell((np.arange(layer.shape[1]) + 0.5) / layer.shape[1], 0.5, SMALL.focus)
        expected.append(np.einsum("bhwc,h,w->bc", layer, heights, heights) / heights.sum() ** 2)
    np.testing.assert_allclose(pooled.cpu().numpy(), np.concatenate(expected, axis=1), rtol=1e-3, atol=1e-3)
    names = [[name for name, _ in part.named_children()] for part in (encoder.below, encoder.above)]
    everything = [name for name, _ in trunk(backbone).named_children()]
    assert [*names[0], *names[1]] == everything
    assert everything[-3:] == ["layer1", "layer2", "layer3"]
    assert names[1][0] == {"all": everything[0]}.get(trained, trained)
    assert not any(numbers.requires_grad for numbers in encoder.below.parameters())
    assert all(numbers.requires_grad for numbers in [*encoder.above.parameters(), *encoder.head.parameters()])


@pytest.mark.parametrize(("weights", "above"), [("synthetic", False), ("random", True)])
def test_only_a_network_from_scratch_estimates_its_statistics(weights: str, above: bool) -> None:
    """In training; evaluation stops it for both, and what is frozen never does."""
    encoder = replace(SMALL, weights=weights, trained="all").new_encoder(fill=False)[0].train()
    assert [module.training for module in encoder.above if isinstance(module, torch.nn.BatchNorm2d)] == [above]
    assert encoder.head.training
    assert not any(module.training for module in encoder.eval().modules())
    assert not any(module.training for module in SMALL.new_encoder()[0].train().below.modules())


def test_networks_repeat_with_their_seed() -> None:
    """And leave torch's own stream alone; the head is always new. Weights that do not fit are named."""
    detector = replace(SMALL, weights="random", trained="all")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (detector.new_encoder(seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert equal(first, again)
    assert not torch.equal(first.above.conv1.weight, other.above.conv1.weight)
    one, two = (SMALL.new_encoder(seed)[0] for seed in (1, 2))
    assert equal(one.above, two.above)
    assert not torch.equal(one.head[0].weight, two.head[0].weight)
    for change, message in (
        ({"backbone": "resnet50"}, "resnet50 has no synthetic weights"),
        ({"weights": "gone.pth"}, "gone.pth"),
    ):
        with pytest.raises(WeightsError, match=message):
            replace(SMALL, **change).new_encoder()


def test_units_are_measured_on_views() -> None:
    """Of these every number of the embedding has mean 0 and spread 1, or less where it hardly varies; where all views
    are one, none is blown up."""
    encoder = SMALL.new_encoder()[0]
    layer = encoder.frozen(standardised(replace(WHOLE, image_size=32).cut(noise(12, 32), MIDDLE.repeat(12, 0))))
    with torch.no_grad():
        pooled = encoder.pooled(layer).numpy().astype(np.float64)
        encoder.measure(layer)
        measured = encoder(layer).numpy().astype(np.float64)
    spread, before = measured.std(0, ddof=1), pooled.std(0, ddof=1)
    np.testing.assert_allclose(measured.mean(0), 0, atol=1e-3)
    assert spread.max() <= 1 + 1e-3
    np.testing.assert_allclose(spread[before > np.median(before)], 1, rtol=1e-3)
    np.testing.assert_allclose(measured, (pooled - pooled.mean(0)) * (spread / np.maximum(before, 1e-12)), atol=2e-2)
    encoder.measure(layer[:1].expand(4, -1, -1, -1))
    with torch.no_grad():
        assert encoder(layer[:1]).abs().max() < 1e-3
    assert (encoder.scale > 0).all()


# Gathering ------------------------------------------------------------------------------------------------------------


def test_gathered_layers_are_those_of_the_windows(defects: Defects, table: pd.DataFrame, tmp_path: Path) -> None:
    """In half precision; copies differ from the window and from each other, and come from the seed."""
    _, centres = marked(tmp_path, NAMES)
    np.testing.assert_allclose(defects.centres, centres)
    encoder = SMALL.new_encoder()[0]
    expected = encoder.frozen(standardised(SMALL.cut(defects.images, centres)))
    assert (defects.plain.dtype, defects.copies.dtype) == (torch.float16, torch.float16)
    assert defects.copies.shape == (12, 3, *defects.plain.shape[1:])
    torch.testing.assert_close(defects.plain.float(), expected, atol=1e-2, rtol=1e-2)
    assert (defects.copies[:, 0] - defects.copies[:, 1]).abs().float().flatten(1).mean(1).min() > 1e-3
    again, other = (SMALL.gather(table, seed=seed) for seed in (0, 1))
    assert torch.equal(again.copies, defects.copies)
    assert torch.equal(other.plain, defects.plain)
    assert not torch.equal(other.copies, defects.copies)


@pytest.mark.parametrize(
    ("look", "roi_size", "size", "expected"),
    [("whole", 0.5, 48, 48), ("mask", 0.5, 48, 96), ("predicted", 0.25, 32, 128), ("predicted", 0.3, 128, 427)],
)
def test_each_look_has_its_windows(look: str, roi_size: float, size: int, expected: int, table: pd.DataFrame) -> None:
    """The middle, the peaks of maps, or the masks; and pictures so large that a window has the network's pixels."""
    detector = replace(SMALL, look=look, roi_size=roi_size, image_size=size)
    maps = np.random.default_rng(0).random((2, 20, 20))
    images, centres = detector.load(table[:2], maps)
    assert images.shape == (2, expected, expected, 3)
    masks = [np.array(Image.open(path)) > 0 for path in table["mask_path"][:2]]
    by_look = {"whole": MIDDLE.repeat(2, 0), "predicted": around_peaks(maps), "mask": around_masks(masks)}
    np.testing.assert_array_equal(centres, by_look[look])


def test_mixtures_are_no_type(table: pd.DataFrame) -> None:
    """Which folders are is an option; good images are left out."""
    mixed = table.assign(defect=[*NAMES[:8], *["combined"] * 3, "red"], label=[1] * 11 + [0])
    for mixtures, typed in ((("combined",), 8), ((), 11), (("blue", "red"), 0)):
        if not typed:
            with pytest.raises(DataError, match="two or more, and there is only combined"):
                replace(SMALL, mixtures=mixtures).gather(mixed)
            continue
        defects = replace(SMALL, mixtures=mixtures, copies=2).gather(mixed)
        assert (len(defects.table), len(defects.typed)) == (11, typed)
        assert sorted([*defects.typed, *defects.mixed]) == list(range(11))
        assert set(defects.types[defects.mixed]) == set(mixtures)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["red", "red", "combined"], "two or more, and there is only red"),
        (["combined"] * 2, "two or more, and there is none"),
        (["red", "red", "blue"], "part/blue has a single image"),
        (["red", "red", UNKNOWN, UNKNOWN], "part/unknown is what a strange defect is called"),
    ],
)
def test_types_that_cannot_be_learned_are_refused(names: list[str], message: str, table: pd.DataFrame) -> None:
    """In one line, before any image is loaded."""
    with pytest.raises(DataError, match=message):
        SMALL.gather(table[: len(names)].assign(defect=names, image_path="gone.png"))


def test_missing_masks_and_maps_are_refused(table: pd.DataFrame) -> None:
    """With the way out; other looks need neither."""
    table = table.assign(mask_path="")
    with pytest.raises(DataError, match="part/test/red/0 has no mask: use the look predicted, or whole"):
        SMALL.gather(table)
    for maps, count in ((None, "none"), (np.zeros((3, 8, 8)), "3")):
        with pytest.raises(DataError, match=f"12 defective images need as many .*maps, and there are {count}"):
            replace(SMALL, look="predicted").gather(table, maps)
    assert len(WHOLE.load(table, None)[0]) == 12


# Fitting --------------------------------------------------------------------------------------------------------------


def test_no_steps_leave_the_frozen_network(defects: Defects) -> None:
    """Only its units are measured; embeddings are its features in these units, of length 1."""
    detector = fitted(defects, steps=0)
    assert (len(detector.curve), list(detector.curve.columns)) == (0, ["step", "loss"])
    fresh = defects.encoder.state_dict()
    for name, value in detector.encoder.state_dict().items():
        assert name in ("mean", "scale") or torch.equal(value, fresh[name])
    assert not fresh["mean"].any()  # the gathered encoder is left as it was
    with torch.no_grad():
        features = detector.encoder(defects.plain.to(detector.encoder.mean.device).float()).cpu().numpy()
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(detector.embeddings, expected, atol=1e-5)
    assert (detector.names, detector.seed, detector.limit) == (["blue", "red"], 0, np.inf)
    assert detector.image_ids == list(defects.table["image_id"])


def test_an_image_says_the_same_from_its_file_and_gathered(defects: Defects, table: pd.DataFrame) -> None:
    """But for half precision; order and batches do not matter. `fit` gathers, `score` loads; unfitted it says so."""
    detector = fitted(defects)
    embeddings = detector.embed(defects.images, defects.centres)
    assert (embeddings.shape, embeddings.dtype) == ((12, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert (embeddings * detector.embeddings).sum(1).min() > 0.999
    order = np.random.default_rng(0).permutation(12)[:5]
    some = detector.embed(defects.images[order], defects.centres[order])
    np.testing.assert_allclose(some, embeddings[order], atol=1e-5)
    assert detector.encoder.embed(defects.plain[:0]).shape == (0, 384)
    alone = replace(SMALL).fit(table)
    assert equal(alone.encoder, detector.encoder)
    alone.limit = float(np.sort(detector.novelty(embeddings))[8])
    scores = alone.score(table[::-1])
    assert scores["image_id"].tolist() == table["image_id"].tolist()[::-1]
    nearest = np.array(["blue", "red"])[(embeddings @ detector.prototypes.T).argmax(1)]
    expected = np.where(detector.novelty(embeddings) > alone.limit, UNKNOWN, nearest)
    assert scores["predicted"].tolist() == expected.tolist()[::-1]
    assert scores["predicted"].tolist().count(UNKNOWN) == 3
    np.testing.assert_allclose(scores["novelty"], detector.novelty(embeddings)[::-1], atol=1e-5)
    np.testing.assert_allclose(scores["similarity"], (embeddings @ detector.prototypes.T).max(1)[::-1], atol=1e-5)
    with pytest.raises(SettingsError, match=r"this defect_types is not fitted: call fit\(table\) first"):
        replace(SMALL).score(table)


@pytest.mark.parametrize("objective", ["supcon", "simclr"])
def test_a_run_repeats_and_spares_what_is_frozen(objective: str, defects: Defects) -> None:
    """The frozen layers, and the statistics of a pretrained network; what is trained moves; another seed differs."""
    detector, again = (fitted(defects, objective=objective) for _ in range(2))
    assert equal(detector.encoder, again.encoder)
    assert detector.curve.equals(again.curve)
    assert detector.embeddings.tobytes() == again.embeddings.tobytes()
    assert len(detector.curve) == 4
    before = defects.encoder.state_dict()
    for name, value in detector.encoder.state_dict().items():
        if name.startswith("below") or "running" in name or "num_batches" in name:
            assert torch.equal(value, before[name]), name
    for name, value in detector.encoder.named_parameters():
        assert name.startswith("below") or not torch.equal(value, before[name]), name
    assert all(weights.grad is None for weights in detector.encoder.below.parameters())
    assert not any(module.training for module in detector.encoder.modules())
    other = fitted(defects, seed=1, objective=objective)
    assert other.seed == 1
    assert not torch.equal(other.encoder.above.layer3[0].conv1.weight, detector.encoder.above.layer3[0].conv1.weight)


def test_where_the_cut_lies_matters_only_in_training(defects: Defects, table: pd.DataFrame) -> None:
    """Without a step the network is one and the same, but for half precision; from scratch it is trained whole, its
    first layer and its statistics too. Options that the gathered layers rest on cannot change afterwards."""
    everything = replace(SMALL, trained="all").gather(table)
    assert everything.plain.shape == (12, 3, 32, 32)  # nothing lies below
    assert (fitted(everything, steps=0).embeddings * fitted(defects, steps=0).embeddings).sum(1).min() > 0.99
    scratch = replace(SMALL, weights="random", trained="all", steps=2).gather(table)
    detector = fitted(scratch)
    assert detector.weights_name == "random, from scratch"
    for name in ("conv1.weight", "bn1.running_mean", "layer3.1.bn2.running_var"):
        assert not torch.equal(detector.encoder.above.state_dict()[name], scratch.encoder.above.state_dict()[name])
    assert equal(scratch.encoder, scratch.options.new_encoder()[0])
    with pytest.raises(SettingsError, match="gathered with another roi_size, rotation: gather them again"):
        fitted(defects, roi_size=0.4, rotation=3.0)


def test_the_new_head_takes_ten_times_the_rate(defects: Defects) -> None:
    """Adam's first step is the rate, whatever the gradient; the median of each part tells it."""
    detector, before = fitted(defects, steps=1), dict(defects.encoder.named_parameters())
    for part, factor in (("above", 1), ("head", 10)):
        named = [(name, weights) for name, weights in detector.encoder.named_parameters() if name.startswith(part)]
        moved = torch.cat([(weights - before[name]).detach().abs().flatten() for name, weights in named])
        moved = moved[moved > SMALL.lr / 10]  # some have no gradient, and only decay
        assert moved.median().item() == pytest.approx(factor * SMALL.lr, rel=0.02)


def test_both_losses_learn_two_colours(table: pd.DataFrame, tmp_path: Path) -> None:
    """SupCon's falls to its least: four of each type in one place each and the types opposite give log 3 at any τ.
    SimCLR's falls below log 7, what it is when all eight views look the same."""
    easy = replace(SMALL, trained="all", color_jitter=0.1, steps=20)  # the weights alone hardly look at colours
    defects = easy.gather(table)
    detector = fitted(defects)
    loss = detector.curve["loss"].to_numpy()
    assert loss.min() > np.log(3) - 1e-4
    assert loss[-5:].mean() < np.log(3) + 0.05 < np.log(7) < loss[0]  # log 7: all eight in one place
    new = ["blue", "red", "red", "blue", "red", "blue"]
    images, centres = easy.load(marked(tmp_path, new, seed=9)[0], None)
    before, after = (
        silhouette_score(network.embed(images, centres), new, metric="cosine")
        for network in (fitted(defects, steps=0), detector)
    )
    assert after > max(0.8, before + 0.2)
    assert detector.predict(detector.embed(images, centres)).tolist() == new
    loss = fitted(defects, objective="simclr").curve["loss"]
    assert loss.iloc[-5:].mean() < min(loss.iloc[0], np.log(7)) - 0.3


@pytest.mark.parametrize("objective", ["supcon", "simclr"])
def test_only_the_chosen_rows_are_learned_from(objective: str, defects: Defects) -> None:
    """Whatever the other images look like, and whatever they are called. With types permuted, simclr has the same
    weights, to the bit, and supcon has not; prototypes differ for both."""
    rows = np.array([8, 1, 0, 5, 7, 2])
    detector = fitted(defects, rows, objective=objective)
    rest = np.setdiff1d(np.arange(12), rows)
    plain, copies = defects.plain.clone(), defects.copies.clone()
    plain[rest], copies[rest] = 7, -3
    types = [NAMES[k] if k in rows else "neither" for k in range(12)]
    again = fitted(replace(renamed(defects, types), plain=plain, copies=copies), rows, objective=objective)
    assert equal(detector.encoder, again.encoder)
    np.testing.assert_array_equal(detector.embeddings, again.embeddings)
    assert detector.types.tolist() == [NAMES[k] for k in rows]
    assert again.names == ["blue", "red"]
    permuted = [NAMES[k] for k in (0, 3, 5, 1, 2, 7, 4, 6, 8, 9, 10, 11)]
    other = fitted(renamed(defects, permuted), rows, objective=objective)
    assert equal(detector.encoder, other.encoder) == (objective == "simclr")
    assert not np.allclose(detector.prototypes, other.prototypes)


def test_batches_hold_as_many_of_each_type(defects: Defects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though one type has nine images and the other three; and two views of each of half as many images with simclr."""
    asked: list[Any] = []

    def watched(name: str, note: Callable[..., Any]) -> None:
        loss = getattr(defect_types, name)
        monkeypatch.setattr(defect_types, name, lambda *given: asked.append(note(*given)) or loss(*given))

    watched("supcon", lambda embeddings, types, temperature: (len(embeddings), types.bincount().tolist(), temperature))
    watched("nt_xent", lambda first, second, temperature: (len(first), len(second), temperature))
    fitted(renamed(defects, ["red"] * 9 + ["blue"] * 3), batch=9)
    assert asked == [(8, [4, 4], 0.1)] * 4
    asked.clear()
    for batch in (8, 200):
        fitted(defects, objective="simclr", batch=batch)
    assert asked == [(4, 4, 0.1)] * 4 + [(12, 12, 0.1)] * 4  # never more than there are


@pytest.mark.parametrize("rows", [[0, 2, 4], []])
def test_one_type_is_none_to_tell_apart(rows: list[int], defects: Defects) -> None:
    """Among the chosen rows."""
    with pytest.raises(DataError, match="telling defect types apart needs two or more, and there is"):
        fitted(defects, np.array(rows, dtype=int))


# Checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["supcon", "simclr"])
@pytest.mark.parametrize("until", [1, 3])
def test_an_interrupted_run_ends_with_the_same_bytes(
    objective: str, until: int, defects: Defects, monkeypatch: pytest.MonkeyPatch, moves: list[tuple[int]]
) -> None:
    """Stopped, and gone on with; its checkpoint lies where it says, and serves again when it is whole."""
    given = {"objective": objective, "checkpoints": checkpoints_folder()}
    whole = fitted(defects, np.arange(1, 12), 2, objective=objective)
    monkeypatch.setattr(defect_types, "Run", partial(Run, until=until))
    broken = fitted(defects, np.arange(1, 12), 2, **given)
    assert len(broken.curve) == until
    assert list(checkpoints_folder().iterdir()) == broken.checkpoint_files
    monkeypatch.setattr(defect_types, "Run", Run)
    for expected in ([(step,) for step in range(until, 4)], []):
        moves.clear()
        again = fitted(defects, np.arange(1, 12), 2, **given)
        assert moves == expected
        assert equal(again.encoder, whole.encoder)
        assert again.curve.equals(whole.curve)
        assert again.embeddings.tobytes() == whole.embeddings.tobytes()


def test_another_run_has_another_checkpoint(defects: Defects, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other rows, seed, options, types, copies or pixels; but types not with simclr. A damaged one is named."""
    monkeypatch.setattr(defect_types, "Run", partial(Run, until=0))
    pixels, rows = defects.plain.clone(), np.arange(12)
    pixels[3, 0, 0, 0] += 1

    def path(defects: Defects = defects, rows: np.ndarray = rows, seed: int = 0, **more: Any) -> Path:
        (file,) = fitted(defects, rows, seed, checkpoints=tmp_path, **more).checkpoint_files
        return file

    for objective in ("supcon", "simclr"):
        given = {"objective": objective}
        others = [path(rows=rows[1:], **given), path(rows=rows[::-1].copy(), **given), path(seed=1, **given)]
        others += [path(temperature=0.2, **given), path(replace(defects, plain=pixels), **given)]
        others += [path(replace(defects, weights="others"), **given), path(replace(defects, seed=1), **given)]
        assert len({path(**given), path(**given), *others}) == 8
        again = renamed(defects, np.where(defects.types == "red", "green", defects.types))
        assert (path(again, **given) == path(**given)) == (objective == "simclr")
    path().write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match="cannot be read: remove it"):
        path()


# Verdicts -------------------------------------------------------------------------------------------------------------


def directions(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane, (N, 2) float32."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def scattered(count: int, seed: int) -> np.ndarray:
    """Unit vectors, (count, 6) float32."""
    vectors = np.random.default_rng(seed).normal(size=(count, 6))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def detector_of(embeddings: np.ndarray, types: list[str], neighbours: int = 2) -> DefectTypes:
    """A detector whose embeddings are given."""
    detector = replace(SMALL, neighbours=neighbours)
    detector.embeddings, detector.types = embeddings, np.array(types, dtype=object)
    detector.image_ids, detector.seed, detector.encoder = [f"i/{k}" for k in range(len(types))], 0, torch.nn.Identity()
    return detector


def test_prototypes_are_middle_directions() -> None:
    """In the order of their names, however long the mean is."""
    prototypes = defect_types.prototypes_of(directions(0, 60, 170, 90, 190), ["b", "b", "a", "c", "a"])
    np.testing.assert_allclose(prototypes, directions(180, 30, 90), atol=1e-6)
    assert prototypes.dtype == np.float32
    vectors, types = scattered(30, 0), np.random.default_rng(0).choice(list("zyx"), 30)
    for prototype, name in zip(defect_types.prototypes_of(vectors, types), "xyz", strict=True):
        mean = np.mean([vector for vector, other in zip(vectors, types, strict=True) if other == name], axis=0)
        np.testing.assert_allclose(prototype, mean / np.sqrt((mean**2).sum()), rtol=1e-5)


def test_the_nearest_prototype_names() -> None:
    """Similarity is the cosine to each, in the order of the names."""
    detector = detector_of(directions(0, 20, 80, 100), ["dent", "dent", "burn", "burn"])
    asked = directions(49, 51, -90, 10)  # prototypes stand at 90° and at 10°
    expected = np.cos(np.radians([[41, 39], [39, 41], [180, 100], [80, 0]]))
    np.testing.assert_allclose(detector.similarity(asked), expected, atol=1e-6)
    assert detector.predict(asked).tolist() == ["dent", "burn", "dent", "dent"]


@pytest.mark.parametrize("neighbours", [1, 3, 10, 50])
def test_novelty_is_the_mean_distance_to_the_nearest(neighbours: int) -> None:
    """Of all known images, by sorting; never more of them than there are."""
    known, asked = scattered(10, 1), scattered(7, 2)
    expected = [np.mean(sorted(1 - float(a @ b) for b in known)[:neighbours]) for a in asked]
    novelty = detector_of(known, ["a", "b"] * 5, neighbours).novelty(asked)
    np.testing.assert_allclose(novelty, expected, rtol=1e-5, atol=1e-6)
    assert novelty.dtype == np.float32


def test_what_is_too_novel_is_unknown() -> None:
    """Above the limit, not at it; until one is calibrated nothing is."""
    detector = detector_of(directions(0, 90), ["dent", "burn"], neighbours=1)
    asked = directions(0, 45, 60, 89, 180)
    assert UNKNOWN not in detector.predict(asked)
    detector.limit = float(detector.novelty(asked)[2])
    assert detector.predict(asked).tolist() == ["dent", UNKNOWN, "burn", "burn", UNKNOWN]


def test_a_type_is_added_without_training() -> None:
    """Its prototype is there, the others and the encoder are what they were, and so is the detector it came from; a
    name that is taken is refused, and a type without an image."""
    detector = detector_of(directions(0, 10, 90), ["dent", "dent", "burn"], neighbours=1)
    detector.limit = 0.2
    more = detector.with_type("crack", directions(175, 185))
    assert more.names == ["burn", "crack", "dent"]
    np.testing.assert_allclose(more.prototypes, directions(90, 180, 5), atol=1e-6)
    np.testing.assert_array_equal(more.prototypes[[0, 2]], detector.prototypes)
    assert more.encoder is detector.encoder
    assert (more.limit, more.seed, more) == (0.2, 0, detector)  # equal options
    assert more.image_ids == ["i/0", "i/1", "i/2", "crack/0", "crack/1"]
    assert (detector.names, len(detector.embeddings)) == (["burn", "dent"], 3)
    assert detector.predict(directions(180)).tolist() == [UNKNOWN]
    assert more.with_type("zip", directions(270)).predict(directions(271, 180)).tolist() == ["zip", "crack"]
    for name, embeddings, message in (
        ("burn", directions(180), "'burn' is known already"),
        (UNKNOWN, directions(180), "'unknown' is known"),
        ("crack", directions(), "type 'crack' has no image: show at least one"),
    ):
        with pytest.raises(DataError, match=message):
            detector.with_type(name, embeddings)


# Artifacts ------------------------------------------------------------------------------------------------------------


def saved(path: Path, *contents: dict[str, Any]) -> artifacts.Artifact:
    """All of them in one artifact."""
    given = {"profile": "custom", "data_source": "synthetic", "categories": ["part"], "options": {}, "seed": 0}
    together = {name: content for some in contents for name, content in some.items()}
    return artifacts.load(artifacts.save("contrastive", together, **given, path=path))


def check_same(first: DefectTypes, second: DefectTypes, defects: Defects) -> None:
    """Pictures have the same embeddings and names, to the bit; and nothing of the fit is lost."""
    asked = noise(6, first.loaded_size), defects.centres[:6]
    assert first.embed(*asked).tobytes() == second.embed(*asked).tobytes()
    embeddings = first.embed(*asked)
    assert first.predict(embeddings).tolist() == second.predict(embeddings).tolist()
    assert first == second  # options
    for name in ("embeddings", "prototypes", "types", "image_ids", "seed", "limit", "weights_name"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    pd.testing.assert_frame_equal(first.curve, second.curve, check_dtype=False)
    assert not any(module.training for module in second.encoder.modules())


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 0.4},
        {"weights": "random", "trained": "all"},
        {"trained": "layer2", "objective": "simclr"},
        {"look": "whole"},
        {"steps": 0},
    ],
    ids=str,
)
def test_the_file_gives_the_same_detector(change: dict[str, Any], table: pd.DataFrame, tmp_path: Path) -> None:
    """From scratch, with its own statistics; without a limit, or a step; with a type that was added; and with names
    that a table reader takes for a number or for nothing."""
    names = ["01", "nan", "1e3"] * 4
    limit = change.pop("limit", np.inf)
    defects = replace(SMALL, **{"steps": 2, **change}).gather(table.assign(defect=names))
    detector = fitted(defects)
    detector.limit = limit
    more = detector.with_type("crack", detector.embeddings[:2])
    artifact = saved(tmp_path / "types.zip", defect_types.files(detector, "part"), defect_types.files(more, "other"))
    again, description = defect_types.load(artifact, "part")
    check_same(detector, again, defects)
    assert description["options"] == detector.options()
    check_same(more, defect_types.load(artifact, "other", seed=0)[0], defects)
    with pytest.raises(ArtifactError, match="has no model of screw defect_types seed any: it holds other defect_types"):
        defect_types.load(artifact, "screw")


def without(*keys: str) -> Callable[[dict[str, Any]], Any]:
    """Tensors are missing."""
    return lambda files: [files[f"{FOLDER}.safetensors"].pop(key) for key in keys]


def described(part: str | None = None, **values: Any) -> Callable[[dict[str, Any]], Any]:
    """The description says something else; None takes a key away."""

    def change(files: dict[str, Any]) -> None:
        description = files[f"{FOLDER}.json"][part] if part else files[f"{FOLDER}.json"]
        for name, value in values.items():
            description.pop(name) if value is None else description.update({name: value})

    return change


FOLDER = "part/defect_types/0/model"
DAMAGE = {
    "no embeddings": without("embeddings"),
    "a layer less": without("encoder.above.layer3.0.conv1.weight"),
    "no units": without("encoder.mean", "encoder.scale"),
    "options that cannot be": described("options", look="box"),
    "options of another version": described("options", colour=1),
    "options of another network": described("options", backbone="resnet50"),
    "no types": described("state", types=None),
    "a type less": described("state", types=NAMES[:11]),
    "an image less": described("state", image_ids=NAMES[:11]),
    "a word for a limit": described("state", limit="high"),
    "embeddings of another width": lambda files: files[f"{FOLDER}.safetensors"].update(embeddings=np.zeros((12, 7))),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_one_line(name: str, defects: Defects, tmp_path: Path) -> None:
    """Whatever is missing or wrong: the artifact is named, and nothing half restored comes back."""
    files = defect_types.files(fitted(defects, steps=0), "part")
    DAMAGE[name](files)
    with pytest.raises(ArtifactError, match=r"broken\.zip"):
        defect_types.load(saved(tmp_path / "broken.zip", files), "part")
