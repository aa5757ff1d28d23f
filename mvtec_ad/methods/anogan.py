"""AnoGAN: a GAN of good images; a latent search finds its nearest drawing, and the anomaly map is what differs.

Schlegl, Seeböck, Waldstein, Schmidt-Erfurth, Langs, "Unsupervised Anomaly Detection with Generative Adversarial
Networks to Guide Marker Discovery", 2017 (arXiv:1703.05921). The GAN is a WGAN-GP here, as that of f-AnoGAN
(`f_anogan.py`), which trains an encoder in place of the search.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mvtec_ad.backbones.trunk import seeded
from mvtec_ad.config import option, torch_device
from mvtec_ad.errors import SettingsError
from mvtec_ad.frameworks import keep_triton_out
from mvtec_ad.methods import base, gan
from mvtec_ad.methods.base import Images, Pixels, Scores, TrainedDetector, as_tensor, content_seed, normal, peak, smooth
from mvtec_ad.methods.gan import Discriminator, Generator, as_pictures, move_average
from mvtec_ad.training import Run, constant

EVERY = 50  # steps between checkpoints
TOGETHER = 64  # searches or images at once
FOURS = 4  # searches go in multiples of it: products of fewer rows sum in another order, which a search magnifies
CRITIC, GENERATOR, ENCODER = range(3)  # players, in the random streams


class Networks(nn.Module):
    """The networks of AnoGAN and f-AnoGAN.

    Attributes:
        generator: in training.
        averaged: the mean of its weights over the last steps, which is what draws in the end.
        encoder: from an image to its latent vector; None where that is searched for.

    Examples:
        >>> networks = Networks(16, latent=4, width=2, encodes=True)
        >>> networks.averaged(networks.encoder(torch.zeros(2, 3, 16, 16))).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, size: int, latent: int, width: int, encodes: bool) -> None:
        super().__init__()
        self.generator = Generator(size, 3, latent, width)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.critic = Discriminator(size, 3, width, norm="layer")
        self.encoder = Discriminator(size, 3, width, outputs=latent) if encodes else None


# --- AnoGAN -----------------------------------------------------------------------------------------------------------


