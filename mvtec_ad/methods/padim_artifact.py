"""A fitted PaDiM on disk, and back: the same scores from the file as from the model in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.backbones.files import packed_weights
from mvtec_ad.errors import ArtifactError
from mvtec_ad.methods.gaussians import PositionGaussians
from mvtec_ad.methods.padim import Padim
from mvtec_ad.settings import PadimSettings, as_dict, from_dict, home, torch_device
from mvtec_ad.transfer import Artifact, file_sha256, replacing


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
    weights = packed_weights(model.backbone.source)
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
        ArtifactError: no model fits, several categories do, or what is there is no whole model.
    """
    with _complete(artifact):
        description = _choose(artifact, category, seed)
        settings = from_dict(PadimSettings, description["settings"])
        arrays = artifact.arrays(f"{description['category']}/padim/{description['seed']}/model.safetensors")
        mean, factor = torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["factor"])
        if not description["dual"]:
            factor = _full(factor, len(arrays["channels"]))
        measured = arrays["channels"], description["scale"], arrays["good_scores"].astype(np.float32)
        grid = tuple(description["grid"])
        network = description["backbone"], settings.weights, description["weights_member"]
        float(description["threshold"]["value"])
        weights = str(description["weights"])
    backbone, device = _backbone(artifact, *network), torch_device()
    if settings.weights == "drawn" and backbone.weights != weights:
        raise ArtifactError(
            f"{artifact.path} was fitted on {weights}, and this package carries {backbone.weights}: fit it again"
        )
    gaussians = PositionGaussians(mean.to(device), factor.to(device), settings.ridge, description["dual"])
    model = Padim(backbone, settings, description["seed"], *measured, gaussians, grid)
    return model, description


@contextlib.contextmanager
def _complete(artifact: Artifact) -> Iterator[None]:
    """Whatever a model lacks that another version or hand has written, in one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
        reason = f"{type(problem).__name__} {problem}".splitlines()[0]
        raise ArtifactError(f"{artifact.path} holds no whole PaDiM ({reason}): fit it again") from problem


def _choose(artifact: Artifact, category: str | None, seed: int | None) -> dict[str, Any]:
    found = models(artifact)
    fitting = [one for one in found if category in (None, one["category"]) and seed in (None, one["seed"])]
    held = ", ".join(f"{one['category']} seed {one['seed']}" for one in found) or "none"
    if not fitting:
        raise ArtifactError(
            f"{artifact.path} has no PaDiM of {category or 'any category'} seed {seed}: it holds {held}"
        )
    if len({one["category"] for one in fitting}) > 1:
        raise ArtifactError(f"{artifact.path} holds PaDiM of several categories ({held}): choose one with --category")
    return fitting[0]


def _full(factor: torch.Tensor, dimension: int) -> torch.Tensor:
    """(P, d, d) lower triangular, from the (P, d(d+1)/2) that are kept of it."""
    full = torch.zeros(len(factor), dimension, dimension)
    rows, columns = torch.tril_indices(dimension, dimension)
    full[:, rows, columns] = factor
    return full


def _backbone(artifact: Artifact, name: str, weights: str, member: str | None) -> Backbone:
    if member is None:
        return load_backbone(name, weights)
    # Keras reads weights from files only; the copy is named by its content and reused
    digest = artifact.manifest["members"].get(member, "")
    copy = home() / "data" / "weights" / f"{digest[:16]}{''.join(Path(member).suffixes)}"
    if not (copy.is_file() and file_sha256(copy) == digest):
        data = artifact.read(member)
        with replacing(copy) as file:
            file.write(data)
    return load_backbone(name, str(copy))
