"""What a classifier is worth: cross-validated on items, or on repeated splits of a product; per view and jointly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import metrics
from mvtec_ad.data import loading, splits
from mvtec_ad.data.items import Finder
from mvtec_ad.methods.baselines import SIDE, trivial_scores
from mvtec_ad.methods.classifier.fitting import fit
from mvtec_ad.methods.classifier.model import DefectClassifier
from mvtec_ad.settings import ClassifierSettings
from mvtec_ad.training import checkpoint_path, checkpoints_folder, remove_checkpoints

PER_VIEW, TOGETHER = "one model per view", "one model for all views"
JOINT = "joint"  # the item, from all its views


def train_one(
    settings: ClassifierSettings,
    table: pd.DataFrame,
    *,
    seed: int | None = None,
    finders: Mapping[str, Finder] | None = None,
    progress: bool = True,
) -> tuple[DefectClassifier, Path]:
    """`fit` with a checkpoint of its own below `transfer/checkpoints/`, which a killed run goes on from.

    Returns:
        The model, and the checkpoint, for the caller to remove when all is done.
    """
    run = {**settings.options(), "seed": seed, "images": list(table["image_id"]), "labels": table["label"].tolist()}
    path = checkpoint_path(checkpoints_folder(), "classifier", run)
    return fit(settings, table, seed=seed, finders=finders, checkpoint=path, progress=progress), path


def models_of(table: pd.DataFrame, way: str) -> Iterator[pd.DataFrame]:
    """The tables that `way` trains a model on: one for each view, or one for all."""
    if way == TOGETHER:
        yield table.reset_index(drop=True)
    else:
        for _, rows in table.groupby("view", sort=True):
            yield rows.reset_index(drop=True)


def score_unseen(
    settings: ClassifierSettings,
    train: pd.DataFrame,
    test: pd.DataFrame,
    way: str = PER_VIEW,
    *,
    seed: int | None = None,
    finders: Mapping[str, Finder] | None = None,
    resumable: bool = True,
    progress: bool = True,
) -> tuple[pd.DataFrame, list[DefectClassifier], list[Path]]:
    """Train on one table and score another; `finders` as in `fit`.

    Where training takes seconds, writing 180 MB at every check costs as much: then `resumable` is better false.

    Returns:
        Rows image_id, group, view, defect, label and score: the logit divided by the temperature, so that models may be
        put side by side; the models; and their checkpoints, none where they are not `resumable`.
    """
    frames, models, paths = [], [], []
    for rows in models_of(train, way):
        if resumable:
            model, path = train_one(settings, rows, seed=seed, finders=finders, progress=progress)
            paths.append(path)
        else:
            model = fit(settings, rows, seed=seed, finders=finders, progress=progress)
        own = test if way == TOGETHER else test[test["view"] == rows["view"].iloc[0]]
        columns = own[["image_id", "group", "view", "defect", "label"]]
        frames.append(columns.assign(score=model.score(own).astype(np.float64) / model.temperature))
        models.append(model)
    return pd.concat(frames), models, paths


def cross_validate(
    settings: ClassifierSettings,
    table: pd.DataFrame,
    way: str = PER_VIEW,
    *,
    folds: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Every image scored by a model that has seen neither it nor another view of its item.

    Returns:
        As `score_unseen`, with column fold, in the order of the table.
    """
    fold = splits.grouped_folds(table, folds, seed)
    frames, paths = [], []
    for number in range(folds):
        train, test = table[fold != number], table[fold == number]
        scored, _, own = score_unseen(settings, train, test, way, progress=progress)
        frames.append(scored.assign(fold=number))
        paths += own
    remove_checkpoints(paths)
    return pd.concat(frames).loc[table.index]


