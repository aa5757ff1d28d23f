"""Weights under torchvision's names, for the networks of both frameworks that take them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from mvtec_ad.backbones.carried import load_drawn
from mvtec_ad.backbones.files import describe, unreachable
from mvtec_ad.errors import WeightsError
from mvtec_ad.frameworks import import_torchvision

if TYPE_CHECKING:
    import torch

# The enum that published anomaly-detection figures used; torchvision's DEFAULT is V2 for two of these networks.
IMAGENET_ENUM = "IMAGENET1K_V1"


def state_of(name: str, weights: str) -> tuple[dict[str, torch.Tensor], str]:
    """A state dict and what to call it.

    Args:
        name: torchvision's name of the network.
        weights: `imagenet`, `drawn` or the path of a local file.

    Raises:
        WeightsError: the weights cannot be had or read.
    """
    if weights == "drawn":
        return load_drawn()
    if weights != "imagenet":
        return _read(Path(weights)), describe(weights)
    entry = import_torchvision().models.get_model_weights(name)[IMAGENET_ENUM]
    try:
        return entry.get_state_dict(progress=True, check_hash=True), IMAGENET_ENUM
    except (URLError, OSError, RuntimeError) as problem:
        raise WeightsError(unreachable(f"{name} {IMAGENET_ENUM} ({entry.url})", problem)) from problem


def check_state(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], name: str, description: str) -> None:
    """Whether a state dict has what a network needs; it may have more.

    Raises:
        WeightsError: a tensor is missing or has another shape.
    """
    missing = [key for key in shapes if key not in state]
    if missing:
        raise WeightsError(f"{description} lacks {len(missing)} tensors of {name}, first {missing[0]}: wrong network?")
    wrong = [key for key, shape in shapes.items() if tuple(state[key].shape) != tuple(shape)]
    if wrong:
        raise WeightsError(
            f"{description}: {wrong[0]} has shape {tuple(state[wrong[0]].shape)}, {name} needs "
            f"{tuple(shapes[wrong[0]])}: wrong network?"
        )


def _read(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        return state
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError, OSError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise WeightsError(f"weights {path} cannot be read as a state dict ({reason}): download it again") from problem
    except Exception as problem:  # safetensors raises its own type, which has no public base
        if type(problem).__module__.startswith("safetensors"):
            raise WeightsError(f"weights {path} are damaged ({problem}): download them again") from problem
        raise
