"""A fitted classifier on disk, and back: the same scores from the file as from the model in memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from mvtec_ad.artifacts import Artifact
from mvtec_ad.backbones.backbone import DEVIATION, MEAN
from mvtec_ad.config import torch_device
from mvtec_ad.data.items import Finder
from mvtec_ad.errors import ArtifactError, SettingsError
from mvtec_ad.methods.classifier.model import DefectClassifier
from mvtec_ad.methods.classifier.networks import blank
from mvtec_ad.settings import ClassifierSettings

LABELS = {"0": "good", "1": "defective"}


def members(
    model: DefectClassifier, category: str, name: str, *, threshold: float, metrics: dict[str, Any]
) -> dict[str, Any]:
    """What `artifacts.save` needs to keep a fitted classifier.

    Args:
        model: fitted.
        category: product it was fitted on.
        name: of the model within the category, for example `resnet18-top`.
        threshold: on its logits, kept beside the model.
        metrics: plain JSON data, kept beside the model.

    Returns:
        `CATEGORY/NAME/SEED/` with model.json, model.safetensors, validation.csv and curve.csv.
    """
    folder = f"{category}/{name}/{model.seed}"
    description = {
        "category": category,
        "name": name,
        "seed": model.seed,
        "settings": model.settings.options(),
        "weights": model.weights,
        "views": sorted(model.finders),
        "labels": LABELS,
        "preprocessing": {"mean": list(MEAN), "deviation": list(DEVIATION), "colours": "RGB, 0 to 1"},
        "temperature": model.temperature,
        "threshold": threshold,
        "metrics": metrics,
    }
    arrays = {name: own.numpy(force=True) for name, own in model.network.state_dict().items()}
    for view, finder in model.finders.items():
        arrays |= {f"finder.{view}.{key}": value for key, value in asdict(finder).items()}
    return {
        f"{folder}/model.json": description,
        f"{folder}/model.safetensors": arrays,
        f"{folder}/validation.csv": model.validation,
        f"{folder}/curve.csv": model.curve,
    }


def names(artifact: Artifact) -> list[tuple[str, str]]:
    """Category and name of each model in an artifact, in order."""
    parts = [member.split("/") for member in artifact.names if member.endswith("/model.json")]
    return list(dict.fromkeys((category, name) for category, name, _, _ in parts))


def restore(
    artifact: Artifact, category: str, name: str, seed: int | None = None
) -> tuple[DefectClassifier, dict[str, Any]]:
    """Load one classifier.

    Args:
        artifact: a checked artifact.
        category: which product.
        name: which of its models.
        seed: the first one when None.

    Returns:
        The model and its description (with `threshold` and `metrics`).

    Raises:
        ArtifactError: there is no such model, or what is there is no whole one.
    """
    prefix = f"{category}/{name}/" + ("" if seed is None else f"{seed}/")
    found = [member for member in artifact.names if member.startswith(prefix) and member.endswith("/model.json")]
    if not found:
        held = ", ".join("/".join(one) for one in names(artifact)) or "none"
        raise ArtifactError(f"{artifact.path} has no classifier {prefix.rstrip('/')}: it holds {held}")
    folder = found[0].removesuffix("/model.json")
    try:
        description = artifact.json(found[0])
        arrays = artifact.arrays(f"{folder}/model.safetensors")
        settings = ClassifierSettings.from_options(description["settings"])
        weights = description["weights"]
        network = blank(
            settings.architecture,
            settings.pyramid,
            pretrained=not weights.startswith("random"),
            new_block=weights.endswith("layer4 new"),
        )
        state = {key: torch.from_numpy(value) for key, value in arrays.items() if not key.startswith("finder.")}
        network.load_state_dict(state)
        model = DefectClassifier(
            network.to(torch_device(), memory_format=torch.channels_last).eval(),
            settings,
            description["seed"],
            weights,
            {view: _finder(arrays, view) for view in description["views"]},
            float(description["temperature"]),
            artifact.table(f"{folder}/validation.csv"),
            artifact.table(f"{folder}/curve.csv").apply(lambda column: column.replace("", np.nan).astype(float)),
        )
        float(description["threshold"])
    except (KeyError, TypeError, ValueError, RuntimeError, SettingsError) as problem:
        reason = f"{type(problem).__name__} {problem}".splitlines()[0]
        raise ArtifactError(f"{artifact.path} holds no whole classifier ({reason}): train it again") from problem
    return model, description


def _finder(arrays: dict[str, np.ndarray], view: str) -> Finder:
    return Finder(**{key: arrays[f"finder.{view}.{key}"] for key in Finder.__dataclass_fields__})
