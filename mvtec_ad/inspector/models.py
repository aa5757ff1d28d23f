"""The models that an inspector works with, read from artifacts when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mvtec_ad.artifacts import PRODUCED_BY, Artifact, load
from mvtec_ad.errors import ArtifactError, SettingsError
from mvtec_ad.inspector import products
from mvtec_ad.inspector.opinion import Band
from mvtec_ad.methods import METHODS, base, classifier, contrastive, load_model
from mvtec_ad.methods.classifier import DefectClassifier
from mvtec_ad.methods.contrastive import DefectTyper

LOOKING = "padim"  # whose map tells a typer where to look, where there is one


def stage_of(method: str | None) -> str:
    """The artifact that holds a method's models; empty for none."""
    return {"f_anogan": "gan", "vae": "autoencoder", None: ""}.get(method, method)


@dataclass(frozen=True)
class Judge:
    """A supervised classifier of one view of a product.

    Attributes:
        name: of the model in its artifact.
        model: fitted.
        band: its threshold on calibrated logits, and where it counts as unsure.
        heat_scale: lowest and highest value of its Grad-CAM's colours; None where nobody has measured it.
    """

    name: str
    model: DefectClassifier
    band: Band
    heat_scale: tuple[float, float] | None = None


@dataclass(frozen=True)
class Detector:
    """An unsupervised model of a product, with its calibrated threshold."""

    method: str
    model: base.Detector
    threshold: float

    @property
    def heat_scale(self) -> tuple[float, float]:
        """Colours of its maps: the threshold in the middle, where scores are values of the maps."""
        high = float(np.max(self.model.good_scores))
        return 0.0, 2 * self.threshold if 0 < self.threshold < 3 * high else high


@dataclass(frozen=True)
class Atlas:
    """Where known defects lie on the map: image ids and (N, 2) places."""

    image_ids: list[str]
    places: np.ndarray

    def place(self, likeness: np.ndarray, known: list[str], neighbours: int = 3) -> tuple[float, float] | None:
        """Among its nearest known defects: the mean of their places, by cosine (N,) to the known ones."""
        index = {image_id: number for number, image_id in enumerate(self.image_ids)}
        near = [number for number in np.argsort(-likeness) if known[number] in index][:neighbours]
        if not near:
            return None
        x, y = np.mean([self.places[index[known[number]]] for number in near], axis=0)
        return float(x), float(y)


@dataclass
class Models:
    """Everything that lies in a folder of artifacts.

    Attributes:
        artifacts: stage -> checked artifact.
        missing: stage -> why it is not there.
        second: method of the second opinion, or None.
    """

    artifacts: dict[str, Artifact]
    missing: dict[str, str]
    second: str | None
    _kept: dict[tuple, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, folder: Path, second: str | None, profile: str | None) -> Models:
        """Open what there is.

        Raises:
            SettingsError: no such second opinion.
            ArtifactError: an artifact is damaged, of another profile, made from other images than another one, or
                there is none at all.
        """
        if second is not None and second not in METHODS:
            raise SettingsError(f"second opinion {second!r} is unknown: use one of {', '.join(METHODS)}, or none")
        stages = ["inspection", "models", LOOKING, "contrastive"]
        stages += [stage_of(second)] if second else []
        artifacts, missing = {}, {}
        for stage in dict.fromkeys(stages):
            path = folder / f"{stage}.zip"
            if path.is_file():
                artifacts[stage] = load(path, profile=profile)
            else:
                maker = f"run notebooks/{PRODUCED_BY[stage]}.ipynb" if stage in PRODUCED_BY else f"run `fit {stage}`"
                missing[stage] = f"{path.name} is missing: {maker}, which makes it"
        if not {"models", *stages[4:]} & set(artifacts):
            raise ArtifactError(f"{folder} holds no model to inspect with: {missing['models']}")
        stale = _of_other_inputs(artifacts)
        if stale:
            del artifacts["inspection"]
            maker = PRODUCED_BY["inspection"]
            missing["inspection"] = f"inspection.zip belongs to another {stale}: run notebooks/{maker}.ipynb again"
        _check_same_images(artifacts)
        return cls(artifacts, missing, second)

    def products(self) -> products.ProductClassifier | None:
        """What tells products apart."""
        return self._once(("products",), "inspection", products.restore)

    def views(self) -> dict[str, list[str]]:
        """Products for which there is a model that can decide, each with the views it is seen from."""
        found: dict[str, set[str]] = {}
        for category, _, views in self._classifiers():
            found.setdefault(category, set()).update(views)
        if self.has(stage_of(self.second)):
            for one in _of_method(self.artifacts[stage_of(self.second)], self.second):
                found.setdefault(one["category"], set())
        return {category: sorted(found[category]) or [""] for category in sorted(found)}

    def judge(self, category: str, view: str) -> Judge | None:
        """The classifier of a view: of those that know it, the one that knows fewest others."""
        return self._once(("judge", category, view), "models", lambda artifact: self._judge(artifact, category, view))

    def detector(self, method: str | None, category: str) -> Detector | None:
        """The unsupervised model of a product."""

        def restored(artifact: Artifact) -> Detector | None:
            if category not in {one["category"] for one in _of_method(artifact, method)}:
                return None
            model, description = load_model(artifact, method=method, category=category)
            return Detector(method, model, float(description["threshold"]["value"]))

        return self._once(("detector", method, category), stage_of(method), restored)

    def typer(self, category: str) -> tuple[DefectTyper, list[str]] | None:
        """What names the defects of a product, and the image ids of those it knows."""

        def restored(artifact: Artifact) -> tuple[DefectTyper, list[str]] | None:
            if (category, "supcon") not in contrastive.names(artifact):
                return None
            typer, description = contrastive.restore(artifact, category)
            table = artifact.table(f"{category}/supcon/{description['seed']}/known.csv")
            return typer, list(table["image_id"])

        return self._once(("typer", category), "contrastive", restored)

    def atlas(self) -> Atlas | None:
        """The map of known defects."""

        def restored(artifact: Artifact) -> Atlas | None:
            if "atlas.npz" not in artifact.names:
                return None
            return Atlas(list(artifact.table("atlas.csv")["image_id"]), artifact.arrays("atlas.npz")["tsne"])

        return self._once(("atlas",), "contrastive", restored)

    def has(self, stage: str) -> bool:
        """Whether the artifact is there."""
        return stage in self.artifacts

    def _classifiers(self) -> list[tuple[str, str, list[str]]]:
        """Category, name and views of each classifier, in order."""
        if ("classifiers",) not in self._kept:
            found = _descriptions(self.artifacts["models"]) if self.has("models") else []
            self._kept["classifiers",] = [(one["category"], one["name"], one["views"]) for one in found]
        return self._kept["classifiers",]

    def _judge(self, artifact: Artifact, category: str, view: str) -> Judge | None:
        own = [
            (len(views), name)
            for product, name, views in self._classifiers()
            if product == category and (view in views or not views)
        ]
        if not own:
            return None
        name = min(own, key=lambda one: one[0])[1]
        model, description = classifier.restore(artifact, category, name)
        threshold = float(description["threshold"]) / model.temperature
        chosen = self._band(category, view, name) or {}
        band = Band.from_dict(chosen["band"]) if chosen.get("second") == self.second and chosen else Band(threshold)
        scale = chosen.get("heat_scale")
        return Judge(name, model, band, None if scale is None else (float(scale[0]), float(scale[1])))

    def _band(self, category: str, view: str, name: str) -> dict[str, Any] | None:
        if not self.has("inspection"):
            return None
        own = self.artifacts["inspection"].json("bands.json")
        keys = {"category": category, "view": view, "classifier": name}
        fitting = [one for one in own if all(one[key] == value for key, value in keys.items())]
        return next((one for one in fitting if one["second"] == self.second), fitting[0] if fitting else None)

    def _once(self, key: tuple, stage: str, restore: Callable[[Artifact], Any]) -> Any:
        """Read a model the first time, keep it for the next; None without its artifact."""
        if not self.has(stage):
            return None
        if key not in self._kept:
            self._kept[key] = restore(self.artifacts[stage])
        return self._kept[key]


