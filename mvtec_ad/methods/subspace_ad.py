"""SubspaceAD: residual of patch features to the principal subspace of a few good images, one image sufficing.

Lendering, Akdag, Bondarev, "SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling", CVPR 2026
(arXiv:2602.23013): patch features of a frozen network, of the good images and of rotated copies of them; a PCA that
keeps a share of their variance; the squared residual; the mean of the largest residuals as the image score. The paper
takes DINOv2-G at 672 pixels, 30 copies and 99 % of the variance; here any network of the suite serves, its vectors
brought to unit length, and the defaults were compared on EfficientNet-Lite0 (benchmarks/few_shot.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mvtec_ad.config import option, torch_device
from mvtec_ad.data.loading import batches
from mvtec_ad.data.spool import Spool
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods.base import FeatureDetector, Layers, Scores, grid_maps
from mvtec_ad.methods.patchcore import patch_features

Seen = tuple[Layers, np.ndarray]  # layers of a batch of images, and their pixels, which a fit rotates


@dataclass
class SubspaceAd(FeatureDetector):
    """SubspaceAD: squared residual of each patch to a PCA subspace; fitted on one good image or more.

    `good_scores` are leave-one-out over images, an image leaving with all its rotated copies; of a single image there
    are none. Nothing is drawn: all seeds agree.

    Attributes:
        mean: (C,) float32, of the patches.
        complement: (C, C − r) float32, orthonormal: the directions outside of the subspace, whose dimension is r.

    Examples:
        >>> good = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
        >>> detector = SubspaceAd(weights="random", rotations=4, image_size=32, crop=32).fit(good)
        >>> detector.score(good).maps.shape, detector.good_scores.shape
        ((1, 32, 32), (0,))
    """

    image_size: int = option(320, "side that images are resized to, pixels", least=1, most=16384)
    crop: int = option(320, "side of the central part that is kept, pixels", least=1, most=16384)
    layers: tuple[int, ...] = option((3,), "depths of the network, of 1, 2 and 3", among=(1, 2, 3))
    unit: bool = option(True, "bring the vector of each layer at each cell to length 1")
    neighbourhood: int = option(1, "a patch is averaged over p × p cells, odd", least=1, most=99)
    rotations: int = option(8, "angles in a full turn at which each good image is seen; 1: as it is", least=1, most=360)
    variance: float = option(0.95, "τ: share of the variance that the subspace keeps", above=0, below=1)
    top_share: float = option(0.01, "share of the cells whose mean residual is the image score", above=0, most=1)
    sigma: float = option(4.0, "Gaussian smoothing of the anomaly map, pixels", least=0, most=1000)

    name: ClassVar = "subspace_ad"
    least_images: ClassVar = 1
    PRESETS: ClassVar = {
        "default": {},
        "resnet18": {"backbone": "resnet18"},
        "wide_resnet50": {"backbone": "wide_resnet50_2"},
        "quick": {"image_size": 192, "crop": 192, "sigma": 3.0},
        "full": {},
    }

    def check(self) -> None:
        """Refuse no layers and a neighbourhood without a centre."""
        super().check()
        if not self.layers:
            raise SettingsError("layers () are none of 1, 2 and 3: name one or more of them")
        if self.neighbourhood % 2 == 0:
            raise SettingsError(f"neighbourhood {self.neighbourhood} has no centre: use an odd number")

    def look(self, pixels: np.ndarray) -> Seen:
        """The layers, and the pixels themselves: only a fit rotates them."""
        return super().look(pixels), pixels

    def calibration_images(self, count: int) -> int:
        """All but a single one, which nothing is left of without itself."""
        return count if count > 1 else 0

    def fit_batches(
        self, seen: Iterable[Seen], count: int, seed: int, checkpoints: Path | None, progress: bool
    ) -> None:
        """Sum up the moments of each image's patches, fit the subspace and score each image by that of the others."""
        features, moments = Spool(count), Spool(count)
        for layers, pixels in seen:
            upright = self.features(layers)
            features.append(upright.flatten(1, 2).cpu().numpy())
            parts = zip(upright.flatten(1, 2), pixels, strict=True)
            moments.append(np.stack([self.moments(patches, image) for patches, image in parts]))
        total = sum(image[0] for image in moments)
        self.mean, self.complement = subspace(total, self.variance)
        scores = []
        for image, moment in zip(features, moments, strict=True) if count > 1 else ():
            others = subspace(total - moment[0], self.variance)
            residual = residuals(torch.from_numpy(image).to(torch_device()), *others)
            scores.append(top_mean(residual, self.top_share))
        self.good_scores = torch.cat(scores).cpu().numpy() if scores else np.empty(0, np.float32)

    def moments(self, upright: Tensor, image: np.ndarray) -> np.ndarray:
        """Σ [x, 1]ᵀ[x, 1] over the patches x of an image and of its rotated copies, (C + 1, C + 1) float64."""
        total = second_moments(upright)
        copies = rotated(image, self.rotations)[1:]
        for part in batches(len(copies), self.batch()):
            total += second_moments(self.features(self.network(copies[part])).flatten(0, 2))
        return total.cpu().numpy()

    def features(self, layers: Layers) -> Tensor:
        """Patch features as PatchCore's, of layers of unit length where that is asked for, (B, h, w, C)."""
        layers = [F.normalize(layer, dim=-1) for layer in layers] if self.unit else layers
        return patch_features(layers, self.layers, self.neighbourhood)

    def score_batch(self, seen: Seen) -> Scores:
        """The image score comes from the cells; only the map is enlarged and smoothed."""
        features = self.features(seen[0])
        residual = residuals(features, self.mean, self.complement)  # B×h×w
        scores = top_mean(residual.flatten(1), self.top_share)
        return Scores(scores.cpu().numpy(), grid_maps(residual, self.crop, self.sigma))

    def state(self) -> dict[str, Any]:
        """Mean and complement."""
        return {name: getattr(self, name) for name in ("mean", "complement", "good_scores", "seed")}

    def load_state(self, state: dict[str, Any]) -> SubspaceAd:
        """The inverse of `state`."""
        self.mean, self.complement = (torch.as_tensor(state[key]).to(torch_device()) for key in ("mean", "complement"))
        if self.mean.ndim != 1 or self.complement.ndim != 2 or len(self.complement) != len(self.mean):
            raise ValueError(f"mean {tuple(self.mean.shape)} and complement {tuple(self.complement.shape)} do not fit")
        return super().load_state(state)


