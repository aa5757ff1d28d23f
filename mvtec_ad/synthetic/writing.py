"""How a drawn set gets onto the disk: whole or not at all, never over somebody's own images; and its random numbers."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mvtec_ad.errors import DataError, writing

RENDER_VERSION = 2  # raise it whenever a pixel changes
GENERATOR = "mvtec_ad.synthetic"
MANIFEST = "synthetic.json"

SMALLEST, LARGEST = 32, 4096  # image side in pixels
_PARTS, IMAGES = 100, 10_000  # room for seeds: parts of a category (train/good, test/crack, ...), images of a part
LEAST_SEVERITY = 0.1  # barely visible


def seed_of(seed: int, product: int, part: int, index: int) -> int:
    """Returns the seed of one image: no two images of a data set, nor of sets with different seeds, share one."""
    return ((seed * _PARTS + product) * _PARTS + part) * IMAGES + index


def severity_of(seed: int, product: int, least: float = LEAST_SEVERITY) -> float:
    """Returns the severity that belongs to a seed: uniform, from obvious to the least one, at least barely visible."""
    check_number("least_severity", least, LEAST_SEVERITY, 1)
    # A stream of its own, which no product can change.
    return float(np.random.default_rng([seed, product, 1]).uniform(least, 1.0))


def check_number(name: str, value: float, least: float, most: float | None) -> None:
    """Raises DataError where a setting is out of range."""
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise DataError(f"{name} is {value}; it must be {allowed}")


def write_set(target: Path, head: dict[str, Any], write_images: Callable[[Path], dict[str, dict[str, float]]]) -> Path:
    """Fills a folder in one go; one that already holds exactly this set is kept, an older set replaced.

    Args:
        target: Folder of the category.
        head: What describes the set: counts, size, seed.
        write_images: Writes all files below the folder it is given; returns what the manifest says of each image.

    Returns:
        `target`.

    Raises:
        DataError: `target` holds images that were not drawn here, or cannot be written; then what lay there is kept.
    """
    head = {"drawn_by": GENERATOR, "version": RENDER_VERSION, **head}
    with writing(target):
        if _already_there(target, head):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
        try:
            images = write_images(unfinished)
            manifest = json.dumps({**head, "images": images}, indent=1) + "\n"
            (unfinished / MANIFEST).write_text(manifest, encoding="utf-8")
            _put_in_place(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _already_there(target: Path, head: dict) -> bool:
    """Tells whether `target` holds this set already; raises where it holds something that was not drawn here."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        ours = manifest["drawn_by"] == GENERATOR
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise DataError(f"{target} holds images that were not drawn here; move them away or choose another folder")
    return all(manifest.get(key) == value for key, value in head.items())


def _put_in_place(unfinished: Path, target: Path) -> None:
    """Gives the finished folder its name; an older set makes room and goes only when the new one stands."""
    old = unfinished.with_name(unfinished.name + "-old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(unfinished, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write BGR or grey pixels, uint8."""
    # Compression level 1: a fifth larger than the default, several times faster.
    encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    path.write_bytes(encoded.tobytes())  # unlike cv2.imwrite, raises when the disk is full and takes any path
