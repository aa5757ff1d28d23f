"""Which product is it, and from which side is it seen? Or is it none of these?"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.covariance import ledoit_wolf

from mvtec_ad import metrics
from mvtec_ad.artifacts import Artifact, complete
from mvtec_ad.backbones import Backbone, batch_size, kept_backbone, load_backbone
from mvtec_ad.backbones.backbone import packed_weights
from mvtec_ad.data.loading import batches, resize
from mvtec_ad.data.splits import folds
from mvtec_ad.errors import DataError
from mvtec_ad.settings import InspectionSettings

FOLDS = 5


@dataclass(frozen=True)
class ProductClassifier:
    """A Gaussian for each product, all with one covariance, over what a frozen network says of a picture.

    The Mahalanobis distance to the nearest mean both names the product and tells strangers: Lee et al., "A Simple
    Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018 (arXiv:1807.03888),
    eq. 1 and 2.

    Attributes:
        backbone: frozen.
        settings: what it was fitted with.
        names: C products, `category` or `category/view`.
        means: (C, d) float32, whitened.
        whitening: (d, d) float32; `features @ whitening` has the unit matrix as its covariance within a product.
        limits: (C,) float32, distance up to which an image may belong to the product.
    """

    backbone: Backbone
    settings: InspectionSettings
    names: tuple[str, ...]
    means: np.ndarray
    whitening: np.ndarray
    limits: np.ndarray

    def distances(self, pictures: list[np.ndarray]) -> np.ndarray:
        """(N, C) Mahalanobis distances of N pictures (H, W, 3) uint8 in units of each product's limit."""
        return _distances(described(self.backbone, pictures, self.settings) @ self.whitening, self.means) / self.limits

    def name(self, pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The nearest product of each picture, (N,), and its strangeness, (N,): above 1 it is none of these."""
        distances = self.distances(pictures)
        return np.array(self.names, dtype=object)[distances.argmin(1)], distances.min(1)


def described(backbone: Backbone, pictures: list[np.ndarray], settings: InspectionSettings) -> np.ndarray:
    """What the network says of pictures of any size: mean and spread of every channel, (N, d) float32."""
    images = np.stack([resize(picture, settings.image_size) for picture in pictures])
    rows = []
    for part in batches(len(images), batch_size()):
        layers = [layer.flatten(1, 2) for layer in backbone(images[part])]  # B×cells×C
        rows.append(np.concatenate([np.asarray(own.cpu()) for x in layers for own in (x.mean(1), x.std(1))], axis=1))
    return np.concatenate(rows).astype(np.float32)


def fit(settings: InspectionSettings, pictures: Mapping[str, list[np.ndarray]]) -> ProductClassifier:
    """Learn products from pictures of them, good ones and defective ones.

    Args:
        settings: what to fit.
        pictures: product -> (H, W, 3) uint8 pictures of any size.

    Raises:
        DataError: there is no product, or one has fewer than 10 pictures.
        WeightsError: the weights cannot be had.
    """
    _check_enough(pictures)
    backbone = load_backbone(settings.backbone, settings.weights)
    features = {name: described(backbone, own, settings) for name, own in pictures.items()}
    return fit_described(settings, backbone, features)


def fit_described(
    settings: InspectionSettings, backbone: Backbone, features: Mapping[str, np.ndarray]
) -> ProductClassifier:
    """`fit`, from what `described` says of each product's pictures, (N, d)."""
    _check_enough(features)
    names = tuple(sorted(features))
    own = [features[name] for name in names]
    return ProductClassifier(backbone, settings, names, *_gaussians(own), _limits(own, settings.rejected))


def _check_enough(given: Mapping[str, Sized]) -> None:
    few = [name for name, own in given.items() if len(own) < 2 * FOLDS]
    if few or not given:
        raise DataError(f"{few[0] if few else 'nothing'} has too few pictures to be known by: give 10 or more of each")


def _gaussians(features: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Whitened means (C, d) and the whitening (d, d): inverse root of the shrunk covariance within products."""
    means = np.stack([own.mean(0, dtype=np.float64) for own in features])
    within = np.concatenate([own - mean for own, mean in zip(features, means, strict=True)])
    scale = within.std(0) + 1e-6  # shrinkage pulls towards one variance for all, so units are made equal first
    covariance, _ = ledoit_wolf(within / scale, assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    whitening = (vectors / np.sqrt(values)) / scale[:, None]
    return (means @ whitening).astype(np.float32), whitening.astype(np.float32)


def _distances(whitened: np.ndarray, means: np.ndarray) -> np.ndarray:
    """(N, C) Euclidean distances."""
    return np.linalg.norm(whitened[:, None].astype(np.float64) - means, axis=2)


def _limits(features: list[np.ndarray], rejected: float) -> np.ndarray:
    """(C,) distance to its own mean that all but a share of held-out images stay below.

    Held out by folds. A product's median says how far its images lie; the quantile is taken of all images together, in
    units of these medians, as one product alone has too few. Where even all are too few for the promise, the farthest
    of them is the limit.
    """
    parts = [folds(len(own), FOLDS) for own in features]
    held = [np.empty(len(own)) for own in features]
    for number in range(FOLDS):
        seen = [np.delete(own, part[number], 0) for own, part in zip(features, parts, strict=True)]
        means, whitening = _gaussians(seen)
        for index, (own, part) in enumerate(zip(features, parts, strict=True)):
            held[index][part[number]] = _distances(own[part[number]] @ whitening, means[index : index + 1])[:, 0]
    medians = np.array([np.median(own) for own in held])
    shares = np.concatenate([own / median for own, median in zip(held, medians, strict=True)])
    enough = len(shares) >= metrics.images_needed(rejected)
    return (medians * (metrics.calibrated(shares, rejected) if enough else shares.max())).astype(np.float32)


def members(model: ProductClassifier) -> dict[str, Any]:
    """What `artifacts.save` needs to keep it: `products/` with model.json and model.safetensors, and local weights."""
    weights = packed_weights(model.backbone.source)
    description = {
        "settings": model.settings.options(),
        "backbone": model.backbone.name,
        "weights": model.backbone.weights,
        "weights_member": next(iter(weights), None),
        "names": list(model.names),
    }
    arrays = {"means": model.means, "whitening": model.whitening, "limits": model.limits}
    return {"products/model.json": description, "products/model.safetensors": arrays, **weights}


def restore(artifact: Artifact) -> ProductClassifier:
    """Load it again.

    Raises:
        ArtifactError: there is none, or what is there is no whole one.
    """
    with complete(artifact):
        description = artifact.json("products/model.json")
        settings = InspectionSettings.from_options(description["settings"])
        arrays = artifact.arrays("products/model.safetensors")
        names = tuple(description["names"])
        if not len(names) == len(arrays["means"]) == len(arrays["limits"]):
            raise ValueError(f"{len(names)} products have {len(arrays['means'])} means")
    backbone = kept_backbone(artifact, description, settings.weights)
    return ProductClassifier(backbone, settings, names, arrays["means"], arrays["whitening"], arrays["limits"])
