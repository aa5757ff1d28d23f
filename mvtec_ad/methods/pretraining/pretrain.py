"""The network, its training images, and the run."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mvtec_ad.artifacts import atomic_write, git_commit, versions
from mvtec_ad.config import data_folder, set_seed, torch_device
from mvtec_ad.data import abstract
from mvtec_ad.frameworks import import_torchvision
from mvtec_ad.methods.pretraining.objectives import objective
from mvtec_ad.methods.pretraining.views import Look
from mvtec_ad.settings import PretrainingSettings
from mvtec_ad.training import Run

LAYERS = ("layer1", "layer2", "layer3")


class Trunk(nn.Module):
    """torchvision's ResNet-18 up to layer3, under its names; gives the outputs of the three layers."""

    def __init__(self) -> None:
        super().__init__()
        whole = import_torchvision().models.resnet18(weights=None)
        for name in ("conv1", "bn1", "relu", "maxpool", *LAYERS):
            self.add_module(name, getattr(whole, name))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) standardised images -> maps with 64, 128 and 256 channels at strides 4, 8 and 16."""
        found = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        layers = []
        for name in LAYERS:
            found = getattr(self, name)(found)
            layers.append(found)
        return layers


def new_trunk(seed: int = 0) -> Trunk:
    """A trunk with random weights."""
    set_seed(seed)
    return Trunk()


def draw_bank(settings: PretrainingSettings, progress: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The training images, drawn once and kept below `data/abstract/`.

    Returns:
        (N, S, S, 3) uint8 images and (N, S, S) int16 recipes, memory-mapped.
    """
    folder = data_folder() / "abstract"
    name = f"{settings.images}x{settings.image_size}-{settings.recipes}-{settings.seed}-v{abstract.VERSION}"
    paths = [folder / f"{name}-{kind}.npy" for kind in ("images", "recipes")]
    if not all(path.is_file() for path in paths):
        drawn = abstract.draw_many(
            settings.images, settings.image_size, settings.seed, settings.recipes, progress=progress
        )
        for path, array in zip(paths, drawn, strict=True):
            with atomic_write(path) as file:
                np.save(file, array)
    images, recipes = (np.load(path, mmap_mode="r") for path in paths)
    return images, recipes


def pretrain(
    settings: PretrainingSettings,
    bank: tuple[np.ndarray, np.ndarray],
    *,
    checkpoint: Path | None = None,
    until: int | None = None,
    progress: bool = True,
) -> tuple[Trunk, pd.DataFrame]:
    """Train from scratch.

    Args:
        settings: the run.
        bank: as `draw_bank` gives it.
        checkpoint: as in `training.Run`.
        until: stop after this many steps of the settings' schedule, as an interrupted run would.
        progress: show a bar.

    Returns:
        The trained network on the CPU, in evaluation mode, and the curve of losses.
    """
    device = torch_device()
    trunk = new_trunk(settings.seed)
    task = objective(settings.objective, Look(settings.view, settings.turn, settings.colour), settings.recipes)
    model = nn.ModuleDict({"trunk": trunk, "task": task}).to(device, memory_format=torch.channels_last)
    images, recipes = bank

    with Run(
        model,
        lr=settings.rate,
        steps=settings.steps,
        seed=settings.seed,
        checkpoint=checkpoint,
        identity=settings.options(),
        until=until,
        description=f"{settings.objective}, {settings.view} px",
        progress=progress,
    ) as run:
        for step in run:
            rng = run.rng(step)
            chosen = np.sort(rng.choice(len(images), settings.views, replace=False))
            pixels = torch.from_numpy(images[chosen]).to(device).permute(0, 3, 1, 2)
            run.minimise(task.loss(trunk, pixels, torch.from_numpy(recipes[chosen]).to(device), rng))
    return trunk.cpu().eval(), run.curve()


def timed(
    settings: PretrainingSettings, *, checkpoint: Path | None = None, until: int | None = None
) -> tuple[Trunk, pd.DataFrame, float]:
    """Draw and train; also the CPU seconds it took, those of the processes that draw included."""
    before = _cpu_seconds()
    trunk, curve = pretrain(settings, draw_bank(settings), checkpoint=checkpoint, until=until)
    return trunk, curve, _cpu_seconds() - before


def _cpu_seconds() -> float:
    """User and system time of this process and of the children that have ended."""
    return sum(os.times()[:4])


def card(settings: PretrainingSettings, curve: pd.DataFrame, cpu_seconds: float) -> dict[str, Any]:
    """What stands beside the carried weights.

    Args:
        settings: the run.
        curve: as `pretrain` gives it.
        cpu_seconds: of the process that ended the run; one that was interrupted took more.
    """
    smooth = curve["loss"].rolling(50, min_periods=1).mean()
    return {
        "what": "ResNet-18, conv1 to layer3, torchvision's names, half precision",
        "trained on": "images without a subject, drawn by mvtec_ad.data.abstract; no photograph, no product",
        "command": "python -m mvtec_ad backbone",
        "settings": settings.options(),
        "generator version": abstract.VERSION,
        "cpu_minutes": round(cpu_seconds / 60, 1),
        "device": torch_device(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "git_commit": git_commit(),
        "versions": versions(),
        "licence": "MIT, like the code that drew and trained it",
        "loss": {int(step): round(float(smooth[step]), 4) for step in range(0, len(curve), 50)},
    }
