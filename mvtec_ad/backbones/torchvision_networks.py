"""torchvision networks as feature extractors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from mvtec_ad.backbones.backbone import TORCHVISION_TAPS, Backbone
from mvtec_ad.backbones.files import describe, unreachable
from mvtec_ad.errors import WeightsError
from mvtec_ad.frameworks import import_torchvision
from mvtec_ad.settings import torch_device

# The enum that published anomaly-detection figures used; torchvision's DEFAULT is V2 for two of these networks.
IMAGENET_ENUM = "IMAGENET1K_V1"


def load(name: str, weights: str) -> Backbone:
    """See `mvtec_ad.backbones.load_backbone`."""
    torchvision = import_torchvision()
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor

    device = torch_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None).eval()
    extractor = create_feature_extractor(network, list(TORCHVISION_TAPS[name])).eval()
    state, description = _state(torchvision, name, weights)
    if state is not None:
        _fill(extractor, state, name, description)
    extractor = extractor.requires_grad_(False).to(device, memory_format=torch.channels_last)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def forward(images: np.ndarray) -> list[torch.Tensor]:
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # B×3×H×W, channels-last in memory
        pixels = (pixels.float() / 255 - mean) / deviation
        return [layer.permute(0, 2, 3, 1) for layer in extractor(pixels).values()]  # B×h×w×C

    return Backbone(name, description, weights != "random", forward)


def _state(torchvision: Any, name: str, weights: str) -> tuple[dict[str, Any] | None, str]:
    """State dict and what to call it; None for the random weights that are there already."""
    if weights == "random":
        return None, "random (seed 0)"
    if weights == "imagenet":
        entry = torchvision.models.get_model_weights(name)[IMAGENET_ENUM]
        try:
            return entry.get_state_dict(progress=True, check_hash=True), f"{IMAGENET_ENUM}"
        except (URLError, OSError, RuntimeError) as problem:
            raise WeightsError(unreachable(f"{name} {IMAGENET_ENUM} ({entry.url})", problem)) from problem
    return _read(Path(weights)), describe(weights)


def _read(path: Path) -> dict[str, Any]:
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


def _fill(extractor: Any, state: dict[str, Any], name: str, description: str) -> None:
    """Load what the cut network needs; deeper layers and the classifier may be absent or present."""
    own = extractor.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(f"{description} lacks {len(missing)} tensors of {name}, first {missing[0]}: wrong network?")
    wrong = [key for key in own if key in state and state[key].shape != own[key].shape]
    if wrong:
        raise WeightsError(
            f"{description}: {wrong[0]} has shape {tuple(state[wrong[0]].shape)}, {name} needs "
            f"{tuple(own[wrong[0]].shape)}: wrong network?"
        )
    extractor.load_state_dict({key: state.get(key, own[key]) for key in own})
