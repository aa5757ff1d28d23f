"""How well are types told apart? Repeated folds, a type that was never seen, and a few images of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold
from tqdm import tqdm

from mvtec_ad import metrics
from mvtec_ad.errors import DataError
from mvtec_ad.methods.contrastive.material import Material
from mvtec_ad.methods.contrastive.model import DefectTyper, embed
from mvtec_ad.methods.contrastive.ways import CHANCE, COLOURS, FROZEN, PROBE, Answer, answers
from mvtec_ad.settings import TypingSettings

__all__ = [
    "CHANCE",
    "COLOURS",
    "FROZEN",
    "PROBE",
    "Answer",
    "answers",
    "calibrated_limit",
    "cross_validate",
    "few_shot",
    "leave_one_out",
    "open_set_summary",
    "summary",
]

SHOTS = (1, 2, 4, 8)
DRAWS = 5  # choices of these few images
METRICS = ("balanced_accuracy", "macro_f1", "retrieval_map", "silhouette")


def cross_validate(
    settings: TypingSettings,
    material: Material,
    objectives: Sequence[str] = ("supcon",),
    *,
    kept: list[Path] | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Repeated stratified K-fold over the images that show one type.

    Args:
        settings: `folds` and `repeats`, and what is fitted.
        material: of the category.
        objectives: that are trained.
        kept: as in `answers`.
        progress: show a bar.

    Returns:
        Verdicts, rows repeat, fold, way, image_id, defect, said, novelty, for the images of the fold and for those that
        show several types at once; and quality, rows repeat, fold, way and one column per metric of `METRICS`.

    Raises:
        DataError: a type has fewer images than folds.
    """
    verdicts, quality = [], []
    splits = list(_folds(material, material.typed, settings.folds, settings.repeats, settings.seeds[0]))
    for number, (train, test) in enumerate(tqdm(splits, "folds", disable=not progress)):
        place = {"repeat": number // settings.folds, "fold": number % settings.folds}
        asked = np.concatenate([test, material.mixed])
        found, _ = answers(settings, material, train, asked, objectives, seed=number, kept=kept)
        for way, answer in found.items():
            verdicts.append(_verdicts(material, asked, answer).assign(**place, way=way))
            quality.append({**place, "way": way, **_quality(material.types[test], material.types[train], answer)})
    return pd.concat(verdicts, ignore_index=True), pd.DataFrame(quality)


def leave_one_out(
    settings: TypingSettings,
    material: Material,
    objectives: Sequence[str] = ("supcon",),
    *,
    folds: int = 2,
    kept: list[Path] | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leave out each type in turn: is it called unknown, and is it known again after a few images?

    The other types are cut into folds, so that known defects are judged by models that have not seen them either.

    Args:
        settings: what is fitted.
        material: of the category.
        objectives: that are trained.
        folds: of the known types.
        kept: as in `answers`.
        progress: show a bar.

    Returns:
        Novelty, rows left_out, fold, way, image_id, known, novelty; and few-shot, rows left_out, fold, way, shots,
        draw, recall (of the new type) and balanced_accuracy (over all types).

    Raises:
        DataError: there are fewer than three types, so that none is left to tell apart.
    """
    names = sorted(set(material.types[material.typed]))
    if len(names) < 3:
        raise DataError(
            f"leaving out a type needs three or more of them, and {material.table['category'].iloc[0]} has {len(names)}"
        )
    seen, shown = [], []
    bar = tqdm(total=len(names) * folds, desc="types left out", disable=not progress)
    for name in names:
        left = material.typed[material.types[material.typed] == name]
        others = np.setdiff1d(material.typed, left)
        for fold, (train, test) in enumerate(_folds(material, others, folds, 1, settings.seeds[0])):
            place = {"left_out": name, "fold": fold}
            asked = np.concatenate([test, left])
            found, typers = answers(settings, material, train, asked, objectives, seed=fold, kept=kept)
            for way, answer in found.items():
                if answer.novelty is not None:
                    rows = _verdicts(material, asked, answer).drop(columns=["defect", "said"])
                    seen.append(rows.assign(**place, way=way, known=np.arange(len(asked)) < len(test)))
            for own, typer in typers.items():
                shown += [{**place, "way": own, **row} for row in few_shot(typer, material, test, left)]
            bar.update()
    bar.close()
    return pd.concat(seen, ignore_index=True), pd.DataFrame(shown)


def few_shot(typer: DefectTyper, material: Material, known: np.ndarray, new: np.ndarray) -> Iterator[dict[str, Any]]:
    """Add a type from `SHOTS` images, in `DRAWS` choices of them, and name the rest; nothing is trained."""
    embeddings = embed(typer.encoder, material.views.plain[np.concatenate([known, new])])
    types = material.types[np.concatenate([known, new])]
    name, first = types[-1], len(known)
    for shots in SHOTS:
        if shots >= len(new):
            return
        for draw in range(DRAWS):
            chosen = first + np.random.default_rng([draw, shots]).permutation(len(new))[:shots]
            taught = typer.with_type(name, embeddings[chosen])
            rest = np.setdiff1d(np.arange(len(types)), chosen)
            said = np.array(taught.names)[taught.likeness(embeddings[rest]).argmax(1)]
            accuracy = metrics.verdict_metrics(types[rest], said)["balanced_accuracy"]
            recall = float((said[types[rest] == name] == name).mean())
            yield {"shots": shots, "draw": draw, "recall": recall, "balanced_accuracy": accuracy}


def calibrated_limit(verdicts: pd.DataFrame, way: str, settings: TypingSettings) -> float:
    """Novelty above which a defect is called unknown, from known ones that the models had not seen.

    Each image's novelty comes from the model of the fold that held it out, as in cross-conformal prediction (Vovk
    2015): the promised share is kept very nearly, not exactly. ∞, never unknown, where there are too few images for it.
    """
    own = verdicts[(verdicts["way"] == way) & ~verdicts["defect"].isin(settings.mixtures)]
    scores = own.groupby("image_id")["novelty"].mean()
    if len(scores) < metrics.images_needed(settings.unknown):
        return float("inf")
    return metrics.calibrated(scores, settings.unknown)


def summary(quality: pd.DataFrame, folds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Way -> metric -> mean with its interval; `balanced_accuracy_difference` is that to the frozen prototypes."""
    share, found = 1 / folds, {}
    base = quality[quality["way"] == FROZEN].set_index(["repeat", "fold"])["balanced_accuracy"]
    for way, rows in quality.groupby("way", sort=False):
        rows = rows.set_index(["repeat", "fold"])
        complete = [name for name in METRICS if rows[name].notna().all()]
        found[way] = {name: _inside(metrics.corrected_t(rows[name], share), name) for name in complete}
        found[way]["balanced_accuracy_difference"] = metrics.corrected_t(rows["balanced_accuracy"] - base, share)
    return found


def open_set_summary(novelty: pd.DataFrame, rate: float) -> pd.DataFrame:
    """Rows left_out, way, auroc (unknown against known, mean over folds), called_unknown and false_unknown.

    The limit of a fold comes from the held-out known images of the other folds, at the promised rate.
    """
    rows = []
    for (left_out, way), part in novelty.groupby(["left_out", "way"], sort=False):
        folds = []
        for fold, own in part.groupby("fold"):
            calibration = part[part["known"] & (part["fold"] != fold)]["novelty"]
            enough = len(calibration) >= metrics.images_needed(rate)
            called = own["novelty"] > (metrics.calibrated(calibration, rate) if enough else np.inf)
            auroc = metrics.image_auroc(~own["known"].to_numpy(), own["novelty"])
            folds.append((auroc, called[~own["known"]].mean(), called[own["known"]].mean()))
        auroc, hit, false = np.mean(folds, axis=0)
        rows.append({"left_out": left_out, "way": way, "auroc": auroc, "called_unknown": hit, "false_unknown": false})
    return pd.DataFrame(rows)


def _folds(
    material: Material, rows: np.ndarray, folds: int, repeats: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train and test images of each fold of each repeat."""
    types = material.types[rows].astype(str)
    names, counts = np.unique(types, return_counts=True)
    if counts.min() < folds:
        few = f"{material.table['category'].iloc[0]}/{names[counts.argmin()]} has {counts.min()} images"
        raise DataError(f"{few}, too few for {folds} folds: choose fewer folds, or leave the folder out")
    for repeat in range(repeats):
        cut = StratifiedKFold(folds, shuffle=True, random_state=seed + repeat)
        for train, test in cut.split(types, types):
            yield rows[train], rows[test]


def _verdicts(material: Material, rows: np.ndarray, answer: Answer) -> pd.DataFrame:
    table = material.table.iloc[rows]
    novelty = np.nan if answer.novelty is None else answer.novelty
    columns = {"image_id": table["image_id"].to_numpy(), "defect": table["defect"].to_numpy(), "said": answer.said}
    return pd.DataFrame(columns).assign(novelty=novelty)


def _quality(types: np.ndarray, known: np.ndarray, answer: Answer) -> dict[str, float]:
    """`METRICS` of the first images of an answer, those with one type."""
    found = metrics.verdict_metrics(types, answer.said[: len(types)])
    if answer.embeddings is None:
        return {**found, "retrieval_map": np.nan, "silhouette": np.nan}
    embeddings, gallery = answer.embeddings[0][: len(types)], answer.embeddings[1]
    return {
        **found,
        "retrieval_map": metrics.retrieval_map(embeddings, types, gallery, known),
        "silhouette": metrics.silhouette(embeddings, types) if len(set(types)) < len(types) else np.nan,
    }


def _inside(metric: dict[str, float], name: str) -> dict[str, float]:
    """A t interval may leave the range of a metric, which the metric cannot."""
    lowest = -1.0 if name == "silhouette" else 0.0
    return {**metric, "low": max(metric["low"], lowest), "high": min(metric["high"], 1.0)}
