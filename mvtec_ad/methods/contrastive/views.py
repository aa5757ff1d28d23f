"""What the network is shown of an image: its region, as it is or changed in ways that keep the type true."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mvtec_ad.config import torch_device
from mvtec_ad.data.loading import batches
from mvtec_ad.methods.base import as_tensor
from mvtec_ad.methods.contrastive.regions import Regions
from mvtec_ad.methods.pretraining.views import look, recolour, standardise
from mvtec_ad.settings import TypingSettings

TOGETHER = 32  # images that are cut at once


def cut(images: np.ndarray, regions: Regions, size: int) -> Tensor:
    """The regions, unchanged.

    Args:
        images: (N, S, S, 3) uint8.
        regions: of the N images.
        size: side of the result, pixels.

    Returns:
        (N, 3, size, size) float32 in [0, 1], on the device.
    """
    still = np.zeros(len(images))
    return _looks(images, _matrices(regions.centres, np.full(len(images), regions.side), still, still + 1), size)


def vary(images: np.ndarray, regions: Regions, settings: TypingSettings, rng: np.random.Generator) -> Tensor:
    """The regions turned, shifted, scaled and in another light; the defect is neither cut away nor covered.

    Pixels come from the whole picture, so a turned region shows what really lies in its corners; only beyond the
    picture's border it is mirrored.

    Args:
        images: (N, S, S, 3) uint8.
        regions: of the N images.
        settings: `turn`, `shift`, `light`, `mirror` and `image_size`.
        rng: every image gets its own numbers.

    Returns:
        (N, 3, size, size) float32, standardised as torchvision's networks expect, on the device.
    """
    count = len(images)
    side = regions.side * np.exp(rng.uniform(-2, 2, count) * settings.shift)
    centres = regions.centres + rng.uniform(-settings.shift, settings.shift, (count, 2)) * regions.side
    angle = np.radians(rng.uniform(-settings.turn, settings.turn, count))
    flip = np.where(rng.random(count) < 0.5 * settings.mirror, -1.0, 1.0)
    return recolour(_looks(images, _matrices(centres, side, angle, flip), settings.image_size), rng, settings.light)


def shown(images: np.ndarray, regions: Regions, size: int) -> Tensor:
    """`cut`, standardised as torchvision's networks expect."""
    return standardise(cut(images, regions, size))


def _matrices(centres: np.ndarray, side: np.ndarray, angle: np.ndarray, flip: np.ndarray) -> Tensor:
    """(N, 2, 3) from a view's coordinates to the image's, both −1 to 1."""
    x, y = 2 * centres.T - 1
    cosine, sine = side * np.cos(angle), side * np.sin(angle)
    rows = np.stack([flip * cosine, -sine, x, flip * sine, cosine, y], axis=1)
    return torch.from_numpy(rows.reshape(-1, 2, 3).astype(np.float32))


def _looks(images: np.ndarray, matrices: Tensor, size: int) -> Tensor:
    device = torch_device()
    pieces = batches(len(images), TOGETHER)
    return torch.cat([look(as_tensor(images[piece]), matrices[piece].to(device), size) for piece in pieces])
