"""The data set: which image has which seed, how severe its defect is, and the folders it is written to."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from tqdm import tqdm

from mvtec_ad.errors import DataError
from mvtec_ad.synthetic.products import bottle, cable, capsule, metal_nut, pill, screw, zipper
from mvtec_ad.synthetic.tools.drawing import streams
from mvtec_ad.synthetic.writing import (
    IMAGES,
    LARGEST,
    LEAST_SEVERITY,
    SMALLEST,
    check_number,
    seed_of,
    severity_of,
    write_png,
    write_set,
)

# Append only: the position of a product enters its seeds.
_PRODUCTS = {
    "bottle": bottle,
    "screw": screw,
    "cable": cable,
    "capsule": capsule,
    "metal_nut": metal_nut,
    "pill": pill,
    "zipper": zipper,
}
CATEGORIES: tuple[str, ...] = tuple(sorted(_PRODUCTS))


@dataclass(frozen=True)
class ProductImage:
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


def draw(
    category: str, seed: int, defect: str | None = None, size: int = 256, least_severity: float = LEAST_SEVERITY
) -> ProductImage:
    """Draws one image, a function of its arguments alone.

    With the same seed, the image with a defect and the one without show the same object under the same light and differ
    only at the defect. Severity is drawn uniformly from the least one to 1.

    Args:
        category: One of `CATEGORIES`.
        seed: Non-negative integer.
        defect: One of `defect_types(category)`, or None for a good product.
        size: Image side in pixels, 32 to 4096.
        least_severity: 0.1, barely visible, to 1, obvious. Another one leaves object, light and noise as they are.

    Returns:
        The image, its mask and the severity of its defect.

    Raises:
        DataError: Category or defect are unknown, or seed or size out of range.
    """
    product = _product(category)
    if defect is not None and defect not in product.DEFECTS:
        raise DataError(f"{category} has no defect type {defect!r}; choose from {', '.join(product.DEFECTS)}, or None")
    check_number("seed", seed, 0, None)
    check_number("size", size, SMALLEST, LARGEST)
    number = _number(category)
    if defect is None:
        image, mask = product.draw(streams(number, seed), size, None, 0.0)
        return ProductImage(image, mask, 0.0)
    severity = severity_of(seed, number, least_severity)
    image, mask = product.draw(streams(number, seed), size, defect, severity)
    return ProductImage(image, mask, severity)


def write_category(
    root: Path,
    category: str,
    *,
    train: int,
    test_good: int,
    per_defect: int | Mapping[str, int],
    size: int = 256,
    seed: int = 0,
    least_severity: float = LEAST_SEVERITY,
    workers: int = 2,
    progress: bool = True,
) -> Path:
    """Draws a category into the folders of MVTec AD, with `synthetic.json` beside them.

    The images do not depend on `workers`. They are written to a temporary folder that takes the category's name at the
    end, so an interrupted run leaves nothing half-made. A folder that already holds exactly this set is kept; one drawn
    with other parameters is replaced.

    Args:
        root: Folder of the data set.
        category: One of `CATEGORIES`.
        train: Number of images in `train/good`.
        test_good: Number of images in `test/good`.
        per_defect: Number of images in each of `test/<defect>`, one for all or one for each defect type.
        size: Image side in pixels.
        seed: Of the whole set; no image seed occurs twice in one set.
        least_severity: As in `draw`.
        workers: Threads that draw.
        progress: Whether to show a progress bar.

    Returns:
        `root / category`.

    Raises:
        DataError: The category is unknown, a number out of range, or the folder holds images that were not drawn here.
    """
    check_number("seed", seed, 0, None)
    check_number("size", size, SMALLEST, LARGEST)
    check_number("workers", workers, 1, None)
    check_number("least_severity", least_severity, LEAST_SEVERITY, 1)
    if not isinstance(per_defect, Mapping):
        per_defect = dict.fromkeys(defect_types(category), per_defect)
    if tuple(per_defect) != defect_types(category):
        raise DataError(f"{category} has the defect types {', '.join(defect_types(category))}: give each its number")
    for name, count in (("train", train), ("test_good", test_good), *(("per_defect", n) for n in per_defect.values())):
        check_number(name, count, 0, IMAGES)
    plan = _plan(category, seed, train, test_good, per_defect)
    counts = {"train": train, "test_good": test_good, "per_defect": dict(per_defect)}
    return write_set(
        Path(root) / category,
        {"category": category, "seed": seed, "size": size, "least_severity": least_severity, **counts},
        lambda folder: _write_images(folder, category, plan, size, least_severity, workers, progress),
    )


def _product(category: str) -> ModuleType:
    if category not in _PRODUCTS:
        raise DataError(f"no drawing of category {category!r}; choose from {', '.join(CATEGORIES)}")
    return _PRODUCTS[category]


def _number(category: str) -> int:
    return list(_PRODUCTS).index(category)


def _plan(
    category: str, seed: int, train: int, test_good: int, per_defect: Mapping[str, int]
) -> dict[str, tuple[int, str | None]]:
    """Returns seed and defect of every image by its path inside the category."""
    parts: list[tuple[str, str | None, int]] = [("train/good", None, train), ("test/good", None, test_good)]
    parts += [(f"test/{defect}", defect, per_defect[defect]) for defect in defect_types(category)]
    number = _number(category)
    return {
        f"{folder}/{index:03d}.png": (seed_of(seed, number, part, index), defect)
        for part, (folder, defect, count) in enumerate(parts)
        for index in range(count)
    }


def _write_images(
    folder: Path,
    category: str,
    plan: dict[str, tuple[int, str | None]],
    size: int,
    least_severity: float,
    workers: int,
    progress: bool,
) -> dict[str, dict[str, float]]:
    """Draws and writes all images; returns seed and severity of each by its path."""
    for path in plan:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if plan[path][1]:
            (folder / _mask_path(path)).parent.mkdir(parents=True, exist_ok=True)
    write = partial(_write_image, folder, category, size, least_severity)
    with ThreadPoolExecutor(workers) as pool:  # NumPy and OpenCV let go of the interpreter while they work
        severities = pool.map(write, plan, *zip(*plan.values(), strict=True)) if plan else ()
        severities = list(tqdm(severities, f"drawing {category}", len(plan), disable=not progress, unit="image"))
    seeds = [seed for seed, _ in plan.values()]
    return {path: {"seed": s, "severity": v} for path, s, v in zip(plan, seeds, severities, strict=True)}


def _write_image(
    folder: Path, category: str, size: int, least_severity: float, path: str, seed: int, defect: str | None
) -> float:
    picture = draw(category, seed, defect, size, least_severity)
    write_png(folder / path, picture.image[..., ::-1])
    if defect:
        write_png(folder / _mask_path(path), picture.mask.astype(np.uint8) * 255)
    return picture.severity


def _mask_path(path: str) -> str:
    return path.replace("test/", "ground_truth/", 1).removesuffix(".png") + "_mask.png"
