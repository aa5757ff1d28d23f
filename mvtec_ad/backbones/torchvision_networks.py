"""torchvision networks as feature extractors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mvtec_ad.backbones.backbone import DEVIATION, MEAN, TORCHVISION_TAPS, Backbone
from mvtec_ad.backbones.torch_states import check_state, state_of
from mvtec_ad.frameworks import import_torchvision
from mvtec_ad.settings import torch_device

if TYPE_CHECKING:
    import torch


def load(name: str, weights: str) -> Backbone:
    """See `mvtec_ad.backbones.load_backbone`."""
    torchvision = import_torchvision()
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None).eval()
    extractor = create_feature_extractor(network, list(TORCHVISION_TAPS[name])).eval()
    description = "random (seed 0)"
    if weights != "random":
        state, description = state_of(name, weights)
        _fill(extractor, state, name, description)
    raw = weights not in ("random", "drawn")
    return as_backbone(lambda pixels: list(extractor(pixels).values()), extractor, name, description, raw)


def as_backbone(
    layers_of: Callable[[torch.Tensor], list[torch.Tensor]],
    network: torch.nn.Module,
    name: str,
    description: str,
    raw: bool = False,
) -> Backbone:
    """A torch network as a frozen feature extractor; the other arguments are `Backbone`'s.

    Args:
        layers_of: standardised images (B, 3, H, W) -> layers (B, C, h, w), shallow to deep.
        network: what `layers_of` runs; frozen and moved to the device here.
        name: of the architecture.
        description: of the weights.
        raw: whether PaDiM takes the features as they are.
    """
    import torch

    device = torch_device()
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=device).view(1, 3, 1, 1)

    def tensors(pixels: torch.Tensor) -> list[torch.Tensor]:
        return layers_of((pixels - mean) / deviation)

    @torch.inference_mode()
    def forward(images: np.ndarray) -> list[torch.Tensor]:
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # B×3×H×W, channels-last in memory
        return [layer.permute(0, 2, 3, 1) for layer in tensors(pixels.float() / 255)]  # B×h×w×C

    return Backbone(name, description, raw, forward, tensors=tensors)


def _fill(extractor: Any, state: dict[str, Any], name: str, description: str) -> None:
    """Load what the cut network needs; deeper layers and the classifier may be absent or present."""
    own = extractor.state_dict()
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    counters = {key for key in own if key.endswith("num_batches_tracked") and key not in state}
    check_state(state, {key: shape for key, shape in shapes.items() if key not in counters}, name, description)
    extractor.load_state_dict({key: state.get(key, own[key]) for key in own})
