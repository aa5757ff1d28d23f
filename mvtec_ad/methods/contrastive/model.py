"""A fitted typer: embeddings, prototypes, neighbours, and when to say "unknown"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import KNeighborsClassifier

from mvtec_ad.config import torch_device
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError
from mvtec_ad.methods.contrastive.networks import Encoder
from mvtec_ad.methods.contrastive.regions import Regions
from mvtec_ad.methods.contrastive.views import shown
from mvtec_ad.settings import TypingSettings

UNKNOWN = "unknown"


@dataclass(frozen=True)
class DefectTyper:
    """What names the type of a defect.

    Attributes:
        encoder: trained.
        settings: what it was fitted with.
        seed: of its training.
        weights: what the training began with, for people.
        embeddings: (N, d) float32, of the known images, each of length 1.
        types: (N,) their types.
        limit: novelty above which a defect is called unknown; ∞ until it is calibrated.
        curve: of the training.
    """

    encoder: Encoder
    settings: TypingSettings
    seed: int
    weights: str
    embeddings: np.ndarray
    types: np.ndarray
    limit: float = float("inf")
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def names(self) -> list[str]:
        """The types it knows, sorted; the order of all columns here."""
        return sorted(set(self.types))

    @property
    def prototypes(self) -> np.ndarray:
        """(T, d) float32, one per type."""
        return prototypes_of(self.embeddings, self.types)

    def embed(self, images: np.ndarray, regions: Regions) -> np.ndarray:
        """Embeddings of images, (M, S, S, 3) uint8 and their regions -> (M, d) float32 of length 1."""
        with torch.inference_mode():
            parts = [
                self.encoder.below(shown(images[part], regions[part], self.settings.image_size))
                for part in batches(len(images), 4)
            ]
        return embed(self.encoder, torch.cat(parts))

    def likeness(self, embeddings: np.ndarray) -> np.ndarray:
        """(M, T) cosine between each embedding and each prototype."""
        return embeddings @ self.prototypes.T

    def novelty(self, embeddings: np.ndarray) -> np.ndarray:
        """(M,) float32: mean cosine distance to the nearest known images, see `novelty_among`."""
        return novelty_among(embeddings, self.embeddings, self.settings.neighbours)

    def name(self, embeddings: np.ndarray) -> np.ndarray:
        """(M,) the type of the nearest prototype, or `UNKNOWN` where the novelty lies above the limit."""
        nearest = np.array(self.names, dtype=object)[self.likeness(embeddings).argmax(1)]
        return np.where(self.novelty(embeddings) > self.limit, UNKNOWN, nearest)

    def with_type(self, name: str, embeddings: np.ndarray) -> DefectTyper:
        """The same typer with one more type, from embeddings of a few images of it; nothing is trained.

        Raises:
            DataError: the name is taken, or there is no image.
        """
        if name in self.names or name == UNKNOWN:
            raise DataError(f"type {name!r} is known already: give the new one another name")
        if len(embeddings) == 0:
            raise DataError(f"type {name!r} has no image: show at least one")
        return replace(
            self,
            embeddings=np.concatenate([self.embeddings, embeddings]),
            types=np.concatenate([self.types, np.full(len(embeddings), name, dtype=object)]),
        )


def embed(encoder: Encoder, seen: torch.Tensor) -> np.ndarray:
    """What the frozen layers say, (M, C, h, w) -> (M, d) float32 embeddings of length 1."""
    encoder.eval()
    if not len(seen):
        return np.empty((0, len(encoder.mean)), np.float32)
    with torch.inference_mode():
        parts = [encoder(seen[part].to(torch_device()).float()) for part in batches(len(seen), 32)]
    return unit(torch.cat(parts).numpy(force=True))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows brought to length 1, (N, d) float32."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def prototypes_of(embeddings: np.ndarray, types: Sequence[str] | np.ndarray) -> np.ndarray:
    """The mean direction of each type, in the order of their sorted names.

    Snell, Swersky, Zemel 2017 (arXiv:1703.05175), eq. 1, on the unit sphere.

    Args:
        embeddings: (N, d) of length 1.
        types: (N,).

    Returns:
        (T, d) float32 of length 1.
    """
    types = np.asarray(types)
    return unit(np.stack([embeddings[types == name].mean(0) for name in sorted(set(types))]))


def novelty_among(embeddings: np.ndarray, known: np.ndarray, neighbours: int) -> np.ndarray:
    """Mean cosine distance to the nearest `neighbours` of the known embeddings.

    Sun et al. 2022 (arXiv:2204.06507) take the distance to the last of them; the mean is steadier with few.

    Args:
        embeddings: (M, d) of length 1.
        known: (N, d) of length 1.
        neighbours: k; all known ones where there are fewer.

    Returns:
        (M,) float32 in [0, 2].
    """
    distances = np.sort(1 - embeddings @ known.T, axis=1)
    return distances[:, :neighbours].mean(1).astype(np.float32)


def nearest_neighbours(embeddings: np.ndarray, known: np.ndarray, types: np.ndarray, neighbours: int) -> np.ndarray:
    """(M,) the most frequent type among the nearest known embeddings, nearer ones counting more (scikit-learn)."""
    classifier = KNeighborsClassifier(min(neighbours, len(known)), weights="distance", metric="cosine")
    return classifier.fit(known, np.asarray(types, dtype=str)).predict(embeddings)
