"""Tell defect types apart: SimCLR and supervised contrastive learning, prototypes, "unknown"."""

from mvtec_ad.methods.contrastive.files import members, names, restore
from mvtec_ad.methods.contrastive.fitting import fit, views_of
from mvtec_ad.methods.contrastive.model import UNKNOWN, DefectTyper, prototypes_of
from mvtec_ad.methods.contrastive.networks import Encoder, build
from mvtec_ad.methods.contrastive.regions import Regions, around_masks, around_peaks, whole
from mvtec_ad.methods.contrastive.views import cut, vary
from mvtec_ad.methods.contrastive_losses import nt_xent, supcon

__all__ = [
    "UNKNOWN",
    "DefectTyper",
    "Encoder",
    "Regions",
    "around_masks",
    "around_peaks",
    "build",
    "cut",
    "fit",
    "members",
    "names",
    "nt_xent",
    "prototypes_of",
    "restore",
    "supcon",
    "vary",
    "views_of",
    "whole",
]
