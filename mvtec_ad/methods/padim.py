"""PaDiM: a Gaussian per image position over the features of a frozen network.

Defard, Setkov, Loesch, Audigier, "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization", 2020 (arXiv:2011.08785). The algebra stands in `gaussians.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as functional
from tqdm import tqdm

from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import gaussians
from mvtec_ad.methods.scores import Scores, Trial
from mvtec_ad.settings import PadimSettings, torch_device

# Mean variance, over positions and channels, of ImageNet ResNet-18 features on good MVTec AD bottles. ε = 0.01 of
# the published recipes is meant beside it, so the features of other networks are scaled to it.
REFERENCE_VARIANCE = 0.0094


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
        return score_many([self], images)[0]


def create(backbone: Backbone, settings: PadimSettings, seeds: Sequence[int] | None = None) -> list[Padim]:
    """One unfitted model per channel seed (all of the settings' seeds when None)."""
    return [Padim(backbone, settings, seed) for seed in (settings.seeds if seeds is None else seeds)]


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


def draw_channels(total: int, number: int, seed: int) -> np.ndarray:
    """The random channel subset of section III-B: `number` of `total` indices, sorted, int64.

    Raises:
        SettingsError: more channels are asked for than the network has.
    """
    if number > total:
        raise SettingsError(f"{number} channels asked for, the backbone has {total}: choose at most {total}")
    return np.sort(np.random.default_rng(seed).choice(total, number, replace=False))


def embed(layers: list[torch.Tensor], channels: np.ndarray, interpolation: str) -> torch.Tensor:
    """Chosen channels of all layers on the grid of the first layer.

    Channels are selected before a layer is enlarged, so the full concatenation never exists.

    Args:
        layers: (B, h, w, C) float32 each, shallow to deep.
        channels: sorted indices into the concatenation of all layers.
        interpolation: `nearest` or `bilinear`.

    Returns:
        (h·w, B, d) float32: positions first, as the Gaussians want them.
    """
    height, width = layers[0].shape[1:3]
    parts, first = [], 0
    for layer in layers:
        own = channels[(channels >= first) & (channels < first + layer.shape[-1])] - first
        first += layer.shape[-1]
        if len(own) == 0:
            continue
        part = layer[..., torch.from_numpy(own).to(layer.device)].permute(0, 3, 1, 2)  # B×d'×h'×w'
        if part.shape[2:] != (height, width):
            corners = {"align_corners": False} if interpolation == "bilinear" else {}
            part = functional.interpolate(part, (height, width), mode=interpolation, **corners)
        parts.append(part)
    return torch.cat(parts, 1).flatten(2).permute(2, 0, 1)  # (h·w)×B×d


def batch_size() -> int:
    """Images a forward pass. On a CPU four stay in its caches: measured 6.8 ms an image, 8.3 with 16, 10 with 32."""
    return 4 if torch_device() == "cpu" else 64


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


def fitted_positions(count: int, fraction: float) -> np.ndarray:
    """Positions of the good images that are fitted on, ascending: a fixed random share of `count`, int64."""
    keep = max(3, round(count * fraction))
    return np.arange(count) if keep >= count else np.sort(np.random.default_rng(0).permutation(count)[:keep])


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


def measured_scale(features: torch.Tensor) -> float:
    """The scalar that brings (P, N, d) features to `REFERENCE_VARIANCE`; 1 when they do not vary at all."""
    variance = float(torch.stack([chunk.var(1).double().mean() for chunk in features.split(256)]).mean())
    return float(np.sqrt(REFERENCE_VARIANCE / variance)) if variance > 0 else 1.0


def _maps(distances: torch.Tensor, model: Padim, side: tuple[int, int]) -> np.ndarray:
    """Distances on the grid, (P, B), to smoothed maps (B, H, W) at the size of the images."""
    grids = distances.mT.reshape(-1, 1, *model.grid)
    maps = functional.interpolate(grids, side, mode="bilinear", align_corners=False)[:, 0].cpu().numpy()
    return smooth(maps, model.settings.sigma)


def smooth(maps: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (N, H, W) float32 maps, σ in pixels, cut at 4σ, edges mirrored (as scipy's default)."""
    if sigma <= 0:
        return maps
    width = 2 * int(4 * sigma + 0.5) + 1
    return np.stack([cv2.GaussianBlur(one, (width, width), sigma, borderType=cv2.BORDER_REFLECT) for one in maps])
