"""PaDiM: a Gaussian per image position over the features of a frozen network.

Defard, Setkov, Loesch, Audigier, "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization", 2020 (arXiv:2011.08785). The algebra stands in `gaussians.py`.
"""

from mvtec_ad.methods.padim.embedding import (
    REFERENCE_VARIANCE,
    draw_channels,
    embed,
    fitted_positions,
    measured_scale,
)
from mvtec_ad.methods.padim.model import (
    Padim,
    create,
    fit,
    fit_and_score,
    fit_many,
    pack,
    score_many,
    seeds_at_once,
    unpack,
)

__all__ = [
    "REFERENCE_VARIANCE",
    "Padim",
    "create",
    "draw_channels",
    "embed",
    "fit",
    "fit_and_score",
    "fit_many",
    "fitted_positions",
    "measured_scale",
    "pack",
    "score_many",
    "seeds_at_once",
    "unpack",
]
