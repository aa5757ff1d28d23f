"""Segmentation: a network learns from masks which pixels are defective; the one supervised method with maps of its own.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015 (arXiv:1505.04597);
Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", 2018 (arXiv:1802.02611), as segmentation-models-pytorch (MIT) builds it; Lin et al., "Focal Loss for
Dense Object Detection", 2017 (arXiv:1708.02002); Milletari et al., "V-Net", 2016 (arXiv:1606.04797), on the Dice loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvtec_ad import augment
from mvtec_ad.backbones.efficientnet_lite import Rescale
from mvtec_ad.backbones.trunk import check_state, seeded, state_of
from mvtec_ad.config import check_seed, option, torch_device
from mvtec_ad.data.copies import content_hash, distinct
from mvtec_ad.data.loading import load_masks, masked
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import base
from mvtec_ad.methods.base import FITTED, Scores, TrainedDetector, as_tensor
from mvtec_ad.training import Run, checkpoint_path

ARCHITECTURES = ("deeplabv3plus", "unet")
ENCODER = "efficientnet_lite0"
RATES = (2, 4, 6)
EVERY = 50  # steps between checkpoints

Views = tuple[Tensor, ...]  # features of V views, and their masks (V, S, S): the last


@dataclass
class Segmentation(TrainedDetector):
    """Supervised segmentation: U-Net or DeepLabV3+, trained on images and masks with Dice and focal loss.

    Maps are the probability of a defect at each pixel, smoothed; the score of an image is the map's peak.
    `good_scores` are those of held-out good images. No weight and no step was chosen by held-out images, only `level`.

    Attributes:
        network: trained, in evaluation mode: `encode`, `decode`: standardised (B, 3, S, S) -> (B, 1, S, S) logits.
        level: a pixel is called defective above it: of the highest mean Dice on the held-out defects, 0.5 where there
            are none.
        encoder: what its encoder's weights are called; "none" for a U-Net.

    Examples:
        >>> small = Segmentation.preset("quick", architecture="unet", image_size=64, crop=64)
        >>> small.backbone is None, small.steps
        (True, 40)
    """

    image_size: int = option(192, "side that images are resized to, pixels", least=16, most=16384)
    crop: int = option(
        192, "side of the central part that is kept, pixels; the image size keeps all", least=1, most=16384
    )
    architecture: str = option("deeplabv3plus", "deeplabv3plus, pretrained, or unet, from scratch", among=ARCHITECTURES)
    weights: str = option("imagenet", "of DeepLabV3+'s encoder: imagenet, random or the path of a weights file")
    width: int = option(16, "channels of the U-Net's finest grid; each further one doubles them", least=1, most=256)
    channels: int = option(64, "channels of DeepLabV3+'s decoder", least=8, most=1024)
    views: int = option(8, "random views of each defective image, and as many of good ones in all", least=1, most=1000)
    steps: int = option(100, "training steps", least=1, most=1_000_000)
    batch_images: int = option(6, "images a step, half of them defective", least=2, most=100_000)
    lr: float = option(5e-3, "learning rate", above=0, most=1)
    gamma: float = option(2.0, "γ of the focal loss: how little an easy pixel counts; 0 is cross-entropy", least=0)
    rotation: float = option(15.0, "largest rotation of a training image, degrees", least=0, most=180)
    translation: float = option(0.05, "its largest shift, share of the image, and change of scale", least=0, below=1)
    color_jitter: float = option(0.1, "its largest change of brightness and contrast", least=0, below=1)
    hflip: bool = option(True, "also mirror it")
    sigma: float = option(1.0, "Gaussian smoothing of the anomaly map, pixels", least=0, most=1000)
    level: float = field(default=0.5, **FITTED)
    encoder: str = field(default="", **FITTED)

    name: ClassVar = "segmentation"
    PRESETS: ClassVar = {
        "default": {},
        "unet": {"architecture": "unet"},
        "quick": {"image_size": 96, "crop": 96, "steps": 40, "views": 4, "lr": 0.01},
        "full": {"image_size": 256, "crop": 256, "steps": 600},
    }

    @property
    def backbone(self) -> str | None:
        """The frozen network below, for reports."""
        return None if self.architecture == "unet" else ENCODER

    def check(self) -> None:
        """Refuse a picture that cannot be halved four times."""
        super().check()
        if self.crop % 16:
            raise SettingsError(f"crop {self.crop} cannot be halved four times: choose a multiple of 16")

    def fit(
        self,
        table: pd.DataFrame,
        seed: int = 0,
        *,
        pool: dict[str, Views] | None = None,
        checkpoints: Path | None = None,
        progress: bool = False,
    ) -> Segmentation:
        """Learn from images with masks.

        Args:
            table: table of images; defective ones without a mask are left out. A share of the good and of the defective
                items is held out, for threshold and level.
            seed: of what is held out, new weights and batches, 0 or more.
            pool: of views, which fits with the same options share; filled here.
            checkpoints: folder in which the training keeps its run, and goes on from.

        Raises:
            DataError: too few good images, no defect with a mask, or a file cannot be read.
        """
        check_seed(seed)
        base.check_table(table, "image_path", "mask_path", "label", "group")
        table = table[masked(table)].reset_index(drop=True)
        images = self.load(list(table["image_path"])) if len(table) else np.empty(0)
        chosen = distinct([content_hash(image) for image in images])
        self.copies = len(table) - len(chosen)
        table, images = table.iloc[chosen].reset_index(drop=True), images[chosen]
        labels = table["label"].to_numpy()
        if (labels == 0).sum() < 3 or not labels.any():
            raise DataError(
                f"{(labels == 0).sum()} good images and {labels.sum()} defects with a mask are too few to fit "
                f"{self.name}: give at least 3 and 1"
            )
        masks, held = load_masks(table, self.image_size, self.crop), self.hold_out(table, seed)
        if not masks[~held].any():
            raise DataError(f"no mask marks a pixel at {self.image_size} pixels: choose a larger image size")
        self.seed, self.checkpoint_files = int(seed), []
        self.good_scores, self.level = np.empty(0, np.float32), 0.5
        self.learn(images[~held], masks[~held], {} if pool is None else pool, checkpoints, progress)
        if held.any():
            maps, good = self.score(images[held]).maps, labels[held] == 0
            self.good_scores, self.level = base.peak(maps[good]), best_level(maps[~good], masks[held][~good])
        return self

    def hold_out(self, table: pd.DataFrame, seed: int) -> np.ndarray:
        """(N,) bool: a share of the good items and of the defective ones; of one or two defects none."""
        held = np.zeros(len(table), bool)
        for label in (0, 1):
            groups = np.unique(table.loc[table["label"] == label, "group"])
            number = min(round(self.held_out * len(groups)), len(groups) - 1)
            number = number if label else self.calibration_images(len(groups))
            held |= table["group"].isin(groups[base.held_out_positions(len(groups), number, seed)]).to_numpy()
        return held

    def learn(
        self, images: np.ndarray, masks: np.ndarray, pool: dict[str, Views], checkpoints: Path | None, progress: bool
    ) -> None:
        """AdamW on views of (N, S, S, 3) uint8 images and (N, S, S) bool masks; good and defective equally often."""
        with seeded(self.seed):
            self.network, self.encoder = self.new_network(), "none"
        if self.architecture != "unet":
            self.encoder = load_encoder(self.network.encoder.model, self.weights) or f"random (seed {self.seed})"
        self.network.to(torch_device(), memory_format=torch.channels_last).eval()
        if checkpoints:
            identity = {**self.identity(self.seed), "encoder": self.encoder}
            self.checkpoint_files = [checkpoint_path(checkpoints, self.name, identity, images, masks)]
        recipe = {"lr": self.lr, "steps": self.steps, "seed": self.seed, "every": EVERY, "mixed": True}
        recipe |= {"checkpoint": next(iter(self.checkpoint_files), None), "identity": self.identity(self.seed)}
        marked, parts = masks.any((1, 2)), []
        for kind in (marked, ~marked):
            number = max(1, round(self.views * marked.sum() / kind.sum()))
            views = [self.views_of(*pair, number, pool) for pair in zip(images[kind], masks[kind], strict=True)]
            parts.append([tuple(part[at] for part in view) for view in views for at in range(number)])
        half = self.batch_images // 2
        with Run(self.network, **recipe, description=f"{self.name}, seed {self.seed}", progress=progress) as run:
            for step in run:
                rng = run.rng(step)
                chosen = [
                    part[at]
                    for part, count in zip(parts, (half, self.batch_images - half), strict=True)
                    for at in rng.integers(len(part), size=count)
                ]
                stacks = (torch.stack([part.float() for part in each]) for each in zip(*chosen, strict=True))
                *features, truth = (stack.to(torch_device()) for stack in stacks)
                with seeded(int(rng.integers(2**31))):  # dropout draws from torch's own generator
                    logits = self.network.decode(features)[:, 0]
                run.minimise(dice_loss(logits, truth) + focal_loss(logits, truth, self.gamma))
        self.network.eval()
        self.curve = run.curve()

    @torch.no_grad()
    def views_of(self, image: np.ndarray, mask: np.ndarray, number: int, pool: dict[str, Views]) -> Views:
        """What the frozen part of the network makes of random views of an image, and their masks: computed once.

        Rotated, shifted, scaled and mirrored is the image with its mask, so that it stays true. The views depend on
        the image alone, so that several fits may share a pool.
        """
        key = f"{base.content_seed(image):016x}-{number}-{self.encoder}"
        if key not in pool:
            rng, reach = np.random.default_rng(base.content_seed(image)), self.translation
            angle = np.radians(rng.uniform(-self.rotation, self.rotation, number))
            centres, sizes = 0.5 + rng.uniform(-reach, reach, (number, 2)), 1 + rng.uniform(-reach, reach, number)
            flip = np.where(self.hflip & (rng.random(number) < 0.5), -1.0, 1.0)
            both = torch.cat([as_tensor(image[None]), as_mask(mask[None])[:, None]], 1).expand(number, -1, -1, -1)
            windows = augment.windows_at(centres, sizes, angle, flip).to(both.device)
            both = augment.crop(both, windows, self.crop, padding="border")
            jitter = self.color_jitter * rng.uniform(-1, 1, (2, number, 1, 1, 1)).astype(np.float32)
            gain, offset = torch.from_numpy(jitter).to(both.device)
            seen = (both[:, :3] * (1 + gain) + offset / 2).clamp(0, 1)
            features = self.network.encode(augment.standardise(seen))
            pool[key] = (*(part.half().cpu() for part in features), both[:, 3].cpu() > 0.5)
        return pool[key]

    def new_network(self) -> UNet | DeepLab:
        """With new weights, from torch's generator."""
        return UNet(self.width) if self.architecture == "unet" else DeepLab(self.channels)

    @torch.no_grad()
    def score_batch(self, pixels: np.ndarray) -> Scores:
        """Maps are smoothed probabilities, (B, crop, crop); scores are their peaks."""
        logits = self.network.decode(self.network.encode(augment.standardise(as_tensor(pixels))))[:, 0]
        maps = base.smooth(logits.float().sigmoid().cpu().numpy(), self.sigma)
        return Scores(base.peak(maps), maps)

    def state(self) -> dict[str, Any]:
        """Weights, curve, level and scores of the held-out good images."""
        trained = base.weights_state(self.network, "network") | base.curve_state(self.curve)
        known = {"good_scores": self.good_scores, "seed": self.seed, "level": self.level, "encoder": self.encoder}
        return trained | known

    def load_state(self, state: dict[str, Any]) -> Segmentation:
        """The inverse of `state`."""
        self.network = base.load_weights(self.new_network(), state, "network")
        self.curve = base.load_curve(state, "step", "loss")
        self.level, self.encoder = float(state["level"]), str(state["encoder"])
        return super().load_state(state)


