"""What generator and discriminator minimise."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

PENALTY = 10.0  # λ of eq. 3 of Gulrajani et al. 2017


def discriminator_loss(real: Tensor, drawn: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of "real" for real images and "drawn" for drawn ones.

    Goodfellow et al. 2014 (arXiv:1406.2661), eq. 1, with one-sided label smoothing (Salimans et al. 2016,
    arXiv:1606.03498, section 3.4): real images are only 1 − `smoothing` real.

    Args:
        real: (B,) raw verdicts on real images.
        drawn: (B,) raw verdicts on drawn ones.
        smoothing: from 0 to below 1.
    """
    wanted = torch.full_like(real, 1 - smoothing)
    return functional.binary_cross_entropy_with_logits(real, wanted) + functional.softplus(drawn).mean()


def generator_loss(drawn: Tensor) -> Tensor:
    """−log D(G(z)), the loss that does not saturate (Goodfellow et al. 2014, section 3), from raw verdicts (B,)."""
    return functional.softplus(-drawn).mean()


def critic_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """D(G(z)) − D(x): minus the estimated Wasserstein distance (Arjovsky et al. 2017, arXiv:1701.07875, eq. 3)."""
    return drawn.mean() - real.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, drawn: Tensor, shares: Tensor) -> Tensor:
    """(‖∇D(x̂)‖₂ − 1)², averaged, at points x̂ between real and drawn images.

    Gulrajani et al. 2017 (arXiv:1704.00028), eq. 3 and algorithm 1, without the factor λ.

    Args:
        critic: images (B, C, H, W) -> (B,); one image must not change another's verdict.
        real: (B, C, H, W).
        drawn: (B, C, H, W).
        shares: (B,) in [0, 1], ε of algorithm 1: how much of the real image.
    """
    shares = shares[:, None, None, None]
    between = (shares * real + (1 - shares) * drawn).requires_grad_(True)
    (gradients,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradients.flatten(1).norm(dim=1) - 1).square().mean()
