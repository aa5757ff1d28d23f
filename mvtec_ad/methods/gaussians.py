"""One Gaussian per position of a feature map: fit, Mahalanobis distance, exact leave-one-out.

Defard et al. 2020, eq. 1: with X the centred (N, d) features of one position,
Σ = XᵀX / (N−1) + ε·I, and the squared distance of eq. 2 is δᵀ Σ⁻¹ δ, δ = x − μ.

Two shapes of the same algebra:

* direct, N ≥ d: Σ = L Lᵀ, distance ‖L⁻¹δ‖². Stores L⁻¹, (d, d) per position.
* dual, N < d: X spans at most N−1 directions, so by the Woodbury identity, exactly,
  δᵀ Σ⁻¹ δ = (‖δ‖² − ‖Aδ‖²) / ε with A = L⁻¹X, L Lᵀ = X Xᵀ + (N−1)·ε·I. Stores A, (N, d) per position.
"""

from __future__ import annotations

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


def fit(features: torch.Tensor, ridge: float, *, overwrite: bool = False) -> PositionGaussians:
    """Fit one Gaussian per position.

    Args:
        features: (P, N, d) float32, N ≥ 2 images.
        ridge: ε > 0, in units of feature variance.
        overwrite: build the dual factor in the memory of `features`, which are lost.

    Raises:
        DataError: fewer than two images: there is no covariance.
    """
    positions, count, dimension = features.shape
    if count < 2:
        raise DataError(f"{count} good image is too few to fit a covariance: give at least 2")
    dual = count < dimension
    mean = features.mean(1)
    rows = count if dual else dimension
    factor = features if dual and overwrite else features.new_empty(positions, rows, dimension)
    step = _dual_factor if dual else _direct_factor
    for start in range(0, positions, CHUNK):
        chunk = slice(start, start + CHUNK)
        factor[chunk] = step(features[chunk] - mean[chunk, None], ridge)
    return PositionGaussians(mean, factor, ridge, dual)


def _direct_factor(centred: torch.Tensor, ridge: float) -> torch.Tensor:
    """L⁻¹ of Σ, from centred features (P, N, d); float64 inside."""
    centred = centred.double()
    covariance = centred.mT @ centred / (centred.shape[1] - 1)
    covariance.diagonal(dim1=-2, dim2=-1).add_(ridge)
    lower = torch.linalg.cholesky(covariance)
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, identity, upper=False).float()


def _dual_factor(centred: torch.Tensor, ridge: float) -> torch.Tensor:
    """A = L⁻¹X of the module's docstring, from centred features (P, N, d)."""
    count = centred.shape[1]
    gram = (centred @ centred.mT).double()
    gram.diagonal(dim1=-2, dim2=-1).add_((count - 1) * ridge)
    lower = torch.linalg.cholesky(gram)
    return torch.linalg.solve_triangular(lower.float(), centred, upper=False)


def leave_one_out(features: torch.Tensor, ridge: float) -> torch.Tensor:
    """Distance of every image to the Gaussian of all the others, without fitting N times.

    Leaving image i out changes the scatter by one outer product, S₋ᵢ = S − N/(N−1)·δᵢδᵢᵀ, and moves the mean, so
    that xᵢ − μ₋ᵢ = N/(N−1)·δᵢ. With B = S/(N−2) + ε·I, qᵢ = δᵢᵀB⁻¹δᵢ and c = N/((N−1)(N−2)), Sherman–Morrison gives

        d²ᵢ = (N/(N−1))² · qᵢ / (1 − c·qᵢ).

    These are scores of normal images that the model was not fitted on: what a threshold needs.

    Args:
        features: (P, N, d) float32, N ≥ 3.
        ridge: ε, as in `fit`.

    Returns:
        (P, N) float32.

    Raises:
        DataError: fewer than three images.
    """
    positions, count, dimension = features.shape
    if count < 3:
        raise DataError(f"{count} good images are too few to hold one out: give at least 3")
    step = _dual_leave_one_out if count < dimension else _direct_leave_one_out
    squared = features.new_empty(positions, count)
    for start in range(0, positions, CHUNK):
        chunk = features[start : start + CHUNK]
        squared[start : start + CHUNK] = step(chunk - chunk.mean(1, keepdim=True), ridge)
    return squared.clamp_min(0).sqrt()


def _direct_leave_one_out(centred: torch.Tensor, ridge: float) -> torch.Tensor:
    centred = centred.double()
    count = centred.shape[1]
    matrix = centred.mT @ centred / (count - 2)
    matrix.diagonal(dim1=-2, dim2=-1).add_(ridge)
    lower = torch.linalg.cholesky(matrix)
    inside = torch.linalg.solve_triangular(lower, centred.mT, upper=False).square().sum(-2)  # q, P×N
    shrink = 1 - count / ((count - 1) * (count - 2)) * inside
    return ((count / (count - 1)) ** 2 * inside / shrink).float()


def _dual_leave_one_out(centred: torch.Tensor, ridge: float) -> torch.Tensor:
    """The same through the (N, N) Gram matrix G: q = (N−2)·(1 − λh), λ = (N−2)·ε, h = diag (G + λI)⁻¹."""
    count = centred.shape[1]
    strength = (count - 2) * ridge
    gram = (centred @ centred.mT).double()
    gram.diagonal(dim1=-2, dim2=-1).add_(strength)
    diagonal = torch.cholesky_inverse(torch.linalg.cholesky(gram)).diagonal(dim1=-2, dim2=-1)
    remainder = strength * diagonal  # 1/N < λh ≤ 1
    inside = (count - 2) * (1 - remainder)
    shrink = (count * remainder - 1) / (count - 1)  # 1 − c·q, without the cancellation
    return ((count / (count - 1)) ** 2 * inside / shrink).float()
