"""Export: a fitted model as one ONNX graph, and a certificate that the graph judges as the model does.

The graph takes a uint8 picture of any size and gives score, anomaly map and verdict. Nothing is left to whoever runs
it: the picture is resized in the graph as OpenCV resizes it, to the last bit (`resized`).
"""

from __future__ import annotations

import logging
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import compose, helper, numpy_helper
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset
from torch import Tensor, nn

from mvtec_ad.config import torch_device
from mvtec_ad.data.loading import read_image
from mvtec_ad.edge import METADATA, SCHEMA, EdgeModel
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.inspection.second_opinion import CalibratedDetector
from mvtec_ad.methods import autoencoder, patchcore
from mvtec_ad.methods.base import Detector, FeatureDetector, enlarge, smooth
from mvtec_ad.methods.padim import Gaussians, Padim

EXPORTED = ("padim", "patchcore", "autoencoder", "vae", "classifier")
OPSET, IR_VERSION = 18, 10
FLOAT, UINT8, INT32, INT64, DOUBLE = 1, 2, 6, 7, 11  # of onnx.TensorProto
LEAST_WEIGHTS = 1024  # numbers of a tensor that is worth int8
LARGEST = 2**31 - 2**20  # bytes of a protobuf file, with room for what is no weight
TIMED = 50  # runs of each latency
OWN = Opset("mvtec_ad", 1)


# --- resizing inside the graph ----------------------------------------------------------------------------------------
# As `data.loading.resample`: OpenCV's INTER_AREA along axes that shrink, then its INTER_LINEAR along those that grow,
# each rounded to uint8. Sums of float32 depend on their order in the last digit, and that decides where a value lies
# half way between two whole numbers: so areas are added in OpenCV's order, columns first, one source pixel after the
# other (ResizeArea_Invoker and ResizeAreaFast_Invoker; HResizeLinear and VResizeLinear with their 11 bits).


@script(OWN)
def overlaps(source, target):
    """For each of T target pixels: the source pixels that it covers (K, T), their weights, and the scale in float64."""
    scale = op.Reciprocal(op.Cast(target, to=DOUBLE) / op.Cast(source, to=DOUBLE))
    whole = op.Cast(source, to=DOUBLE)
    first = op.Cast(op.Range(op.CastLike(0, target), target, op.CastLike(1, target)), to=DOUBLE) * scale
    end = first + scale
    cell = op.Min(scale, whole - first)
    stop = op.Min(op.Floor(end), whole - 1.0)
    start = op.Min(op.Ceil(first), stop)
    head = op.Where(start - first > 0.001, (start - first) / cell, 0.0)
    tail = op.Where(end - stop > 0.001, op.Min(end - stop, op.CastLike(1.0, end), cell) / cell, 0.0)
    steps = op.Cast(op.ReduceMax(stop - start, keepdims=0), to=INT64) + 2
    steps_before = op.Cast(op.Range(op.CastLike(0, steps), steps, op.CastLike(1, steps)), to=DOUBLE) - 1.0
    pixels = start + op.Unsqueeze(steps_before, 1)
    inside = op.Where(pixels < stop, op.Reciprocal(cell), op.Where(pixels == stop, tail, 0.0))
    weights = op.Cast(op.Where(pixels < start, head, inside), to=FLOAT)
    return op.Cast(op.Clip(pixels, op.CastLike(0.0, pixels), whole - 1.0), to=INT64), weights, scale


@script(OWN)
def between(source, target):
    """For each target pixel: the source pixel before its centre, int64, and the share of the next one, float32."""
    scale = op.Reciprocal(op.Cast(target, to=DOUBLE) / op.Cast(source, to=DOUBLE))
    centres = op.Cast(op.Range(op.CastLike(0, target), target, op.CastLike(1, target)), to=DOUBLE) + 0.5
    positions = op.Cast(centres * scale - 0.5, to=FLOAT)
    before = op.Floor(positions)
    return op.Cast(before, to=INT64), positions - before


@script(OWN)
def fixed_point(share):
    """Weights of the two neighbours, as OpenCV rounds them: of 2048, int32."""
    weights = op.Round((1.0 - share) * 2048.0)
    return op.Cast(weights, to=INT32), op.Cast(op.Round(share * 2048.0), to=INT32)


