"""What a network can be asked about images without a subject. Each objective has the heads it needs and a loss.

`loss(trunk, images, labels, rng)` gets a batch of uint8 images and the recipe of every pixel; every objective looks
at the same number of views a step, so equal steps are equal cost.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mvtec_ad.errors import SettingsError
from mvtec_ad.methods.contrastive_losses import nt_xent
from mvtec_ad.methods.pretraining.views import Look, look, recolour, windows

WIDTHS = (64, 128, 256)  # channels of layer1, layer2, layer3


def vicreg(first: Tensor, second: Tensor, weights: tuple[float, float, float] = (25, 25, 1)) -> Tensor:
    """Variance-invariance-covariance loss: no negatives, but no collapse either.

    Bardes, Ponce, LeCun 2022 (arXiv:2105.04906), eq. 6, with λ, μ, ν = `weights`; `first` and `second` as in `nt_xent`.
    """
    invariance = functional.mse_loss(first, second)
    spread, redundancy = 0.0, 0.0
    for view in (first, second):
        view = view - view.mean(0)
        deviation = torch.sqrt(view.var(0) + 1e-4)
        spread = spread + functional.relu(1 - deviation).mean() / 2
        covariance = view.T @ view / (len(view) - 1)
        off = covariance.square().sum() - covariance.diagonal().square().sum()
        redundancy = redundancy + off / view.shape[1]
    return weights[0] * invariance + weights[1] * spread + weights[2] * redundancy


def _projector(width: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


class Pairs(nn.Module):
    """Two views of an image, pooled over the image at layer3, are the same thing (SimCLR, VICReg)."""

    def __init__(self, compare: str, view: Look) -> None:
        super().__init__()
        self.compare, self.view = compare, view
        self.head = _projector(WIDTHS[2], 512, 128 if compare == "simclr" else 512)

    def loss(self, trunk: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """NT-Xent with τ = .2, or VICReg."""
        pixels = images[: len(images) // 2].float() / 255
        matrices = torch.cat([windows(rng, len(pixels), turn=self.view.turn).to(pixels.device) for _ in range(2)])
        views = look(pixels.repeat(2, 1, 1, 1), matrices, self.view.size)
        pooled = trunk(recolour(views, rng, self.view.colour))[2].mean((2, 3))
        first, second = self.head(pooled).chunk(2)
        return nt_xent(first, second, 0.2) if self.compare == "simclr" else vicreg(first, second)


class Places(nn.Module):
    """Two views of the same *place*, at all three layers, are the same thing; other places and images are not.

    Dense contrast as in Wang et al. 2021 (DenseCL, arXiv:2011.09157), with correspondence known from the windows
    (Pinheiro et al. 2020, arXiv:2011.05499) instead of guessed.
    """

    def __init__(self, view: Look, places: int = 6) -> None:
        super().__init__()
        self.view, self.places = view, places
        self.heads = nn.ModuleList(_projector(width, 256, 64) for width in WIDTHS)

    def loss(self, trunk: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean NT-Xent (τ = .2) over the layers, at random places that both views show."""
        matrices, layers = _two_views(trunk, images, self.view, rng)
        return self.compare(layers, matrices, rng)

    def compare(self, layers: list[Tensor], matrices: Tensor, rng: np.random.Generator) -> Tensor:
        """The same for layers and windows of both views, one after the other."""
        first, second = matrices.chunk(2)
        spots = _spots(rng, len(first), self.places, 0.8, first.device)
        there = _carry(spots, first, second)
        seen = (there.abs() < 0.85).all(-1)
        losses = []
        for head, layer in zip(self.heads, layers, strict=True):
            here, across = layer.chunk(2)
            losses.append(nt_xent(head(_at(here, spots)[seen]), head(_at(across, there)[seen]), 0.2))
        return torch.stack(losses).mean()


