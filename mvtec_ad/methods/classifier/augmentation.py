"""Changes of a training image that keep its label true: nothing is cut away, covered or blurred."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from mvtec_ad.settings import ClassifierSettings


def augment(images: Tensor, settings: ClassifierSettings, mirror: bool, rng: np.random.Generator) -> Tensor:
    """Turn, shift, scale and mirror a little, and change the light.

    Args:
        images: (B, 3, S, S) in [0, 1].
        settings: `turn`, `shift` and `light` say how far at most.
        mirror: whether left may become right.
        rng: every image gets its own numbers.

    Returns:
        (B, 3, S, S) in [0, 1]; what comes from outside repeats the edge.
    """
    count, device = len(images), images.device
    angle = np.radians(rng.uniform(-settings.turn, settings.turn, count))
    scale = rng.uniform(1 - settings.shift, 1 + settings.shift, count)
    shift = 2 * rng.uniform(-settings.shift, settings.shift, (2, count))  # the image is 2 wide to grid_sample
    side = np.where(mirror & (rng.random(count) < 0.5), -1.0, 1.0)
    gain, offset = 1 + settings.light * rng.uniform(-1, 1, count), settings.light / 2 * rng.uniform(-1, 1, count)
    rows = [
        [side * scale * np.cos(angle), -scale * np.sin(angle), shift[0]],
        [side * scale * np.sin(angle), scale * np.cos(angle), shift[1]],
    ]
    transforms = torch.from_numpy(np.array(rows).transpose(2, 0, 1).astype(np.float32)).to(device)  # B×2×3
    grid = functional.affine_grid(transforms, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain, offset = (
        torch.from_numpy(values.astype(np.float32)).to(device)[:, None, None, None] for values in (gain, offset)
    )
    return (moved * gain + offset).clamp(0, 1)
