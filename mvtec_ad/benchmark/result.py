"""Result: scores, anomaly maps and report of a method on one category, for everybody who measures; and its file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pandas as pd

from mvtec_ad import artifacts, metrics
from mvtec_ad.artifacts import PRODUCED_BY, Artifact
from mvtec_ad.data.catalog import category_name
from mvtec_ad.data.loading import masked
from mvtec_ad.errors import ArtifactError, DataError, SettingsError

if TYPE_CHECKING:
    from mvtec_ad.methods.base import Detector, Scores

METRICS = ("image_auroc", "pixel_auroc", "au_pro")  # those that tables show
PROMISE = "false alarms, promised → in the test"  # what heads the column of `promise`
LARGEST_HALF = float(np.finfo(np.float16).max)  # beyond it float16 is infinite, which no metric takes
SCORES = {"image_id": str, "split": str, "method": str, "seed": int, "label": int, "score": float}  # of scores.csv
COLUMNS = list(SCORES)


class Metric(TypedDict):
    """A metric over its seeds; more of it as `metrics.evaluate` gives it."""

    mean: float
    low: float
    high: float


class _Metrics(TypedDict):
    image_auroc: Metric


class Metrics(_Metrics, total=False):
    """What `metrics.evaluate` gives, and on common images the false alarms."""

    image_ap: Metric
    f1_max: Metric
    false_alarms: Metric
    pixel_auroc: Metric
    pixel_ap: Metric
    au_pro: Metric


class _Settings(TypedDict):
    image_size: int


class Settings(_Settings, total=False):
    """Options of the method; those named here have a place of their own in tables."""

    crop: int
    backbone: str | None
    weights: str | None


class _Known(TypedDict):
    method: str
    category: str
    data_source: str  # mvtec_ad, synthetic or own
    seeds: list[int]
    settings: Settings
    metrics: Metrics


class Report(_Known, total=False):
    """What is known of a measurement, plain JSON data; `make_result` writes it. The last five come with its file.

    Files are read by it: what tables and lines need of a report that is there must be of these types.
    """

    row: str  # name of the recipe, the method's where there is only one
    protocol: str  # official (all official test images) or supervised (the test part of `splits.supervised`)
    part: str  # of the images, where methods were measured on common ones
    second: str  # opinion that an inspector asks
    backbone: str | None
    weights: str | None
    images: dict[str, int]  # train, good, defective
    notes: list[str]  # what is odd about the images: copies, leaks, defects without masks
    false_alarm_rate: float
    thresholds: dict[str, dict[str, float]]  # calibrated and oracle, means over seeds; empty where none is promised
    trivial: dict[str, float]  # image AUROC of the trivial baselines
    seconds: dict[str, float]  # fit and score: all seeds together, without reading files
    peak_memory_gb: float | None
    model_bytes: float | None  # of a fitted model, without its backbone
    cost: dict[str, float | None]  # of one image, on common images
    profile: str
    device: str
    date: str
    git_commit: str | None
    versions: dict[str, str]


@dataclass
class Result:
    """A measured row: a method under one recipe on one category, every seed of it."""

    table: pd.DataFrame  # the N test images: image_id, split, label, defect, masked; more where not read from a file
    seeds: tuple[int, ...]  # S of them
    scores: np.ndarray  # (S, N) raw, higher is more anomalous
    maps: dict[
        int, np.ndarray
    ]  # seed -> (N, h, w), float16 where they were read from a file; of S seeds, fewer or none
    masks: np.ndarray | None  # (N, h, w) bool at the size and crop of the maps; None: nothing can be said about pixels
    good_scores: dict[int, np.ndarray]  # seed -> (n,) scores of good images that the model was not fitted on
    report: Report
    detectors: list[Detector] = field(default_factory=list)  # the fitted ones, where they were asked for

    labels = property(lambda self: self.table["label"].to_numpy(), doc="(N,) int, 1 for a defect.")
    masked = property(
        lambda self: np.broadcast_to(self.table.get("masked", True), len(self.table)),
        doc="(N,) bool, true where the mask is known.",
    )
    category = property(lambda self: self.report["category"], doc="Product.")
    row = property(lambda self: self.report["row"], doc="Name of the row, for example `padim-keras`.")
    method = property(lambda self: self.report["method"], doc="That the row is a recipe of.")
    protocol = property(lambda self: self.report["protocol"], doc="`official` or `supervised`.")
    data_source = property(lambda self: self.report["data_source"], doc="`mvtec_ad`, `synthetic` or `own`.")
    name = property(lambda self: f"{self.category}: {self.row}", doc="For messages.")

    def only(self, image_ids: Sequence[str]) -> Result:
        """The same row on some of its images, in the order of `image_ids`; DataError where one has no score."""
        positions = pd.Index(self.table["image_id"]).get_indexer(list(image_ids))
        if missing := [name for name, position in zip(image_ids, positions, strict=True) if position < 0]:
            lacking = f"{self.name} has no score of {missing[0]} ({len(missing)} such)"
            raise DataError(f"{lacking}: it was made from other images, so measure it again")
        return replace(
            self,
            table=self.table.iloc[positions].reset_index(drop=True),
            scores=self.scores[:, positions],
            maps={seed: maps[positions] for seed, maps in self.maps.items()},
            masks=None if self.masks is None else self.masks[positions],
        )

    def scores_table(self) -> pd.DataFrame:
        """Columns image_id, split, method (name of the row), seed, label, score: what every scoring artifact holds."""
        images, by_seed = self.table.assign(method=self.row), zip(self.seeds, self.scores, strict=True)
        return pd.concat([images.assign(seed=seed, score=row)[COLUMNS] for seed, row in by_seed], ignore_index=True)

    def save(self, stage_or_path: str | Path, **how: Any) -> Path:
        """`save_results` of this one."""
        return save_results(stage_or_path, [self], **how)

    @classmethod
    def load(cls, path: str | Path, category: str | None = None, row: str | None = None) -> Result:
        """The one result of an artifact that fits; ArtifactError where there is none, several, or a damaged file."""
        results = load_results([path])
        fitting = [result for result in results if category in (None, result.category) and row in (None, result.row)]
        if len(fitting) != 1:
            held = ", ".join(result.name for result in results) or "none"
            raise ArtifactError(f"{path} holds {held}: choose one of them by category and row")
        return fitting[0]


def make_result(
    method: str,
    table: pd.DataFrame,
    scores: Mapping[int, Scores],
    good_scores: Mapping[int, np.ndarray],
    masks: np.ndarray | None,
    *,
    row: str | None = None,
    promises: bool = True,
    detectors: Sequence[Detector] = (),
    **known: Any,
) -> Result:
    """A result and its report, measured from what was scored.

    Args:
        method, row: that scored, and the name of the recipe, the method's when None.
        table, masks: the N test images of one category; (N, h, w) bool at the size of the maps, or None.
        scores, good_scores: of each seed; the latter for the threshold that is calibrated, where one `promises`.
        detectors: to hand on.
        **known: the other keys of `Report`; `train` is the number of images that were learned from.

    Raises:
        DataError: the table has one class only, or a score is not finite.
    """
    row = row or method
    check_file_name("row", row)
    table = table.assign(masked=masked(table))
    labels, train = table["label"].to_numpy(), known.pop("train")
    maps = {seed: seed_scores.maps for seed, seed_scores in scores.items() if seed_scores.maps is not None}
    by_seed = {seed: seed_scores.image for seed, seed_scores in scores.items()}
    image_scores = np.stack(list(by_seed.values()))
    report = Report(
        method=method,
        row=row,
        category=table["category"].iloc[0],
        seeds=list(scores),
        images={"train": train, "good": int((labels == 0).sum()), "defective": int(labels.sum())},
        metrics=metrics.evaluate(labels, image_scores, maps.values() if maps else None, masks, masked=table["masked"]),
        thresholds=threshold_means(labels, by_seed, good_scores, known["false_alarm_rate"]) if promises else {},
        **known,
    )
    masks = masks if maps else None
    return Result(table, tuple(scores), image_scores, maps, masks, dict(good_scores), report, list(detectors))


def threshold_means(
    labels: np.ndarray,
    scores: Mapping[int, np.ndarray],
    good_scores: Mapping[int, np.ndarray],
    false_alarm_rate: float,
) -> dict[str, dict[str, float]]:
    """`metrics.threshold_summary` of each seed's image scores, (N,), as means over the seeds."""
    points = [
        metrics.threshold_summary(labels, row, metrics.calibrated(good_scores[seed], false_alarm_rate))
        for seed, row in scores.items()
    ]
    return {
        kind: {key: float(np.mean([point[kind][key] for point in points])) for key in first}
        for kind, first in points[0].items()
    }


