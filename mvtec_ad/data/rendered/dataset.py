"""The data set: which image has which seed, how severe its defect is, and the folders it is written to."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from tqdm import tqdm

from mvtec_ad.data.rendered import bottle, screw
from mvtec_ad.data.rendered.drawing import streams
from mvtec_ad.errors import DataError

RENDER_VERSION = 2  # raise it whenever a pixel changes
DRAWN_BY = "mvtec_ad.data.rendered"
MANIFEST = "rendered.json"

# Append only: the position of a product enters its seeds.
_PRODUCTS = {"bottle": bottle, "screw": screw}
CATEGORIES: tuple[str, ...] = tuple(sorted(_PRODUCTS))

_SMALLEST, _LARGEST = 32, 4096  # image side in pixels
_PARTS, _IMAGES = 100, 10_000  # room for seeds: parts of a category (train/good, test/crack, ...), images of a part
_LEAST_SEVERITY = 0.1


@dataclass(frozen=True)
class Drawn:
    """One drawn image."""

    image: np.ndarray
    """Array of shape `(size, size, 3)`, uint8, RGB."""
    mask: np.ndarray
    """Array of shape `(size, size)`, bool; all False when good."""
    severity: float
    """0 when good, else from 0.1 (barely visible) to 1 (obvious)."""


def defect_types(category: str) -> tuple[str, ...]:
    """Returns the defect types of a category.

    Raises:
        DataError: The category cannot be drawn.
    """
    return _product(category).DEFECTS


def draw(category: str, seed: int, defect: str | None = None, size: int = 256) -> Drawn:
    """Draws one image, a function of its arguments alone.

    With the same seed, the image with a defect and the one without show the same object under the same light and differ
    only at the defect. Severity is drawn uniformly from 0.1 to 1.

    Args:
        category: One of `CATEGORIES`.
        seed: Non-negative integer.
        defect: One of `defect_types(category)`, or None for a good product.
        size: Image side in pixels, 32 to 4096.

    Returns:
        The image, its mask and the severity of its defect.

    Raises:
        DataError: Category or defect are unknown, or seed or size out of range.
    """
    product = _product(category)
    if defect is not None and defect not in product.DEFECTS:
        raise DataError(f"{category} has no defect type {defect!r}; choose from {', '.join(product.DEFECTS)}, or None")
    _check("seed", seed, 0, None)
    _check("size", size, _SMALLEST, _LARGEST)
    number = _number(category)
    if defect is None:
        image, mask = product.draw(streams(number, seed), size, None, 0.0)
        return Drawn(image, mask, 0.0)
    severity = _severity(seed, number)
    image, mask = product.draw(streams(number, seed), size, defect, severity)
    return Drawn(image, mask, severity)


def write_category(
    root: Path,
    category: str,
    *,
    train: int,
    test_good: int,
    per_defect: int,
    size: int = 256,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
) -> Path:
    """Draws a category into the folders of MVTec AD, with `rendered.json` beside them.

    The images do not depend on `workers`. They are written to a temporary folder that takes the category's name at the
    end, so an interrupted run leaves nothing half-made. A folder that already holds exactly this set is kept; one drawn
    with other parameters is replaced.

    Args:
        root: Folder of the data set.
        category: One of `CATEGORIES`.
        train: Number of images in `train/good`.
        test_good: Number of images in `test/good`.
        per_defect: Number of images in each of `test/<defect>`.
        size: Image side in pixels.
        seed: Of the whole set; no image seed occurs twice in one set.
        workers: Threads that draw.
        progress: Whether to show a progress bar.

    Returns:
        `root / category`.

    Raises:
        DataError: The category is unknown, a number out of range, or the folder holds images that were not drawn here.
    """
    _check("seed", seed, 0, None)
    _check("size", size, _SMALLEST, _LARGEST)
    _check("workers", workers, 1, None)
    for name, count in (("train", train), ("test_good", test_good), ("per_defect", per_defect)):
        _check(name, count, 0, _IMAGES)
    head = {
        "drawn_by": DRAWN_BY,
        "version": RENDER_VERSION,
        "category": category,
        "seed": seed,
        "size": size,
        "train": train,
        "test_good": test_good,
        "per_defect": per_defect,
    }
    plan = _plan(category, seed, train, test_good, per_defect)
    target = Path(root) / category
    if _already_there(target, head):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{category}-{secrets.token_hex(4)}")
    try:
        images = _write_images(unfinished, category, plan, size, workers, progress)
        (unfinished / MANIFEST).write_text(json.dumps({**head, "images": images}, indent=1) + "\n", encoding="utf-8")
        _put_in_place(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _product(category: str) -> ModuleType:
    if category not in _PRODUCTS:
        raise DataError(f"no drawing of category {category!r}; choose from {', '.join(CATEGORIES)}")
    return _PRODUCTS[category]


def _number(category: str) -> int:
    return list(_PRODUCTS).index(category)


def _severity(seed: int, number: int) -> float:
    """Returns the severity that belongs to a seed: uniform, from obvious to barely visible."""
    # A stream of its own, which no product can change.
    return float(np.random.default_rng([seed, number, 1]).uniform(_LEAST_SEVERITY, 1.0))


def _check(name: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise DataError(f"{name} is {value}; it must be {allowed}")


def _plan(category: str, seed: int, train: int, test_good: int, per_defect: int) -> dict[str, tuple[int, str | None]]:
    """Returns seed and defect of every image by its path inside the category."""
    parts: list[tuple[str, str | None, int]] = [("train/good", None, train), ("test/good", None, test_good)]
    parts += [(f"test/{defect}", defect, per_defect) for defect in defect_types(category)]
    block = (seed * _PARTS + _number(category)) * _PARTS
    return {
        f"{folder}/{index:03d}.png": ((block + part) * _IMAGES + index, defect)
        for part, (folder, defect, count) in enumerate(parts)
        for index in range(count)
    }


def _already_there(target: Path, head: dict) -> bool:
    """Tells whether `target` holds this set already; raises where it holds something that was not drawn here."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        ours = manifest["drawn_by"] == DRAWN_BY
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise DataError(f"{target} holds images that were not drawn here; move them away or choose another folder")
    return all(manifest.get(key) == value for key, value in head.items())


