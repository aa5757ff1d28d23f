"""Hierarchical inspection: product recognition, classifier, second opinion, defect type and its place on the atlas.

A stage is a small object with `apply(inspection, picture)`; `Inspector.load` makes a list of them from artifacts, and
an image goes through all of them in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from mvtec_ad.artifacts import PRODUCED_BY, Artifact, complete, load
from mvtec_ad.config import transfer_folder
from mvtec_ad.data.loading import batches, read_image, resize
from mvtec_ad.errors import ArtifactError, DataError, SettingsError
from mvtec_ad.inspection.products import ProductClassifier
from mvtec_ad.inspection.second_opinion import CalibratedDetector, RejectBand, combined_score
from mvtec_ad.methods import METHODS, classifier, defect_types, load_model
from mvtec_ad.methods.base import as_rgb, as_tensor, listed
from mvtec_ad.methods.classifier import Classifier, ClassifierDescription
from mvtec_ad.methods.defect_types import DefectTypes, around_peaks
from mvtec_ad.methods.explain import grad_cam

GOOD, DEFECT = "good", "defect"
OUT_OF_DISTRIBUTION = "none of these"  # no product that the inspector knows
UNDECIDED = "undecided"  # a product for which there is no model
UNREADABLE = "unreadable"
VERDICTS = (DEFECT, UNDECIDED, OUT_OF_DISTRIBUTION, UNREADABLE, GOOD)  # as a person wants to see them
LOCATOR = "padim"  # whose map shows where to look for the type of a defect, where there is one
TOGETHER = 16  # images that are read at once
SHOWN = 256  # pixels of a picture that no model was shown

Source = str | Path | np.ndarray


# --- what is known of an image ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One stage of the way."""

    stage: str  # product, classifier, second opinion, type or atlas
    result: str  # the branch that was taken, in a word or two: bottle, unsure, sure: good, defect, skipped …
    words: str  # the same with its numbers, for people


@dataclass(frozen=True)
class SecondOpinion:
    """What an unsupervised model says: `score > threshold` is a defect; both raw."""

    method: str
    score: float
    threshold: float

    @property
    def verdict(self) -> str:
        """`good` or `defect`."""
        return DEFECT if self.score > self.threshold else GOOD


@dataclass(frozen=True)
class Inspection:
    """What is known of one image; None where nothing can tell it."""

    image: str  # its path, or `image N` of an array
    verdict: str  # one of VERDICTS
    product: str | None = None  # category
    view: str = ""  # from which side, where the product has several
    ood_score: float | None = None  # distance to the nearest known product in units of its limit; > 1: none of these
    probability: float | None = None  # of a defect, from the supervised classifier
    score: float | None = None  # combined_score: orders the images of one product and view; higher: likelier a defect
    decided_by: str | None = None  # `classifier` or the method of the second opinion
    second_opinion: SecondOpinion | None = None  # where it was asked
    type: str | None = None  # of the defect; `unknown` where it is like none that is known
    type_neighbours: tuple[int, int] | None = None  # of the nearest known defects: those of its type, and all
    type_distance: float | None = None  # cosine distance to the prototype of the nearest type, 0 to 2
    novelty: float | None = None  # mean cosine distance to the nearest known defects
    novelty_limit: float | None = None  # above it the type is unknown
    place: tuple[float, float] | None = None  # x and y on the atlas's map
    path: tuple[Step, ...] = ()  # the stages in order
    problem: str = ""  # why an unreadable image cannot be read
    picture: np.ndarray | None = field(default=None, repr=False, compare=False)  # (S, S, 3) uint8: shown to who decided
    anomaly_map: np.ndarray | None = field(default=None, repr=False, compare=False)  # (S, S) float32 over the picture
    map_scale: tuple[float, float] | None = None  # values of the first and last colour, one for all images of a model
    map_name: str = ""  # which map that is

    def after(self, stage: str, result: str, words: str, **known: Any) -> Inspection:
        """The same one step further, with more known of it."""
        return replace(self, path=(*self.path, Step(stage, result, words)), **known)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Stages for which an artifact or a model is missing, each with its reason."""
        return tuple(f"{step.stage}: {step.words}" for step in self.path if step.result == "skipped")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data: everything but the pixels."""
        values = asdict(replace(self, picture=None, anomaly_map=None))
        for name in ("picture", "anomaly_map", "map_scale", "map_name", "problem"):
            del values[name]
        if self.second_opinion:
            values["second_opinion"]["verdict"] = self.second_opinion.verdict
        return values | {"skipped": list(self.skipped), "problem": self.problem or None}


