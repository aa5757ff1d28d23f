"""torchvision's ResNet-18 in Keras, to the end of layer3: same features from the same weights.

Keras's own `padding="same"` pads a strided convolution on one side only, so the padding is written out. Layers have
torchvision's names, so a tensor of a state dict finds its layer by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvtec_ad.backbones.backbone import DEVIATION, MEAN
from mvtec_ad.backbones.trunk import check_state
from mvtec_ad.frameworks import import_keras

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")  # in the order of Keras: γ, β, moving mean, variance


def preprocess(pixels: Any) -> Any:
    """(B, H, W, 3) RGB from 0 to 255 -> as torchvision's networks want it."""
    return (pixels / 255 - np.float32(MEAN)) / np.float32(DEVIATION)


def build() -> Any:
    """One flat graph; the layers `layer1`, `layer2` and `layer3` give its three outputs. Kernels are zero."""
    keras = import_keras()
    image = keras.Input((None, None, 3))
    x = _convolution(image, "conv1", "bn1", 64, 7, 2)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.ZeroPadding2D(1, name="maxpool.pad")(x)  # nothing is below zero here, so zeros never win
    x = keras.layers.MaxPooling2D(3, 2, name="maxpool")(x)
    outputs = []
    for depth, channels in ((1, 64), (2, 128), (3, 256)):
        x = _block(x, f"layer{depth}.0", channels, 1 if depth == 1 else 2, f"layer{depth}.0.relu")
        x = _block(x, f"layer{depth}.1", channels, 1, f"layer{depth}")
        outputs.append(x)
    return keras.Model(image, outputs, name="resnet18", trainable=False)


def fill(network: Any, state: dict[str, Any], description: str) -> None:
    """Bring a torch state dict into the network: kernels from OIHW to HWIO."""
    names = {layer.name: _names(layer) for layer in network.layers if layer.weights}
    shapes = {}
    for layer, keys in names.items():
        for name, variable in zip(keys, network.get_layer(layer).weights, strict=True):
            shape = tuple(variable.shape)
            shapes[name] = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
    check_state(state, shapes, "resnet18", description)
    for layer, keys in names.items():
        tensors = [state[name].float().numpy() for name in keys]
        network.get_layer(layer).set_weights([t.transpose(2, 3, 1, 0) if t.ndim == 4 else t for t in tensors])


def _convolution(x: Any, name: str, norm: str, channels: int, size: int, stride: int) -> Any:
    """Symmetric padding, a convolution without bias, batch norm."""
    layers = import_keras().layers
    if size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}.pad")(x)
    # zeros: weights follow, and drawing them would move python's random state
    x = layers.Conv2D(channels, size, stride, use_bias=False, kernel_initializer="zeros", name=name)(x)
    return layers.BatchNormalization(epsilon=1e-5, name=norm)(x)


def _block(x: Any, name: str, channels: int, stride: int, last: str) -> Any:
    """Two 3×3 convolutions and the way around them; `last` names the output."""
    layers = import_keras().layers
    around = x
    if stride > 1:
        around = _convolution(x, f"{name}.downsample.0", f"{name}.downsample.1", channels, 1, stride)
    x = _convolution(x, f"{name}.conv1", f"{name}.bn1", channels, 3, stride)
    x = layers.ReLU(name=f"{name}.relu1")(x)
    x = _convolution(x, f"{name}.conv2", f"{name}.bn2", channels, 3, 1)
    return layers.ReLU(name=last)(layers.Add(name=f"{name}.add")([x, around]))


def _names(layer: Any) -> list[str]:
    """Torch's names of a layer's weights, in the order of `layer.weights`."""
    endings = ("weight",) if len(layer.weights) == 1 else BATCH_NORM
    return [f"{layer.name}.{ending}" for ending in endings]
