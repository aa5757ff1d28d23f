"""Autoencoder and VAE: networks trained to reconstruct good images; the anomaly map is what they fail to reconstruct.

Bergmann, Löwe, Fauser, Sattlegger, Steger, "Improving Unsupervised Defect Segmentation by Applying Structural
Similarity To Autoencoders", 2019 (arXiv:1807.02011); Kingma, Welling, "Auto-Encoding Variational Bayes", 2013.
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

from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.backbones.trunk import seeded
from mvtec_ad.config import option, torch_device
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods import base
from mvtec_ad.methods.base import Images, Pixels, Scores, TrainedDetector, as_images, as_tensor, normal
from mvtec_ad.training import Run

LOSSES, MAPS = ("mse", "ssim", "mse+ssim", "features"), ("absolute", "ssim", "features")
IMAGE_SCORES = ("peak", "error", "elbo")  # the last one for a VAE
EVERY = 50  # steps between looks at the held-out images, and checkpoints
NOISE = 0.15  # standard deviation of the noise on a corrupted input, in units of white
SQUARES, SIDES = 4, (0.1, 0.3)  # masked squares of an input: how many at most, and their sides as shares of the image
WINDOW, WINDOW_SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2  # of SSIM: Wang et al. 2004, for values from 0 to 1
SSIM_WEIGHT = 0.01  # beside a squared error, which is some hundred times smaller


@dataclass
class Autoencoder(TrainedDetector):
    """Convolutional autoencoder: reconstructs images through a bottleneck; maps are differences to the reconstruction.

    `good_scores` are those of the held-out images: they chose the moment to stop, but no weight was fitted to them.

    Attributes:
        network: the trained `AutoencoderNetwork`, in evaluation mode.

    Examples:
        >>> good = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
        >>> detector = Autoencoder(image_size=32, crop=32, width=2, steps=2).fit(good, seed=0)
        >>> detector.score(good[:2]).maps.shape
        (2, 32, 32)
    """

    image_size: int = option(128, "side that images are resized to, pixels", least=1, most=16384)
    crop: int = option(
        128, "side of the central part that is kept, pixels; the image size keeps all", least=1, most=16384
    )
    loss: str = option("mse+ssim", "difference that training makes small", among=LOSSES)
    map: str = option("ssim", "difference that the anomaly map shows", among=MAPS)
    image_score: str = option("peak", "peak of the map, or squared error of the image", among=IMAGE_SCORES[:2])
    latent: int = option(
        128, "numbers that an image is squeezed into; 0 leaves the last grid as it is", least=0, most=4096
    )
    width: int = option(
        16, "channels of the finest grid; each further one doubles them, up to 8 times", least=1, most=256
    )
    depth: int = option(5, "layers down, each half the size, and as many up", least=1, most=14)
    corruption: str = option("none", "done to the input, must be undone", among=("none", "noise", "mask"))
    backbone: str = option("efficientnet_lite0", "network of the loss or map 'features'; not used otherwise")
    weights: str = option("imagenet", "of that network: imagenet, random, synthetic or the path of a weights file")
    epochs: int = option(
        0,
        "passes over the training images, in place of steps; 0 counts steps, each of images drawn anew",
        least=0,
        most=1_000_000,
    )
    patience: int = option(5, "checks, every 50 steps, without progress before it stops; 0 never does", least=0)
    sigma: float = option(2.0, "Gaussian smoothing of the anomaly map, pixels", least=0, most=1000)

    name: ClassVar = "autoencoder"
    variational: ClassVar[bool] = False
    beta: ClassVar[float] = 0.0  # a plain autoencoder has no divergence
    PRESETS: ClassVar = {
        "default": {},
        # What notebooks on MVTec AD report, as far as they state it: all good images are trained on, so that none is
        # left to calibrate a threshold on; the network and its learning rate are ours.
        "reported": {"loss": "mse", "map": "absolute", "epochs": 100, "held_out": 0.0, "patience": 0},
        "quick": {"image_size": 64, "crop": 64, "sigma": 1.0, "latent": 64, "width": 8, "depth": 4}
        | {"batch_images": 16, "steps": 100, "lr": 3e-3},
        "full": {},
    }

    def check(self) -> None:
        """Refuse an image that cannot be halved so often."""
        super().check()
        if self.crop % 2**self.depth:
            raise SettingsError(f"{self.crop} pixels cannot be halved {self.depth} times: change crop or depth")

    @cached_property
    def extractor(self) -> Backbone | None:
        """The frozen network of the loss or map `features`, loaded when first needed; it must give gradients."""
        backbone = load_backbone(self.backbone, self.weights) if "features" in (self.loss, self.map) else None
        if backbone and backbone.tensors is None:
            raise SettingsError(f"{self.backbone} gives no gradients here: use a torch network, as efficientnet_lite0")
        return backbone

    def train(self, images: Pixels, held: Pixels, seed: int, checkpoint: Path | None, progress: bool) -> None:
        """AdamW on batches of good images; ends with the lowest loss on held-out images, without any as it is."""
        with seeded(seed):
            self.network = self.new_network()
        self.network.start_from(torch.from_numpy(base.mean_pixels(images) / 255).permute(2, 0, 1))
        self.network.to(torch_device(), memory_format=torch.channels_last)
        batches = -(-len(images) // self.batch_images) if self.epochs else 1  # of an order of the images
        steps = self.epochs * batches or self.steps
        recipe = {"lr": self.lr, "steps": steps, "seed": seed, "every": EVERY, "patience": self.patience}
        recipe |= {"checkpoint": checkpoint, "identity": self.identity(seed), "mixed": True}
        with Run(self.network, **recipe, description=f"{self.name}, seed {seed}", progress=progress) as run:
            for step in run:
                rng, batch = run.rng(step), step % batches
                order = (run.rng(step - batch) if batch else rng).permutation(len(images))
                chosen = np.array_split(order, batches)[batch] if self.epochs else order[: self.batch_images]
                clean = as_tensor(images[np.sort(chosen)])
                noise = normal((len(clean), self.network.bottleneck), rng) if self.variational else None
                run.minimise(self.loss_of(clean, corrupt(clean, self.corruption, rng), noise))
                if len(held) and run.due():
                    with run.evaluating():
                        run.keep_best(self.held_out_loss(held))
        self.network.eval()
        self.curve = run.curve()

    def loss_of(self, clean: Tensor, seen: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mean training loss of a batch, which the network sees corrupted and reconstructs clean."""
        reconstruction, divergence = self.network(seen, noise)
        error = difference_map(self.loss, clean, reconstruction, self.extractor).mean((1, 2)) * clean[0].numel()
        return (error + self.beta * divergence).mean()

    def held_out_loss(self, images: Pixels) -> float:
        """The training loss of images as they are: no corruption, and the mean of each latent distribution."""
        parts = map(as_tensor, self.parts(images))
        return float(sum(self.loss_of(clean, clean) * len(clean) for clean in parts)) / len(images)

    def identity(self, seed: int) -> dict[str, Any]:
        """Also the weights that features come from, and the numbers of the recipe that are no options."""
        return super().identity(seed) | {"weights": self.weights_name, "recipe": [NOISE, SQUARES, *SIDES, SSIM_WEIGHT]}

    def new_network(self) -> AutoencoderNetwork:
        """With new weights."""
        return AutoencoderNetwork(self.crop, self.latent, self.width, self.depth, self.variational)

    @torch.no_grad()
    def score_batch(self, pixels: np.ndarray) -> Scores:
        """Maps are smoothed differences; image scores are their peaks, or sums of squared errors (+ β · KL: `elbo`)."""
        images = as_tensor(pixels)
        reconstruction, divergence = self.network(images)
        maps = base.smooth(difference_map(self.map, images, reconstruction, self.extractor).cpu().numpy(), self.sigma)
        weight = self.beta if self.image_score == "elbo" else 0
        error = (images - reconstruction).square().sum((1, 2, 3)) + weight * divergence
        return Scores(base.peak(maps) if self.image_score == "peak" else error.cpu().numpy(), maps)

    def score_as(self, images: Images, map: str, image_score: str = "peak") -> Scores:
        """As `score`, under another map or image score than the options'."""
        self.check_fitted()
        other = self.from_options({**self.options(), "map": map, "image_score": image_score})
        other.network, other.seed, other.extractor = self.network, self.seed, self.extractor or other.extractor
        return other.score(images)

    def reconstruct(self, images: Images) -> np.ndarray:
        """Reconstructions, (N, crop, crop, 3) uint8, of images as `score` takes them."""
        self.check_fitted()
        with torch.no_grad():
            return np.concatenate([as_images(self.network(as_tensor(part))[0]) for part in self.batches(images)])

    def state(self) -> dict[str, Any]:
        """Weights, curve and scores of the held-out images."""
        trained = base.weights_state(self.network, "network") | base.curve_state(self.curve)
        return {**trained, "good_scores": self.good_scores, "seed": self.seed}

    def load_state(self, state: dict[str, Any]) -> Autoencoder:
        """The inverse of `state`."""
        self.network = base.load_weights(self.new_network(), state, "network")
        self.curve = base.load_curve(state, "step", "loss", "held_out")
        return super().load_state(state)


