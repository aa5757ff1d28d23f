"""Telling defect types apart: regions and views against slices, networks against the backbone, runs that repeat."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import norm
from sklearn.metrics import pairwise_distances, silhouette_score

from mvtec_ad.backbones import load_backbone
from mvtec_ad.errors import DataError, TrainingError, WeightsError
from mvtec_ad.methods import contrastive
from mvtec_ad.methods.contrastive import (
    UNKNOWN,
    DefectTyper,
    Encoder,
    Regions,
    build,
    fitting,
    model,
    networks,
    regions,
    views,
)
from mvtec_ad.methods.contrastive.networks import blank
from mvtec_ad.settings import TypingSettings
from mvtec_ad.training import Run

SMALL = TypingSettings(
    weights="drawn",
    look="predicted",
    side=0.5,
    focus=0.25,
    image_size=32,
    copies=3,
    light=0.3,
    shift=0.06,
    steps=4,
    batch=8,
    rate=3e-4,
    temperature=0.1,
    projection=8,
    neighbours=3,
)
COLOURS = {"red": (200, 60, 60), "blue": (60, 60, 200), "green": (60, 180, 60)}


def noise(count: int, side: int = 64, seed: int = 0) -> np.ndarray:
    """(count, side, side, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def marked(names: list[str], seed: int = 0) -> tuple[np.ndarray, Regions]:
    """Grey pictures, 64 pixels, with a patch of the type's colour somewhere; and regions of 32 pixels around it."""
    rng = np.random.default_rng(seed)
    images, centres = rng.normal(120, 12, (len(names), 64, 64, 3)), rng.integers(16, 49, (len(names), 2))
    for image, (x, y), name in zip(images, centres, names, strict=True):
        image[y - 8 : y + 8, x - 8 : x + 8] = COLOURS[name] + rng.normal(0, 12, (16, 16, 3))
    return images.clip(0, 255).astype(np.uint8), Regions(centres / 64, 0.5)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks are equal to the bit."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def check_line(problem: pytest.ExceptionInfo) -> None:
    """A message is one line."""
    assert "\n" not in str(problem.value)


# Regions ------------------------------------------------------------------------------------------------------------


def test_whole_is_the_picture() -> None:
    """Its box is its border."""
    found = regions.whole(3)
    assert len(found) == 3
    np.testing.assert_array_equal(found.boxes(100), [[0, 0, 100, 100]] * 3)


def test_boxes_by_hand() -> None:
    """Left, top, right, bottom, in pixels; x comes first; some rows are chosen as numpy does."""
    own = Regions(np.array([[0.25, 0.5], [0.75, 0.75], [0.5, 0.25]]), 0.5)
    np.testing.assert_allclose(own.boxes(64), [[0, 16, 32, 48], [32, 32, 64, 64], [16, 0, 48, 32]])
    np.testing.assert_allclose(own[np.array([2, 0])].boxes(64), own.boxes(64)[[2, 0]])
    np.testing.assert_allclose(own[slice(1, 3)].boxes(64), own.boxes(64)[1:])
    assert own[np.array([True, False, False])].side == 0.5


@pytest.mark.parametrize("side", [0.1, 0.5, 1.0])
def test_regions_have_the_peak_in_the_middle(side: float) -> None:
    """Of maps that are not square, by a search through every pixel."""
    maps = np.random.default_rng(0).normal(size=(50, 17, 40))
    found = regions.around_peaks(maps, side)
    expected = []
    for one in maps:
        row, column = next((r, c) for r in range(17) for c in range(40) if one[r, c] == one.max())
        expected.append([(column + 0.5) / 40, (row + 0.5) / 17])
    np.testing.assert_allclose(found.centres, expected)
    assert found.side == side
    boxes = found.boxes(64)
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], 64 * side)
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, 64 * np.array(expected))


@pytest.mark.parametrize("place", [(0, 0), (0, 63), (63, 0), (63, 63), (32, 63)])
def test_a_peak_in_a_corner_stays_in_the_middle(place: tuple[int, int]) -> None:
    """The view shows its pixel there; beyond the border the picture is mirrored, as numpy's symmetric padding."""
    maps = np.full((1, 64, 64), -3.0)
    maps[0][place] = -2.0
    images = noise(1)
    found = views.cut(images, regions.around_peaks(maps, 33 / 64), 33).cpu()[0]
    row, column = place
    padded = np.pad(images[0], ((16, 16), (16, 16), (0, 0)), mode="symmetric")[row : row + 33, column : column + 33]
    torch.testing.assert_close(found, torch.from_numpy(padded).permute(2, 0, 1) / 255, atol=2e-4, rtol=0)
    assert (found[:, 16, 16] * 255).round().tolist() == images[0][place].tolist()


def test_of_equal_peaks_the_first_is_taken() -> None:
    """In reading order; a flat map has its first pixel."""
    maps = np.zeros((2, 8, 8))
    maps[0, [5, 3, 3], [0, 6, 4]] = 1
    np.testing.assert_allclose(regions.around_peaks(maps, 0.1).centres[0], [4.5 / 8, 3.5 / 8])
    np.testing.assert_allclose(regions.around_peaks(maps, 0.1).centres[1], [0.5 / 8, 0.5 / 8])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_named(value: float) -> None:
    """The first such one."""
    maps = np.zeros((4, 6, 6))
    maps[2:, 1, 1] = value
    with pytest.raises(DataError, match="anomaly map 2 holds values that are not finite: score") as problem:
        regions.around_peaks(maps, 0.5)
    check_line(problem)