# --- the stages -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecogniseProduct:
    """Stage 1: which product, from which side; or none of these."""

    classifier: ProductClassifier | None
    views: dict[str, list[str]]  # products that a model can decide about -> the views they are seen from
    missing: str  # why there is no classifier

    def apply(self, inspection: Inspection, picture: np.ndarray) -> Inspection:
        """With product and view; a told product is not asked about."""
        product, view, distances = inspection.product, inspection.view, {}
        if self.classifier is not None and not view:
            distances = dict(zip(self.classifier.names, self.classifier.distances([picture])[0].tolist(), strict=True))
        if product is not None:
            sides = {name: value for name, value in distances.items() if name.partition("/")[0] == product}
            view = min(sides, key=sides.get).partition("/")[2] if sides else view
            inspection = inspection.after("product", "told", f"{product} {view}".strip())
        elif distances:
            name = min(distances, key=distances.get)
            score, (product, _, view) = distances[name], name.partition("/")
            words = f"nearest is {name.replace('/', ' ')}, at {score:.2f} of the distance that is accepted"
            if score > 1:
                known = {"verdict": OUT_OF_DISTRIBUTION, "ood_score": score}
                return inspection.after("product", OUT_OF_DISTRIBUTION, words, **known)
            known = {"product": product, "view": view, "ood_score": score}
            return inspection.after("product", name.replace("/", " "), words, **known)
        elif len(self.views) == 1:
            product = next(iter(self.views))
            words = f"{product} is the only product that there is a model for; nobody has checked it"
            inspection = inspection.after("product", product, words)
        else:
            return inspection.after("product", "skipped", f"{self.missing}; or say which product it is")
        if not view and len(self.views[product]) > 1:
            words = f"{product} is seen from several sides ({', '.join(self.views[product])}): say which"
            return inspection.after("classifier", "skipped", words, product=None)
        return replace(inspection, product=product, view=view or self.views[product][0])


@dataclass(frozen=True)
class CalibratedClassifier:
    """A supervised classifier of one view of a product."""

    name: str  # of the model in its artifact
    model: Classifier
    reject_band: RejectBand  # on calibrated logits
    map_scale: tuple[float, float] | None = None  # of its Grad-CAM; None where nobody has measured it

    def entry(self, product: str, view: str, second: str | None) -> dict[str, Any]:
        """What bands.json of `inspection.zip` keeps of it for one second opinion, as plain JSON data."""
        keys = {"category": product, "view": view, "classifier": self.name, "second": second}
        return {**keys, "band": self.reject_band.as_dict(), "heat_scale": self.map_scale and list(self.map_scale)}


Classifiers = dict[tuple[str, str], CalibratedClassifier]  # of each product and view


@dataclass(frozen=True)
class Classify:
    """Stage 2: good or defective, by a classifier that knows some defects; and whether it is sure."""

    classifiers: Classifiers
    missing: str  # why there are none

    def apply(self, inspection: Inspection, picture: np.ndarray) -> Inspection:
        """With probability, verdict and score."""
        if inspection.product is None:
            return inspection
        fitted = self.classifiers.get((inspection.product, inspection.view))
        if fitted is None:
            what = f"{inspection.product} {inspection.view}".strip()
            reason = self.missing or f"models.zip holds no classifier of {what}"
            return inspection.after("classifier", "skipped", reason)
        model, reject_band = fitted.model, fitted.reject_band
        cut = model.look_at([picture], inspection.view)
        logit = model.logits(cut).astype(np.float64)[0] / model.temperature
        if not np.isfinite(logit):
            raise DataError(f"{inspection.image}: {fitted.name} gives {logit}, which is no score: train it again")
        probability, limit = expit(logit), expit(reject_band.threshold)
        verdict = DEFECT if logit > reject_band.threshold else GOOD
        never = "" if reject_band.costs else "; no band was chosen for it, so it is never unsure"
        words = f"{fitted.name}: probability of a defect {probability:.3f}, limit {limit:.3f}{never}"
        known = {"verdict": verdict, "probability": float(probability), "score": combined_score(logit, reject_band)}
        known |= {"decided_by": "classifier", "picture": cut[0]}
        known |= {"map_scale": fitted.map_scale, "map_name": f"Grad-CAM of {fitted.name}"}
        sure = "unsure" if reject_band.unsure(logit) else f"sure: {verdict}"
        return inspection.after("classifier", sure, words, **known)


