"""Damage that more than one product can suffer: broken surfaces, cracks and dirt."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.tools.drawing import blend, fill, mix, noise, smooth_contour, stroke


def fracture(rng: Generator, severity: float, rows: int, columns: int, extent: np.ndarray) -> np.ndarray:
    """Returns broken glass: smooth dark shells, some flat cells at other slopes, a few that mirror the lamp.

    Args:
        rng: Stream of the defect.
        severity: From 0 to 1.
        rows: Height of the result in pixels.
        columns: Its width.
        extent: Width and height in image sides: what is random must not depend on the number of pixels.

    Returns:
        Array of shape `(rows, columns, 3)`, float32.
    """
    shape, longest = (rows, columns), float(extent.max())

    def grains(size: float, octaves: int) -> np.ndarray:
        return noise(rng, shape, (int(extent[1] / size) + 2, int(extent[0] / size) + 2), octaves)

    y = np.linspace(0, extent[1] / longest, rows, dtype=np.float32)[:, None]
    x = np.linspace(0, extent[0] / longest, columns, dtype=np.float32)[None, :]
    warp = 0.006 / longest * grains(0.04, 4)
    count = int(np.clip(700 * extent[0] * extent[1], 6, 28))
    cell, border = _facets(rng, x + warp, y - warp, count)
    loose = rng.uniform(size=count) < 0.45  # the other cells are one smooth shell
    loose[:2] = True
    level = np.where(loose, rng.uniform(0.14, 0.30, count), 0.205).astype(np.float32)[cell]
    slant = (rng.normal(0, 90, (2, count)) * longest).astype(np.float32)
    ripple = np.sin(x * slant[0][cell] + y * slant[1][cell] + 400 * longest * warp)
    sparkle = np.clip(0.8 * grains(0.007, 3) * np.clip(grains(0.03, 2), 0, 1.5), 0, 1)
    mirrors = loose & (rng.uniform(size=count) < 0.4)
    mirrors[0] = True
    mirror = mirrors.astype(np.float32)[cell]
    shine = mirror * (0.10 + sparkle) * mix(0.3, 0.9, severity)
    seam = 0.12 * loose[cell] * np.exp(-border * longest * 400)
    rough = np.where(loose, 0.10, 0.035).astype(np.float32)[cell]
    grey = level * (1 + 0.12 * ripple * loose[cell] + rough * grains(0.05, 4)) + shine + seam
    warm = (rng.uniform(size=count) < 0.3)[cell] * shine
    return np.dstack([grey * 0.97, grey * 0.98 - 0.2 * warm, grey * 1.12 - 0.5 * warm]).astype(np.float32)


def _facets(rng: Generator, x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits a plane into random flat cells, as a fracture does.

    Args:
        rng: Random stream.
        x: Coordinates of shape `(rows, columns)`, any unit, float32.
        y: As `x`.
        count: Number of cells, whose centres fill the unit square.

    Returns:
        Cell number of each pixel (int64) and its distance to the nearest cell border (float32, unit of `x`).
    """
    centres = rng.uniform(0, 1, (count, 2)).astype(np.float32)
    distance = np.stack([np.hypot(x - cx, y - cy) for cx, cy in centres])  # (cells, rows, columns)
    nearest = np.partition(distance, 1, axis=0)
    return distance.argmin(0), (nearest[1] - nearest[0]) / 2


def crack_path(
    rng: Generator, start: np.ndarray, heading: float, length: float, jag: float = 0.35, points: int = 40
) -> np.ndarray:
    """Returns the line of a crack: it wanders, and kinks now and then.

    Args:
        rng: Stream of the defect.
        start: x and y of its beginning.
        heading: Direction in radians, clockwise on the picture.
        length: Unit of `start`.
        jag: How far the direction strays, in radians.
        points: Number of points.

    Returns:
        Array of shape `(points, 2)`, float64, for `drawing.stroke`.
    """
    kinks = rng.normal(0, 1, points - 1) * (rng.uniform(size=points - 1) < 0.3)
    stray = np.cumsum(rng.normal(0, 0.25, points - 1))
    stray -= np.linspace(stray[0], stray[-1], points - 1)  # wanders, and comes back to its heading
    angle = heading + jag * (stray + 1.2 * kinks)
    steps = np.column_stack([np.cos(angle), np.sin(angle)]) * length / (points - 1)
    return np.asarray(start) + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])


def soil(rng: Generator, severity: float, canvas: np.ndarray, middle: np.ndarray, radius: float) -> np.ndarray:
    """Lays a thin flake or a fibre onto the canvas, in place.

    Args:
        rng: Stream of the defect.
        severity: From 0 (small, nearly transparent) to 1.
        canvas: Array of shape `(side, side, 3)`, float32.
        middle: Where it lies: x and y in image sides.
        radius: Its size in image sides.

    Returns:
        What it covers, float32 of shape `(side, side)`, 0 to 1.
    """
    side = canvas.shape[0]
    relief = noise(rng, (side, side), (24, 24), octaves=4)
    if rng.uniform() < 0.3:
        t = np.linspace(-1, 1, 48)
        bend = rng.normal(0, 0.5, 3)
        line = np.column_stack([t, bend[0] * t**2 + bend[1] * np.sin(3 * t) + bend[2] * t**3])
        turn = rng.uniform(0, 2 * np.pi)
        line = line @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        cover = stroke(middle + radius * line, mix(0.006, 0.014, severity), (side, side), side)
    else:
        squeeze = np.array([1.0, rng.uniform(0.5, 1.0)])
        cover = fill(middle + radius * squeeze * smooth_contour(rng, 0.22), (side, side), side)
    thin = np.clip(0.75 + 0.25 * relief, 0.2, 1) * mix(0.25, 0.85, severity)
    tone = np.array([0.40, 0.39, 0.39]) if rng.uniform() < 0.6 else np.array([0.44, 0.36, 0.29])
    folds = np.gradient(relief, axis=1) * (side / 512)
    colour = tone * (0.85 + 0.5 * np.clip(folds, -0.8, 1.2))[..., None]
    blend(canvas, colour.astype(np.float32), cover * thin)
    edge = cv2.morphologyEx(cover, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) * (cover > 0)
    blend(canvas, (0.68, 0.66, 0.63), edge * thin * 0.45)
    return cover
