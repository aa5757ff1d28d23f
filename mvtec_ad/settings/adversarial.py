"""Settings of stage 07: a GAN that draws digits, and one that finds defects."""

from __future__ import annotations

from dataclasses import dataclass

from mvtec_ad.errors import SettingsError
from mvtec_ad.settings._shared import check_choice, check_pixels, check_seeds, check_sigma, held_out_count


@dataclass(frozen=True)
class DcganSettings:
    """DCGAN (Radford et al. 2015, arXiv:1511.06434) on digits."""

    digits: str = "auto"  # auto (MNIST where it can be had) | mnist | sklearn
    held_out: float = 0.2  # share of the digits that is not trained on: quality is measured against them
    latent: int = 100  # numbers that a picture is drawn from
    width: int = 24  # channels of the generator's finest grid; each coarser one doubles them, up to 8 ×
    discriminator_width: int = 24  # of its own
    epochs: int = 50
    batch: int = 32
    rate: float = 1e-3  # of the generator
    discriminator_rate: float = 1e-3  # another one makes two time scales (Heusel et al. 2017, arXiv:1706.08500)
    momentum: float = 0.5  # β₁ of Adam
    norm: str = "batch"  # of the discriminator: batch | layer | none
    spectral: bool = False  # spectral norm of the discriminator (Miyato et al. 2018)
    smoothing: float = 0.0  # of the label "real"
    averaging: float = 0.99  # of the generator's weights, a step; 0 takes them as they are
    grids: int = 8  # moments at which pictures from fixed noise are kept
    seed: int = 0

    def __post_init__(self) -> None:
        check_seeds((self.seed,))
        check_choice("digits", self.digits, ("auto", "mnist", "sklearn"))
        check_choice("norm", self.norm, ("batch", "layer", "none"))
        if min(self.latent, self.width, self.discriminator_width, self.epochs, self.grids) < 1 or self.batch < 2:
            raise SettingsError("latent, widths, epochs and grids must be 1 or more, and a batch 2 or more images")
        if not (0 < self.rate < float("inf") and 0 < self.discriminator_rate < float("inf")):
            raise SettingsError("the two rates must be positive numbers")
        if not (
            0 < self.held_out < 1 and 0 <= self.smoothing < 1 and 0 <= self.averaging < 1 and 0 <= self.momentum < 1
        ):
            raise SettingsError("held_out, smoothing, averaging and momentum must lie between 0 and 1")

    def steps(self, images: int) -> int:
        """Training steps on so many images."""
        return self.epochs * max(1, images // self.batch)


@dataclass(frozen=True)
class AnoganSettings:
    """AnoGAN (Schlegl et al. 2017, arXiv:1703.05921) and f-AnoGAN (Schlegl et al. 2019): a GAN of good images.

    Both look for the latent vector whose picture is closest to an image: by search, or by an encoder trained for it.
    """

    inversion: str = "encoder"  # search (AnoGAN) | encoder (f-AnoGAN)
    image_size: int = 64
    crop: int = 64  # central part that is kept
    latent: int = 64  # numbers that a picture is drawn from
    width: int = 16  # channels of the finest grid; each coarser one doubles them, up to 8 ×
    steps: int = 500  # of the generator (WGAN-GP)
    critic_steps: int = 2  # of the critic, for each of the generator's
    batch: int = 32
    rate: float = 5e-4  # of generator and critic
    averaging: float = 0.98  # of the generator's weights, a step
    encoder_steps: int = 400
    encoder_rate: float = 1e-3
    kappa: float = 1.0  # κ: weight of the difference between features, in the encoder's loss and score; 0 is izi
    search_steps: int = 500
    search_rate: float = 0.05
    restarts: int = 1  # searches from other starting points; the best one counts
    feature_share: float = 0.1  # λ of the search: share of the difference between features in its loss
    score: str = "loss"  # loss (of encoder or search) | peak (of the smoothed map)
    held_out: float = 0.2  # share of the good images that is not trained on: the threshold
    sigma: float = 1.0  # Gaussian smoothing of the map, in pixels
    seeds: tuple[int, ...] = (0, 1, 2)  # of weights, batches, searches and held-out images

    def __post_init__(self) -> None:
        check_pixels(self.image_size, self.crop)
        check_seeds(self.seeds)
        check_sigma(self.sigma)
        check_choice("inversion", self.inversion, ("search", "encoder"))
        check_choice("score", self.score, ("loss", "peak"))
        if self.crop < 16:
            raise SettingsError(f"crop {self.crop} is too small to be drawn from a coarse grid: use 16 pixels or more")
        counts = (self.latent, self.width, self.steps, self.critic_steps, self.search_steps, self.restarts)
        if min(counts) < 1 or self.encoder_steps < 0 or self.batch < 2:
            raise SettingsError("latent, width, steps and restarts must be 1 or more, and a batch 2 or more images")
        if not all(0 < rate < float("inf") for rate in (self.rate, self.encoder_rate, self.search_rate)):
            raise SettingsError("rates must be positive numbers")
        if not 0 <= self.averaging < 1:
            raise SettingsError(f"averaging {self.averaging} must lie between 0 and 1")
        if not (0 <= self.kappa < float("inf") and 0 <= self.feature_share <= 1):
            raise SettingsError("kappa must not be negative, and feature_share lies between 0 and 1")
        if not 0 < self.held_out < 1:
            raise SettingsError(f"held-out share {self.held_out} must lie between 0 and 1, for example 0.2")

    def calibration_images(self, count: int) -> int:
        """The held-out images: the share asked for, but 20 where half of the images allows it."""
        return held_out_count(count, self.held_out)


# One digit is normal, the others are not: pictures of 28 pixels, some hundred of them.
DIGITS_AS_ANOMALIES = AnoganSettings(image_size=28, crop=28, steps=500, encoder_steps=500, search_steps=100, seeds=(0,))
