"""The three networks of f-AnoGAN, and what its encoder minimises."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mvtec_ad.methods.gan.networks import Discriminator, Generator
from mvtec_ad.settings import AnoganSettings, torch_device


class Networks(nn.Module):
    """Generator and critic of good images, and the encoder that leads back.

    Args:
        settings: their sizes.

    Attributes:
        generator: in training.
        averaged: the mean of its weights over the last steps, which is what draws in the end.
        critic: of real and drawn images.
        encoder: from an image to its latent vector; None where that is searched for.
    """

    def __init__(self, settings: AnoganSettings) -> None:
        super().__init__()
        self.generator = Generator(settings.crop, 3, settings.latent, settings.width)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.critic = Discriminator(settings.crop, 3, settings.width, norm="layer")
        self.encoder = None
        if settings.inversion == "encoder":
            self.encoder = Discriminator(settings.crop, 3, settings.width, outputs=settings.latent)


def encoder_loss(critic: Discriminator, images: Tensor, drawn: Tensor, kappa: float) -> Tensor:
    """‖x − x̂‖² / n + κ ‖f(x) − f(x̂)‖² / n_f of every image, with n pixel values and n_f features.

    The loss of an encoder trained in the way izi_f, or izi with κ = 0, and the anomaly score of f-AnoGAN (Schlegl et
    al. 2019, sections on encoder training and on detection).

    Args:
        critic: whose features f are compared.
        images: x, (B, C, S, S) in [−1, 1].
        drawn: x̂ = G(E(x)), the same shape.
        kappa: κ.

    Returns:
        (B,).
    """
    residual = (images - drawn).square().flatten(1).mean(1)
    if kappa == 0:
        return residual
    return residual + kappa * (critic.features(images) - critic.features(drawn)).square().mean(1)


def signed(images: Tensor) -> Tensor:
    """[0, 1] -> [−1, 1]."""
    return images * 2 - 1


def new_networks(settings: AnoganSettings, seed: int) -> Networks:
    """With new weights, on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = Networks(settings)
    return networks.to(torch_device(), memory_format=torch.channels_last)
