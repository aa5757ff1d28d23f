"""PatchCore: distances to a memory bank of the patch features of good images.

Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly Detection", 2022
(arXiv:2106.08265). As in anomalib, the pooled layers are concatenated as they are; the authors' code brings each patch
to 1024 numbers.
"""

from mvtec_ad.methods.patchcore.bank import leave_one_out, measure, nearest, patch_features, reweighting
from mvtec_ad.methods.patchcore.model import Patchcore, fit, fit_and_score, fit_many, pack, score_many, unpack

__all__ = [
    "Patchcore",
    "fit",
    "fit_and_score",
    "fit_many",
    "leave_one_out",
    "measure",
    "nearest",
    "pack",
    "patch_features",
    "reweighting",
    "score_many",
    "unpack",
]
