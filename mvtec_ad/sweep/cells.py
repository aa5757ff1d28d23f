"""One cell of a sweep: a row on a category with one seed, measured by one thread and kept in a zip of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import transfer
from mvtec_ad.errors import ArtifactError, MvtecAdError
from mvtec_ad.settings import as_dict, transfer_folder
from mvtec_ad.sweep.rows import NAMED_WEIGHTS, SUPERVISED, Row

HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Cell:
    """What a worker needs to measure, plain enough to be sent to another machine.

    Attributes:
        category: of the images.
        row: what is measured.
        seed: the only one.
        table: images of the category.
        data_source: of the images.
        false_alarm_rate: that the calibrated threshold promises.
        identity: plain JSON data, all that the numbers depend on beside the seed; another one is measured again.
    """

    category: str
    row: Row
    seed: int
    table: pd.DataFrame
    data_source: str
    false_alarm_rate: float
    identity: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, int]:
        """Category, name of the row, seed."""
        return self.category, self.row.name, self.seed

    @property
    def member_folder(self) -> str:
        """Where arrays lie in its zip, and the zip itself below the sweep's folder, less `.zip`."""
        return "/".join(map(str, self.key))


@dataclass(frozen=True)
class Outcome:
    """What a worker sends back.

    Attributes:
        key: of the cell.
        members: of its artifact; None where it could not be measured.
        problem: why not, one line.
    """

    key: tuple[str, str, int]
    members: dict[str, Any] | None
    problem: str = ""


def sweep_folder(name: str) -> Path:
    """Where the cells of a sweep lie: `transfer/sweeps/NAME`; not made."""
    return transfer_folder() / "sweeps" / name


def plan(
    rows: Sequence[Row], tables: Mapping[str, tuple[pd.DataFrame, str]], seeds: Sequence[int], false_alarm_rate: float
) -> list[Cell]:
    """All cells, category by category.

    Args:
        rows: as `parse_rows` reads them.
        tables: category -> table of images and data source.
        seeds: each counts once.
        false_alarm_rate: that the calibrated thresholds promise.

    Raises:
        SettingsError: a seed is none.
        DataError: an image is no longer there.
    """
    cells = []
    identities = {row.name: _row_identity(row) for row in rows}
    for category, (table, source) in tables.items():
        images = {"data_source": source, "images": _fingerprint(table), "false_alarm_rate": false_alarm_rate}
        for row in rows:
            for seed in dict.fromkeys(seeds):
                own = replace(row, settings=replace(row.settings, seeds=(seed,)))
                identity = {**identities[row.name], **images}
                cells.append(Cell(category, own, seed, table, source, false_alarm_rate, identity))
    return cells


def state(cell: Cell, folder: Path) -> str | None:
    """Whether a cell has to be measured.

    Returns:
        None where it lies in the folder, whole and measured under the same conditions; "" where it does not lie there;
        else why it must be measured again.
    """
    path = _place(cell, folder)
    if not path.is_file():
        return ""
    try:
        theirs = transfer.load(path).manifest["settings"]
    except ArtifactError as problem:
        return str(problem)
    different = sorted(key for key in {*theirs, *cell.identity} if theirs.get(key) != cell.identity.get(key))
    return f"other {', '.join(different).replace('_', ' ')} than now" if different else None


def run_cell(cell: Cell) -> Outcome:
    """Measure a cell, in whatever process or machine this is; what a user can mend comes back as a line."""
    with one_thread():
        try:
            return Outcome(cell.key, _measure(cell))
        except MvtecAdError as problem:
            return Outcome(cell.key, None, str(problem))


def keep(cell: Cell, members: Mapping[str, Any], folder: Path) -> Path:
    """Write the artifact of a measured cell, whole or not at all.

    Raises:
        ArtifactError: the disk is full or the folder is read-only.
    """
    return transfer.save(
        cell.row.method,
        members,
        profile="custom",
        data_source=cell.data_source,
        categories=[cell.category],
        settings=cell.identity,
        seed=cell.seed,
        metrics={"image_auroc": members["reports.json"][0]["metrics"]["image_auroc"]["mean"]},
        path=_place(cell, folder),
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, BLAS and a TensorFlow that is not imported yet.

    Sums of floats depend on how many threads share them; so the numbers of a cell do not depend on how many cells are
    measured at once.
    """
    import torch
    from threadpoolctl import threadpool_limits

    threads, name = torch.get_num_threads(), "TF_NUM_INTRAOP_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _measure(cell: Cell) -> dict[str, Any]:
    """Members of the cell's artifact."""
    row = cell.row
    if row.method in SUPERVISED:
        from mvtec_ad.inspector import trial as supervised

        options = {"data_source": cell.data_source, "false_alarm_rate": cell.false_alarm_rate}
        found = supervised.run(row.method, cell.table, row.settings, **options)
    else:
        from mvtec_ad.methods import experiment

        found = experiment.run(
            row.method,
            cell.table,
            row.settings,
            data_source=cell.data_source,
            false_alarm_rate=cell.false_alarm_rate,
            keep_models=True,
            progress=False,
        )
    (trial,) = found.trials
    report = {**found.report, "row": row.name, "ms_per_image": 1000 * trial.score_seconds / len(found.test)}
    if row.method not in SUPERVISED:
        report["model_bytes"] = _model_bytes(row.method, trial.model)
    arrays = {"good_scores": np.asarray(trial.good_scores, np.float32)}
    members: dict[str, Any] = {
        "scores.csv": found.scores_table().assign(method=row.name),
        "reports.json": [report],
        f"{cell.member_folder}/trial.npz": arrays,
    }
    if trial.scores.maps is not None:
        # beyond its range float16 would be infinite, which no metric takes
        maps = np.clip(trial.scores.maps, -HALF, HALF).astype(np.float16)
        members[f"{cell.member_folder}/maps.npz"] = {"maps": maps}
        if "pixel_auroc" in report["metrics"]:  # else the maps are not of whole pictures, or there are no masks
            arrays["masks"] = np.packbits(found.masks.reshape(len(maps), -1), axis=1)  # (M, H, W) => (M, ⌈HW/8⌉)
    return members


def _model_bytes(method: str, model: Any) -> int:
    """What a file keeps of a fitted model, without its backbone."""
    from mvtec_ad.methods import module_of

    _, arrays = module_of(method).pack(model)
    return sum(array.nbytes for array in arrays.values())


def _row_identity(row: Row) -> dict[str, Any]:
    """Method and settings; a weights file counts by its content, wherever it lies."""
    settings = as_dict(row.settings)
    del settings["seeds"]
    if settings.get("weights", "random") not in NAMED_WEIGHTS:
        settings["weights"] = transfer.file_sha256(Path(settings["weights"]))
    return {"row": row.name, "method": row.method, **settings}


def _fingerprint(table: pd.DataFrame) -> str:
    """Of image ids, labels and the sizes of all files: quicker than reading them, and it notices other images."""
    columns = table[["image_id", "label", "image_path", "mask_path"]].itertuples(index=False, name=None)
    sizes = [
        (name, int(label), *(os.path.getsize(path) if path else 0 for path in paths)) for name, label, *paths in columns
    ]
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


def _place(cell: Cell, folder: Path) -> Path:
    return folder / cell.category / cell.row.name / f"{cell.seed}.zip"