@dataclass(frozen=True)
class AskSecondOpinion:
    """Stage 3: an unsupervised model decides where the classifier is unsure, and where there is none."""

    method: str | None  # of the models; None leaves it to the classifier
    detectors: dict[str, CalibratedDetector]  # of each product
    classifiers: Classifiers
    missing: str  # why there are no models

    def apply(self, inspection: Inspection, picture: np.ndarray) -> Inspection:
        """With a second opinion, whose verdict and map then count."""
        product, undecided = inspection.product, ("skipped", "unsure") if self.method else ("skipped",)
        if product is None or inspection.path[-1].result not in undecided:
            return inspection
        detector = self.detectors.get(product)
        if detector is None:
            reason = self.missing or f"there is no {self.method or 'second'} model of {product}"
            return inspection.after("second opinion", "skipped", reason)
        image, score, anomaly_map = detector.score(picture)
        second_opinion = SecondOpinion(self.method, score, detector.threshold)
        fitted = self.classifiers.get((product, inspection.view))
        combined = score - detector.threshold
        if fitted:
            combined = combined_score(fitted.reject_band.threshold, fitted.reject_band, score, detector.threshold)
        words = f"{self.method}: score {score:.4g}, threshold {detector.threshold:.4g}"
        known = {"verdict": second_opinion.verdict, "second_opinion": second_opinion, "score": combined}
        known |= {"decided_by": self.method, "picture": image, "anomaly_map": anomaly_map}
        known |= {"map_scale": detector.map_scale, "map_name": f"anomaly map of {self.method}"}
        return inspection.after("second opinion", second_opinion.verdict, words, **known)


@dataclass(frozen=True)
class NameDefectType:
    """Stage 4: which defect, and where it lies on the atlas."""

    models: dict[str, DefectTypes]  # of each product
    locators: dict[str, CalibratedDetector]  # of each product: its anomaly map says where to look
    atlas: dict[str, np.ndarray]  # image id of a known defect -> its x and y on the map
    missing: str  # why there are no models
    no_locator: str  # why there is no `LOCATOR`

    def apply(self, inspection: Inspection, picture: np.ndarray) -> Inspection:
        """With type, novelty and place, where it is a defect."""
        product = inspection.product
        if inspection.verdict != DEFECT:
            return inspection
        if product not in self.models:
            reason = self.missing or f"contrastive.zip knows no types of {product}"
            return inspection.after("type", "skipped", reason)
        model = self.models[product]
        if model.look == "whole":
            centre = np.full((1, 2), 0.5)
        elif product in self.locators:
            locator = self.locators[product]
            share = locator.detector.crop / locator.detector.image_size  # of the picture, its middle, that it is shown
            centre = 0.5 + (around_peaks(locator.score(picture)[2][None]) - 0.5) * share
        else:
            reason = self.no_locator or f"no model of {product} says where to look"
            return inspection.after("type", "skipped", reason)
        embedding = model.embed(resize(picture, model.loaded_size)[None], centre)
        name, novelty = str(model.predict(embedding)[0]), float(model.novelty(embedding)[0])
        similarity = model.similarity(embedding)[0]
        nearest, distance = model.names[similarity.argmax()], float(1 - similarity.max())
        limit = float(model.limit) if np.isfinite(model.limit) else None
        words = f"nearest type {nearest} at {distance:.3f}; novelty {novelty:.3f}, limit "
        words += "none" if limit is None else f"{limit:.3f}"
        order = np.argsort(-(model.embeddings @ embedding[0]))  # by cosine; the atlas may lack some
        neighbours = model.types[order[: model.neighbours]]
        known = {"type": name, "type_distance": distance, "novelty": novelty, "novelty_limit": limit}
        known["type_neighbours"] = (int((neighbours == nearest).sum()), len(neighbours))
        inspection = inspection.after("type", name, words, **known)
        near = [self.atlas[name] for name in (model.image_ids[row] for row in order) if name in self.atlas][:3]
        if not near:
            return inspection.after("atlas", "skipped", "contrastive.zip holds no map of them")
        x, y = map(float, np.mean(near, axis=0))
        words = f"at ({x:.1f}, {y:.1f}), among its nearest known defects"
        return inspection.after("atlas", "placed", words, place=(x, y))


