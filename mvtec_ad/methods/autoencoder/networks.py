"""The network that squeezes an image into a vector and draws it again, and its variational sister."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Strided convolutions down to a vector, transposed ones back.

    The shape of Bergmann et al. 2019 (arXiv:1807.02011, table 1), with batch normalisation and fewer layers. As a VAE
    (Kingma and Welling 2013, arXiv:1312.6114) the encoder gives mean and logarithm of the variance of the vector.

    Args:
        side: of the images, a multiple of 2^halvings.
        latent: length of the vector; 0 leaves it out, so that the last grid itself is the code.
        width: channels of the first layer; doubled by each further one, up to 8 × width.
        halvings: convolutions with stride 2 on the way down.
        variational: also predict the variance; needs a vector.

    Attributes:
        code: numbers that an image is squeezed into.
    """

    def __init__(self, side: int, latent: int, width: int, halvings: int = 5, variational: bool = False) -> None:
        super().__init__()
        self.variational = variational
        channels = [3, *(width * min(2**depth, 8) for depth in range(halvings))]
        self.grid = channels[-1], side // 2**halvings, side // 2**halvings
        cells = self.grid[0] * self.grid[1] * self.grid[2]
        self.code = latent or cells
        down = [_halve(a, b) for a, b in itertools.pairwise(channels)]
        up = [_double(b, a) for a, b in itertools.pairwise(channels[1:])][::-1]
        squeeze = nn.Linear(cells, latent * (2 if variational else 1)) if latent else nn.Identity()
        self.encoder = nn.Sequential(*down, nn.Flatten(), squeeze)
        self.widen = nn.Sequential(nn.Linear(latent, cells), nn.LeakyReLU(0.2)) if latent else nn.Identity()
        self.decoder = nn.Sequential(*up, nn.ConvTranspose2d(channels[1], 3, 4, 2, 1))
        self.register_buffer("base", torch.zeros(3, side, side))
        nn.init.zeros_(self.decoder[-1].weight)  # the first drawing is the base: nothing has to be unlearned first
        nn.init.zeros_(self.decoder[-1].bias)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, S, S) in [0, 1] -> latent mean (B, L), and log variance (B, L) of a VAE, else None."""
        found = self.encoder(images)
        if not self.variational:
            return found, None
        mean, log_variance = found.chunk(2, 1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """(B, L) -> images (B, 3, S, S) in [0, 1]."""
        return torch.sigmoid(self.decoder(self.widen(latent).view(-1, *self.grid)) + self.base)

    def start_from(self, mean: Tensor) -> None:
        """Let the decoder draw what differs from a mean image, (3, S, S) in [0, 1], instead of everything.

        As the mean that PCA, the linear autoencoder, subtracts. Without it the first thousand steps go into drawing
        the mean, and with few images the vector may never come to be used. Where the code is a grid only the mean
        colour is given: convolutions do not know where they are, and could not tell what to subtract.
        """
        if isinstance(self.widen, nn.Identity):
            mean = mean.mean((1, 2), keepdim=True).expand_as(mean)
        self.base.copy_(torch.logit(mean, 0.005))

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Redraw images.

        Args:
            images: (B, 3, S, S) in [0, 1].
            noise: (B, L) standard normal numbers, with which a VAE draws its vector; the mean is taken when None.

        Returns:
            Reconstructions (B, 3, S, S), and the KL divergence of each latent distribution to N(0, I), (B,), 0 for
            a plain autoencoder.
        """
        mean, log_variance = self.encode(images)
        latent = mean
        if log_variance is not None and noise is not None:
            latent = mean + torch.exp(log_variance / 2) * noise
        return self.decode(latent), divergence(mean, log_variance)


def divergence(mean: Tensor, log_variance: Tensor | None) -> Tensor:
    """KL(N(mean, variance) ‖ N(0, I)) of each row, (B,): Kingma and Welling 2013, appendix B; 0 without a variance."""
    if log_variance is None:
        return mean.new_zeros(len(mean))
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)


def _halve(channels: int, more: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, more, 4, 2, 1, bias=False), nn.BatchNorm2d(more), nn.LeakyReLU(0.2))


def _double(channels: int, fewer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, fewer, 4, 2, 1, bias=False), nn.BatchNorm2d(fewer), nn.LeakyReLU(0.2)
    )
