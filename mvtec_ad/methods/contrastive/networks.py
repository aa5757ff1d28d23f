"""A residual network in two parts, frozen below and trained above, whose pooled features are the embedding."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from mvtec_ad.backbones.backbone import check_state, state_of
from mvtec_ad.frameworks import import_torchvision
from mvtec_ad.settings import TypingSettings

LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
TAPPED = ("layer2", "layer3")  # the embedding is pooled from these
HIDDEN = 256  # width of the projection head
FLOOR = 0.3  # of the median spread: a feature that hardly varies among these images may vary wildly in others


class Encoder(nn.Module):
    """Images -> embeddings, and embeddings -> what the loss compares.

    Attributes:
        below: frozen layers, possibly none; their output is computed once for every view.
        above: trained layers.
        head: the projection g of SimCLR, used by the loss alone.
        focus: standard deviation of the Gaussian around the centre by which places are weighted, in sides of the view:
            a region has its defect in the middle. 0, for whole pictures: the mean and the maximum over all places.
        mean, scale: (d,), of the pooled features before training; an embedding is given in these units, so that no
            feature counts for more because its numbers are larger.
        pretrained: then batch norm keeps its statistics, which a few images are too few to estimate again.
    """

    def __init__(
        self, below: nn.Sequential, above: nn.Sequential, *, pretrained: bool, projection: int, focus: float
    ) -> None:
        super().__init__()
        self.below, self.above, self.pretrained, self.focus = below, above, pretrained, focus
        with torch.no_grad():
            width = self.eval().pooled(self.below(torch.zeros(1, 3, 32, 32))).shape[1]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.head = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, projection))

    def train(self, mode: bool = True) -> Encoder:
        """As always, but for what is frozen and the statistics of a pretrained network."""
        super().train(mode)
        self.below.eval()
        if self.pretrained:
            self.above.eval()  # it holds no dropout: only batch norm tells the difference
        return self

    def pooled(self, seen: Tensor) -> Tensor:
        """What `below` says of images, (B, C, h, w) -> (B, d) pooled features in their own units."""
        tapped = [] if "layer2" in dict(self.above.named_children()) else [seen]
        for name, layer in self.above.named_children():
            seen = layer(seen)
            if name in TAPPED:
                tapped.append(seen)
        return torch.cat([pool(layer, self.focus) for layer in tapped], 1)

    def forward(self, seen: Tensor) -> Tensor:
        """What `below` says of images, (B, C, h, w) -> (B, d) embeddings, of any length."""
        return (self.pooled(seen) - self.mean) / self.scale

    def measure(self, seen: Tensor) -> None:
        """Set `mean` and `scale` from training views, (B, C, h, w)."""
        with torch.no_grad():
            features = self.pooled(seen)
        spread = features.std(0)
        self.mean.copy_(features.mean(0))
        self.scale.copy_(spread.clamp(min=float(FLOOR * spread.median()) or 1.0))


def build(settings: TypingSettings, seed: int = 0) -> tuple[Encoder, str]:
    """An encoder with pretrained or random layers and a new head.

    Args:
        settings: `backbone`, `weights`, `trained` and `projection`.
        seed: of all that is drawn.

    Returns:
        The encoder, on the CPU in evaluation mode, and what its weights are called.

    Raises:
        WeightsError: the weights cannot be had, read, or do not fit.
    """
    encoder = blank(settings, seed)
    if settings.weights == "random":
        return encoder, "random, from scratch"
    state, description = state_of(settings.backbone, settings.weights)
    for part in (encoder.below, encoder.above):
        shapes = {name: tuple(own.shape) for name, own in part.state_dict().items() if "num_batches" not in name}
        check_state(state, shapes, settings.backbone, description)
        part.load_state_dict({name: state[name] for name in shapes}, strict=False)
    return encoder, description


def blank(settings: TypingSettings, seed: int = 0) -> Encoder:
    """The encoder with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = import_torchvision().models.get_model(settings.backbone, weights=None)
        first = 0 if settings.trained == "all" else LAYERS.index(settings.trained)
        below, above = (
            nn.Sequential(OrderedDict((name, getattr(network, name)) for name in names))
            for names in (LAYERS[:first], LAYERS[first:])
        )
        below.requires_grad_(False)
        return Encoder(
            below,
            above,
            pretrained=settings.weights != "random",
            projection=settings.projection,
            focus=0.0 if settings.look == "whole" else settings.focus,
        ).eval()


def pool(layer: Tensor, focus: float) -> Tensor:
    """(B, C, h, w) -> (B, C), the mean weighted by a Gaussian around the centre; or, with no focus, (B, 2 C), the mean
    and the maximum over all places."""
    if not focus:
        return torch.cat([layer.mean((2, 3)), layer.amax((2, 3))], 1)
    return (layer * gaussian_window(*layer.shape[2:], focus).to(layer)).sum((2, 3))


def gaussian_window(height: int, width: int, focus: float) -> Tensor:
    """(height, width) float32 weights that add up to 1; the deviation is `focus` of each side."""
    rows, columns = (
        torch.exp(-((((torch.arange(count) + 0.5) / count - 0.5) / focus) ** 2) / 2) for count in (height, width)
    )
    window = rows[:, None] * columns[None, :]
    return window / window.sum()
