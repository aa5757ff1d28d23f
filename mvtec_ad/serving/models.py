"""What a service looks at pictures with: one artifact, a folder of them (the whole line), or an exported MODEL.onnx.

All three are a `ServedModel`: what is loaded, what it knows of a picture, and which scores are watched for drift.
Only what is needed is imported: an .onnx file needs neither torch nor pandas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mvtec_ad.data.catalog import category_name
from mvtec_ad.data.loading import resize
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.regions import WHOLE, Box, seen_box

if TYPE_CHECKING:
    from mvtec_ad.edge import EdgeModel
    from mvtec_ad.inspection import Inspector
    from mvtec_ad.inspection.second_opinion import CalibratedDetector

GOOD, DEFECT = "good", "defect"
GRID = 256  # pixels of a map that is brought back from a cut into its picture


@dataclass(frozen=True)
class Findings:
    """What is known of one picture; None where nothing can tell it."""

    verdict: str  # good, defect, undecided or none of these
    score: float | None = None
    threshold: float | None = None  # score > threshold is a defect
    promised: float | None = None  # share of good parts that the threshold may stop
    product: str | None = None
    type: str | None = None  # of the defect
    type_neighbours: tuple[int, int] | None = None  # of the nearest known defects those of that type, and how many
    path: tuple[dict[str, str], ...] = ()  # stage, result and words of each step
    anomaly_map: np.ndarray | None = None  # (S, S) float32
    map_scale: tuple[float, float] | None = None  # values of the first and last colour
    seen: Box = WHOLE  # the part of the picture that the map covers
    of_map: bool = True  # whether the score is of the map's units
    good_score: float | None = None  # the largest of good parts that the model was not fitted on
    passes: bool = False  # whether it is a good part by a score that drift can be told by
    stream: tuple[str, float] | None = None  # which scores those are, and this one; None: the score of the product


@dataclass
class ServedModel:
    """What is common to all: a name, a description without paths, and the good scores of each stream of parts."""

    name: str  # of the file or folder
    description: dict[str, Any] = field(default_factory=dict)  # plain JSON data, for `/model`
    good_scores: dict[str, tuple[np.ndarray, float]] = field(default_factory=dict)  # stream -> scores, threshold

    def inspect(self, pictures: Sequence[np.ndarray]) -> list[Findings]:
        """Findings of pictures, (H, W, 3) uint8 RGB of any size, in order.

        Raises:
            DataError: a score is no number.
        """
        raise NotImplementedError


@dataclass
class SingleModel(ServedModel):
    """One model with a calibrated threshold: of an artifact, or exported."""

    scorer: CalibratedDetector | EdgeModel | None = None
    method: str = ""
    product: str | None = None
    seen: Box = WHOLE

    def inspect(self, pictures: Sequence[np.ndarray]) -> list[Findings]:
        """As of every `ServedModel`; a detector takes them together."""
        threshold = float(self.scorer.threshold)
        good, _ = self.good_scores.get(stream(self.product), (np.empty(0), threshold))
        findings = []
        for score, anomaly_map in self._scores(pictures):
            if not math.isfinite(score):
                raise DataError(f"{self.method} gives an image the score {score}: fit or export it again")
            verdict = DEFECT if score > threshold else GOOD
            words = f"{self.method}: score {score:.4g}, threshold {threshold:.4g}"
            known = {"product": self.product, "promised": self.scorer.false_alarm_rate, "anomaly_map": anomaly_map}
            known |= {"map_scale": None if anomaly_map is None else self._scale(anomaly_map), "seen": self.seen}
            known |= {"path": ({"stage": self.method, "result": verdict, "words": words},), "passes": verdict == GOOD}
            known["good_score"] = float(good.max()) if good.size else None
            findings.append(Findings(verdict, score, threshold, **known))
        return findings

    def _scores(self, pictures: Sequence[np.ndarray]) -> list[tuple[float, np.ndarray | None]]:
        detector = getattr(self.scorer, "detector", None)
        if detector is None:
            results = [self.scorer.score(picture) for picture in pictures]
            return [(float(score), anomaly_map) for _, score, anomaly_map in results]
        images = np.stack([resize(picture, detector.image_size, detector.crop) for picture in pictures])
        scores = detector.score_seen(detector.parts(images))
        maps = [None] * len(images) if scores.maps is None else scores.maps
        return list(zip(map(float, scores.image), maps, strict=True))

    def _scale(self, anomaly_map: np.ndarray) -> tuple[float, float]:
        """Of all its maps; of this map alone where no good score tells what is usual."""
        if len(self.good_scores.get(stream(self.product), ((),))[0]):
            low, high = map(float, self.scorer.map_scale)
        else:
            low, high = float(anomaly_map.min()), float(anomaly_map.max())
        return low, high if high > low else low + 1.0


@dataclass
class Line(ServedModel):
    """All models of a folder, as `mvtec-ad detect FOLDER` asks them."""

    inspector: Inspector | None = None
    known: dict[str, str | None] = field(default_factory=dict)  # product and view, where they were given

    def inspect(self, pictures: Sequence[np.ndarray]) -> list[Findings]:
        """As of every `ServedModel`."""
        inspected = self.inspector.inspect(list(pictures), **self.known)
        return [self._findings(inspection, picture) for inspection, picture in zip(inspected, pictures, strict=True)]

    def _findings(self, inspection: Any, picture: np.ndarray) -> Findings:
        from scipy.special import expit

        if inspection.verdict == "unreadable":
            raise DataError(inspection.problem)
        _, classify, ask, *_ = self.inspector.stages
        known = {name: getattr(inspection, name) for name in ("product", "type", "type_neighbours", "anomaly_map")}
        steps = [{"stage": step.stage, "result": step.result, "words": step.words} for step in inspection.path]
        known |= {"path": tuple(steps), "passes": inspection.verdict == GOOD and inspection.score is not None}
        # of all that pass, whoever decided, by the score that orders them: a classifier's sure parts and its others
        known["stream"] = (stream(inspection.product, inspection.view), inspection.score) if known["passes"] else None
        findings, second = Findings(inspection.verdict, inspection.score, **known), inspection.second_opinion
        if inspection.decided_by == "classifier":
            fitted = classify.classifiers[inspection.product, inspection.view]
            limit = float(expit(fitted.reject_band.threshold))
            values, size = inspection.anomaly_map, fitted.model.image_size
            if values is not None and fitted.model.finders:  # the item was cut out, and maybe rotated
                finder = fitted.model.finders[inspection.view]
                values = in_picture(values, finder.transform(picture, size, fitted.model.roi), picture.shape)
            scale = fitted.map_scale or (None if values is None else (0.0, max(float(values.max()), 1e-9)))
            known = {"score": inspection.probability, "threshold": limit, "anomaly_map": values}
            return replace(findings, **known, map_scale=scale, of_map=False)
        if second is None:
            return findings
        scorer = ask.detectors[inspection.product]
        good = scorer.detector.good_scores
        known = {"score": second.score, "threshold": second.threshold, "promised": scorer.false_alarm_rate}
        known |= {"map_scale": inspection.map_scale, "good_score": float(good.max()) if len(good) else None}
        return replace(findings, **known, seen=seen_box(scorer.detector.image_size, scorer.detector.crop))


def stream(product: str | None, view: str = "") -> str:
    """Name of the parts whose scores are comparable: those of a product, seen from one direction."""
    return f"{product or ''} {view}".strip()


def load_served(
    path: str | Path,
    *,
    method: str | None = None,
    category: str | None = None,
    seed: int | None = None,
    second: str | None = "autoencoder",
    product: str | None = None,
    view: str | None = None,
) -> ServedModel:
    """What a path holds, read and ready: a folder of artifacts is the line, a .onnx file exported, others an artifact.

    Args:
        method, category, seed: which model of an artifact that holds several.
        second, product, view: of the line, as `Inspector.load` and `inspect` take them.

    Raises:
        ArtifactError: there is none, or it is damaged.
        SettingsError: an option that says nothing here.
    """
    path = Path(path)
    if path.is_dir():
        served = _load_line(path, second, product, view)
    else:
        which = {"method": method, "category": category, "seed": seed}
        if path.suffix.lower() == ".onnx":
            if given := [name for name, value in which.items() if value is not None]:
                raise SettingsError(f"--{given[0]} says nothing with an exported model, which is one: leave it out")
            served = _load_edge(path)
        else:
            served = _load_artifact(path, which)
    served.inspect([np.full((64, 64, 3), 128, np.uint8)])  # what is loaded when first needed is loaded now
    return served


def _load_edge(path: Path) -> SingleModel:
    from mvtec_ad.edge import EdgeModel

    model = EdgeModel(path)
    threshold = {"value": float(model.threshold), "false_alarm_rate": model.false_alarm_rate}
    about = {"kind": "exported model", "method": model.method, "product": model.category, "threshold": threshold}
    manifest = {name: value for name, value in model.manifest.items() if name != "good_scores"}
    about |= {"image_size": model.image_size, "crop": model.crop, "manifest": without_paths(manifest)}
    return _single(path, model, about, np.asarray(model.good_scores), (model.image_size, model.crop))


def _load_artifact(path: Path, which: dict[str, Any]) -> SingleModel:
    from mvtec_ad import artifacts

    artifact = artifacts.load(path)  # refused before torch is imported
    from mvtec_ad.inspection.second_opinion import CalibratedDetector
    from mvtec_ad.methods import load_model

    detector, description = load_model(artifact, **which)
    threshold = description["threshold"]
    scorer = CalibratedDetector(detector, threshold["value"], threshold["false_alarm_rate"])
    about = {"kind": "model", "method": description["method"], "product": description["category"]}
    about |= {"threshold": threshold, "image_size": detector.image_size, "crop": detector.crop}
    about |= {"options": without_paths(detector.options()), "backbone": detector.backbone_name}
    names = ("stage", "profile", "data_source", "seed", "versions", "git_commit", "created_utc", "metrics")
    about["manifest"] = without_paths({name: artifact.manifest[name] for name in names})
    return _single(path, scorer, about, detector.good_scores, (detector.image_size, detector.crop))


def _single(
    path: Path, scorer: Any, about: dict[str, Any], good_scores: np.ndarray, sizes: tuple[int, int]
) -> SingleModel:
    threshold = about["threshold"]
    about["promise"] = promise(len(good_scores), threshold["false_alarm_rate"])
    about["good_images"] = len(good_scores)
    product, seen = about["product"] and category_name(about["product"]), seen_box(*sizes)  # it names a folder
    scores = {stream(product): (good_scores, threshold["value"])}
    return SingleModel(path.name, about, scores, scorer, about["method"], product, seen)


def _load_line(path: Path, second: str | None, product: str | None, view: str | None) -> Line:
    from mvtec_ad.inspection import Inspector

    inspector = Inspector.load(path, second=second)
    known = {"product": product, "view": view}
    inspector.inspect([np.zeros((8, 8, 3), np.uint8)], **known)  # refuses what it has no model for
    recognise, classify, ask, types, _ = inspector.stages
    products, scores = {}, {}
    for name, views in inspector.views.items():
        about: dict[str, Any] = {"views": list(filter(None, views))}
        about["classifiers"] = sorted({fitted.name for key, fitted in classify.classifiers.items() if key[0] == name})
        about["types"] = types.models[name].names if name in types.models else []
        if name in ask.detectors:
            scorer = ask.detectors[name]
            good, promised = scorer.detector.good_scores, scorer.false_alarm_rate
            about["second_opinion"] = {"method": ask.method, "options": without_paths(scorer.detector.options())}
            about["threshold"] = {"value": scorer.threshold, "false_alarm_rate": promised}
            about["promise"], about["good_images"] = promise(len(good), promised), len(good)
        scores |= {stream(name, view): (np.empty(0, np.float32), 0.0) for view in views}
        products[name] = about
    about = {"kind": "line", "products": products, "missing": list(inspector.missing)}
    about["recognises"] = list(recognise.classifier.names) if recognise.classifier else []
    return Line(path.name or "line", about, scores, inspector, known)


def promise(good_images: int, false_alarm_rate: float | None) -> str:
    """What a calibrated threshold promises, in a sentence; "" where it promises nothing."""
    if not good_images or not false_alarm_rate:
        return ""
    words = f"of good parts like the {good_images} it was calibrated on at most {false_alarm_rate:.1%} are stopped"
    try:
        from mvtec_ad.metrics.promise import true_rate_interval
    except ImportError:  # the bare environment of an exported model lacks scipy
        return f"{words}, on average over calibrations"
    low, high = true_rate_interval(good_images, false_alarm_rate)
    return f"{words}, on average over calibrations; the true share of this one is {low:.1%} to {high:.1%} (95 %)"


def in_picture(values: np.ndarray, transform: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A map (S, S) of a cut as one of its whole picture, (GRID, GRID) float32; its least value where the cut is not.

    `transform` (3, 3) leads from places of the picture to those of the cut, pixel centres being whole numbers.
    """
    height, width = np.array(shape[:2]) / GRID
    onto_picture = np.array([[width, 0, (width - 1) / 2], [0, height, (height - 1) / 2], [0, 0, 1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": float(values.min())}
    return cv2.warpAffine(values, (transform @ onto_picture)[:2], (GRID, GRID), flags=flags, **border)


def without_paths(value: Any) -> Any:
    """Plain JSON data whose texts that are paths have become the last name of them: no client reads a machine's."""
    if isinstance(value, dict):
        return {str(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