def _write_images(
    folder: Path, category: str, plan: dict[str, tuple[int, str | None]], size: int, workers: int, progress: bool
) -> dict[str, dict[str, float]]:
    """Draws and writes all images; returns seed and severity of each by its path."""
    for path in plan:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if plan[path][1]:
            (folder / _mask_path(path)).parent.mkdir(parents=True, exist_ok=True)
    write = partial(_write_image, folder, category, size)
    with ThreadPoolExecutor(workers) as pool:  # NumPy and OpenCV let go of the interpreter while they work
        drawn = pool.map(write, plan, *zip(*plan.values(), strict=True)) if plan else ()
        severities = list(tqdm(drawn, f"drawing {category}", len(plan), disable=not progress, unit="image"))
    seeds = [seed for seed, _ in plan.values()]
    return {path: {"seed": s, "severity": v} for path, s, v in zip(plan, seeds, severities, strict=True)}


def _write_image(folder: Path, category: str, size: int, path: str, seed: int, defect: str | None) -> float:
    drawn = draw(category, seed, defect, size)
    _write_png(folder / path, drawn.image[..., ::-1])
    if defect:
        _write_png(folder / _mask_path(path), drawn.mask.astype(np.uint8) * 255)
    return drawn.severity


def _mask_path(path: str) -> str:
    return path.replace("test/", "ground_truth/", 1).removesuffix(".png") + "_mask.png"


def _write_png(path: Path, pixels: np.ndarray) -> None:
    # Compression level 1: a fifth larger than the default, several times faster.
    encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    path.write_bytes(encoded.tobytes())  # unlike cv2.imwrite, raises when the disk is full and takes any path


def _put_in_place(unfinished: Path, target: Path) -> None:
    """Gives the finished folder its name; an older set makes room and goes only when the new one stands."""
    old = unfinished.with_name(unfinished.name + "-old")
    if target.exists():
        os.replace(target, old)
    os.replace(unfinished, target)
    shutil.rmtree(old, ignore_errors=True)
