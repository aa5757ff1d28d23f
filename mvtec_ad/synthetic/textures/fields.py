"""Patterns that are functions of the plane: waves, noise, brushed streaks and height fields.

Noise with the spectrum of natural images and structured noise as training images: Baradad et al. 2021, "Learning to
See by Looking at Noise". Every function takes a recipe, a random stream and a side in pixels, and returns a pattern of
shape `(size, size)`, float32, about 0 to 1.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.textures.recipes import Recipe
from mvtec_ad.synthetic.tools.drawing import noise

_TURN = np.float32(2 * np.pi)


def plane(recipe: Recipe, rng: Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns coordinates along and across the recipe's direction, each `(size, size)`, in units of its scale."""
    axis = np.arange(size, dtype=np.float32) - size / 2
    cosine, sine = np.float32(math.cos(recipe.angle) / recipe.scale), np.float32(math.sin(recipe.angle) / recipe.scale)
    shift = rng.uniform(20, 60, 2).astype(np.float32)
    u = cosine * axis[None, :] + sine * axis[:, None] + shift[0]
    v = cosine * axis[:, None] - sine * axis[None, :] + shift[1]
    if recipe.warp:
        u += np.float32(recipe.warp) * cloud(rng, size, 4 * recipe.scale, octaves=2)
    return u, v


def cloud(rng: Generator, size: int, length: float, octaves: int = 4, persistence: float = 0.5) -> np.ndarray:
    """Returns isotropic noise whose coarsest structure is `length` pixels; mean 0, deviation 1."""
    cells = max(2, math.ceil(size / length))
    while octaves > 1 and size / (cells << (octaves - 1)) < 0.5:
        octaves -= 1
    return noise(rng, (size, size), (cells, cells), octaves, persistence)


