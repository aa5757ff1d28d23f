"""One Gaussian per position of a feature map: fit, Mahalanobis distance, exact leave-one-out.

Defard et al. 2020, eq. 1: with X the centred (N, d) features of one position,
Σ = XᵀX / (N−1) + ε·I, and the squared distance of eq. 2 is δᵀ Σ⁻¹ δ, δ = x − μ.

Two shapes of the same algebra:

* direct, N ≥ d: Σ = L Lᵀ, distance ‖L⁻¹δ‖². Stores L⁻¹, (d, d) per position.
* dual, N < d: X spans at most N−1 directions, so by the Woodbury identity, exactly,
  δᵀ Σ⁻¹ δ = (‖δ‖² − ‖Aδ‖²) / ε with A = L⁻¹X, L Lᵀ = X Xᵀ + (N−1)·ε·I. Stores A, (N, d) per position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mvtec_ad.errors import DataError

# Positions treated together: bounds the float64 scratch memory of a step, 64 positions of 550×550 are 155 MB.
CHUNK = 64


@dataclass(frozen=True)
class PositionGaussians:
    """A Gaussian per position.

    Attributes:
        mean: (P, d) float32, μ.
        factor: (P, d, d) float32 L⁻¹ in the direct shape, (P, N, d) float32 A in the dual one.
        ridge: ε, in units of feature variance.
        dual: which shape `factor` has.
    """

    mean: torch.Tensor
    factor: torch.Tensor
    ridge: float
    dual: bool

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        """Mahalanobis distance (eq. 2) of features to the Gaussian of their position.

        Args:
            features: (P, B, d) float32.

        Returns:
            (P, B) float32, ≥ 0. In the dual shape the images that were fitted lose digits to a subtraction: use
            `leave_one_out` for them.
        """
        delta = features - self.mean[:, None]  # P×B×d
        projected = torch.bmm(delta, self.factor.mT)  # P×B×(d or N)
        squared = projected.square().sum(-1)
        if self.dual:
            squared = (delta.square().sum(-1) - squared) / self.ridge
        return squared.clamp_min(0).sqrt()


def fit(features: torch.Tensor, ridge: float) -> PositionGaussians:
    """Fit one Gaussian per position.

    Args:
        features: (P, N, d) float32, N ≥ 2 images.
        ridge: ε > 0, in units of feature variance.

    Raises:
        DataError: fewer than two images: there is no covariance.
    """
    _at_least(2, features, "fit a covariance")
    dual = features.shape[1] < features.shape[2]
    mean = features.mean(1)
    factors = [_factor(centred, _scatter(centred, dual), ridge, dual) for _, centred in _chunks(features, mean)]
    return PositionGaussians(mean, torch.cat(factors), ridge, dual)


def leave_one_out(features: torch.Tensor, ridge: float) -> torch.Tensor:
    """Distance of every image to the Gaussian of all the others, without fitting N times.

    Leaving image i out changes the scatter by one outer product, S₋ᵢ = S − N/(N−1)·δᵢδᵢᵀ, and moves the mean, so
    that xᵢ − μ₋ᵢ = N/(N−1)·δᵢ. With B = S/(N−2) + ε·I, qᵢ = δᵢᵀB⁻¹δᵢ and c = N/((N−1)(N−2)), Sherman–Morrison gives

        d²ᵢ = (N/(N−1))² · qᵢ / (1 − c·qᵢ).

    These are scores of normal images that the model was not fitted on: what a threshold needs. In the dual shape
    the Gram matrix is single precision: exact to 1e-5 while the variance of the features stays below 500·ε.

    Args:
        features: (P, N, d) float32, N ≥ 3.
        ridge: ε, as in `fit`.

    Returns:
        (P, N) float32.

    Raises:
        DataError: fewer than three images.
    """
    _at_least(3, features, "hold one out")
    dual = features.shape[1] < features.shape[2]
    chunks = _chunks(features, features.mean(1))
    return torch.cat([_left_out(centred, _scatter(centred, dual), ridge, dual) for _, centred in chunks])


def leave_one_out_and_fit(features: torch.Tensor, ridge: float) -> tuple[torch.Tensor, PositionGaussians]:
    """`leave_one_out` and `fit` from one pass over the features, which are lost.

    The costly product of the features with themselves is formed once, and the dual factor, as large as the features,
    is built in their memory.

    Args:
        features: (P, N, d) float32, N ≥ 3; overwritten in the dual shape.
        ridge: ε.

    Returns:
        (P, N) float32 distances of images left out, and the fitted Gaussians.

    Raises:
        DataError: fewer than three images.
    """
    _at_least(3, features, "hold one out")
    positions, count, dimension = features.shape
    dual = count < dimension
    mean = features.mean(1)
    factor = features if dual else features.new_empty(positions, dimension, dimension)
    held_out = features.new_empty(positions, count)
    for chunk, centred in _chunks(features, mean):
        scatter = _scatter(centred, dual)
        held_out[chunk] = _left_out(centred, scatter, ridge, dual)
        factor[chunk] = _factor(centred, scatter, ridge, dual)
    return held_out, PositionGaussians(mean, factor, ridge, dual)


def _at_least(needed: int, features: torch.Tensor, purpose: str) -> None:
    if features.shape[1] < needed:
        raise DataError(f"{features.shape[1]} good images are too few to {purpose}: give at least {needed}")


def _chunks(features: torch.Tensor, mean: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Centred features of some positions at a time."""
    for start in range(0, len(features), CHUNK):
        chunk = slice(start, start + CHUNK)
        yield chunk, features[chunk] - mean[chunk, None]


def _scatter(centred: torch.Tensor, dual: bool) -> torch.Tensor:
    """XᵀX (P, d, d) in the direct shape, the Gram matrix XXᵀ (P, N, N) in the dual one; float64."""
    if dual:
        return (centred @ centred.mT).double()
    centred = centred.double()
    return centred.mT @ centred


def _ridged_cholesky(scatter: torch.Tensor, divisor: float, ridge: float) -> torch.Tensor:
    """L of scatter / divisor + ridge·I."""
    matrix = scatter / divisor
    matrix.diagonal(dim1=-2, dim2=-1).add_(ridge)
    return torch.linalg.cholesky(matrix)


def _factor(centred: torch.Tensor, scatter: torch.Tensor, ridge: float, dual: bool) -> torch.Tensor:
    """L⁻¹ of Σ in the direct shape, A = L⁻¹X in the dual one, float32."""
    count = centred.shape[1]
    if dual:
        lower = _ridged_cholesky(scatter, 1, (count - 1) * ridge)
        return torch.linalg.solve_triangular(lower.float(), centred, upper=False)
    lower = _ridged_cholesky(scatter, count - 1, ridge)
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, identity, upper=False).float()


def _left_out(centred: torch.Tensor, scatter: torch.Tensor, ridge: float, dual: bool) -> torch.Tensor:
    """Distances of `leave_one_out`, (P, N) float32.

    In the dual shape q = (N−2)·(1 − λh) with λ = (N−2)·ε and h the diagonal of (XXᵀ + λI)⁻¹.
    """
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
