"""Networks of torchvision as classifiers of parts: convolutions, a spatial pyramid, one logit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mvtec_ad.backbones.backbone import DEVIATION, DRAWN, MEAN, check_state, state_of
from mvtec_ad.errors import WeightsError
from mvtec_ad.frameworks import import_torchvision

_RESIDUAL = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


class Classifier(nn.Module):
    """Images -> one logit each, positive for a defect.

    Attributes:
        body: the convolutional layers; its output (B, C, h, w) is what Grad-CAM reads.
        head: linear, on the averages over all cells of the pyramid.
        pyramid: cells a side of each of its grids: spatial pyramid pooling (He et al. 2014, arXiv:1406.4729) with
            means. A grid of 1 is the usual global average, a finer one also tells *where*.
        pretrained: then batch norm keeps its statistics, which 16 images are too few to estimate again.
    """

    def __init__(self, body: nn.Sequential, channels: int, pyramid: Sequence[int], pretrained: bool) -> None:
        super().__init__()
        self.body, self.pyramid, self.pretrained = body, tuple(pyramid), pretrained
        self.head = nn.Linear(channels * sum(cells**2 for cells in pyramid), 1)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Classifier:
        """As always, but for the statistics of a pretrained network."""
        super().train(mode)
        if self.pretrained:
            for module in self.body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> what the head sees, (B, C · cells)."""
        features = self.body((images - self.mean) / self.deviation)
        return torch.cat([functional.adaptive_avg_pool2d(features, cells).flatten(1) for cells in self.pyramid], 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B,) logits."""
        return self.head(self.pooled(images))[:, 0]

    def groups(self) -> list[str]:
        """Names of its parts that own weights, from the output to the input."""
        parts = [name for name, part in self.body.named_children() if any(True for _ in part.parameters())]
        return ["head", *(f"body.{name}" for name in reversed(parts))]


def build(architecture: str, weights: str, pyramid: Sequence[int], seed: int = 0) -> tuple[Classifier, str]:
    """A network with a new head.

    Args:
        architecture: one of `settings.ARCHITECTURES`.
        weights: `imagenet` (downloaded once), `random`, `drawn` (resnet18; carried by the package) or the path of a
            state dict under torchvision's names. Where a residual network's last block is absent it gets a new one, see
            `_new_block`.
        pyramid: cells a side of each grid.
        seed: of everything that is drawn.

    Returns:
        The network, on the CPU in evaluation mode, and what its weights are called.

    Raises:
        WeightsError: the weights cannot be had, read, or do not fit.
    """
    if weights == "random":
        return blank(architecture, pyramid, pretrained=False, seed=seed), "random, from scratch"
    if weights == "drawn" and architecture not in DRAWN:
        raise WeightsError(f"{architecture} has no drawn weights, only resnet18 has: use it, or --weights random")
    state, description = state_of(architecture, weights)
    residual = architecture.startswith("resnet")
    new_block = residual and not any(name.startswith("layer4.") for name in state)
    classifier = blank(architecture, pyramid, pretrained=True, new_block=new_block, seed=seed)
    _fill(classifier.body, state, "" if residual else "features.", new_block, (architecture, description))
    return classifier, description + (", layer4 new" if new_block else "")


def blank(
    architecture: str, pyramid: Sequence[int], *, pretrained: bool, new_block: bool = False, seed: int = 0
) -> Classifier:
    """The network with random weights, in evaluation mode; `new_block` as in `_new_block`."""
    torchvision = import_torchvision()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torchvision.models.get_model(architecture, weights=None)
        if architecture.startswith("resnet"):
            body = nn.Sequential(OrderedDict((name, getattr(network, name)) for name in _RESIDUAL))
        else:
            body = network.features
        if new_block:
            _new_block(body)
        with torch.no_grad():
            channels = body.eval()(torch.zeros(1, 3, 32, 32)).shape[1]
        return Classifier(body, channels, pyramid, pretrained).eval()


def _fill(
    body: nn.Sequential, state: Mapping[str, Tensor], prefix: str, new_block: bool, words: tuple[str, str]
) -> None:
    """Load the convolutional layers of a state dict; `words` name network and file where they do not fit."""
    wanted = {name: own for name, own in body.state_dict().items() if not (new_block and name.startswith("layer4."))}
    needed = {f"{prefix}{name}": tuple(own.shape) for name, own in wanted.items() if "num_batches" not in name}
    check_state(state, needed, *words)
    found = {name: state[f"{prefix}{name}"] for name in wanted if f"{prefix}{name}" in state}
    body.load_state_dict(found, strict=False)


def _new_block(body: nn.Sequential) -> None:
    """A last block that at first only passes on what reaches it, averaged over 2 × 2 cells.

    A random block would bury the trained features under it. So its shortcut averages (He et al. 2019, arXiv:1812.01187,
    ResNet-D) and copies channels, and its branches begin at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """
    convolution = body.layer4[0].downsample[0]
    copy = nn.Conv2d(convolution.in_channels, convolution.out_channels, 1, bias=False)
    with torch.no_grad():
        source = torch.arange(convolution.out_channels) % convolution.in_channels
        copy.weight.copy_(functional.one_hot(source, convolution.in_channels)[:, :, None, None].float())
        for block in body.layer4:
            (block.bn3 if hasattr(block, "bn3") else block.bn2).weight.zero_()
    average = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
    body.layer4[0].downsample = nn.Sequential(average, copy, body.layer4[0].downsample[1])
