"""From the layers of a network to one vector a position."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional

from mvtec_ad.errors import SettingsError

# Mean variance, over positions and channels, of ImageNet ResNet-18 features on good MVTec AD bottles. ε = 0.01 of
# the published recipes is meant beside it, so the features of other networks are scaled to it.
REFERENCE_VARIANCE = 0.0094


def draw_channels(total: int, number: int, seed: int) -> np.ndarray:
    """The random channel subset of section III-B: `number` of `total` indices, sorted, int64.

    Raises:
        SettingsError: more channels are asked for than the network has.
    """
    if number > total:
        raise SettingsError(f"{number} channels asked for, the backbone has {total}: choose at most {total}")
    return np.sort(np.random.default_rng(seed).choice(total, number, replace=False))


def embed(layers: list[torch.Tensor], channels: np.ndarray, interpolation: str) -> torch.Tensor:
    """Chosen channels of all layers on the grid of the first layer.

    Channels are selected before a layer is enlarged, so the full concatenation never exists.

    Args:
        layers: (B, h, w, C) float32 each, shallow to deep.
        channels: sorted indices into the concatenation of all layers.
        interpolation: `nearest` or `bilinear`.

    Returns:
        (h·w, B, d) float32: positions first, as the Gaussians want them.
    """
    height, width = layers[0].shape[1:3]
    parts, first = [], 0
    for layer in layers:
        own = channels[(channels >= first) & (channels < first + layer.shape[-1])] - first
        first += layer.shape[-1]
        if len(own) == 0:
            continue
        part = layer[..., torch.from_numpy(own).to(layer.device)].permute(0, 3, 1, 2)  # B×d'×h'×w'
        if part.shape[2:] != (height, width):
            corners = {"align_corners": False} if interpolation == "bilinear" else {}
            part = functional.interpolate(part, (height, width), mode=interpolation, **corners)
        parts.append(part)
    return torch.cat(parts, 1).flatten(2).permute(2, 0, 1)  # (h·w)×B×d


def fitted_positions(count: int, fraction: float) -> np.ndarray:
    """Positions of the good images that are fitted on, ascending: a fixed random share of `count`, int64."""
    keep = max(3, round(count * fraction))
    return np.arange(count) if keep >= count else np.sort(np.random.default_rng(0).permutation(count)[:keep])


def measured_scale(features: torch.Tensor) -> float:
    """The scalar that brings (P, N, d) features to `REFERENCE_VARIANCE`; 1 when they do not vary at all."""
    variance = float(torch.stack([chunk.var(1).double().mean() for chunk in features.split(256)]).mean())
    return float(np.sqrt(REFERENCE_VARIANCE / variance)) if variance > 0 else 1.0
