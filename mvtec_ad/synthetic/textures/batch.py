"""Many compositions at once, on several cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np
from tqdm import tqdm

from mvtec_ad.synthetic.textures.composition import draw_composition

_PART = 64  # images that a process draws at a time
_STRIDE = 1 << 32  # between the seeds of two sets


def image_seed(seed: int, index: int) -> int:
    """Returns the seed of image `index` of the set `seed`."""
    return seed * _STRIDE + index


def draw_many(
    count: int, size: int = 128, seed: int = 0, recipes: int = 500, workers: int = 2, progress: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a set of compositions; the same bytes for any number of workers.

    Drawing is many small steps that hold the interpreter, so the workers are processes. They are spawned: a script that
    calls this with more than one needs the usual `if __name__ == "__main__"`.

    Args:
        count: Number of images.
        size: Image side in pixels.
        seed: Of the set; sets of different seeds share no image.
        recipes: Number of kinds of texture.
        workers: Number of processes; 1 draws in this one.
        progress: Whether to show a progress bar.

    Returns:
        Images `(count, size, size, 3)`, uint8 RGB, and labels `(count, size, size)`, int16.
    """
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.empty((count, size, size), np.int16)
    tasks = [(seed, start, min(start + _PART, count), size, recipes) for start in range(0, count, _PART)]
    with tqdm(total=count, desc="drawing", unit="image", disable=not progress) as bar:
        for task, (part, part_labels) in zip(tasks, _parts(tasks, min(workers, len(tasks))), strict=True):
            images[task[1] : task[2]], labels[task[1] : task[2]] = part, part_labels
            bar.update(task[2] - task[1])
    return images, labels


def _parts(tasks: list[tuple[int, ...]], workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields what each task draws, in order."""
    if workers <= 1:
        yield from map(_draw_part, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(_draw_part, tasks)


def _draw_part(task: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    seed, start, stop, size, recipes = task
    images = [draw_composition(image_seed(seed, index), size, recipes) for index in range(start, stop)]
    return np.stack([image.image for image in images]), np.stack([image.labels for image in images])
