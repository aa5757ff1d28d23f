"""EfficientAD: a student of a frozen network, and an autoencoder; the anomaly map is where they disagree.

Batzner, Heckler, König, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies", WACV 2024
(arXiv:2303.14535). What differs serves a budget of 2,000 steps, not 70,000, and no download. Their teacher is a
small network that was distilled from WideResNet-101 on ImageNet; ours is EfficientNet-Lite0 down to stride 16, which is
smaller than that. The student learns from all differences, and from the largest ones again, not from these alone. Its
penalty takes drawn textures in place of photographs. The autoencoder is an option: trained so shortly it does harm.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvtec_ad.augment import crop, random_windows, standardise
from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.backbones.trunk import seeded
from mvtec_ad.config import option, torch_device
from mvtec_ad.data.loading import batches
from mvtec_ad.data.spool import Spool
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods import autoencoder as autoencoders
from mvtec_ad.methods import base
from mvtec_ad.methods.base import Pixels, Scores, TrainedDetector, as_tensor
from mvtec_ad.synthetic import textures
from mvtec_ad.training import Run

HARD = 0.99  # p_hard: the student learns again from one difference in a hundred, the largest; the paper's 0.999
QUANTILES = (0.9, 0.995)  # q_a and q_b, which bring both maps to one scale
LEAST = 0.01  # deviation of a feature, of their mean, so that one which good images leave at 0 does not outweigh all
TEXTURES, RECIPES = 100, 500  # pictures on which the student must stay silent, one a step, and their kinds


@dataclass
class EfficientAd(TrainedDetector):
    """EfficientAD: squared differences between a teacher and a student that knows good images alone.

    With `autoencoder` also between that and further channels of the student: what is wrong as a whole.
    `good_scores` are those of the held-out images, which neither weights nor the scales of the maps were fitted to.

    Attributes:
        network: the trained `Networks`, in evaluation mode.

    Examples:
        >>> good = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
        >>> detector = EfficientAd(image_size=32, crop=32, width=2, steps=2, weights="random").fit(good, seed=0)
        >>> detector.score(good[:2]).maps.shape
        (2, 32, 32)
    """

    image_size: int = option(224, "side that images are resized to, pixels", least=1, most=16384)
    crop: int = option(
        224, "side of the central part that is kept, pixels; the image size keeps all", least=1, most=16384
    )
    backbone: str = option("efficientnet_lite0", "the teacher: efficientnet_lite0, resnet18, … or timm:NAME")
    weights: str = option("imagenet", "imagenet, random, synthetic or the path of a weights file")
    layers: tuple[int, ...] = option((1, 2, 3), "depths of the teacher, of 1, 2 and 3", among=(1, 2, 3))
    width: int = option(24, "channels of the student's first layer; the next two double them", least=1, most=256)
    autoencoder: bool = option(False, "train an autoencoder too, and add its map; it needs thousands of steps")
    latent: int = option(64, "numbers that the autoencoder squeezes an image into", least=1, most=4096)
    steps: int = option(2000, "training steps", least=1, most=1_000_000)
    batch_images: int = option(4, "good images a step; the paper takes 1", least=2, most=100_000)
    sigma: float = option(8.0, "Gaussian smoothing of the anomaly map, pixels", least=0, most=1000)

    name: ClassVar = "efficient_ad"
    PRESETS: ClassVar = {
        "default": {},
        "quick": {"image_size": 128, "crop": 128, "steps": 300, "sigma": 4.0},
        "full": {},
    }

    def check(self) -> None:
        """Refuse a teacher that shows nothing."""
        super().check()
        if not self.layers:
            raise SettingsError("layers () are none of 1, 2 and 3: name one")

    @cached_property
    def extractor(self) -> Backbone:
        """The teacher, loaded when first needed; it must be one of torch."""
        backbone = load_backbone(self.backbone, self.weights)
        if backbone.tensors is None:
            raise SettingsError(f"{self.backbone} runs in Keras: let the teacher be torch's, as efficientnet_lite0")
        return backbone

    def train(self, images: Pixels, held: Pixels, seed: int, checkpoint: Path | None, progress: bool) -> None:
        """AdamW on all losses at once, then the scales of the maps on the same images."""
        size, device = self.crop, torch_device()
        penalty, _ = textures.draw_many(min(self.steps, TEXTURES), size, seed, RECIPES, workers=1, progress=False)
        with seeded(seed):
            self.network = self.new_network()
        self.network.to(device, memory_format=torch.channels_last)
        wanted = Spool(len(images))  # of all images, for every step asks for some
        for part in self.parts(images):
            wanted.append(self.teacher(as_tensor(part)).cpu().numpy())
        self.standardise_teacher(wanted)
        recipe = {"lr": self.lr, "steps": self.steps, "seed": seed, "every": autoencoders.EVERY, "mixed": True}
        recipe |= {"checkpoint": checkpoint, "identity": self.identity(seed)}
        with Run(self.network, **recipe, description=f"{self.name}, seed {seed}", progress=progress) as run:
            for step in run:
                rng = run.rng(step)
                chosen = np.sort(rng.permutation(len(images))[: self.batch_images])
                texture = as_tensor(penalty[rng.integers(len(penalty), size=1)])
                texture = crop(texture, random_windows(rng, 1).to(device), size)
                run.minimise(self.network.loss(as_tensor(images[chosen]), on_device(wanted[chosen]), texture))
        self.network.eval()
        self.scale_maps(images, wanted)
        self.curve = run.curve()

    @torch.no_grad()
    def teacher(self, images: Tensor) -> Tensor:
        """Its layers side by side, (B, C, S/8, S/8), of images (B, 3, S, S) in [0, 1]."""
        layers, grid = self.extractor.tensors(images), (self.crop // 8,) * 2
        chosen = [layers[depth - 1] for depth in sorted(set(self.layers))]
        return torch.cat([F.interpolate(layer, grid, mode="bilinear") for layer in chosen], 1)

    def standardise_teacher(self, wanted: Spool) -> None:
        """Take mean and deviation of each of the teacher's features over good images: algorithm 1, lines 3 to 11."""
        sums, squares = 0.0, 0.0
        for part in batches(len(wanted), self.batch()):
            features = wanted[part].astype(np.float64)
            sums, squares = sums + features.sum((0, 2, 3)), squares + np.square(features).sum((0, 2, 3))
        count = len(wanted) * np.prod(wanted.shape[2:])
        deviation = np.sqrt(np.maximum(squares / count - np.square(sums / count), 0))
        deviation = np.maximum(deviation, LEAST * deviation.mean() + 1e-12)
        self.network.mean.copy_(torch.from_numpy(sums / count)[:, None, None])
        self.network.deviation.copy_(torch.from_numpy(deviation)[:, None, None])

    @torch.no_grad()
    def scale_maps(self, images: Pixels, wanted: Spool) -> None:
        """Take the scales of the maps from good images.

        The paper takes held-out ones. Those give the threshold here, whose promise needs images that nothing was fitted
        to; and a scale decides no more than how much each of the two maps counts.
        """
        values = []
        for part in batches(len(images), self.batch()):
            maps = self.network.maps(as_tensor(images[part]), on_device(wanted[part]))
            values.append(maps.transpose(0, 1).flatten(1).cpu().numpy())
        low, high = np.quantile(np.concatenate(values, 1).astype(np.float64), QUANTILES, axis=1)
        self.network.scale.copy_(torch.from_numpy(0.1 / np.maximum(high - low, 1e-12)))

    def identity(self, seed: int) -> dict[str, Any]:
        """Also the weights of the teacher, and the numbers of the recipe that are no options."""
        recipe = [HARD, *QUANTILES, LEAST, TEXTURES, RECIPES, textures.VERSION]
        return super().identity(seed) | {"weights": self.weights_name, "recipe": recipe}

    def new_network(self) -> Networks:
        """With new weights."""
        features = self.teacher(torch.zeros(1, 3, 32, 32, device=torch_device())).shape[1]
        return Networks(features, self.crop, self.width, self.latent if self.autoencoder else 0)

    @torch.no_grad()
    def score_batch(self, pixels: np.ndarray) -> Scores:
        """Maps are those of the networks, enlarged and smoothed; image scores are their peaks."""
        images = as_tensor(pixels)
        maps = base.grid_maps(self.network(images, self.teacher(images)), self.crop, self.sigma)
        return Scores(base.peak(maps), maps)

    def state(self) -> dict[str, Any]:
        """Weights, scales, curve and scores of the held-out images."""
        trained = base.weights_state(self.network, "network") | base.curve_state(self.curve)
        return {**trained, "good_scores": self.good_scores, "seed": self.seed}

    def load_state(self, state: dict[str, Any]) -> EfficientAd:
        """The inverse of `state`."""
        self.network = base.load_weights(self.new_network(), state, "network")
        self.curve = base.load_curve(state, "step", "loss")
        return super().load_state(state)


