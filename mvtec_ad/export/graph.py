"""A fitted model as one ONNX graph, from a uint8 picture of any size to score, anomaly map and verdict."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import compose, helper, numpy_helper
from torch import Tensor, nn

from mvtec_ad import artifacts
from mvtec_ad.config import torch_device
from mvtec_ad.data.loading import resize
from mvtec_ad.edge import METADATA, SCHEMA
from mvtec_ad.errors import ArtifactError, SettingsError
from mvtec_ad.export.resizing import FLOAT, IR_VERSION, OPSET, resized
from mvtec_ad.inspection.second_opinion import CalibratedDetector
from mvtec_ad.methods import autoencoder, classifier, load_model, patchcore
from mvtec_ad.methods.base import Detector, enlarge, smooth
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.efficient_ad import EfficientAd
from mvtec_ad.methods.padim import Gaussians, Padim

EXPORTED = ("padim", "patchcore", "autoencoder", "vae", "efficient_ad", "classifier")
LEAST_WEIGHTS = 1024  # numbers of a tensor that is worth int8
ROUNDING = 1e-4  # of a threshold, which is the score of a good image: rounding in a graph must not make that a defect
LARGEST = 2**31 - 2**20  # bytes of a protobuf file, with room for what is no weight


def spread(cells: int, size: int, sigma: float) -> Tensor:
    """(size, cells) float32, E: a grid G (cells, cells) as the smoothed map of `methods.base.grid_maps` is E·G·Eᵀ.

    Enlarging and smoothing are linear and treat rows as columns; so E is what they make of one column at a time.
    """
    columns = torch.eye(cells)[:, :, None]  # cells pictures of cells × 1
    maps = columns.numpy() if cells == size else enlarge(columns, (size, 1))
    return torch.from_numpy(smooth(maps, sigma)[:, :, 0].T.copy())


class Head(nn.Module):
    """What a method does with the central part of the square: (1, 3, crop, crop) in [0, 1] -> score, and map or None.

    The methods' own code runs here; only tensors that a graph must hold are registered beside it.
    """

    def __init__(self, detector: Any, cells: int) -> None:
        super().__init__()
        self.detector, self.extractor = detector, detector.extractor
        if self.extractor:
            self.network = self.extractor.network
        self.register_buffer("spread", spread(cells, detector.crop, detector.sigma))
        self.register_buffer("spread_columns", self.spread.T.contiguous())

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """Of the frozen network, (1, h, w, C)."""
        return [layer.permute(0, 2, 3, 1) for layer in self.extractor.tensors(pixels)]

    def anomaly_map(self, grid: Tensor) -> Tensor:
        """A grid (cells, cells), enlarged and smoothed."""
        return self.spread @ grid @ self.spread_columns


class PadimHead(Head):
    """Distances to the Gaussians; of a direct factor the lower triangle is held, as in the artifact."""

    def __init__(self, detector: Padim) -> None:
        super().__init__(detector, detector.grid[0])
        gaussians, size = detector.gaussians, len(detector.indices)
        self.register_buffer("mean", gaussians.mean)
        self.register_buffer("factor", gaussians.factor)
        if not gaussians.dual:
            rows, columns = torch.tril_indices(size, size)
            packed = gaussians.factor[:, rows, columns]
            self.factor = torch.cat([packed, packed.new_zeros(len(packed), 1)], 1)
            position = torch.full((size, size), len(rows))  # of the zero, which the upper triangle shows
            position[rows, columns] = torch.arange(len(rows))
            self.register_buffer("position", position.flatten())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Padim.score_batch`."""
        detector, dual = self.detector, self.detector.gaussians.dual
        features = detector.embed(self.layers(pixels)) * detector.scale  # P×1×d
        size = len(detector.indices)
        factor = self.factor if dual else self.factor.index_select(1, self.position).unflatten(1, (size, size))
        gaussians = Gaussians(self.mean, factor, detector.ridge, dual)
        anomaly_map = self.anomaly_map(gaussians.distance(features).view(detector.grid))
        return anomaly_map.max(), anomaly_map


