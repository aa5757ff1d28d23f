"""What methods that train draw at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvtec_ad.settings import torch_device


def held_out_positions(settings: Any, count: int, seed: int) -> np.ndarray:
    """Positions of the good images that are not trained on, ascending, int64."""
    order = np.random.default_rng([seed, count]).permutation(count)
    return np.sort(order[: settings.calibration_images(count)])


def normal(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Standard normal numbers, float32, on the device."""
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(torch_device())
