"""Settings of the stages that are no detection method, and any settings as plain JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from mvtec_ad.errors import SettingsError


@dataclass(frozen=True)
class DataSettings:
    """Stage 01: which images, and how many of the drawn ones."""

    categories: tuple[str, ...] = ("bottle", "screw")
    image_size: int = 256  # pixels; every image is resized to a square of this side, once
    rendered_train: int = 100  # drawn good images to fit on, per category
    rendered_test_good: int = 20
    rendered_per_defect: int = 10
    packages: str = "package"  # folder of items seen from two sides; this name is drawn where it is not on disk
    package_train: int = 60  # drawn packages to learn from, damaged ones and as many intact ones; two views each
    package_test: int = 20
    rendered_seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise SettingsError(f"image size {self.image_size} must be at least 1 pixel")


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