def on_device(features: np.ndarray) -> Tensor:
    """The teacher's features, (B, C, h, w) float32, as a tensor on the device."""
    return torch.from_numpy(features).to(torch_device())


class Networks(nn.Module):
    """A student of the teacher; with a latent vector also an autoencoder, which further channels of it follow.

    Attributes:
        mean, deviation: (C, 1, 1), of each of the teacher's features on good images.
        scale: what the map of teacher and student, and that of autoencoder and student, are multiplied by.
    """

    def __init__(self, features: int, size: int, width: int, latent: int) -> None:
        super().__init__()
        self.student = student(features * (2 if latent else 1), width)
        self.autoencoder = squeezed(features, size, 2 * width, latent) if latent else None
        self.register_buffer("mean", torch.zeros(features, 1, 1))
        self.register_buffer("deviation", torch.ones(features, 1, 1))
        self.register_buffer("scale", torch.ones(2 if latent else 1))

    def differences(self, images: Tensor, teacher: Tensor) -> list[Tensor]:
        """Squared differences of features, (B, C, S/8, S/8) each: D of the paper's equations.

        Of teacher and student, and with an autoencoder of this and student, of teacher and this; images are (B, 3, S,
        S) in [0, 1].
        """
        seen, teacher = standardise(images), (teacher - self.mean) / self.deviation
        of_teacher, *of_autoencoder = self.student(seen).split(teacher.shape[1], 1)
        pairs = [(teacher, of_teacher)]
        if self.autoencoder is not None:
            reconstruction = self.autoencoder(seen)
            # the student follows the autoencoder, which does not come to meet it
            pairs += [(reconstruction.detach(), of_autoencoder[0]), (teacher, reconstruction)]
        return [(first - second).square() for first, second in pairs]

    def loss(self, good: Tensor, teacher: Tensor, texture: Tensor) -> Tensor:
        """L_ST and its penalty + L_STAE + L_AE: algorithm 1, but for the autoencoder's changes of light."""
        of_teacher, *others = self.differences(good, teacher)
        hardest = of_teacher.flatten().topk(max(1, round((1 - HARD) * of_teacher.numel()))).values
        silence = self.student(standardise(texture))[:, : teacher.shape[1]].square().mean()
        return hardest.mean() + of_teacher.mean() + silence + sum(difference.mean() for difference in others)

    def maps(self, images: Tensor, teacher: Tensor) -> Tensor:
        """Mean differences of teacher and student, and of autoencoder and student, (B, 1 or 2, S/8, S/8)."""
        return torch.stack([difference.mean(1) for difference in self.differences(images, teacher)[:2]], 1)

    def forward(self, images: Tensor, teacher: Tensor) -> Tensor:
        """The map, or the mean of both on one scale, (B, S/8, S/8).

        0.1 · (map − q_a) / (q_b − q_a) of each, as in the paper, but without the constant that the q_a make: it changes
        no order, and without it scores are above 0.
        """
        return (self.maps(images, teacher) * self.scale[:, None, None]).mean(1)


