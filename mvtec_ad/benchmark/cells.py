"""Cells: rows (methods with options) × categories, each with all its seeds, measured side by side and saved one by one.

joblib runs them, on this machine or on a Dask cluster: workers measure and send back, this process writes. A cell is
measured by one thread, so its numbers depend neither on how many are measured at once nor on where.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd

from mvtec_ad import artifacts
from mvtec_ad.benchmark.result import METRICS, Report, check_file_name, load_results, promise, result_files
from mvtec_ad.benchmark.run import check_seeds, run
from mvtec_ad.config import NAMED_WEIGHTS, Options, parse_option
from mvtec_ad.errors import ArtifactError, DataError, MvtecAdError, SettingsError, WeightsError
from mvtec_ad.methods import METHODS, detector_class

SUPERVISED = ("classifier", "inspector")  # learn from defects, so they are tested on the supervised test part only
LABELLED = (*SUPERVISED, "segmentation")  # also from their masks
IDLE = 60  # seconds after which a worker of a killed run ends by itself


@dataclass(frozen=True)
class Row:
    """A method with options, under a name of its own."""

    name: str  # safe as a file name; what `method` says in scores.csv
    method: str  # a key of `methods.METHODS`, or one of `LABELLED`
    detector: Any  # not fitted; the settings of a supervised method
    crop_chosen: bool = True  # whether it was said what part of the picture is looked at

    def on(self, data_source: str) -> Any:
        """The detector for images of a source: the whole picture of a category of the user's own, whose border may be
        defective too; what the published protocol looks at of others, and wherever something else was said."""
        if self.crop_chosen or data_source != "own" or "crop" not in self.detector.options():
            return self.detector
        return replace(self.detector, crop=self.detector.image_size)


def parse_rows(texts: Sequence[str]) -> list[Row]:
    """`parse_row` of each text; SettingsError where two have the same name."""
    rows, first = [parse_row(text) for text in texts], {}
    for text, row in zip(texts, rows, strict=True):
        other = first.setdefault(row.name.casefold(), row)  # some file systems take A and a for the same
        if other is not row:
            others = f"{texts[rows.index(other)]} and {text}"
            raise SettingsError(f"rows {others} have the same name {row.name}: give one of them a name=…")
    return rows


def parse_row(text: str) -> Row:
    """Read one row: `padim:keras`, `autoencoder,loss=ssim,steps=300` or `padim,weights=x.pth,name=padim-x`.

    The fields are the method's options, several values stand as `1/2/3`; an image size without a crop keeps the whole
    picture (and so does, without a preset, a category of the user's own: `Row.on`). Without `name=` the name is made of
    what was given.

    Raises:
        SettingsError: a method, preset or field is unknown, a value does not fit, or the name is no file name.
        WeightsError: the weights are no file.

    Examples:
        >>> row = parse_row("padim:keras,channels=50")
        >>> row.name, row.detector.channels, row.detector.crop
        ('padim-keras-channels-50', 50, 256)
    """
    head, *parts = text.split(",")
    method, colon, preset = head.partition(":")
    if method not in [*METHODS, *LABELLED]:
        names = ", ".join([*METHODS, *LABELLED])
        raise SettingsError(f"row {text}: method {method!r} is unknown: use one of {names}")
    kind = detector_class("classifier" if method == "inspector" else method)
    given: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if not name or not value:
            raise SettingsError(f"row {text}: {part!r} is no option: write FIELD=VALUE, without spaces")
        if name in given:
            raise SettingsError(f"row {text}: {name} is given twice: remove one of them")
        given[name] = value
    words = [method, preset]
    for name, value in given.items():
        words += [name, Path(value).stem if name == "weights" else value]
    title = re.sub(r"[^\w+.-]+", "-", "-".join(filter(None, words)), flags=re.ASCII).rstrip(".-")
    title = given.pop("name", title)
    check_file_name(f"row {text}: name", title)
    try:
        detector = kind.preset(preset if colon else next(iter(kind.PRESETS)), **_values(kind, given))
    except (SettingsError, WeightsError) as problem:
        raise type(problem)(f"row {text}: {problem}") from problem
    return Row(title, method, detector, bool(colon) or not {"crop", "image_size"}.isdisjoint(given))


def _values(kind: type[Options], given: Mapping[str, str]) -> dict[str, Any]:
    """Texts as the values of a method's options."""
    if "seeds" in given:
        raise SettingsError("seeds are the same for all rows: give them once, with --seeds")
    known, hints = {field.name: field for field in kind.option_fields()}, get_type_hints(kind)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise SettingsError(f"there is no option {unknown[0]}: use name or {', '.join(known)}")
    values = {name: parse_option(known[name], hints[name], text) for name, text in given.items()}
    if "image_size" in values and "crop" in known:
        values.setdefault("crop", values["image_size"])
    return _with_weights(values)


def _with_weights(options: dict[str, Any]) -> dict[str, Any]:
    """Options with an absolute path where they name a weights file: workers may stand in another folder."""
    weights = options.get("weights", "random")
    if weights in NAMED_WEIGHTS:
        return options
    path = Path(weights).expanduser().resolve()
    if not path.is_file():
        names = ", ".join(NAMED_WEIGHTS)
        raise WeightsError(f"weights {weights!r}: not a file; use {names} or the path of a weights file")
    return {**options, "weights": str(path)}


# --- cells ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A row on a category with all its seeds: what a worker needs, plain enough to be sent to another machine."""

    category: str
    row: Row
    seeds: tuple[int, ...]
    table: pd.DataFrame
    data_source: str
    false_alarm_rate: float
    identity: dict[str, Any]  # plain data that the numbers depend on; a cell on disk of another one is measured again

    title = property(lambda self: f"{self.category} {self.row.name}", doc="For messages.")

    def path(self, folder: Path) -> Path:
        """Its zip below a folder; `Result.load` reads it."""
        return folder / self.category / f"{self.row.name}.zip"

    def missing(self, folder: Path) -> str | None:
        """None where its zip lies in the folder, whole and of the same identity; "" where there is none; else why it
        must be measured again."""
        if not self.path(folder).is_file():
            return ""
        try:
            artifact = artifacts.load(self.path(folder))
            theirs, _ = artifact.manifest["options"], load_results([artifact])
        except ArtifactError as problem:
            return str(problem)
        different = sorted(key for key in {*theirs, *self.identity} if theirs.get(key) != self.identity.get(key))
        return f"other {', '.join(different).replace('_', ' ')} than now" if different else None


def plan(
    rows: Sequence[Row], tables: Mapping[str, tuple[pd.DataFrame, str]], seeds: Sequence[int], false_alarm_rate: float
) -> list[Cell]:
    """All cells, category by category; `tables` are category -> table of images and data source.

    Raises:
        WeightsError: the weights of a row are no file.
        DataError: an image is not where the table says.
    """
    cells, seeds = [], check_seeds(seeds)
    for category, (table, source) in tables.items():
        images = {"data_source": source, "images": _fingerprint(table), "false_alarm_rate": false_alarm_rate}
        for row in rows:
            options = _with_weights(row.on(source).options())
            row = replace(row, detector=type(row.detector).from_options(options))
            if options.get("weights", "random") not in NAMED_WEIGHTS:  # a file counts by its content, wherever it lies
                options = {**options, "weights": artifacts.file_sha256(Path(options["weights"]))}
            identity = {"row": row.name, "method": row.method, **options, "seeds": list(seeds), **images}
            cells.append(Cell(category, row, seeds, table, source, false_alarm_rate, identity))
    return cells


def _fingerprint(table: pd.DataFrame) -> str:
    """Of image ids, labels and the sizes of all files: quicker than reading them, and it notices other images."""
    rows = table[["image_id", "label", "image_path", "mask_path"]].itertuples(index=False, name=None)
    try:
        sizes = [[name, int(label), *map(_bytes, paths)] for name, label, *paths in rows]
    except OSError as problem:
        reason = f"{problem.filename} cannot be read ({problem.strerror})"
        raise DataError(f"{reason}: put it back, or read the folder again") from problem
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


def _bytes(path: str) -> int:
    """Of a file, of the masks in a folder, 0 of none."""
    if os.path.isdir(path):
        return sum(file.stat().st_size for file in os.scandir(path))
    return os.path.getsize(path) if path else 0


def overview(reports: Sequence[Report]) -> pd.DataFrame:
    """A row for each report: category, row, seeds, main metrics with their intervals, `promise`, and what they cost."""
    lines = []
    for report in reports:
        line = {key: report[key] for key in ("category", "row", "method", "data_source")}
        line["seeds"] = " ".join(map(str, report["seeds"]))
        for name in METRICS:
            metric = report["metrics"].get(name, {})
            line |= {f"{name}{end}": metric.get(end[1:] or "mean") for end in ("", "_low", "_high")}
        line["false_alarms"] = promise(report)
        line |= {f"{key}_seconds": seconds for key, seconds in report["seconds"].items()}
        lines.append(line | {key: report.get(key) for key in ("peak_memory_gb", "model_bytes")})
    return pd.DataFrame(lines)


def run_cells(
    cells: Sequence[Cell], folder: Path, *, jobs: int = 1, scheduler: str | None = None
) -> Iterator[tuple[Cell, Report | None, str]]:
    """Measure cells; each is on the disk before it is yielded, and one that fails does not cost the others.

    Args:
        cells, folder: to measure, and for their zips.
        jobs: processes at once, each with one thread; 1 stays in this process.
        scheduler: address of a Dask scheduler, for example `tcp://host:8786`, whose workers are used instead. They
            need this package, one thread each, and the images under the same paths; they need not share the folder.

    Yields:
        Cell, its report (None where it failed) and the problem ("" where it did not), in the order in which they end.

    Raises:
        SettingsError: there is no such scheduler, no worker, or a worker was killed.
    """
    from joblib import Parallel, delayed

    if jobs < 1:
        raise SettingsError(f"{jobs} jobs measure nothing: use 1 or more")
    if not cells:
        return
    with _cluster(scheduler) if scheduler is not None else _processes(cells, jobs) as options:
        measure = Parallel(**options, return_as="generator_unordered", batch_size=1)
        for number, files, problem in measure(delayed(_measure)(number, cell) for number, cell in enumerate(cells)):
            cell, report = cells[number], None
            if files is not None:
                report = files["reports.json"][0]
                known = {"profile": "custom", "data_source": cell.data_source, "categories": [cell.category]}
                known |= {"options": cell.identity, "seed": cell.seeds, "path": cell.path(folder)}
                auroc = {"image_auroc": report["metrics"]["image_auroc"]["mean"]}
                artifacts.save(cell.row.method, files, metrics=auroc, **known)
            yield cell, report, problem


def _measure(number: int, cell: Cell) -> tuple[int, dict[str, Any] | None, str]:
    """Measure a cell, in whatever process or machine this is: number, files (None where it failed), problem."""
    known = {"data_source": cell.data_source, "false_alarm_rate": cell.false_alarm_rate, "row": cell.row.name}
    try:
        with one_thread():
            if cell.row.method in LABELLED:
                from mvtec_ad.benchmark import supervised

                result = supervised.run(cell.row.method, cell.table, cell.row.detector, cell.seeds, **known)
            else:
                result = run(cell.row.detector, cell.table, cell.seeds, progress=False, **known)
            return number, result_files([result]), ""
    except MvtecAdError as problem:
        return number, None, str(problem)
    except Exception as problem:  # out of memory, a fault of ours: the other cells go on
        return number, None, f"{type(problem).__name__}: {problem}".splitlines()[0]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, BLAS and a TensorFlow that is not imported yet: sums depend on how many share them."""
    import torch
    from threadpoolctl import threadpool_limits

    threads, name = torch.get_num_threads(), "TF_NUM_INTRAOP_THREADS"
    before = {name: os.environ[name]} if name in os.environ else {}
    os.environ[name] = "1"
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
        del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _processes(cells: Sequence[Cell], jobs: int) -> Iterator[dict[str, Any]]:
    """Options of `joblib.Parallel` for processes of this machine, which are gone afterwards."""
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    if jobs == 1:
        yield {"n_jobs": 1}
        return
    networks = {(getattr(c.row.detector, "backbone", ""), getattr(c.row.detector, "weights", "")) for c in cells}
    for name, weights in sorted(networks):
        if name.startswith("keras:") and weights == "imagenet":  # before several processes write into the same file
            from mvtec_ad.backbones import load_backbone

            with one_thread(), contextlib.suppress(MvtecAdError):  # what fails here fails again in its cell
                load_backbone(name, weights)
    try:
        yield {"n_jobs": min(jobs, len(cells)), "backend": "loky", "idle_worker_timeout": IDLE}
    except TerminatedWorkerError as problem:
        way = "start again with fewer --jobs; what is done is kept"
        raise SettingsError(f"a worker was killed, most likely for want of memory: {way}") from problem
    finally:
        executor = get_reusable_executor(reuse=True)
        executor.shutdown(wait=True)  # not killed: they have semaphores of tqdm to clear away
        finalizers = getattr(getattr(executor, "_temp_folder_manager", None), "_finalizers", {})
        while finalizers:  # what joblib leaves to exit handlers: the command line ends without these
            _, remove_folder = finalizers.popitem()
            atexit.unregister(remove_folder)
            remove_folder()


@contextlib.contextmanager
def _cluster(scheduler: str) -> Iterator[dict[str, Any]]:
    """Options of `joblib.Parallel` for a Dask cluster."""
    from joblib import parallel_config

    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError as problem:
        way = 'python -m pip install "dask[distributed]"'
        raise SettingsError(f"--scheduler needs Dask, which is not installed: {way}") from problem
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as problem:
        way = "start one with `dask scheduler` and give its tcp://HOST:PORT"
        raise SettingsError(f"no Dask scheduler answers at {scheduler}: {way}") from problem
    with client:
        if any(threads > 1 for threads in client.nthreads().values()):
            way = f"start them with `dask worker {scheduler} --nthreads 1 --nworkers N`"
            raise SettingsError(f"workers of {scheduler} have several threads, whose seeds would mix: {way}")
        if len(client.nthreads()) == 1:
            raise SettingsError(
                f"{scheduler} has one worker, and joblib would measure here instead: start a second one"
            )
        try:
            with parallel_config("dask", wait_for_workers_timeout=30):
                yield {"n_jobs": -1}
        except (KilledWorker, TimeoutError) as problem:
            reason = str(problem).splitlines()[0] or type(problem).__name__
            way = "look after its workers and start again; finished cells are kept"
            raise SettingsError(f"the cluster at {scheduler} cannot go on ({reason}): {way}") from problem
