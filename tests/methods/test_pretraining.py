"""Objectives against loops in numpy, geometry against pictures of coordinates, and runs that repeat bit by bit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from mvtec_ad import augment
from mvtec_ad.backbones import load_backbone
from mvtec_ad.backbones.synthetic_weights import SYNTHETIC, synthetic_card
from mvtec_ad.methods import pretraining
from mvtec_ad.synthetic import textures

TINY = pretraining.Pretraining(images=8, image_size=48, view=32, views=4, steps=6, recipes=20)


@pytest.fixture(scope="module")
def bank() -> tuple[np.ndarray, np.ndarray]:
    return textures.draw_many(TINY.images, TINY.image_size, recipes=TINY.recipes, workers=1, progress=False)


def test_vicreg_is_equation_6() -> None:
    """Its three terms, from numpy's own variance and covariance."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 12, 4)) * [0.3, 1, 2, 0.1]
    expected = 25 * np.mean((first - second) ** 2)
    for view in (first, second):
        expected += 25 * np.maximum(0, 1 - np.sqrt(view.var(0, ddof=1) + 1e-4)).mean() / 2
        covariance = np.cov(view.T)
        expected += ((covariance - np.diag(np.diag(covariance))) ** 2).sum() / 4
    found = pretraining.vicreg(torch.from_numpy(first), torch.from_numpy(second))
    assert found.item() == pytest.approx(expected, rel=1e-10)


def coordinates(count: int, side: int) -> torch.Tensor:
    """Images whose two channels are the place itself, from -1 to 1."""
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy")).expand(count, 2, side, side)


def test_a_window_shows_what_its_matrix_says() -> None:
    """The whole image, and a quarter of it."""
    image = coordinates(1, 8)
    whole = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    assert torch.allclose(augment.crop(image, whole, 8), image, atol=1e-6)
    corner = torch.tensor([[[0.5, 0, 0.5], [0, 0.5, -0.5]]])  # the upper right quarter
    assert torch.allclose(augment.crop(image, corner, 4), image[:, :, :4, 4:], atol=1e-6)


def test_windows_stay_inside_the_image() -> None:
    """Their four corners, wherever the window can fit."""
    matrices = augment.random_windows(np.random.default_rng(2), 500, largest=0.7)
    corners = torch.tensor([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    places = corners @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]
    assert places.abs().max() <= 1 + 1e-5


def test_a_place_is_carried_from_one_view_to_the_other() -> None:
    """Both views of a picture of coordinates show the same coordinates there."""
    rng = np.random.default_rng(3)
    image = coordinates(20, 64)
    first, second = (augment.random_windows(rng, 20, smallest=0.5, largest=0.65) for _ in range(2))
    spots = pretraining._points(rng, 20, 6, 0.8, torch.device("cpu"))
    there = pretraining._transfer(spots, first, second)
    seen = (there.abs() < 0.9).all(-1)
    assert seen.sum() > 20
    here = pretraining._at(augment.crop(image, first, 64), spots)[seen]
    across = pretraining._at(augment.crop(image, second, 64), there)[seen]
    assert (here - across).abs().max() < 0.05


def test_a_place_has_the_recipe_of_the_pixel_below_it() -> None:
    """Labels are looked up by the nearest pixel, never mixed."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 500, (3, 40, 40))
    spots = pretraining._points(rng, 3, 50, 0.95, torch.device("cpu"))
    found = pretraining._at(torch.from_numpy(labels[:, None]).float(), spots, "nearest")[..., 0].numpy()
    columns, rows = np.floor((spots.numpy() + 1) * 20).astype(int).transpose(2, 0, 1)
    assert np.array_equal(found, np.stack([labels[i, rows[i], columns[i]] for i in range(3)]))


def test_recolouring_keeps_the_picture() -> None:
    """Strength 0 only standardises; otherwise colours change and edges stay."""
    image = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    same = augment.recolor(image, np.random.default_rng(0), strength=0)
    assert torch.allclose(same, augment.standardise(image), atol=1e-5)
    other = augment.recolor(image, np.random.default_rng(0))
    assert (other - same).abs().mean() > 0.1
    grey = [functional.normalize(x.mean(1).flatten(1) - x.mean((1, 2, 3))[:, None], dim=1) for x in (same, other)]
    assert (grey[0] * grey[1]).sum(1).min() > 0.8


@pytest.mark.parametrize("name", pretraining.OBJECTIVES)
def test_a_run_repeats_and_resumes_bit_by_bit(name: str, bank: tuple, tmp_path: Path) -> None:
    """Two runs, whole and interrupted, take every step once each."""
    settings = replace(TINY, objective=name)
    whole, curve = pretraining.pretrain(settings, bank, progress=False)
    path = tmp_path / "run.checkpoint"
    pretraining.pretrain(settings, bank, checkpoint=path, until=2, progress=False)
    resumed, resumed_curve = pretraining.pretrain(settings, bank, checkpoint=path, progress=False)
    assert curve.equals(resumed_curve)
    untrained = pretraining.new_trunk(settings.seed).state_dict()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])
    assert not torch.equal(untrained["layer1.0.conv1.weight"], whole.state_dict()["layer1.0.conv1.weight"])
    other, _ = pretraining.pretrain(replace(settings, seed=1), bank, progress=False)
    assert not torch.equal(other.state_dict()["conv1.weight"], whole.state_dict()["conv1.weight"])


@pytest.mark.parametrize("name", pretraining.OBJECTIVES)
def test_every_objective_can_be_learned(name: str, bank: tuple) -> None:
    """On eight images the loss falls."""
    settings = replace(TINY, objective=name, steps=40, views=8)
    _, curve = pretraining.pretrain(settings, bank, progress=False)
    assert curve["loss"].iloc[-8:].mean() < 0.95 * curve["loss"].iloc[:8].mean()


def test_a_trained_network_is_a_backbone(bank: tuple) -> None:
    """Its features are those of torchvision's ResNet-18 with the same weights."""
    trunk, _ = pretraining.pretrain(TINY, bank, progress=False)
    own = pretraining.backbone_of(trunk, "mine")
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    layers = own(image)
    assert [tuple(layer.shape) for layer in layers] == [(2, 16, 16, 64), (2, 8, 8, 128), (2, 4, 4, 256)]
    assert not own.raw
    from mvtec_ad.frameworks import import_torchvision

    network = import_torchvision().models.resnet18(weights=None).eval()
    network.load_state_dict(trunk.state_dict(), strict=False)
    pixels = augment.standardise(torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255)
    with torch.inference_mode():
        found = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(pixels)))))
    assert torch.allclose(layers[0].permute(0, 3, 1, 2), found, atol=1e-4)


def test_the_carried_weights_are_small_whole_and_described() -> None:
    """At most 7 MB; the card's hash is the file's; it says how they were made and what they gave."""
    card = synthetic_card()
    assert SYNTHETIC.stat().st_size <= 7_000_000
    assert card["sha256"] == hashlib.sha256(SYNTHETIC.read_bytes()).hexdigest()
    assert card["generator version"] == textures.VERSION
    assert card["settings"]["steps"] == pretraining.Pretraining().steps
    drawn, random = (card["results"][name] for name in ("synthetic", "random"))
    for category in drawn:
        assert drawn[category]["image_auroc"] > random[category]["image_auroc"], category
    assert load_backbone("resnet18", "synthetic").weights == f"synthetic (SHA-256 {card['sha256'][:12]}…)"
