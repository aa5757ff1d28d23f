"""One shape for every feature extractor, and the call that makes one from a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mvtec_ad.errors import SettingsError, WeightsError
from mvtec_ad.settings import torch_device

if TYPE_CHECKING:
    import torch

# What torchvision's networks expect to be subtracted from, and divided out of, RGB from 0 to 1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_TAPS = {
    "resnet18": ("layer1", "layer2", "layer3"),
    "resnet50": ("layer1", "layer2", "layer3"),
    "wide_resnet50_2": ("layer1", "layer2", "layer3"),
    "efficientnet_b0": ("features.2", "features.3", "features.5"),
}
KERAS_TAPS = {
    "resnet18": ("layer1", "layer2", "layer3"),
    "resnet50": ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
    "efficientnet_b0": ("block2b_add", "block3b_add", "block5c_add"),
    "mobilenet": ("conv_pw_3_relu", "conv_pw_5_relu", "conv_pw_11_relu"),
}
BACKBONES = (*TORCHVISION_TAPS, *(f"keras:{name}" for name in KERAS_TAPS))
DRAWN = ("resnet18", "keras:resnet18")  # the networks that the carried weights fit


@dataclass(frozen=True)
class Backbone:
    """A frozen network, cut at three depths (strides 4, 8 and 16).

    Attributes:
        name: as given to `load_backbone`.
        weights: what was loaded, for people and manifests: a named enum, "random (seed 0)" or a file and its hash.
        raw: True where published PaDiM figures use the features as they are; False asks PaDiM for one scalar that
            brings them to that scale.
        forward: uint8 (B, H, W, 3) RGB -> list of float32 (B, h, w, C), shallow to deep.
        source: the `weights` argument it was loaded with.
        tensors: the same network for a loss: RGB (B, 3, H, W) float32 in [0, 1] -> layers (B, C, h, w), with
            gradients; None for Keras.
    """

    name: str
    weights: str
    raw: bool
    forward: Callable[[np.ndarray], list[torch.Tensor]]
    source: str = ""
    tensors: Callable[[torch.Tensor], list[torch.Tensor]] | None = None

    def __call__(self, images: np.ndarray) -> list[torch.Tensor]:
        """Features of a batch.

        Args:
            images: (B, H, W, 3) uint8, RGB.

        Returns:
            One float32 tensor (B, h, w, C) per layer, shallow to deep.

        Raises:
            SettingsError: the array has another shape or type.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise SettingsError(f"images must be (B, H, W, 3) uint8, not {images.shape} {images.dtype}")
        return self.forward(images)


def load_backbone(name: str, weights: str = "imagenet") -> Backbone:
    """Build a feature extractor.

    Args:
        name: one of `BACKBONES`; the prefix `keras:` chooses Keras, otherwise torchvision.
        weights: `imagenet` (downloaded once by the framework), `random` (seed 0, always the same), `drawn` (carried by
            the package, for `DRAWN` only), or the path of a local file: a torchvision state dict (.pth, .safetensors;
            also for `keras:resnet18`) or a Keras weights file (.h5).

    Raises:
        SettingsError: the name is unknown.
        WeightsError: the weights cannot be had or do not fit.
    """
    if name not in BACKBONES:
        raise SettingsError(f"backbone {name!r} is unknown: use one of {', '.join(BACKBONES)}")
    if weights == "drawn" and name not in DRAWN:
        raise WeightsError(
            f"{name} has no drawn weights, only {' and '.join(DRAWN)} have: use one of them, or --weights random"
        )
    if weights not in ("imagenet", "random", "drawn") and not Path(weights).is_file():
        raise WeightsError(
            f"weights {weights!r}: not a file; use imagenet, random, drawn or the path of a weights file"
        )
    if name.startswith("keras:"):
        from mvtec_ad.backbones.keras_networks import load

        return replace(load(name.removeprefix("keras:"), weights), source=weights)
    from mvtec_ad.backbones.torchvision_networks import load

    return replace(load(name, weights), source=weights)


def batch_size() -> int:
    """Images a forward pass. On a CPU four stay in its caches: measured 6.8 ms an image, 8.3 with 16, 10 with 32."""
    return 4 if torch_device() == "cpu" else 64