def trivial_rows(train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Scores of `methods.baselines` on whole pictures, a column each, in the order of `test`; views apart."""
    frames = []
    for view, rows in test.groupby("view", sort=True):
        good = train[(train["view"] == view) & (train["label"] == 0)]
        images = [loading.load_images(list(part["image_path"]), SIDE) for part in (good, rows)]
        frames.append(pd.DataFrame(trivial_scores(*images), index=rows.index))
    return pd.concat(frames).loc[test.index]


def joint_verdict(scored: pd.DataFrame) -> pd.DataFrame:
    """The item, from all its views: the sum of its calibrated logits.

    Logits of independent evidence add up, for classes that are equally frequent (naive Bayes).

    Args:
        scored: as `score_unseen` returns it.

    Returns:
        Rows group, defect, label, score and, of a cross-validation, fold: one an item; and a column for each view.
    """
    views = scored.pivot(index="group", columns="view", values="score")
    kept = [name for name in ("defect", "label", "fold") if name in scored]
    items = scored.groupby("group")[kept].first()
    return items.join(views).assign(score=views.sum(axis=1)).reset_index()


def measure(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray | None = None) -> dict[str, Any]:
    """Plain JSON data: AUROC, AP and accuracy with intervals, both classes, confusion, and calibration.

    Args:
        labels: (N,) 0 or 1.
        scores: (N,) calibrated logits; above 0, a probability of one half, is called a defect.
        folds: (N,) of a cross-validation. AUROC and AP are then means over the folds, each ranked by its own model, as
            logits of different models have no common scale; `pooled_auroc` ranks them all together nevertheless.
    """
    folds = np.zeros(len(labels), int) if folds is None else folds
    probabilities = metrics.probability(scores)
    defects, good = int(labels.sum()), int((labels == 0).sum())
    parts = [(labels[folds == fold], scores[folds == fold]) for fold in np.unique(folds)]
    auroc = float(np.mean([metrics.image_auroc(*part) for part in parts]))
    precision = float(np.mean([metrics.average_precision(*part) for part in parts]))
    return {
        "image_auroc": _with_interval(auroc, metrics.newcombe(auroc, defects, good)),
        "image_ap": _with_interval(precision, metrics.wilson(precision, defects)),
        "pooled_auroc": metrics.image_auroc(labels, scores),
        "accuracy": metrics.accuracy(labels, scores > 0),
        "classes": metrics.per_class(labels, scores > 0),
        "confusion": metrics.confusion(labels, scores > 0).tolist(),
        "calibration_error": metrics.calibration_error(labels, probabilities),
        "brier": metrics.brier(labels, probabilities),
    }


def _with_interval(mean: float, bounds: tuple[float, float]) -> dict[str, float]:
    return {"mean": mean, "low": bounds[0], "high": bounds[1]}


def by_view(scored: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """`measure` for each view, and for the joint verdict where there are several; by fold where there are folds."""
    frames = dict(list(scored.groupby("view", sort=True)))
    if len(frames) > 1:
        frames[JOINT] = joint_verdict(scored)
    return {
        name: measure(
            rows["label"].to_numpy(), rows["score"].to_numpy(), rows["fold"].to_numpy() if "fold" in rows else None
        )
        for name, rows in frames.items()
    }


def joint_minus_better_view(scored: pd.DataFrame, resamples: int = 2000) -> dict[str, Any]:
    """AUROC of the joint verdict minus that of the better view, with a paired 95 % interval over items.

    Returns:
        `{"mean", "low", "high", "better"}`; of a cross-validation, means over its folds.
    """
    items = joint_verdict(scored)
    folds = items["fold"].to_numpy() if "fold" in items else np.zeros(len(items), int)
    labels = items["label"].to_numpy()
    weights = metrics.resample_weights(labels, resamples)
    parts = [folds == fold for fold in np.unique(folds)]

    def auroc(name: str, part: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return metrics.resampled_ranking(labels[part], items.loc[part, name], drawn[:, part])["image_auroc"]

    once = np.ones((1, len(items)))
    names = ["score", *sorted(scored["view"].unique())]
    estimates = {name: float(np.mean([auroc(name, part, once) for part in parts])) for name in names}
    better = max(names[1:], key=estimates.__getitem__)
    drawn = [np.mean([auroc(name, part, weights) for part in parts], axis=0) for name in ("score", better)]
    difference = metrics.paired_difference(*drawn, estimates["score"], estimates[better], int(labels.sum()))
    return {**difference, "better": better}


def repeated_splits(
    settings: ClassifierSettings, table: pd.DataFrame, seeds: Sequence[int], *, progress: bool = True
) -> list[dict[str, Any]]:
    """A product with the supervised split, cut anew for each seed.

    What the model learns from are the parts `train` and `validation`; the model's own seed holds the latter out anew.

    Returns:
        For each seed `measure` of its test part, and image AUROC of the trivial rows on it.
    """
    found, paths = [], []
    for seed in seeds:
        table = splits.supervised(table, seed=seed)
        train, test = table[table["part"] != "test"], table[table["part"] == "test"]
        scored, _, own = score_unseen(settings, train, test, TOGETHER, seed=seed, progress=progress)
        trivial = trivial_rows(train, test)
        labels = test["label"].to_numpy()
        rows = {name: metrics.image_auroc(labels, trivial[name]) for name in trivial}
        found.append({"seed": seed, **measure(labels, scored["score"].to_numpy()), "trivial": rows})
        paths += own
    remove_checkpoints(paths)
    return found


def timed(task: Callable[[], Any]) -> tuple[Any, float]:
    """What a task returns, and the CPU minutes that this process spent on it."""
    begun = time.process_time()
    return task(), (time.process_time() - begun) / 60


def from_scratch(settings: ClassifierSettings, architecture: str) -> ClassifierSettings:
    """The same settings for a network that nobody has trained before: usual pooling, and twice the steps."""
    return replace(settings, architecture=architecture, weights="random", pyramid=(1,), steps=2 * settings.steps)
