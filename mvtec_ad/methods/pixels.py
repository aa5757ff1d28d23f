"""Images as a network takes them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mvtec_ad.settings import torch_device


def as_tensor(images: np.ndarray) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 in [0, 1], on the device."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch_device()).permute(0, 3, 1, 2).float() / 255
