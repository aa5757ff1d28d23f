"""One training image: shapes of power-law sizes on a ground, each of its own texture, seen by a camera.

The composition follows the dead leaves model (Lee, Mumford and Huang 2001, "Occlusion models for natural images").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.textures.recipes import Recipe, recipe
from mvtec_ad.synthetic.textures.sample import texture
from mvtec_ad.synthetic.tools.drawing import fill, smooth_contour
from mvtec_ad.synthetic.tools.optics import normals, shade

_MARGIN = 10  # pixels around a shape that its shadow reaches
_SMALLEST, _LARGEST = 0.11, 0.5  # radius in image sides


@dataclass(frozen=True)
class Composition:
    """An image without a subject.

    `image` has shape `(size, size, 3)`, uint8 RGB; `labels` has shape `(size, size)`, int16, the recipe of each pixel.
    """

    image: np.ndarray
    labels: np.ndarray


@lru_cache(maxsize=4096)
def _recipe(number: int) -> Recipe:
    return recipe(number)


def draw_composition(seed: int, size: int = 128, recipes: int = 500) -> Composition:
    """Draws one composition, a function of its arguments alone.

    Args:
        seed: From 0 upwards.
        size: Image side in pixels.
        recipes: Number of kinds of texture to choose from.

    Returns:
        Image and labels; one to nine recipes are in it.
    """
    rng = np.random.default_rng([2021, 4, seed])
    ground = int(rng.integers(recipes))
    canvas = texture(_recipe(ground), rng, size)
    labels = np.full((size, size), ground, np.int16)
    count = int(rng.integers(1, 9))
    uniform = rng.uniform(0, 1, count)
    radii = 1 / (1 / _LARGEST + uniform * (1 / _SMALLEST - 1 / _LARGEST))  # density 1 / radius ** 2
    for radius in np.sort(radii)[::-1]:
        _place(canvas, labels, rng, radius * size, int(rng.integers(recipes)))
    return Composition(_photograph(canvas, rng), labels)


def _outline(rng: Generator) -> np.ndarray:
    """Returns a closed outline of about unit radius, `(n, 2)`: disc, ellipse, polygon, ragged contour or bar."""
    kind = rng.integers(5)
    if kind < 2:
        points = smooth_contour(rng, 0.0 if kind == 0 else 0.35, 48)
        points *= np.exp(rng.choice([0.0, 0.3]) * rng.normal(0, 1, 2))
    elif kind == 2:
        angle = np.sort(rng.uniform(0, 2 * np.pi) + np.arange(n := int(rng.integers(3, 8))) * 2 * np.pi / n)
        angle += rng.normal(0, 0.15, n)
        points = np.column_stack([np.cos(angle), np.sin(angle)])
    else:
        slim = rng.uniform(0.5, 1.0) if kind == 3 else rng.uniform(0.08, 0.35)
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [0.8 / np.sqrt(slim), 0.8 * np.sqrt(slim)]
    turn = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(turn), np.sin(turn)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _place(canvas: np.ndarray, labels: np.ndarray, rng: Generator, radius: float, number: int) -> None:
    """Lays one shape of a texture onto the canvas, in place."""
    size = labels.shape[0]
    points = radius * _outline(rng) + rng.uniform(0, size, 2)
    low = np.maximum(np.floor(points.min(0)) - _MARGIN, 0).astype(int)
    high = np.minimum(np.ceil(points.max(0)) + _MARGIN, size).astype(int)
    columns, rows = (high - low).tolist()
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    part = canvas[window]
    cover = fill(points - low, (rows, columns), 1)
    if rng.random() < 0.5:
        shift, sigma = rng.normal(0, 2.5, 2), rng.uniform(0.8, 3.0)
        shadow = cv2.GaussianBlur(fill(points - low + shift, (rows, columns), 1), (0, 0), sigma)
        part *= 1 - np.float32(rng.uniform(0.2, 0.6)) * shadow[..., None]
    surface = texture(_recipe(number), rng, max(rows, columns, 16))[:rows, :columns]
    if rng.random() < 0.4:
        surface = _rounded(surface, cover, radius, rng)
    part += (surface - part) * cover[..., None]
    labels[window][cover > 0.5] = number
    if rng.random() < 0.2:
        line = np.round((points - low - 0.5) * 16).astype(np.int32)
        ink = np.zeros((rows, columns), np.uint8)
        cv2.polylines(ink, [line], True, 255, int(rng.integers(1, 4)), cv2.LINE_AA, 4)
        part += (np.float32(rng.uniform(0, 1)) - part) * (ink[..., None] / np.float32(255))


def _rounded(surface: np.ndarray, cover: np.ndarray, radius: float, rng: Generator) -> np.ndarray:
    """Shades a flat piece as a body: rounded at its rim only, or all over like a rod or a ball."""
    depth = cv2.distanceTransform((cover > 0.5).view(np.uint8), cv2.DIST_L2, 5)
    rim = max(3.0, radius * rng.choice([0.15, 0.4, 0.9]))
    slope = np.clip(1 - depth / np.float32(rim), 0, 1)
    height = cv2.GaussianBlur(np.sqrt(1 - slope * slope), (0, 0), 1.0)
    towards = rng.uniform(0, 2 * np.pi)
    light = (float(np.cos(towards)), float(np.sin(towards)), float(rng.uniform(0.6, 1.5)))
    diffuse, highlight = shade(normals(height, rim), light, ambient=0.2, gloss=rng.uniform(4, 80))
    shine = np.float32(rng.uniform(0, 0.6) if rng.random() < 0.6 else 0)
    return surface * diffuse[..., None] * np.float32(1.2) + (shine * highlight)[..., None]


def _photograph(canvas: np.ndarray, rng: Generator) -> np.ndarray:
    """Lights the scene unevenly and takes the picture: blur, exposure, tint and sensor noise, eight bits."""
    size = canvas.shape[0]
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    lean = rng.normal(0, 0.25, 2).astype(np.float32)
    exposure = np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.04, 3)).astype(np.float32)
    light = 1 + lean[0] * axis[None, :] + lean[1] * axis[:, None]
    image = canvas * light[..., None] * exposure
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (5, 5), rng.uniform(0.3, 0.8))
    image += np.float32(rng.uniform(0.003, 0.03)) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.round(image * 255), 0, 255).astype(np.uint8)