def members(known: products.ProductClassifier, bands: list[dict[str, Any]]) -> dict[str, Any]:
    """What `artifacts.save` needs to keep what this stage has learned itself: products, and the entries of `entry`."""
    return {"bands.json": bands, **products.members(known)}


def entry(
    category: str, view: str, name: str, second: str | None, band: Band, heat_scale: tuple[float, float] | None
) -> dict[str, Any]:
    """A classifier's band for one second opinion, as plain JSON data; arguments as in `Judge` and `Models`."""
    scale = None if heat_scale is None else list(heat_scale)
    keys = {"category": category, "view": view, "classifier": name, "second": second}
    return {**keys, "band": band.as_dict(), "heat_scale": scale}


def _of_method(artifact: Artifact, method: str | None) -> list[dict[str, Any]]:
    return [one for one in _descriptions(artifact) if one["method"] == method]


def _descriptions(artifact: Artifact) -> list[dict[str, Any]]:
    """Of the models that an artifact holds, in order."""
    return [artifact.json(name) for name in artifact.names if name.endswith("/model.json")]


def _of_other_inputs(artifacts: dict[str, Artifact]) -> str:
    """The input that inspection.zip was not made from; empty where all fit. Its bands are those of one classifier."""
    if "inspection" not in artifacts:
        return ""
    own = {one["name"]: one["sha256"] for one in artifacts["inspection"].manifest.get("inputs", [])}
    if "models" in artifacts and own.get("models.zip", artifacts["models"].sha256) != artifacts["models"].sha256:
        return "models.zip"
    for stage, artifact in artifacts.items():
        for one in artifact.manifest.get("inputs", []) if stage != "inspection" else []:
            if one["name"] in ("data.zip", "packages.zip") and own.get(one["name"], one["sha256"]) != one["sha256"]:
                return one["name"]
    return ""


def _check_same_images(artifacts: dict[str, Artifact]) -> None:
    """Models of one product must know the same images: a classifier's test image may be another's training image."""
    seen: dict[str, tuple[str, str]] = {}
    for stage, artifact in artifacts.items():
        for one in artifact.manifest.get("inputs", []):
            digest, other = seen.setdefault(one["name"], (one["sha256"], stage))
            if one["name"] in ("data.zip", "packages.zip") and digest != one["sha256"]:
                raise ArtifactError(
                    f"{stage}.zip and {other}.zip were made from two different {one['name']}: make the older one again"
                )
