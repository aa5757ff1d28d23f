"""The ResNet-18 that the package carries, trained on drawn images: `--backbone resnet18 --weights synthetic`.

The weights lie in half precision under torchvision's names (conv1 to layer3), with a card beside them that says how
they were made and holds their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.errors import WeightsError

if TYPE_CHECKING:
    import torch

SYNTHETIC = Path(__file__).with_name("weights") / "resnet18_synthetic.safetensors"
WAY_OUT = "reinstall the package or run `make backbone`"


def load_synthetic() -> tuple[dict[str, torch.Tensor], str]:
    """The carried state dict in float32, and what the weights are called."""
    data = _bytes(SYNTHETIC)
    digest = hashlib.sha256(data).hexdigest()
    if synthetic_card()["sha256"] != digest:
        raise WeightsError(f"{SYNTHETIC} is damaged: {WAY_OUT}")
    from safetensors.torch import load

    return {name: tensor.float() for name, tensor in load(data).items()}, f"synthetic (SHA-256 {digest[:12]}…)"


def synthetic_card() -> dict[str, Any]:
    """What is written about the carried weights."""
    path = SYNTHETIC.with_suffix(".json")
    try:
        card = json.loads(_bytes(path))
        card["sha256"]
    except (ValueError, TypeError, KeyError) as problem:
        raise WeightsError(f"{path} is damaged: {WAY_OUT}") from problem
    return card


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as problem:
        raise WeightsError(f"{path} is missing: {WAY_OUT}") from problem
    except OSError as problem:
        raise WeightsError(f"{path} cannot be read ({problem.strerror}): {WAY_OUT}") from problem
