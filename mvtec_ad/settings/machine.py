"""Seeds and the device."""

from __future__ import annotations

import random
import warnings

import numpy as np


def set_seed(seed: int) -> None:
    """Seed python and numpy, and torch and Keras where they are already imported."""
    import sys

    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(seed)


def torch_device() -> str:
    """`cuda` where torch sees a GPU, else `cpu`."""
    import torch

    with warnings.catch_warnings():  # where TensorFlow looked for a driver first, torch warns that there is none
        warnings.filterwarnings("ignore", "CUDA initialization", UserWarning)
        return "cuda" if torch.cuda.is_available() else "cpu"
