"""Training a ResNet-18 (conv1 to layer3) on images without a subject, drawn by code."""

from mvtec_ad.methods.contrastive_losses import nt_xent
from mvtec_ad.methods.pretraining.measure import backbone_of, worth
from mvtec_ad.methods.pretraining.objectives import OBJECTIVES, objective, vicreg
from mvtec_ad.methods.pretraining.pretrain import card, draw_bank, new_trunk, pretrain, timed

__all__ = [
    "OBJECTIVES",
    "backbone_of",
    "card",
    "draw_bank",
    "new_trunk",
    "nt_xent",
    "objective",
    "pretrain",
    "timed",
    "vicreg",
    "worth",
]