# --- networks ---------------------------------------------------------------------------------------------------------


class UNet(nn.Module):
    """U-Net: a way down that sees ever more, a way up that knows where, and skips from one to the other.

    As the paper's figure 1, with zero padding, so that sizes stay; with group norm, which small batches do not shake;
    and with enlarging by copies in place of transposed convolutions. (B, 3, S, S) -> (B, 1, S, S) logits.
    """

    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]  # 16, 32, …, 256 channels
        self.down = nn.ModuleList(convolutions(*pair) for pair in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(convolutions(3 * wide, wide) for wide in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, 1, 1)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Nothing of it is frozen."""
        return [images]

    def decode(self, features: list[Tensor]) -> Tensor:
        """The way down keeps each grid for the way up."""
        grids = [self.down[0](features[0])]
        for block in self.down[1:]:
            grids.append(block(F.max_pool2d(grids[-1], 2)))  # half the size, twice the channels
        features = grids.pop()
        for block in self.up:
            skip = grids.pop()
            features = block(torch.cat([skip, F.interpolate(features, scale_factor=2)], 1))  # w + 2w channels -> w
        return self.head(features)


def convolutions(before: int, after: int) -> nn.Sequential:
    """Two 3 × 3 convolutions, each with group norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.GroupNorm(gcd(8, after), after), nn.ReLU()]
    return nn.Sequential(*layers)


