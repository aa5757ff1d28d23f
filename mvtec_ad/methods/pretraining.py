"""Pretraining: a ResNet-18 (conv1 to layer3) trained on textures without a subject, and what its features are worth.

Five objectives, each asked of the same number of views a step, so that equal steps are equal cost. `loss(trunk, images,
labels, rng)` gets a batch of uint8 images and the recipe of every pixel.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mvtec_ad.artifacts import atomic_write, git_commit, versions
from mvtec_ad.augment import crop, random_windows, recolor
from mvtec_ad.backbones import Backbone, load_backbone, synthetic_weights
from mvtec_ad.backbones.backbone import as_backbone
from mvtec_ad.backbones.synthetic_weights import WAY_OUT, load_synthetic
from mvtec_ad.backbones.trunk import outputs, trunk
from mvtec_ad.config import Options, data_folder, option, set_seed, torch_device
from mvtec_ad.data import catalog, index, loading, splits
from mvtec_ad.errors import SettingsError, WeightsError
from mvtec_ad.methods.defect_types import nt_xent
from mvtec_ad.methods.padim import Padim
from mvtec_ad.metrics import format_number, image_auroc, markdown_table, pixel_metrics
from mvtec_ad.synthetic import CATEGORIES, textures, write_category
from mvtec_ad.training import Run

LAYERS = ("layer1", "layer2", "layer3")
WIDTHS = (64, 128, 256)  # their channels
COMPARISON = synthetic_weights.SYNTHETIC.with_name("objectives.json")
OBJECTIVES = ("simclr", "vicreg", "recipes", "places", "both")


@dataclass(frozen=True)
class Pretraining(Options):
    """Options of a training."""

    objective: str = option("places", "what is asked of the network", among=OBJECTIVES)
    images: int = option(24_000, "textures, drawn once", least=2, most=10_000_000)
    image_size: int = option(128, "of a texture, pixels", least=1, most=16384)
    recipes: int = option(500, "kinds of texture", least=1, most=32767)
    view: int = option(96, "pixels of what the network sees of it", least=1, most=16384)
    views: int = option(128, "a step", least=2, most=10_000)
    rotation: float = option(3.1416, "largest rotation of a view, radians", least=0)
    color_jitter: float = option(1.0, "how much light and colours of a view change; 0 is not at all", least=0, most=10)
    steps: int = option(2400, "of training", least=1, most=1_000_000)
    lr: float = option(2e-3, "highest learning rate", above=0, most=1)
    seed: int = option(0, "of textures, weights and views", least=0, most=2**32 - 1)

    PRESETS: ClassVar = {
        "default": {},
        "quick": {"images": 400, "image_size": 96, "view": 64, "views": 16, "steps": 100},
        "full": {},
    }

    def check(self) -> None:
        """Refuse more views than images."""
        if self.views > self.images:
            raise SettingsError(f"{self.views} views a step of {self.images} images: choose fewer views")


class Trunk(nn.Sequential):
    """torchvision's ResNet-18 up to layer3, under its names; gives the outputs of its three layers."""

    def __init__(self) -> None:
        super().__init__(OrderedDict(trunk("resnet18").named_children()))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) standardised images -> maps with 64, 128 and 256 channels at strides 4, 8 and 16."""
        return outputs(self, images, LAYERS)


def new_trunk(seed: int = 0) -> Trunk:
    """A trunk with random weights."""
    set_seed(seed)
    return Trunk()


def vicreg(first: Tensor, second: Tensor, weights: tuple[float, float, float] = (25, 25, 1)) -> Tensor:
    """Variance-invariance-covariance loss: no negatives, but no collapse either.

    Bardes, Ponce, LeCun 2022 (arXiv:2105.04906), eq. 6, with λ, μ, ν = `weights`; `first` and `second` as in `nt_xent`.
    """
    invariance = F.mse_loss(first, second)
    spread, redundancy = 0.0, 0.0
    for view in (first, second):
        view = view - view.mean(0)
        deviation = torch.sqrt(view.var(0) + 1e-4)
        spread = spread + F.relu(1 - deviation).mean() / 2
        covariance = view.T @ view / (len(view) - 1)
        off = covariance.square().sum() - covariance.diagonal().square().sum()
        redundancy = redundancy + off / view.shape[1]
    return weights[0] * invariance + weights[1] * spread + weights[2] * redundancy


def _projector(width: int, hidden: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


class Pairs(nn.Module):
    """Two views of an image, pooled over the image at layer3, are the same thing (SimCLR, VICReg)."""

    def __init__(self, options: Pretraining) -> None:
        super().__init__()
        self.options, self.simclr = options, options.objective == "simclr"
        self.head = _projector(WIDTHS[2], 512, 128 if self.simclr else 512)

    def loss(self, trunk: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """NT-Xent with τ = .2, or VICReg."""
        _, layers = _two_views(trunk, images, self.options, rng, smallest=0.35)
        pooled = layers[2].mean((2, 3))
        first, second = self.head(pooled).chunk(2)
        return nt_xent(first, second, 0.2) if self.simclr else vicreg(first, second)


class Dense(nn.Module):
    """Two views of the same *place*, at all three layers, are the same thing; other places and images are not.

    Dense contrast as in Wang et al. 2021 (DenseCL, arXiv:2011.09157), with correspondence known from the windows
    (Pinheiro et al. 2020, arXiv:2011.05499) instead of guessed.
    """

    def __init__(self, options: Pretraining, points: int = 6) -> None:
        super().__init__()
        self.options, self.points = options, points
        self.heads = nn.ModuleList(_projector(width, 256, 64) for width in WIDTHS)

    def loss(self, trunk: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean NT-Xent (τ = .2) over the layers, at random places that both views show."""
        matrices, layers = _two_views(trunk, images, self.options, rng)
        return self.compare(layers, matrices, rng)

    def compare(self, layers: list[Tensor], matrices: Tensor, rng: np.random.Generator) -> Tensor:
        """The same for layers and windows of both views, one after the other."""
        first, second = matrices.chunk(2)
        points = _points(rng, len(first), self.points, 0.8, first.device)
        there = _transfer(points, first, second)
        seen = (there.abs() < 0.85).all(-1)
        losses = []
        for head, layer in zip(self.heads, layers, strict=True):
            here, across = layer.chunk(2)
            losses.append(nt_xent(head(_at(here, points)[seen]), head(_at(across, there)[seen]), 0.2))
        return torch.stack(losses).mean()


