"""Methods of anomaly detection, one file each: `fit(images, seed)`, then `score(images) -> Scores`.

A method is a subclass of `methods.base.Detector` and a line here.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvtec_ad.errors import SettingsError

if TYPE_CHECKING:
    from mvtec_ad.artifacts import Artifact
    from mvtec_ad.methods.base import Detector

METHODS = {  # name -> file and class
    "padim": "padim.Padim",
    "patchcore": "patchcore.Patchcore",
    "autoencoder": "autoencoder.Autoencoder",
    "vae": "autoencoder.Vae",
    "anogan": "anogan.Anogan",
    "f_anogan": "f_anogan.FAnogan",
    "knn": "knn.Knn",
    "subspace_ad": "subspace_ad.SubspaceAd",
    "efficient_ad": "efficient_ad.EfficientAd",
}
WITH_LABELS = {  # `fit(table, seed)`: they learn from defects too
    "classifier": "classifier.Classifier",
    "segmentation": "segmentation.Segmentation",
}
MODELS = (*METHODS, "segmentation")  # whose models `fit` writes and `load_model` reads


def detector_class(method: str) -> type[Detector]:
    """The class of a method, a key of `METHODS` or of `WITH_LABELS`."""
    if method not in {**METHODS, **WITH_LABELS}:
        raise SettingsError(f"method {method!r} is unknown: use one of {', '.join(MODELS)}")
    file, name = {**METHODS, **WITH_LABELS}[method].split(".")
    return getattr(importlib.import_module(f"mvtec_ad.methods.{file}"), name)


def load_model(
    artifact: Artifact | str | Path, *, method: str | None = None, category: str | None = None, seed: int | None = None
) -> tuple[Detector, dict[str, Any]]:
    """A fitted detector from an artifact, and its description (with `method`, `category` and `threshold`).

    Method and category may be None when a (checked) artifact holds one only; of the seeds the first one is taken.

    Raises:
        ArtifactError: no model fits, several do, what is there is no whole model, or it stood on other weights than
            this package carries.
    """
    from mvtec_ad import artifacts

    artifact, description, state = artifacts.read_model(artifact, method=method, category=category, seed=seed)
    with artifacts.complete(artifact):
        detector = detector_class(description["method"]).from_options(description["options"])
        if description["backbone"] is not None:
            from mvtec_ad.backbones import artifact_backbone

            detector.use_backbone(artifact_backbone(artifact, description, detector.weights))
        detector.load_state(state)
        if description["method"] != "anogan":  # whose search takes seconds; its networks fit their state by shape
            detector.score(np.full((1, 32, 32, 3), 128, np.uint8))
        return detector, description


__all__ = ["METHODS", "MODELS", "WITH_LABELS", "detector_class", "load_model"]