@dataclass(frozen=True)
class ExplainClassifier:
    """Stage 5, for people: where the classifier sees the defect."""

    classifiers: Classifiers

    def apply(self, inspection: Inspection, picture: np.ndarray) -> Inspection:
        """With the Grad-CAM over what the classifier was shown, where it has decided."""
        if inspection.decided_by != "classifier":
            return inspection
        model = self.classifiers[inspection.product, inspection.view].model
        return replace(inspection, anomaly_map=grad_cam_maps(model, inspection.picture[None])[0])


def grad_cam_maps(model: Classifier, cuts: np.ndarray) -> np.ndarray:
    """Grad-CAM of what speaks for a defect: (N, S, S, 3) uint8 cuts -> (N, S, S) float32, in logits."""
    return grad_cam(model.network, model.network.body, as_tensor(cuts))


# --- all of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inspector:
    """Inspects images with whatever models a folder of artifacts holds."""

    stages: list[Any]  # in order; the last one draws the classifier's maps
    views: dict[str, list[str]]  # products that a model can decide about -> the views they are seen from
    missing: tuple[str, ...]  # artifacts that are not there, each with the notebook that makes it

    @classmethod
    def load(
        cls, folder: str | Path | None = None, *, second: str | None = "autoencoder", profile: str | None = None
    ) -> Inspector:
        """An inspector from the artifacts of a folder, `transfer/` when None; all its models are read here.

        Args:
            second: method of the second opinion, a key of `methods.METHODS`; None asks for none.
            profile: refuse artifacts of another profile.

        Raises:
            SettingsError: no such second opinion.
            ArtifactError: an artifact is damaged, of another profile, or made from other images than another one; or
                there is no model at all.
        """
        artifacts, missing = _open(Path(folder) if folder else transfer_folder(), second, profile)
        methods = dict.fromkeys((second, LOCATOR))
        by_method = {name: load_detectors(artifacts.get(stage_of(name)), name) for name in methods}
        detectors, locators = by_method[second], by_method[second] | by_method[LOCATOR]
        views: dict[str, set[str]] = {product: set() for product in detectors}
        descriptions = _descriptions(artifacts.get("models"))
        for description in descriptions:
            views.setdefault(description["category"], set()).update(description["views"])
        views = {product: sorted(views[product]) or [""] for product in sorted(views)}
        products = ProductClassifier.restore(artifacts["inspection"]) if "inspection" in artifacts else None
        pairs = [(product, view) for product in views for view in views[product]]
        pairs += [tuple(name.partition("/")[::2]) for name in products.names] if products else []
        classifiers = _classifiers(artifacts, descriptions, pairs, second)
        types, atlas = _defect_types(artifacts.get("contrastive"))
        of = defaultdict(str, missing)
        stages = [
            RecogniseProduct(products, views, of["inspection"]),
            Classify(classifiers, of["models"]),
            AskSecondOpinion(second, detectors, classifiers, of[stage_of(second)]),
            NameDefectType(types, locators, atlas, of["contrastive"], of[LOCATOR]),
            ExplainClassifier(classifiers),
        ]
        return cls(stages, views, tuple(missing.values()))

    def inspect(
        self,
        sources: Sequence[Source],
        *,
        product: str | None = None,
        view: str | None = None,
        anomaly_maps: bool = True,
        progress: bool = False,
    ) -> Iterator[Inspection]:
        """One inspection per source, in order.

        Args:
            sources: files, or (H, W, 3) uint8 arrays, or what `methods.base.as_rgb` makes such.
            product: category of all of them; None finds out.
            view: from which side; needed only where a told product has several and nothing tells them apart.
            anomaly_maps: make them. Without them the inspections have none, and are faster.

        Raises:
            SettingsError: there is no model for the product or view.
        """
        if product is not None and product not in self.views:
            known = ", ".join(self.views) or "none"
            raise SettingsError(f"there is no model for product {product!r}: there is one for {known}")
        if view and view not in self.views.get(product or "", []):
            words = f"view {view!r} of {product}" if product else f"view {view!r} without a product"
            raise SettingsError(f"{words} says nothing: give a product, and a view of those that it has")
        return self._inspect(listed(sources), product, view or "", anomaly_maps, progress)

    def _inspect(
        self, sources: Sequence[Source], product: str | None, view: str, anomaly_maps: bool, progress: bool
    ) -> Iterator[Inspection]:
        stages = self.stages if anomaly_maps else self.stages[:-1]
        bar = tqdm(total=len(sources), desc="inspect", unit="image", disable=not progress)
        with bar, ThreadPoolExecutor(4) as pool:
            for part in batches(len(sources), TOGETHER):
                for number, picture in enumerate(pool.map(_read, sources[part]), part.start):
                    inspection = Inspection(_name(sources[number], number), UNDECIDED, product, view)
                    if isinstance(picture, DataError):
                        yield Inspection(inspection.image, UNREADABLE, problem=str(picture))
                    else:
                        for stage in stages:
                            inspection = stage.apply(inspection, picture)
                        if inspection.picture is None:
                            inspection = replace(inspection, picture=resize(picture, SHOWN))
                        yield inspection if anomaly_maps else replace(inspection, anomaly_map=None)
                    bar.update()


