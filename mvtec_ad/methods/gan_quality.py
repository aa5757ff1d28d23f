"""Fréchet distance, precision and recall of drawn digits, in the features of a small network that reads digits.

The measures are those for photographs, with a network of our own in place of Inception: no download, but numbers that
compare only under the same `Judge`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from mvtec_ad.config import torch_device
from mvtec_ad.data.digits import SIDE, Digits
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError
from mvtec_ad.training import Run

BATCH, LR = 128, 3e-3
SHIFT = 2  # pixels that a digit is moved by at most, in training; MNIST has four of paper around it
CHUNK = 500  # rows of distances at a time


class DigitNetwork(nn.Module):
    """Classifier of digits: two strided convolutions, 64 features, ten logits.

    Examples:
        >>> DigitNetwork()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2, bias=False),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 64),
            nn.LeakyReLU(0.2),
        )
        self.last = nn.Linear(64, 10)

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 1, 28, 28) in [−1, 1] -> what the last layer decides on, (B, 64)."""
        return self.body(pixels)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 1, 28, 28) in [−1, 1] -> logits (B, 10)."""
        return self.last(self.features(pixels))


@dataclass
class Judge:
    """A network that learned to read real digits.

    Attributes:
        network: in evaluation mode.
        accuracy: share of held-out real digits that it reads rightly.

    Examples:
        >>> Judge(DigitNetwork().eval(), 0.0).probabilities(np.zeros((2, 28, 28), np.uint8)).shape
        (2, 10)
    """

    network: DigitNetwork
    accuracy: float

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """(N, 28, 28) uint8 -> how probable each digit is, (N, 10) float32, rows add up to 1."""
        return _shown(lambda pixels: self.network(pixels).softmax(1), images)

    def features(self, images: np.ndarray) -> np.ndarray:
        """(N, 28, 28) uint8 -> (N, 64) float32."""
        return _shown(self.network.features, images)