def turned(canvas: np.ndarray, angle: float, size: int) -> np.ndarray:
    """Returns the middle of a larger square canvas, turned by `angle`."""
    side = canvas.shape[0]
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), math.degrees(angle), 1.0)
    matrix[:, 2] -= (side - size) / 2
    return cv2.warpAffine(canvas, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def room(size: int) -> int:
    """Returns the side of a canvas that covers a square of `size` at every angle."""
    return math.ceil(size * 1.42) + 2


def triangle(u: np.ndarray) -> np.ndarray:
    """Returns the wave that is 0 at whole numbers and 1 halfway."""
    return 1 - np.abs(2 * (u - np.floor(u)) - 1)


def above(x: np.ndarray, threshold: float, pixel: float) -> np.ndarray:
    """Returns 1 where `x` exceeds `threshold`, 0 elsewhere, with an edge as wide as `pixel` in units of `x`."""
    return np.clip((x - np.float32(threshold)) / np.float32(pixel) + np.float32(0.5), 0, 1)


def waves(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Stripes, checks, meshes, weaves, bricks and other regular patterns."""
    u, v = plane(recipe, rng, size)
    duty, other = 0.25 + 0.5 * recipe.shape[0], 0.5 + 1.5 * recipe.shape[1]
    pixel = 2.0 / recipe.scale
    kind = recipe.kind % 10
    if kind == 0:
        return 0.5 + 0.5 * np.sin(_TURN * u) * (1 - 0.4 * recipe.shape[2] * triangle(v / 5))
    if kind == 1:
        return above(triangle(u), duty, pixel)
    if kind == 2:
        return (u - np.floor(u)) * (0.6 + 0.4 * above(triangle(u / 4), 0.5, pixel))
    if kind == 3:
        return above((triangle(u) - 0.5) * (triangle(v * other) - 0.5), 0, pixel / 3)
    if kind == 4:
        return _weave(u, v, duty)
    if kind == 5:
        plaid = above(triangle(u / 3), duty, pixel / 3) + above(triangle(v / 3), duty, pixel / 3)
        return 0.35 * plaid + 0.3 * above(triangle(u + v), 0.5, pixel)
    if kind == 6:
        return 1 - np.minimum(above(triangle(u), 0.3 * duty + 0.1, pixel), above(triangle(v), 0.3 * duty + 0.1, pixel))
    if kind == 7:
        return _honeycomb(u, v, duty)
    if kind == 8:
        row = np.floor(v)
        stone = above(triangle(u / (1 + other) + 0.5 * row), 0.15, pixel) * above(triangle(v), 0.25, pixel)
        return stone * (0.55 + 0.45 * np.sin(7.1 * row + 11.3 * np.floor(u / (1 + other) + 0.5 * row)))
    zigzag = triangle(v / (1 + 4 * recipe.shape[2])) * (0.5 + recipe.shape[3])
    return above(triangle(u + zigzag), duty, pixel) if recipe.shape[4] > 0.5 else triangle(u + zigzag)


def _weave(u: np.ndarray, v: np.ndarray, duty: float) -> np.ndarray:
    """Two sets of round threads, each passing over and under the other."""
    warp, weft = np.sqrt(triangle(u)), np.sqrt(triangle(v))
    over = np.where((np.floor(u) + np.floor(v)) % 2 == 0, warp * (0.6 + 0.4 * weft), weft * (0.6 + 0.4 * warp))
    fine = 0.12 * np.sin(_TURN * 3 * (u + v)) if duty > 0.5 else 0
    return over + fine


def _honeycomb(u: np.ndarray, v: np.ndarray, duty: float) -> np.ndarray:
    total = np.cos(_TURN * u) + np.cos(_TURN * (0.5 * u + 0.866 * v)) + np.cos(_TURN * (0.5 * u - 0.866 * v))
    total = (total + 1.5) / 4.5
    return above(total, duty * 0.8, 0.15) if duty > 0.5 else total


def noises(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Clouds, spots, veins, marble, stretched and ridged noise with slopes around 1/f."""
    persistence = 0.3 + 0.6 * recipe.shape[0]
    kind = recipe.kind % 6
    if kind in (3, 4):
        stretch = 2 + 6 * recipe.shape[1]
        field = _streaks(rng, size, recipe.scale, stretch, recipe.angle, persistence)
    else:
        field = cloud(rng, size, recipe.scale * 1.5, 5, persistence)
    if kind == 0:
        return 0.5 + 0.25 * field
    if kind == 1:
        return above(field, 1.6 * (recipe.shape[1] - 0.5), 0.25)
    if kind in (2, 4):
        return np.clip(1.1 - np.abs(field) * (1 + 2 * recipe.shape[2]), 0, 1)
    if kind == 3:
        return 0.5 + 0.25 * field
    u, _ = plane(recipe, rng, size)
    return 0.5 + 0.5 * np.sin(_TURN * (u * 0.7 + (0.2 + 0.6 * recipe.shape[2]) * field))


def _streaks(
    rng: Generator, size: int, width: float, stretch: float, angle: float, persistence: float = 0.6
) -> np.ndarray:
    """Returns noise drawn out `stretch` times along `angle`."""
    side = room(size)
    across = max(2, math.ceil(side / width))
    along = max(2, math.ceil(side / (width * stretch)))
    return turned(noise(rng, (side, side), (across, along), 3, persistence), angle, size)


def brushed(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Brushed, turned and scratched surfaces, with the broad sheen across the streaks."""
    stretch = 10 + 50 * recipe.shape[0]
    kind = recipe.kind % 4
    if kind == 1:  # turned on a lathe: streaks around a centre that often lies outside
        axis = np.arange(size, dtype=np.float32)
        centre = size * rng.uniform(-0.6, 1.6, 2)
        x, y = np.meshgrid(axis - np.float32(centre[0]), axis - np.float32(centre[1]))
        radius, turn = cv2.cartToPolar(x, y)
        reach = 4 * size
        line = noise(rng, (reach, 8), (math.ceil(reach / recipe.scale), 4), 2, 0.7)
        field = cv2.remap(line, turn * np.float32(7 / 2 / np.pi), radius, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        sheen = np.cos(2 * turn + np.float32(rng.uniform(0, 6)))
        return 0.5 + 0.13 * field + 0.3 * sheen
    field = _streaks(rng, size, recipe.scale, stretch, recipe.angle)
    if kind == 2:
        field = 0.7 * field + 0.7 * _streaks(rng, size, recipe.scale, stretch, recipe.angle + 0.4 + recipe.shape[1])
    if kind == 3:  # single scratches on smooth ground
        return 0.3 + 0.7 * above(field, 1.2 + recipe.shape[1], 0.5)
    _, v = plane(recipe, rng, size)
    sheen = np.sin(v * np.float32(recipe.scale * (2 + 4 * recipe.shape[2]) / 60))
    return 0.5 + (0.12 + 0.2 * recipe.shape[3]) * field + 0.3 * sheen


def relief(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Heights: domes, pyramids, corrugation, dunes, terraces, dents and scales."""
    u, v = plane(recipe, rng, size)
    kind = recipe.kind % 7
    if kind == 0:
        du, dv = triangle(u) - 1, triangle(v + 0.5 * np.floor(u)) - 1
        return np.sqrt(np.clip(1 - (du * du + dv * dv) * (0.9 + recipe.shape[0]), 0, 1))
    if kind == 1:
        return np.minimum(triangle(u), triangle(v * (0.6 + 0.8 * recipe.shape[0])))
    if kind == 2:
        return np.sqrt(triangle(u)) if recipe.shape[0] > 0.5 else np.clip(1.6 * triangle(u) - 0.3, 0, 1)
    field = cloud(rng, size, recipe.scale * 1.5, 3, 0.2 + 0.4 * recipe.shape[1])
    if kind == 3:
        return 0.5 + 0.3 * field
    if kind == 4:
        level = 2 * field
        step = level - np.floor(level)
        return (np.floor(level) + np.clip(step * 5 - 4, 0, 1)) / 8 + 0.5
    if kind == 5:
        return 1 - np.clip(np.abs(field) * 1.2, 0, 1) ** 0.6
    row = np.floor(v)
    across = triangle(u + 0.5 * row) - 1
    return np.clip(1 - (v - row) + 0.35 * (1 - across * across), 0, 1.4) / 1.4
