"""The fitted classifier: it finds the item, looks at it, and says how damaged it seems."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from mvtec_ad.data import items
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError
from mvtec_ad.methods.base import as_tensor
from mvtec_ad.methods.classifier.networks import Classifier
from mvtec_ad.settings import ClassifierSettings


@dataclass
class DefectClassifier:
    """A fitted classifier. Scores are logits, raw; `score > threshold` is a defect.

    Attributes:
        network: in evaluation mode.
        settings: what it was fitted with.
        seed: of its validation part, batches and augmentation.
        weights: what it started from, for people and manifests.
        finders: view -> where its items are; empty where whole pictures are looked at.
        temperature: that calibrates the logits (Guo et al. 2017), from the validation part.
        validation: rows image_id, label and score of the images that chose checkpoint and temperature.
        curve: of the fine-tuning.
    """

    network: Classifier
    settings: ClassifierSettings
    seed: int
    weights: str
    finders: dict[str, items.Finder] = field(default_factory=dict)
    temperature: float = 1.0
    validation: pd.DataFrame = field(default_factory=pd.DataFrame)
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def mirror(self) -> bool:
        """Whether left may become right in training: not where every place of a cut has its meaning."""
        registered = self.settings.look == "registered" and any(finder.registers for finder in self.finders.values())
        return self.settings.mirror and not registered

    @property
    def _look(self) -> str:
        return self.settings.look if self.finders else "whole"

    def _finder(self, view: str) -> items.Finder:
        """What finds the item of a view; nothing is looked for in whole pictures."""
        if not self.finders:
            return items.Finder(np.zeros((items.LEVELS,) * 3, np.float32))
        if view not in self.finders:
            raise DataError(f"view {view!r} is new to this classifier: it knows {', '.join(self.finders)}")
        return self.finders[view]

    def cut(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """What it sees of each image of a table.

        Returns:
            (N, S, S, 3) uint8, and (N, 3, 3) float64 from places (x, y, 1) of the picture to places of its cut.

        Raises:
            DataError: a file cannot be read, or a view is one that it was not fitted on.
        """
        size, paths, views = self.settings.image_size, table["image_path"].to_numpy(), table["view"].to_numpy()
        images = np.empty((len(table), size, size, 3), np.uint8)
        transforms = np.empty((len(table), 3, 3))
        for view, finder in {view: self._finder(view) for view in sorted(set(views))}.items():
            own = views == view
            images[own], transforms[own] = items.cut_files(paths[own], finder, size, self._look)
        return images, transforms

    def look_at(self, pictures: Sequence[np.ndarray], view: str) -> np.ndarray:
        """What it sees of pictures of one view that are in memory.

        Args:
            pictures: (H, W, 3) uint8, RGB, of any size.
            view: which of its views; of no meaning to one that looks at whole pictures.

        Returns:
            (N, S, S, 3) uint8, as `cut` gives them.

        Raises:
            DataError: the view is one that it was not fitted on.
        """
        finder = self._finder(view)
        with ThreadPoolExecutor() as pool:
            cuts = pool.map(lambda picture: finder.cut(picture, self.settings.image_size, self._look), pictures)
            return np.stack(list(cuts))

    @torch.inference_mode()
    def logits(self, images: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 cuts -> (N,) float32."""
        size = self.settings.image_size
        if images.shape[1:] != (size, size, 3):
            raise DataError(f"images must be (N, {size}, {size}, 3), not {images.shape}: give what `cut` returns")
        parts = [self.network(as_tensor(images[part])).float() for part in batches(len(images), 16)]
        return torch.cat(parts).numpy(force=True)

    def score(self, table: pd.DataFrame) -> np.ndarray:
        """(N,) float32 logits of the images of a table."""
        return self.logits(self.cut(table)[0])
