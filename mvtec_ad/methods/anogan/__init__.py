"""Find what a generator of good images cannot draw: AnoGAN by latent search, f-AnoGAN by an encoder.

Schlegl, Seeböck, Waldstein, Schmidt-Erfurth, Langs, "Unsupervised Anomaly Detection with Generative Adversarial
Networks to Guide Marker Discovery", 2017 (arXiv:1703.05921); the same with Langs, Schmidt-Erfurth, "f-AnoGAN: Fast
unsupervised anomaly detection with generative adversarial networks", Medical Image Analysis 54, 2019.
"""

from mvtec_ad.methods.anogan.fitting import fit, fit_and_score
from mvtec_ad.methods.anogan.model import Anogan, inverted_by, pack, unpack
from mvtec_ad.methods.anogan.networks import Networks, encoder_loss
from mvtec_ad.methods.anogan.search import Search, search, search_loss

__all__ = [
    "Anogan",
    "Networks",
    "Search",
    "encoder_loss",
    "fit",
    "fit_and_score",
    "inverted_by",
    "pack",
    "search",
    "search_loss",
    "unpack",
]
