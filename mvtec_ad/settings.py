"""Profiles, the settings of every stage, places on disk, seeds and the device.

One switch decides everything: the profile, `quick` or `full`. Each stage has one frozen dataclass; a profile
holds one instance of each. Nothing else in the suite asks which profile it runs under.
"""

from __future__ import annotations

import os
import random
import warnings
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mvtec_ad.errors import SettingsError


@dataclass(frozen=True)
class DataSettings:
    """Stage 01: which images, and how many of the drawn ones."""

    categories: tuple[str, ...] = ("bottle", "screw")
    image_size: int = 256  # pixels; every image is resized to a square of this side, once
    rendered_train: int = 100  # drawn good images to fit on, per category
    rendered_test_good: int = 20
    rendered_per_defect: int = 10
    package_train: int = 40  # drawn packages to learn from, damaged ones and as many intact ones; two views each
    package_test: int = 20
    rendered_seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise SettingsError(f"image size {self.image_size} must be at least 1 pixel")


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
        if self.image_size < 1 or self.crop < 1:
            raise SettingsError(f"image size {self.image_size} and crop {self.crop} must be at least 1 pixel")
        if self.channels < 1:
            raise SettingsError(f"channels {self.channels} must be at least 1")
        if self.crop > self.image_size:
            raise SettingsError(f"crop {self.crop} is larger than image size {self.image_size}: choose a smaller crop")
        if self.interpolation not in ("nearest", "bilinear"):
            raise SettingsError(f"interpolation {self.interpolation!r} is unknown: use 'nearest' or 'bilinear'")
        if not 0 < self.fit_fraction <= 1:
            raise SettingsError(f"fit fraction {self.fit_fraction} is outside (0, 1]")
        if not 0 < self.ridge < float("inf"):
            raise SettingsError(f"ridge {self.ridge} must be positive: it keeps the covariance invertible")
        if not self.seeds:
            raise SettingsError("no seed given: name at least one channel seed")
        if min(self.seeds) < 0:
            raise SettingsError(f"seed {min(self.seeds)} is negative: use 0 or more")


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
PADIM_PRESETS = {"keras": KERAS_RECIPE, "resnet18": RESNET18_RECIPE, "wide_resnet50": WIDE_RESNET50_RECIPE}


@dataclass(frozen=True)
class PretrainingSettings:
    """Stage 10: a backbone from drawn images."""

    objective: str = "places"  # simclr | vicreg | recipes | places | both
    images: int = 24_000  # drawn once
    image_size: int = 128  # of a drawn image
    recipes: int = 500  # kinds of texture
    view: int = 96  # side of what the network sees of it
    views: int = 128  # a step
    turn: float = 3.1416  # largest rotation of a view, radians
    colour: float = 1.0  # how much light and colours of a view change; 0 is not at all
    steps: int = 2400
    rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.views <= self.images:
            raise SettingsError(f"{self.views} views a step of {self.images} images: choose fewer views")


@dataclass(frozen=True)
class Profile:
    """All settings of a run.

    `quick` needs no download and no GPU; `full` is the reported run on real MVTec AD.
    """

    name: str
    data: DataSettings = field(default_factory=DataSettings)
    padim: PadimSettings = field(default_factory=PadimSettings)
    pretraining: PretrainingSettings = field(default_factory=PretrainingSettings)


PROFILES = {
    "quick": Profile(
        "quick",
        padim=PadimSettings(weights="drawn", image_size=192, crop=192, sigma=3.0, channels=64),
        pretraining=PretrainingSettings(images=2500, view=64, steps=150),
    ),
    "full": Profile(
        "full",
        data=DataSettings(
            categories=("bottle", "cable", "capsule", "metal_nut", "pill", "screw", "zipper"),
            rendered_train=200,
            rendered_per_defect=20,
        ),
        padim=KERAS_RECIPE,
    ),
}


def profile(name: str | None = None, categories: str = "", **stages: Any) -> Profile:
    """The profile to run under.

    Args:
        name: `quick` or `full`, as a notebook's form field gives it. The environment variable
            `MVTEC_AD_PROFILE` wins over it; without either it is `quick`.
        categories: names separated by spaces or commas, instead of the profile's own; the environment variable
            `MVTEC_AD_CATEGORIES` wins over it.
        **stages: replacements for whole stage settings, for example `padim=PadimSettings(channels=200)`.

    Raises:
        SettingsError: the name is unknown.
    """
    name = os.environ.get("MVTEC_AD_PROFILE") or name or "quick"
    if name not in PROFILES:
        raise SettingsError(f"profile {name!r} is unknown: use one of {', '.join(PROFILES)}")
    chosen = replace(PROFILES[name], **stages)
    wanted = tuple((os.environ.get("MVTEC_AD_CATEGORIES") or categories).replace(",", " ").split())
    return replace(chosen, data=replace(chosen.data, categories=wanted)) if wanted else chosen


def as_dict(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain JSON types."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `as_dict`; unknown keys are refused."""
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise SettingsError(f"{kind.__name__} has no setting {', '.join(unknown)}: it was written by another version")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def home() -> Path:
    """The root that `data/` and `transfer/` lie under.

    `MVTEC_AD_HOME` where it is set, else the checkout that encloses the working folder, else the working folder.
    """
    if os.environ.get("MVTEC_AD_HOME"):
        return Path(os.environ["MVTEC_AD_HOME"]).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "mvtec_ad").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


def data_folder() -> Path:
    """Where images lie; made when missing."""
    folder = home() / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def transfer_folder() -> Path:
    """Where artifacts lie; made when missing."""
    folder = home() / "transfer"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def set_seed(seed: int) -> None:
    """Seed python and numpy, and torch and Keras where they are already imported."""
    import sys

    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(seed)


def torch_device() -> str:
    """`cuda` where torch sees a GPU, else `cpu`."""
    import torch

    with warnings.catch_warnings():  # where TensorFlow looked for a driver first, torch warns that there is none
        warnings.filterwarnings("ignore", "CUDA initialization", UserWarning)
        return "cuda" if torch.cuda.is_available() else "cpu"
