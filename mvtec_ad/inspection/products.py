"""Product recognition with out-of-distribution detection: Mahalanobis distances over frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np
from sklearn.covariance import ledoit_wolf

from mvtec_ad import metrics
from mvtec_ad.artifacts import Artifact, complete
from mvtec_ad.backbones import Backbone, artifact_backbone, batch_size
from mvtec_ad.backbones.backbone import packed_weights
from mvtec_ad.config import Options, option
from mvtec_ad.data.loading import batches, resize
from mvtec_ad.data.splits import folds
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.schema import parse_json

FOLDS = 5


@dataclass(frozen=True)
class InspectionOptions(Options):
    """What the inspection learns itself: which product it is, and when a second opinion pays."""

    second: str = option("autoencoder", "method that gives the second opinion")
    miss: float = option(10.0, "cost of a defect that passes", above=0)
    false_alarm: float = option(1.0, "cost of a good part that is stopped", above=0)
    widths: tuple[float, ...] = option(
        (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0),
        "half-widths of the reject band that are tried",
        least=0,
    )
    backbone: str = option("efficientnet_lite0", "that tells products apart")
    weights: str = option("imagenet", "imagenet | random | synthetic | path of a weights file")
    image_size: int = option(128, "pixels, for telling products apart", least=32, most=16384)
    rejected: float = option(
        0.005, "share of images of known products that may be called none of these", above=0, below=1
    )

    PRESETS: ClassVar = {"default": {}, "quick": {"image_size": 64}, "full": {}}

    def check(self) -> None:
        """Refuse widths that cannot be told apart."""
        if not self.widths or list(self.widths) != sorted(set(self.widths)):
            raise SettingsError(f"widths {self.widths} must be different numbers of 0 or more, in ascending order")


class ProductsDescription(TypedDict):
    """What `products/model.json` of `inspection.zip` holds."""

    settings: dict[str, Any]
    backbone: str
    weights: str
    weights_member: str | None
    names: list[str]


@dataclass(frozen=True)
class ProductClassifier:
    """A Gaussian for each product, all with one covariance, over channel statistics of a frozen network.

    The Mahalanobis distance to the nearest mean both names the product and detects what is out of distribution: Lee et
    al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018
    (arXiv:1807.03888), eq. 1 and 2.
    """

    backbone: Backbone  # frozen
    options: InspectionOptions  # what it was fitted with
    names: tuple[str, ...]  # C products, `category` or `category/view`
    means: np.ndarray  # (C, d) float32, whitened
    whitening: np.ndarray  # (d, d) float32; features @ whitening have unit covariance within a product
    limits: np.ndarray  # (C,) float32, distance up to which an image may belong to the product

    @classmethod
    def fit(
        cls, options: InspectionOptions, backbone: Backbone, features: Mapping[str, np.ndarray]
    ) -> ProductClassifier:
        """Learn products from `features`: product -> what `describe` gives of good and defective images, (N, d).

        Raises:
            DataError: there is no product, or one has fewer than 10 pictures.
        """
        few = [name for name, rows in features.items() if len(rows) < 2 * FOLDS]
        if few or not features:
            what = few[0] if few else "nothing"
            raise DataError(f"{what} has too few pictures to be known by: give 10 or more of each")
        names = tuple(sorted(features))
        by_product = [features[name] for name in names]
        return cls(backbone, options, names, *_gaussians(by_product), _limits(by_product, options.rejected))

    def distances(self, pictures: list[np.ndarray]) -> np.ndarray:
        """(N, C) Mahalanobis distances of N pictures (H, W, 3) uint8 in units of each product's limit."""
        features = describe(self.backbone, pictures, self.options.image_size)
        return _distances(features @ self.whitening, self.means) / self.limits

    def name(self, pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The nearest product of each picture, (N,), and its out-of-distribution score, (N,): above 1 it is none."""
        distances = self.distances(pictures)
        return np.array(self.names, dtype=object)[distances.argmin(1)], distances.min(1)

    def files(self) -> dict[str, Any]:
        """What `artifacts.save` needs: `products/` with model.json and model.safetensors, and local weights."""
        weights = packed_weights(self.backbone.source)
        description = {"settings": self.options.options(), "backbone": self.backbone.name}
        description |= {"weights": self.backbone.weights, "weights_member": next(iter(weights), None)}
        description |= {"names": list(self.names)}
        arrays = {"means": self.means, "whitening": self.whitening, "limits": self.limits}
        return {"products/model.json": description, "products/model.safetensors": arrays, **weights}

    @classmethod
    def restore(cls, artifact: Artifact) -> ProductClassifier:
        """Load it again; ArtifactError where there is none, or no whole one."""
        with complete(artifact):
            description = parse_json(artifact.read("products/model.json"), ProductsDescription)
            options = InspectionOptions.from_options(description["settings"])
            arrays = artifact.arrays("products/model.safetensors")
            names, features = tuple(description["names"]), len(arrays["whitening"])
            shapes = {"means": (len(names), features), "limits": (len(names),), "whitening": (features, features)}
            if not names or any(arrays[key].shape != shape for key, shape in shapes.items()):
                raise ValueError(f"arrays of {len(names)} products and {features} features have other shapes")
            backbone = artifact_backbone(artifact, description, options.weights)
            products = cls(backbone, options, names, arrays["means"], arrays["whitening"], arrays["limits"])
            products.distances([np.full((32, 32, 3), 128, np.uint8)])  # its features must fit too
        return products


def describe(backbone: Backbone, pictures: list[np.ndarray], image_size: int) -> np.ndarray:
    """Features of pictures of any size: mean and standard deviation of every channel, (N, d) float32."""
    images = np.stack([resize(picture, image_size) for picture in pictures])
    rows = []
    for part in batches(len(images), batch_size()):
        layers = [layer.flatten(1, 2) for layer in backbone(images[part])]  # B×cells×C
        statistics = [statistic for x in layers for statistic in (x.mean(1), x.std(1))]
        rows.append(np.concatenate([np.asarray(statistic.cpu()) for statistic in statistics], axis=1))
    return np.concatenate(rows).astype(np.float32)


def _gaussians(features: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Whitened means (C, d) and the whitening (d, d): inverse root of the shrunk covariance within products."""
    means = np.stack([rows.mean(0, dtype=np.float64) for rows in features])
    within = np.concatenate([rows - mean for rows, mean in zip(features, means, strict=True)])
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
    parts = [folds(len(rows), FOLDS) for rows in features]
    held = [np.empty(len(rows)) for rows in features]
    for number in range(FOLDS):
        seen = [np.delete(rows, part[number], 0) for rows, part in zip(features, parts, strict=True)]
        means, whitening = _gaussians(seen)
        for index, (rows, part) in enumerate(zip(features, parts, strict=True)):
            held[index][part[number]] = _distances(rows[part[number]] @ whitening, means[index : index + 1])[:, 0]
    medians = np.array([np.median(distances) for distances in held])
    shares = np.concatenate([distances / median for distances, median in zip(held, medians, strict=True)])
    enough = len(shares) >= metrics.images_needed(rejected)
    return (medians * (metrics.calibrated(shares, rejected) if enough else shares.max())).astype(np.float32)
