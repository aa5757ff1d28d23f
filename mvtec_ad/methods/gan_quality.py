"""Fréchet distance, precision and recall of generated digits, in the features of a small classifier of digits.

The measures are those for photographs, with a network of our own in place of Inception: no download, but numbers that
compare only under the same `DigitClassifier`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from mvtec_ad.backbones.trunk import seeded
from mvtec_ad.config import torch_device
from mvtec_ad.data.digits import IMAGE_SIZE, Digits
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError
from mvtec_ad.training import Run

BATCH, LR = 128, 3e-3
TRANSLATION = 2  # pixels that a digit is moved by at most, in training; MNIST has four of paper around it
SURE = 0.8  # lowest probability with which a digit counts as read
CHUNK = 500  # images, or rows of distances, at a time


class DigitClassifier(nn.Module):
    """Convolutional classifier of digits: two strided convolutions, 64 features, ten logits.

    Attributes:
        accuracy: share of held-out real digits that it reads rightly; 0 before it is trained.

    Examples:
        >>> DigitClassifier().probabilities(np.zeros((2, 28, 28), np.uint8)).shape
        (2, 10)
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2, bias=False),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 10),
        )
        self.accuracy = 0.0

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 1, 28, 28) in [−1, 1] -> logits (B, 10)."""
        return self.layers(pixels)

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> np.ndarray:
        """(N, 28, 28) uint8 -> what the last layer decides on, (N, 64) float32."""
        _check_images(images)
        self.to(torch_device()).eval()
        parts = [self.layers[:-1](_as_tensor(images[part])) for part in batches(len(images), CHUNK)]
        return torch.cat(parts).cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """(N, 28, 28) uint8 -> how probable each digit is, (N, 10) float32, rows add up to 1."""
        _check_images(images)
        self.to(torch_device()).eval()
        parts = [self(_as_tensor(images[part])).softmax(1) for part in batches(len(images), CHUNK)]
        return torch.cat(parts).cpu().numpy()


def fit_digit_classifier(
    train: Digits, test: Digits, *, steps: int = 400, seed: int = 0, progress: bool = True
) -> DigitClassifier:
    """Train a classifier of digits; generated digits are measured by what it sees in them.

    `train` is learned from, in `steps` of 128 images; the accuracy is measured on `test`, by which nothing is chosen.
    One that is empty, or no digits of 28 × 28 pixels, is a DataError.

    Examples:
        >>> digits = Digits(np.zeros((4, 28, 28), np.uint8), np.array([1, 1, 1, 1]), "ones")
        >>> fit_digit_classifier(digits, digits, steps=1, progress=False).features(digits.images).shape
        (4, 64)
    """
    for digits in (train, test):
        _check_images(digits.images)
    with seeded(seed):
        classifier = DigitClassifier().to(torch_device())
    recipe = {"lr": LR, "steps": steps, "seed": seed, "progress": progress}
    with Run(classifier, **recipe, description="classifier of digits") as run:
        for step in run:
            rng = run.rng(step)
            rows = rng.integers(len(train.images), size=BATCH)
            translation = rng.integers(-TRANSLATION, TRANSLATION + 1, 2).tolist()
            pixels = _as_tensor(train.images[rows]).roll(translation, (2, 3))
            run.minimise(F.cross_entropy(classifier(pixels), torch.from_numpy(train.labels[rows]).to(pixels.device)))
    classifier.accuracy = float((classifier.probabilities(test.images).argmax(1) == test.labels).mean())
    return classifier


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance of the normal distributions with the same means and covariances, ≥ 0.

    |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁C₂)^½): the "FID" of Heusel et al. 2017 (arXiv:1706.08500) for any features. The
    square root is never taken: with C = RᵀR, from a QR decomposition of the centred features, its trace is the sum of
    the singular values of R₁R₂ᵀ, and stays exact where a covariance is singular.

    Features are (N, F) and (M, F); N and M should be equal where distances are compared, since fewer samples give
    larger ones. Fewer than two samples, or a feature that is no number, are a DataError.

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


def precision_recall(real: np.ndarray, generated: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    """Share of generated samples that could be real, and share of real ones that could be generated.

    A sample could be from a set when it lies no farther from one of its members than that member's k-th nearest
    neighbour in the set. Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved precision and recall metric for
    assessing generative models", 2019 (arXiv:1904.06991).

    Features are (N, F) and (M, F), k is `neighbours`, from 1. Errors as in `frechet_distance`, k or fewer samples being
    too few.

    Examples:
        >>> real = np.random.default_rng(0).normal(size=(9, 4))
        >>> precision_recall(real, real), precision_recall(real, real + 1000)
        ((1.0, 1.0), (0.0, 0.0))
    """
    real, generated = _checked(real, generated, neighbours + 1)
    return _share_inside(generated, real, neighbours), _share_inside(real, generated, neighbours)


def quality(classifier: DigitClassifier, real: np.ndarray, generated: np.ndarray) -> dict[str, float | list[float]]:
    """Fréchet distance, precision and recall of generated digits, and what the classifier reads in them.

    Both are (N, 28, 28) uint8, four images or more; real ones are best none that generator or classifier learned from.

    Returns:
        `frechet`, `precision` and `recall` of the features; `digits_found`, how many of the ten digits it reads at
        least once with a probability of `SURE`; `sure`, the share of generated images in which it reads one so;
        `shares`, ten shares of the generated images, by the digit that it takes each for, sure or not.

    Examples:
        >>> images = np.zeros((4, 28, 28), np.uint8)
        >>> quality(DigitClassifier(), images, images)["precision"]
        1.0
    """
    features = classifier.features(real), classifier.features(generated)
    precision, recall = precision_recall(*features)
    probabilities = classifier.probabilities(generated)
    digits, sure = probabilities.argmax(1), probabilities.max(1) >= SURE
    return {
        "frechet": frechet_distance(*features),
        "precision": precision,
        "recall": recall,
        "digits_found": len(np.unique(digits[sure])),
        "sure": float(sure.mean()),
        "shares": (np.bincount(digits, minlength=10) / len(digits)).tolist(),
    }


def _as_tensor(images: np.ndarray) -> Tensor:
    """(B, 28, 28) uint8 -> (B, 1, 28, 28) float32 in [−1, 1], on the device."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch_device())[:, None].float() / 127.5 - 1


def _check_images(images: np.ndarray) -> None:
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or images.dtype != np.uint8 or not len(images):
        raise DataError(f"images {images.shape} {images.dtype} are no digits: give (N, 28, 28) uint8, N ≥ 1")


def _checked(first: np.ndarray, second: np.ndarray, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets of features in double precision."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(first), len(second)) < fewest:
        raise DataError(f"{len(first)} and {len(second)} samples are too few: give {fewest} of each, better 1000")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise DataError("features are not all finite: the generator or the classifier diverged, train it again")
    return first, second


def _share_inside(samples: np.ndarray, references: np.ndarray, neighbours: int) -> float:
    """Share of the samples, (N, F), that lie in the region that the members, (M, F), span."""
    parts = [references[part] for part in batches(len(references), CHUNK)]
    radii = np.concatenate([np.partition(cdist(part, references), neighbours, 1)[:, neighbours] for part in parts])
    inside = [(cdist(samples[part], references) <= radii).any(1) for part in batches(len(samples), CHUNK)]
    return float(np.concatenate(inside).mean())