@dataclass
class Vae(Autoencoder):
    """Variational autoencoder: the latent vector is drawn, and its KL divergence to N(0, I) joins the loss.

    With β = 1 and a Gaussian likelihood of variance ½ the image score `elbo`, squared error + β · KL, is minus the
    evidence lower bound (Kingma and Welling 2013, eq. 7) up to a constant, its expectation taken at the latent mean.

    Examples:
        >>> good = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
        >>> detector = Vae(image_size=32, crop=32, width=2, steps=2, image_score="elbo").fit(good, seed=0)
        >>> detector.sample(5, seed=1).shape
        (5, 32, 32, 3)
    """

    loss: str = option("mse", "difference that training makes small", among=LOSSES)
    image_score: str = option("peak", "peak of the map, squared error or that + beta · KL", among=IMAGE_SCORES)
    latent: int = option(128, "numbers that are drawn for an image", least=1, most=4096)
    beta: float = option(1.0, "weight of the KL divergence", least=0, most=1e6)

    name: ClassVar = "vae"
    variational: ClassVar[bool] = True
    PRESETS: ClassVar = {
        "default": {},
        # With β = 1, and with many latent numbers in few steps, the posterior collapses: notebook 03.
        "quick": Autoencoder.PRESETS["quick"] | {"latent": 8, "beta": 0.1, "steps": 160},
        "full": {},
    }

    def sample(self, number: int, seed: int = 0) -> np.ndarray:
        """Latent vectors drawn from N(0, I), decoded: (number, crop, crop, 3) uint8."""
        self.check_fitted()
        latent = normal((number, self.network.bottleneck), np.random.default_rng(seed))
        with torch.no_grad():
            return as_images(self.network.decode(latent))