def _read(source: Source) -> np.ndarray | DataError:
    try:
        return read_image(source) if isinstance(source, str | Path) else as_rgb(source)
    except DataError as problem:
        return problem


def _name(source: Source, number: int) -> str:
    return str(source) if isinstance(source, str | Path) else f"image {number}"


# --- from artifacts ---------------------------------------------------------------------------------------------------


def stage_of(method: str | None) -> str:
    """The artifact that holds a method's models; empty for none."""
    return {"f_anogan": "gan", "vae": "autoencoder", None: ""}.get(method, method)


def _open(folder: Path, second: str | None, profile: str | None) -> tuple[dict[str, Artifact], dict[str, str]]:
    """Stage -> checked artifact, and stage -> why it is not there."""
    if second is not None and second not in METHODS:
        raise SettingsError(f"second opinion {second!r} is unknown: use one of {', '.join(METHODS)}, or none")
    artifacts, missing = {}, {}
    for stage in dict.fromkeys(filter(None, ("inspection", "models", LOCATOR, "contrastive", stage_of(second)))):
        path = folder / f"{stage}.zip"
        if path.is_file():
            artifacts[stage] = load(path, profile=profile)
        else:
            maker = f"run notebooks/{PRODUCED_BY[stage]}.ipynb" if stage in PRODUCED_BY else f"run `fit {stage}`"
            missing[stage] = f"{path.name} is missing: {maker}, which makes it"
    if not {"models", stage_of(second)} & set(artifacts):
        raise ArtifactError(f"{folder} holds no model to inspect with: {missing['models']}")
    stale = _check_inputs(artifacts)
    if stale:
        del artifacts["inspection"]
        maker = PRODUCED_BY["inspection"]
        missing["inspection"] = f"inspection.zip belongs to another {stale}: run notebooks/{maker}.ipynb again"
    return artifacts, missing


def _check_inputs(artifacts: dict[str, Artifact]) -> str:
    """The input that inspection.zip was not made from, "" where all fit: its bands are those of one classifier.

    Raises:
        ArtifactError: two others know different images: a classifier's test image may be another's training image.
    """
    inputs = {}
    for stage, artifact in artifacts.items():
        inputs[stage] = {item["name"]: item["sha256"] for item in artifact.manifest["inputs"]}
    made_from = inputs.pop("inspection", {})
    now = {"models.zip": (artifacts["models"].sha256, "")} if "models" in artifacts else {}
    for stage, digests in inputs.items():
        for name, digest in digests.items():
            first, other = now.setdefault(name, (digest, stage))
            if digest != first and name in ("data.zip", "packages.zip"):
                two = f"{stage}.zip and {other}.zip"
                raise ArtifactError(f"{two} were made from two different {name}: make the older one again")
    names = [name for name in ("models.zip", "data.zip", "packages.zip") if name in now and name in made_from]
    return next((name for name in names if made_from[name] != now[name][0]), "")


