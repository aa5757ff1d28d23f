"""Training images without a subject, drawn by code: for a backbone that has never seen a photograph.

The idea: Baradad et al. 2021, "Learning to See by Looking at Noise" (arXiv 2106.05963), and Kataoka et al. 2020,
"Pre-training without Natural Images".
"""

from mvtec_ad.synthetic.textures.batch import draw_many, image_seed
from mvtec_ad.synthetic.textures.composition import Composition, draw_composition
from mvtec_ad.synthetic.textures.recipes import FAMILIES, Recipe, recipe
from mvtec_ad.synthetic.textures.sample import texture

VERSION = 1  # raise it whenever a pixel changes

__all__ = [
    "FAMILIES",
    "VERSION",
    "Composition",
    "Recipe",
    "draw_composition",
    "draw_many",
    "image_seed",
    "recipe",
    "texture",
]
