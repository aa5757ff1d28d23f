"""Patterns of many marks: dead leaves, cells, dots, strokes, glyphs and fractals.

Dead leaves: Lee, Mumford and Huang 2001, "Occlusion models for natural images". Fractals by iterated function systems:
Kataoka et al. 2020, "Pre-training without Natural Images". Arguments and results as in `fields`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.textures.fields import above, plane, room, triangle, turned
from mvtec_ad.synthetic.textures.recipes import Recipe

_BITS = 4  # OpenCV draws at 1/16 pixel


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(points * (1 << _BITS)).astype(np.int32)


def _unit(canvas: np.ndarray) -> np.ndarray:
    return canvas.astype(np.float32) / 255


def leaves(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Shapes of power-law sizes that hide each other: discs, bars, triangles or ragged quadrangles."""
    count = int(np.clip(2.5 * (size / recipe.scale) ** 2, 12, 90 + 1.6 * size))
    largest = min(12 * recipe.scale, 0.4 * size + 4)
    radius = _power_law(rng, count, recipe.scale, max(largest, 1.5 * recipe.scale), 1.8 + 1.4 * recipe.shape[0])
    centre = rng.uniform(-0.05 * size, 1.05 * size, (count, 2))
    tone = rng.integers(0, 256, count).tolist()
    canvas = np.full((size, size), 110, np.uint8)
    if recipe.kind % 4 == 0:
        for (x, y), r, grey in zip(_fixed(centre).tolist(), _fixed(radius).tolist(), tone, strict=True):
            cv2.circle(canvas, (x, y), r, grey, -1, cv2.LINE_AA, _BITS)
        return _unit(canvas)
    corners = _fixed(centre[:, None] + radius[:, None, None] * _outlines(recipe, rng, count))
    for outline, grey in zip(corners, tone, strict=True):
        cv2.fillConvexPoly(canvas, outline, grey, cv2.LINE_AA, _BITS)
    return _unit(canvas)


def _power_law(rng: Generator, count: int, low: float, high: float, exponent: float) -> np.ndarray:
    """Returns sizes between `low` and `high` with density proportional to `size ** -exponent`."""
    a = 1 - exponent
    return (low**a + rng.uniform(0, 1, count) * (high**a - low**a)) ** (1 / a)


def _outlines(recipe: Recipe, rng: Generator, count: int) -> np.ndarray:
    """Returns convex outlines of about unit radius, `(count, corners, 2)`."""
    kind = recipe.kind % 4
    spread = 0.15 + 1.5 * recipe.shape[1] ** 2  # of the directions
    angle = recipe.angle + rng.normal(0, spread, count)[:, None]
    if kind == 1:
        corner = np.array([0.0, 1.0, 2.0, 3.0]) * (np.pi / 2) + np.pi / 4
        stretch = 1 + 5 * recipe.shape[2]
    elif kind == 2:
        corner = np.arange(3) * (2 * np.pi / 3)
        stretch = 1 + recipe.shape[2]
    else:
        corner = np.sort(rng.uniform(0, 2 * np.pi, (count, 7)), 1)
        stretch = 1 + 2 * recipe.shape[2]
    x, y = np.cos(corner) * np.sqrt(stretch), np.sin(corner) / np.sqrt(stretch)
    return np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], -1)


