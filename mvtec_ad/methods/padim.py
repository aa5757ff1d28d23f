"""PaDiM: one Gaussian per image position, over the features of a frozen network.

Defard, Setkov, Loesch, Audigier, "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization", 2020 (arXiv:2011.08785). Section III-B: random channels; eq. 1: Σ = XᵀX/(N−1) + εI at each position, X
being the centred features of N good images; eq. 2: the anomaly score is the Mahalanobis distance √(δᵀΣ⁻¹δ), δ = x − μ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvtec_ad.config import option, torch_device
from mvtec_ad.data.loading import batches
from mvtec_ad.data.spool import Spool
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods.base import FeatureDetector, Layers, Scores, grid_maps, peak

# Mean variance, over positions and channels, of ImageNet ResNet-18 features on good MVTec AD bottles: what ε = 0.01 of
# the published recipes is meant beside. The features of other networks are scaled to it.
REFERENCE_VARIANCE = 0.0094
CHUNK = 64  # positions at a time: 64 float64 matrices of 550 × 550 are 155 MB
CHUNK_NUMBERS = 2**23  # features at a time, at most: 67 MB as float64
Part = Callable[[slice], Tensor]  # positions -> their features (p, N, d)


@dataclass
class Padim(FeatureDetector):
    """PaDiM: fit on good images, score any image; `good_scores` are leave-one-out.

    Attributes:
        indices: (d,) int64, the channels kept of all layers, sorted.
        gaussians: one a position.
        grid: height and width in positions.
        scale: factor on the features, 1 for published recipes.

    Examples:
        >>> good = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
        >>> detector = Padim(weights="random", channels=4, image_size=32, crop=32).fit(good, seed=0)
        >>> detector.score(good[:2]).maps.shape
        (2, 32, 32)
    """

    channels: int = option(100, "d of section III-B: random channels kept of all layers", least=1, most=1_000_000)
    ridge: float = option(0.01, "ε of eq. 1, in units of feature variance", above=0, most=1e6)
    sigma: float = option(4.0, "Gaussian smoothing of the anomaly map, pixels", least=0, most=1000)
    interpolation: str = option(
        "nearest", "how deeper layers reach the grid of the first", among=("nearest", "bilinear")
    )
    fit_fraction: float = option(1.0, "share of the good images that is fitted on", above=0, most=1)
    feature_scale: float | None = option(
        None, "factor on the features; none: 1 for the networks of published recipes, else measured", above=0, most=1e6
    )

    name: ClassVar = "padim"
    PRESETS: ClassVar = {
        "default": {},
        # The options of the most-cited PyTorch implementation, for the two backbones of the paper.
        "resnet18": {"backbone": "resnet18"},
        "wide_resnet50": {"backbone": "wide_resnet50_2", "channels": 550},
        # The TensorFlow notebook whose figures are published under keras:resnet50; it smooths its 64×64 map with σ = 4
        # cells, and a cell is 4 pixels here.
        "keras": {
            "backbone": "keras:resnet50",
            "crop": 256,
            "sigma": 16.0,
            "interpolation": "bilinear",
            "fit_fraction": 0.8,
        },
    }
    PRESETS |= {
        "quick": {"image_size": 192, "crop": 192, "sigma": 3.0, "channels": 50},
        "full": PRESETS["keras"],
    }

    def fitted(self, count: int) -> np.ndarray:
        """A fixed random share of the good images."""
        keep = max(3, round(count * self.fit_fraction))
        return np.arange(count) if keep >= count else np.sort(np.random.default_rng(0).permutation(count)[:keep])

    def fit_batches(
        self, seen: Iterable[Layers], count: int, seed: int, checkpoints: Path | None, progress: bool
    ) -> None:
        """Draw channels, gather their features, fit a Gaussian at each position and score each image without itself."""
        features = Spool(count)  # N×P×d
        for layers in seen:
            if len(features.shape) == 1:
                total = sum(layer.shape[-1] for layer in layers)
                self.indices = draw_channels(total, min(self.channels, total), seed)
                self.grid = tuple(layers[0].shape[1:3])
            features.append(self.embed(layers).transpose(0, 1).cpu().numpy())
        shape = features.shape[1], count, features.shape[2]

        def part(positions: slice) -> Tensor:
            return torch.from_numpy(features.columns(positions)).to(torch_device()).transpose(0, 1).contiguous()

        self.scale = self.feature_scale or (1.0 if self.network.raw else measured_scale(shape, part))
        held_out, self.gaussians = leave_one_out_and_fit(shape, lambda chunk: part(chunk) * self.scale, self.ridge)
        parts = [self.scores(held_out[:, images]).image for images in batches(count, self.batch())]
        self.good_scores = np.concatenate(parts)

    def score_batch(self, layers: Layers) -> Scores:
        """Maps are smoothed distances, the image score is the largest value of its map."""
        if tuple(layers[0].shape[1:3]) != self.grid:
            raise SettingsError(f"layers of {layers[0].shape[1:3]} positions, fitted on {self.grid}: fit again")
        return self.scores(self.gaussians.distance(self.embed(layers) * self.scale))

    def embed(self, layers: Layers) -> Tensor:
        """The chosen channels of all layers on the grid of the first, (P, B, d).

        Channels are selected before a layer is enlarged, so the full concatenation never exists.
        """
        parts, first = [], 0
        for layer in layers:
            indices = self.indices[(self.indices >= first) & (self.indices < first + layer.shape[-1])] - first
            first += layer.shape[-1]
            if len(indices) == 0:
                continue
            part = layer.index_select(3, torch.tensor(indices, device=layer.device)).permute(0, 3, 1, 2)  # B×d'×h'×w'
            if part.shape[2:] != layers[0].shape[1:3]:
                corners = {"align_corners": False} if self.interpolation == "bilinear" else {}
                part = F.interpolate(part, layers[0].shape[1:3], mode=self.interpolation, **corners)
            parts.append(part)
        return torch.cat(parts, 1).flatten(2).permute(2, 0, 1)  # P×B×d

    def scores(self, distances: Tensor) -> Scores:
        """Distances (P, B) as smoothed maps of the images' size and their largest values."""
        maps = grid_maps(distances.mT.reshape(-1, *self.grid), self.crop, self.sigma)
        return Scores(peak(maps), maps)

    def state(self) -> dict[str, Any]:
        """Channels, grid, scale and Gaussians; of a direct factor the lower triangle, the half that is not zero."""
        factor = self.gaussians.factor
        if not self.gaussians.dual:
            rows, columns = torch.tril_indices(factor.shape[1], factor.shape[2])
            factor = factor[:, rows, columns]
        gaussians = {"mean": self.gaussians.mean, "factor": factor, "dual": self.gaussians.dual}
        more = {"channels": self.indices, "grid": self.grid, "scale": self.scale}
        return {**gaussians, **more, "good_scores": self.good_scores, "seed": self.seed}

    def load_state(self, state: dict[str, Any]) -> Padim:
        """The inverse of `state`."""
        self.indices, self.grid, self.scale = state["channels"], tuple(state["grid"]), float(state["scale"])
        mean, factor = (torch.as_tensor(state[key]).to(torch_device()) for key in ("mean", "factor"))
        positions, number = int(np.prod(self.grid)), len(self.indices)
        wanted = (positions, factor.shape[1], number) if state["dual"] else (positions, number * (number + 1) // 2)
        if mean.shape != (positions, number) or factor.shape != wanted:
            raise ValueError(f"mean and factor of {positions} positions and {number} channels have other shapes")
        if not state["dual"]:
            full = mean.new_zeros(len(mean), mean.shape[1], mean.shape[1])
            rows, columns = torch.tril_indices(mean.shape[1], mean.shape[1])
            full[:, rows, columns] = factor
            factor = full
        self.gaussians = Gaussians(mean, factor, self.ridge, bool(state["dual"]))
        return super().load_state(state)


def draw_channels(total: int, number: int, seed: int) -> np.ndarray:
    """The random channel subset of section III-B: `number` of `total` indices, sorted, int64.

    Examples:
        >>> draw_channels(448, 3, seed=0)
        array([228, 284, 379])
    """
    if number > total:
        raise SettingsError(f"{number} channels asked for, the backbone has {total}: choose at most {total}")
    return np.sort(np.random.default_rng(seed).choice(total, number, replace=False))


def measured_scale(shape: tuple[int, int, int], part: Part) -> float:
    """The scalar that brings (P, N, d) features to `REFERENCE_VARIANCE`; 1 when they do not vary at all."""
    variances = torch.cat([part(chunk).var(1) for chunk in _chunks(shape)])
    variance = float(torch.stack([chunk.double().mean() for chunk in variances.split(256)]).mean())
    return float(np.sqrt(REFERENCE_VARIANCE / variance)) if variance > 0 else 1.0


def _chunks(shape: tuple[int, int, int]) -> Iterator[slice]:
    """Positions that are looked at together."""
    positions, count, dimension = shape
    return batches(positions, min(CHUNK, max(1, CHUNK_NUMBERS // (count * dimension))))


# --- the algebra ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gaussians:
    """A Gaussian per position, in one of two shapes of the same algebra.

    direct, N ≥ d: Σ = LLᵀ, squared distance ‖L⁻¹δ‖²; `factor` is L⁻¹, (P, d, d).
    dual, N < d: X spans at most N−1 directions, so by the Woodbury identity, exactly, δᵀΣ⁻¹δ = (‖δ‖² − ‖Aδ‖²)/ε with
    A = L⁻¹X, LLᵀ = XXᵀ + (N−1)εI; `factor` is A, (P, N, d).

    Attributes:
        mean: (P, d) float32, μ.
        factor: float32, L⁻¹ or A.
        ridge: ε, in units of feature variance.
        dual: which shape `factor` has.
    """

    mean: Tensor
    factor: Tensor
    ridge: float
    dual: bool

    def distance(self, features: Tensor) -> Tensor:
        """Mahalanobis distance (eq. 2) of features (P, B, d) to the Gaussian of their position, (P, B) float32, ≥ 0.

        In the dual shape the images that were fitted lose digits to a subtraction: use `leave_one_out` for them.
        """
        delta = features - self.mean[:, None]  # P×B×d
        squared = torch.bmm(delta, self.factor.mT).square().sum(-1)
        if self.dual:
            squared = (delta.square().sum(-1) - squared) / self.ridge
        return squared.clamp_min(0).sqrt()


def fit_gaussians(features: Tensor, ridge: float) -> Gaussians:
    """One Gaussian per position (eq. 1) of features (P, N, d) float32, N ≥ 2.

    Examples:
        >>> features = torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(0))
        >>> fit_gaussians(features, ridge=0.01).distance(features).shape
        torch.Size([1, 20])
    """
    return leave_one_out_and_fit(features.shape, features.__getitem__, ridge, least=2)[1]


def leave_one_out(features: Tensor, ridge: float) -> Tensor:
    """Distance of every image to the Gaussian of all the others, (P, N), of features (P, N, d), N ≥ 3."""
    return leave_one_out_and_fit(features.shape, features.__getitem__, ridge)[0]


def leave_one_out_and_fit(
    shape: tuple[int, int, int], part: Part, ridge: float, least: int = 3
) -> tuple[Tensor, Gaussians]:
    """Distance of every image to the Gaussian of all the others, (P, N), and the Gaussian of all of them.

    Nothing is fitted twice. Leaving image i out changes the scatter by one outer product, S₋ᵢ = S − N/(N−1)·δᵢδᵢᵀ, and
    moves the mean, so that xᵢ − μ₋ᵢ = N/(N−1)·δᵢ. With B = S/(N−2) + εI, qᵢ = δᵢᵀB⁻¹δᵢ and c = N/((N−1)(N−2)),
    Sherman–Morrison gives d²ᵢ = (N/(N−1))²·qᵢ/(1 − c·qᵢ). These are scores of good images that the model has not seen:
    what a threshold needs. In the dual shape the Gram matrix is single precision: exact to 1e-5 while the variance of
    the features stays below 500·ε.

    Features have the shape (P, N, d), and `part` gives those of some positions, float32. Of `least` = 2 images the
    distances are left empty.
    """
    positions, count, dimension = shape
    if count < least:
        what = "hold one out" if least > 2 else "fit a covariance"
        raise DataError(f"{count} good images are too few to {what}: give at least {least}")
    dual = count < dimension
    new = part(slice(0, 0)).new_empty
    mean, held_out = new(positions, dimension), new(positions, count)
    factor = new(positions, count if dual else dimension, dimension)
    for chunk in _chunks(shape):
        features = part(chunk)
        mean[chunk] = features.mean(1)
        centred = features - mean[chunk, None]
        scatter = (centred @ centred.mT).double() if dual else centred.double().mT @ centred.double()
        if count > 2:
            held_out[chunk] = _left_out(centred, scatter, ridge, dual)
        factor[chunk] = _factor(centred, scatter, ridge, dual)
    return held_out, Gaussians(mean, factor, ridge, dual)


def _factor(centred: Tensor, scatter: Tensor, ridge: float, dual: bool) -> Tensor:
    """L⁻¹ of Σ in the direct shape, A = L⁻¹X in the dual one, float32."""
    count = centred.shape[1]
    if dual:
        lower = _ridged_cholesky(scatter, 1, (count - 1) * ridge)
        return torch.linalg.solve_triangular(lower.float(), centred, upper=False)
    lower = _ridged_cholesky(scatter, count - 1, ridge)
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, identity, upper=False).float()


def _left_out(centred: Tensor, scatter: Tensor, ridge: float, dual: bool) -> Tensor:
    """Distances of images left out, (P, N); in the dual shape q = (N−2)(1 − λh), λ = (N−2)ε, h = diag (XXᵀ + λI)⁻¹."""
    count = centred.shape[1]
    if dual:
        strength = (count - 2) * ridge
        lower = _ridged_cholesky(scatter, 1, strength)
        remainder = strength * torch.cholesky_inverse(lower).diagonal(dim1=-2, dim2=-1)  # 1/N < λh ≤ 1
        inside = (count - 2) * (1 - remainder)
        shrink = (count * remainder - 1) / (count - 1)  # 1 − c·q, without the cancellation
    else:
        lower = _ridged_cholesky(scatter, count - 2, ridge)
        inside = torch.linalg.solve_triangular(lower, centred.double().mT, upper=False).square().sum(-2)  # q, P×N
        shrink = 1 - count / ((count - 1) * (count - 2)) * inside
    return ((count / (count - 1)) ** 2 * inside / shrink).float().clamp_min(0).sqrt()


def _ridged_cholesky(scatter: Tensor, divisor: float, ridge: float) -> Tensor:
    """L of scatter / divisor + ridge·I."""
    matrix = scatter / divisor
    matrix.diagonal(dim1=-2, dim2=-1).add_(ridge)
    try:
        return torch.linalg.cholesky(matrix)
    except torch.linalg.LinAlgError as problem:
        raise SettingsError("the ridge is lost beside features of this size: choose a larger one") from problem
