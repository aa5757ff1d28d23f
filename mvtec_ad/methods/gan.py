"""DCGAN: a generator that draws images from latent vectors, trained in turns with a discriminator.

Goodfellow et al., "Generative Adversarial Networks", 2014 (arXiv:1406.2661): the game; Radford, Metz, Chintala,
"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks", 2015 (arXiv:1511.06434):
strided convolutions, no pooling; Arjovsky et al. 2017 (arXiv:1701.07875) and Gulrajani et al. 2017 (arXiv:1704.00028):
the Wasserstein loss with gradient penalty. `methods.anogan` finds defects with the same networks.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvtec_ad.backbones.trunk import seeded
from mvtec_ad.config import Options, check_seed, option, torch_device
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.base import FITTED, curve_state, load_curve, load_weights, normal, weights_state
from mvtec_ad.training import Run, constant

PENALTY = 10.0  # λ of eq. 3 of Gulrajani et al. 2017
GRID = 16  # pictures from fixed noise

# --- networks ---------------------------------------------------------------------------------------------------------


def grids_of(size: int) -> list[int]:
    """Cells a side of all grids of a network, finest first: halved until at most 4 are left.

    The coarsest grid must be seen as a whole: where one layer looks at a part of the picture only, strokes are fine and
    digits are none.

    Examples:
        >>> grids_of(28)
        [28, 14, 7, 3]
    """
    grids = [size]
    while grids[-1] > 4:
        grids.append(grids[-1] // 2)
    return grids


def _channels(width: int, depth: int) -> list[int]:
    """Of the grids below the picture, finest first: each coarser one has twice as many, up to 8 × width."""
    return [width * min(2**level, 8) for level in range(depth)]


class Generator(nn.Module):
    """DCGAN generator: transposed convolutions turn latent vectors into images of `size` pixels and 1 or 3 colours.

    `latent` is the length of a vector z, `width` are the channels of the finest grid.

    Examples:
        >>> Generator(28, 1, latent=10, width=4)(torch.zeros(2, 10)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, size: int, colours: int, latent: int, width: int) -> None:
        super().__init__()
        sizes = grids_of(size)[::-1]  # coarsest first: 3, 7, 14, 28
        channels = [*_channels(width, len(sizes) - 1)[::-1], colours]
        self.latent, self.grid = latent, (channels[0], sizes[0], sizes[0])
        self.widen = nn.Linear(latent, channels[0] * sizes[0] ** 2)
        ups: list[nn.Module] = []
        for (few, many), (before, after) in zip(itertools.pairwise(sizes), itertools.pairwise(channels), strict=True):
            stamps = nn.ConvTranspose2d(
                before, after, 4, 2, 1, output_padding=many - 2 * few, bias=many == size
            )  # 3 => 7 needs one more row and column; a bias before a batch norm would do nothing
            ups += [nn.BatchNorm2d(before), nn.ReLU(), stamps]
        self.ups = nn.Sequential(*ups)
        self.register_buffer("base", torch.zeros(colours, size, size))
        _small_weights(self)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, latent) -> images (B, colours, size, size) in [−1, 1]."""
        grids = self.widen(latent).view(-1, *self.grid)
        return torch.tanh(self.ups(grids) + self.base)

    def start_from(self, mean: Tensor) -> None:
        """Draw what differs from a mean image, (colours, size, size) in [−1, 1], instead of everything."""
        self.base.copy_(torch.atanh(mean.clamp(-0.99, 0.99)))


class Discriminator(nn.Module):
    """DCGAN discriminator, critic or encoder: strided convolutions, the mirror image of the generator.

    Args:
        size, colours, width: as in `Generator`.
        norm: after every convolution but the first: `batch`, `layer` (for a critic with gradient penalty, which must
            not mix the images of a batch: Gulrajani et al. 2017, section 4) or `none`.
        spectral: divide every weight by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).
        outputs: numbers an image, which makes it an encoder; None gives one verdict.

    Examples:
        >>> Discriminator(28, 1, width=4)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        size: int,
        colours: int,
        width: int,
        norm: str = "batch",
        spectral: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        sizes = grids_of(size)
        channels = [colours, *_channels(width, len(sizes) - 1)]
        norms = {"batch": nn.BatchNorm2d, "layer": lambda channels: nn.GroupNorm(1, channels), "none": None}
        downs: list[nn.Module] = []
        for depth, (before, after) in enumerate(itertools.pairwise(channels)):
            layer = norms[norm] if depth else None
            downs += [nn.Conv2d(before, after, 4, 2, 1, bias=layer is None), *([layer(after)] if layer else [])]
            downs.append(nn.LeakyReLU(0.2))
        self.downs = nn.Sequential(*downs)
        self.encodes = outputs is not None
        self.head = nn.Linear(channels[-1] * sizes[-1] ** 2, outputs or 1)
        _small_weights(self)
        if spectral:
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.utils.parametrizations.spectral_norm(module)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, colours, size, size) in [−1, 1] -> what stands before the verdict, (B, F)."""
        return self.downs(images).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Images -> raw verdicts (B,), high for real ones; an encoder gives (B, outputs)."""
        verdicts = self.head(self.features(images))
        return verdicts if self.encodes else verdicts[:, 0]


