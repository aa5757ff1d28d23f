"""Training images without a subject, drawn by code: for a backbone that has never seen a photograph.

The idea: Baradad et al. 2021, "Learning to See by Looking at Noise" (arXiv 2106.05963), and Kataoka et al. 2020,
"Pre-training without Natural Images".
"""

from mvtec_ad.data.abstract.batch import draw_many, image_seed
from mvtec_ad.data.abstract.composition import Abstract, draw_abstract
from mvtec_ad.data.abstract.recipes import FAMILIES, Recipe, recipe
from mvtec_ad.data.abstract.textures import texture

VERSION = 1  # raise it whenever a pixel changes

__all__ = ["FAMILIES", "VERSION", "Abstract", "Recipe", "draw_abstract", "draw_many", "image_seed", "recipe", "texture"]
