"""A fitted PaDiM on disk, and back: the same scores from the file as from the model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.backbones.files import packed_weights
from mvtec_ad.errors import ArtifactError
from mvtec_ad.methods.gaussians import PositionGaussians
from mvtec_ad.methods.padim import Padim
from mvtec_ad.settings import PadimSettings, as_dict, data_folder, from_dict, torch_device
from mvtec_ad.transfer import Artifact


def members(model: Padim, category: str, threshold: dict[str, Any]) -> dict[str, Any]:
    """What `transfer.save` needs to keep a fitted model.

    Args:
        model: fitted.
        category: product it was fitted on.
        threshold: `{"value", "false_alarm_rate"}`, kept beside the model.

    Returns:
        `CATEGORY/padim/SEED/model.json` and `….safetensors`, and where the backbone's weights came from a local file,
        those weights under `backbone/`.
    """
    folder = f"{category}/padim/{model.seed}"
    factor = model.gaussians.factor
    if not model.gaussians.dual:  # lower triangular: keep the half that is not zero
        rows, columns = torch.tril_indices(factor.shape[1], factor.shape[2])
        factor = factor[:, rows, columns]
    weights = packed_weights(model.backbone.name, model.backbone.source)
    description = {
        "category": category,
        "seed": model.seed,
        "settings": as_dict(model.settings),
        "backbone": model.backbone.name,
        "weights": model.backbone.weights,
        "weights_member": next(iter(weights), None),
        "scale": model.scale,
        "grid": list(model.grid),
        "dual": model.gaussians.dual,
        "threshold": threshold,
    }
    arrays = {
        "mean": model.gaussians.mean.cpu().numpy(),
        "factor": factor.cpu().numpy(),
        "channels": model.channels,
        "good_scores": model.good_scores,
    }
    return {f"{folder}/model.json": description, f"{folder}/model.safetensors": arrays, **weights}


def models(artifact: Artifact) -> list[dict[str, Any]]:
    """Descriptions of the PaDiM models that an artifact holds, in order."""
    return [artifact.json(name) for name in artifact.names if name.endswith("/model.json") and "/padim/" in name]


def restore(
    artifact: Artifact, *, category: str | None = None, seed: int | None = None
) -> tuple[Padim, dict[str, Any]]:
    """Load one model.

    Args:
        artifact: a checked artifact.
        category: which product; may be None when the artifact holds one only.
        seed: which channel seed; the first one when None.

    Returns:
        The model and its description (with `category` and `threshold`).

    Raises:
        ArtifactError: no model fits, or several categories do.
    """
    found = models(artifact)
    fitting = [one for one in found if category in (None, one["category"]) and seed in (None, one["seed"])]
    held = ", ".join(f"{one['category']} seed {one['seed']}" for one in found) or "none"
    if not fitting:
        raise ArtifactError(
            f"{artifact.path} has no PaDiM of {category or 'any category'} seed {seed}: it holds {held}"
        )
    if len({one["category"] for one in fitting}) > 1:
        raise ArtifactError(f"{artifact.path} holds PaDiM of several categories ({held}): choose one with --category")
    description = fitting[0]
    arrays = artifact.arrays(f"{description['category']}/padim/{description['seed']}/model.safetensors")
    settings = from_dict(PadimSettings, description["settings"])
    backbone = _backbone(artifact, description)
    device = torch_device()
    factor = torch.from_numpy(arrays["factor"])
    if not description["dual"]:
        dimension = len(arrays["channels"])
        full = torch.zeros(len(factor), dimension, dimension)
        rows, columns = torch.tril_indices(dimension, dimension)
        full[:, rows, columns] = factor
        factor = full
    gaussians = PositionGaussians(
        torch.from_numpy(arrays["mean"]).to(device), factor.to(device), settings.ridge, description["dual"]
    )
    model = Padim(
        backbone,
        settings,
        description["seed"],
        arrays["channels"],
        description["scale"],
        arrays["good_scores"].astype(np.float32),
        gaussians,
        tuple(description["grid"]),
    )
    return model, description


def _backbone(artifact: Artifact, description: dict[str, Any]) -> Backbone:
    member = description["weights_member"]
    if member is None:
        return load_backbone(description["backbone"], description["settings"]["weights"])
    # Keras reads weights from files only; the copy is named by its content and reused
    copy = data_folder() / "weights" / f"{artifact.manifest['members'][member][:16]}{''.join(Path(member).suffixes)}"
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = copy.with_name(f".{copy.name}.tmp")
        temporary.write_bytes(artifact.read(member))
        temporary.rename(copy)
    return load_backbone(description["backbone"], str(copy))