def _small_weights(network: nn.Module) -> None:
    """Weights from N(0, 0.02²): Radford et al. 2015, section 4."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def move_average(average: nn.Module, network: nn.Module, share: float, step: int) -> None:
    """Exponential moving average of a network's weights, in place; its batch statistics are taken as they are.

    `share` of the average stays; less in the first steps, whose weights are noise.

    Examples:
        >>> average, network = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> move_average(average, network, share=0.0, step=3)
        >>> torch.equal(average.weight, network.weight)
        True
    """
    share = min(share, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, now in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(now, 1 - share)
        for mean, now in zip(average.buffers(), network.buffers(), strict=True):
            mean.copy_(now)


# --- losses -----------------------------------------------------------------------------------------------------------


def discriminator_loss(real: Tensor, generated: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of "real" for real images and "generated" for generated ones.

    Goodfellow et al. 2014, eq. 1, with one-sided label smoothing (Salimans et al. 2016, arXiv:1606.03498, section 3.4):
    real images are only 1 − `smoothing` real. Both are raw verdicts, (B,).

    Examples:
        >>> discriminator_loss(torch.zeros(2), torch.zeros(2))  # it cannot tell: 2 log 2
        tensor(1.3863)
    """
    wanted = torch.full_like(real, 1 - smoothing)
    return F.binary_cross_entropy_with_logits(real, wanted) + F.softplus(generated).mean()


def generator_loss(generated: Tensor) -> Tensor:
    """−log D(G(z)), the loss that does not saturate (Goodfellow et al. 2014, section 3), from raw verdicts (B,).

    Examples:
        >>> generator_loss(torch.zeros(2))  # log 2
        tensor(0.6931)
    """
    return F.softplus(-generated).mean()


def critic_loss(real: Tensor, generated: Tensor) -> Tensor:
    """D(G(z)) − D(x): minus the estimated Wasserstein distance (Arjovsky et al. 2017, eq. 3), from verdicts (B,).

    Examples:
        >>> critic_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.5]))
        tensor(-1.5000)
    """
    return generated.mean() - real.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, generated: Tensor, shares: Tensor) -> Tensor:
    """(‖∇D(x̂)‖₂ − 1)², averaged, at points x̂ between real and generated images.

    Gulrajani et al. 2017, eq. 3 and algorithm 1, without the factor λ; `shares`, (B,), are its ε: how much of the real
    image. The critic, (B, C, H, W) -> (B,), must not let one image change another's verdict.

    Examples:
        >>> images = torch.zeros(2, 1, 2, 2)
        >>> gradient_penalty(lambda x: x.sum((1, 2, 3)), images, images + 1, torch.rand(2))  # slope 2 everywhere
        tensor(1.)
    """
    shares = shares[:, None, None, None]
    between = (shares * real + (1 - shares) * generated).requires_grad_(True)
    (gradients,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradients.flatten(1).norm(dim=1) - 1).square().mean()


# --- latent vectors and pictures --------------------------------------------------------------------------------------


def latents(number: int, length: int, seed: int = 0) -> np.ndarray:
    """Latent vectors from N(0, I), (number, length) float32.

    Examples:
        >>> latents(2, 100).shape
        (2, 100)
    """
    return np.random.default_rng(seed).standard_normal((number, length)).astype(np.float32)


