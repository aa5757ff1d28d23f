"""A fitted model on disk, and back: the same scores from the file as from the model in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mvtec_ad.backbones import Backbone, load_backbone
from mvtec_ad.backbones.files import packed_weights
from mvtec_ad.errors import ArtifactError
from mvtec_ad.methods import module_of
from mvtec_ad.settings import as_dict, default_settings, from_dict, home
from mvtec_ad.transfer import Artifact, file_sha256, replacing


def members(method: str, model: Any, category: str, threshold: dict[str, Any]) -> dict[str, Any]:
    """What `transfer.save` needs to keep a fitted model.

    Args:
        method: that made it.
        model: fitted.
        category: product it was fitted on.
        threshold: `{"value", "false_alarm_rate"}`, kept beside the model.

    Returns:
        `CATEGORY/METHOD/SEED/model.json` and `….safetensors`, and where the backbone's weights came from a local file,
        those weights under `backbone/`.
    """
    folder = f"{category}/{method}/{model.seed}"
    own, arrays = module_of(method).pack(model)
    weights = packed_weights(model.backbone.source) if model.backbone else {}
    description = {
        "method": method,
        "category": category,
        "seed": model.seed,
        "settings": as_dict(model.settings),
        "backbone": model.backbone.name if model.backbone else None,
        "weights": model.backbone.weights if model.backbone else None,
        "weights_member": next(iter(weights), None),
        "threshold": threshold,
        **own,
    }
    arrays = {**arrays, "good_scores": model.good_scores}
    return {f"{folder}/model.json": description, f"{folder}/model.safetensors": arrays, **weights}


def models(artifact: Artifact) -> list[dict[str, Any]]:
    """Descriptions of the models that an artifact holds, in order."""
    return [artifact.json(name) for name in artifact.names if name.endswith("/model.json")]


def restore(
    artifact: Artifact, *, method: str | None = None, category: str | None = None, seed: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Load one model.

    Args:
        artifact: a checked artifact.
        method: which method; may be None when the artifact holds one only.
        category: which product; may be None when the artifact holds one only.
        seed: the first one when None.

    Returns:
        The model and its description (with `method`, `category` and `threshold`).

    Raises:
        ArtifactError: no model fits, several methods or categories do, or what is there is no whole model.
    """
    with complete(artifact):
        description = _choose(artifact, method, category, seed)
        name, folder = description["method"], "{category}/{method}/{seed}".format(**description)
        module = module_of(name)
        settings = from_dict(type(default_settings(name)), description["settings"])
        arrays = artifact.arrays(f"{folder}/model.safetensors")
        arrays["good_scores"].astype(np.float32), float(description["threshold"]["value"])
        network = description["backbone"], description["weights"], description["weights_member"]
    backbone = None if network[0] is None else backbone_of(artifact, settings.weights, *network)
    with complete(artifact):
        return module.unpack(settings, description["seed"], description, arrays, backbone), description


@contextlib.contextmanager
def complete(artifact: Artifact) -> Iterator[None]:
    """Whatever a model lacks that another version or hand has written, in one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
        reason = f"{type(problem).__name__} {problem}".splitlines()[0]
        raise ArtifactError(f"{artifact.path} holds no whole model ({reason}): fit it again") from problem


def _choose(artifact: Artifact, method: str | None, category: str | None, seed: int | None) -> dict[str, Any]:
    found = models(artifact)
    wanted = {"method": method, "category": category, "seed": seed}
    fitting = [one for one in found if all(value in (None, one[key]) for key, value in wanted.items())]
    held = ", ".join(f"{one['category']} {one['method']} seed {one['seed']}" for one in found) or "none"
    if not fitting:
        asked = f"{category or 'any category'} {method or 'any method'} seed {'any' if seed is None else seed}"
        raise ArtifactError(f"{artifact.path} has no model of {asked}: it holds {held}")
    for key in ("method", "category"):
        if len({one[key] for one in fitting}) > 1:
            raise ArtifactError(f"{artifact.path} holds more than one {key} ({held}): choose one with --{key}")
    return fitting[0]


def backbone_of(artifact: Artifact, source: str, name: str, weights: str, member: str | None) -> Backbone:
    """The network that the model was fitted on, from where it came from or from the artifact.

    Raises:
        ArtifactError: it stood on other carried weights than this package has.
    """
    if member is None:
        backbone = load_backbone(name, source)
        if source == "drawn" and backbone.weights != weights:
            raise ArtifactError(
                f"{artifact.path} was fitted on {weights}, and this package carries {backbone.weights}: fit it again"
            )
        return backbone
    # Keras reads weights from files only; the copy is named by its content and reused
    digest = artifact.manifest["members"].get(member, "")
    copy = home() / "data" / "weights" / f"{digest[:16]}{''.join(Path(member).suffixes)}"
    if not (copy.is_file() and file_sha256(copy) == digest):
        data = artifact.read(member)
        with replacing(copy) as file:
            file.write(data)
    return load_backbone(name, str(copy))