@script(OWN)
def enlarged(image, rows, columns, target):
    """A uint8 picture of so many rows and columns, interpolated linearly to a square."""
    values = op.Cast(image, to=INT32)
    before, share = between(columns, target)
    last = columns - 1
    share = op.Where(op.Or(before < 0, before >= last), 0.0, share)
    first_weight, second_weight = fixed_point(share)
    first = op.Gather(values, op.Max(before, op.CastLike(0, before)), axis=1) * op.Unsqueeze(first_weight, [1])
    second = op.Gather(values, op.Clip(before + 1, op.CastLike(0, before), last), axis=1)
    wide = (first + second * op.Unsqueeze(second_weight, [1])) / 16
    above, share = between(rows, target)
    last = rows - 1
    first_weight, second_weight = fixed_point(share)
    upper = op.Gather(wide, op.Clip(above, op.CastLike(0, above), last), axis=0) * op.Unsqueeze(first_weight, [1, 2])
    lower = op.Gather(wide, op.Clip(above + 1, op.CastLike(0, above), last), axis=0)
    return op.Cast((upper / 65536 + lower * op.Unsqueeze(second_weight, [1, 2]) / 65536 + 2) / 4, to=UINT8)


@script(OWN)
def resample(image, target):
    """A uint8 picture (H, W, 3) as a square of `target` pixels a side."""
    rows = op.Gather(op.Shape(image), 0)
    columns = op.Gather(op.Shape(image), 1)
    height = op.Min(rows, target)
    width = op.Min(columns, target)
    left, across, scale_x = overlaps(columns, width)
    top, down, scale_y = overlaps(rows, height)
    whole = op.And(scale_x == op.Round(scale_x), scale_y == op.Round(scale_y))  # then OpenCV adds whole numbers
    across = op.Expand(op.Unsqueeze(op.Where(whole, op.Sign(across), across), [2]), [1, 1, 3])
    down = op.Unsqueeze(op.Where(whole, op.Sign(down), down), [2, 3])
    strips = op.Cast(op.Gather(image, op.Gather(left, 0), axis=1), to=FLOAT) * op.Gather(across, 0)
    for step in range(op.Gather(op.Shape(left), 0) - 1):
        covered = op.Cast(op.Gather(image, op.Gather(left, step + 1), axis=1), to=FLOAT)
        strips = strips + covered * op.Gather(across, step + 1)
    total = op.Gather(strips, op.Gather(top, 0), axis=0) * op.Gather(down, 0)
    for step in range(op.Gather(op.Shape(top), 0) - 1):
        total = total + op.Gather(strips, op.Gather(top, step + 1), axis=0) * op.Gather(down, step + 1)
    area = op.Where(whole, scale_x * scale_y, op.CastLike(1.0, scale_x))
    total = total * op.Cast(op.Reciprocal(area), to=FLOAT)
    halves_up = op.And(whole, op.And(scale_x == 2.0, scale_y == 2.0))  # elsewhere to the even number
    small = op.Cast(op.Where(halves_up, op.Floor(total + 0.5), op.Round(total)), to=UINT8)
    if op.Min(height, width) < target:
        square = enlarged(small, height, width, target)
    else:
        square = op.Identity(small)
    return square


def resized(size: int) -> onnx.ModelProto:
    """The graph of `data.loading.resample`: `image` (H, W, 3) uint8 of any size -> `square` (size, size, 3) uint8."""
    image = helper.make_tensor_value_info("image", UINT8, ["height", "width", 3])
    square = helper.make_tensor_value_info("square", UINT8, [size, size, 3])
    target = numpy_helper.from_array(np.array(size, np.int64), "target")
    node = helper.make_node("resample", ["image", "target"], ["square"], domain=OWN.domain)
    graph = helper.make_graph([node], "resized", [image], [square], [target])
    functions = [part.to_function_proto() for part in (overlaps, between, fixed_point, enlarged, resample)]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(OWN.domain, OWN.version)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=IR_VERSION)


# --- what comes after it ----------------------------------------------------------------------------------------------


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

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """Of the frozen network, (1, h, w, C)."""
        return [layer.permute(0, 2, 3, 1) for layer in self.extractor.tensors(pixels)]

    def anomaly_map(self, grid: Tensor) -> Tensor:
        """A grid (cells, cells), enlarged and smoothed."""
        return self.spread @ grid @ self.spread.T


class PadimHead(Head):
    """Distances to the Gaussians of all positions. Of a direct factor the lower triangle is kept, as in the artifact."""

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