@dataclass
class Anogan(TrainedDetector):
    """AnoGAN: WGAN-GP on good images; an image is scored by the latent search for the picture closest to it.

    A map is the smoothed residual |x − x̂|, averaged over the colours; 2 lies between black and white. The starting
    points of a search depend on the seed and the image, not on its neighbours or its place.

    Attributes:
        networks: in evaluation mode.
        curve: columns step, critic, generator.

    Examples:
        >>> good = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
        >>> detector = Anogan(image_size=16, crop=16, width=2, steps=1, search_steps=2).fit(good, seed=0)
        >>> detector.score(good[:2]).maps.shape
        (2, 16, 16)
    """

    image_size: int = option(64, "side that images are resized to, pixels", least=1, most=16384)
    crop: int = option(
        64, "side of the central part that is kept, pixels; the image size keeps all", least=1, most=16384
    )
    latent: int = option(64, "numbers that an image is drawn from", least=1, most=4096)
    width: int = option(16, "channels of the finest grid; each coarser one doubles them, up to 8 ×", least=1, most=256)
    steps: int = option(500, "training steps of the generator", least=1, most=1_000_000)
    critic_steps: int = option(2, "of the critic, for each of the generator's", least=1, most=100)
    lr: float = option(5e-4, "learning rate of generator and critic", above=0, most=1)
    averaging: float = option(
        0.98, "share of the generator's averaged weights that stays in a step; 0 averages nothing", least=0, below=1
    )
    search_steps: int = option(500, "of the latent search", least=1, most=1_000_000)
    search_lr: float = option(0.05, "learning rate of the latent search", above=0, most=1)
    restarts: int = option(1, "of the latent search: starting points, of which the best counts", least=1, most=100)
    feature_share: float = option(0.1, "λ of the latent search: share of the features in its loss", least=0, most=1)
    image_score: str = option("loss", "loss of search or encoder, or peak of the map", among=("loss", "peak"))

    networks: Networks = field(default=None, **base.FITTED)

    name: ClassVar = "anogan"
    encodes: ClassVar[bool] = False
    # Options that no weight depends on: a run goes on under others, and fitted networks can be used under others.
    SCORING: ClassVar = ("image_score", "sigma", "search_steps", "search_lr", "restarts", "feature_share")
    PRESETS: ClassVar = {
        "default": {},
        # Defects are small: the peak of the map sees them, a mean over all pixels hardly.
        "quick": {"image_size": 32, "crop": 32, "steps": 400, "batch_images": 8, "lr": 1e-3, "search_steps": 30}
        | {"image_score": "peak"},
        "full": {},
        # One digit is normal, the others are not: pictures of 28 pixels, some hundred of them.
        "digits": {"image_size": 28, "crop": 28, "steps": 500, "search_steps": 100},
        "digits_quick": {"image_size": 28, "crop": 28, "steps": 120, "batch_images": 16, "search_steps": 40},
    }

    def train(self, images: Pixels, held: Pixels, seed: int, checkpoint: Path | None, progress: bool) -> None:
        """WGAN-GP (Gulrajani et al. 2017, algorithm 1): the critic moves `critic_steps` times, then the generator."""
        networks = self.new_networks(seed)
        networks.generator.start_from(signed(base.mean_pixels(images)[None].round().astype(np.uint8))[0])
        move_average(networks.averaged, networks.generator, 0, 0)
        size = min(self.batch_images, len(images))

        def generate(rng: np.random.Generator) -> Tensor:
            return networks.generator(normal((size, self.latent), rng))

        recipe = {"lr": self.lr, "steps": self.steps, "seed": seed, "schedule": constant, "beta1": 0.5}
        recipe |= {"weight_decay": 0.0, "every": EVERY, "checkpoint": checkpoint, "identity": self.identity(seed)}
        with Run(networks, **recipe, description=f"{self.name}, seed {seed}", progress=progress) as run:
            for step in run:
                for repeat in range(self.critic_steps):
                    rng = run.rng(step, CRITIC, repeat)
                    real, shares = draw_batch(images, size, rng), torch.from_numpy(rng.random(size, np.float32))
                    with torch.no_grad():
                        fakes = generate(rng)
                    loss = gan.critic_loss(networks.critic(real), networks.critic(fakes))
                    penalty = gan.gradient_penalty(networks.critic, real, fakes, shares.to(real.device))
                    run.minimise(loss + gan.PENALTY * penalty, of=networks.critic)
                loss = -networks.critic(generate(run.rng(step, GENERATOR, 0))).mean()
                run.minimise(loss, of=networks.generator)
                move_average(networks.averaged, networks.generator, self.averaging, step)
        self.networks, self.seed, self.curve = networks.eval().requires_grad_(False), seed, run.curve()

    def identity(self, seed: int) -> dict[str, Any]:
        """All that the weights depend on beside the images."""
        options = {name: value for name, value in super().identity(seed).items() if name not in self.SCORING}
        return {**options, "penalty": gan.PENALTY}

    def new_networks(self, seed: int) -> Networks:
        """With new weights, on the device."""
        with seeded(seed):
            networks = Networks(self.crop, self.latent, self.width, self.encodes)
        return networks.to(torch_device(), memory_format=torch.channels_last)

    # --- scores -------------------------------------------------------------------------------------------------------

    def batch(self) -> int:
        """As many images as make `TOGETHER` searches; fewer where they are larger than 64 pixels, for their memory."""
        return max(1, int(TOGETHER * min(1, (64 / self.crop) ** 2)) // self.restarts)

    def score_batch(self, pixels: np.ndarray) -> Scores:
        """By what `closest` leaves over."""
        return self._inverted(pixels)[1]

    def closest(self, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
        """G(z) closest to images (B, S, S, 3) uint8, (B, 3, S, S) in [−1, 1], and the loss of each (B,)."""
        count, shape = len(pixels), (self.restarts, self.latent)
        pixels = np.concatenate([pixels, np.repeat(pixels[-1:], -count % FOURS, 0)])
        starts = [normal(shape, np.random.default_rng([self.seed, content_seed(image)])) for image in pixels]
        recipe = {"steps": self.search_steps, "lr": self.search_lr, "feature_share": self.feature_share}
        result = search(self.networks.averaged, self.networks.critic, signed(pixels), torch.stack(starts), **recipe)
        return result.reconstruction[:count], result.losses[-1, :count].amin(1)

    def _inverted(self, pixels: np.ndarray) -> tuple[np.ndarray, Scores]:
        reconstructions, losses = self.closest(pixels)
        maps = smooth((signed(pixels) - reconstructions).abs().mean(1).cpu().numpy(), self.sigma)
        image = peak(maps) if self.image_score == "peak" else losses.cpu().numpy()
        return as_pictures(reconstructions).cpu().numpy(), Scores(image, maps)

    def invert(self, images: Images) -> tuple[np.ndarray, Scores]:
        """`reconstruct` and `score` at once."""
        self.check_fitted()
        reconstructions, scores = zip(*map(self._inverted, self.batches(images)), strict=True)
        image, maps = ([getattr(part_scores, part) for part_scores in scores] for part in ("image", "maps"))
        return np.concatenate(reconstructions), Scores(np.concatenate(image), np.concatenate(maps))

    def reconstruct(self, images: Images) -> np.ndarray:
        """The closest that the generator comes to images, (N, crop, crop, 3) uint8."""
        return self.invert(images)[0]

    def sample(self, number: int, seed: int = 0) -> np.ndarray:
        """Images that the generator draws from N(0, I), (number, crop, crop, 3) uint8."""
        self.check_fitted()
        with torch.inference_mode():
            images = self.networks.averaged(normal((number, self.latent), np.random.default_rng(seed)))
        return as_pictures(images).cpu().numpy()

    def rescored(self, **options: Any) -> Anogan:
        """The same networks under other options of search and score; scores are on another scale: no `good_scores`."""
        return self._under(type(self), options)

    def _under(self, kind: type[Anogan], options: dict[str, Any]) -> Anogan:
        changing = sorted(set(options) - set(self.SCORING) - {"kappa"})
        if changing:
            raise SettingsError(f"{', '.join(changing)} changes the weights: fit a detector with it")
        names = {field.name for field in kind.option_fields()}
        other = kind.from_options({name: value for name, value in self.options().items() if name in names} | options)
        other.networks, other.seed, other.curve = self.networks, self.seed, self.curve
        return other

    # --- kept ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Weights, curve and scores of the held-out images."""
        weights = base.weights_state(self.networks, "networks")
        return {**weights, **base.curve_state(self.curve), "good_scores": self.good_scores, "seed": self.seed}

    def load_state(self, state: dict[str, Any]) -> Anogan:
        """The inverse of `state`."""
        self.networks = base.load_weights(self.new_networks(0), state, "networks").requires_grad_(False)
        self.curve = base.load_curve(state, "step", "critic", "generator", "encoder")
        return super().load_state(state)


def signed(pixels: np.ndarray) -> Tensor:
    """Images (B, S, S, 3) uint8 -> (B, 3, S, S) float32 in [−1, 1], on the device."""
    return as_tensor(pixels) * 2 - 1


def draw_batch(images: Pixels, size: int, rng: np.random.Generator) -> Tensor:
    """`size` different images of (N, S, S, 3) uint8, `signed`."""
    return signed(images[rng.permutation(len(images))[:size]])


# --- latent search ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """What a search found for B images, R starting points each.

    Attributes:
        latents: (B, R, latent) where each start ended.
        losses: (steps + 1, B, R) before the first step and after each.
        reconstruction: (B, C, S, S) in [−1, 1], the picture of each image's best start.
        best: (B,) the start with the lowest loss.
    """

    latents: Tensor
    losses: Tensor
    reconstruction: Tensor
    best: Tensor


def search_loss(critic: Discriminator, images: Tensor, reconstructions: Tensor, feature_share: float) -> Tensor:
    """(1 − λ) · Σ|x − G(z)| + λ · Σ|f(x) − f(G(z))| of every image, (B,).

    Schlegl et al. 2017, section 2.2: the residual loss, and the discrimination loss on features f of the critic; images
    and reconstructions G(z) are (B, C, S, S) in [−1, 1], λ is `feature_share`.

    Examples:
        >>> images = torch.ones(2, 3, 16, 16)
        >>> search_loss(Discriminator(16, 3, 4, norm="layer"), images, images - 1, feature_share=0.0)
        tensor([768., 768.])
    """
    residual = (images - reconstructions).abs().flatten(1).sum(1)
    if feature_share == 0:
        return residual
    features = (critic.features(images) - critic.features(reconstructions)).abs().sum(1)
    return (1 - feature_share) * residual + feature_share * features


@torch.enable_grad()
def search(
    generator: Generator,
    critic: Discriminator,
    images: Tensor,
    starts: Tensor,
    *,
    steps: int,
    lr: float,
    feature_share: float,
) -> Search:
    """Latent search (AnoGAN) for all images and all their starting points at once.

    The loss is a sum over searches, the networks are in evaluation mode (no search sees another through a batch norm),
    and Adam treats every number on its own: so each search takes the steps it would take alone. Images are
    (B, C, S, S) in [−1, 1], `starts` (B, R, latent); `steps` and `lr` are Adam's.

    Examples:
        >>> networks = Networks(16, latent=4, width=2, encodes=False).eval()
        >>> images, starts = torch.zeros(2, 3, 16, 16), torch.randn(2, 1, 4)
        >>> search(networks.averaged, networks.critic, images, starts, steps=5, lr=0.1, feature_share=0.1).losses.shape
        torch.Size([6, 2, 1])
    """
    count, restarts = starts.shape[:2]
    latents = starts.flatten(0, 1).clone().requires_grad_(True)  # (B · R, latent)
    wanted = images.repeat_interleave(restarts, 0)
    keep_triton_out()
    optimiser = torch.optim.Adam([latents], lr=lr)
    losses = []
    for step in range(steps + 1):
        each = search_loss(critic, wanted, generator(latents), feature_share)
        losses.append(each.detach().view(count, restarts))
        if step < steps:
            (latents.grad,) = torch.autograd.grad(each.sum(), latents)
            optimiser.step()
    best = losses[-1].argmin(1)
    ends = latents.detach().view(count, restarts, -1)
    with torch.no_grad():
        reconstruction = generator(ends[torch.arange(count), best])
    return Search(ends, torch.stack(losses), reconstruction, best)