class DeepLab(nn.Module):
    """DeepLabV3+ of segmentation-models-pytorch on a frozen EfficientNet-Lite0.

    As PatchCore, it reads nothing deeper than stride 16, and stride 8 too, which joins the skip. Its rates of dilation
    are for grids of 8 to 16 cells a side, those of the paper for 33.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        options = {"encoder_weights": None, "encoder_depth": 4, "decoder_channels": channels}
        options |= {"decoder_atrous_rates": RATES, "decoder_aspp_dropout": 0.1}
        model = import_smp().DeepLabV3Plus(f"tu-tf_{ENCODER}", **options)
        self.rescale, self.encoder = Rescale(), model.encoder.requires_grad_(False)
        self.decoder, self.head = model.decoder, model.segmentation_head
        at_skip = sum(model.encoder.out_channels[2:4])
        self.decoder.block1[0] = nn.Conv2d(at_skip, self.decoder.block1[0].out_channels, 1, bias=False)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Standardised images (B, 3, S, S) -> what the decoder reads: strides 4, 8 and 16; 24, 40 and 112 channels."""
        return self.encoder(self.rescale(images))[2:5]

    def decode(self, features: list[Tensor]) -> Tensor:
        """Features of `encode` -> (B, 1, S, S) logits."""
        fine, middle, coarse = features
        skip = torch.cat([fine, F.interpolate(middle, scale_factor=2, mode="bilinear")], 1)
        return self.head(self.decoder([None, None, skip, None, coarse]))


