"""The stages behind the first one, for images of one product and view at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mvtec_ad import metrics
from mvtec_ad.data.loading import resize
from mvtec_ad.inspector.inspection import DEFECT, GOOD, Inspection, Opinion, Step
from mvtec_ad.inspector.models import LOOKING, Detector, Judge, Models, stage_of
from mvtec_ad.inspector.opinion import joined
from mvtec_ad.methods.attribution import grad_cam
from mvtec_ad.methods.base import as_tensor, enlarge
from mvtec_ad.methods.classifier import DefectClassifier
from mvtec_ad.methods.contrastive import DefectTyper
from mvtec_ad.methods.contrastive.material import loaded_size
from mvtec_ad.methods.contrastive.regions import Regions, around_peaks, whole

SHOWN = 256  # pixels of a picture that no model was shown


@dataclass(frozen=True)
class Case:
    """A picture, (H, W, 3) uint8, on its way, and what is known of it so far."""

    picture: np.ndarray
    found: Inspection

    def with_(self, **changes: Any) -> Case:
        """The same with more known of it."""
        return Case(self.picture, replace(self.found, **changes))

    def after(self, step: Step, **changes: Any) -> Case:
        """One stage further."""
        return self.with_(path=(*self.found.path, step), **changes)


@dataclass(frozen=True)
class Seen:
    """What a detector was shown of one picture, its score and its map."""

    image: np.ndarray
    score: float
    heat: np.ndarray | None


def judged(models: Models, category: str, view: str, cases: Sequence[Case], heat: bool) -> list[Case]:
    """Verdict, heat map, type and place of pictures of one product and view."""
    judge = models.judge(category, view)
    if judge is None:
        reason = models.missing.get("models", f"models.zip holds no classifier of {f'{category} {view}'.strip()}")
        cases = [case.after(Step("classifier", "skipped", reason)) for case in cases]
        asked = list(range(len(cases)))
    else:
        cases, asked = _classified(judge, view, cases, heat)
    cases = _second(models, category, judge, cases, asked)
    defective = [number for number, case in enumerate(cases) if case.found.verdict == DEFECT]
    for number, case in zip(defective, _typed(models, category, [cases[n] for n in defective]), strict=True):
        cases[number] = case
    return cases if heat else [case.with_(heat=None) for case in cases]


def shown(case: Case) -> Case:
    """With a picture to look at, also where no model was shown one."""
    return case if case.found.picture is not None else case.with_(picture=resize(case.picture, SHOWN))


def heat_of(model: DefectClassifier, cuts: np.ndarray) -> np.ndarray:
    """Grad-CAM of what speaks for a defect: (N, S, S, 3) uint8 cuts -> (N, S, S) float32, in logits."""
    grids = grad_cam(model.network, model.network.body, as_tensor(cuts))
    return enlarge(torch.from_numpy(grids), cuts.shape[1])


def _classified(judge: Judge, view: str, cases: Sequence[Case], heat: bool) -> tuple[list[Case], list[int]]:
    """What the classifier says, and the numbers of those it is unsure of."""
    model, band = judge.model, judge.band
    cuts = model.look_at([case.picture for case in cases], view)
    logits = model.logits(cuts).astype(np.float64) / model.temperature
    chances, unsure = metrics.probability(logits), band.unsure(logits)
    maps = heat_of(model, cuts) if heat else [None] * len(cuts)
    limit = metrics.probability(np.array([band.threshold]))[0]
    never = "" if band.costs else "; no band was chosen for it, so it is never unsure"
    found = []
    for case, cut, logit, chance, open_, heat_map in zip(cases, cuts, logits, chances, unsure, maps, strict=True):
        verdict = DEFECT if logit > band.threshold else GOOD
        words = f"{judge.name}: probability of a defect {chance:.3f}, limit {limit:.3f}{never}"
        step = Step("classifier", "unsure" if open_ else f"sure: {verdict}", words)
        own = case.after(
            step, verdict=verdict, probability=float(chance), score=joined(logit, band), decided_by="classifier"
        )
        found.append(
            own.with_(picture=cut, heat=heat_map, heat_scale=judge.heat_scale, heat_name=f"Grad-CAM of {judge.name}")
        )
    return found, list(np.flatnonzero(unsure))


def _second(models: Models, category: str, judge: Judge | None, cases: list[Case], asked: list[int]) -> list[Case]:
    """The unsupervised model's word, where it is asked."""
    if not asked or (models.second is None and judge is not None):
        return cases
    detector = models.detector(models.second, category)
    cases = list(cases)
    if detector is None:
        reason = models.missing.get(
            stage_of(models.second), f"there is no {models.second or 'second'} model of {category}"
        )
        for number in asked:
            cases[number] = cases[number].after(Step("second opinion", "skipped", reason))
        return cases
    for number, seen in zip(asked, _seen(detector, [cases[n].picture for n in asked]), strict=True):
        opinion = Opinion(detector.method, seen.score, detector.threshold)
        words = f"{detector.method}: score {seen.score:.4g}, threshold {detector.threshold:.4g}"
        score = _score(judge, opinion)
        case = cases[number].after(
            Step("second opinion", opinion.verdict, words), verdict=opinion.verdict, opinion=opinion
        )
        cases[number] = case.with_(
            score=score,
            decided_by=detector.method,
            picture=seen.image,
            heat=seen.heat,
            heat_scale=detector.heat_scale,
            heat_name=f"anomaly map of {detector.method}",
        )
    return cases


