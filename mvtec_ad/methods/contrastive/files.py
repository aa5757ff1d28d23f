"""A fitted typer on disk, and back: the same embeddings from the file as from the model in memory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import torch

from mvtec_ad.artifacts import Artifact
from mvtec_ad.config import torch_device
from mvtec_ad.errors import ArtifactError, SettingsError
from mvtec_ad.methods.contrastive.model import DefectTyper
from mvtec_ad.methods.contrastive.networks import blank
from mvtec_ad.settings import TypingSettings

ENCODER = "encoder."  # before the names of the network's tensors


def members(typer: DefectTyper, category: str, image_ids: list[str], metrics: dict[str, Any]) -> dict[str, Any]:
    """What `artifacts.save` needs to keep a fitted typer.

    Args:
        typer: fitted.
        category: product it was fitted on.
        image_ids: of the N known images.
        metrics: plain JSON data, kept beside the model.

    Returns:
        `CATEGORY/OBJECTIVE/SEED/` with model.json, model.safetensors (encoder, embeddings, prototypes), known.csv and
        curve.csv.
    """
    folder = f"{category}/{typer.settings.objective}/{typer.seed}"
    description = {
        "category": category,
        "seed": typer.seed,
        "settings": typer.settings.options(),
        "weights": typer.weights,
        "types": typer.names,
        "limit": typer.limit if np.isfinite(typer.limit) else None,
        "metrics": metrics,
    }
    arrays = {ENCODER + name: own.numpy(force=True) for name, own in typer.encoder.state_dict().items()}
    arrays |= {"embeddings": typer.embeddings, "prototypes": typer.prototypes}
    return {
        f"{folder}/model.json": description,
        f"{folder}/model.safetensors": arrays,
        f"{folder}/known.csv": pd.DataFrame({"image_id": image_ids, "defect": typer.types}),
        f"{folder}/curve.csv": typer.curve,
    }


def names(artifact: Artifact) -> list[tuple[str, str]]:
    """Category and objective of each typer in an artifact, in order."""
    parts = [member.split("/") for member in artifact.names if member.endswith("/model.json")]
    return list(dict.fromkeys((part[0], part[1]) for part in parts if len(part) == 4))


def restore(
    artifact: Artifact, category: str, objective: str = "supcon", seed: int | None = None
) -> tuple[DefectTyper, dict[str, Any]]:
    """Load one typer.

    Args:
        artifact: a checked artifact.
        category: which product.
        objective: supcon or simclr.
        seed: the first one when None.

    Returns:
        The typer and its description (with `metrics`).

    Raises:
        ArtifactError: there is no such typer, or what is there is no whole one.
    """
    prefix = f"{category}/{objective}/" + ("" if seed is None else f"{seed}/")
    found = [member for member in artifact.names if member.startswith(prefix) and member.endswith("/model.json")]
    if not found:
        held = ", ".join("/".join(one) for one in names(artifact)) or "none"
        raise ArtifactError(f"{artifact.path} has no typer {prefix.rstrip('/')}: it holds {held}")
    folder = min((member.removesuffix("/model.json") for member in found), key=lambda one: (len(one), one))
    try:
        description = artifact.json(f"{folder}/model.json")
        arrays = artifact.arrays(f"{folder}/model.safetensors")
        settings = TypingSettings.from_options(description["settings"])
        encoder = blank(settings)
        state = {key.removeprefix(ENCODER): own for key, own in arrays.items() if key.startswith(ENCODER)}
        encoder.load_state_dict({key: torch.from_numpy(own) for key, own in state.items()})
        types = _types(artifact, f"{folder}/known.csv")
        wanted = len(types), len(encoder.mean)
        if arrays["embeddings"].shape != wanted:
            raise ValueError(f"embeddings have shape {arrays['embeddings'].shape}, not {wanted}")
        typer = DefectTyper(
            encoder.to(torch_device(), memory_format=torch.channels_last).eval(),
            settings,
            description["seed"],
            description["weights"],
            arrays["embeddings"],
            types,
            float("inf") if description["limit"] is None else float(description["limit"]),
            artifact.table(f"{folder}/curve.csv"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SettingsError) as problem:
        reason = f"{type(problem).__name__} {problem}".splitlines()[0]
        raise ArtifactError(f"{artifact.path} holds no whole typer ({reason}): train it again") from problem
    return typer, description


def _types(artifact: Artifact, member: str) -> np.ndarray:
    """Names of types, which may be numbers and stay text all the same."""
    table = pd.read_csv(io.BytesIO(artifact.read(member)), dtype=str, keep_default_na=False)
    return table["defect"].to_numpy(dtype=object)
