"""How well are defect types told apart? Repeated folds, a type that was never seen, and a few images of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from mvtec_ad import metrics
from mvtec_ad.artifacts import Artifact
from mvtec_ad.benchmark.result import Result
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.methods.defect_types import Defects, DefectTypes, check_types
from mvtec_ad.methods.padim import Padim
from mvtec_ad.training import checkpoints_folder

FROZEN, PROBE, CHANCE = "frozen, prototypes", "frozen, linear probe", "always the same"
COLOURS = "mean colours"  # the row without a network
Checkpoints = list[Path] | None  # a list: trainings go on from their checkpoints, which are added to it
METRICS = ("balanced_accuracy", "macro_f1", "retrieval_map", "silhouette")
SHOTS, DRAWS = (1, 2, 4, 8), 5  # images of a new type, and choices of these
OPEN_FOLDS = 2  # of the known types while another is left out


@dataclass(frozen=True)
class Answer:
    """What one way says of M images that it has not seen."""

    predicted: np.ndarray  # (M,) names
    novelty: np.ndarray | None = None  # (M,) higher is more unlike all known types
    embeddings: tuple[np.ndarray, np.ndarray] | None = None  # (M, d) and those of the known images, (N, d)


def anomaly_maps(
    table: pd.DataFrame, detector: DefectTypes, padim: Padim | None = None, seed: int = 0, *, progress: bool = True
) -> np.ndarray:
    """PaDiM's maps of the defective images of a category, (N, H, W) float32, fitted on its good training images.

    With the detector's backbone and weights; its other options are by default those of the published protocol, without
    its crop.

    Raises:
        DataError: there are too few good training images.
    """
    good = table[(table["label"] == 0) & (table["split"] == "train")]
    if len(good) < 2:
        few = f"{table['category'].iloc[0]} has {len(good)} good training images, too few for an anomaly map"
        raise DataError(f"{few}: use the look whole, or mask")
    padim = replace(padim or Padim(image_size=224, crop=224), backbone=detector.backbone, weights=detector.weights)
    padim.fit(list(good["image_path"]), seed, progress=progress)
    return padim.score(list(table.loc[table["label"] == 1, "image_path"])).maps


def answers(
    detector: DefectTypes,
    defects: Defects,
    train: np.ndarray,
    test: np.ndarray,
    objectives: Sequence[str],
    seed: int,
    checkpoints: Checkpoints = None,
) -> tuple[dict[str, Answer], dict[str, DefectTypes]]:
    """Learn from some images, and name others, by every way: chance, colours, a frozen network, trained ones.

    Args:
        detector, defects: whose options are used, and what its `gather` gives.
        train, test: (N,) and (M,) int, images that are learned from, and that are named.
        objectives: that are trained: supcon, simclr.

    Returns:
        Way -> answer; and the fitted detectors: frozen, and one per objective.
    """
    fitted = {"frozen": replace(detector, steps=0)} | {name: replace(detector, objective=name) for name in objectives}
    for network in fitted.values():
        network.fit_rows(defects, train, seed, checkpoints=None if checkpoints is None else checkpoints_folder())
        if checkpoints is not None:
            checkpoints += network.checkpoint_files
    types = defects.types[train].astype(str)
    by_way = {CHANCE: Answer(np.full(len(test), min(types)))}
    pixels = defects.images.reshape(len(defects.images), -1, 3).astype(np.float32)
    colours = np.concatenate([pixels.mean(1), pixels.std(1)], axis=1)  # of the whole picture, N×6
    centroids = make_pipeline(StandardScaler(), NearestCentroid()).fit(colours[train], types)
    by_way[COLOURS] = Answer(centroids.predict(colours[test]))
    for name, network in fitted.items():
        embeddings, known = network.encoder.embed(defects.plain[test]), network.embeddings
        if name == "frozen":  # what a linear probe is not sure of is novel (Hendrycks, Gimpel 2017)
            scale = np.sqrt(embeddings.shape[1])  # back to about unit spread
            probe = LogisticRegression(C=0.1, class_weight="balanced", max_iter=3000).fit(known * scale, types)
            chances = probe.predict_proba(embeddings * scale)
            by_way[PROBE] = Answer(probe.classes_[chances.argmax(1)], 1 - chances.max(1))
        nearest = np.array(network.names)[network.similarity(embeddings).argmax(1)]
        by_way[f"{name}, prototypes"] = Answer(nearest, network.novelty(embeddings), (embeddings, known))
        neighbours = KNeighborsClassifier(min(detector.neighbours, len(known)), weights="distance", metric="cosine")
        by_way[f"{name}, k-NN"] = Answer(neighbours.fit(known, types).predict(embeddings))
    return by_way, fitted


def padim_maps(padim: Artifact | None, table: pd.DataFrame, preset: str) -> np.ndarray:
    """PaDiM's maps of the defective images of a category, (N, H, W) float32: from `padim.zip`, or fitted here.

    `preset` is that of the PaDiM which is fitted where the artifact has no row of this category.
    """
    rows = table[table["label"] == 1]
    try:
        if padim is None:
            raise ArtifactError("there is no padim.zip")
        result = Result.load(padim, category=rows["category"].iloc[0], row="padim").only(list(rows["image_id"]))
        return result.maps[result.seeds[0]].astype(np.float32)
    except (ArtifactError, DataError) as problem:
        print(f"PaDiM is fitted here instead: {problem}")
        return anomaly_maps(table, DefectTypes.preset(preset), Padim.preset(preset), progress=False)


# --- folds ------------------------------------------------------------------------------------------------------------


def check_folds(table: pd.DataFrame, detector: DefectTypes) -> pd.DataFrame:
    """The table of a category that has two types of defect, and as many of each as there are folds; else DataError."""
    types = table.loc[(table["label"] == 1) & ~table["defect"].isin(detector.mixtures), "defect"]
    check_types(types.to_numpy())
    counts = types.value_counts()
    if counts.min() < detector.folds:
        raise DataError(f"{counts.min()} images of {counts.idxmin()} are too few for {detector.folds} folds")
    return table


def cross_validate(
    detector: DefectTypes, defects: Defects, objectives: Sequence[str], seed: int = 0, checkpoints: Checkpoints = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Repeated stratified K-fold over the images that show one type; arguments as in `answers`.

    Returns:
        Verdicts, rows repeat, fold, way, image_id, defect, predicted, novelty, for the images of the fold and for those
        that show several types at once; and quality, rows repeat, fold, way and one column per metric of `METRICS`.

    Raises:
        DataError: a type has fewer images than folds.
    """
    verdicts, quality = [], []
    splits = list(_folds(defects, defects.typed, detector.folds, detector.repeats, seed))
    for number, (train, test) in enumerate(tqdm(splits, "folds", disable=None)):
        place = {"repeat": number // detector.folds, "fold": number % detector.folds}
        asked = np.concatenate([test, defects.mixed])
        by_way, _ = answers(detector, defects, train, asked, objectives, number, checkpoints)
        for way, answer in by_way.items():
            verdicts.append(_verdicts(defects, asked, answer).assign(**place, way=way))
            quality.append({**place, "way": way, **_quality(defects.types[test], defects.types[train], answer)})
    return pd.concat(verdicts, ignore_index=True), pd.DataFrame(quality)


def leave_one_out(
    detector: DefectTypes, defects: Defects, objectives: Sequence[str], seed: int = 0, checkpoints: Checkpoints = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leave out each type in turn: is it called unknown, and is it known again after a few images?

    The others are cut into two folds, so that known defects are judged by models that have not seen them either.

    Returns:
        Novelty, rows left_out, fold, way, image_id, known, novelty; and few-shot, rows left_out, fold, way, shots,
        draw, recall (of the new type) and balanced_accuracy (over all types).

    Raises:
        DataError: there are fewer than three types, so that none is left to tell apart.
    """
    names, category = sorted(set(defects.types[defects.typed])), defects.table["category"].iloc[0]
    if len(names) < 3:
        raise DataError(f"leaving out a type needs three or more of them, and {category} has {len(names)}")
    novelty, shown = [], []
    bar = tqdm(total=len(names) * OPEN_FOLDS, desc="types left out", disable=None)
    for name in names:
        left = defects.typed[defects.types[defects.typed] == name]
        others = np.setdiff1d(defects.typed, left)
        for fold, (train, test) in enumerate(_folds(defects, others, OPEN_FOLDS, 1, seed)):
            place, asked = {"left_out": name, "fold": fold}, np.concatenate([test, left])
            by_way, fitted = answers(detector, defects, train, asked, objectives, fold, checkpoints)
            for way, answer in by_way.items():
                if answer.novelty is not None:
                    rows = _verdicts(defects, asked, answer).drop(columns=["defect", "predicted"])
                    novelty.append(rows.assign(**place, way=way, known=np.arange(len(asked)) < len(test)))
            for way, network in fitted.items():
                shown += [{**place, "way": way, **row} for row in few_shot(network, defects, test, left)]
            bar.update()
    bar.close()
    return pd.concat(novelty, ignore_index=True), pd.DataFrame(shown)


def few_shot(detector: DefectTypes, defects: Defects, known: np.ndarray, new: np.ndarray) -> Iterator[dict[str, Any]]:
    """Add a type from `SHOTS` images, in `DRAWS` choices of them, and name the rest; nothing is trained."""
    asked = np.concatenate([known, new])
    embeddings, types = detector.encoder.embed(defects.plain[asked]), defects.types[asked]
    for shots in SHOTS:
        if shots >= len(new):
            return
        for draw in range(DRAWS):
            chosen = len(known) + np.random.default_rng([draw, shots]).permutation(len(new))[:shots]
            taught = detector.with_type(types[-1], embeddings[chosen])
            rest = np.setdiff1d(np.arange(len(types)), chosen)
            predicted = np.array(taught.names)[taught.similarity(embeddings[rest]).argmax(1)]
            accuracy = metrics.verdict_metrics(types[rest], predicted)["balanced_accuracy"]
            recall = float((predicted[types[rest] == types[-1]] == types[-1]).mean())
            yield {"shots": shots, "draw": draw, "recall": recall, "balanced_accuracy": accuracy}


def _folds(
    defects: Defects, rows: np.ndarray, folds: int, repeats: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train and test images of each fold of each repeat."""
    types = defects.types[rows].astype(str)
    names, counts = np.unique(types, return_counts=True)
    if counts.min() < folds:
        few = f"{defects.table['category'].iloc[0]}/{names[counts.argmin()]} has {counts.min()} images"
        raise DataError(f"{few}, too few for {folds} folds: choose fewer folds, or leave the folder out")
    for repeat in range(repeats):
        cut = StratifiedKFold(folds, shuffle=True, random_state=seed + repeat)
        for train, test in cut.split(types, types):
            yield rows[train], rows[test]


def _verdicts(defects: Defects, rows: np.ndarray, answer: Answer) -> pd.DataFrame:
    table = defects.table.iloc[rows][["image_id", "defect"]].reset_index(drop=True)
    return table.assign(predicted=answer.predicted, novelty=np.nan if answer.novelty is None else answer.novelty)


def _quality(types: np.ndarray, known: np.ndarray, answer: Answer) -> dict[str, float]:
    """`METRICS` of the first images of an answer, those with one type."""
    measured = metrics.verdict_metrics(types, answer.predicted[: len(types)])
    if answer.embeddings is None:
        return {**measured, "retrieval_map": np.nan, "silhouette": np.nan}
    embeddings, gallery = answer.embeddings[0][: len(types)], answer.embeddings[1]
    measured["retrieval_map"] = metrics.retrieval_map(embeddings, types, gallery, known)
    measured["silhouette"] = metrics.silhouette(embeddings, types) if len(set(types)) < len(types) else np.nan
    return measured


# --- summaries --------------------------------------------------------------------------------------------------------


def of_way(verdicts: pd.DataFrame, way: str, detector: DefectTypes, *, mixed: bool = False) -> pd.DataFrame:
    """Verdicts of one way on the images that show one type, or on those that show several."""
    return verdicts[(verdicts["way"] == way) & (verdicts["defect"].isin(detector.mixtures) == mixed)]


def calibrated_limit(verdicts: pd.DataFrame, way: str, detector: DefectTypes) -> float:
    """Novelty above which a defect is called unknown, from known ones that the models had not seen.

    Each image's novelty comes from the model of the fold that held it out, as in cross-conformal prediction (Vovk
    2015): the promised share is kept very nearly, not exactly. ∞, never unknown, where there are too few images for it.
    """
    scores = of_way(verdicts, way, detector).groupby("image_id")["novelty"].mean()
    enough = len(scores) >= metrics.images_needed(detector.unknown)
    return metrics.calibrated(scores, detector.unknown) if enough else float("inf")


def summary(quality: pd.DataFrame, folds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Way -> metric -> mean with its interval; `balanced_accuracy_difference` is that to the frozen prototypes.

    A t interval may leave the range of a metric, which the metric cannot: it ends there.
    """
    base = quality[quality["way"] == FROZEN].set_index(["repeat", "fold"])["balanced_accuracy"]
    by_way: dict[str, dict[str, dict[str, float]]] = {}
    for way, rows in quality.groupby("way", sort=False):
        rows, by_way[way] = rows.set_index(["repeat", "fold"]), {}
        for name in METRICS:
            if rows[name].notna().all():
                metric, lowest = metrics.corrected_t(rows[name], 1 / folds), -1.0 if name == "silhouette" else 0.0
                by_way[way][name] = metric | {"low": max(metric["low"], lowest), "high": min(metric["high"], 1.0)}
        difference = metrics.corrected_t(rows["balanced_accuracy"] - base, 1 / folds)
        by_way[way]["balanced_accuracy_difference"] = difference
    return by_way


def open_set_summary(novelty: pd.DataFrame, share: float) -> pd.DataFrame:
    """Rows left_out, way, auroc (unknown against known, mean over folds), called_unknown and false_unknown.

    The limit of a fold comes from the held-out known images of the other folds, at the promised share.
    """
    rows = []
    for (left_out, way), part in novelty.groupby(["left_out", "way"], sort=False):
        folds = []
        for fold, asked in part.groupby("fold"):
            calibration = part[part["known"] & (part["fold"] != fold)]["novelty"]
            enough = len(calibration) >= metrics.images_needed(share)
            called = asked["novelty"] > (metrics.calibrated(calibration, share) if enough else np.inf)
            auroc = metrics.image_auroc(~asked["known"].to_numpy(), asked["novelty"])
            folds.append((auroc, called[~asked["known"]].mean(), called[asked["known"]].mean()))
        auroc, hit, false = np.mean(folds, axis=0)
        rows.append({"left_out": left_out, "way": way, "auroc": auroc, "called_unknown": hit, "false_unknown": false})
    return pd.DataFrame(rows)


def over_types(values: pd.Series) -> dict[str, float]:
    """Mean, and a bootstrap interval in which the types are the units: would other types do as well?"""
    values = values.to_numpy(float)
    resampled = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[resampled].mean(1), [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def measure(
    detector: DefectTypes,
    defects: Defects,
    objectives: Sequence[str],
    seed: int = 0,
    checkpoints: Checkpoints = None,
    *,
    data_source: str,
    open_set: bool = True,
) -> dict[str, Any]:
    """Everything that is measured on one category, as plain JSON data: folds, types left out, few images of a new type.

    Args:
        objectives: that are trained in the folds; types are left out for the first of them only.
        open_set: whether types are left out too, which takes the most time; all others as in `answers`.

    Returns:
        `ways` as from `summary`, `confusion` of the first objective's prototypes, `limit`, `mixtures`, `open_set` and
        `few_shot` (None where no type is left out: that takes three), counts, options and seconds.
    """
    begun = time.perf_counter()
    verdicts, quality = cross_validate(detector, defects, objectives, seed, checkpoints)
    way, table = f"{objectives[0]}, prototypes", defects.table
    limit, single = calibrated_limit(verdicts, way, detector), of_way(verdicts, way, detector)
    rows, columns, counts = metrics.type_confusion(single["defect"], single["predicted"])
    report = {"method": detector.name, "category": table["category"].iloc[0]}
    report |= {"data_source": data_source, "weights": defects.weights}
    report |= {"types": table["defect"].iloc[defects.typed].value_counts().sort_index().to_dict()}
    report |= {"settings": {**detector.options(), "seed": seed}, "ways": summary(quality, detector.folds)}
    report |= {"confusion": {"types": rows, "said": columns, "counts": counts.tolist()}}
    report |= {"limit": limit if np.isfinite(limit) else None, "mixtures": None, "open_set": None, "few_shot": None}
    mixed = of_way(verdicts, way, detector, mixed=True)
    if len(mixed):
        called, nearest = float((mixed["novelty"] > limit).mean()), mixed["predicted"].value_counts(normalize=True)
        report["mixtures"] = {"images": int(mixed["image_id"].nunique()), "called_unknown": called}
        report["mixtures"]["nearest"] = nearest.round(4).to_dict()
    if open_set and len(report["types"]) >= 3:
        novelty, shown = leave_one_out(detector, defects, objectives[:1], seed, checkpoints)
        report |= {"open_set": {}, "few_shot": {}}
        for way, rows in open_set_summary(novelty, detector.unknown).groupby("way", sort=False):
            shares = {name: float(rows[name].mean()) for name in ("called_unknown", "false_unknown")}
            types = rows.set_index("left_out")["auroc"].round(4).to_dict()
            report["open_set"][way] = {"auroc": over_types(rows["auroc"]), **shares, "types": types}
        for (way, shots), rows in shown.groupby(["way", "shots"], sort=False):
            by_type = rows.groupby("left_out")[["recall", "balanced_accuracy"]].mean()
            means = {name: over_types(by_type[name]) for name in by_type}
            report["few_shot"].setdefault(way, {})[str(shots)] = means
    return {**report, "seconds": time.perf_counter() - begun}