def _score(judge: Judge | None, opinion: Opinion) -> float:
    """As `Inspection.score`: inside the classifier's band, or the distance from the threshold where there is none."""
    if judge is None:
        return opinion.score - opinion.threshold
    return joined(judge.band.threshold, judge.band, opinion.score, opinion.threshold)


def _seen(detector: Detector, pictures: Sequence[np.ndarray]) -> list[Seen]:
    model = detector.model
    images = np.stack([resize(picture, model.image_size, model.crop) for picture in pictures])
    scores = model.score_seen(model.parts(images))
    maps = [None] * len(images) if scores.maps is None else scores.maps
    return [Seen(*own) for own in zip(images, map(float, scores.image), maps, strict=True)]


def _typed(models: Models, category: str, cases: Sequence[Case]) -> list[Case]:
    """Which defect, and where on the atlas."""
    if not cases:
        return []
    known = models.typer(category)
    if known is None:
        reason = models.missing.get("contrastive", f"contrastive.zip knows no types of {category}")
        return [case.after(Step("type", "skipped", reason)) for case in cases]
    typer, image_ids = known
    looking = models.detector(LOOKING, category) or models.detector(models.second, category)
    if looking is None and typer.settings.look != "whole":
        reason = models.missing.get(LOOKING, f"no model of {category} says where to look")
        return [case.after(Step("type", "skipped", reason)) for case in cases]
    regions = whole(len(cases)) if typer.settings.look == "whole" else _regions(looking, typer, cases)
    images = np.stack([resize(case.picture, loaded_size(typer.settings)) for case in cases])
    embeddings = typer.embed(images, regions)
    names, novelty, likeness = typer.name(embeddings), typer.novelty(embeddings), typer.likeness(embeddings)
    atlas = models.atlas()
    typed = []
    for case, embedding, name, strange, like in zip(cases, embeddings, names, novelty, likeness, strict=True):
        nearest, distance = typer.names[like.argmax()], float(1 - like.max())
        limit = f"{typer.limit:.3f}" if np.isfinite(typer.limit) else "none"
        words = f"nearest type {nearest} at {distance:.3f}; novelty {strange:.3f}, limit {limit}"
        case = case.after(Step("type", str(name), words), type=str(name), type_distance=distance)
        case = case.with_(
            novelty=float(strange), novelty_limit=float(typer.limit) if np.isfinite(typer.limit) else None
        )
        place = atlas and atlas.place(typer.embeddings @ embedding, image_ids)
        if place:
            step = Step("atlas", "placed", f"at ({place[0]:.1f}, {place[1]:.1f}), among its nearest known defects")
        else:
            step = Step("atlas", "skipped", "contrastive.zip holds no map of them")
        typed.append(case.after(step, place=place or None))
    return typed


def _regions(looking: Detector, typer: DefectTyper, cases: Sequence[Case]) -> Regions:
    """Around the peak of an anomaly map, which may show the middle of the picture only."""
    maps = np.stack([own.heat for own in _seen(looking, [case.picture for case in cases])])
    regions = around_peaks(maps, typer.settings.side)
    share = looking.model.crop / looking.model.image_size
    return Regions(0.5 + (regions.centres - 0.5) * share, regions.side)