def _folders(artifact: Artifact | None) -> list[list[str]]:
    """Category, method or name, and seed of the models that an artifact holds, in order."""
    names = [name for name in artifact.names if name.endswith("/model.json")] if artifact else []
    return [folder for folder in (name.split("/")[:-1] for name in names) if len(folder) == 3]


def load_detectors(artifact: Artifact | None, method: str | None) -> dict[str, CalibratedDetector]:
    """Product -> the unsupervised model of it."""
    detectors = {}
    for product in dict.fromkeys(folder[0] for folder in _folders(artifact) if folder[1] == method):
        detector, description = load_model(artifact, method=method, category=product)
        threshold = description["threshold"]
        detectors[product] = CalibratedDetector(detector, threshold["value"], threshold["false_alarm_rate"])
    return detectors


def _descriptions(artifact: Artifact | None) -> list[ClassifierDescription]:
    """Of the classifiers in `models.zip`, in order."""
    files = ["/".join([*folder, "model.json"]) for folder in _folders(artifact)]
    return [artifact.json(file, ClassifierDescription) for file in files]


class _RejectBand(TypedDict):
    threshold: float
    width: float
    costs: list[list[float]]


_WRITTEN = {  # what bands.json of `inspection.zip` keeps: `CalibratedClassifier.entry`
    **dict.fromkeys(("category", "view", "classifier"), str),
    **{"second": str | None, "band": _RejectBand, "heat_scale": list[float] | None},
}
_ENTRY = TypedDict("_ENTRY", _WRITTEN)


def _classifiers(
    artifacts: dict[str, Artifact],
    descriptions: list[ClassifierDescription],
    pairs: list[tuple[str, str]],
    second: str | None,
) -> Classifiers:
    """The classifier of each product and view: of those that know it, the one that knows fewest others."""
    saved = artifacts["inspection"].json("bands.json", list[_ENTRY]) if "inspection" in artifacts else []
    descriptions = sorted(descriptions, key=lambda model: len(model["views"]))
    models, classifiers = {}, {}
    for product, view in pairs:
        able = [m for m in descriptions if m["category"] == product and (view in m["views"] or not m["views"])]
        if not able:
            continue
        name = able[0]["name"]
        if (product, name) not in models:
            models[product, name] = classifier.restore(artifacts["models"], product, name)
        model, description = models[product, name]
        keys = {"category": product, "view": view, "classifier": name}
        entries = [entry for entry in saved if keys.items() <= entry.items()]
        chosen = [entry for entry in entries if entry["second"] == second]
        scale = (chosen or entries or [{"heat_scale": None}])[0]["heat_scale"]
        with complete(artifacts["inspection" if chosen else "models"]):
            reject_band = RejectBand(description["threshold"] / model.temperature)
            reject_band = RejectBand.from_dict(chosen[0]["band"]) if chosen else reject_band
        classifiers[product, view] = CalibratedClassifier(name, model, reject_band, scale and tuple(map(float, scale)))
    return classifiers


def _defect_types(artifact: Artifact | None) -> tuple[dict[str, DefectTypes], dict[str, np.ndarray]]:
    """Product -> what names its defects; image id -> x and y on the atlas."""
    products = dict.fromkeys(folder[0] for folder in _folders(artifact))
    models, atlas = {product: defect_types.load(artifact, product)[0] for product in products}, {}
    if artifact and "atlas.npz" in artifact.names:
        with complete(artifact):
            coordinates = artifact.arrays("atlas.npz")["tsne"].reshape(-1, 2)
            atlas = dict(zip(artifact.table("atlas.csv", {"image_id": str})["image_id"], coordinates, strict=True))
    return models, atlas
