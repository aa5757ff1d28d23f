"""Generator, discriminator and encoder of Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks", 2015 (arXiv:1511.06434): strided convolutions, no pooling."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def grids_of(side: int) -> list[int]:
    """Cells a side of all grids, finest first: halved until at most 4 are left, 28 -> [28, 14, 7, 3].

    The coarsest grid must be seen as a whole: where one layer looks at a part of the picture only, strokes are fine and
    digits are none.
    """
    grids = [side]
    while grids[-1] > 4:
        grids.append(grids[-1] // 2)
    return grids


def _channels(width: int, halvings: int) -> list[int]:
    """Of the grids below the picture, finest first: each coarser one has twice as many, up to 8 × width."""
    return [width * min(2**depth, 8) for depth in range(halvings)]


class Generator(nn.Module):
    """Latent vectors become images by transposed convolutions.

    Args:
        side: of the images.
        colours: of the images, 1 or 3.
        latent: length of a latent vector z.
        width: channels of the finest grid.
    """

    def __init__(self, side: int, colours: int, latent: int, width: int) -> None:
        super().__init__()
        sides = grids_of(side)[::-1]  # coarsest first: 3, 7, 14, 28
        channels = [*_channels(width, len(sides) - 1)[::-1], colours]
        self.latent, self.grid = latent, (channels[0], sides[0], sides[0])
        self.widen = nn.Linear(latent, channels[0] * sides[0] ** 2)
        ups: list[nn.Module] = []
        for (few, many), (before, after) in zip(itertools.pairwise(sides), itertools.pairwise(channels), strict=True):
            stamps = nn.ConvTranspose2d(
                before, after, 4, 2, 1, output_padding=many - 2 * few, bias=many == side
            )  # 3 => 7 needs one more row and column; a bias before a batch norm would do nothing
            ups += [nn.BatchNorm2d(before), nn.ReLU(), stamps]
        self.ups = nn.Sequential(*ups)
        self.register_buffer("base", torch.zeros(colours, side, side))
        _small_weights(self)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, latent) -> images (B, colours, side, side) in [−1, 1]."""
        grids = self.widen(latent).view(-1, *self.grid)
        return torch.tanh(self.ups(grids) + self.base)

    def start_from(self, mean: Tensor) -> None:
        """Draw what differs from a mean image, (colours, side, side) in [−1, 1], instead of everything."""
        self.base.copy_(torch.atanh(mean.clamp(-0.99, 0.99)))


class Discriminator(nn.Module):
    """Judges images: the mirror image of the generator.

    Args:
        side: of the images.
        colours: of the images, 1 or 3.
        width: channels of the first grid.
        norm: after every convolution but the first: `batch`, `layer` (for a critic with gradient penalty, which must
            not mix the images of a batch: Gulrajani et al. 2017, section 4) or `none`.
        spectral: divide every weight by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).
        outputs: numbers an image, which makes it an encoder; None gives one verdict.
    """

    def __init__(
        self,
        side: int,
        colours: int,
        width: int,
        norm: str = "batch",
        spectral: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        sides = grids_of(side)
        channels = [colours, *_channels(width, len(sides) - 1)]
        downs: list[nn.Module] = []
        for depth, (before, after) in enumerate(itertools.pairwise(channels)):
            own = norm if depth else "none"
            downs += [nn.Conv2d(before, after, 4, 2, 1, bias=own == "none"), *_norm(own, after), nn.LeakyReLU(0.2)]
        self.downs = nn.Sequential(*downs)
        self.encodes = outputs is not None
        self.judge = nn.Linear(channels[-1] * sides[-1] ** 2, outputs or 1)
        _small_weights(self)
        if spectral:
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.utils.parametrizations.spectral_norm(module)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, colours, side, side) in [−1, 1] -> what stands before the verdict, (B, F)."""
        return self.downs(images).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Images -> raw verdicts (B,), high for real ones; an encoder gives (B, outputs)."""
        verdicts = self.judge(self.features(images))
        return verdicts if self.encodes else verdicts[:, 0]


def move_average(kept: nn.Module, present: nn.Module, share: float, step: int) -> None:
    """Move averaged weights towards the present ones, in place: an exponential moving average.

    Args:
        kept: the averaged network.
        present: the one in training, of the same shape; what it counts itself (batch statistics) is taken as it is.
        share: of the average that stays; less in the first steps, whose weights are noise.
        step: of the training, from 0.
    """
    share = min(share, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, now in zip(kept.parameters(), present.parameters(), strict=True):
            mean.lerp_(now, 1 - share)
        for mean, now in zip(kept.buffers(), present.buffers(), strict=True):
            mean.copy_(now)


def _norm(name: str, channels: int) -> list[nn.Module]:
    return {"batch": [nn.BatchNorm2d(channels)], "layer": [nn.GroupNorm(1, channels)], "none": []}[name]


def _small_weights(network: nn.Module) -> None:
    """Weights from N(0, 0.02²): Radford et al. 2015, section 4."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
