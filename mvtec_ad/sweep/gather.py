"""From the cells on the disk to reports over all seeds, and an overview."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import comparison, evaluation, transfer
from mvtec_ad.comparison import Scored
from mvtec_ad.errors import ArtifactError
from mvtec_ad.inspector import trial
from mvtec_ad.methods import Scores, Trial, experiment
from mvtec_ad.settings import InspectionSettings
from mvtec_ad.transfer import Artifact

METRICS = ("image_auroc", "pixel_auroc", "au_pro")


def gather(folder: Path, keys: Iterable[tuple[str, str, int]] | None = None) -> list[dict[str, Any]]:
    """One report for each category and row, over all its seeds, as `methods.experiment.run` with these seeds gives it.

    Image metrics are the same to the last digit. Maps were kept in float16, so pixel metrics may differ by about 1e-4.
    `seconds` are summed over seeds; in cells measured side by side they hold what the cells cost one another, and
    `peak_memory_gb` is of the whole worker.

    Args:
        folder: of the sweep; needs no images, masks lie in the cells.
        keys: category, row and seed of the cells that count; None takes all there are.

    Raises:
        ArtifactError: a cell is missing or damaged, or the seeds of a row were measured under different conditions.
    """
    if keys is None:
        keys = [(path.parts[-3], path.parts[-2], int(path.stem)) for path in sorted(folder.glob("*/*/[0-9]*.zip"))]
    seeds: dict[tuple[str, str], list[int]] = {}
    for category, row, seed in keys:
        seeds.setdefault((category, row), []).append(seed)
    return [_over_seeds(folder / category / row, sorted(own)) for (category, row), own in seeds.items()]


def scored(folder: Path, reports: Sequence[dict[str, Any]]) -> list[Scored]:
    """The rows of reports of `gather` with the scores and maps of all their seeds, for `comparison`.

    Raises:
        ArtifactError: a cell is missing or damaged.
    """
    rows = []
    for report in reports:
        places = [folder / report["category"] / report["row"] / f"{seed}.zip" for seed in report["seeds"]]
        cells = [one for place in places for one in comparison.read([place])]
        maps = {seed: maps for cell in cells for seed, maps in cell.maps.items()}
        scores = np.concatenate([cell.scores for cell in cells])
        rows.append(replace(cells[0], seeds=tuple(report["seeds"]), scores=scores, maps=maps, report=report))
    return rows


def overview(reports: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row for each report: category, row, seeds, the main metrics with their intervals, and what they cost."""
    rows = []
    for report in reports:
        row = {"category": report["category"], "row": report["row"], "method": report["method"]}
        row |= {"data_source": report["data_source"], "seeds": " ".join(map(str, report["seeds"]))}
        for name in METRICS:
            metric = report["metrics"].get(name, {})
            row |= {name: metric.get("mean"), f"{name}_low": metric.get("low"), f"{name}_high": metric.get("high")}
        row |= {f"{key}_seconds": seconds for key, seconds in report["seconds"].items()}
        rows.append(row | {key: report.get(key) for key in ("ms_per_image", "model_bytes")})
    return pd.DataFrame(rows)


def _over_seeds(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """The report of one row on one category."""
    artifacts = [transfer.load(folder / f"{seed}.zip") for seed in seeds]
    first = artifacts[0]
    for other in artifacts[1:]:
        if other.manifest["settings"] != first.manifest["settings"]:
            raise ArtifactError(
                f"{other.path} and {first.path} were measured under different conditions: sweep again with all seeds, "
                "or remove one of them"
            )
    reports = [artifact.json("reports.json")[0] for artifact in artifacts]
    read = [_trial(artifact, report) for artifact, report in zip(artifacts, reports, strict=True)]
    labels, trials = first.table("scores.csv")["label"].to_numpy(), [one for one, _ in read]
    return {
        **reports[0],
        "seeds": seeds,
        "settings": {**_without_home(reports[0]["settings"]), "seeds": seeds},
        **_measured(labels, trials, read[0][1], reports[0]),
        **_judged(labels, reports),
        **_origin(artifacts),
        "seconds": {key: sum(report["seconds"][key] for report in reports) for key in reports[0]["seconds"]},
        "ms_per_image": float(np.mean([report["ms_per_image"] for report in reports])),
        "peak_memory_gb": max(report["peak_memory_gb"] for report in reports),
    }


def _origin(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """When, where and from which code the cells were measured, which may be long before they are gathered."""
    manifests = [artifact.manifest for artifact in artifacts]
    commits = sorted({str(manifest["git_commit"]) for manifest in manifests})
    last = max(manifests, key=lambda manifest: manifest["created_utc"])
    origin = {key: last[key] for key in ("device", "versions")}
    return origin | {"date": last["created_utc"][:10], "git_commit": ", ".join(commits)}


def _without_home(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose weights file is named from where we stand: a report is no place for a machine's folders."""
    weights = settings.get("weights")
    return {**settings, "weights": os.path.relpath(weights)} if weights and os.path.isabs(weights) else settings


def _judged(labels: np.ndarray, reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of inspectors: the band and the verdicts of every seed, and what they cost, paired."""
    if "verdicts" not in reports[0]:
        return {}
    found = {key: [one for report in reports for one in report[key]] for key in ("bands", "verdicts")}
    verdicts = [(np.array(alone, bool), np.array(both, bool)) for alone, both in found["verdicts"]]
    return found | {"cost": trial.cost_difference(labels, verdicts, InspectionSettings())}


def _measured(
    labels: np.ndarray, trials: list[Trial], masks: np.ndarray | None, report: dict[str, Any]
) -> dict[str, Any]:
    """Metrics over all seeds, and thresholds where the report has some: what learns from defects promises none."""
    if report["thresholds"]:
        return experiment.measure(labels, trials, masks, report["false_alarm_rate"])
    maps = None if masks is None else [one.scores.maps for one in trials]
    return {"metrics": evaluation.evaluate(labels, [one.scores.image for one in trials], maps, masks)}


def _trial(artifact: Artifact, report: dict[str, Any]) -> tuple[Trial, np.ndarray | None]:
    """A kept cell as the trial it was, with float16 maps and without its model; and the masks, (M, H, W) bool."""
    folder = f"{report['category']}/{report['row']}/{report['seeds'][0]}"
    scores = artifact.table("scores.csv")["score"].to_numpy(np.float32)
    own = artifact.arrays(f"{folder}/trial.npz")
    maps = masks = None
    if f"{folder}/maps.npz" in artifact.names:
        maps = artifact.arrays(f"{folder}/maps.npz")["maps"]
        if "masks" in own:
            masks = np.unpackbits(own["masks"], axis=1, count=maps[0].size).astype(bool).reshape(maps.shape)
    seconds = report["seconds"]["fit"], report["seconds"]["score"]
    return Trial(report["seeds"][0], None, own["good_scores"], Scores(scores, maps), *seconds), masks
