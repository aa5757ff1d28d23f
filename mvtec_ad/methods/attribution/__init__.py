"""Why does a classifier call this image a defect? Post-hoc explanations, and measures of what they are worth.

A map says how much each pixel speaks for the answer that is explained. Nothing here knows the classifier: a `network`
is any module in evaluation mode that turns images (B, 3, H, W) in [0, 1] into logits (B,), positive for a defect.
"""

from mvtec_ad.methods.attribution.methods import (
    METHODS,
    grad_cam,
    grad_cam_plus_plus,
    integrated_gradients,
    occlusion,
    smooth_grad,
)
from mvtec_ad.methods.attribution.perturbation import deletion_insertion
from mvtec_ad.methods.attribution.quality import (
    agreement,
    covered,
    energy_inside,
    pointing_against_area,
    pointing_game,
    region_auroc,
)
from mvtec_ad.methods.attribution.randomisation import cascade, randomisation_check

__all__ = [
    "METHODS",
    "agreement",
    "cascade",
    "covered",
    "deletion_insertion",
    "energy_inside",
    "grad_cam",
    "grad_cam_plus_plus",
    "integrated_gradients",
    "occlusion",
    "pointing_against_area",
    "pointing_game",
    "randomisation_check",
    "region_auroc",
    "smooth_grad",
]