def promise(report: Report) -> str:
    """False alarms that the calibrated threshold promised, and those on the good test images: mean over the seeds and
    its 95 % Wilson interval. The image is the unit: more seeds are not more images. A dash where none was promised.

    Examples:
        >>> point = {"calibrated": {"false_alarm_rate": 0.1}}
        >>> promise({"false_alarm_rate": 0.05, "thresholds": point, "images": {"good": 20}})
        '5 % → .100 [.028, .301] of 20'
    """
    alarms = report.get("thresholds", {}).get("calibrated", {}).get("false_alarm_rate")
    promised, good = report.get("false_alarm_rate"), report.get("images", {}).get("good")
    if alarms is None or not promised or not good:
        return "–"
    low, high = metrics.wilson(alarms, good)
    return f"{100 * promised:.3g} % → {metrics.format_metric({'mean': alarms, 'low': low, 'high': high})} of {good}"


def metrics_table(results: Mapping[str, Result]) -> pd.DataFrame:
    """Metrics with their intervals as text, a column per result; then `promise`, and the best score that needs no
    model."""
    columns = {}
    for name, result in results.items():
        columns[name] = {key: metrics.format_metric(value) for key, value in result.report["metrics"].items()}
        columns[name][PROMISE] = promise(result.report)
        value, trivial = max((value, key) for key, value in result.report["trivial"].items())
        columns[name]["best trivial row"] = f"{metrics.format_number(value)} ({trivial})"
    return pd.DataFrame(columns)


