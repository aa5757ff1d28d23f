"""What the settings of several methods check and count alike."""

from __future__ import annotations

from mvtec_ad.errors import SettingsError


def check_pixels(image_size: int, crop: int) -> None:
    """Refuse a crop that the image size does not allow."""
    if image_size < 1 or crop < 1:
        raise SettingsError(f"image size {image_size} and crop {crop} must be at least 1 pixel")
    if crop > image_size:
        raise SettingsError(f"crop {crop} is larger than image size {image_size}: choose a smaller crop")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Refuse no seed, and negative ones."""
    if not seeds:
        raise SettingsError("no seed given: name at least one")
    if min(seeds) < 0:
        raise SettingsError(f"seed {min(seeds)} is negative: use 0 or more")


def check_sigma(sigma: float) -> None:
    """Refuse what is no width of a Gaussian."""
    if not 0 <= sigma < float("inf"):
        raise SettingsError(f"sigma {sigma} is no width in pixels: use 0 or more")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a name that is none of the choices."""
    if value not in choices:
        raise SettingsError(f"{name} {value!r} is unknown: use one of {', '.join(choices)}")


def held_out_count(count: int, share: float) -> int:
    """How many of `count` good images are not trained on: the share, but 20 where half of the images allows it."""
    wanted = max(round(count * share), min(20, count // 2))
    return max(1, min(wanted, count - 2))
