"""The fitted network, and the scores of what it fails to redraw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mvtec_ad.backbones import Backbone
from mvtec_ad.data.loading import batches
from mvtec_ad.methods.autoencoder import differences
from mvtec_ad.methods.autoencoder.networks import Autoencoder
from mvtec_ad.methods.maps import smooth
from mvtec_ad.methods.pixels import as_tensor, check_size
from mvtec_ad.methods.scores import Scores
from mvtec_ad.settings import AutoencoderSettings, torch_device


@dataclass
class Redrawing:
    """A fitted autoencoder or VAE.

    Attributes:
        network: in evaluation mode.
        settings: what it was fitted with.
        seed: of weights, batches and the held-out images.
        backbone: where loss or map look at features, else None.
        good_scores: (H,) float32, scores of the held-out good images: they stopped the training, but no weight
            was fitted to them.
        curve: columns step, loss and held_out.
    """

    network: Autoencoder
    settings: AutoencoderSettings
    seed: int
    backbone: Backbone | None = None
    good_scores: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)

    def redraw(self, images: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 -> reconstructions, (N, S, S, 3) uint8."""
        drawn = [redrawn for _, redrawn, _ in self._redrawn(images)]
        return (torch.cat(drawn) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def sample(self, number: int, seed: int = 0) -> np.ndarray:
        """Images that a VAE imagines: latent vectors drawn from N(0, I), decoded; (number, S, S, 3) uint8."""
        rng = np.random.default_rng(seed)
        latent = torch.from_numpy(rng.standard_normal((number, self.network.code)).astype(np.float32))
        with torch.inference_mode():
            drawn = self.network.decode(latent.to(torch_device()))
        return (drawn * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def score(self, images: np.ndarray) -> Scores:
        """Score images, (N, S, S, 3) uint8: image scores (N,) and maps (N, S, S), both float32."""
        return scores_of(self, images, self.settings.map, self.settings.score)

    def _redrawn(self, images: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of images (B, 3, S, S), their reconstructions and their KL divergences (B,)."""
        check_size(images, self.settings.crop)
        for part in batches(len(images), 32):
            pixels = as_tensor(images[part])
            with torch.no_grad():
                redrawn, divergence = self.network(pixels)
            yield pixels, redrawn, divergence


def scores_of(model: Redrawing, images: np.ndarray, map_name: str, score_name: str = "peak") -> Scores:
    """Scores under another map or image score than the model's own.

    Args:
        model: fitted; must have a backbone for the map `features`.
        images: (N, S, S, 3) uint8.
        map_name: `absolute`, `ssim` or `features`.
        score_name: `peak` (of the smoothed map), `error` (squared error) or `elbo` (squared error + β · KL), summed
            over the values of an image. With β = 1 and a Gaussian likelihood of variance ½ that is, up to a constant,
            minus the evidence lower bound of Kingma and Welling 2013, eq. 7, its expectation taken at the latent mean.

    Raises:
        SettingsError: a name is unknown.
    """
    replace(model.settings, map=map_name, score=score_name)  # checks the names
    features = model.backbone.tensors if model.backbone else None
    maps, values = [], []
    for pixels, redrawn, divergence in model._redrawn(images):
        with torch.no_grad():
            maps.append(differences.difference_map(map_name, pixels, redrawn, features).cpu().numpy())
        error = (pixels - redrawn).square().sum((1, 2, 3))
        weight = model.settings.beta if score_name == "elbo" else 0
        values.append((error + weight * divergence).cpu().numpy())
    smoothed = smooth(np.concatenate(maps), model.settings.sigma)
    peaks = smoothed.reshape(len(smoothed), -1).max(1)
    return Scores(peaks if score_name == "peak" else np.concatenate(values), smoothed)


def new_network(settings: AutoencoderSettings) -> Autoencoder:
    """With new weights."""
    return Autoencoder(settings.crop, settings.latent, settings.width, settings.halvings, settings.variational)


def pack(model: Redrawing) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file keeps of a fitted model beside settings, seed, backbone and good scores: weights and curve."""
    network = {f"network.{name}": value.cpu().numpy() for name, value in model.network.state_dict().items()}
    curve = {f"curve.{name}": values.to_numpy() for name, values in model.curve.items()}
    return {}, {**network, **curve}


def unpack(
    settings: AutoencoderSettings,
    seed: int,
    description: dict[str, Any],
    arrays: dict[str, np.ndarray],
    backbone: Backbone | None,
) -> Redrawing:
    """The inverse of `pack`; `arrays` holds the good scores too."""
    network = new_network(settings)
    state = {name: arrays[f"network.{name}"] for name in network.state_dict()}
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    network.to(torch_device(), memory_format=torch.channels_last)
    names = [name for name in ("step", "loss", "held_out") if f"curve.{name}" in arrays]
    curve = pd.DataFrame({name: arrays[f"curve.{name}"] for name in names})
    return Redrawing(network.eval(), settings, seed, backbone, arrays["good_scores"].astype(np.float32), curve)
