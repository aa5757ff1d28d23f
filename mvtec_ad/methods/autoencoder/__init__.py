"""Find what cannot be redrawn: an autoencoder or VAE trained on good images only.

Bergmann, Löwe, Fauser, Sattlegger, Steger, "Improving Unsupervised Defect Segmentation by Applying Structural
Similarity To Autoencoders", 2019 (arXiv:1807.02011).
"""

from mvtec_ad.methods.autoencoder.differences import difference_map, loss
from mvtec_ad.methods.autoencoder.fitting import fit, fit_and_score
from mvtec_ad.methods.autoencoder.model import Redrawing, pack, scores_of, unpack
from mvtec_ad.methods.autoencoder.networks import Autoencoder, divergence
from mvtec_ad.methods.pixels import as_tensor
from mvtec_ad.methods.sampling import held_out_positions

__all__ = [
    "Autoencoder",
    "Redrawing",
    "as_tensor",
    "difference_map",
    "divergence",
    "fit",
    "fit_and_score",
    "held_out_positions",
    "loss",
    "pack",
    "scores_of",
    "unpack",
]
