"""Settings of the stages that learn from labels."""

from __future__ import annotations

from dataclasses import dataclass

from mvtec_ad.errors import SettingsError

ARCHITECTURES = ("resnet18", "resnet50", "efficientnet_b0", "mobilenet_v3_large")


@dataclass(frozen=True)
class ClassifierSettings:
    """Stage 04: transfer learning with labels."""

    architecture: str = "resnet18"  # one of ARCHITECTURES
    weights: str = "imagenet"  # imagenet | random | drawn (resnet18) | path of a state dict
    look: str = "registered"  # whole | item | registered: what of a picture is looked at (data.items)
    image_size: int = 224  # side of that, in pixels
    pyramid: tuple[int, ...] = (1, 2, 4)  # cells a side of the grids that are averaged over; (1,): the whole, as usual
    penalty: float = 100.0  # on the squared weights of the first head (1 / C of logistic regression)
    steps: int = 64  # of fine-tuning all layers
    batch: int = 16
    rate: float = 3e-5  # of fine-tuning; a network from scratch takes thirty times as much
    validation: float = 0.2  # share of the labelled parts that chooses the checkpoint, temperature and threshold
    turn: float = 5.0  # largest turn of a training image, degrees; below the margin around the item
    shift: float = 0.03  # largest shift, as a share of the image, and change of scale
    light: float = 0.1  # largest change of brightness and contrast
    mirror: bool = True  # left for right, where cuts are not registered
    seeds: tuple[int, ...] = (0,)  # of validation parts, batches and augmentation

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise SettingsError(f"architecture {self.architecture!r} is unknown: use one of {', '.join(ARCHITECTURES)}")
        if self.look not in ("whole", "item", "registered"):
            raise SettingsError(f"look {self.look!r} is unknown: use whole, item or registered")
        if self.image_size < 32:
            raise SettingsError(f"image size {self.image_size} is below the 32 pixels that one cell of a network sees")
        if not self.pyramid or min(self.pyramid) < 1:
            raise SettingsError(f"pyramid {self.pyramid} needs at least one grid of 1 or more cells a side")
        if self.batch < 2 or self.steps < 0:
            raise SettingsError("a batch needs 2 or more images, and steps must not be negative")
        if not (0 < self.rate < float("inf") and 0 < self.penalty < float("inf")):
            raise SettingsError("rate and penalty must be positive numbers")
        if not 0 < self.validation < 1:
            raise SettingsError(f"validation share {self.validation} must lie between 0 and 1, for example 0.2")
        if not (0 <= self.turn < float("inf") and 0 <= self.shift < 1 and 0 <= self.light < 1):  # nan is refused too
            raise SettingsError("turn, shift and light must not be negative, shift and light below 1")
        if not self.seeds or min(self.seeds) < 0:
            raise SettingsError("name at least one seed, 0 or more")


@dataclass(frozen=True)
class AttributionSettings:
    """Stage 05: where a classifier looks."""

    images: int = 20  # test images of a view that are explained, as many defective as good ones
    path_steps: int = 512  # of integrated gradients, from the baseline to the image
    noisy_copies: int = 25  # of an image, for smooth_grad
    windows: int = 15  # of occlusion along a side, each overlapping the next by half
    removals: int = 20  # steps in which deletion and insertion cover the image
    randomised: int = 8  # images of the randomisation check

    def __post_init__(self) -> None:
        counts = (self.images, self.path_steps, self.noisy_copies, self.windows, self.removals, self.randomised)
        if min(counts) < 2:
            raise SettingsError(
                "images, path_steps, noisy_copies, windows, removals and randomised must each be 2 or more"
            )