def test_the_largest_part_of_a_mask_is_looked_at() -> None:
    """Its middle, against scipy's labels and centres of mass; diagonal neighbours hang together."""
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
    found = regions.around_masks(np.stack(masks), 0.02).centres
    np.testing.assert_allclose(found, expected)


def test_two_parts_of_a_mask_by_hand() -> None:
    """A square of 4 beats a line of 3, though the line comes first; its middle is that of its pixels."""
    mask = np.zeros((1, 10, 10), bool)
    mask[0, 0, :3] = True
    mask[0, 8:, 8:] = True
    np.testing.assert_allclose(regions.around_masks(mask, 0.1).centres, [[0.9, 0.9]])
    np.testing.assert_allclose(regions.around_masks(mask, 0.6).boxes(10), [[6, 6, 12, 12]])
    np.testing.assert_allclose(regions.around_masks(np.ones((1, 10, 10), bool), 0.4).centres, [[0.5, 0.5]])


def test_an_empty_mask_is_refused() -> None:
    """By its number; other memory layouts are read."""
    masks = np.ones((3, 4, 4), bool)
    masks[1] = False
    with pytest.raises(DataError, match="mask 1 is empty") as problem:
        regions.around_masks(masks, 0.5)
    check_line(problem)
    wide = np.zeros((8, 16), bool)
    wide[4:, 12:] = True
    np.testing.assert_allclose(regions.around_masks(wide.T[None], 0.1).centres, [[0.75, 0.875]])


# Views --------------------------------------------------------------------------------------------------------------


def test_a_cut_is_a_slice() -> None:
    """Where the region's pixels are the view's, also of more images than are cut at once."""
    images = noise(40)
    corners = np.random.default_rng(2).integers(0, 33, (40, 2))
    found = views.cut(images, Regions((corners + 16) / 64, 0.5), 32).cpu()
    assert (tuple(found.shape), found.dtype) == ((40, 3, 32, 32), torch.float32)
    for image, (left, top), view in zip(images, corners, found, strict=True):
        expected = torch.from_numpy(image[top : top + 32, left : left + 32]).permute(2, 0, 1) / 255
        torch.testing.assert_close(view, expected, atol=1e-4, rtol=0)
    whole = views.cut(images, regions.whole(40), 64).cpu()
    torch.testing.assert_close(whole, torch.from_numpy(images).permute(0, 3, 1, 2) / 255, atol=1e-4, rtol=0)