class PatchcoreHead(Head):
    """Distances to the bank."""

    def __init__(self, detector: patchcore.Patchcore) -> None:
        super().__init__(detector, detector.grid[0])
        self.register_buffer("bank", detector.bank)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Patchcore.score_batch`."""
        detector, lengths = self.detector, self.bank.square().sum(1)
        features = patchcore.patch_features(self.layers(pixels), detector.layers, detector.neighbourhood).flatten(1, 2)
        score, distances = patchcore.measure(features, self.bank, lengths, detector.neighbours, detector.memory_gb)
        return score[0], self.anomaly_map(distances.view(detector.grid))


class AutoencoderHead(Head):
    """Differences to the reconstruction, of an autoencoder or a VAE at its latent mean."""

    def __init__(self, detector: autoencoder.Autoencoder) -> None:
        super().__init__(detector, detector.crop)
        self.reconstruct = detector.network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Autoencoder.score_batch`."""
        detector = self.detector
        reconstruction, divergence = self.reconstruct(pixels)
        difference = autoencoder.difference_map(detector.map, pixels, reconstruction, self.extractor)
        anomaly_map = self.anomaly_map(difference[0])
        if detector.image_score == "peak":
            return anomaly_map.max(), anomaly_map
        error = (pixels - reconstruction).square().sum((1, 2, 3))
        return (error + (detector.beta if detector.image_score == "elbo" else 0) * divergence)[0], anomaly_map


class EfficientAdHead(Head):
    """Differences of teacher, student and autoencoder; depths of the teacher that nobody looks at are left out."""

    def __init__(self, detector: EfficientAd) -> None:
        super().__init__(detector, detector.crop // 8)
        self.trained = detector.network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `EfficientAd.score_batch`."""
        anomaly_map = self.anomaly_map(self.trained(pixels, self.detector.teacher(pixels))[0])
        return anomaly_map.max(), anomaly_map


