"""Keras networks as feature extractors, through the same call as torch's."""

from __future__ import annotations

import random
import warnings
from functools import partial
from typing import Any

import numpy as np

from mvtec_ad.backbones import keras_from_torch
from mvtec_ad.backbones.backbone import FROM_TORCH, KERAS_TAPS, Backbone
from mvtec_ad.backbones.trunk import describe, state_of, unreachable
from mvtec_ad.config import torch_device
from mvtec_ad.errors import WeightsError
from mvtec_ad.frameworks import import_keras, import_tensorflow


def load(name: str, weights: str) -> Backbone:
    """See `mvtec_ad.backbones.load_backbone`."""
    keras, tf = import_keras(), import_tensorflow()
    import torch

    if name in FROM_TORCH:
        network, preprocess = keras_from_torch.build(name), partial(keras_from_torch.preprocess, name)
        if weights == "random":
            _randomize(network)
            description = "random (seed 0)"
        else:
            state, description = state_of(name, weights)
            keras_from_torch.fill(network, state, description)
    else:
        module, constructor = {
            "resnet50": (keras.applications.resnet50, keras.applications.ResNet50),
            "efficientnet_b0": (keras.applications.efficientnet, keras.applications.EfficientNetB0),
            "mobilenet": (keras.applications.mobilenet, keras.applications.MobileNet),
        }[name]
        network, description = _network(constructor, name, weights)
        preprocess = module.preprocess_input
    # one flat graph from the pixels to the three layers
    extractor = keras.Model(network.input, [network.get_layer(tap).output for tap in KERAS_TAPS[name]])
    device = torch_device()

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
    def run(pixels: Any) -> Any:
        return extractor(preprocess(pixels), training=False)

    def forward(images: np.ndarray) -> list[torch.Tensor]:
        layers = run(tf.constant(images, tf.float32))
        return [torch.from_numpy(layer.numpy()).to(device) for layer in layers]  # B×h×w×C

    # ResNet50 with ImageNet weights is the network of the reported Keras recipe, ResNet-18 that of the paper: their
    # features stay as they are.
    raw = name in ("resnet18", "resnet50") and weights not in ("random", "synthetic")
    return Backbone(f"keras:{name}", description, raw, forward)


def _network(constructor: Any, name: str, weights: str) -> tuple[Any, str]:
    """The Keras model without its head, and what its weights are called."""
    shape = (None, None, 3)
    if weights == "random":
        state = random.getstate()  # Keras draws its initial weights from python's generator
        network = constructor(include_top=False, weights=None, input_shape=shape)
        random.setstate(state)
        _randomize(network)
        return network, "random (seed 0)"
    source = "imagenet" if weights == "imagenet" else None
    try:
        network = constructor(include_top=False, weights=source, input_shape=shape)
    except Exception as problem:  # Keras wraps every failure of the download in a bare Exception
        raise WeightsError(unreachable(f"Keras {name} ImageNet weights", problem)) from problem
    if weights == "imagenet":
        return network, "keras imagenet"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns once per layer before it raises
            network.load_weights(weights)
    except Exception as problem:  # whatever HDF5, zip and Keras find wrong with a foreign file
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise WeightsError(f"weights {weights} do not fit Keras {name} ({reason}): wrong network?") from problem
    return network, describe(weights)


def _randomize(network: Any) -> None:
    """He-normal kernels from seed 0, drawn by numpy so that the process's own random state stays untouched."""
    generator = np.random.default_rng(0)
    pairs = [(layer, variable) for layer in network.layers for variable in layer.weights]
    for layer, variable in pairs:
        if len(variable.shape) < 2:
            continue  # biases and batch-norm statistics keep their initial values
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        fan_in = np.prod(variable.shape[:2]) if depthwise else np.prod(variable.shape[:-1])
        variable.assign(generator.normal(0, np.sqrt(2 / fan_in), variable.shape).astype(np.float32))