def interpolate(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Spherical interpolation: vectors (count, latent) on the great circle from one (latent,) to another.

    A straight line between two vectors of many dimensions passes much closer to 0 than any vector from N(0, I) lies
    (White 2016, arXiv:1609.04468). Both ends are included; float32.

    Examples:
        >>> vectors = interpolate(np.array([2.0, 0.0]), np.array([0.0, 2.0]), 3)
        >>> np.linalg.norm(vectors, axis=1).round(3).tolist()
        [2.0, 2.0, 2.0]
    """
    shares = np.linspace(0, 1, count)[:, None]
    cosine = np.dot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:
        return ((1 - shares) * first + shares * second).astype(np.float32)
    return ((np.sin((1 - shares) * angle) * first + np.sin(shares * angle) * second) / np.sin(angle)).astype(np.float32)


def as_pictures(images: Tensor) -> Tensor:
    """Images (B, C, S, S) in [−1, 1] -> pictures (B, S, S, C) uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)


# --- DCGAN ------------------------------------------------------------------------------------------------------------


@dataclass
class Dcgan(Options):
    """DCGAN of gray pictures: `fit` trains it, `sample` draws.

    Attributes:
        generator: with averaged weights, in evaluation mode.
        discriminator: as its last step left it; None in a model that was loaded, which only draws.
        seed: of weights, batches and noise.
        curve: columns step, discriminator, generator.
        grids: (K, 16, S, S) uint8, pictures from the same noise at K moments of the training.
        moments: (K,) steps after which they were generated.

    Examples:
        >>> digits = np.random.default_rng(0).integers(0, 256, (8, 28, 28), np.uint8)
        >>> model = Dcgan(latent=4, width=2, discriminator_width=2, batch_images=4, epochs=1).fit(digits, seed=0)
        >>> model.sample(3).shape
        (3, 28, 28)
    """

    digits: str = option("auto", "which digits: auto is MNIST where it can be had", among=("auto", "mnist", "sklearn"))
    held_out: float = option(
        0.2, "share of the digits that is not trained on: quality is measured against them", above=0, below=1
    )
    latent: int = option(100, "numbers that a picture is drawn from", least=1, most=4096)
    width: int = option(
        24, "channels of the generator's finest grid; each coarser one doubles them, up to 8 ×", least=1, most=256
    )
    discriminator_width: int = option(24, "channels of the discriminator's finest grid", least=1, most=256)
    epochs: int = option(50, "passes through the pictures", least=1, most=1_000_000)
    batch_images: int = option(32, "pictures a step", least=2, most=100_000)
    lr: float = option(1e-3, "learning rate of the generator", above=0, most=1)
    discriminator_lr: float = option(
        1e-3, "that of the discriminator; another one makes two time scales (Heusel et al. 2017)", above=0, most=1
    )
    beta1: float = option(0.5, "β₁ of Adam", least=0, below=1)
    norm: str = option("batch", "normalisation in the discriminator", among=("batch", "layer", "none"))
    spectral: bool = option(False, "spectral norm of the discriminator (Miyato et al. 2018)")
    smoothing: float = option(0.0, "smoothing of the label 'real'", least=0, below=1)
    averaging: float = option(
        0.99, "share of the generator's averaged weights that stays in a step; 0 averages nothing", least=0, below=1
    )
    snapshots: int = option(8, "moments at which pictures from fixed noise are kept", least=1, most=1000)

    PRESETS: ClassVar = {
        "default": {},
        "quick": {"digits": "sklearn", "epochs": 10, "width": 16, "discriminator_width": 16},
        "full": {},
    }

    generator: Generator | None = field(default=None, **FITTED)
    discriminator: Discriminator | None = field(default=None, **FITTED)
    seed: int | None = field(default=None, **FITTED)
    curve: pd.DataFrame | None = field(default=None, **FITTED)
    grids: np.ndarray | None = field(default=None, **FITTED)
    moments: np.ndarray | None = field(default=None, **FITTED)

    def steps(self, count: int) -> int:
        """Training steps on so many pictures: whole batches only."""
        return self.epochs * max(1, count // self.batch_images)

    def fit(
        self, images: np.ndarray, seed: int = 0, *, checkpoint: Path | None = None, progress: bool = False
    ) -> Dcgan:
        """Train generator and discriminator on gray pictures, (N, S, S) uint8.

        `seed` is that of weights, batches and noise; `checkpoint`, where the run is kept, and gone on from.

        Raises:
            DataError: fewer images than a batch, or they are not square.
            TrainingError: a loss is not finite; the last checkpoint stays.
        """
        if images.ndim != 3 or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
            shown = f"{images.shape} {images.dtype}"
            raise DataError(f"pictures must be gray and square, (N, S, S) uint8 from 0 to 255, and these are {shown}")
        check_seed(seed)
        if len(images) < self.batch_images:
            raise DataError(
                f"a batch needs {self.batch_images} gray pictures, and there are {images.shape}: lower batch_images"
            )
        with seeded(seed):
            game = _Game(images.shape[-1], self, seed)
        game.to(torch_device(), memory_format=torch.channels_last)
        steps, per_epoch = self.steps(len(images)), max(1, len(images) // self.batch_images)
        moments = np.unique(np.linspace(0, steps, min(self.snapshots, steps) + 1).round().astype(int)[1:])

        def generate(rng: np.random.Generator) -> Tensor:
            return game.generator(normal((self.batch_images, self.latent), rng))

        recipe = {"lr": self.lr, "steps": steps, "seed": seed, "schedule": constant, "beta1": self.beta1}
        recipe |= {"weight_decay": 0.0, "checkpoint": checkpoint, "identity": self.options()}
        with Run(game, **recipe, description="DCGAN", progress=progress) as run:
            for step in run:
                with torch.no_grad():
                    fakes = generate(run.rng(step, 1))
                epoch, part = divmod(step, per_epoch)
                order = run.rng(epoch).permutation(len(images))[part * self.batch_images :][: self.batch_images]
                real = torch.from_numpy(images[order]).to(torch_device())[:, None].float() / 127.5 - 1  # B×1×S×S
                loss = discriminator_loss(game.discriminator(real), game.discriminator(fakes), self.smoothing)
                run.minimise(loss, of=game.discriminator, lr=self.discriminator_lr)
                run.minimise(generator_loss(game.discriminator(generate(run.rng(step, 2)))), of=game.generator)
                move_average(game.averaged, game.generator, self.averaging, step)
                for moment in np.flatnonzero(moments == step + 1):
                    game.look(int(moment))
        self.generator, self.discriminator = game.averaged.eval(), game.discriminator.eval()
        self.seed, self.curve = seed, run.curve()
        self.grids, self.moments = game.grids.cpu().numpy()[: len(moments)], moments
        return self

    def generate(self, latents: np.ndarray) -> np.ndarray:
        """Pictures (N, S, S) uint8 of latent vectors (N, latent) float32."""
        if self.generator is None:
            raise SettingsError("this DCGAN is not fitted: call fit(images) first")
        vectors = torch.from_numpy(latents).float().to(torch_device())
        with torch.inference_mode():
            parts = [as_pictures(self.generator(vectors[part])) for part in batches(len(vectors), 256)]
        return torch.cat(parts)[..., 0].cpu().numpy()

    def sample(self, number: int, seed: int = 0) -> np.ndarray:
        """Pictures from N(0, I), (number, S, S) uint8."""
        return self.generate(latents(number, self.latent, seed))

    def state(self) -> dict[str, np.ndarray]:
        """What a fit has found, as plain arrays: weights, curve, grids, moments and seed."""
        more = {"grids": self.grids, "moments": self.moments, "seed": np.array(self.seed)}
        return {**weights_state(self.generator, "generator"), **curve_state(self.curve), **more}

    def load_state(self, state: dict[str, np.ndarray]) -> Dcgan:
        """The inverse of `state`."""
        with seeded(0):
            generator = Generator(state["grids"].shape[-1], 1, self.latent, self.width)
        self.generator, self.seed = load_weights(generator, state, "generator"), int(np.asarray(state["seed"]).item())
        self.curve = load_curve(state, "step", "discriminator", "generator")
        self.grids, self.moments = state["grids"], state["moments"]
        return self


class _Game(nn.Module):
    """All that a checkpoint must hold: both players, the averaged generator, and the pictures so far."""

    def __init__(self, size: int, options: Dcgan, seed: int) -> None:
        super().__init__()
        self.generator = Generator(size, 1, options.latent, options.width)
        self.discriminator = Discriminator(size, 1, options.discriminator_width, options.norm, options.spectral)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.register_buffer("noise", torch.from_numpy(latents(GRID, options.latent, seed)))
        self.register_buffer("grids", torch.zeros(options.snapshots, GRID, size, size, dtype=torch.uint8))

    def look(self, moment: int) -> None:
        """Keep what the averaged generator draws from the fixed noise."""
        self.averaged.eval()
        with torch.no_grad():
            self.grids[moment] = as_pictures(self.averaged(self.noise))[..., 0]
