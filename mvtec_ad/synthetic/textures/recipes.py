"""Recipes of textures: what is constant in a kind of texture, drawn from its number."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

_TAG = 2021  # keeps these random streams apart from all others that start from small numbers

# Each family's finest and coarsest scale in pixels, and how its pattern may become a surface (see `finish`).
_SCALES = {
    "waves": (2.5, 30.0),
    "leaves": (2.0, 14.0),
    "noise": (2.5, 40.0),
    "glyphs": (6.0, 34.0),
    "relief": (4.0, 40.0),
    "cells": (4.0, 30.0),
    "brushed": (2.0, 10.0),
    "dots": (3.0, 34.0),
    "strokes": (3.0, 20.0),
    "fractal": (22.0, 75.0),
}
_FINISHES = {
    "waves": ("print", "relief", "metal", "print", "both"),
    "leaves": ("print", "both", "print"),
    "noise": ("print", "relief", "metal", "both"),
    "glyphs": ("print", "print", "both"),
    "relief": ("relief", "metal", "both"),
    "cells": ("print", "relief", "both", "metal"),
    "brushed": ("print", "print", "print", "metal"),
    "dots": ("print", "relief", "both", "print"),
    "strokes": ("print", "both", "print"),
    "fractal": ("print", "both"),
}
FAMILIES = tuple(_SCALES)


@dataclass(frozen=True)
class Recipe:
    """One kind of texture. Two samples of it share all this, save for a small jitter, and little of their colours."""

    number: int
    family: str
    kind: int  # counts through the variants of the family
    scale: float  # typical length of the structure in pixels
    angle: float  # of its main direction, in radians
    shape: tuple[float, ...]  # six numbers from 0 to 1 that the family interprets
    warp: float  # how far the pattern is bent, in units of `scale`
    blur: float  # standard deviation in pixels; 0 is sharp
    grain: float  # amplitude of the fine grain on the surface
    mottle: float  # amplitude of its cloudiness
    finish: str  # "print", "relief", "metal" or "both" (printed on its own relief)
    depth: float  # steepness of the relief
    steps: int  # tones of a print; 0 is continuous
    palette: tuple[tuple[float, float, float], ...]  # dark to light, RGB from 0 to 1


def recipe(number: int) -> Recipe:
    """Returns the recipe of a number from 0 upwards; the same in every process."""
    number = int(number)
    rng = np.random.default_rng([_TAG, 1, number])
    family = FAMILIES[number % len(FAMILIES)]
    kind = number // len(FAMILIES)
    low, high = _SCALES[family]
    finishes = _FINISHES[family]
    scale = float(low * (high / low) ** rng.uniform(0, 1))
    return Recipe(
        number=number,
        family=family,
        kind=kind,
        scale=scale,
        angle=float(rng.uniform(0, np.pi) if rng.random() < 0.7 else rng.integers(4) * np.pi / 4),
        shape=tuple(rng.uniform(0, 1, 6).tolist()),
        warp=float(rng.uniform(0.1, 0.6)) if rng.random() < 0.35 else 0.0,
        blur=min(float(rng.uniform(0.5, 1.6)), 0.15 * scale) if rng.random() < 0.25 else 0.0,
        grain=float(rng.uniform(0.02, 0.09)) if rng.random() < 0.5 else 0.0,
        mottle=float(rng.uniform(0.05, 0.2)) if rng.random() < 0.5 else 0.0,
        finish=finishes[int(rng.integers(len(finishes)))],
        depth=float(np.exp(rng.uniform(np.log(0.4), np.log(2.0)))),
        steps=int(rng.choice([0, 0, 0, 2, 3, 5])),
        palette=palette(rng),
    )


def jittered(base: Recipe, rng: Generator) -> Recipe:
    """Returns the recipe of one sample: turned and stretched a little, and mostly in other colours.

    A third of the samples keep the recipe's palette, so that colour is a hint and structure decides.
    """
    return replace(
        base,
        scale=base.scale * float(np.exp(rng.normal(0, 0.07))),
        angle=base.angle + float(rng.normal(0, 0.1)),
        shape=tuple(np.clip(np.asarray(base.shape) + rng.normal(0, 0.03, 6), 0, 1).tolist()),
        depth=base.depth * float(np.exp(rng.normal(0, 0.15))),
        palette=base.palette if rng.random() < 1 / 3 else palette(rng),
    )


def palette(rng: Generator) -> tuple[tuple[float, float, float], ...]:
    """Returns four colours from dark to light, RGB from 0 to 1; half of the palettes are nearly grey."""
    contrast = rng.uniform(0.3, 0.9)
    middle = rng.uniform(0.05 + contrast / 2, 0.98 - contrast / 2) if contrast < 0.9 else 0.5
    value = np.sort(middle + contrast * np.array([-0.5, *np.sort(rng.uniform(-0.5, 0.5, 2)), 0.5]))
    saturation = rng.uniform(0.0, 0.15) if rng.random() < 0.5 else rng.uniform(0.2, 0.85)
    first = rng.normal(0.07, 0.04) if rng.random() < 0.4 else rng.uniform(0, 1)  # wood, leather and copper, or any
    hue = first + rng.choice([0.0, 0.05, 0.3]) * rng.standard_normal(4)
    wheel = np.clip(np.abs((hue[:, None] - np.array([0, 1 / 3, 2 / 3])) % 1 * 6 - 3) - 1, 0, 1)
    strength = saturation * rng.uniform(0.4, 1.0, 4)[:, None]
    colour = value[:, None] * (1 - strength + strength * wheel)
    return tuple(tuple(row) for row in colour.tolist())
