"""AnoGAN: look for the latent vector whose picture is closest to an image, by gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from mvtec_ad.methods.gan.networks import Discriminator, Generator


@dataclass(frozen=True)
class Search:
    """What a search found for B images, R starting points each.

    Attributes:
        latents: (B, R, latent) where each start ended.
        losses: (steps + 1, B, R) before the first step and after each.
        drawn: (B, C, S, S) in [−1, 1], the picture of each image's best start.
        best: (B,) the start with the lowest loss.
    """

    latents: Tensor
    losses: Tensor
    drawn: Tensor
    best: Tensor


def search_loss(critic: Discriminator, images: Tensor, drawn: Tensor, feature_share: float) -> Tensor:
    """(1 − λ) · Σ|x − G(z)| + λ · Σ|f(x) − f(G(z))| of every image.

    Schlegl et al. 2017 (arXiv:1703.05921), section 2.2: the residual loss, and the discrimination loss on features f of
    the discriminator.

    Args:
        critic: whose features are compared.
        images: (B, C, S, S) in [−1, 1].
        drawn: the same shape.
        feature_share: λ.

    Returns:
        (B,).
    """
    residual = (images - drawn).abs().flatten(1).sum(1)
    if feature_share == 0:
        return residual
    features = (critic.features(images) - critic.features(drawn)).abs().sum(1)
    return (1 - feature_share) * residual + feature_share * features


def search(
    generator: Generator,
    critic: Discriminator,
    images: Tensor,
    starts: Tensor,
    *,
    steps: int,
    rate: float,
    feature_share: float,
    progress: bool = False,
) -> Search:
    """Search for all images and all their starting points at once.

    The loss is a sum over searches, the networks are in evaluation mode (no search sees another through a batch norm),
    and Adam treats every number on its own: so each search takes the steps it would take alone.

    Args:
        generator: in evaluation mode.
        critic: in evaluation mode.
        images: (B, C, S, S) in [−1, 1].
        starts: (B, R, latent).
        steps: of Adam.
        rate: its learning rate.
        feature_share: λ of `search_loss`.
        progress: show a bar.
    """
    count, restarts = starts.shape[:2]
    latents = starts.flatten(0, 1).clone().requires_grad_(True)  # (B · R, latent)
    wanted = images.repeat_interleave(restarts, 0)
    optimiser = torch.optim.Adam([latents], lr=rate)
    losses = []
    with _still(generator, critic), torch.enable_grad():
        for step in tqdm(range(steps + 1), "latent search", disable=not progress):
            each = search_loss(critic, wanted, generator(latents), feature_share)
            losses.append(each.detach().view(count, restarts))
            if step < steps:
                (latents.grad,) = torch.autograd.grad(each.sum(), latents)
                optimiser.step()
        best = losses[-1].argmin(1)
        found = latents.detach().view(count, restarts, -1)
        with torch.no_grad():
            drawn = generator(found[torch.arange(count), best])
    return Search(found, torch.stack(losses), drawn, best)


@contextmanager
def _still(*networks: torch.nn.Module) -> Iterator[None]:
    """Weights need no gradient while a search goes on."""
    moving = [weights for network in networks for weights in network.parameters() if weights.requires_grad]
    for weights in moving:
        weights.requires_grad_(False)
    try:
        yield
    finally:
        for weights in moving:
            weights.requires_grad_(True)
