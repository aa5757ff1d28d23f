"""A GAN that draws digits, trained in turns."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError
from mvtec_ad.methods.gan.losses import discriminator_loss, generator_loss
from mvtec_ad.methods.gan.networks import Discriminator, Generator, move_average
from mvtec_ad.methods.sampling import normal
from mvtec_ad.settings import DcganSettings, as_dict, torch_device
from mvtec_ad.training import Turn, rng_of, train_in_turns

GRID = 16  # pictures from fixed noise


@dataclass
class Dcgan:
    """A trained generator of gray pictures.

    Attributes:
        generator: with averaged weights, in evaluation mode.
        settings: it was trained with.
        curve: columns step, discriminator, generator.
        grids: (K, 16, S, S) uint8, pictures from the same noise at K moments of the training.
        moments: (K,) steps after which they were drawn.
    """

    generator: Generator
    settings: DcganSettings
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)
    grids: np.ndarray = field(default_factory=lambda: np.empty((0, GRID, 28, 28), np.uint8))
    moments: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def draw(self, latents: np.ndarray) -> np.ndarray:
        """Latent vectors (N, latent) float32 -> pictures (N, S, S) uint8."""
        device = torch_device()
        with torch.inference_mode():
            drawn = [
                _pictures(self.generator(torch.from_numpy(latents[part]).float().to(device)))
                for part in batches(len(latents), 256)
            ]
        return torch.cat(drawn).cpu().numpy()

    def sample(self, number: int, seed: int = 0) -> np.ndarray:
        """Pictures from N(0, I), (number, S, S) uint8."""
        return self.draw(latents(number, self.settings.latent, seed))


def latents(number: int, length: int, seed: int = 0) -> np.ndarray:
    """(number, length) float32 from N(0, I)."""
    return np.random.default_rng(seed).standard_normal((number, length)).astype(np.float32)


def interpolate(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Latent vectors on the great circle from one to another.

    A straight line between two vectors of many dimensions passes much closer to 0 than any vector from N(0, I) lies
    (White 2016, arXiv:1609.04468).

    Args:
        first: (latent,).
        second: (latent,).
        count: vectors, both ends included.

    Returns:
        (count, latent) float32.
    """
    shares = np.linspace(0, 1, count)[:, None]
    cosine = np.dot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:
        return ((1 - shares) * first + shares * second).astype(np.float32)
    return ((np.sin((1 - shares) * angle) * first + np.sin(shares * angle) * second) / np.sin(angle)).astype(np.float32)


class _Game(nn.Module):
    """All that a checkpoint must hold: both players, the averaged generator, and the pictures so far."""

    def __init__(self, side: int, settings: DcganSettings) -> None:
        super().__init__()
        self.generator = Generator(side, 1, settings.latent, settings.width)
        self.discriminator = Discriminator(side, 1, settings.discriminator_width, settings.norm, settings.spectral)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.register_buffer("noise", torch.from_numpy(latents(GRID, settings.latent, settings.seed)))
        self.register_buffer("grids", torch.zeros(settings.grids, GRID, side, side, dtype=torch.uint8))

    def look(self, moment: int) -> None:
        """Keep what the averaged generator draws from the fixed noise."""
        self.averaged.eval()
        with torch.no_grad():
            self.grids[moment] = _pictures(self.averaged(self.noise))


def fit(
    settings: DcganSettings,
    images: np.ndarray,
    *,
    checkpoint: Path | None = None,
    until: int | None = None,
    progress: bool = True,
) -> Dcgan:
    """Train generator and discriminator on gray pictures.

    Args:
        settings: how.
        images: (N, S, S) uint8.
        checkpoint: where the run is kept, and gone on from; None keeps nothing.
        until: stop after this step, as if interrupted.
        progress: show a bar with both losses.

    Raises:
        DataError: fewer images than a batch, or they are not square.
        TrainingError: a loss is not finite; the last checkpoint stays.
    """
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise DataError(f"pictures must be gray and square, (N, S, S), and these are {images.shape}")
    if len(images) < settings.batch:
        raise DataError(f"a batch needs {settings.batch} gray pictures, and there are {images.shape}: lower the batch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        game = _Game(images.shape[-1], settings)
    game.to(torch_device(), memory_format=torch.channels_last)
    real, steps = torch.from_numpy(images), settings.steps(len(images))
    moments = np.unique(np.linspace(0, steps, min(settings.grids, steps) + 1).round().astype(int)[1:])
    per_epoch = max(1, len(images) // settings.batch)

    def batch(step: int) -> Tensor:
        epoch, part = divmod(step, per_epoch)
        order = rng_of(settings.seed, epoch).permutation(len(real))[part * settings.batch :][: settings.batch]
        return real[order].to(torch_device())[:, None].float() / 127.5 - 1  # (B, 1, S, S)

    def draw(step: int, player: int) -> Tensor:
        return game.generator(normal((settings.batch, settings.latent), rng_of(settings.seed, step, 1 + player)))

    def discriminator(step: int, _: int) -> Tensor:
        with torch.no_grad():
            drawn = draw(step, 0)
        return discriminator_loss(game.discriminator(batch(step)), game.discriminator(drawn), settings.smoothing)

    def generator(step: int, _: int) -> Tensor:
        return generator_loss(game.discriminator(draw(step, 1)))

    def after(step: int) -> None:
        move_average(game.averaged, game.generator, settings.averaging, step)
        for moment in np.flatnonzero(moments == step + 1):
            game.look(int(moment))

    moves = {"momentum": settings.momentum}
    turns = [
        Turn("discriminator", game.discriminator, discriminator, lambda _: settings.discriminator_rate, **moves),
        Turn("generator", game.generator, generator, lambda _: settings.rate, **moves, after=after),
    ]
    curve = train_in_turns(
        game,
        turns,
        steps=steps,
        checkpoint=checkpoint,
        every=100,
        identity=as_dict(settings),
        until=until,
        description="DCGAN",
        progress=progress,
    )
    return Dcgan(game.averaged.eval(), settings, curve, game.grids.cpu().numpy()[: len(moments)], moments)


def _pictures(images: Tensor) -> Tensor:
    """(B, 1, S, S) in [−1, 1] -> (B, S, S) uint8."""
    return ((images[:, 0] + 1) * 127.5).round().clamp(0, 255).byte()


def pack(model: Dcgan) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file keeps: settings as JSON data, weights, curve and grids as arrays."""
    weights = {f"generator.{name}": value.cpu().numpy() for name, value in model.generator.state_dict().items()}
    curve = {f"curve.{name}": values.to_numpy() for name, values in model.curve.items()}
    return {"settings": as_dict(model.settings)}, {**weights, **curve, "grids": model.grids, "moments": model.moments}


def unpack(description: dict[str, Any], arrays: dict[str, np.ndarray]) -> Dcgan:
    """The inverse of `pack`."""
    settings = DcganSettings(**description["settings"])
    generator = Generator(arrays["grids"].shape[-1], 1, settings.latent, settings.width)
    state = {name: torch.from_numpy(np.array(arrays[f"generator.{name}"])) for name in generator.state_dict()}
    generator.load_state_dict(state)
    curve = pd.DataFrame({name: arrays[f"curve.{name}"] for name in ("step", "discriminator", "generator")})
    generator.to(torch_device(), memory_format=torch.channels_last)
    return Dcgan(generator.eval(), settings, curve, arrays["grids"], arrays["moments"])
