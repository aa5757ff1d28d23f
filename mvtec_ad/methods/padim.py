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
from mvtec_ad.methods.base import FeatureDetector, Layers, Scores, grid_maps, hashes_state, load_hashes, peak

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
    updates: ClassVar = True
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
        shape, part = self.gathered(seen, count, seed)
        self.scale, self.gaussians, self.good_scores = self.fit_features(shape, part)

    def fit_features(self, shape: tuple[int, int, int], part: Part) -> tuple[float, Gaussians, np.ndarray]:
        """Scale, Gaussians and leave-one-out scores of features as the network gives them."""
        scale = self.feature_scale or (1.0 if self.network.raw else measured_scale(shape, part))
        # scaled in double precision: what is kept then loses digits of deviations from the mean, not of whole features
        held_out, gaussians = leave_one_out_and_fit(shape, lambda chunk: part(chunk).double() * scale, self.ridge)
        return scale, gaussians, self.image_scores(held_out)

    def gathered(
        self, seen: Iterable[Layers], count: int, seed: int | None = None
    ) -> tuple[tuple[int, int, int], Part]:
        """Shape (P, N, d) of the features of `count` images, and a function that gives those of some positions; with a
        seed the channels are drawn first."""
        features = Spool(count)  # N×P×d
        for layers in seen:
            if len(features.shape) == 1 and seed is not None:
                total = sum(layer.shape[-1] for layer in layers)
                self.indices = draw_channels(total, min(self.channels, total), seed)
                self.grid = tuple(layers[0].shape[1:3])
            self.check_grid(layers)
            features.append(self.embed(layers).transpose(0, 1).cpu().numpy())

        def part(positions: slice) -> Tensor:
            return torch.from_numpy(features.columns(positions)).to(torch_device()).transpose(0, 1).contiguous()

        return (features.shape[1], count, features.shape[2]), part

    def image_scores(self, held_out: Tensor) -> np.ndarray:
        """Scores (N,) of images from their distances (P, N)."""
        parts = batches(held_out.shape[1], self.batch())
        return np.concatenate([self.scores(held_out[:, images]).image for images in parts])

    def add_batches(self, seen: Iterable[Layers], count: int, progress: bool) -> int:
        """The Gaussians of a fit on old and new images together: exact, up to the rounding of what a state holds.

        In the dual shape the features of all images come back from the state: they are fitted again, and all scores
        are those of a refit. In the direct shape it holds mean and covariance, which new images change in closed form
        (`changed`); these are scored without themselves, the old ones keep the scores that they had.
        """
        shape, part = self.gathered(seen, count)
        if not self.gaussians.dual:
            return self.change(part, count)
        old = len(self.good_scores)

        def features(chunk: slice) -> Tensor:
            return torch.cat([self.features(chunk), part(chunk)], 1)

        self.scale, self.gaussians, self.good_scores = self.fit_features((shape[0], old + count, shape[2]), features)
        return old + count

    def remove_batches(self, seen: Iterable[Layers], positions: np.ndarray, progress: bool) -> int:
        """The Gaussians of a fit on the other images; as `add_batches`."""
        rest = np.delete(np.arange(len(self.good_scores)), positions)
        if not self.gaussians.dual:
            scores = self.good_scores[rest]
            self.change(self.gathered(seen, len(positions))[1], -len(positions))
            self.good_scores = scores
            return 0
        shape = len(self.gaussians.mean), len(rest), len(self.indices)
        fitted = self.fit_features(shape, lambda chunk: self.features(chunk)[:, rest])
        self.scale, self.gaussians, self.good_scores = fitted
        return len(rest)

    def features(self, chunk: slice) -> Tensor:
        """Features (p, N, d) of the images fitted in the dual shape, as the network gave them."""
        return (self.gaussians.features(chunk) / self.scale).float()

    def change(self, part: Part, number: int) -> int:
        """`changed` Gaussians of the direct shape, and the scores of new images beside the old ones."""
        measure = self.feature_scale is None and not self.network.raw
        old, scale = len(self.good_scores), self.scale
        held_out, gaussians, factor = changed(
            self.gaussians, old, lambda chunk: part(chunk) * scale, number, measure=measure
        )
        new = self.image_scores(held_out) if number > 0 else np.empty(0, np.float32)
        self.gaussians, self.scale, self.good_scores = gaussians, scale * factor, np.append(self.good_scores, new)
        return len(new)

    def score_batch(self, layers: Layers) -> Scores:
        """Maps are smoothed distances, the image score is the largest value of its map."""
        self.check_grid(layers)
        return self.scores(self.gaussians.distance(self.embed(layers) * self.scale))

    def check_grid(self, layers: Layers) -> None:
        """Refuse layers of another grid than was fitted on."""
        if tuple(layers[0].shape[1:3]) != self.grid:
            raise SettingsError(f"layers of {layers[0].shape[1:3]} positions, fitted on {self.grid}: fit again")

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
        """Channels, grid, scale and Gaussians; of a direct factor the lower triangle, the half that is not zero.

        An update begins with what is written here. From L⁻¹ in float32 the covariance comes back to 2e-7 (measured on
        real bottles, capsules and metal nuts). From A it would to 3e-5, so the dual shape keeps L too, from which the
        features come back; and in both, what float32 takes from the mean is kept beside it.
        """
        factor = self.gaussians.factor
        if not self.gaussians.dual:
            rows, columns = torch.tril_indices(factor.shape[1], factor.shape[2])
            factor = factor[:, rows, columns]
        gaussians = {"mean": self.gaussians.mean, "factor": factor, "dual": self.gaussians.dual}
        more = {"channels": self.indices, "grid": self.grid, "scale": self.scale}
        if self.hashes:  # else nothing can be updated
            more |= {"mean_rest": self.gaussians.mean_rest, **hashes_state(self.hashes)}
            more |= {"root": self.gaussians.root} if self.gaussians.dual else {}
        return {**gaussians, **more, "good_scores": self.good_scores, "seed": self.seed}

    def load_state(self, state: dict[str, Any]) -> Padim:
        """The inverse of `state`."""
        self.hashes = load_hashes(state)
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
        needed = [] if not self.hashes else ["mean_rest", "root"] if state["dual"] else ["mean_rest"]
        more = {key: torch.as_tensor(state[key]).to(mean.device) for key in needed}
        for key, width in (("mean_rest", number), ("root", factor.shape[1] * (factor.shape[1] + 1) // 2)):
            if key in more and more[key].shape != (positions, width):
                raise ValueError(f"{key} has shape {tuple(more[key].shape)}")
        self.gaussians = Gaussians(mean, factor, self.ridge, bool(state["dual"]), **more)
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
    variances = torch.cat([part(chunk).double().var(1) for chunk in _chunks(shape)])
    variance = float(variances.mean())
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
        mean_rest: (P, d) float32, what rounding took from the mean; None in what an earlier version wrote.
        root: (P, N(N+1)/2) float32, the lower triangle of L in the dual shape, else None.
    """

    mean: Tensor
    factor: Tensor
    ridge: float
    dual: bool
    mean_rest: Tensor | None = None
    root: Tensor | None = None

    def moments(self, count: int, chunk: slice) -> tuple[Tensor, Tensor]:
        """Mean (p, d) and scatter XᵀX (p, d, d) of the N = `count` images fitted, float64, of the direct shape."""
        inverse = self.factor[chunk].double()
        identity = torch.eye(inverse.shape[-1], dtype=inverse.dtype, device=inverse.device)
        lower = torch.linalg.solve_triangular(inverse, identity.expand_as(inverse), upper=False)
        return self.mean[chunk].double() + self.mean_rest[chunk], (count - 1) * (
            lower @ lower.mT - self.ridge * identity
        )

    def features(self, chunk: slice) -> Tensor:
        """Features (p, N, d) float64 that the dual shape was fitted on: X = L·A, and the mean."""
        factor = self.factor[chunk].double()
        lower = factor.new_zeros(len(factor), factor.shape[1], factor.shape[1])
        rows, columns = torch.tril_indices(factor.shape[1], factor.shape[1])
        lower[:, rows, columns] = self.root[chunk].double()
        return lower @ factor + (self.mean[chunk].double() + self.mean_rest[chunk])[:, None]

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

    Features have the shape (P, N, d), and `part` gives those of some positions. Of `least` = 2 images the
    distances are left empty.
    """
    positions, count, dimension = shape
    if count < least:
        what = "hold one out" if least > 2 else "fit a covariance"
        raise DataError(f"{count} good images are too few to {what}: give at least {least}")
    dual = count < dimension
    new = part(slice(0, 0)).float().new_empty
    mean, mean_rest, held_out = new(positions, dimension), new(positions, dimension), new(positions, count)
    factor = new(positions, count if dual else dimension, dimension)
    root = new(positions, count * (count + 1) // 2) if dual else None
    for chunk in _chunks(shape):
        features = part(chunk)
        exact = features.double().mean(1)
        mean[chunk] = exact.float()
        mean_rest[chunk] = (exact - mean[chunk]).float()
        centred = (features - mean[chunk, None]).float()
        scatter = (centred @ centred.mT).double() if dual else centred.double().mT @ centred.double()
        if count > 2:
            held_out[chunk] = _left_out(centred, scatter, ridge, dual, count)
        if dual:
            lower = _ridged_cholesky(scatter, 1, (count - 1) * ridge).float()
            factor[chunk] = torch.linalg.solve_triangular(lower, centred, upper=False)  # A = L⁻¹X
            rows, columns = torch.tril_indices(count, count)
            root[chunk] = lower[:, rows, columns]
        else:
            factor[chunk] = _inverse_root(scatter, count, ridge)
    return held_out, Gaussians(mean, factor, ridge, dual, mean_rest, root)


def changed(
    gaussians: Gaussians, count: int, part: Part, number: int, *, measure: bool = False
) -> tuple[Tensor, Gaussians, float]:
    """The direct Gaussians of `count` images after `number` more, or after the removal of −`number` of them.

    With mean m and scatter C of the k images that come or go, g = m − μ and N' = N ± k, exactly:
    μ' = μ ± (k/N')·g, and S' = S ± C ± (N·k/N')·g·gᵀ (Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise
    algorithm for computing sample variances"). All of it is float64, but for what the Gaussians hold.

    Args:
        part: gives the features (p, k, d) of some positions, float32, in the scale of the fitted ones.
        measure: bring all features to `REFERENCE_VARIANCE` again, as a fit would.

    Returns:
        Distances of new images to the Gaussian of all the others (P, k), empty in a removal; the Gaussians; and the
        factor that brought features to their scale, 1 without `measure`.
    """
    positions, dimension = gaussians.mean.shape
    total, weight, adds = count + number, number / (count + number), number > 0

    def moments(chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        mean, scatter = gaussians.moments(count, chunk)
        features = part(chunk).double()
        gap = features.mean(1) - mean
        centred = features - features.mean(1, keepdim=True)
        between = count * weight * gap[:, :, None] * gap[:, None]
        within = centred.mT @ centred
        return features, mean + weight * gap, scatter + (within if adds else -within) + between

    chunks, factor = list(_chunks((positions, abs(number), dimension))), 1.0
    if measure:
        traces = [moments(chunk)[2].diagonal(dim1=-2, dim2=-1).sum() for chunk in chunks]
        variance = float(torch.stack(traces).sum()) / ((total - 1) * positions * dimension)
        factor = float(np.sqrt(REFERENCE_VARIANCE / variance)) if variance > 0 else 1.0
    new, inverse = gaussians.mean.new_empty, torch.empty_like(gaussians.factor)
    mean, mean_rest = torch.empty_like(gaussians.mean), torch.empty_like(gaussians.mean)
    held_out = new(positions, number if adds else 0)
    for chunk in chunks:
        features, exact, scatter = moments(chunk)
        exact, scatter = exact * factor, scatter * factor**2
        mean[chunk] = exact.float()
        mean_rest[chunk] = (exact - mean[chunk]).float()
        inverse[chunk] = _inverse_root(scatter, total, gaussians.ridge)
        if adds:
            centred = features * factor - exact[:, None]
            held_out[chunk] = _left_out(centred, scatter, gaussians.ridge, False, total)
    return held_out, Gaussians(mean, inverse, gaussians.ridge, False, mean_rest), factor


def _inverse_root(scatter: Tensor, count: int, ridge: float) -> Tensor:
    """L⁻¹ of Σ, float32."""
    lower = _ridged_cholesky(scatter, count - 1, ridge)
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, identity, upper=False).float()


def _left_out(centred: Tensor, scatter: Tensor, ridge: float, dual: bool, count: int) -> Tensor:
    """Distances of images left out, (P, n), of N = `count` with this scatter, n of which are given, centred; in the
    dual shape, of all, q = (N−2)(1 − λh), λ = (N−2)ε, h = diag (XXᵀ + λI)⁻¹."""
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
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    lost = bool(ridge < torch.finfo(matrix.dtype).eps * diagonal.max())  # where rank is missing, rounding decides then
    diagonal.add_(ridge)
    lower, problems = torch.linalg.cholesky_ex(matrix)
    if lost or problems.any():
        raise SettingsError("the ridge is lost beside features of this size: choose a larger one")
    return lower
