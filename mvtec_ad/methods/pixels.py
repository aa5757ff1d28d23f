"""Images as a network takes them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mvtec_ad.errors import SettingsError
from mvtec_ad.settings import torch_device


def as_tensor(images: np.ndarray) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 in [0, 1], on the device."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch_device()).permute(0, 3, 1, 2).float() / 255


def check_size(images: np.ndarray, side: int) -> None:
    """Refuse images (N, H, W, 3) of another size than a model was fitted on."""
    if images.shape[1:3] != (side, side):
        seen = f"{images.shape[1]}×{images.shape[2]}"
        raise SettingsError(f"images are {seen}, not the {side}×{side} the model was fitted on: resize them")
