"""Files become arrays, once, in parallel; arrays become a torch DataLoader or a tf.data pipeline.

Images stay uint8 in memory (256×256 RGB: 0.2 MB each) and are turned into floats batch by batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd

from mvtec_ad.data.decoding import check_same_size, read_image, read_mask
from mvtec_ad.errors import DataError, SettingsError

if TYPE_CHECKING:
    import tensorflow as tf
    import torch


def resize(image: np.ndarray, size: int, crop: int | None = None) -> np.ndarray:
    """Resize to a square and cut out its centre.

    Images are averaged over areas along an axis that shrinks (no aliasing) and interpolated linearly along one that
    grows (`resample`). Boolean masks take the nearest pixel, so that a resized mask never grows; a mark thinner than
    the distance of two result pixels may vanish from it, though the image still shows it. A picture that is not square
    is squeezed: a crop to a square would lose the border, and defects there.

    Args:
        image: (H, W, 3) uint8 or (H, W) bool.
        size: side after resizing, in pixels.
        crop: side of the central part that is kept; None keeps all.

    Returns:
        (crop, crop, 3) uint8 or (crop, crop) bool.
    """
    if image.shape[:2] != (size, size):
        if image.dtype == bool:
            image = cv2.resize(image.view(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST_EXACT).view(bool)
        else:
            image = resample(image, size, size)
    if crop is None or crop == size:
        return image
    if crop > size:
        raise SettingsError(f"crop {crop} is larger than image size {size}: choose a smaller crop")
    start = (size - crop) // 2
    return np.ascontiguousarray(image[start : start + crop, start : start + crop])


def resample(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize, each axis in its own way: area averages where it shrinks, then linear interpolation where it grows.

    OpenCV applies one kind of interpolation to both axes: INTER_LINEAR skips most pixels of a long strip whose short
    side grows, and INTER_AREA averages only where both axes shrink.

    Args:
        image: (H, W) or (H, W, 3), uint8 or float32.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (height, width) or (height, width, 3), of the same dtype.
    """
    smaller = (min(width, image.shape[1]), min(height, image.shape[0]))  # columns, rows
    if smaller != image.shape[1::-1]:
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    if smaller != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def load_images(paths: Sequence[str | Path], size: int, crop: int | None = None) -> np.ndarray:
    """Decode and resize many images in parallel.

    Args:
        paths: image files.
        size: side after resizing, in pixels.
        crop: side of the central part that is kept; None keeps all.

    Returns:
        (N, crop, crop, 3) uint8, RGB, in the order of `paths`.

    Raises:
        DataError: there is no path, or a file cannot be read (the first such file is named).
    """
    if len(paths) == 0:
        raise DataError("no images to load: the folder or the selection is empty")
    images, problems = load_readable(paths, size, crop)
    if problems:
        raise problems[min(problems)]
    return images


def load_readable(
    paths: Sequence[str | Path], size: int, crop: int | None = None
) -> tuple[np.ndarray, dict[int, DataError]]:
    """As `load_images`, but a file that cannot be read does not cost the others.

    Returns:
        (M, crop, crop, 3) uint8, RGB, the readable images in order; and, for each of the N − M others, its position in
        `paths` and what is wrong with it.
    """
    side = crop or size
    images = np.empty((len(paths), side, side, 3), np.uint8)
    problems: dict[int, DataError] = {}

    def load(position: int) -> None:
        try:
            images[position] = resize(read_image(paths[position]), size, crop)
        except DataError as problem:
            problems[position] = problem

    _in_parallel(load, len(paths))
    return np.delete(images, list(problems), axis=0) if problems else images, problems


def load_masks(table: pd.DataFrame, size: int, crop: int | None = None) -> np.ndarray | None:
    """Masks of a table of images at the evaluation resolution.

    Good images get an empty mask.

    Returns:
        (N, crop, crop) bool, or None when a defective image has no mask file: then there are no pixel metrics.

    Raises:
        DataError: a mask cannot be read or its size differs from its image's.
    """
    if ((table["label"] == 1) & (table["mask_path"] == "")).any():
        return None
    side = crop or size
    masks = np.zeros((len(table), side, side), bool)
    rows = list(table[["mask_path", "image_path"]].itertuples(index=False))

    def load(position: int) -> None:
        row = rows[position]
        if row.mask_path:
            mask = read_mask(row.mask_path)
            check_same_size(mask, row.mask_path, row.image_path)
            masks[position] = resize(mask, size, crop)

    _in_parallel(load, len(rows))
    return masks


def torch_loader(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
) -> torch.utils.data.DataLoader:
    """A DataLoader over images in memory.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) int; zeros when None.
        batch_size: images a batch; the last batch may be smaller.
        shuffle: draw a new order each epoch, the same one for the same seed.
        seed: of the order.

    Returns:
        Batches of ((B, 3, H, W) float32 in [0, 1], (B,) int64).
    """
    import torch

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    targets = torch.from_numpy(np.zeros(len(images), np.int64) if labels is None else np.array(labels, np.int64))

    def collate(positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return pixels[positions].float() / 255, targets[positions]

    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(
        range(len(images)), batch_size=batch_size, shuffle=shuffle, generator=generator, collate_fn=collate
    )


def tf_dataset(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
) -> tf.data.Dataset:
    """The same as `torch_loader`, as a tf.data pipeline: ((B, H, W, 3) float32 in [0, 255], (B,) int64).

    Keras' own `preprocess_input` functions expect 0 … 255.
    """
    from mvtec_ad.frameworks import import_tensorflow

    tf = import_tensorflow()
    targets = np.zeros(len(images), np.int64) if labels is None else np.asarray(labels, np.int64)
    dataset = tf.data.Dataset.from_tensor_slices((images, targets))
    if shuffle:
        dataset = dataset.shuffle(len(images), seed=seed, reshuffle_each_iteration=True)
    dataset = dataset.batch(batch_size).map(lambda x, y: (tf.cast(x, tf.float32), y))
    return dataset.prefetch(tf.data.AUTOTUNE)


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices that walk through `count` items, `size` at a time."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _in_parallel(load: Callable[[int], None], count: int) -> None:
    """Call `load(0 … count−1)` from a few threads: decoding releases the interpreter's lock."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(load, range(count)):
            pass
