"""Grad-CAM and Grad-CAM++: the channels of one layer, weighted by what the answer gains from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mvtec_ad.data.loading import batches
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods.attribution.question import BATCH, Question, ask, stacked


def grad_cam(
    network: nn.Module,
    layer: nn.Module,
    images: Tensor | ArrayLike,
    signs: ArrayLike | None = None,
    *,
    batch: int = BATCH,
) -> np.ndarray:
    """ReLU(Σ_k α_k A_k), α_k being the mean gradient of channel k, on the layer's own grid: (N, h, w) float32.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017
    (arXiv:1610.02391), eq. 1 and 2. `methods.base.enlarge` brings it to the size of the image.

    Args:
        network: in evaluation mode, (B, 3, H, W) in [0, 1] -> logits (B,).
        layer: the module in it whose output A, (B, C, h, w), is weighted.
        images: (N, 3, H, W) in [0, 1].
        signs: (N,) of +1 (why a defect) and −1 (why intact); None is +1.
        batch: images that go through the network at once.
    """
    return _class_activation(ask(network, images, signs), layer, lambda activations, slopes: slopes.mean((2, 3)), batch)


def grad_cam_plus_plus(
    network: nn.Module,
    layer: nn.Module,
    images: Tensor | ArrayLike,
    signs: ArrayLike | None = None,
    *,
    batch: int = BATCH,
) -> np.ndarray:
    """As `grad_cam`, but channels weighted by w_k = Σ_ij α_kij ReLU(g_kij): places count, not the mean over them.

    Chattopadhay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks", 2018
    (arXiv:1710.11063). Their score is exp(S). Where S is piecewise linear in A, its n-th derivative is exp(S) gⁿ with
    g = ∂S/∂A, and eq. 19 becomes α_kij = g² / (2 g² + g³ Σ_ab A_kab) = 1 / (2 + g Σ_ab A_kab), for g ≠ 0; other g
    add nothing. Two customary liberties: exp(S) in front of w_k is left out, for it scales a whole map and overflows,
    and the same form is taken for networks with smooth activations.

    Args:
        network: in evaluation mode, (B, 3, H, W) in [0, 1] -> logits (B,).
        layer: the module in it whose output A, (B, C, h, w), is weighted; meant for A ≥ 0, as after a ReLU. Below zero
            α can have a pole, at g Σ A = −2.
        images: (N, 3, H, W) in [0, 1].
        signs: (N,) of +1 (why a defect) and −1 (why intact); None is +1.
        batch: images that go through the network at once.

    Returns:
        (N, h, w) float32 on the layer's own grid, ≥ 0.
    """

    def weights(activations: Tensor, slopes: Tensor) -> Tensor:
        divisor = 2 + slopes * activations.sum((2, 3), keepdim=True)
        return (slopes.relu() / divisor.where(divisor != 0, torch.inf)).sum((2, 3))

    return _class_activation(ask(network, images, signs), layer, weights, batch)


def _class_activation(
    question: Question, layer: nn.Module, weights: Callable[[Tensor, Tensor], Tensor], batch: int
) -> np.ndarray:
    """ReLU of the weighted channels of `layer`; `weights` maps activations and slopes (B, C, h, w) to (B, C)."""
    if layer not in question.network.modules():
        raise SettingsError("the layer is no part of this network; a copied network has layers of its own")
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # what comes after may write into it

    maps = []
    handle = layer.register_forward_hook(keep)
    try:
        for part in batches(len(question.images), batch):
            kept.clear()
            with torch.enable_grad():
                total = question.value(question.images[part], question.signs[part]).sum()
                if not kept or kept[-1].ndim != 4:
                    raise SettingsError("the layer must give feature maps (B, C, h, w): choose a convolutional one")
                slopes = torch.autograd.grad(total, kept[-1])[0]
            activations = kept[-1].detach()
            maps.append((weights(activations, slopes)[:, :, None, None] * activations).sum(1).relu())
    finally:
        handle.remove()
    return stacked(maps)
