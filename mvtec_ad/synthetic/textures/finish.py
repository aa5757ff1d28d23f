"""From a pattern to a surface: printed in colours, or lit as a relief of paint, plastic or metal."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.textures.fields import cloud
from mvtec_ad.synthetic.textures.recipes import Recipe
from mvtec_ad.synthetic.tools.optics import metal, normals, shade


def finish(pattern: np.ndarray, recipe: Recipe, rng: Generator) -> np.ndarray:
    """Turns a pattern into colours.

    Args:
        pattern: Array of shape `(size, size)`, float32, about 0 to 1: ink of a print or height of a relief.
        recipe: Of this sample.
        rng: Stream of the light and of the colours' order.

    Returns:
        Array of shape `(size, size, 3)`, float32 RGB, from 0 to 1.
    """
    if recipe.blur:
        pattern = cv2.GaussianBlur(pattern, (0, 0), recipe.blur)
    colours = np.asarray(recipe.palette, np.float32)
    if recipe.finish in ("print", "both"):
        image = _printed(pattern, colours if rng.random() < 0.5 else colours[::-1], recipe.steps)
    else:
        image = np.broadcast_to(colours[rng.integers(1, 4)], (*pattern.shape, 3))
    if recipe.finish != "print":
        image = _lit(image, pattern, recipe, rng)
    return np.clip(_worn(image, recipe, rng), 0, 1)


def _printed(pattern: np.ndarray, colours: np.ndarray, steps: int) -> np.ndarray:
    """Looks the pattern up in a ramp of the colours, `steps` flat tones with soft borders or continuous."""
    ramp = np.linspace(0, 1, 256)
    if steps:
        scaled = ramp * steps
        edge = np.clip((scaled % 1 - 0.85) / 0.15, 0, 1)  # the last part of each step leads to the next
        ramp = np.clip((np.floor(scaled) + edge) / max(steps - 1, 1), 0, 1)
    knots = np.linspace(0, 1, len(colours))
    table = np.column_stack([np.interp(ramp, knots, colours[:, channel]) for channel in range(3)])
    return table.astype(np.float32)[np.clip(pattern * 255, 0, 255).astype(np.uint8)]


def _lit(image: np.ndarray, pattern: np.ndarray, recipe: Recipe, rng: Generator) -> np.ndarray:
    """Lights the pattern as a height map of that colour."""
    soft = pattern if recipe.blur else cv2.GaussianBlur(pattern, (0, 0), 0.6)
    normal = normals(soft, recipe.depth * min(recipe.scale, 20.0) * 0.6)
    towards = rng.uniform(0, 2 * np.pi)
    lean_x, lean_y = math.cos(towards), math.sin(towards)
    if recipe.finish == "metal":
        light = metal(normal, (0.7 * lean_x, 0.7 * lean_y), 0.1 + 0.6 * recipe.shape[5])
        return image * 0.1 + light[..., None] * (0.3 + 0.9 * image)
    height = rng.uniform(0.5, 1.3)
    diffuse, highlight = shade(normal, (lean_x, lean_y, height), ambient=0.15, gloss=4 + 120 * recipe.shape[5] ** 2)
    shine = np.float32(0.6 * recipe.shape[4] ** 2)
    diffuse *= np.float32(1.25)
    return image * diffuse[..., None] + (shine * highlight)[..., None]


def _worn(image: np.ndarray, recipe: Recipe, rng: Generator) -> np.ndarray:
    """Adds the surface's clouds and grain, and the light that falls off along the surface."""
    size = image.shape[0]
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    lean = rng.normal(0, 0.25 * min(1.0, size / 96), 2).astype(np.float32)
    light = 1 + lean[0] * axis[None, :] + lean[1] * axis[:, None]
    if recipe.mottle:
        light += np.float32(recipe.mottle) * cloud(rng, size, 48, 3)
    if recipe.grain:
        light += np.float32(recipe.grain) * rng.standard_normal((size, size), dtype=np.float32)
    return image * light[..., None]
