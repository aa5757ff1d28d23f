"""Augmentation: random views of a training image that keep its label true. All random numbers come from a numpy stream.

Nothing is cut out, covered or blurred. A view is an affine window on the image, so that what a turned corner shows is
what really lies there; then light and colours change.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvtec_ad.backbones.backbone import DEVIATION, MEAN


def jitter(
    images: Tensor, rng: np.random.Generator, *, rotation: float, translation: float, color_jitter: float, hflip: bool
) -> Tensor:
    """Images (B, 3, S, S) in [0, 1], each a little rotated, shifted, scaled and mirrored, in another light.

    The largest angle is in degrees; `translation` is the largest shift, as a share of the image, and change of scale,
    `color_jitter` the largest change of contrast, twice that of brightness. What comes from outside repeats the edge.
    """
    count = len(images)
    angle = np.radians(rng.uniform(-rotation, rotation, count))
    scale = rng.uniform(1 - translation, 1 + translation, count)
    centres = 2 * rng.uniform(-translation, translation, (2, count))  # the image is 2 wide to grid_sample
    flip = np.where(hflip & (rng.random(count) < 0.5), -1.0, 1.0)
    gain, offset = 1 + color_jitter * rng.uniform(-1, 1, count), color_jitter / 2 * rng.uniform(-1, 1, count)
    matrices = _matrices(centres, scale, angle, flip).to(images.device)
    moved = crop(images, matrices, images.shape[-1], padding="border")
    gain, offset = (
        torch.from_numpy(values.astype(np.float32)).to(images.device)[:, None, None, None] for values in (gain, offset)
    )
    return (moved * gain + offset).clamp(0, 1)


def random_windows(
    rng: np.random.Generator, count: int, smallest: float = 0.35, largest: float = 0.9, rotation: float = np.pi
) -> Tensor:
    """Random crops as affine matrices, (N, 2, 3) float32, from a view's coordinates to the image's, both -1 to 1.

    Sizes are shares of the image, 1 shows all of it; `rotation` is the largest angle, in radians.
    """
    size = np.exp(rng.uniform(np.log(smallest), np.log(largest), count))
    angle = rng.uniform(-rotation, rotation, count)
    flip = rng.choice([-1.0, 1.0], count)
    reach = np.maximum(1 - size * (np.abs(np.cos(angle)) + np.abs(np.sin(angle))), 0)
    centres = rng.uniform(-1, 1, (count, 2)) * reach[:, None]
    return _matrices(centres.T, size, angle, flip)


def windows_at(centres: np.ndarray, sizes: np.ndarray, rotation: np.ndarray, flip: np.ndarray) -> Tensor:
    """Given crops as affine matrices, (N, 2, 3) float32, as `random_windows`.

    Centres, (N, 2) column and row, and sizes, (N,), are shares of the image; angles are radians; -1 in `flip` mirrors.
    """
    return _matrices(2 * centres.T - 1, sizes, rotation, flip)


def _matrices(centres: np.ndarray, sizes: np.ndarray, angle: np.ndarray, flip: np.ndarray) -> Tensor:
    """(N, 2, 3) float32; `centres` are (2, N) from -1 to 1."""
    cosine, sine = sizes * np.cos(angle), sizes * np.sin(angle)
    rows = np.stack([flip * cosine, -sine, centres[0], flip * sine, cosine, centres[1]], 1)
    return torch.from_numpy(rows.reshape(-1, 2, 3).astype(np.float32))


def crop(images: Tensor, windows: Tensor, size: int, mode: str = "bilinear", padding: str = "reflection") -> Tensor:
    """What windows, (N, 2, 3), show of images (N, C, H, W), (N, C, size, size); beyond the border they are mirrored.

    `mode` and `padding` are those of `torch.nn.functional.grid_sample`.
    """
    grid = F.affine_grid(windows, [len(images), 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)


def recolor(images: Tensor, rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Color jitter and noise: another exposure, contrast, tint and saturation; a strength of 0 changes nothing.

    Images, (N, 3, H, W) float32 from 0 to 1, come back standardised with torchvision's mean and deviation.
    """
    count = len(images)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal((count, *shape, 1, 1), dtype=np.float32)).to(images.device)

    def uniform(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32)).to(images.device)

    gain = torch.exp(strength * (0.25 * normal(1) + 0.10 * normal(3)))
    offset = strength * (0.08 * normal(1) + 0.02 * normal(3))
    middle = images.mean((2, 3), keepdim=True)
    images = (images - middle) * torch.exp(strength * 0.2 * normal(1)) + middle * gain + offset
    grey = images.mean(1, keepdim=True)
    saturation = uniform(-0.4, 1.2).clamp(0, 1)
    images = grey + (images - grey) * (1 - strength * (1 - saturation))
    level = uniform(0, 0.03 * strength)
    grain = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)).to(images.device)
    return standardise((images + level * grain).clamp(0, 1))


def standardise(images: Tensor) -> Tensor:
    """Images with torchvision's mean subtracted and divided by its deviation; (N, 3, H, W), 0 to 1."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / deviation
