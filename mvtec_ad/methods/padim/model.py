"""Fit and score: one Gaussian a position, for one or several draws of channels."""

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
from mvtec_ad.methods.padim import gaussians
from mvtec_ad.methods.padim.embedding import draw_channels, embed, fitted_positions, measured_scale
from mvtec_ad.methods.scores import Scores, Trial
from mvtec_ad.settings import PadimSettings, torch_device


@dataclass
class Padim:
    """PaDiM for one draw of channels.

    Attributes:
        backbone: frozen feature extractor.
        settings: what it was fitted with.
        seed: of the channel draw.
        channels: (d,) int64, indices into the concatenated layers, sorted; drawn at the first fit.
        scale: factor on the features, 1 for published recipes.
        good_scores: (N,) float32, score of each fitted image against the model of all the others
            (leave-one-out): the normal scores that a threshold is calibrated on. Empty before `fit`.
    """

    backbone: Backbone
    settings: PadimSettings
    seed: int = 0
    channels: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    scale: float = 1.0
    good_scores: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    gaussians: gaussians.PositionGaussians | None = None
    grid: tuple[int, int] = (0, 0)

    def fit(self, images: np.ndarray) -> Padim:
        """Fit on good images, (N, H, W, 3) uint8."""
        fit_many([self], images)
        return self

    def score(self, images: np.ndarray) -> Scores:
        """Score images, (N, H, W, 3) uint8: image scores (N,) and maps (N, H, W), both float32."""
        return score_many([self], images, progress=False)[0]


def create(backbone: Backbone, settings: PadimSettings, seeds: Sequence[int] | None = None) -> list[Padim]:
    """One unfitted model per channel seed (all of the settings' seeds when None)."""
    return [Padim(backbone, settings, seed) for seed in (settings.seeds if seeds is None else seeds)]


def fit(settings: PadimSettings, images: np.ndarray, *, checkpoint: Path | None = None, progress: bool = True) -> Padim:
    """The model of the settings' first seed, fitted on good images, (N, H, W, 3) uint8; needs no checkpoint."""
    (model,) = create(load_backbone(settings.backbone, settings.weights), settings, settings.seeds[:1])
    fit_many([model], images, progress=progress)
    return model


def fit_and_score(
    settings: PadimSettings, train: np.ndarray, test: np.ndarray, *, progress: bool = True
) -> Iterator[Trial]:
    """Every channel seed of the settings, in as few passes through the backbone as memory allows.

    Args:
        settings: what to fit.
        train: (N, H, W, 3) uint8 good images.
        test: (M, H, W, 3) uint8.
        progress: show bars.

    Yields:
        One `Trial` per seed, in order. In the dual shape a model is as large as its features: drop a trial's model
        before asking for the next.
    """
    backbone = load_backbone(settings.backbone, settings.weights)
    together = seeds_at_once(settings, train.shape)
    for group in batches(len(settings.seeds), together):
        models = create(backbone, settings, settings.seeds[group])
        begun = time.perf_counter()
        fit_many(models, train, progress=progress)
        fitted = time.perf_counter()
        scores = score_many(models, test, progress=progress)
        scored = time.perf_counter()
        seconds = (fitted - begun) / len(models), (scored - fitted) / len(models)
        while models:
            model = models.pop(0)
            yield Trial(model.seed, model, model.good_scores, scores.pop(0), *seconds)
            del model