def test_what_is_shown_is_standardised() -> None:
    """With the numbers of torchvision's networks."""
    images, own = noise(3), Regions(np.array([[0.5, 0.5], [0.25, 0.75], [0.5, 0.375]]), 0.5)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (views.cut(images, own, 32).cpu() - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(views.shown(images, own, 32).cpu(), expected)


STILL = replace(SMALL, turn=0.0, shift=0.0, light=0.0, mirror=False)


class Highest(np.random.Generator):
    """A stream whose uniform numbers are always the highest."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low: float = 0.0, high: float = 1.0, size: object = None) -> np.ndarray:
        return np.full(() if size is None else size, high, dtype=float)


def test_a_copy_that_may_not_vary_is_the_cut() -> None:
    """No turn, shift, light or mirror."""
    images, own = noise(5), Regions(np.random.default_rng(0).uniform(0.25, 0.75, (5, 2)), 0.5)
    found = views.vary(images, own, STILL, np.random.default_rng(0))
    torch.testing.assert_close(found, views.shown(images, own, 32), atol=1e-4, rtol=0)


def test_a_turn_of_90_degrees_is_rot90() -> None:
    """One way or the other, but the same for all; and half a turn is rot90 twice."""
    images, own = noise(3), Regions(np.array([[0.5, 0.5], [0.25, 0.5], [0.75, 0.25]]), 0.5)
    plain = views.shown(images, own, 32)
    quarter = views.vary(images, own, replace(STILL, turn=90.0), Highest())
    fits = [k for k in range(4) if torch.allclose(quarter, plain.rot90(k, (2, 3)), atol=1e-3)]
    assert fits in ([1], [3])
    half = views.vary(images, own, replace(STILL, turn=180.0), Highest())
    torch.testing.assert_close(half, plain.rot90(2, (2, 3)), atol=1e-3, rtol=0)


def test_turns_and_shifts_stay_below_their_largest() -> None:
    """A picture whose colours are the place itself tells where the middle and the upper edge of a view came from."""
    place = (np.arange(64) + 0.5) / 64
    image = np.zeros((64, 64, 3))
    image[..., 0], image[..., 1] = place[None, :], place[:, None]
    images = np.repeat((image * 255).round().astype(np.uint8)[None], 300, 0)
    own = replace(STILL, turn=30.0, shift=0.1, image_size=33)
    found = views.vary(images, Regions(np.full((300, 2), 0.5), 0.5), own, np.random.default_rng(0)).cpu()
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = (found * deviation[:, None, None] + mean[:, None, None]).numpy()[:, :2]
    moved = found[:, :, 16, 16] - 0.5
    assert 0.03 < np.abs(moved).max() <= 0.1 * 0.5 + 0.005  # a share of the region
    right = found[:, :, 16, 28] - found[:, :, 16, 4]
    angles, spans = np.degrees(np.arctan2(right[:, 1], right[:, 0])), np.hypot(*right.T) / (24 / 33 * 0.5)
    assert (angles.min(), angles.max()) == pytest.approx((-30, 30), abs=3)
    assert (spans.min(), spans.max()) == pytest.approx((np.exp(-0.2), np.exp(0.2)), abs=0.04)


def test_mirrored_copies_come_only_where_they_are_wanted() -> None:
    """Then about half of them, left for right."""
    images, own = noise(60), regions.whole(60)
    plain = views.shown(images, own, 32)
    for mirror, allowed in ((False, [0]), (True, range(15, 46))):
        found = views.vary(images, own, replace(STILL, mirror=mirror), np.random.default_rng(1))
        flipped = [torch.allclose(one, other.flip(2), atol=1e-3) for one, other in zip(found, plain, strict=True)]
        same = [torch.allclose(one, other, atol=1e-3) for one, other in zip(found, plain, strict=True)]
        assert sum(flipped) + sum(same) == 60
        assert sum(flipped) in allowed


def test_copies_repeat_with_their_stream() -> None:
    """The same bits from the same numbers, others from others; and every image gets its own."""
    images, own = np.repeat(noise(1), 4, 0), Regions(np.full((4, 2), 0.5), 0.5)
    first, again, other = (views.vary(images, own, SMALL, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert (first - other).abs().flatten(1).mean(1).min() > 0.05
    assert all((first[i] - first[j]).abs().mean() > 0.05 for i in range(4) for j in range(i))


def test_the_defect_is_never_cut_away() -> None:
    """A white patch, a third of its region's side: with the defaults all of it stays in view, off the border."""
    images = np.zeros((200, 96, 96, 3), np.uint8)
    images[:, 40:56, 40:56] = 255  # 16 pixels of 48
    own = TypingSettings(image_size=48, light=0.0)
    found = views.vary(images, Regions(np.full((200, 2), 0.5), 0.5), own, np.random.default_rng(0)).cpu()
    black = views.shown(np.zeros((1, 96, 96, 3), np.uint8), Regions(np.full((1, 2), 0.5), 0.5), 48).cpu()
    white = views.shown(np.full((1, 96, 96, 3), 255, np.uint8), Regions(np.full((1, 2), 0.5), 0.5), 48).cpu()
    share = ((found - black) / (white - black)).mean(1)
    border = torch.ones(48, 48, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert share[:, border].abs().max() < 1e-4
    area = share.sum((1, 2)) / 16**2
    assert area.min() > 0.97 * np.exp(-4 * own.shift)  # a view may show more around it
    assert area.max() < 1.03 * np.exp(4 * own.shift)


# Networks -----------------------------------------------------------------------------------------------------------


def pooled_by_hand(images: np.ndarray, focus: float) -> np.ndarray:
    """Layers 2 and 3 of the carried backbone: mean and maximum, or the mean under a bell around the middle."""
    found = []
    for layer in load_backbone("resnet18", "drawn")(images)[1:]:
        layer = layer.cpu().numpy().astype(np.float64)  # B, h, w, C
        if not focus:
            found += [layer.mean((1, 2)), layer.max((1, 2))]
            continue
        places = (np.arange(layer.shape[1]) + 0.5) / layer.shape[1]
        bell = np.outer(norm.pdf(places, 0.5, focus), norm.pdf(places, 0.5, focus))
        found.append(np.einsum("bhwc,hw->bc", layer, bell) / bell.sum())
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("trained", ["all", "layer1", "layer2", "layer3"])
@pytest.mark.parametrize(("look", "focus", "width"), [("whole", 0.2, 768), ("predicted", 0.2, 384), ("mask", 0.1, 384)])
def test_the_embedding_is_pooled_from_the_backbone(trained: str, look: str, focus: float, width: int) -> None:
    """Layer2, then layer3, of the same network with the same weights, wherever it is cut."""
    images = noise(3)
    encoder, description = build(replace(SMALL, trained=trained, look=look, focus=focus))
    assert description.startswith("drawn")
    with torch.no_grad():
        below = encoder.below(views.shown(images, regions.whole(3), 64).cpu())
        found = encoder(below)
        torch.testing.assert_close(found, encoder.pooled(below))  # in units of 1 until they are measured
        assert encoder.head(found).shape == (3, SMALL.projection)
    expected = pooled_by_hand(images, 0 if look == "whole" else focus)
    assert found.shape == expected.shape == (3, width)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("height", "width", "focus"), [(1, 1, 0.1), (8, 8, 0.13), (7, 4, 0.3), (5, 9, 100.0)])
def test_a_window_is_a_bell_around_the_middle(height: int, width: int, focus: float) -> None:
    """Its weights add up to 1 and are the same from all four sides; a wide one is a plain mean."""
    window = networks.gaussian_window(height, width, focus)
    assert window.shape == (height, width)
    assert window.sum().item() == pytest.approx(1)
    torch.testing.assert_close(window, window.flip(0))
    torch.testing.assert_close(window, window.flip(1))
    bells = [norm.pdf((np.arange(count) + 0.5) / count, 0.5, focus) for count in (height, width)]
    np.testing.assert_allclose(window.numpy(), np.outer(*bells) / np.outer(*bells).sum(), rtol=1e-4)
    if focus == 100:
        np.testing.assert_allclose(window.numpy(), 1 / 45, rtol=1e-3)


def test_what_is_frozen_and_what_is_trained() -> None:
    """Every layer up to layer3 is on one side of the cut; none is lost, and the last of ResNet is not there."""
    held = {}
    for trained in ("all", "layer1", "layer2", "layer3"):
        encoder = blank(replace(SMALL, trained=trained))
        below, above = ([name for name, _ in part.named_children()] for part in (encoder.below, encoder.above))
        assert [*below, *above] == ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
        assert above[0] == {"all": "conv1"}.get(trained, trained)
        assert not any(weights.requires_grad for weights in encoder.below.parameters())
        assert all(weights.requires_grad for weights in [*encoder.above.parameters(), *encoder.head.parameters()])
        assert not any(module.training for module in encoder.modules())
        held[trained] = sum(weights.numel() for weights in [*encoder.below.parameters(), *encoder.above.parameters()])
    assert len(set(held.values())) == 1


@pytest.mark.parametrize(("weights", "above"), [("drawn", False), ("random", True)])
def test_only_a_network_from_scratch_estimates_its_statistics(weights: str, above: bool) -> None:
    """In training; evaluation stops it for both."""
    encoder = blank(replace(SMALL, weights=weights, trained="all")).train()
    assert [module.training for module in encoder.above if isinstance(module, torch.nn.BatchNorm2d)] == [above]
    assert encoder.head.training
    assert not any(module.training for module in encoder.eval().modules())
    assert not any(module.training for module in blank(SMALL).train().below.modules())


def test_networks_repeat_with_their_seed() -> None:
    """And leave torch's own stream alone."""
    own = replace(SMALL, weights="random", trained="all")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = build(own, 1)[0], build(own, 1)[0], build(own, 2)[0]
    assert torch.equal(torch.rand(3), expected)
    assert equal(first, again)
    assert not torch.equal(first.above.conv1.weight, other.above.conv1.weight)
    assert not torch.equal(first.head[0].weight, other.head[0].weight)
    drawn = [build(SMALL, seed)[0] for seed in (1, 2)]
    assert equal(drawn[0].above, drawn[1].above)
    assert not torch.equal(drawn[0].head[0].weight, drawn[1].head[0].weight)  # the head is always new


def test_weights_of_another_network_are_refused() -> None:
    """The carried ones are of ResNet-18."""
    with pytest.raises(WeightsError, match=r"resnet50.*wrong network") as problem:
        build(replace(SMALL, backbone="resnet50"))
    check_line(problem)
    with pytest.raises(WeightsError) as problem:
        build(replace(SMALL, weights="gone.pth"))
    check_line(problem)


def test_units_are_measured_on_views() -> None:
    """Of these every number of the embedding has mean 0 and spread 1, or less where it hardly varies."""
    encoder = build(SMALL)[0]
    with torch.inference_mode():
        seen = encoder.below(views.shown(noise(12, 32), regions.whole(12), 32).cpu()).clone()
        pooled = encoder.pooled(seen).numpy().astype(np.float64)
    before = [own.clone() for own in encoder.parameters()]
    encoder.measure(seen)
    with torch.inference_mode():
        found = encoder(seen).numpy().astype(np.float64)
    spread, own = found.std(0, ddof=1), pooled.std(0, ddof=1)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-3)
    assert spread.max() <= 1 + 1e-3
    often = own > np.median(own)
    np.testing.assert_allclose(spread[often], 1, rtol=1e-3)
    np.testing.assert_allclose(found, (pooled - pooled.mean(0)) * (spread / np.maximum(own, 1e-12)), atol=2e-2)
    assert all(torch.equal(one, other) for one, other in zip(before, encoder.parameters(), strict=True))


