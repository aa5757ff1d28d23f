"""The scores of one row of a comparison, as an artifact keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import transfer
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.transfer import Artifact

_COLUMNS = {"image_id", "split", "method", "seed", "label", "score"}


@dataclass(frozen=True)
class Scored:
    """One row of a comparison: a method under one recipe on one category, every seed of it.

    Attributes:
        category: product.
        row: name of the row, for example `padim-keras`.
        method: that the row is a recipe of, for example `padim`.
        protocol: `official` (all official test images) or `supervised` (the test part of `splits.supervised`).
        data_source: `mvtec_ad`, `rendered` or `own`.
        profile: that it was made under.
        device: that it was made on.
        seeds: S of them.
        images: columns image_id, split, label and defect, one row for each of N images.
        scores: (S, N) float64, raw, higher is more anomalous.
        maps: seed -> (N, h, w) anomaly maps, float16 as they were kept; of fewer seeds than S, or of none.
        report: what the experiment wrote: settings, metrics, seconds.
        model_bytes: size of the kept model of one seed, with the network that lies in the same artifact; None where no
            model was kept. A network that comes with the package or from torchvision is in no artifact.
    """

    category: str
    row: str
    method: str
    protocol: str
    data_source: str
    profile: str
    device: str
    seeds: tuple[int, ...]
    images: pd.DataFrame
    scores: np.ndarray
    maps: dict[int, np.ndarray]
    report: dict[str, Any]
    model_bytes: int | None = None

    @property
    def labels(self) -> np.ndarray:
        """(N,) int, 1 for a defect."""
        return self.images["label"].to_numpy()

    @property
    def name(self) -> str:
        """`category: row`, for messages."""
        return f"{self.category}: {self.row}"


def read(artifacts: Iterable[Artifact | str | Path], data: Artifact | None = None) -> list[Scored]:
    """All rows that artifacts hold, in the order of their reports.

    Args:
        artifacts: checked artifacts, stages or paths; those without `scores.csv` or `reports.json` hold no row.
        data: the `data.zip` at hand. What was made from another one is refused, and other categories are left out.

    Raises:
        ArtifactError: an artifact was made from other images, holds a row twice, or what it holds does not fit
            together.
    """
    found = []
    for one in artifacts:
        artifact = one if isinstance(one, Artifact) else transfer.load(one)
        if not {"scores.csv", "reports.json"} <= set(artifact.names):
            continue
        _check_origin(artifact, data)
        table = artifact.table("scores.csv")
        if not set(table) >= _COLUMNS:
            raise ArtifactError(f"{artifact.path}: scores.csv lacks {', '.join(sorted(_COLUMNS - set(table)))}")
        for report in artifact.json("reports.json"):
            if data is None or report["category"] in data.manifest["categories"]:
                found.append(_row(artifact, table, report))
    _check_once(found)
    return found


def _check_origin(artifact: Artifact, data: Artifact | None) -> None:
    """Scores of one `data.zip` say nothing about the images of another."""
    if data is None:
        return
    own = {item["sha256"] for item in artifact.manifest.get("inputs", []) if item["name"] == data.path.name}
    if own and own != {data.sha256}:
        maker = transfer.MAKERS.get(artifact.path.stem)
        way = f"run notebooks/{maker}.ipynb again" if maker else "make it again"
        raise ArtifactError(f"{artifact.path.name} was made from another {data.path.name} than the one here: {way}")


def _check_once(rows: Sequence[Scored]) -> None:
    names = [one.name for one in rows]
    for name in names:
        if names.count(name) > 1:
            raise ArtifactError(f"{name} is there {names.count(name)} times: leave one artifact out, or make it again")


def _row(artifact: Artifact, table: pd.DataFrame, report: dict[str, Any]) -> Scored:
    category, row = report["category"], report.get("row", report["method"])
    own = table[(table["method"] == row) & table["image_id"].str.startswith(f"{category}/")]
    if own.empty:
        raise ArtifactError(f"{artifact.path} has a report of {category}: {row} and no scores of it: make it again")
    seeds = tuple(int(seed) for seed in own["seed"].unique())
    by_seed = {seed: rows.set_index("image_id") for seed, rows in own.groupby("seed")}
    first = by_seed[seeds[0]]
    scores, maps = [], {}
    for seed in seeds:
        if not (by_seed[seed].index.is_unique and set(by_seed[seed].index) == set(first.index)):
            raise ArtifactError(f"{artifact.path}: {category}: {row} has other images with seed {seed}: make it again")
        scores.append(by_seed[seed].loc[first.index, "score"].to_numpy(np.float64))
        member = f"{category}/{row}/{seed}/maps.npz"
        if member in artifact.names:
            kept = artifact.arrays(member)["maps"]
            if len(kept) != len(first):
                raise ArtifactError(f"{artifact.path}: {member} has {len(kept)} maps of {len(first)} images")
            maps[seed] = kept[by_seed[seed].index.get_indexer(first.index)]
    images = first[["split", "label"]].reset_index()
    return Scored(
        category=category,
        row=row,
        method=report["method"],
        protocol=report.get("protocol", "official"),
        data_source=report["data_source"],
        profile=artifact.manifest["profile"],
        device=artifact.manifest.get("device", "unknown"),
        seeds=seeds,
        images=images.assign(defect=[name.split("/")[-2] for name in images["image_id"]]),
        scores=np.stack(scores),
        maps=maps,
        report=report,
        model_bytes=_model_bytes(artifact, f"{category}/{row}", seeds),
    )


def _model_bytes(artifact: Artifact, folder: str, seeds: Sequence[int]) -> int | None:
    """Bytes of the first kept model, and of the network it names as `weights_member`."""
    for seed in seeds:
        own = [name for name in artifact.names if name.startswith(f"{folder}/{seed}/model.")]
        if not own:
            continue
        description = artifact.json(f"{folder}/{seed}/model.json") if f"{folder}/{seed}/model.json" in own else {}
        network = description.get("weights_member")
        return sum(len(artifact.read(name)) for name in [*own, *([network] if network else [])])
    return None


def only(scored: Scored, image_ids: Sequence[str]) -> Scored:
    """The same row on some of its images, in the order of `image_ids`.

    Raises:
        DataError: the row has no score of one of them.
    """
    places = pd.Index(scored.images["image_id"]).get_indexer(list(image_ids))
    if (places < 0).any():
        missing = list(image_ids)[int(np.argmax(places < 0))]
        raise DataError(
            f"{scored.name} has no score of {missing} ({int((places < 0).sum())} such): it was made from other images, "
            "so run its notebook again"
        )
    return replace(
        scored,
        images=scored.images.iloc[places].reset_index(drop=True),
        scores=scored.scores[:, places],
        maps={seed: maps[places] for seed, maps in scored.maps.items()},
    )