def fit_judge(
    train: Digits,
    test: Digits,
    *,
    steps: int = 400,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Judge:
    """Train a classifier of digits, the judge of drawn ones.

    Args:
        train: to learn from.
        test: to measure the accuracy on; nothing is chosen by it.
        steps: of training, with 128 images each.
        seed: of weights and batches.
        checkpoint: where the run is kept, and gone on from; None keeps nothing.
        progress: show a bar.

    Raises:
        DataError: one of the two is empty or no digits of 28 × 28 pixels.

    Examples:
        >>> digits = Digits(np.zeros((4, 28, 28), np.uint8), np.array([1, 1, 1, 1]), "ones")
        >>> fit_judge(digits, digits, steps=1, progress=False).features(digits.images).shape
        (4, 64)
    """
    for digits in (train, test):
        _check_images(digits.images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitNetwork()
    network.to(torch_device())
    digest = hashlib.sha256(train.images.tobytes() + train.labels.tobytes()).hexdigest()[:16]
    recipe = {"lr": LR, "steps": steps, "seed": seed, "checkpoint": checkpoint, "identity": {"digits": digest}}
    with Run(network, **recipe, description="judge of digits", progress=progress) as run:
        for step in run:
            rng = run.rng(step)
            rows = rng.integers(len(train.images), size=BATCH)
            pixels = _as_tensor(train.images[rows]).roll(tuple(rng.integers(-SHIFT, SHIFT + 1, 2).tolist()), (2, 3))
            run.minimise(F.cross_entropy(network(pixels), torch.from_numpy(train.labels[rows]).to(pixels.device)))
    judge = Judge(network.eval(), 0.0)
    judge.accuracy = float((judge.probabilities(test.images).argmax(1) == test.labels).mean())
    return judge


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance of the normal distributions with the same means and covariances, ≥ 0.

    |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁C₂)^½): the "FID" of Heusel et al. 2017 (arXiv:1706.08500) for any features. The
    square root is never taken: with C = RᵀR, from a QR decomposition of the centred features, its trace is the sum of
    the singular values of R₁R₂ᵀ, and stays exact where a covariance is singular.

    Args:
        first: (N, F) features.
        second: (M, F); N and M should be equal where distances are compared, since fewer samples give larger ones.

    Raises:
        DataError: fewer than two samples, other features in the second, or one that is no number.

    Examples:
        >>> features = np.random.default_rng(0).normal(size=(9, 4))
        >>> round(frechet_distance(features, features + 1), 6)  # moved by 1 in each of four
        4.0
    """
    first, second = _checked(first, second, 2)
    roots = [np.linalg.qr(x - x.mean(0), mode="r") / np.sqrt(len(x) - 1) for x in (first, second)]
    variances = sum(np.square(root).sum() for root in roots)
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return max(0.0, float(np.square(first.mean(0) - second.mean(0)).sum() + variances - 2 * shared))


def precision_recall(real: np.ndarray, drawn: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    """Share of drawn samples that could be real, and share of real ones that could be drawn.

    A sample could be from a set when it lies no farther from one of its members than that member's k-th nearest
    neighbour in the set. Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved precision and recall metric for
    assessing generative models", 2019 (arXiv:1904.06991).

    Args:
        real: (N, F) features.
        drawn: (M, F).
        neighbours: k.

    Raises:
        DataError: k or fewer samples, k below 1, other features in the second, or one that is no number.

    Examples:
        >>> real = np.random.default_rng(0).normal(size=(9, 4))
        >>> precision_recall(real, real), precision_recall(real, real + 1000)
        ((1.0, 1.0), (0.0, 0.0))
    """
    if neighbours < 1:
        raise DataError(f"{neighbours} neighbours span no region: take 1 or more, as 3")
    real, drawn = _checked(real, drawn, neighbours + 1)
    return _share_inside(drawn, real, neighbours), _share_inside(real, drawn, neighbours)


def quality(judge: Judge, real: np.ndarray, drawn: np.ndarray, sure: float = 0.8) -> dict[str, float | list[float]]:
    """All measures of drawn digits: Fréchet distance, precision, recall, and what the judge reads.

    Args:
        judge: that looks at them.
        real: (N, 28, 28) uint8, best none that the drawing network or the judge learned from.
        drawn: (M, 28, 28) uint8.
        sure: lowest probability with which the judge is sure of a digit.

    Returns:
        `frechet`, `precision` and `recall` of the features; `digits_found`, how many of the ten digits it is sure to
        see at least once; `sure`, the share of drawn images in which it is sure of one; `shares`, ten shares of the
        drawn images, by the digit that it takes each for, sure or not.

    Raises:
        DataError: fewer than four images, or no digits of 28 × 28 pixels.

    Examples:
        >>> images = np.zeros((4, 28, 28), np.uint8)
        >>> quality(Judge(DigitNetwork().eval(), 0.0), images, images)["precision"]
        1.0
    """
    features = judge.features(real), judge.features(drawn)
    precision, recall = precision_recall(*features)
    probabilities = judge.probabilities(drawn)
    read, certain = probabilities.argmax(1), probabilities.max(1) >= sure
    return {
        "frechet": frechet_distance(*features),
        "precision": precision,
        "recall": recall,
        "digits_found": len(np.unique(read[certain])),
        "sure": float(certain.mean()),
        "shares": (np.bincount(read, minlength=10) / len(read)).tolist(),
    }


def _as_tensor(images: np.ndarray) -> Tensor:
    """(B, 28, 28) uint8 -> (B, 1, 28, 28) float32 in [−1, 1], on the device."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch_device())[:, None].float() / 127.5 - 1


def _shown(look: Callable[[Tensor], Tensor], images: np.ndarray) -> np.ndarray:
    _check_images(images)
    with torch.inference_mode():
        return torch.cat([look(_as_tensor(images[part])).cpu() for part in batches(len(images), 500)]).numpy()


def _check_images(images: np.ndarray) -> None:
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or images.dtype != np.uint8 or not len(images):
        raise DataError(f"images {images.shape} {images.dtype} are no digits: give (N, 28, 28) uint8, N ≥ 1")


def _checked(first: np.ndarray, second: np.ndarray, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets of features in double precision."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise DataError(f"features {first.shape} and {second.shape} do not compare: give (N, F) and (M, F)")
    if min(len(first), len(second)) < fewest:
        raise DataError(f"{len(first)} and {len(second)} samples are too few: give {fewest} of each, better 1000")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("features are not all finite: the drawing network or the judge diverged, train it again")
    return first, second


def _share_inside(samples: np.ndarray, references: np.ndarray, neighbours: int) -> float:
    """Share of the samples, (N, F), that lie in the region that the members, (M, F), span."""
    parts = [references[part] for part in batches(len(references), CHUNK)]
    radii = np.concatenate([np.partition(cdist(part, references), neighbours, 1)[:, neighbours] for part in parts])
    inside = [(cdist(samples[part], references) <= radii).any(1) for part in batches(len(samples), CHUNK)]
    return float(np.concatenate(inside).mean())
