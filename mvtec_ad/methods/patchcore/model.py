"""Fit and score: the bank of one category, and what it says about new images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mvtec_ad.backbones import Backbone, batch_size, load_backbone
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.maps import enlarge, smooth
from mvtec_ad.methods.patchcore import coreset
from mvtec_ad.methods.patchcore.bank import leave_one_out, measure, patch_features
from mvtec_ad.methods.scores import Scores, Trial
from mvtec_ad.settings import PatchcoreSettings, torch_device


@dataclass
class Patchcore:
    """PatchCore for one draw of the coreset.

    Attributes:
        backbone: frozen feature extractor.
        settings: what it was fitted with.
        seed: of the coreset's projection and first pick.
        good_scores: (N,) float32, score of each fitted image against the bank without the patches of that image: the
            normal scores that a threshold is calibrated on. The coreset was chosen with the image present, so where
            its patches stood no others were picked and holes stay: these scores err on the high side, that of fewer
            false alarms.
        bank: (M, C) float32, patch features in the order of their picking: eq. 4, thinned by eq. 5.
        picks: (M,) int64, the patch that each bank row is: image · cells + cell, in the order of the fitted images.
        grid: height and width in cells.
    """

    backbone: Backbone
    settings: PatchcoreSettings
    seed: int = 0
    good_scores: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    bank: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    picks: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    grid: tuple[int, int] = (0, 0)

    def score(self, images: np.ndarray) -> Scores:
        """Score images, (N, H, W, 3) uint8: image scores (N,) and maps (N, H, W), both float32."""
        return score_many([self], images, progress=False)[0]


def fit(
    settings: PatchcoreSettings, images: np.ndarray, *, checkpoint: Path | None = None, progress: bool = True
) -> Patchcore:
    """One model, of the settings' first seed, from (N, H, W, 3) uint8 good images; needs no checkpoint.

    Raises:
        DataError: fewer than three images.
    """
    backbone = load_backbone(settings.backbone, settings.weights)
    return fit_many(backbone, settings, settings.seeds[:1], images, progress=progress)[0]


def fit_and_score(
    settings: PatchcoreSettings, train: np.ndarray, test: np.ndarray, *, progress: bool = True
) -> Iterator[Trial]:
    """Every seed of the settings, from one pass of all images through the backbone.

    Args:
        settings: what to fit.
        train: (N, H, W, 3) uint8 good images.
        test: (M, H, W, 3) uint8.
        progress: show bars.

    Yields:
        One `Trial` per seed, in order.
    """
    backbone = load_backbone(settings.backbone, settings.weights)
    begun = time.perf_counter()
    models = fit_many(backbone, settings, settings.seeds, train, progress=progress)
    fitted = time.perf_counter()
    scores = score_many(models, test, progress=progress)
    scored = time.perf_counter()
    seconds = (fitted - begun) / len(models), (scored - fitted) / len(models)
    for model, own in zip(models, scores, strict=True):
        yield Trial(model.seed, model, model.good_scores, own, *seconds)


def fit_many(
    backbone: Backbone, settings: PatchcoreSettings, seeds: Sequence[int], images: np.ndarray, *, progress: bool = True
) -> list[Patchcore]:
    """One model per seed, from one pass of the images through the backbone.

    All patch features are held at once, N · cells · channels · 4 bytes: 252 MB for 209 images and ResNet-18.

    Args:
        backbone: frozen feature extractor.
        settings: what to fit.
        seeds: one model each.
        images: (N, H, W, 3) uint8 good images.
        progress: show bars.

    Raises:
        DataError: fewer than three images (one must be left out to calibrate, and others must remain).
    """
    if len(images) < 3:
        raise DataError(f"{len(images)} good images are too few to fit PatchCore: give at least 3, better 60")
    features = None
    for part in tqdm(list(batches(len(images), batch_size())), "PatchCore fit", unit="batch", disable=not progress):
        own = patch_features(backbone(images[part]), settings)
        if features is None:
            features = own.new_empty(len(images), *own.shape[1:])
        features[part] = own
    return [_fit_one(backbone, settings, seed, features, progress) for seed in seeds]


def score_many(models: Sequence[Patchcore], images: np.ndarray, *, progress: bool = True) -> list[Scores]:
    """Score images with several models from one pass through the backbone.

    The image score comes from the distances of the patches themselves; only the map is enlarged and smoothed.

    Args:
        models: fitted on the same images and settings, sharing one backbone.
        images: (N, H, W, 3) uint8, of the size the models were fitted on.
        progress: show a bar.

    Returns:
        One `Scores` per model: image (N,), maps (N, H, W), float32.

    Raises:
        SettingsError: the images have another size.
    """
    settings, side = models[0].settings, images.shape[1:3]
    lengths = [model.bank.square().sum(1) for model in models]
    scores = np.empty((len(models), len(images)), np.float32)
    maps = np.empty((len(models), len(images), *side), np.float32)
    for part in tqdm(list(batches(len(images), batch_size())), "PatchCore score", unit="batch", disable=not progress):
        features = patch_features(models[0].backbone(images[part]), settings)
        grid = tuple(features.shape[1:3])
        if grid != models[0].grid:
            raise SettingsError(f"images are {side[0]}×{side[1]}, not the size the model was fitted on: resize them")
        for index, model in enumerate(models):
            image_scores, distances = measure(features.flatten(1, 2), model.bank, lengths[index], settings)
            scores[index, part] = image_scores.cpu().numpy()
            maps[index, part] = smooth(enlarge(distances.unflatten(1, grid), side), settings.sigma)
    return [Scores(*own) for own in zip(scores, maps, strict=True)]


def pack(model: Patchcore) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file must keep beside the settings, the seed, the good scores and the backbone."""
    return {"grid": list(model.grid)}, {"bank": model.bank.cpu().numpy(), "picks": model.picks}


def unpack(
    settings: PatchcoreSettings,
    seed: int,
    description: dict[str, Any],
    arrays: dict[str, np.ndarray],
    backbone: Backbone,
) -> Patchcore:
    """The model from what `pack` gave, and its `good_scores` among the arrays."""
    bank = torch.from_numpy(arrays["bank"]).to(torch_device())
    return Patchcore(backbone, settings, seed, arrays["good_scores"], bank, arrays["picks"], tuple(description["grid"]))


def _fit_one(
    backbone: Backbone, settings: PatchcoreSettings, seed: int, features: torch.Tensor, progress: bool
) -> Patchcore:
    """Choose the bank out of (N, h, w, C) features, and calibrate."""
    height, width, channels = features.shape[1:]
    patches = features.view(-1, channels)
    number = max(1, round(settings.coreset * len(patches)))
    picks = coreset.select(patches, number, projection=settings.projection, seed=seed, progress=progress)
    bank = patches[torch.from_numpy(picks).to(patches.device)]
    good_scores = leave_one_out(features.flatten(1, 2), bank, picks // (height * width), settings, progress=progress)
    return Patchcore(backbone, settings, seed, good_scores, bank, picks, (height, width))
