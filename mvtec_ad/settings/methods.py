"""Settings of the detection methods, their published recipes, and the names under which commands find them.

Every settings class has `image_size` and `crop` (what the images are brought to), `seeds`, and
`calibration_images(count)`: on how many of `count` good images the calibrated threshold will rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mvtec_ad.errors import SettingsError
from mvtec_ad.settings._shared import check_choice, check_pixels, check_seeds, check_sigma, held_out_count
from mvtec_ad.settings.adversarial import AnoganSettings


@dataclass(frozen=True)
class PadimSettings:
    """Stage 02: PaDiM (Defard et al. 2020, arXiv:2011.08785)."""

    backbone: str = "resnet18"  # torchvision name, or "keras:NAME"
    weights: str = "imagenet"  # imagenet | random | drawn | path of a weights file
    channels: int = 100  # d of section III-B: random channels kept out of all layers
    seeds: tuple[int, ...] = (0, 1, 2)  # channel draws; the draw is a hyper-parameter, so several are reported
    image_size: int = 256  # resize, then
    crop: int = 224  # central crop: the protocol of the published torchvision figures
    ridge: float = 0.01  # ε of eq. 1, in units of feature variance
    sigma: float = 4.0  # Gaussian smoothing of the map, in pixels of the cropped image
    interpolation: str = "nearest"  # how deeper layers reach the grid of the first: nearest | bilinear
    fit_fraction: float = 1.0  # share of the good training images that is used
    feature_scale: float | None = None  # None: 1 for published recipes, measured for any other network
    memory_gb: float = 2.0  # features held at once; more channel seeds than fit are taken in further passes

    def __post_init__(self) -> None:
        check_pixels(self.image_size, self.crop)
        check_seeds(self.seeds)
        check_sigma(self.sigma)
        if self.channels < 1:
            raise SettingsError(f"channels {self.channels} must be at least 1")
        if self.interpolation not in ("nearest", "bilinear"):
            raise SettingsError(f"interpolation {self.interpolation!r} is unknown: use 'nearest' or 'bilinear'")
        if not 0 < self.fit_fraction <= 1:
            raise SettingsError(f"fit fraction {self.fit_fraction} is outside (0, 1]")
        if not 0 < self.ridge < float("inf"):
            raise SettingsError(f"ridge {self.ridge} must be positive: it keeps the covariance invertible")

    def calibration_images(self, count: int) -> int:
        """Leave-one-out: every image that is fitted on."""
        return round(count * self.fit_fraction)


@dataclass(frozen=True)
class AutoencoderSettings:
    """Stage 03: convolutional autoencoder (Bergmann et al. 2019, arXiv:1807.02011) and VAE (Kingma, Welling 2013)."""

    image_size: int = 128
    crop: int = 128  # central part that is kept
    loss: str = "mse+ssim"  # mse | ssim | mse+ssim | features
    map: str = "ssim"  # absolute | ssim | features: what difference between image and reconstruction is mapped
    score: str = "peak"  # peak of the smoothed map | error: squared error | elbo: squared error + beta · KL
    variational: bool = False  # VAE: the latent vector is drawn, and its KL divergence to N(0, I) joins the loss
    beta: float = 1.0  # weight of that divergence
    latent: int = 128  # numbers that an image is squeezed into; 0: no vector, the last grid itself
    width: int = 16  # channels of the first layer; each further one doubles them, up to 8 ×
    halvings: int = 5  # layers down, and as many up
    corruption: str = "none"  # none | noise | mask: what is done to the input, and must be undone
    backbone: str = "resnet18"  # of the loss or map "features"; not used otherwise
    weights: str = "drawn"
    steps: int = 600
    batch: int = 32
    rate: float = 1e-3
    held_out: float = 0.2  # share of the good images that is not trained on: early stopping and the threshold
    patience: int = 5  # checks (every 50 steps) without progress on held-out images before it stops; 0: never
    sigma: float = 2.0  # Gaussian smoothing of the map, in pixels
    seeds: tuple[int, ...] = (0, 1, 2)  # of weights, batches and held-out images

    def __post_init__(self) -> None:
        check_pixels(self.image_size, self.crop)
        check_seeds(self.seeds)
        check_sigma(self.sigma)
        check_choice("loss", self.loss, ("mse", "ssim", "mse+ssim", "features"))
        check_choice("map", self.map, ("absolute", "ssim", "features"))
        check_choice("score", self.score, ("peak", "error", "elbo"))
        check_choice("corruption", self.corruption, ("none", "noise", "mask"))
        if self.crop < 16:
            raise SettingsError(f"{self.crop} pixels are too few for SSIM's window of 11: use 16 or more")
        if self.halvings < 1 or self.crop % 2**self.halvings:
            raise SettingsError(f"{self.crop} pixels cannot be halved {self.halvings} times: change one of the two")
        if self.variational and self.latent == 0:
            raise SettingsError("a VAE draws a vector, and latent is 0: give it a length")
        if self.score == "elbo" and not self.variational:
            raise SettingsError("the score elbo needs a latent distribution: use the method vae, or another score")
        if min(self.width, self.steps) < 1 or not 0 < self.rate < float("inf"):
            raise SettingsError("width, steps and rate must be positive numbers")
        if self.latent < 0 or self.patience < 0 or not 0 <= self.beta < float("inf"):
            raise SettingsError("latent, patience and beta must not be negative")
        if self.batch < 2:
            raise SettingsError(f"batch {self.batch} is too small to be normalised: use 2 or more images")
        if not 0 < self.held_out < 1:
            raise SettingsError(f"held-out share {self.held_out} must lie between 0 and 1, for example 0.2")

    def calibration_images(self, count: int) -> int:
        """The held-out images: the share asked for, but 20 where half of the images allows it."""
        return held_out_count(count, self.held_out)


@dataclass(frozen=True)
class PatchcoreSettings:
    """Stage 03: PatchCore (Roth et al. 2022, arXiv:2106.08265)."""

    backbone: str = "resnet18"  # torchvision name, or "keras:NAME"
    weights: str = "imagenet"  # imagenet | random | drawn | path of a weights file
    layers: tuple[int, ...] = (2, 3)  # depths, of the backbone's three
    neighbourhood: int = 3  # p of eq. 1: a patch is averaged over p × p cells
    coreset: float = 0.1  # share of the patches that the memory bank keeps
    projection: int = 128  # dimensions in which the coreset is chosen (not those in which distances are measured)
    neighbours: int = 9  # b of eq. 7, the re-weighting of the image score; 0 or 1: none
    image_size: int = 256  # resize, then
    crop: int = 224  # central crop
    sigma: float = 4.0  # Gaussian smoothing of the map, in pixels of the cropped image
    seeds: tuple[int, ...] = (0, 1, 2)  # of projection and first pick
    memory_gb: float = 0.5  # distances held at once

    def __post_init__(self) -> None:
        check_pixels(self.image_size, self.crop)
        check_seeds(self.seeds)
        check_sigma(self.sigma)
        if not self.layers or not set(self.layers) <= {1, 2, 3}:
            raise SettingsError(f"layers {self.layers} are none of 1, 2 and 3: name one or more of them")
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise SettingsError(f"neighbourhood {self.neighbourhood} has no centre: use an odd number")
        if not 0 < self.coreset <= 1:
            raise SettingsError(f"coreset {self.coreset} is outside (0, 1]")
        if self.projection < 1 or self.neighbours < 0 or self.memory_gb <= 0:
            raise SettingsError("projection and memory must be positive, neighbours not negative")

    def calibration_images(self, count: int) -> int:
        """Leave-one-out: every image, against the patches of the others."""
        return count


# The TensorFlow notebook whose figures reported.json lists under keras:resnet50. It smooths its 64×64 map with
# σ = 4 cells; a cell is 4 pixels here.
KERAS_RECIPE = PadimSettings(
    backbone="keras:resnet50",
    image_size=256,
    crop=256,
    sigma=16.0,
    interpolation="bilinear",
    fit_fraction=0.8,
)
# The settings of the most-cited PyTorch implementation, for the two backbones of the paper.
RESNET18_RECIPE = PadimSettings()
WIDE_RESNET50_RECIPE = PadimSettings(backbone="wide_resnet50_2", channels=550)
# What most notebooks do: squared error, absolute difference, 100 epochs of screw (256 images of 320 in batches of 32).
REPORTED_AUTOENCODER = AutoencoderSettings(loss="mse", map="absolute", steps=800, patience=0)

# method -> preset -> settings; the first preset is the default
PRESETS: dict[str, dict[str, Any]] = {
    "padim": {"resnet18": RESNET18_RECIPE, "wide_resnet50": WIDE_RESNET50_RECIPE, "keras": KERAS_RECIPE},
    "autoencoder": {"default": AutoencoderSettings(), "reported": REPORTED_AUTOENCODER},
    "vae": {"default": AutoencoderSettings(variational=True, loss="mse")},
    "patchcore": {
        "resnet18": PatchcoreSettings(),
        "wide_resnet50": PatchcoreSettings(backbone="wide_resnet50_2"),
    },
    "anogan": {"default": AnoganSettings(inversion="search")},
    "f_anogan": {"default": AnoganSettings()},
}


def default_settings(method: str) -> Any:
    """Settings of the method's first preset."""
    return next(iter(PRESETS[method].values()))
