"""The fitted networks, and the scores of what they cannot draw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from mvtec_ad.data.loading import batches
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods.anogan.networks import Networks, encoder_loss, new_networks, signed
from mvtec_ad.methods.anogan.search import search
from mvtec_ad.methods.maps import smooth
from mvtec_ad.methods.pixels import as_tensor, check_size
from mvtec_ad.methods.sampling import normal
from mvtec_ad.methods.scores import Scores
from mvtec_ad.settings import AnoganSettings

TOGETHER = 64  # searches or images at once


@dataclass
class Anogan:
    """A generator of good images, and the way from an image to its latent vector.

    Attributes:
        networks: in evaluation mode.
        settings: what it was fitted with.
        seed: of weights, batches, starting points and the held-out images.
        good_scores: (H,) float32, scores of the held-out good images.
        curve: columns step, critic, generator and, with an encoder, encoder; NaN where a part was not trained.
        backbone: None; no other network is looked through.
    """

    networks: Networks
    settings: AnoganSettings
    seed: int
    good_scores: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)
    backbone: None = None

    def sample(self, number: int, seed: int = 0) -> np.ndarray:
        """Images that the generator draws from N(0, I), (number, S, S, 3) uint8."""
        latents = normal((number, self.settings.latent), np.random.default_rng(seed))
        with torch.inference_mode():
            return _pictures(self.networks.averaged(latents))

    def redraw(self, images: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 -> the closest the generator comes, the same shape."""
        return self.invert(images)[0]

    def score(self, images: np.ndarray) -> Scores:
        """Score images, (N, S, S, 3) uint8: image scores (N,) and maps (N, S, S), both float32.

        A map is the smoothed residual |x − x̂|, averaged over the colours; 2 lies between black and white.
        """
        return self.invert(images)[1]

    def invert(self, images: np.ndarray) -> tuple[np.ndarray, Scores]:
        """`redraw` and `score` at once."""
        drawn, maps, losses = [], [], []
        for wanted, found, loss in self._inverted(images):
            drawn.append(_pictures(found))
            maps.append((wanted - found).abs().mean(1).cpu().numpy())
            losses.append(loss.cpu().numpy())
        smoothed = smooth(np.concatenate(maps), self.settings.sigma)
        peaks = smoothed.reshape(len(smoothed), -1).max(1)
        scores = peaks if self.settings.score == "peak" else np.concatenate(losses)
        return np.concatenate(drawn), Scores(scores, smoothed)

    def _inverted(self, images: np.ndarray) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Batches of images (B, 3, S, S) in [−1, 1], what the generator makes of them, and the loss of each (B,)."""
        check_size(images, self.settings.crop)
        invert = self._encode if self.settings.inversion == "encoder" else self._search
        size = TOGETHER if self.settings.inversion == "encoder" else max(1, TOGETHER // self.settings.restarts)
        parts = list(batches(len(images), size))
        long = self.settings.inversion == "search" and len(parts) > 1
        return [
            invert(signed(as_tensor(images[part])), part) for part in tqdm(parts, "latent search", disable=not long)
        ]

    def _encode(self, wanted: Tensor, _: slice) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            drawn = self.networks.averaged(self.networks.encoder(wanted))
            return wanted, drawn, encoder_loss(self.networks.critic, wanted, drawn, self.settings.kappa)

    def _search(self, wanted: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        settings = self.settings
        # the starting points of an image are those of its place among all images, however they are cut into batches
        starts = torch.stack(
            [
                normal((settings.restarts, settings.latent), np.random.default_rng([self.seed, place]))
                for place in range(part.start, part.stop)
            ]
        )
        found = search(
            self.networks.averaged,
            self.networks.critic,
            wanted,
            starts,
            steps=settings.search_steps,
            rate=settings.search_rate,
            feature_share=settings.feature_share,
        )
        return wanted, found.drawn, found.losses[-1].amin(1)


def inverted_by(model: Anogan, settings: AnoganSettings) -> Anogan:
    """The same networks, with other settings of inversion and score: AnoGAN's search on f-AnoGAN's generator.

    Its scores are on another scale, so it comes without `good_scores`.

    Raises:
        SettingsError: an encoder is asked for that was not trained.
    """
    if settings.inversion == "encoder" and model.networks.encoder is None:
        raise SettingsError("this model was fitted without an encoder: fit it with the inversion encoder")
    return Anogan(model.networks, settings, model.seed, curve=model.curve)


def _pictures(images: Tensor) -> np.ndarray:
    """(B, 3, S, S) in [−1, 1] -> (B, S, S, 3) uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def pack(model: Anogan) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file keeps of a fitted model beside settings, seed and good scores: weights and curve."""
    weights = {f"networks.{name}": value.cpu().numpy() for name, value in model.networks.state_dict().items()}
    curve = {f"curve.{name}": values.to_numpy() for name, values in model.curve.items()}
    return {}, {**weights, **curve}


def unpack(
    settings: AnoganSettings, seed: int, description: dict[str, Any], arrays: dict[str, np.ndarray], backbone: None
) -> Anogan:
    """The inverse of `pack`; `arrays` holds the good scores too."""
    networks = new_networks(settings, seed)
    state = {name: torch.from_numpy(np.array(arrays[f"networks.{name}"])) for name in networks.state_dict()}
    networks.load_state_dict(state)
    names = [name for name in ("step", "critic", "generator", "encoder") if f"curve.{name}" in arrays]
    curve = pd.DataFrame({name: arrays[f"curve.{name}"] for name in names})
    good_scores = arrays["good_scores"].astype(np.float32)
    return Anogan(networks.eval(), settings, seed, good_scores, curve)