def seeds_at_once(settings: PadimSettings, shape: tuple[int, ...]) -> int:
    """How many channel seeds fit `settings.memory_gb` of features together; at least one.

    Args:
        settings: with `channels` and `memory_gb`.
        shape: of the training images, (N, H, W, 3); the first layer has stride 4.
    """
    positions = (shape[1] // 4) * (shape[2] // 4)
    one = positions * shape[0] * settings.channels * 4 / 1e9
    return max(1, int(settings.memory_gb // one))


def fit_many(models: Sequence[Padim], images: np.ndarray, *, progress: bool = True) -> None:
    """Fit several channel draws from one pass of the images through the backbone.

    Args:
        models: share one backbone and one settings object.
        images: (N, H, W, 3) uint8 good images.
        progress: show a bar.

    Raises:
        DataError: fewer than three images (one must be left out to calibrate).
    """
    settings, backbone = models[0].settings, models[0].backbone
    if len(images) < 3:
        raise DataError(f"{len(images)} good images are too few to fit PaDiM: give at least 3, better 60")
    images = images[fitted_positions(len(images), settings.fit_fraction)]
    stores: list[torch.Tensor] = []
    for part in tqdm(list(batches(len(images), batch_size())), desc="PaDiM fit", unit="batch", disable=not progress):
        layers = backbone(images[part])
        if not stores:
            stores = [_prepare(model, layers, len(images)) for model in models]
        for model, store in zip(models, stores, strict=True):
            store[:, part] = embed(layers, model.channels, settings.interpolation)
    side = images.shape[1:3]
    while stores:  # freed one by one: in the dual shape the factor takes over the memory of the features
        _fit_one(models[len(models) - len(stores)], stores.pop(0), side)


def score_many(models: Sequence[Padim], images: np.ndarray, *, progress: bool = True) -> list[Scores]:
    """Score images with several channel draws from one pass through the backbone.

    Args:
        models: fitted, sharing one backbone.
        images: (N, H, W, 3) uint8, of the size the models were fitted on.
        progress: show a bar.

    Returns:
        One `Scores` per model: image (N,), maps (N, H, W), float32.
    """
    count, side = len(images), images.shape[1:3]
    for model in models:
        if model.gaussians is None:
            raise SettingsError("this PaDiM is not fitted: call fit(images) first")
    maps = np.empty((len(models), count, *side), np.float32)
    for part in tqdm(list(batches(count, batch_size())), desc="PaDiM score", unit="batch", disable=not progress):
        layers = models[0].backbone(images[part])
        if tuple(layers[0].shape[1:3]) != models[0].grid:
            raise SettingsError(f"images are {side[0]}×{side[1]}, not the size the model was fitted on: resize them")
        for index, model in enumerate(models):
            features = embed(layers, model.channels, model.settings.interpolation) * model.scale
            maps[index, part] = _maps(model.gaussians.distance(features), model, side)
    return [Scores(own.reshape(count, -1).max(1), own) for own in maps]


def _prepare(model: Padim, layers: list[torch.Tensor], count: int) -> torch.Tensor:
    """Draw the channels and reserve (P, N, d) for the features."""
    total = sum(layer.shape[-1] for layer in layers)
    model.channels = draw_channels(total, min(model.settings.channels, total), model.seed)
    model.grid = tuple(layers[0].shape[1:3])
    return layers[0].new_empty(model.grid[0] * model.grid[1], count, len(model.channels))


def _fit_one(model: Padim, features: torch.Tensor, side: tuple[int, int]) -> None:
    settings = model.settings
    if settings.feature_scale is not None:
        model.scale = settings.feature_scale
    elif not model.backbone.raw:
        model.scale = measured_scale(features)
    if model.scale != 1:
        features *= model.scale
    held_out, model.gaussians = gaussians.leave_one_out_and_fit(features, settings.ridge)
    model.good_scores = np.concatenate(
        [_maps(held_out[:, part], model, side).max((1, 2)) for part in batches(held_out.shape[1], batch_size())]
    )


def _maps(distances: torch.Tensor, model: Padim, side: tuple[int, int]) -> np.ndarray:
    """Distances on the grid, (P, B), to smoothed maps (B, H, W) at the size of the images."""
    grids = distances.mT.reshape(-1, *model.grid)
    return smooth(enlarge(grids, side), model.settings.sigma)


def pack(model: Padim) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file keeps of a fitted model beside settings, seed, backbone and good scores.

    Returns:
        Plain JSON data, and arrays. Of a direct model only the lower triangle, the half that is not zero.
    """
    factor = model.gaussians.factor
    if not model.gaussians.dual:
        rows, columns = torch.tril_indices(factor.shape[1], factor.shape[2])
        factor = factor[:, rows, columns]
    arrays = {"mean": model.gaussians.mean, "factor": factor}
    description = {"scale": model.scale, "grid": list(model.grid), "dual": model.gaussians.dual}
    return description, {key: value.cpu().numpy() for key, value in arrays.items()} | {"channels": model.channels}


def unpack(
    settings: PadimSettings, seed: int, description: dict[str, Any], arrays: dict[str, np.ndarray], backbone: Backbone
) -> Padim:
    """The inverse of `pack`; `arrays` holds the good scores too."""
    mean, factor = torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["factor"])
    if not description["dual"]:
        factor = _full(factor, len(arrays["channels"]))
    device = torch_device()
    fitted = gaussians.PositionGaussians(mean.to(device), factor.to(device), settings.ridge, description["dual"])
    measured = arrays["channels"], description["scale"], arrays["good_scores"].astype(np.float32)
    return Padim(backbone, settings, seed, *measured, fitted, tuple(description["grid"]))


def _full(factor: torch.Tensor, dimension: int) -> torch.Tensor:
    """(P, d, d) lower triangular, from the (P, d(d+1)/2) that are kept of it."""
    full = torch.zeros(len(factor), dimension, dimension)
    rows, columns = torch.tril_indices(dimension, dimension)
    full[:, rows, columns] = factor
    return full
