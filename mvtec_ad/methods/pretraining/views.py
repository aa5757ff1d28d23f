"""Random views of training images: a window at another place, size and angle, in other colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional

from mvtec_ad.backbones.backbone import DEVIATION, MEAN


@dataclass(frozen=True)
class Look:
    """How views differ from the image and from each other."""

    size: int  # pixels
    turn: float = np.pi  # largest rotation in radians
    colour: float = 1.0  # strength of `recolour`


def windows(
    rng: np.random.Generator, count: int, smallest: float = 0.35, largest: float = 0.9, turn: float = np.pi
) -> torch.Tensor:
    """Random windows: where the pixels of a view come from.

    Args:
        rng: random stream.
        count: number of windows, N.
        smallest: side of a window in image sides.
        largest: the same; 1 shows the whole image.
        turn: largest rotation in radians.

    Returns:
        (N, 2, 3) float32, affine matrices for `look`, from a view's coordinates to the image's, both -1 to 1.
    """
    side = np.exp(rng.uniform(np.log(smallest), np.log(largest), count))
    angle = rng.uniform(-turn, turn, count)
    mirror = rng.choice([-1.0, 1.0], count)
    reach = np.maximum(1 - side * (np.abs(np.cos(angle)) + np.abs(np.sin(angle))), 0)
    centre = rng.uniform(-1, 1, (count, 2)) * reach[:, None]
    cosine, sine = side * np.cos(angle), side * np.sin(angle)
    rows = np.stack([mirror * cosine, -sine, centre[:, 0], mirror * sine, cosine, centre[:, 1]], 1)
    return torch.from_numpy(rows.reshape(count, 2, 3).astype(np.float32))


def look(images: torch.Tensor, matrices: torch.Tensor, size: int, mode: str = "bilinear") -> torch.Tensor:
    """What windows show, (N, C, size, size); beyond the border the image is mirrored."""
    grid = functional.affine_grid(matrices, [len(images), 1, size, size], align_corners=False)
    return functional.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)


def recolour(images: torch.Tensor, rng: np.random.Generator, strength: float = 1.0) -> torch.Tensor:
    """Other light and another camera: exposure, contrast, tint, saturation, and noise.

    Args:
        images: (N, 3, H, W) float32, 0 to 1.
        rng: random stream.
        strength: 0 changes nothing.

    Returns:
        As `images`, standardised with torchvision's mean and deviation.
    """
    count = len(images)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal((count, *shape, 1, 1), dtype=np.float32)).to(images.device)

    gain = torch.exp(strength * (0.25 * draw(1) + 0.10 * draw(3)))
    shift = strength * (0.08 * draw(1) + 0.02 * draw(3))
    middle = images.mean((2, 3), keepdim=True)
    images = (images - middle) * torch.exp(strength * 0.2 * draw(1)) + middle * gain + shift
    grey = images.mean(1, keepdim=True)
    kept = torch.from_numpy(rng.uniform(-0.4, 1.2, (count, 1, 1, 1)).astype(np.float32)).clamp(0, 1)
    images = grey + (images - grey) * (1 - strength * (1 - kept.to(images.device)))
    level = torch.from_numpy(rng.uniform(0, 0.03 * strength, (count, 1, 1, 1)).astype(np.float32)).to(images.device)
    grain = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)).to(images.device)
    return standardise((images + level * grain).clamp(0, 1))


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Subtract torchvision's mean and divide by its deviation, as its networks expect; (N, 3, H, W), 0 to 1."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / deviation