def test_features_that_never_vary_are_not_blown_up() -> None:
    """One image many times: embeddings of 0, none of them infinite or nan."""
    encoder = build(SMALL)[0]
    with torch.inference_mode():
        seen = encoder.below(views.shown(noise(1, 32), regions.whole(1), 32).cpu()).expand(4, -1, -1, -1).clone()
    encoder.measure(seen)
    with torch.inference_mode():
        assert encoder(seen).abs().max() < 1e-3
    assert (encoder.scale > 0).all()


# Fitting ------------------------------------------------------------------------------------------------------------

NAMES = ["red", "blue"] * 6


@pytest.fixture(scope="module")
def seen() -> fitting.Views:
    """Twelve pictures of two types."""
    return fitting.views_of(SMALL, *marked(NAMES), progress=False)


def test_views_are_what_the_frozen_layers_say(seen: fitting.Views) -> None:
    """In half precision; copies differ from the region and from each other, and come from the seed."""
    images, own = marked(NAMES)
    encoder = build(SMALL)[0]
    with torch.inference_mode():
        expected = encoder.below(views.shown(images, own, 32).cpu())
    assert (seen.plain.dtype, seen.copies.dtype) == (torch.float16, torch.float16)
    assert seen.copies.shape == (12, 3, *seen.plain.shape[1:])
    torch.testing.assert_close(seen.plain.float(), expected, atol=1e-2, rtol=1e-2)
    assert (seen.copies[:, 0] - seen.copies[:, 1]).abs().float().flatten(1).mean(1).min() > 1e-3
    again, other = (fitting.views_of(SMALL, images, own, seed=seed, progress=False) for seed in (0, 1))
    assert torch.equal(again.copies, seen.copies)
    assert torch.equal(other.plain, seen.plain)
    assert not torch.equal(other.copies, seen.copies)


