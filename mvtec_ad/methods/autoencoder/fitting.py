"""Training on good images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.autoencoder import differences
from mvtec_ad.methods.autoencoder.model import Redrawing, new_network
from mvtec_ad.methods.pixels import as_tensor, check_size
from mvtec_ad.methods.sampling import held_out_positions, normal
from mvtec_ad.methods.scores import Trial
from mvtec_ad.methods.trained import train_and_score
from mvtec_ad.settings import AutoencoderSettings, as_dict, torch_device
from mvtec_ad.training import rng_of, train

EVERY = 50  # steps between looks at the held-out images, and checkpoints
NOISE = 0.15  # standard deviation of the noise on a corrupted input, in units of white
SQUARES, SIDES = 4, (0.1, 0.3)  # masked squares of an input: how many at most, and their sides as shares of the image


def fit(
    settings: AutoencoderSettings, images: np.ndarray, *, checkpoint: Path | None = None, progress: bool = True
) -> Redrawing:
    """The model of the settings' first seed, trained on good images, (N, S, S, 3) uint8.

    Args:
        settings: what to fit.
        images: `settings.held_out` of them are not trained on.
        checkpoint: where the run is kept, and gone on from; None keeps nothing.
        progress: show a bar.

    Raises:
        DataError: fewer than three images.
        SettingsError: the images have another size, or the backbone gives no gradients.
    """
    return _fit(settings, settings.seeds[0], images, _backbone(settings), checkpoint, progress)


def fit_and_score(
    settings: AutoencoderSettings, train: np.ndarray, test: np.ndarray, *, progress: bool = True
) -> Iterator[Trial]:
    """Train with every seed of the settings, score, one after the other: see `trained.train_and_score`.

    Args:
        settings: what to fit.
        train: (N, S, S, 3) uint8 good images; `settings.held_out` of them are not trained on.
        test: (M, S, S, 3) uint8.
        progress: show bars.
    """
    backbone = _backbone(settings)
    return train_and_score(
        "autoencoder",
        settings.seeds,
        lambda seed: _identity(settings, seed, backbone),
        lambda seed, path: _fit(settings, seed, train, backbone, path, progress),
        train,
        test,
    )


def _backbone(settings: AutoencoderSettings) -> Backbone | None:
    if "features" not in (settings.loss, settings.map):
        return None
    backbone = load_backbone(settings.backbone, settings.weights)
    if backbone.tensors is None:
        raise SettingsError(f"{settings.backbone} gives no gradients here: use a torchvision network, as resnet18")
    return backbone


def _identity(settings: AutoencoderSettings, seed: int, backbone: Backbone | None) -> dict[str, object]:
    """All that a run depends on beside its images."""
    recipe = [NOISE, SQUARES, *SIDES, differences.SSIM_WEIGHT]
    weights = backbone.weights if backbone else None
    return {**as_dict(settings), "seeds": [seed], "weights": weights, "recipe": recipe}


def _fit(
    settings: AutoencoderSettings,
    seed: int,
    images: np.ndarray,
    backbone: Backbone | None,
    checkpoint: Path | None,
    progress: bool,
) -> Redrawing:
    """Train one seed."""
    check_size(images, settings.crop)
    if len(images) < 3:
        raise DataError(f"{len(images)} good images are too few to train on: give at least 3, better 60")
    aside = held_out_positions(settings, len(images), seed)
    kept, held = np.delete(images, aside, 0), images[aside]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = new_network(settings)
    network.start_from(torch.from_numpy(kept.mean(0, dtype=np.float64) / 255).permute(2, 0, 1))
    network.to(torch_device(), memory_format=torch.channels_last)
    features = backbone.tensors if backbone else None

    def objective(originals: Tensor, seen: Tensor, noise: Tensor | None = None) -> Tensor:
        redrawn, divergence = network(seen, noise)
        difference = differences.loss(settings.loss, originals, redrawn, features) * originals[0].numel()
        return (difference + settings.beta * divergence).mean()

    def loss_of(step: int) -> Tensor:
        rng = rng_of(seed, step)
        originals = as_tensor(kept[np.sort(rng.permutation(len(kept))[: settings.batch])])
        noise = normal((len(originals), network.code), rng) if settings.variational else None
        return objective(originals, corrupt(originals, settings.corruption, rng), noise)

    def held_out() -> dict[str, float]:
        parts = [as_tensor(held[part]) for part in batches(len(held), 32)]
        return {"held_out": float(sum(objective(pixels, pixels) * len(pixels) for pixels in parts)) / len(held)}

    curve = train(
        network,
        loss_of,
        steps=settings.steps,
        rate=settings.rate,
        held_out=held_out,
        patience=settings.patience,
        mixed=True,
        checkpoint=checkpoint,
        every=EVERY,
        identity=_identity(settings, seed, backbone),
        description=f"{'VAE' if settings.variational else 'autoencoder'}, seed {seed}",
        progress=progress,
    )
    model = Redrawing(network.eval(), settings, seed, backbone, curve=curve)
    model.good_scores = model.score(held).image
    return model


def corrupt(images: Tensor, kind: str, rng: np.random.Generator) -> Tensor:
    """What the network gets to see: (B, 3, S, S) in [0, 1], the same shape back.

    `noise` adds Gaussian noise (Vincent et al. 2010), `mask` paints up to four squares in the image's mean colour; the
    target stays the clean image, so that copying the input is no longer the best answer. `none` changes nothing.
    """
    if kind == "noise":
        return (images + NOISE * normal(tuple(images.shape), rng)).clamp(0, 1)
    if kind == "mask":
        images, side = images.clone(), images.shape[-1]
        for image in images:
            colour = image.mean((1, 2))[:, None, None]
            for _ in range(rng.integers(1, SQUARES + 1)):
                size = max(1, round(side * rng.uniform(*SIDES)))
                top, left = rng.integers(0, side - size + 1, 2)
                image[:, top : top + size, left : left + size] = colour
    return images
