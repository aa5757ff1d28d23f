"""Nearest neighbours on pooled features (DN2): how far an image lies from the good ones, as a whole.

Bergman, Cohen, Hoshen, "Deep Nearest Neighbor Anomaly Detection", 2020 (arXiv:2002.10445): the features of a frozen
network are averaged over the image, and the score is the mean distance to the k nearest good images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mvtec_ad.config import option, torch_device
from mvtec_ad.data.loading import batches
from mvtec_ad.methods.base import FeatureDetector, Layers, Scores


@dataclass
class Knn(FeatureDetector):
    """DN2: mean Euclidean distance to the k nearest good images in pooled features; it has no anomaly map.

    `good_scores` are distances of each good image to the nearest of the others. Nothing is drawn: all seeds agree.

    Attributes:
        bank: (N, C) float32, the pooled features of the good images.

    Examples:
        >>> good = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
        >>> Knn(weights="random", image_size=32, crop=32).fit(good).score(good[:2]).image.shape
        (2,)
    """

    layers: tuple[int, ...] = option((2, 3), "depths of the network, of 1, 2 and 3", among=(1, 2, 3))
    neighbours: int = option(2, "k: nearest good images, whose distances are averaged", least=1)

    name: ClassVar = "knn"
    PRESETS: ClassVar = {
        "default": {},
        "resnet18": {"backbone": "resnet18"},
        "wide_resnet50": {"backbone": "wide_resnet50_2"},
        "quick": {"image_size": 192, "crop": 192},
        "full": {},
    }

    def fit_batches(
        self, seen: Iterable[Layers], count: int, seed: int, checkpoints: Path | None, progress: bool
    ) -> None:
        """Keep the pooled features, and score each image by the others."""
        self.bank = torch.cat([self.pooled(layers) for layers in seen])
        scores = []
        for part in batches(count, 256):  # all distances at once are 100 MB for 5,000 images
            distances = torch.cdist(self.bank[part], self.bank, compute_mode="donot_use_mm_for_euclid_dist")
            distances[:, part].fill_diagonal_(torch.inf)
            scores.append(self.nearest(distances))
        self.good_scores = np.concatenate(scores)

    def score_batch(self, layers: Layers) -> Scores:
        """Distances of a batch of images to their nearest good ones."""
        pooled = self.pooled(layers)
        return Scores(self.nearest(torch.cdist(pooled, self.bank, compute_mode="donot_use_mm_for_euclid_dist")))

    def pooled(self, layers: Layers) -> Tensor:
        """The chosen layers averaged over their positions and put side by side, (B, C)."""
        return torch.cat([layers[depth - 1].mean((1, 2)) for depth in sorted(set(self.layers))], 1)

    def nearest(self, distances: Tensor) -> np.ndarray:
        """Mean of the k smallest finite distances of each row, (B, N) -> (B,) float32; all of them where N is less."""
        k = min(self.neighbours, int(distances[0].isfinite().sum()))
        return distances.topk(k, largest=False).values.mean(1).cpu().numpy()

    def state(self) -> dict[str, Any]:
        """The bank and the scores of its images."""
        return {"bank": self.bank, "good_scores": self.good_scores, "seed": self.seed}

    def load_state(self, state: dict[str, Any]) -> Knn:
        """The inverse of `state`."""
        self.bank = torch.as_tensor(state["bank"]).to(torch_device())
        if self.bank.ndim != 2:
            raise ValueError(f"bank has shape {tuple(self.bank.shape)}")
        return super().load_state(state)
