"""One sample of one recipe: its pattern, then its surface."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.textures import fields, marks
from mvtec_ad.synthetic.textures.finish import finish
from mvtec_ad.synthetic.textures.recipes import Recipe, jittered

_PATTERNS = {
    "waves": fields.waves,
    "leaves": marks.leaves,
    "noise": fields.noises,
    "glyphs": marks.glyphs,
    "relief": fields.relief,
    "cells": marks.cells,
    "brushed": fields.brushed,
    "dots": marks.dots,
    "strokes": marks.strokes,
    "fractal": marks.fractal,
}


def texture(recipe: Recipe, rng: Generator, size: int) -> np.ndarray:
    """Draws a fresh sample of a recipe: another phase, position, light and mostly other colours.

    Args:
        recipe: What stays the same.
        rng: What differs.
        size: Side in pixels; lengths in the texture do not depend on it.

    Returns:
        Array of shape `(size, size, 3)`, float32 RGB, from 0 to 1.
    """
    sample = jittered(recipe, rng)
    pattern = _PATTERNS[sample.family](sample, rng, size)
    return finish(pattern.astype(np.float32, copy=False), sample, rng)
