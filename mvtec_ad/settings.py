"""Settings of the stages that learn from labels, join the models, and train a backbone.

The methods that look at good images alone carry their options themselves (`methods/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mvtec_ad.config import Options, option
from mvtec_ad.errors import SettingsError

ARCHITECTURES = ("resnet18", "resnet50", "efficientnet_b0", "mobilenet_v3_large")
LOOKS = ("whole", "predicted", "mask")


@dataclass(frozen=True)
class ClassifierSettings(Options):
    """Stage 04: transfer learning with labels."""

    architecture: str = option("resnet18", "one of ARCHITECTURES")
    weights: str = option("imagenet", "imagenet | random | drawn (resnet18) | path of a state dict")
    look: str = option("registered", "whole | item | registered: what of a picture is looked at (data.items)")
    image_size: int = option(224, "side of that, in pixels")
    pyramid: tuple[int, ...] = option(
        (1, 2, 4), "cells a side of the grids that are averaged over; (1,): the whole, as usual"
    )
    penalty: float = option(100.0, "on the squared weights of the first head (1 / C of logistic regression)")
    steps: int = option(64, "of fine-tuning all layers")
    batch: int = option(16, "images a step")
    rate: float = option(3e-5, "of fine-tuning; a network from scratch takes thirty times as much")
    validation: float = option(
        0.2, "share of the labelled parts that chooses the checkpoint, temperature and threshold"
    )
    turn: float = option(5.0, "largest turn of a training image, degrees; below the margin around the item")
    shift: float = option(0.03, "largest shift, as a share of the image, and change of scale")
    light: float = option(0.1, "largest change of brightness and contrast")
    mirror: bool = option(True, "left for right, where cuts are not registered")
    seeds: tuple[int, ...] = option((0,), "of validation parts, batches and augmentation")

    PRESETS: ClassVar = {
        "default": {},
        "quick": {"weights": "drawn", "image_size": 128, "steps": 16, "batch": 8},
        "full": {},
    }

    def check(self) -> None:
        """Refuse what cannot work."""
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
class AttributionSettings(Options):
    """Stage 05: where a classifier looks."""

    images: int = option(20, "test images of a view that are explained, as many defective as good ones")
    path_steps: int = option(512, "of integrated gradients, from the baseline to the image")
    noisy_copies: int = option(25, "of an image, for smooth_grad")
    windows: int = option(15, "of occlusion along a side, each overlapping the next by half")
    removals: int = option(20, "steps in which deletion and insertion cover the image")
    randomised: int = option(8, "images of the randomisation check")

    PRESETS: ClassVar = {
        "default": {},
        "quick": {
            "images": 6,
            "path_steps": 12,
            "noisy_copies": 6,
            "windows": 5,
            "removals": 6,
            "randomised": 2,
        },
        "full": {},
    }

    def check(self) -> None:
        """Refuse what cannot work."""
        counts = (self.images, self.path_steps, self.noisy_copies, self.windows, self.removals, self.randomised)
        if min(counts) < 2:
            raise SettingsError(
                "images, path_steps, noisy_copies, windows, removals and randomised must each be 2 or more"
            )


@dataclass(frozen=True)
class TypingSettings(Options):
    """Stage 06: which defect is it? SimCLR (arXiv:2002.05709) and SupCon (arXiv:2004.11362)."""

    objective: str = option("supcon", "supcon: same type, alike | simclr: same image, alike; needs no labels")
    backbone: str = option("resnet18", "resnet18 | resnet50 | wide_resnet50_2, up to layer3")
    weights: str = option("imagenet", "imagenet | random | drawn | path of a state dict")
    trained: str = option("layer3", "first layer that is trained; what lies before it stays frozen. all: everything")
    look: str = option("predicted", "whole | predicted: around the peak of an anomaly map | mask: around the true mask")
    side: float = option(0.3, "of the region that is looked at, as a share of the picture's")
    focus: float = option(
        0.13, "Gaussian weight around the middle of the region, in its sides; whole pictures have none"
    )
    image_size: int = option(112, "pixels of what the network sees")
    copies: int = option(16, "augmented copies of each training image")
    turn: float = option(180.0, "largest turn of a copy, degrees")
    shift: float = option(0.06, "its largest shift, as a share of the region, and half its largest change of scale")
    light: float = option(0.3, "strength of its change of light and colour; 0: none, 1: as in pretraining")
    mirror: bool = option(False, "left for right: wrong where a part has a handedness, as a nut that lies on its face")
    projection: int = option(64, "numbers that the projection head gives to the loss; the embedding is what it is fed")
    temperature: float = option(0.1, "τ")
    steps: int = option(40, "")
    batch: int = option(36, "copies a step, the same number of each type; with simclr half as many images, twice each")
    rate: float = option(3e-4, "of the trained layers; the new head takes ten times as much")
    neighbours: int = option(5, "of the k-NN verdict")
    unknown: float = option(0.1, "share of known defects that may be called unknown")
    mixtures: tuple[str, ...] = option(("combined",), "folders that hold several types at once: no types of their own")
    folds: int = option(5, "")
    repeats: int = option(1, "of the folds, each time dealt anew")
    seeds: tuple[int, ...] = option((0,), "of folds, weights, batches and copies")

    PRESETS: ClassVar = {
        "default": {},
        "quick": {
            "weights": "drawn",
            "look": "mask",
            "image_size": 80,
            "copies": 6,
            "steps": 10,
            "batch": 20,
            "rate": 1e-3,
        },
        "full": {},
        "simclr": {"objective": "simclr"},
        "whole": {"look": "whole"},
    }

    def check(self) -> None:
        """Refuse what cannot work."""
        if self.objective not in ("supcon", "simclr"):
            raise SettingsError(f"objective {self.objective!r} is unknown: use supcon or simclr")
        if self.backbone not in ("resnet18", "resnet50", "wide_resnet50_2"):
            raise SettingsError(f"backbone {self.backbone!r} is unknown: use resnet18, resnet50 or wide_resnet50_2")
        if self.trained not in ("all", "layer1", "layer2", "layer3"):
            raise SettingsError(f"trained {self.trained!r} is unknown: use layer3, layer2, layer1 or all")
        if self.weights == "random" and self.trained != "all":
            raise SettingsError("random weights leave nothing worth freezing: use trained all, or other weights")
        if self.look not in LOOKS:
            raise SettingsError(f"look {self.look!r} is unknown: use one of {', '.join(LOOKS)}")
        if not 0 < self.side <= 1:
            raise SettingsError(f"side {self.side} is a share of the picture: use a number above 0, up to 1")
        if not 0 < self.focus < float("inf"):
            raise SettingsError(f"focus {self.focus} must be positive: 0.13 of the side, for example")
        if self.image_size < 32:
            raise SettingsError(f"image size {self.image_size} is too small for three layers: use 32 or more")
        if min(self.copies, self.batch, self.folds) < 2 or min(self.repeats, self.neighbours, self.projection) < 1:
            raise SettingsError("copies, batch and folds must be 2 or more; repeats, neighbours, projection 1 or more")
        if self.steps < 0 or not (0 < self.rate < float("inf") and 0 < self.temperature < float("inf")):
            raise SettingsError("steps must not be negative, rate and temperature must be positive numbers")
        if not (0 <= self.turn <= 180 and 0 <= self.shift < 0.5 and 0 <= self.light < float("inf")):
            raise SettingsError("turn must lie in [0, 180], shift in [0, 0.5), and light must not be negative")
        if not 0 < self.unknown < 1:
            raise SettingsError(f"share of unknown {self.unknown} must lie between 0 and 1, for example 0.1")
        if not self.seeds or min(self.seeds) < 0:
            raise SettingsError("name at least one seed, 0 or more")


@dataclass(frozen=True)
class InspectionSettings(Options):
    """Stage 08: one inspector from the models of all notebooks."""

    second: str = option("autoencoder", "method that gives the second opinion")
    miss: float = option(10.0, "cost of a defect that passes")
    false_alarm: float = option(1.0, "cost of a good part that is stopped")
    widths: tuple[float, ...] = option(
        (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), "half-widths of the band that are tried"
    )
    backbone: str = option("resnet18", "that tells products apart")
    weights: str = option("imagenet", "imagenet | random | drawn | path of a weights file")
    image_size: int = option(128, "pixels, for telling products apart")
    rejected: float = option(0.005, "share of images of known products that may be called none of these")

    PRESETS: ClassVar = {
        "default": {},
        "quick": {"weights": "drawn", "image_size": 64},
        "full": {},
    }

    def check(self) -> None:
        """Refuse what cannot work."""
        if not (0 < self.miss < float("inf") and 0 < self.false_alarm < float("inf")):
            raise SettingsError("the costs of a miss and of a false alarm must be positive numbers")
        if not self.widths or min(self.widths) < 0 or list(self.widths) != sorted(set(self.widths)):
            raise SettingsError(f"widths {self.widths} must be different numbers of 0 or more, in ascending order")
        if self.image_size < 32:
            raise SettingsError(f"image size {self.image_size} is too small for three layers: use 32 or more")
        if not 0 < self.rejected < 1:
            raise SettingsError(f"rejected share {self.rejected} must lie between 0 and 1, for example 0.005")


@dataclass(frozen=True)
class PretrainingSettings(Options):
    """Stage 10: a backbone from drawn images."""

    objective: str = option("places", "simclr | vicreg | recipes | places | both")
    images: int = option(24_000, "drawn once")
    image_size: int = option(128, "of a drawn image")
    recipes: int = option(500, "kinds of texture")
    view: int = option(96, "side of what the network sees of it")
    views: int = option(128, "a step")
    turn: float = option(3.1416, "largest rotation of a view, radians")
    colour: float = option(1.0, "how much light and colours of a view change; 0 is not at all")
    steps: int = option(2400, "")
    rate: float = option(2e-3, "")
    seed: int = option(0, "")

    PRESETS: ClassVar = {
        "default": {},
        "quick": {"images": 800, "image_size": 96, "view": 64, "views": 32, "steps": 90},
        "full": {},
    }

    def check(self) -> None:
        """Refuse what cannot work."""
        if not 2 <= self.views <= self.images:
            raise SettingsError(f"{self.views} views a step of {self.images} images: choose fewer views")
