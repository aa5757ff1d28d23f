"""`sweep`: measure methods × categories × seeds; what is done is kept, and a sweep that was stopped goes on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.commands.options import add_data_options

if TYPE_CHECKING:
    import pandas as pd

    from mvtec_ad.comparison import Scored
    from mvtec_ad.sweep import Cell

STRONGEST = "pixel_z_score"  # of the trivial rows: on parts that lie still it keeps up with most methods

KEPT = ("second", "bands", "verdicts", "date", "git_commit", "device", "versions")  # of a row's own report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "rows",
        nargs="+",
        metavar="ROW",
        help="METHOD[:PRESET][,FIELD=VALUE …][,name=NAME], for example padim:keras or autoencoder,loss=ssim,steps=300",
    )
    parser.add_argument("--category", nargs="+", required=True, help="category folders")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="each is a cell of its own")
    add_data_options(parser)
    parser.add_argument("--jobs", type=int, default=2, help="cells measured at once, each by one thread")
    parser.add_argument(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="measure on this Dask cluster instead: its workers need this package, `--nthreads 1`, and the images and "
        "weights files under the same paths",
    )
    parser.add_argument("--name", default="default", help="of the sweep: its cells lie in transfer/sweeps/NAME")
    parser.add_argument("--false-alarm-rate", type=float, default=0.05, help="promised by the calibrated threshold")


def run(arguments: argparse.Namespace) -> None:
    """Plan, measure what is missing, gather, print, and keep the reports for `results`.

    Raises:
        MvtecAdError: some cells could not be measured; all others are kept.
    """
    from mvtec_ad import evaluation, sweep
    from mvtec_ad.errors import MvtecAdError
    from mvtec_ad.sweep.rows import check_file_name

    rows = sweep.parse_rows(arguments.rows)
    check_file_name("--name", arguments.name)
    evaluation.images_needed(arguments.false_alarm_rate)  # refuses what is no rate; images are counted in each cell
    tables = _tables(arguments)
    folder = sweep.sweep_folder(arguments.name)
    cells = sweep.plan(rows, tables, arguments.seeds, arguments.false_alarm_rate)
    failed = _measure(cells, folder, arguments)
    done = [cell.key for cell in cells if cell.key not in failed]
    if done:
        reports = sweep.gather(folder, done)
        _report(reports, folder)
        rows = sweep.scored(folder, reports)
        _compare(rows, tables)
        _pairs(rows, tables, folder)
    if failed:
        (category, row, seed), reason = next(iter(failed.items()))
        raise MvtecAdError(
            f"{len(failed)} of {len(cells)} cells could not be measured, first {category} {row} seed {seed}: {reason}"
        )


def _tables(arguments: argparse.Namespace) -> dict[str, tuple[pd.DataFrame, str]]:
    """Category -> table and data source; images are fetched or drawn here, so that cells only read."""
    from mvtec_ad.data import acquire, index
    from mvtec_ad.errors import DataError

    tables = {}
    for category in dict.fromkeys(arguments.category):
        if category in ("", ".", "..") or Path(category).name != category:
            raise DataError(f"category {category!r} is no folder's name: give the folders above it with --root")
        where = {"root": arguments.root, "source": arguments.source}
        root = acquire.locate(category, **where, together=arguments.category)
        root = Path(os.path.abspath(root))  # workers may stand in another folder
        table = index.read_category(root, category)
        tables[category] = table, index.data_source(root, category, table)
    return tables


def _measure(cells: list[Cell], folder: Path, arguments: argparse.Namespace) -> dict[tuple[str, str, int], str]:
    """Measure what is missing, a line for each cell as it ends; returns the cells that failed, and why."""
    from tqdm import tqdm

    from mvtec_ad import sweep
    from mvtec_ad.sweep.engine import fetch_weights

    states = {cell.key: sweep.state(cell, folder) for cell in cells}
    missing = [cell for cell in cells if states[cell.key] is not None]
    for cell in missing:
        if states[cell.key]:
            print(f"{_title(cell.key)} is measured again: {states[cell.key]}")
    if len(missing) < len(cells):
        print(f"{len(cells) - len(missing)} of {len(cells)} cells are finished already")
    if arguments.jobs > 1 and arguments.scheduler is None:
        fetch_weights(missing)
    failed = {}
    ended = sweep.run_cells(missing, folder, jobs=arguments.jobs, scheduler=arguments.scheduler)
    with tqdm(total=len(missing), desc="sweep", unit="cell", disable=not missing) as bar:
        for cell, report, problem in ended:
            if report is None:
                failed[cell.key] = problem
            tqdm.write(f"{_title(cell.key)}: {_outcome(report) if report else f'failed: {problem}'}")
            bar.update()
    return failed


def _report(reports: list[dict[str, Any]], folder: Path) -> None:
    """Print the table, write summary.csv, and keep every report."""
    from mvtec_ad import evaluation, sweep, transfer
    from mvtec_ad.results import record

    columns = ["category", "row", "seeds", "image AUROC", "pixel AUROC", "AUPRO", "seconds"]
    lines = []
    for report in reports:
        metrics = [report["metrics"].get(name) for name in sweep.METRICS]
        shown = [evaluation.format_metric(metric) if metric else "–" for metric in metrics]
        seconds = f"{sum(report['seconds'].values()):.1f}"
        lines.append([report["category"], report["row"], len(report["seeds"]), *shown, seconds])
    print(evaluation.markdown_table(columns, lines))
    with transfer.replacing(folder / "summary.csv") as file:
        file.write(sweep.overview(reports).to_csv(index=False).encode())
    print(f"{folder / 'summary.csv'}: {len(reports)} rows; cells beside it")
    for report in reports:
        if report.get("protocol", "official") == "official":  # the others are kept by `_compare`
            record(report)


def _compare(rows: list[Scored], tables: dict[str, tuple[pd.DataFrame, str]]) -> None:
    """All rows of a category on the images that every method may be asked about: print the table, keep the reports."""
    from mvtec_ad import comparison
    from mvtec_ad.errors import DataError
    from mvtec_ad.results import record
    from mvtec_ad.results import tables as results_tables

    for category, (table, source) in tables.items():
        own = [row for row in rows if row.category == category]
        try:
            images = comparison.common_part(table)
        except DataError as problem:
            print(f"no part of {category} can be kept for all methods: {problem}")
            continue
        own += comparison.trivial(table, data_source=source, profile="custom") if own else []
        reports = []
        for row in (comparison.only(row, images) for row in own):
            reports.append(comparison.report(row, comparison.measure(row, comparison.masks_for(row, table))))
            reports[-1] |= {key: row.report[key] for key in KEPT if key in row.report}
            if "cost" in row.report:
                reports[-1]["mistakes"] = row.report["cost"]
            record(reports[-1])
        if reports:
            print(f"\n{results_tables(reports)}")


def _pairs(rows: list[Scored], tables: dict[str, tuple[pd.DataFrame, str]], folder: Path) -> None:
    """Who really wins: all pairs of one-class rows and the strongest trivial one, on the official test images."""
    from mvtec_ad import comparison, transfer

    for category, (table, source) in tables.items():
        own = [row for row in rows if row.category == category and row.protocol == "official"]
        if len(own) < 2:
            continue
        own += [row for row in comparison.trivial(table, data_source=source, profile="custom") if row.row == STRONGEST]
        found = comparison.paired(own, resamples=max(4000, 25 * len(own) ** 2))
        with transfer.replacing(folder / f"pairs-{category}.csv") as file:
            file.write(found.to_csv(index=False).encode())
        print(f"\n{category}: {len(found)} paired differences of image AUROC; how often a row is ahead and behind")
        print(comparison.wins(found).to_string())


def _title(key: tuple[str, str, int]) -> str:
    return "{} {} seed {}".format(*key)


def _outcome(report: dict[str, Any]) -> str:
    from mvtec_ad.evaluation import format_metric

    return f"image AUROC {format_metric(report['metrics']['image_auroc'])}, {sum(report['seconds'].values()):.1f} s"