def test_no_steps_leave_the_frozen_network(seen: fitting.Views) -> None:
    """Only its units are measured; embeddings are its features in these units, of length 1."""
    typer = contrastive.fit(replace(SMALL, steps=0), seen, NAMES, progress=False)
    assert len(typer.curve) == 0
    assert list(typer.curve.columns) == ["step", "loss"]
    fresh = seen.encoder.state_dict()
    for name, own in typer.encoder.state_dict().items():
        assert name in ("mean", "scale") or torch.equal(own, fresh[name])
    assert not fresh["mean"].any()  # the views' own encoder is left as it was
    with torch.inference_mode():
        features = typer.encoder(seen.plain.to(typer.encoder.mean.device).float()).cpu().numpy()
    np.testing.assert_allclose(typer.embeddings, features / np.linalg.norm(features, axis=1, keepdims=True), atol=1e-5)
    assert (typer.names, typer.seed, typer.limit) == (["blue", "red"], 0, np.inf)
    assert typer.types.tolist() == NAMES


def test_what_an_image_says_from_its_file_and_from_the_views(seen: fitting.Views) -> None:
    """The same, but for half precision; the order of images and the size of batches do not matter."""
    images, own = marked(NAMES)
    typer = contrastive.fit(SMALL, seen, NAMES, progress=False)
    found = typer.embed(images, own)
    assert (found.shape, found.dtype) == ((12, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert (found * typer.embeddings).sum(1).min() > 0.999
    np.testing.assert_allclose(model.embed(typer.encoder, seen.plain), typer.embeddings, atol=1e-6)
    order = np.random.default_rng(0).permutation(12)[:5]
    np.testing.assert_allclose(typer.embed(images[order], own[order]), found[order], atol=1e-5)


@pytest.mark.parametrize("objective", ["supcon", "simclr"])
def test_a_run_repeats_bit_by_bit_and_spares_what_is_frozen(objective: str, seen: fitting.Views) -> None:
    """The frozen layers, and the statistics of a pretrained network; what is trained moves; another seed differs."""
    own = replace(SMALL, objective=objective)
    typer, again = (contrastive.fit(own, seen, NAMES, progress=False) for _ in range(2))
    assert equal(typer.encoder, again.encoder)
    assert typer.curve.equals(again.curve)
    np.testing.assert_array_equal(typer.embeddings, again.embeddings)
    assert len(typer.curve) == 4
    assert equal(typer.encoder.below, seen.encoder.below)
    before = seen.encoder.state_dict()
    for name, value in typer.encoder.state_dict().items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(value, before[name]), name
    assert all(
        not torch.equal(value, before[name])
        for name, value in typer.encoder.named_parameters()
        if name.startswith(("above", "head"))
    )
    assert all(weights.grad is None for weights in typer.encoder.below.parameters())
    assert not any(module.training for module in typer.encoder.modules())
    other = contrastive.fit(own, seen, NAMES, seed=1, progress=False)
    assert other.seed == 1
    assert not torch.equal(other.encoder.above.layer3[0].conv1.weight, typer.encoder.above.layer3[0].conv1.weight)


def test_a_network_from_scratch_is_trained_whole() -> None:
    """Its first layer and its statistics too; and what is trained is no part of the views' own encoder."""
    own = replace(SMALL, weights="random", trained="all", steps=2)
    seen = fitting.views_of(own, *marked(NAMES), progress=False)
    typer = contrastive.fit(own, seen, NAMES, progress=False)
    assert seen.plain.shape == (12, 3, 32, 32)  # nothing lies below
    assert typer.weights == "random, from scratch"
    for name in ("conv1.weight", "bn1.running_mean", "layer3.1.bn2.running_var"):
        assert not torch.equal(typer.encoder.above.state_dict()[name], seen.encoder.above.state_dict()[name])
    assert equal(seen.encoder, build(own)[0])


def test_where_the_cut_lies_matters_only_in_training(seen: fitting.Views) -> None:
    """Without a step the network is one and the same, but for half precision."""
    images, own = marked(NAMES)
    settings = replace(SMALL, trained="all", steps=0)
    everything = fitting.views_of(settings, images, own, progress=False)
    whole = contrastive.fit(settings, everything, NAMES, progress=False)
    cut = contrastive.fit(replace(SMALL, steps=0), seen, NAMES, progress=False)
    assert (whole.embeddings * cut.embeddings).sum(1).min() > 0.99
    assert contrastive.fit(replace(settings, steps=1), everything, NAMES, progress=False).curve["loss"].notna().all()


def test_the_new_head_takes_ten_times_the_rate(seen: fitting.Views) -> None:
    """Adam's first step is the rate, whatever the gradient; the median of each part tells it."""
    typer = contrastive.fit(replace(SMALL, steps=1), seen, NAMES, progress=False)
    before = dict(seen.encoder.named_parameters())
    steps = {"above": [], "head": []}
    for name, weights in typer.encoder.named_parameters():
        if name.startswith(("above", "head")):
            steps[name.partition(".")[0]].append((weights - before[name]).detach().abs().flatten())
    for part, factor in (("above", 1), ("head", 10)):
        moved = torch.cat(steps[part])
        moved = moved[moved > SMALL.rate / 10]  # some have no gradient, and only decay
        assert moved.median().item() == pytest.approx(factor * SMALL.rate, rel=0.02)


EASY = replace(SMALL, trained="all", light=0.1, steps=20)  # the carried weights alone hardly look at colours


@pytest.fixture(scope="module")
def easy() -> fitting.Views:
    """The same pictures, for a network that is trained whole."""
    return fitting.views_of(EASY, *marked(NAMES), progress=False)


def test_supcon_learns_two_colours(easy: fitting.Views) -> None:
    """Its loss falls to its least: four of each type in one place each and the types opposite give log 3 at any τ."""
    typer = contrastive.fit(EASY, easy, NAMES, progress=False)
    loss = typer.curve["loss"].to_numpy()
    assert loss.min() > np.log(3) - 1e-4
    assert loss[-5:].mean() < np.log(3) + 0.05 < np.log(7) < loss[0]  # log 7: all eight in one place
    new = ["blue", "red", "red", "blue", "red", "blue"]
    images, own = marked(new, seed=9)
    before, after = (
        silhouette_score(one.embed(images, own), new, metric="cosine")
        for one in (contrastive.fit(replace(EASY, steps=0), easy, NAMES, progress=False), typer)
    )
    assert after > max(0.8, before + 0.2)
    assert typer.name(typer.embed(images, own)).tolist() == new


def test_simclr_learns_to_find_an_image_again(easy: fitting.Views) -> None:
    """Without types its loss falls below log 7, what it is when all eight views look the same."""
    loss = contrastive.fit(replace(EASY, objective="simclr"), easy, NAMES, progress=False).curve["loss"]
    assert loss.iloc[-5:].mean() < min(loss.iloc[0], np.log(7)) - 0.3


def test_simclr_ignores_types_and_supcon_does_not(seen: fitting.Views) -> None:
    """With types permuted the one has the same weights, to the bit; only the prototypes differ."""
    permuted = [NAMES[k] for k in np.random.default_rng(0).permutation(12)]
    assert permuted != NAMES
    for objective, same in (("simclr", True), ("supcon", False)):
        own = replace(SMALL, objective=objective)
        one, other = (contrastive.fit(own, seen, types, progress=False) for types in (NAMES, permuted))
        assert equal(one.encoder, other.encoder) == same
        assert one.curve.equals(other.curve) == same
        assert not np.allclose(one.prototypes, other.prototypes)


@pytest.mark.parametrize("objective", ["supcon", "simclr"])
def test_only_the_chosen_rows_are_learned_from(objective: str, seen: fitting.Views) -> None:
    """Whatever the other images look like, and whatever they are called."""
    rows = np.array([8, 1, 0, 5, 7, 2])
    own = replace(SMALL, objective=objective)
    typer = contrastive.fit(own, seen, NAMES, rows, progress=False)
    rest = np.setdiff1d(np.arange(12), rows)
    other_plain, other_copies = seen.plain.clone(), seen.copies.clone()
    other_plain[rest], other_copies[rest] = 7, -3
    types = [NAMES[k] if k in rows else "neither" for k in range(12)]
    again = contrastive.fit(own, replace(seen, plain=other_plain, copies=other_copies), types, rows, progress=False)
    assert equal(typer.encoder, again.encoder)
    np.testing.assert_array_equal(typer.embeddings, again.embeddings)
    assert typer.types.tolist() == [NAMES[k] for k in rows]
    assert again.names == ["blue", "red"]


def test_batches_hold_as_many_of_each_type(seen: fitting.Views, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though one type has nine images and the other three; and two views of each of half as many images with simclr."""
    types = np.array(["red"] * 9 + ["blue"] * 3, dtype=object)
    asked: list[np.ndarray] = []
    original = fitting.supcon

    def watch(embeddings: torch.Tensor, numbers: torch.Tensor, temperature: float) -> torch.Tensor:
        asked.append(numbers.cpu().numpy())
        assert len(embeddings) == len(numbers)
        assert temperature == SMALL.temperature
        return original(embeddings, numbers, temperature)

    monkeypatch.setattr(fitting, "supcon", watch)
    contrastive.fit(replace(SMALL, batch=9), seen, types, progress=False)
    assert len(asked) == 4
    assert all(np.bincount(numbers).tolist() == [4, 4] for numbers in asked)
    pairs: list[tuple[int, int]] = []
    pair_loss = fitting.nt_xent

    def watch_pairs(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
        pairs.append((len(first), len(second)))
        return pair_loss(first, second, temperature)

    monkeypatch.setattr(fitting, "nt_xent", watch_pairs)
    contrastive.fit(replace(SMALL, objective="simclr", batch=8), seen, types, progress=False)
    contrastive.fit(replace(SMALL, objective="simclr", batch=200), seen, types, progress=False)
    assert pairs == [(4, 4)] * 4 + [(12, 12)] * 4  # never more than there are


@pytest.mark.parametrize(("types", "rows"), [(["red"] * 12, None), (NAMES, [0, 2, 4]), (NAMES, [])])
def test_one_type_is_none_to_tell_apart(types: list[str], rows: list[int] | None, seen: fitting.Views) -> None:
    """Also among the chosen rows."""
    rows = None if rows is None else np.array(rows, dtype=int)
    with pytest.raises(DataError, match="telling defect types apart needs two or more, and there is") as problem:
        contrastive.fit(SMALL, seen, types, rows, progress=False)
    check_line(problem)


# Checkpoints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["supcon", "simclr"])
@pytest.mark.parametrize("until", [1, 3])
def test_an_interrupted_run_ends_with_the_same_bytes(
    objective: str, until: int, seen: fitting.Views, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    """Stopped, and gone on with; its checkpoint lies where it is said to lie, and serves again when it is whole."""
    own = replace(SMALL, objective=objective)
    rows = np.arange(1, 12)
    whole = contrastive.fit(own, seen, NAMES, rows, seed=2, progress=False)
    monkeypatch.setattr(fitting, "Run", partial(Run, until=until))
    broken = contrastive.fit(own, seen, NAMES, rows, seed=2, checkpoint=True, progress=False)
    assert len(broken.curve) == until
    path = fitting.checkpoint_of(own, seen, np.array(NAMES, dtype=object), rows, 2)
    assert list((own_home / "transfer" / "checkpoints").iterdir()) == [path]
    taken, stream = [], Run.rng
    monkeypatch.setattr(fitting, "Run", Run)
    monkeypatch.setattr(Run, "rng", lambda run, step: taken.append(step) or stream(run, step))
    for expected in (list(range(until, 4)), []):
        taken.clear()
        again = contrastive.fit(own, seen, NAMES, rows, seed=2, checkpoint=True, progress=False)
        assert taken == expected
        assert equal(again.encoder, whole.encoder)
        assert again.curve.equals(whole.curve)
        assert again.embeddings.tobytes() == whole.embeddings.tobytes()


def test_another_run_has_another_checkpoint(seen: fitting.Views) -> None:
    """Other rows, seed, settings, types or pixels; but with simclr types play no part."""
    types, rows = np.array(NAMES, dtype=object), np.arange(12)
    renamed = np.where(types == "red", "green", types)
    pixels = seen.plain.clone()
    pixels[3, 0, 0, 0] += 1
    for objective in ("supcon", "simclr"):
        own = replace(SMALL, objective=objective)
        path = fitting.checkpoint_of(own, seen, types, rows, 0)
        assert path == fitting.checkpoint_of(own, seen, types.copy(), rows.copy(), 0)
        others = [
            fitting.checkpoint_of(own, seen, types, rows[1:], 0),
            fitting.checkpoint_of(own, seen, types, rows[::-1].copy(), 0),
            fitting.checkpoint_of(own, seen, types, rows, 1),
            fitting.checkpoint_of(replace(own, temperature=0.2), seen, types, rows, 0),
            fitting.checkpoint_of(own, replace(seen, weights="others"), types, rows, 0),
            fitting.checkpoint_of(own, replace(seen, plain=pixels), types, rows, 0),
        ]
        assert len({path, *others}) == 7
        assert (fitting.checkpoint_of(own, seen, renamed, rows, 0) == path) == (objective == "simclr")


def test_other_copies_are_another_run(seen: fitting.Views) -> None:
    """Views of another seed hold other copies and another head: a run over them must not go on from this one's."""
    types, rows = np.array(NAMES, dtype=object), np.arange(12)
    other = fitting.views_of(SMALL, *marked(NAMES), seed=1, progress=False)
    assert fitting.checkpoint_of(SMALL, other, types, rows, 0) != fitting.checkpoint_of(SMALL, seen, types, rows, 0)


def test_a_damaged_checkpoint_is_named(seen: fitting.Views) -> None:
    """In one line."""
    path = fitting.checkpoint_of(SMALL, seen, np.array(NAMES, dtype=object), np.arange(12), 0)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"cannot be read: remove it") as problem:
        contrastive.fit(SMALL, seen, NAMES, checkpoint=True, progress=False)
    check_line(problem)


# Verdicts -----------------------------------------------------------------------------------------------------------


def directions(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane, (N, 2) float32."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def scattered(count: int, seed: int, size: int = 6) -> np.ndarray:
    """Unit vectors, (count, size) float32."""
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def typer_of(embeddings: np.ndarray, types: list[str], neighbours: int = 2, limit: float = np.inf) -> DefectTyper:
    """One whose embeddings are given."""
    own = replace(SMALL, neighbours=neighbours)
    return DefectTyper(torch.nn.Identity(), own, 0, "", embeddings, np.array(types, dtype=object), limit)


def test_prototypes_by_hand() -> None:
    """The middle direction of each type, in the order of their names, however long the mean is."""
    found = contrastive.prototypes_of(directions(0, 60, 170, 90, 190), ["b", "b", "a", "c", "a"])
    np.testing.assert_allclose(found, directions(180, 30, 90), atol=1e-6)
    assert found.dtype == np.float32
    vectors, types = scattered(30, 0), np.random.default_rng(0).choice(list("zyx"), 30)
    for own, name in zip(contrastive.prototypes_of(vectors, types), "xyz", strict=True):
        mean = np.mean([vector for vector, other in zip(vectors, types, strict=True) if other == name], axis=0)
        np.testing.assert_allclose(own, mean / np.sqrt((mean**2).sum()), rtol=1e-5)


def test_the_nearest_prototype_names() -> None:
    """Likeness is the cosine to each, in the order of the names."""
    typer = typer_of(directions(0, 20, 80, 100), ["dent", "dent", "burn", "burn"])
    assert typer.names == ["burn", "dent"]
    asked = directions(49, 51, -90, 10)  # prototypes stand at 90° and at 10°
    np.testing.assert_allclose(
        typer.likeness(asked), np.cos(np.radians([[41, 39], [39, 41], [180, 100], [80, 0]])), atol=1e-6
    )
    assert typer.name(asked).tolist() == ["dent", "burn", "dent", "dent"]


@pytest.mark.parametrize("neighbours", [1, 3, 10, 50])
def test_novelty_is_the_mean_distance_to_the_nearest(neighbours: int) -> None:
    """Of all known images, by sorting; never more of them than there are."""
    known, asked = scattered(10, 1), scattered(7, 2)
    expected = [np.mean(sorted(1 - float(one @ other) for other in known)[:neighbours]) for one in asked]
    found = model.novelty_among(asked, known, neighbours)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(typer_of(known, ["a", "b"] * 5, neighbours).novelty(asked), found)


def test_what_is_too_novel_is_unknown() -> None:
    """Above the limit, not at it."""
    typer = typer_of(directions(0, 90), ["dent", "burn"], neighbours=1)
    asked = directions(0, 45, 60, 89, 180)
    novelty = typer.novelty(asked)
    np.testing.assert_allclose(novelty, 1 - np.cos(np.radians([0, 45, 30, 1, 90])), atol=1e-6)
    assert UNKNOWN not in typer.name(asked)  # until a limit is calibrated
    strict = replace(typer, limit=float(novelty[2]))
    assert strict.name(asked).tolist() == ["dent", UNKNOWN, "burn", "burn", UNKNOWN]


@pytest.mark.parametrize("neighbours", [1, 4, 25, 99])
def test_neighbours_vote_by_their_nearness(neighbours: int) -> None:
    """Each of the k nearest counts one over its cosine distance."""
    known, asked = scattered(25, 3), scattered(30, 4)
    types = np.random.default_rng(5).choice(["a", "b", "c"], 25).astype(object)
    distances = pairwise_distances(asked, known, metric="cosine")
    expected = []
    for row in distances:
        votes: dict[str, float] = defaultdict(float)
        for k in np.argsort(row)[:neighbours]:
            votes[types[k]] += 1 / row[k]
        expected.append(max(votes, key=votes.get))
    assert model.nearest_neighbours(asked, known, types, neighbours).tolist() == expected
    assert len(set(expected)) >= 2


def test_an_image_that_is_known_has_its_own_type() -> None:
    """A distance of 0 outvotes all."""
    known = directions(0, 1, 2, 3)
    assert model.nearest_neighbours(known[:1], known, np.array(["a", "b", "b", "b"]), 4).tolist() == ["a"]


def test_a_type_is_added_without_training() -> None:
    """Its prototype is there, the others and the encoder are what they were, and so is the typer it came from."""
    typer = replace(typer_of(directions(0, 10, 90), ["dent", "dent", "burn"], neighbours=1), limit=0.2)
    more = typer.with_type("crack", directions(175, 185))
    assert more.names == ["burn", "crack", "dent"]
    np.testing.assert_allclose(more.prototypes, directions(90, 180, 5), atol=1e-6)
    np.testing.assert_array_equal(more.prototypes[[0, 2]], typer.prototypes)
    assert more.encoder is typer.encoder
    assert (more.limit, more.seed, more.settings) == (typer.limit, typer.seed, typer.settings)
    assert more.types.tolist() == ["dent", "dent", "burn", "crack", "crack"]
    assert typer.names == ["burn", "dent"]
    assert len(typer.embeddings) == 3
    assert typer.name(directions(180)).tolist() == [UNKNOWN]
    assert more.name(directions(180)).tolist() == ["crack"]
    assert more.with_type("zip", directions(270)).name(directions(271, 180)).tolist() == ["zip", "crack"]


@pytest.mark.parametrize(("name", "message"), [("burn", "'burn' is known already"), (UNKNOWN, "'unknown' is known")])
def test_a_name_that_is_taken_is_refused(name: str, message: str) -> None:
    """And so is a type without an image."""
    typer = typer_of(directions(0, 90), ["dent", "burn"])
    with pytest.raises(DataError, match=message) as problem:
        typer.with_type(name, directions(180))
    check_line(problem)
    with pytest.raises(DataError, match="type 'crack' has no image: show at least one") as problem:
        typer.with_type("crack", directions())
    check_line(problem)


def test_the_encoder_is_the_public_one(seen: fitting.Views) -> None:
    """What `build` gives and `fit` trains."""
    assert isinstance(contrastive.fit(replace(SMALL, steps=0), seen, NAMES, progress=False).encoder, Encoder)
