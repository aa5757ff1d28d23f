"""ResNet-18 and EfficientNet-Lite in Keras, to the end of layer3: the same features as in torch, from the same file.

Layers have the names of the state dict, torchvision's or timm's, so a tensor finds its layer by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvtec_ad.backbones import efficientnet_lite
from mvtec_ad.backbones.backbone import DEVIATION, LITE, MEAN
from mvtec_ad.backbones.trunk import check_state, trunk
from mvtec_ad.frameworks import import_keras

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")  # in the order of Keras: γ, β, moving mean, variance
RESNET_EPSILON, LITE_EPSILON = 1e-5, 1e-3  # of batch norm


def preprocess(name: str, pixels: Any) -> Any:
    """(B, H, W, 3) RGB from 0 to 255 -> as the network wants it."""
    if name in LITE:
        return (pixels / 255 - efficientnet_lite.LITE_MEAN) / efficientnet_lite.LITE_DEVIATION
    return (pixels / 255 - np.float32(MEAN)) / np.float32(DEVIATION)


def build(name: str) -> Any:
    """One flat graph, whose layers `layer1`, `layer2` and `layer3` give its three outputs. Kernels are zero."""
    keras = import_keras()
    image = keras.Input((None, None, 3))
    outputs = _lite(image, name) if name in LITE else _resnet18(image)
    return keras.Model(image, outputs, name=name, trainable=False)


def fill(network: Any, state: dict[str, Any], description: str) -> None:
    """Bring a torch state dict into the network: kernels from OIHW to HWIO, of depthwise ones to HWO1."""
    layers = [layer for layer in network.layers if layer.weights]
    axes = {layer.name: (2, 3, 0, 1) if type(layer).__name__ == "DepthwiseConv2D" else (2, 3, 1, 0) for layer in layers}
    shapes, tensors = {}, {}
    for layer in layers:
        endings = ("weight",) if len(layer.weights) == 1 else BATCH_NORM
        tensors[layer.name] = [f"{layer.name}.{ending}" for ending in endings]
        for key, variable in zip(tensors[layer.name], layer.weights, strict=True):
            shape = tuple(variable.shape)
            shapes[key] = tuple(shape[at] for at in np.argsort(axes[layer.name])) if len(shape) == 4 else shape
    check_state(state, shapes, network.name, description)
    for name, keys in tensors.items():
        values = [state[key].float().numpy() for key in keys]
        network.get_layer(name).set_weights([v.transpose(axes[name]) if v.ndim == 4 else v for v in values])


# --- ResNet-18 --------------------------------------------------------------------------------------------------------


def _resnet18(image: Any) -> list[Any]:
    """Keras's own `padding="same"` pads a strided convolution on one side only, so the padding is written out."""
    layers = import_keras().layers
    x = _convolution(image, "conv1", "bn1", 64, 7, 2)
    x = layers.ReLU(name="relu")(x)
    x = layers.ZeroPadding2D(1, name="maxpool.pad")(x)  # nothing is below zero here, so zeros never win
    x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    outputs = []
    for depth, channels in ((1, 64), (2, 128), (3, 256)):
        x = _block(x, f"layer{depth}.0", channels, 1 if depth == 1 else 2, f"layer{depth}.0.relu")
        x = _block(x, f"layer{depth}.1", channels, 1, f"layer{depth}")
        outputs.append(x)
    return outputs


def _convolution(x: Any, name: str, norm: str, channels: int, size: int, stride: int) -> Any:
    """Symmetric padding, a convolution without bias, batch norm."""
    layers = import_keras().layers
    if size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}.pad")(x)
    # zeros: weights follow, and drawing them would move python's random state
    x = layers.Conv2D(channels, size, stride, use_bias=False, kernel_initializer="zeros", name=name)(x)
    return layers.BatchNormalization(epsilon=RESNET_EPSILON, name=norm)(x)


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


# --- EfficientNet-Lite ------------------------------------------------------------------------------------------------


def _lite(image: Any, name: str) -> list[Any]:
    """Kernel sizes, strides and widths are read off timm's network, so that Lite0, 1 and 2 need no table."""
    layers = import_keras().layers

    def unit(x: Any, layer: Any, convolution: str, norm: str, active: bool = True) -> Any:
        """A convolution, depthwise where torch's is, its batch norm, mostly ReLU6; `same` pads as TensorFlow did."""
        size, stride = layer.kernel_size[0], layer.stride[0]
        common = {"padding": "same", "use_bias": False, "name": convolution}
        if layer.groups > 1:
            x = layers.DepthwiseConv2D(size, stride, depthwise_initializer="zeros", **common)(x)
        else:
            x = layers.Conv2D(layer.out_channels, size, stride, kernel_initializer="zeros", **common)(x)
        x = layers.BatchNormalization(epsilon=LITE_EPSILON, name=norm)(x)
        return layers.ReLU(6.0, name=f"{norm}.relu")(x) if active else x

    torch_network = dict(trunk(name).named_children())
    x, outputs = unit(image, torch_network["conv_stem"], "conv_stem", "bn1"), []
    for depth in ("layer1", "layer2", "layer3"):
        for part, stage in enumerate(torch_network[depth]):
            for number, block in enumerate(stage):
                place, around = efficientnet_lite.timm_name(f"{depth}.{part}.{number}"), x
                convolutions = [key for key, _ in block.named_children() if key.startswith("conv")]
                for at, key in enumerate(convolutions, 1):
                    x = unit(x, getattr(block, key), f"{place}.{key}", f"{place}.bn{at}", active=at < len(convolutions))
                if block.has_skip:
                    x = layers.Add(name=f"{place}.add")([x, around])
        outputs.append(layers.Identity(name=depth)(x))
    return outputs