def _two_views(
    trunk: nn.Module, images: Tensor, options: Pretraining, rng: np.random.Generator, smallest: float = 0.5
) -> tuple[Tensor, list[Tensor]]:
    """Windows (2N, 2, 3) of two views of the first half of a batch, and the layers of both, one after the other."""
    pixels = images[: len(images) // 2].float() / 255
    windows = [random_windows(rng, len(pixels), smallest, rotation=options.rotation) for _ in range(2)]
    matrices = torch.cat(windows).to(images.device)
    views = crop(pixels.repeat(2, 1, 1, 1), matrices, options.view)
    return matrices, trunk(recolor(views, rng, options.color_jitter))


def _transfer(points: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The same places of the image, from coordinates of the first view to those of the second."""
    on_image = points @ first[:, :, :2].transpose(1, 2) + first[:, None, :, 2]
    return (on_image - second[:, None, :, 2]) @ torch.linalg.inv(second[:, :, :2]).transpose(1, 2)


def _points(rng: np.random.Generator, count: int, number: int, reach: float, device: torch.device) -> Tensor:
    """Random coordinates (N, points, 2) from -reach to reach."""
    return torch.from_numpy(rng.uniform(-reach, reach, (count, number, 2)).astype(np.float32)).to(device)


def _at(layer: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Features (N, points, C) at coordinates (N, points, 2) from -1 to 1."""
    sampled = F.grid_sample(layer, points[:, :, None], mode=mode, padding_mode="reflection", align_corners=False)
    return sampled[..., 0].transpose(1, 2)


class Recipes(nn.Module):
    """Which recipe drew this place? Asked at random places of all three layers.

    Formula-driven labels: Kataoka et al. 2020 (FractalDB, arXiv:2101.08515) ask it of whole images.
    """

    def __init__(self, options: Pretraining, points: int = 24) -> None:
        super().__init__()
        self.options, self.points = options, points
        self.heads = nn.ModuleList(nn.Linear(width, options.recipes) for width in WIDTHS)

    def loss(self, trunk: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean cross-entropy over the layers."""
        matrices = random_windows(rng, len(images), 0.5, rotation=self.options.rotation).to(images.device)
        layers = trunk(recolor(crop(images.float() / 255, matrices, self.options.view), rng, self.options.color_jitter))
        return self.name(layers, matrices, labels, rng)

    def name(self, layers: list[Tensor], matrices: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """The same for the layers of views, their windows and the labels of their images."""
        points = _points(rng, len(matrices), self.points, 0.95, matrices.device)
        on_image = points @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]
        wanted = _at(labels[:, None].float(), on_image, "nearest").flatten().long()
        losses = [
            F.cross_entropy(head(_at(layer, points)).flatten(0, 1), wanted)
            for head, layer in zip(self.heads, layers, strict=True)
        ]
        return torch.stack(losses).mean()


class Both(nn.Module):
    """`Dense` and `Recipes` asked of the same two views."""

    def __init__(self, options: Pretraining) -> None:
        super().__init__()
        self.dense, self.recipes = Dense(options), Recipes(options)

    def loss(self, trunk: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """The sum of both losses."""
        matrices, layers = _two_views(trunk, images, self.dense.options, rng)
        seen = labels[: len(images) // 2].repeat(2, 1, 1)
        return self.dense.compare(layers, matrices, rng) + self.recipes.name(layers, matrices, seen, rng)


def objective(options: Pretraining) -> nn.Module:
    """The objective that the options name, with its heads."""
    if options.objective in ("simclr", "vicreg"):
        return Pairs(options)
    return {"recipes": Recipes, "places": Dense, "both": Both}[options.objective](options)


def draw_bank(options: Pretraining, progress: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The training images, drawn once and kept below `data/textures/`.

    Returns:
        (N, S, S, 3) uint8 images and (N, S, S) int16 recipes, memory-mapped.
    """
    loading.check_memory(options.images, options.image_size)
    folder = data_folder() / "textures"
    name = f"{options.images}x{options.image_size}-{options.recipes}-{options.seed}-v{textures.VERSION}"
    paths = [folder / f"{name}-{kind}.npy" for kind in ("images", "recipes")]
    if not all(path.is_file() for path in paths):
        arrays = textures.draw_many(
            options.images, options.image_size, options.seed, options.recipes, progress=progress
        )
        for path, array in zip(paths, arrays, strict=True):
            with atomic_write(path) as file:
                np.save(file, array)
    images, recipes = (np.load(path, mmap_mode="r") for path in paths)
    return images, recipes


def pretrain(
    options: Pretraining,
    bank: tuple[np.ndarray, np.ndarray],
    *,
    checkpoint: Path | None = None,
    until: int | None = None,
    progress: bool = True,
) -> tuple[Trunk, pd.DataFrame]:
    """Train from scratch.

    Args:
        options: the run.
        bank: as `draw_bank` gives it.
        checkpoint: as in `training.Run`.
        until: stop after this many steps of the options' schedule, as an interrupted run would.
        progress: show a bar.

    Returns:
        The trained network on the CPU, in evaluation mode, and the curve of losses.
    """
    device = torch_device()
    trunk = new_trunk(options.seed)
    task = objective(options)
    model = nn.ModuleDict({"trunk": trunk, "task": task}).to(device, memory_format=torch.channels_last)
    images, recipes = bank

    with Run(
        model,
        lr=options.lr,
        steps=options.steps,
        seed=options.seed,
        checkpoint=checkpoint,
        identity=options.options(),
        until=until,
        description=f"{options.objective}, {options.view} px",
        progress=progress,
    ) as run:
        for step in run:
            rng = run.rng(step)
            chosen = np.sort(rng.choice(len(images), options.views, replace=False))
            pixels = torch.from_numpy(images[chosen]).to(device).permute(0, 3, 1, 2)
            run.minimise(task.loss(trunk, pixels, torch.from_numpy(recipes[chosen]).to(device), rng))
    return trunk.cpu().eval(), run.curve()


def train(
    options: Pretraining, *, checkpoint: Path | None = None, until: int | None = None
) -> tuple[Trunk, pd.DataFrame, float]:
    """`pretrain` on textures drawn for it, and the CPU seconds, those of the processes that draw included."""
    before = _cpu_seconds()
    trunk, curve = pretrain(options, draw_bank(options), checkpoint=checkpoint, until=until)
    return trunk, curve, _cpu_seconds() - before


def _cpu_seconds() -> float:
    """User and system time of this process and of the children that have ended."""
    return sum(os.times()[:4])


def card(options: Pretraining, curve: pd.DataFrame, cpu_seconds: float) -> dict[str, Any]:
    """What stands beside the carried weights.

    Args:
        options: the run.
        curve: as `pretrain` gives it.
        cpu_seconds: of the process that ended the run; one that was interrupted took more.
    """
    smooth = curve["loss"].rolling(50, min_periods=1).mean()
    return {
        "what": "ResNet-18, conv1 to layer3, torchvision's names, half precision",
        "trained on": "images without a subject, drawn by mvtec_ad.synthetic.textures; no photograph, no product",
        "command": "python -m mvtec_ad backbone",
        "settings": options.options(),
        "generator version": textures.VERSION,
        "cpu_minutes": round(cpu_seconds / 60, 1),
        "device": torch_device(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "git_commit": git_commit(),
        "versions": versions(),
        "licence": "MIT, like the code that drew and trained it",
        "loss": {int(step): round(float(smooth[step]), 4) for step in range(0, len(curve), 50)},
    }


def save_synthetic(state: dict[str, torch.Tensor], card: dict[str, Any]) -> Path:
    """Write the carried weights and their card, each whole or not at all.

    Args:
        state: of a torchvision ResNet-18; deeper layers and the classifier are left out.
        card: how the weights were made; `sha256` is added.

    Returns:
        The weights file; the card has its name with the ending `.json`.

    Raises:
        WeightsError: a value is not finite in half precision.
        ArtifactError: the folder cannot be written.
    """
    from safetensors.torch import save

    half = {
        name: tensor.detach().cpu().half().contiguous()
        for name, tensor in state.items()
        if name.startswith(("conv1.", "bn1.", *LAYERS)) and not name.endswith("num_batches_tracked")
    }
    infinite = [name for name, tensor in half.items() if not tensor.isfinite().all()]
    if infinite:
        raise WeightsError(f"{infinite[0]} holds values that are not finite in half precision: train again")
    path, data = synthetic_weights.SYNTHETIC, save(half)
    card = {**card, "sha256": hashlib.sha256(data).hexdigest()}
    with atomic_write(path) as weights_file, atomic_write(path.with_suffix(".json")) as card_file:
        weights_file.write(data)
        card_file.write((json.dumps(card, indent=1) + "\n").encode())
    return path


def save_comparison(results: dict[str, Any]) -> Path:
    """Write what each objective gave at equal cost, beside the weights."""
    with atomic_write(COMPARISON) as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())
    return COMPARISON


def comparison() -> dict[str, Any]:
    """What `save_comparison` wrote: settings, and for each objective its CPU seconds and results.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        return json.loads(COMPARISON.read_bytes())
    except ValueError as problem:
        raise WeightsError(f"{COMPARISON} is damaged: {WAY_OUT}") from problem


def backbone_of(trunk: Trunk, description: str) -> Backbone:
    """A frozen copy of a trained network, as PaDiM wants it."""
    frozen = copy.deepcopy(trunk)
    return as_backbone(frozen, frozen, "resnet18", description)


def padim_auroc(backbone: Backbone, root: Path, category: str) -> dict[str, float]:
    """Image and pixel AUROC of PaDiM (100 channels, 256 → 224 px), means over the channel seeds 0, 1 and 2."""
    table = splits.official(index.read_category(root, category))
    train, test = (table[table["part"] == part] for part in ("train", "test"))
    detector = Padim()
    detector.use_backbone(backbone)
    good, count = detector.training_batches(list(train["image_path"]))
    good, seen = list(good), list(detector.batches(list(test["image_path"])))  # one pass for all seeds
    scores = [detector.fit_seen(good, count, seed).score_seen(seen) for seed in range(3)]
    labels, masks = test["label"].to_numpy(), loading.load_masks(test, detector.image_size, detector.crop)
    image = [image_auroc(labels, result.image) for result in scores]
    pixel = [pixel_metrics(result.maps, masks)["pixel_auroc"] for result in scores]
    return {"image_auroc": float(np.mean(image)), "pixel_auroc": float(np.mean(pixel))}


def worth(backbone: Backbone, folders: dict[str, Path]) -> pd.DataFrame:
    """`padim_auroc` on several categories.

    Args:
        backbone: features to judge.
        folders: name of the row -> category folder.

    Returns:
        A row a category, columns image_auroc and pixel_auroc.
    """
    return pd.DataFrame({name: padim_auroc(backbone, path.parent, path.name) for name, path in folders.items()}).T


def train_and_save(
    options: Pretraining, *, until: int | None = None, root: str | None = None, imagenet: str | None = None
) -> None:
    """Train, carry, and measure beside random and ImageNet weights; goes on where a run was stopped.

    Args:
        options: of the training.
        until: stop after this many steps.
        root: folder of real MVTec AD with bottle, to be reported.
        imagenet: file with ImageNet weights of ResNet-18, to be reported beside.
    """
    checkpoint = data_folder() / "textures" / "backbone.checkpoint"
    trunk, curve, seconds = train(options, checkpoint=checkpoint, until=until)
    if len(curve) < options.steps:
        print(f"stopped at step {len(curve)} of {options.steps}: the same command without --until goes on")
        return
    description = card(options, curve, seconds)
    save_synthetic(trunk.state_dict(), description)
    print(f"carried: {load_synthetic()[1]}; measuring it beside others")
    networks = {"synthetic": load_backbone("resnet18", "synthetic"), "random": load_backbone("resnet18", "random")}
    if imagenet:
        networks["imagenet"] = load_backbone("resnet18", imagenet)
    folders = _folders("official_counts", root)
    results = {name: worth(network, folders) for name, network in networks.items()}
    description["results"] = {name: table.to_dict("index") for name, table in results.items()}
    save_synthetic(trunk.state_dict(), description)
    checkpoint.unlink()
    print(_table(results))


def compare_objectives(options: Pretraining, root: str | None) -> None:
    """Every objective with the same images, views and steps, judged on drawn products that report nothing else."""
    folders = _folders("choosing", root)
    results: dict[str, Any] = {}
    rows = []
    for name in OBJECTIVES:
        recipe = replace(options, objective=name)
        trunk, _, seconds = train(recipe)
        results[name] = worth(backbone_of(trunk, name), folders)
        rows.append({"objective": name, "cpu_seconds": seconds, "results": results[name].to_dict("index")})
        print(_table(results))
    command = f"python -m mvtec_ad backbone --compare --steps {options.steps}"
    save_comparison({"command": command, "settings": options.options(), "objectives": rows})


def _folders(folder: str, root: str | None) -> dict[str, Path]:
    """Drawn products, and real bottle where it is."""
    folders = {}
    for name in CATEGORIES:
        counts = {"train": 100, "test_good": 40, "per_defect": 12, "seed": 5}
        if folder == "official_counts":
            counts = catalog.official_counts(name)
        folders[name] = write_category(data_folder() / folder, name, **counts)
    if root:
        folders["real bottle"] = Path(root) / "bottle"
    return folders


def _table(results: dict[str, pd.DataFrame]) -> str:
    """A Markdown table: a row for each network and metric, a column for each category."""
    rows = [
        [name, metric.replace("_", " "), *(format_number(value) for value in table[metric])]
        for name, table in results.items()
        for metric in ("image_auroc", "pixel_auroc")
    ]
    return markdown_table(["weights", "", *next(iter(results.values())).index], rows)
