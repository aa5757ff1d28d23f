"""Settings of the stage that tells defect types apart."""

from __future__ import annotations

from dataclasses import dataclass

from mvtec_ad.errors import SettingsError

LOOKS = ("whole", "predicted", "mask")


@dataclass(frozen=True)
class TypingSettings:
    """Stage 06: which defect is it? SimCLR (arXiv:2002.05709) and SupCon (arXiv:2004.11362)."""

    objective: str = "supcon"  # supcon: same type, alike | simclr: same image, alike; needs no labels
    backbone: str = "resnet18"  # resnet18 | resnet50 | wide_resnet50_2, up to layer3
    weights: str = "imagenet"  # imagenet | random | drawn | path of a state dict
    trained: str = "layer3"  # first layer that is trained; what lies before it stays frozen. all: everything
    look: str = "predicted"  # whole | predicted: around the peak of an anomaly map | mask: around the true mask
    side: float = 0.3  # of the region that is looked at, as a share of the picture's
    focus: float = 0.13  # Gaussian weight around the middle of the region, in its sides; whole pictures have none
    image_size: int = 112  # pixels of what the network sees
    copies: int = 16  # augmented copies of each training image
    turn: float = 180.0  # largest turn of a copy, degrees
    shift: float = 0.06  # its largest shift, as a share of the region, and half its largest change of scale
    light: float = 0.3  # strength of its change of light and colour; 0: none, 1: as in pretraining
    mirror: bool = False  # left for right: wrong where a part has a handedness, as a nut that lies on its face
    projection: int = 64  # numbers that the projection head gives to the loss; the embedding is what it is fed
    temperature: float = 0.1  # τ
    steps: int = 40
    batch: int = 36  # copies a step, the same number of each type; with simclr half as many images, twice each
    rate: float = 3e-4  # of the trained layers; the new head takes ten times as much
    neighbours: int = 5  # of the k-NN verdict
    unknown: float = 0.1  # share of known defects that may be called unknown
    mixtures: tuple[str, ...] = ("combined",)  # folders that hold several types at once: no types of their own
    folds: int = 5
    repeats: int = 1  # of the folds, each time dealt anew
    seeds: tuple[int, ...] = (0,)  # of folds, weights, batches and copies

    def __post_init__(self) -> None:
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


# as settings.PRESETS, for `evaluate typing`
TYPING_PRESETS = {
    "typing": {
        "default": TypingSettings(),
        "simclr": TypingSettings(objective="simclr"),
        "whole": TypingSettings(look="whole"),
    }
}