def student(features: int, width: int) -> nn.Sequential:
    """Patch description network: standardised images (B, 3, S, S) -> (B, C, S/8, S/8), each of which sees 38 pixels.

    Table 6 of the paper with fewer channels, strides where it pools, and padding. Weights begin as by He et al. 2015.
    """
    channels = [3, width, 2 * width, 4 * width]
    layers: list[nn.Module] = [nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(channels)]
    layers.append(nn.Conv2d(4 * width, 4 * width, 3, 1, 1))
    activated = [part for layer in layers for part in (layer, nn.ReLU())]
    network = nn.Sequential(*activated, nn.Conv2d(4 * width, features, 1))
    for layer in network[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return network


def squeezed(features: int, size: int, width: int, latent: int) -> nn.Sequential:
    """Standardised images (B, 3, S, S) -> features (B, C, S/8, S/8) of their places, by way of one vector."""
    cells, grid = size // 4, size // 8
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 4), nn.ReLU()]
    while cells > 7:
        layers += [nn.Conv2d(width, width, 4, 2, 1), nn.ReLU()]
        cells //= 2
    numbers = width * cells * cells
    layers += [nn.Flatten(), nn.Linear(numbers, latent), nn.Linear(latent, numbers), nn.ReLU()]
    layers.append(nn.Unflatten(1, (width, cells, cells)))
    while cells != grid:
        cells = min(2 * cells, grid)
        layers += [nn.Upsample((cells, cells), mode="bilinear"), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, features, 1))