def check_file_name(what: str, name: str) -> None:
    """Refuse what is no plain name of a file or folder on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][\w+.-]{0,99}", name, re.ASCII) or name.endswith("."):
        way = "use up to 100 letters, digits and . _ + - after a letter or digit"
        raise SettingsError(f"{what} {name!r} is no file name: {way}")


# --- files ------------------------------------------------------------------------------------------------------------


def save_results(
    stage_or_path: str | Path,
    results: Sequence[Result],
    *,
    profile: str = "custom",
    inputs: Sequence[Artifact] = (),
    models: bool = False,
    maps: bool | str = True,
    files: Mapping[str, Any] | None = None,
) -> Path:
    """Write the artifact of some results and return its path.

    Args:
        stage_or_path: a key of `artifacts.PRODUCED_BY`, or the path of a zip.
        results: of one data source, each row of a category once.
        profile, inputs: as in `artifacts.save`.
        models: add the first fitted model of each result that has some, for `detect`.
        maps: anomaly maps of all seeds, of the "first" one, or none.
        files: more of them.

    Raises:
        ArtifactError: a row, or a model of one method and seed, is there twice; or the disk is full.
        DataError: results of several data sources, or a model without a threshold.
    """
    sources = sorted({result.data_source for result in results})
    if len(sources) != 1:
        raise DataError(f"results of {' and '.join(sources) or 'no images'} make no artifact: save each source alone")
    _check_once(results)
    contents = {**result_files(results, maps), **(files or {})}
    for result in results if models else ():
        for detector in result.detectors[:1]:
            promise = result.report["false_alarm_rate"]
            limit = {"value": metrics.calibrated(detector.good_scores, promise), "false_alarm_rate": promise}
            model = artifacts.model_files(detector, result.category, limit)
            if next(iter(model)) in contents:
                what = f"{result.name}: another row keeps a model of this name"
                raise ArtifactError(f"{what}: keep those of one row only")
            contents |= model
    stage = str(stage_or_path) if str(stage_or_path) in PRODUCED_BY else None
    known = {"profile": profile, "data_source": sources[0], "inputs": inputs}
    known |= {"categories": list(dict.fromkeys(result.category for result in results))}
    known |= {"options": {result.row: result.report["settings"] for result in results}}
    known |= {"seed": sorted({seed for result in results for seed in result.seeds})}
    image_auroc = {f"{r.category} {r.row}": r.report["metrics"]["image_auroc"]["mean"] for r in results}
    path = None if stage else stage_or_path
    return artifacts.save(stage or results[0].method, contents, metrics=image_auroc, path=path, **known)


def result_files(results: Sequence[Result], maps: bool | str = True) -> dict[str, Any]:
    """Files of an artifact: scores.csv, reports.json; below CATEGORY/ROW/ good scores, masks and SEED/maps.npz."""
    contents: dict[str, Any] = {"scores.csv": pd.concat([result.scores_table() for result in results])}
    contents["reports.json"] = [result.report for result in results]
    for result in results:
        folder, mapped = f"{result.category}/{result.row}", list(result.maps) if maps else []
        good_scores = {str(seed): np.asarray(scores, np.float32) for seed, scores in result.good_scores.items()}
        contents[f"{folder}/good_scores.npz"] = good_scores
        for seed in mapped[:1] if maps == "first" else mapped:
            half = np.clip(result.maps[seed], -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
            contents[f"{folder}/{seed}/maps.npz"] = {"maps": half}
        if mapped and result.masks is not None:
            packed = np.packbits(result.masks.reshape(len(result.masks), -1), axis=1)  # (N, h, w) => (N, ⌈hw/8⌉)
            contents[f"{folder}/masks.npz"] = {"masks": packed, "masked": result.masked}
    return contents


def load_results(sources: Iterable[Artifact | str | Path], data: Artifact | None = None) -> list[Result]:
    """All rows that artifacts hold, in the order of their reports.

    Args:
        sources: checked artifacts, stages or paths; those without `scores.csv` or `reports.json` hold no row.
        data: the `data.zip` at hand. What was made from another one is refused, and other categories are left out.

    Raises:
        ArtifactError: an artifact was made from other images, holds a row twice, or its files do not fit together.
    """
    results = []
    for source in sources:
        artifact = source if isinstance(source, Artifact) else artifacts.load(source)
        if not {"scores.csv", "reports.json"} <= set(artifact.names):
            continue
        inputs = artifact.manifest["inputs"] if data else []
        hashes = {item["sha256"] for item in inputs if item["name"] == data.path.name}
        if hashes and hashes != {data.sha256}:  # scores of one `data.zip` say nothing about the images of another
            notebook = PRODUCED_BY.get(artifact.path.stem)
            way = f"run notebooks/{notebook}.ipynb again" if notebook else "make it again"
            name = data.path.name
            raise ArtifactError(f"{artifact.path.name} was made from another {name} than the one here: {way}")
        table = artifact.table("scores.csv", SCORES)
        for report in artifact.json("reports.json", list[Report]):
            if data is None or report["category"] in data.manifest["categories"]:
                results.append(_read(artifact, table, report))
    _check_once(results)
    return results


def origin(artifact: Artifact) -> dict[str, Any]:
    """When, where and from which code the reports of an artifact were made."""
    known = {key: artifact.manifest[key] for key in ("profile", "device", "git_commit", "versions")}
    return known | {"date": artifact.manifest["created_utc"][:10]}


def _check_once(results: Sequence[Result]) -> None:
    names = [result.name for result in results]
    for name in names:
        if names.count(name) > 1:
            raise ArtifactError(f"{name} is there {names.count(name)} times: leave one out, or name it otherwise")


def _read(artifact: Artifact, table: pd.DataFrame, report: Report) -> Result:
    """The result of one report; scores and maps of every seed in the order of images of the first."""
    report = {**origin(artifact), "row": report["method"], "protocol": "official", **report}
    category, row = report["category"], report["row"]
    with artifacts.complete(artifact):
        check_file_name("row", row)
    category = category_name(category)
    folder, where = f"{category}/{row}", f"{category}: {row}"
    lines = table[(table["method"] == row) & table["image_id"].str.startswith(f"{category}/")]
    if lines.empty:
        raise ArtifactError(f"{artifact.path} has a report of {where} and no scores of it: make it again")
    by_seed = {int(seed): rows.set_index("image_id") for seed, rows in lines.groupby("seed", sort=False)}
    first = next(iter(by_seed.values()))
    scores, maps, masks, known, good_scores = [], {}, None, True, {}
    if not (set(first["label"]) <= {0, 1} and all(name.count("/") > 1 for name in first.index)):
        raise ArtifactError(f"{artifact.path}: {where} has labels other than 0 and 1, or odd image ids: make it again")
    for seed, rows in by_seed.items():
        if not (rows.index.is_unique and set(rows.index) == set(first.index)):
            raise ArtifactError(f"{artifact.path}: {where} has other images with seed {seed}: make it again")
        scores.append(rows.loc[first.index, "score"].to_numpy(np.float64))
        if (file := f"{folder}/{seed}/maps.npz") in artifact.names:
            seed_maps = artifact.arrays(file).get("maps", np.empty(0))
            wanted = next(iter(maps.values())).shape if maps else (len(first), *seed_maps.shape[1:])
            if seed_maps.ndim != 3 or seed_maps.shape != wanted or not seed_maps.size:
                raise ArtifactError(
                    f"{artifact.path}: {file} has {len(seed_maps)} maps of {len(first)} images, or odd ones"
                )
            maps[seed] = seed_maps[rows.index.get_indexer(first.index)]
    if maps and (file := f"{folder}/masks.npz") in artifact.names:
        shape = next(iter(maps.values())).shape
        arrays = artifact.arrays(file)
        packed = arrays.get("masks", np.empty(0))  # (N, ⌈hw/8⌉) => (N, h, w)
        known = arrays.get("masked", np.ones(len(first), bool))
        right = packed.shape == (len(first), -(-shape[1] * shape[2] // 8)) and known.shape == (len(first),)
        if not right or packed.dtype != np.uint8 or known.dtype != bool:
            raise ArtifactError(f"{artifact.path}: {file} has no masks of maps {shape}: make it again")
        masks = np.unpackbits(packed, axis=1, count=shape[1] * shape[2]).astype(bool).reshape(shape)
    if (file := f"{folder}/good_scores.npz") in artifact.names:
        with artifacts.complete(artifact):
            good_scores = {int(seed): seed_scores.reshape(-1) for seed, seed_scores in artifact.arrays(file).items()}
    images = first[["split", "label"]].reset_index()
    images = images.assign(category=category, defect=[name.split("/")[-2] for name in images["image_id"]])
    images["masked"] = known
    return Result(images, tuple(by_seed), np.stack(scores), maps, masks, good_scores, report)
