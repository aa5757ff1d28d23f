"""From a grid of distances to a map that can be laid over the image."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as functional


def enlarge(grids: torch.Tensor, side: tuple[int, int]) -> np.ndarray:
    """Grids (B, h, w) to maps (B, H, W), float32, interpolated linearly between the centres of the cells."""
    maps = functional.interpolate(grids[:, None], side, mode="bilinear", align_corners=False)
    return maps[:, 0].cpu().numpy()


def smooth(maps: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (N, H, W) float32 maps, σ in pixels, cut at 4σ, edges mirrored (as scipy's default)."""
    if sigma <= 0:
        return maps
    width = 2 * int(4 * sigma + 0.5) + 1
    return np.stack([cv2.GaussianBlur(one, (width, width), sigma, borderType=cv2.BORDER_REFLECT) for one in maps])