def corrupt(images: Tensor, kind: str, rng: np.random.Generator) -> Tensor:
    """Inputs that the network must repair: (B, 3, S, S) in [0, 1], the same shape back.

    `noise` adds Gaussian noise (Vincent et al. 2010), `mask` paints up to four squares in the image's mean colour; the
    target stays the clean image, so that copying the input is no longer the best answer. `none` changes nothing.
    """
    if kind == "noise":
        return (images + NOISE * normal(tuple(images.shape), rng)).clamp(0, 1)
    if kind == "mask":
        images, image_size = images.clone(), images.shape[-1]
        for image in images:
            colour = image.mean((1, 2))[:, None, None]
            for _ in range(rng.integers(1, SQUARES + 1)):
                size = max(1, round(image_size * rng.uniform(*SIDES)))
                top, left = rng.integers(0, image_size - size + 1, 2)
                image[:, top : top + size, left : left + size] = colour
    return images


class AutoencoderNetwork(nn.Module):
    """Strided convolutions down to a vector, transposed ones back: Bergmann et al. 2019, table 1, with fewer layers.

    Without a `latent` vector the last grid itself is the bottleneck. `width` are the channels of the first layer,
    doubled by each further one, up to 8 ×; a `variational` encoder gives mean and log variance of the vector.

    Attributes:
        bottleneck: numbers that an image is squeezed into.
        grid: shape (C, h, w) of the last grid.
    """

    def __init__(self, image_size: int, latent: int, width: int, depth: int = 5, variational: bool = False) -> None:
        super().__init__()
        self.variational = variational
        channels = [3, *(width * min(2**layer, 8) for layer in range(depth))]
        self.grid = channels[-1], image_size // 2**depth, image_size // 2**depth
        cells = channels[-1] * (image_size // 2**depth) ** 2
        self.bottleneck = latent or cells
        down = [_layer(nn.Conv2d, a, b) for a, b in itertools.pairwise(channels)]
        up = [_layer(nn.ConvTranspose2d, b, a) for a, b in itertools.pairwise(channels[1:])][::-1]
        squeeze = nn.Linear(cells, latent * (2 if variational else 1)) if latent else nn.Identity()
        self.encoder = nn.Sequential(*down, nn.Flatten(), squeeze)
        self.widen = nn.Sequential(nn.Linear(latent, cells), nn.LeakyReLU(0.2)) if latent else nn.Identity()
        self.decoder = nn.Sequential(*up, nn.ConvTranspose2d(channels[1], 3, 4, 2, 1))
        self.register_buffer("base", torch.zeros(3, image_size, image_size))
        nn.init.zeros_(self.decoder[-1].weight)  # the first reconstruction is the base: nothing to unlearn
        nn.init.zeros_(self.decoder[-1].bias)

    def start_from(self, mean: Tensor) -> None:
        """Let the decoder give the difference to a mean image, (3, S, S) in [0, 1], as PCA does.

        Without it the first thousand steps go into the mean, and with few images the vector may never come to be used.
        To a grid only the mean colour is given: convolutions do not know where they are, and what to subtract there.
        """
        if isinstance(self.widen, nn.Identity):
            mean = mean.mean((1, 2), keepdim=True).expand_as(mean)
        self.base.copy_(torch.logit(mean, 0.005))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, S, S) in [0, 1] -> latent mean (B, L), and log variance (B, L) of a VAE, else None."""
        latent = self.encoder(images)
        return latent.chunk(2, 1) if self.variational else (latent, None)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, L) -> images (B, 3, S, S) in [0, 1]."""
        return torch.sigmoid(self.decoder(self.widen(latent).view(-1, *self.grid)) + self.base)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reconstructions (B, 3, S, S), and the KL divergence of each latent distribution to N(0, I), (B,).

        With noise, (B, L) standard normal numbers, a VAE draws its vector; without, the mean is taken.
        """
        mean, log_variance = self.encode(images)
        latent = mean if log_variance is None or noise is None else mean + torch.exp(log_variance / 2) * noise
        return self.decode(latent), divergence(mean, log_variance)


def divergence(mean: Tensor, log_variance: Tensor | None) -> Tensor:
    """KL(N(mean, variance) ‖ N(0, I)) of each row, (B,): Kingma and Welling 2013, appendix B; 0 without a variance.

    Examples:
        >>> divergence(torch.ones(1, 4), torch.zeros(1, 4))
        tensor([2.])
    """
    if log_variance is None:
        return mean.new_zeros(len(mean))
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)


def _layer(convolution: type[nn.Module], channels: int, other: int) -> nn.Sequential:
    return nn.Sequential(convolution(channels, other, 4, 2, 1, bias=False), nn.BatchNorm2d(other), nn.LeakyReLU(0.2))


def difference_map(name: str, images: Tensor, other: Tensor, extractor: Backbone | None = None) -> Tensor:
    """How images differ from their reconstructions at every pixel: (B, 3, H, W) in [0, 1] twice -> (B, H, W).

    `absolute` |x − x̂| or `mse` (x − x̂)², averaged over the colours; `ssim` 1 − SSIM; `mse+ssim`, the second times
    `SSIM_WEIGHT`; `features`: 1 − cosine of an extractor's features.

    Examples:
        >>> difference_map("mse", torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.5)).mean()
        tensor(0.2500)
    """
    if name == "absolute":
        return (images - other).abs().mean(1)
    if name == "mse":
        return (images - other).square().mean(1)
    if name == "mse+ssim":
        return difference_map("mse", images, other) + SSIM_WEIGHT * dissimilarity(images, other)
    return dissimilarity(images, other) if name == "ssim" else feature_distance(images, other, extractor)


def dissimilarity(images: Tensor, other: Tensor) -> Tensor:
    """1 − SSIM at every pixel, averaged over the colours: (B, 3, H, W) in [0, 1] twice -> (B, H, W) in [0, 2].

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004,
    eq. 13, with their Gaussian window; the border is mirrored. Where both are constant the constants C₁ and C₂ decide.
    """
    channels = images.shape[1]
    other = other.float() if other.dtype in (torch.float16, torch.bfloat16) else other
    with torch.autocast(images.device.type, enabled=False):  # E[x²] − E[x]² is noise in half precision
        # apart, so that in training no gradient is computed for means of the images alone
        x, xx = _blur(torch.cat([images, images * images], 1)).split(channels, 1)
        y, yy, xy = _blur(torch.cat([other, other * other, images * other], 1)).split(channels, 1)
    luminance = (2 * x * y + C1) / (x * x + y * y + C1)
    structure = (2 * (xy - x * y) + C2) / ((xx - x * x) + (yy - y * y) + C2)
    return 1 - (luminance * structure).mean(1)


def feature_distance(images: Tensor, other: Tensor, extractor: Backbone) -> Tensor:
    """1 − cosine at every cell of each layer of a network, enlarged, averaged over layers: -> (B, H, W) in [0, 2].

    Half the squared distance of the normalised features, as Wang et al. 2021 ("Student-teacher feature pyramid
    matching", arXiv:2103.04257) measure it.
    """
    pairs = zip(extractor.tensors(images), extractor.tensors(other), strict=True)
    grids = [1 - F.cosine_similarity(first, second, dim=1)[:, None] for first, second in pairs]
    return sum(F.interpolate(grid, images.shape[2:], mode="bilinear")[:, 0] for grid in grids) / len(grids)


def _blur(images: Tensor) -> Tensor:
    """Gaussian mean around every pixel, channel by channel."""
    offsets = torch.arange(WINDOW, device=images.device, dtype=images.dtype) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    weights = (weights / weights.sum()).expand(images.shape[1], 1, WINDOW)
    padded = F.pad(images, 4 * (WINDOW // 2,), mode="reflect")
    rows = F.conv2d(padded, weights[:, :, None, :], groups=images.shape[1])
    return F.conv2d(rows, weights[:, :, :, None], groups=images.shape[1])