def rotated(image: np.ndarray, number: int) -> np.ndarray:
    """An image (S, S, 3) uint8 at `number` angles of a full turn, (number, S, S, 3); the first is the image itself.

    It turns about its centre, linearly interpolated; what comes from outside repeats the border.

    Examples:
        >>> image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        >>> bool((rotated(image, 4)[1] == np.rot90(image)).all())
        True
    """
    size = image.shape[1::-1]
    centre = (size[0] - 1) / 2, (size[1] - 1) / 2
    rotations = [cv2.getRotationMatrix2D(centre, 360 * step / number, 1) for step in range(1, number)]
    how = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    return np.stack([image, *(cv2.warpAffine(image, matrix, size, **how) for matrix in rotations)])


def second_moments(patches: Tensor) -> Tensor:
    """Σ [x, 1]ᵀ[x, 1] of patches (n, C), (C + 1, C + 1) float64: scatter, sum and number in one; they add up."""
    homogeneous = F.pad(patches.double(), (0, 1), value=1.0)
    return homogeneous.mT @ homogeneous


def subspace(moments: np.ndarray, variance: float) -> tuple[Tensor, Tensor]:
    """Mean (C,) of `second_moments` and an orthonormal basis (C, C − r) of what their principal subspace leaves out.

    r is the smallest dimension that keeps this share of the variance, and less than C.

    Examples:
        >>> patches = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
        >>> subspace(second_moments(patches).numpy(), 0.9)[0]
        tensor([1., 1.])
    """
    moments = torch.from_numpy(moments)
    number = moments[-1, -1]
    mean = moments[-1, :-1] / number
    values, vectors = torch.linalg.eigh(moments[:-1, :-1] / number - torch.outer(mean, mean))  # ascending
    held = values.clamp_min(0).flip(0).cumsum(0)
    dimension = min(int((held < variance * held[-1]).sum()) + 1, len(mean) - 1) if held[-1] > 0 else 0
    complement = vectors[:, : len(mean) - dimension]
    return mean.float().to(torch_device()), complement.float().contiguous().to(torch_device())


def residuals(features: Tensor, mean: Tensor, complement: Tensor) -> Tensor:
    """Squared distance of features (…, C) to the affine subspace, (…), ≥ 0.

    Examples:
        >>> residuals(torch.tensor([[3.0, 2.0]]), torch.zeros(2), torch.tensor([[0.0], [1.0]]))
        tensor([4.])
    """
    return ((features - mean) @ complement).square().sum(-1)


def top_mean(residual: Tensor, share: float) -> Tensor:
    """Mean of the largest values of each row, (B, P) -> (B,): this share of them, one at least.

    Examples:
        >>> top_mean(torch.tensor([[1.0, 5.0, 3.0, 0.0]]), 0.5)
        tensor([4.])
    """
    return residual.topk(max(1, round(share * residual.shape[1])), dim=1).values.mean(1)