class ClassifierHead(nn.Module):
    """The logit; there is no map."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.network = model.network

    def forward(self, pixels: Tensor) -> tuple[Tensor, None]:
        """As `Classifier.logits`."""
        return self.network(pixels)[0], None


class Graph(nn.Module):
    """The resized square -> score, map where there is one, and whether it is a defect."""

    def __init__(self, head: nn.Module, image_size: int, crop: int, threshold: float) -> None:
        super().__init__()
        self.head, self.start, self.crop, self.threshold = head, (image_size - crop) // 2, crop, threshold

    def forward(self, square: Tensor) -> tuple[Tensor, ...]:
        """`square` is (image_size, image_size, 3) uint8; compared is in float64, as python does."""
        seen = slice(self.start, self.start + self.crop)
        score, anomaly_map = self.head(square[seen, seen].permute(2, 0, 1)[None].float() / 255)
        defect = score.double() > self.threshold
        return (score, defect) if anomaly_map is None else (score, anomaly_map, defect)


HEADS = {
    **{"padim": PadimHead, "patchcore": PatchcoreHead, "autoencoder": AutoencoderHead, "vae": AutoencoderHead},
    "efficient_ad": EfficientAdHead,
}


@dataclass
class Fitted:
    """A fitted model, and all that its graph has to say about it.

    Attributes:
        head: (1, 3, crop, crop) in [0, 1] -> score, and map or None.
        score: of a picture, as `CalibratedDetector.score` does: what the graph must equal.
        description: plain JSON data, of `EdgeModel.manifest`.
    """

    head: nn.Module
    score: Callable[[np.ndarray], tuple[np.ndarray, float, np.ndarray | None]]
    description: dict[str, Any]


def fitted(detector: Detector, category: str, threshold: Mapping[str, float]) -> Fitted:
    """A fitted detector as something to export; `threshold` has "value" and "false_alarm_rate".

    The graph's threshold is raised by `ROUNDING`, the model's own stands beside it as "model".

    Raises:
        SettingsError: its method, or its network, cannot be exported.
    """
    if detector.name not in HEADS:
        way = f"fit one of {', '.join(EXPORTED)}"
        raise SettingsError(f"{detector.name} cannot be exported, its score is no function of a single graph: {way}")
    if detector.extractor and detector.extractor.tensors is None:
        problem = f"{detector.extractor.name} runs in Keras, and only torch's networks are exported"
        raise SettingsError(f"{problem}: fit it with a torch network, as efficientnet_lite0")
    detector.check_fitted()
    calibrated = CalibratedDetector(detector, threshold["value"])
    raised = threshold["value"] + ROUNDING * abs(threshold["value"])
    description = {
        **_common(detector, category, {**threshold, "value": raised, "model": threshold["value"]}),
        **{"backbone": detector.backbone_name, "good_scores": detector.good_scores.tolist()},
        **{"map_scale": list(calibrated.map_scale), "image_size": detector.image_size, "crop": detector.crop},
    }
    return Fitted(HEADS[detector.name](detector), calibrated.score, description)


def fitted_classifier(model: Classifier, category: str, threshold: float) -> Fitted:
    """A fitted classifier as something to export; `threshold` is one of its logits, chosen by costs.

    Raises:
        SettingsError: it looks for the item in a picture first, which no graph does.
    """
    if model.roi != "whole":
        problem = f"a classifier of roi {model.roi} finds the item by key points, which no graph does"
        raise SettingsError(f"{problem}: fit it with roi whole")
    good = model.validation.loc[model.validation["label"] == 0, "score"]
    description = {
        **_common(model, category, {"value": threshold, "false_alarm_rate": None, "model": threshold}),
        **{"backbone": model.backbone, "map_scale": [0.0, 1.0], "good_scores": good.tolist()},
        **{"image_size": model.image_size, "crop": model.image_size, "temperature": model.temperature},
    }

    def score(picture: np.ndarray) -> tuple[np.ndarray, float, None]:
        image = resize(picture, model.image_size)
        return image, float(model.logits(image[None])[0]), None

    return Fitted(ClassifierHead(model), score, description)


def _common(model: Any, category: str, threshold: Mapping[str, float | None]) -> dict[str, Any]:
    """What every description holds."""
    known = {"schema": SCHEMA, "method": model.name, "category": category, "seed": model.seed}
    known |= {"options": model.options(), "weights": model.weights_name, "threshold": dict(threshold)}
    return known | {"versions": versions()}


def load_fitted(
    artifact: str | Path,
    *,
    category: str | None = None,
    method: str | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Fitted:
    """A model of an artifact as something to export: of models.zip a classifier, else a detector.

    Which one, where it holds several: `category`, `method` or, of classifiers, `name`, and `seed`, of None the first.

    Raises:
        ArtifactError: no model fits, several do, or what is there is no whole model.
        SettingsError: it cannot be exported.
    """
    opened = artifacts.load(Path(artifact))
    if opened.manifest["stage"] != "models":
        if name is not None:
            raise SettingsError(f"--name says nothing with {opened.path}, which holds no classifier: leave it out")
        detector, description = load_model(opened, category=category, method=method, seed=seed)
        return fitted(detector, description["category"], description["threshold"])
    pairs = [pair for pair in classifier.names(opened) if category in (None, pair[0]) and name in (None, pair[1])]
    if len(pairs) != 1:
        held = ", ".join("/".join(pair) for pair in classifier.names(opened))
        raise ArtifactError(f"{opened.path} holds {held}: choose one with --category and --name")
    model, description = classifier.restore(opened, *pairs[0], seed)
    return fitted_classifier(model, pairs[0][0], description["threshold"])


def versions() -> dict[str, str]:
    """Of python, the package, and the libraries that a graph stands on."""
    names = ("mvtec-ad-notebooks", "torch", "onnx", "onnxscript", "onnxruntime", "numpy", "opencv-python-headless")
    libraries = {"python": platform.python_version()}
    for name in names:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # used from a folder, or another build of OpenCV
            continue
    return libraries


def to_onnx(model: Fitted) -> onnx.ModelProto:
    """One graph: `image` uint8 (H, W, 3) of any size -> `score` (), `map` (crop, crop) where there is one, `defect` ().

    Raises:
        SettingsError: it would be larger than a protobuf file can be, 2 GB.
    """
    description = model.description
    if torch_device() != "cpu":
        raise SettingsError("models are exported on the CPU: set CUDA_VISIBLE_DEVICES to nothing")
    size, crop = description["image_size"], description["crop"]
    weights = sum(
        tensor.numel() * tensor.element_size() for tensor in (*model.head.parameters(), *model.head.buffers())
    )
    if weights > LARGEST:
        problem = f"its weights have {weights / 1e9:.1f} GB, an ONNX file at most 2"
        raise SettingsError(f"this {description['method']} cannot be exported, {problem}: fit it with fewer channels")
    graph = Graph(model.head, size, crop, description["threshold"]["value"]).eval()
    square = torch.zeros(size, size, 3, dtype=torch.uint8)
    with torch.no_grad(), _quiet():
        names = ["score", "defect"] if len(graph(square)) == 2 else ["score", "map", "defect"]
        options = {"input_names": ["square"], "output_names": names, "opset_version": OPSET, "verbose": False}
        program = torch.onnx.export(graph, (square,), dynamo=True, external_data=False, **options)
    network = program.model_proto
    network.ir_version = IR_VERSION
    merged = compose.merge_models(resized(size), network, io_map=[("square", "square")])
    merged.producer_name = "mvtec-ad export"
    helper.set_model_props(merged, {METADATA: json.dumps(description)})
    return merged


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about its own ways: it logs, and warns of what it will do in later versions."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        log.setLevel(level)


def with_int8_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights are int8, each row of a tensor with a scale of its own; sums stay float32.

    What is no weight stays as it is: biases, and the matrix that enlarges and smooths. onnxruntime brings the weights
    back when it opens the file, so that this costs accuracy and saves size; it makes nothing faster.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph, nodes = small.graph, []
    for tensor in list(graph.initializer):
        rows = int(np.prod(tensor.dims[1:]))
        weights = tensor.data_type == FLOAT and len(tensor.dims) > 1 and rows * tensor.dims[0] >= LEAST_WEIGHTS
        if not weights or "spread" in tensor.name:
            continue
        values = numpy_helper.to_array(tensor)
        largest = np.abs(values).reshape(len(values), -1).max(1)
        scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        shape = (-1, *[1] * (values.ndim - 1))
        steps = np.clip(np.round(values / scales.reshape(shape)), -127, 127).astype(np.int8)
        graph.initializer.remove(tensor)
        names = [f"{tensor.name}_int8", f"{tensor.name}_scale", f"{tensor.name}_zero"]
        arrays = [steps, scales, np.zeros(len(values), np.int8)]
        graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)
        )
        nodes.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=0))
    for node in reversed(nodes):
        graph.node.insert(0, node)
    return small