def load_encoder(encoder: nn.Module, weights: str) -> str:
    """Fill the encoder in place and return what its weights are called; random ones stay as they are, with no name."""
    if weights == "random":
        return ""
    state, description = state_of(ENCODER, weights)
    needed = encoder.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in needed.items() if "num_batches" not in name}
    check_state(state, shapes, ENCODER, description)
    encoder.load_state_dict(needed | {name: state[name] for name in shapes})
    return description


def import_smp() -> Any:
    """segmentation-models-pytorch, or one line that says how to install it."""
    try:
        import segmentation_models_pytorch
    except ImportError as problem:
        way = "pip install segmentation-models-pytorch, or choose --architecture unet"
        raise SettingsError(f"DeepLabV3+ needs segmentation-models-pytorch, which is not installed: {way}") from problem
    return segmentation_models_pytorch


# --- losses and overlap -----------------------------------------------------------------------------------------------


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Soft Dice loss of a batch: 1 − (2 Σ p g + 1) / (Σ p + Σ g + 1), over all its pixels together.

    A share, so it does not care how rare defective pixels are; the ones keep a batch without any from 0 / 0.
    """
    probability = logits.float().sigmoid()
    return 1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)


def focal_loss(logits: Tensor, truth: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean focal loss −(1 − p_t)^γ log p_t (eq. 4), p_t being the probability given to what is true."""
    entropy = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")  # −log p_t
    return ((1 - (-entropy).exp()) ** gamma * entropy).mean()


def overlap(predicted: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice coefficient and intersection over union of each image, (N, H, W) bool each -> two (N,) float64 in [0, 1].

    1 where neither marks a pixel.

    Examples:
        >>> [float(value[0]) for value in overlap(np.array([[[True, True]]]), np.array([[[True, False]]]))]
        [0.6666666666666666, 0.5]
    """
    both = (predicted & masks).sum((1, 2))
    sizes = predicted.sum((1, 2)) + masks.sum((1, 2))
    both, sizes = both + (sizes == 0), sizes + 2 * (sizes == 0)
    return 2 * both / sizes, both / (sizes - both)


def best_level(maps: np.ndarray, masks: np.ndarray) -> float:
    """The level of the highest mean Dice on images with a defect, among 100 quantiles of their maps; 0.5 without any.

    Examples:
        >>> best_level(np.float32([[[0, 1, 2, 9]]]), np.array([[[False, False, False, True]]])) >= 2
        True
    """
    if not len(maps):
        return 0.5
    levels = np.unique(np.quantile(maps, np.linspace(0.5, 0.999, 100)))
    return float(levels[int(np.argmax([overlap(maps > level, masks)[0].mean() for level in levels]))])


def as_mask(masks: np.ndarray) -> Tensor:
    """(B, S, S) bool -> float32, on the device."""
    return torch.from_numpy(masks).to(torch_device()).float()