def cells(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Voronoi cells of a jittered lattice: flat grains, cracks, cobbles, or cones around the seeds."""
    side = room(size)
    step, jitter = recipe.scale, 0.15 + 0.85 * recipe.shape[0]
    stretch = 1 + 1.5 * recipe.shape[1] ** 2
    count = math.ceil(side / step) + 2
    lattice = np.indices((count, math.ceil(count / stretch) + 2)).reshape(2, -1).T
    place = (lattice + jitter * rng.uniform(-0.5, 0.5, lattice.shape) - rng.uniform(0, 1, 2)) * [step, step * stretch]
    place = place[((place >= 0) & (place < side - 1)).all(1)].astype(int)
    seeds = np.ones((side, side), np.uint8)
    seeds[place[:, 0], place[:, 1]] = 0
    seeds[side // 2, side // 2] = 0  # so that there is one, however small the surface
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    grey = rng.uniform(0, 1, int(label.max()) + 1).astype(np.float32)
    kind = recipe.kind % 5
    if kind == 0:
        return turned(grey[label], recipe.angle, size)
    if kind == 1:
        return turned(distance / np.float32(0.8 * step), recipe.angle, size)
    same = (label[1:, 1:] == label[:-1, 1:]) & (label[1:, 1:] == label[1:, :-1])
    inner = np.minimum(cv2.distanceTransform(same.view(np.uint8), cv2.DIST_L2, 5), 1e4)  # no wall: infinite
    width = 1 + 0.25 * step * recipe.shape[2]
    wall = np.clip((inner - width / 2) / np.float32(0.6 + (kind == 3) * 0.3 * step), 0, 1)
    if kind == 4:
        wall = wall * (0.35 + 0.65 * grey[label[1:, 1:]])
    return turned(wall, recipe.angle, size)


def dots(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Dots and rings: on square or staggered lattices, halftones, or scattered."""
    kind = recipe.kind % 5
    radius = 0.18 + 0.27 * recipe.shape[0]
    ring = recipe.shape[1] > 0.55
    if kind in (3, 4):
        return _scattered(recipe, rng, size, radius, ring)
    u, v = plane(recipe, rng, size)
    if kind == 1:
        v = v + 0.5 * np.floor(u)
    du, dv = 0.5 - 0.5 * triangle(u), 0.5 - 0.5 * triangle(v)
    distance = np.sqrt(du * du + dv * dv)
    if kind == 2:  # halftone: the dots swell across the surface
        radius = radius + 0.12 * np.sin(0.4 * u + 0.3 * v)
        distance = distance - radius + np.float32(0.3)
        radius = 0.3
    if ring:
        distance = np.abs(distance - np.float32(0.8 * radius)) + np.float32(radius * (0.45 + 0.4 * recipe.shape[2]))
    return 1 - above(distance, radius, 1.2 / recipe.scale + 0.25 * recipe.shape[3] ** 3)


def _scattered(recipe: Recipe, rng: Generator, size: int, radius: float, ring: bool) -> np.ndarray:
    density = 0.4 + 1.2 * recipe.shape[2]
    count = int(np.clip(density * (size / recipe.scale) ** 2, 3, 350))
    sizes = recipe.scale * radius * np.exp(rng.normal(0, 0.1 + 0.5 * recipe.shape[3] ** 2, count))
    centre = _fixed(rng.uniform(0, size, (count, 2))).tolist()
    canvas = np.zeros((size, size), np.uint8)
    thick = max(1, round(recipe.scale * 0.08)) if ring else -1
    tone = rng.integers(120 if recipe.kind % 2 else 250, 256, count).tolist()
    for (x, y), r, grey in zip(centre, _fixed(np.maximum(sizes, 0.7)).tolist(), tone, strict=True):
        cv2.circle(canvas, (x, y), r, grey, thick, cv2.LINE_AA, _BITS)
    return _unit(canvas)


def strokes(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Hatching, cross-hatching, fibres, hairs, dashes and scribbles."""
    kind = recipe.kind % 5
    spread = (0.05, 0.08, 3.0, 0.35, 0.12)[kind]
    bend = (0.0, 0.0, 0.9, 1.4, 0.1)[kind] * recipe.shape[0]
    length = recipe.scale * ((1.5, 4.0) if kind == 4 else (3.0, 9.0))[int(recipe.shape[1] > 0.5)]
    density = 0.9 + 1.4 * recipe.shape[2]
    count = int(np.clip(density * size * size / (recipe.scale * max(length, 8) * 0.6), 4, 260))
    angle = recipe.angle + rng.normal(0, spread, count)
    if kind == 1:
        angle += (0.6 + recipe.shape[3]) * (np.arange(count) % 2)
    along = np.linspace(-0.5, 0.5, 7 if bend else 2)
    turn = angle[:, None] + bend * rng.normal(0, 1, count)[:, None] * 2 * along
    pace = length * rng.uniform(0.5, 1.2, count) / len(along)
    step = np.stack([np.cos(turn), np.sin(turn)], -1) * pace[:, None, None]
    points = _fixed(rng.uniform(0, size, (count, 1, 2)) + np.cumsum(step, 1) - step.sum(1, keepdims=True) / 2)
    canvas = np.zeros((size, size), np.uint8)
    thick = max(1, round(recipe.scale * (0.08 + 0.2 * recipe.shape[4])))
    tones = 4
    for tone in range(tones):
        cv2.polylines(canvas, list(points[tone::tones]), False, 255 - 45 * tone, thick, cv2.LINE_AA, _BITS)
    return _unit(canvas)


@lru_cache(maxsize=2048)
def _alphabet(number: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """Returns sixteen made-up signs of two or three strokes, each a path `(n, 2)`: x to 0.62, y to 1."""
    rng = np.random.default_rng([2021, 2, number])
    round_ones = rng.uniform(0, 0.8)  # the share of bows in the whole alphabet
    return tuple(tuple(_pen_stroke(rng, round_ones) for _ in range(rng.integers(2, 4))) for _ in range(16))


def _pen_stroke(rng: Generator, round_ones: float) -> np.ndarray:
    """Returns a bow, or a straight line between two points of a grid of 3 by 3."""
    if rng.random() < round_ones:
        start, reach = rng.integers(8) * np.pi / 4, rng.choice([1.0, 1.5, 2.0]) * np.pi
        angle = start + np.linspace(0, reach, 9)
        radius = (0.31, rng.choice([0.25, 0.5]))
        middle = (0.31, radius[1] if rng.random() < 0.5 else 1 - radius[1])
        return np.column_stack([np.cos(angle), np.sin(angle)]) * radius + middle
    ends = rng.choice(9, 2, replace=False)
    return np.column_stack([ends % 3 * 0.31, ends // 3 * 0.5])


def glyphs(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Lines of made-up signs in words, as print looks to one who cannot read."""
    signs = _alphabet(recipe.number)
    height = recipe.scale * 0.62
    advance, line = height * (0.8 + 0.3 * recipe.shape[0]), recipe.scale * (0.95 + 0.5 * recipe.shape[1])
    angle = recipe.angle if recipe.kind % 3 == 0 else round(recipe.angle / np.pi * 2) * np.pi / 2 + 0.05 * rng.normal()
    reach = size * (0.71 if recipe.kind % 3 == 0 else 0.55)
    columns, rows = math.ceil(2 * reach / advance) + 1, math.ceil(2 * reach / line) + 1
    start = rng.uniform(0, 1, 2) * [advance, line] + reach
    place = np.stack(np.meshgrid(np.arange(columns) * advance, np.arange(rows) * line), -1).reshape(-1, 2) - start
    place = place[rng.random(len(place)) > 0.08 + 0.25 * recipe.shape[2]]  # the gaps between words
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    place = place @ turn + size / 2
    which = rng.integers(0, len(signs), len(place))
    near = ((place > -recipe.scale) & (place < size + recipe.scale)).all(1)
    shapes = [[path * height @ turn for path in sign] for sign in signs]
    paths = [_fixed(path + at) for sign, at in zip(which[near], place[near], strict=True) for path in shapes[sign]]
    canvas = np.zeros((size, size), np.uint8)
    thick = max(1, round(height * (0.06 + 0.16 * recipe.shape[3])))
    cv2.polylines(canvas, paths, False, 255, thick, cv2.LINE_AA, _BITS)
    return _unit(canvas)


@lru_cache(maxsize=1024)
def _attractor(number: int, side: int = 128) -> np.ndarray:
    """Returns the density of a random iterated function system, `(side, side)`, float32 from 0 to 1."""
    rng = np.random.default_rng([2021, 3, number])
    best = np.zeros((side, side), np.float32)
    for _ in range(6):  # the fullest of a few: most random systems shrink to dust
        maps = _contractions(rng, int(rng.integers(2, 5)))
        point = rng.uniform(-1, 1, (3000, 2))
        visited = []
        for step in range(22):
            chosen = maps[rng.choice(len(maps), len(point), p=_weights(maps))]
            point = (chosen[:, :, :2] @ point[:, :, None])[..., 0] + chosen[:, :, 2]
            if step > 9:
                visited.append(point)
        cloud = np.concatenate(visited)
        low, high = np.quantile(cloud, [0.01, 0.99], axis=0)
        cell = ((cloud - low) / np.maximum(high - low, 1e-6) * (side - 1)).astype(int)
        cell = cell[((cell >= 0) & (cell < side)).all(1)]
        density = np.bincount(cell[:, 0] * side + cell[:, 1], minlength=side * side).reshape(side, side)
        density = np.log1p(density).astype(np.float32)
        if (density > 0).mean() > (best > 0).mean():
            best = density
        if (best > 0).mean() > 0.3:
            break
    return np.clip(cv2.GaussianBlur(best, (0, 0), 0.7) / np.quantile(best, 0.98), 0, 1)


def _contractions(rng: Generator, count: int) -> np.ndarray:
    """Returns affine maps `(count, 2, 3)` whose singular values stay below one."""
    turn = rng.uniform(0, 2 * np.pi, (2, count))
    rotate = [np.stack([np.cos(a), -np.sin(a), np.sin(a), np.cos(a)], -1).reshape(-1, 2, 2) for a in turn]
    shrink = rng.uniform(0.35, 0.9, (count, 2)) * rng.choice([-1, 1], (count, 2))
    linear = rotate[0] * shrink[:, None, :] @ rotate[1]
    return np.concatenate([linear, rng.uniform(-1, 1, (count, 2, 1))], 2)


def _weights(maps: np.ndarray) -> np.ndarray:
    area = np.abs(np.linalg.det(maps[:, :, :2])) + 0.02
    return area / area.sum()


def fractal(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """The attractor of an iterated function system, repeated and mirrored over the surface."""
    density = _attractor(recipe.number)
    side = density.shape[0]
    u, v = plane(recipe, rng, size)
    across, down = (np.float32(side - 1) * triangle(axis / 2) for axis in (u, v))
    return cv2.remap(density, across, down, cv2.INTER_LINEAR)