def _two_views(trunk: nn.Module, images: Tensor, view: Look, rng: np.random.Generator) -> tuple[Tensor, list[Tensor]]:
    """Windows (2N, 2, 3) of two views of the first half of a batch, and the layers of both, one after the other."""
    pixels = images[: len(images) // 2].float() / 255
    matrices = torch.cat([windows(rng, len(pixels), 0.5, turn=view.turn).to(images.device) for _ in range(2)])
    return matrices, trunk(recolour(look(pixels.repeat(2, 1, 1, 1), matrices, view.size), rng, view.colour))


def _carry(spots: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The same places of the image, from coordinates of the first view to those of the second."""
    on_image = spots @ first[:, :, :2].transpose(1, 2) + first[:, None, :, 2]
    return (on_image - second[:, None, :, 2]) @ torch.linalg.inv(second[:, :, :2]).transpose(1, 2)


def _spots(rng: np.random.Generator, count: int, places: int, reach: float, device: torch.device) -> Tensor:
    """Random coordinates (N, places, 2) from -reach to reach."""
    return torch.from_numpy(rng.uniform(-reach, reach, (count, places, 2)).astype(np.float32)).to(device)


def _at(layer: Tensor, spots: Tensor, mode: str = "bilinear") -> Tensor:
    """Features (N, places, C) at coordinates (N, places, 2) from -1 to 1."""
    found = functional.grid_sample(layer, spots[:, :, None], mode=mode, padding_mode="reflection", align_corners=False)
    return found[..., 0].transpose(1, 2)


class Recipes(nn.Module):
    """Which recipe drew this place? Asked at random places of all three layers.

    Formula-driven labels: Kataoka et al. 2020 (FractalDB, arXiv:2101.08515) ask it of whole images.
    """

    def __init__(self, view: Look, recipes: int, places: int = 24) -> None:
        super().__init__()
        self.view, self.places = view, places
        self.heads = nn.ModuleList(nn.Linear(width, recipes) for width in WIDTHS)

    def loss(self, trunk: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean cross-entropy over the layers."""
        matrices = windows(rng, len(images), 0.5, turn=self.view.turn).to(images.device)
        layers = trunk(recolour(look(images.float() / 255, matrices, self.view.size), rng, self.view.colour))
        return self.name(layers, matrices, labels, rng)

    def name(self, layers: list[Tensor], matrices: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """The same for the layers of views, their windows and the labels of their images."""
        spots = _spots(rng, len(matrices), self.places, 0.95, matrices.device)
        on_image = spots @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]
        wanted = _at(labels[:, None].float(), on_image, "nearest").flatten().long()
        losses = [
            functional.cross_entropy(head(_at(layer, spots)).flatten(0, 1), wanted)
            for head, layer in zip(self.heads, layers, strict=True)
        ]
        return torch.stack(losses).mean()


class Both(nn.Module):
    """`Places` and `Recipes` asked of the same two views."""

    def __init__(self, view: Look, recipes: int) -> None:
        super().__init__()
        self.places, self.recipes = Places(view), Recipes(view, recipes)

    def loss(self, trunk: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """The sum of both losses."""
        matrices, layers = _two_views(trunk, images, self.places.view, rng)
        seen = labels[: len(images) // 2].repeat(2, 1, 1)
        return self.places.compare(layers, matrices, rng) + self.recipes.name(layers, matrices, seen, rng)


OBJECTIVES = ("simclr", "vicreg", "recipes", "places", "both")


def objective(name: str, view: Look, recipes: int) -> nn.Module:
    """An objective by its name.

    Args:
        name: one of `OBJECTIVES`.
        view: how views are made.
        recipes: number of kinds of texture in the labels.

    Raises:
        SettingsError: the name is unknown.
    """
    if name in ("simclr", "vicreg"):
        return Pairs(name, view)
    if name == "places":
        return Places(view)
    if name in ("recipes", "both"):
        return (Recipes if name == "recipes" else Both)(view, recipes)
    raise SettingsError(f"objective {name!r} is unknown: use one of {', '.join(OBJECTIVES)}")
