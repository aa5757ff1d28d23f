"""`evaluate`: measure methods on categories."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.commands.flags import (
    add_data_options,
    add_option_flags,
    check_output,
    crop_chosen,
    given_options,
    positive,
    read_table,
)
from mvtec_ad.config import Options, transfer_folder
from mvtec_ad.errors import DataError, MvtecAdError, SettingsError
from mvtec_ad.methods import METHODS, WITH_LABELS, detector_class

if TYPE_CHECKING:
    import pandas as pd

    from mvtec_ad.benchmark import Result
    from mvtec_ad.benchmark.cells import Row

DEFECT_TYPES = "defect_types"  # a row of `evaluate` that names them


def add_evaluate(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `evaluate`, and the options of the method where a single one is named without any."""
    parser.add_argument(
        "rows",
        nargs="+",
        metavar="METHOD",
        help=f"one of {', '.join(METHODS)}, classifier, inspector, segmentation or {DEFECT_TYPES}; several as "
        "METHOD[:PRESET][,FIELD=VALUE …][,name=NAME], for example padim:keras or autoencoder,loss=ssim,steps=300",
    )
    parser.add_argument("--category", nargs="+", required=True, help="category folders")
    add_data_options(parser)
    text = "of whatever a method draws; 0 1 2 (defect_types: 0) when none"
    parser.add_argument("--seeds", nargs="+", type=int, help=text)
    parser.add_argument("--false-alarm-rate", type=float, default=0.05, help="promised by the calibrated threshold")
    parser.add_argument("--json", help="also write the report, or the list of reports, to this file")
    many = parser.add_argument_group("several methods or categories")
    many.add_argument("--jobs", type=positive, default=2, help="measured at once, each by one thread")
    many.add_argument(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="measure on this Dask cluster instead: its workers need this package, `--nthreads 1`, and the images and "
        "weights files under the same paths",
    )
    many.add_argument("--name", help="keep what is finished in transfer/sweeps/NAME, and go on there; default: default")
    named = list(itertools.takewhile(lambda word: not word.startswith("-"), words or ()))
    if len(named) == 1 and named[0] in (DEFECT_TYPES, *METHODS, *WITH_LABELS):
        add_option_flags(parser.add_argument_group(f"options of {named[0]}"), _options_of(named[0]))


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Fit, score, measure, print, and keep the reports for `results`, those of the other rows where one fails."""
    from mvtec_ad.artifacts import write_file

    check_output("--json", arguments.json, ".json")
    check_output("the folder of records", transfer_folder())  # refused now, not after minutes of work
    evaluate = _evaluate_defect_types if DEFECT_TYPES in arguments.rows else _evaluate_rows
    measured, problem = evaluate(arguments)
    if arguments.json and measured:
        write_file(arguments.json, json.dumps(measured, indent=1) + "\n")
    if problem:
        raise MvtecAdError(problem)


def _options_of(row: str) -> type[Options]:
    """The class whose options a row of `evaluate` has."""
    if row != DEFECT_TYPES:
        return detector_class(row)
    from mvtec_ad.methods.defect_types import DefectTypes

    return DefectTypes


def _evaluate_defect_types(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Anomaly maps where they are looked at, folds, types left out; a killed run goes on from its last training."""
    from mvtec_ad import benchmark
    from mvtec_ad.benchmark import defect_types
    from mvtec_ad.data.copies import image_notes, picture_hashes
    from mvtec_ad.pages import defect_types_lines
    from mvtec_ad.training import remove_checkpoints

    if len(arguments.rows) > 1 or len(arguments.category) > 1 or arguments.name or arguments.scheduler:
        problem = "is measured alone: one category, no other method, no --name and no --scheduler"
        raise SettingsError(f"{DEFECT_TYPES} {problem}")
    kind = _options_of(DEFECT_TYPES)
    detector, seed = kind(**given_options(arguments, kind)), benchmark.check_seeds(arguments.seeds or [0])[0]
    table, source = read_table(arguments, arguments.category[0])
    maps = defect_types.anomaly_maps(table, detector, seed=seed) if detector.look == "predicted" else None
    checkpoints: list[Path] = []
    defects = detector.gather(table, maps, seed=seed, progress=True)
    measured = defect_types.measure(detector, defects, [detector.objective], seed, checkpoints, data_source=source)
    notes = [f"note: {note}" for note in image_notes(table, picture_hashes(list(table["image_path"])))]
    print("\n".join([*notes, *defect_types_lines(measured)]))
    remove_checkpoints(checkpoints)
    return measured, ""


def _evaluate_rows(arguments: argparse.Namespace) -> tuple[dict[str, Any] | list[dict[str, Any]], str]:
    """The report of one row on one category, or those of several, which are kept as cells; and what failed of these."""
    from mvtec_ad import benchmark, metrics
    from mvtec_ad.benchmark import cells, published
    from mvtec_ad.data.catalog import category_name
    from mvtec_ad.pages import report_lines

    seeds = benchmark.check_seeds(arguments.seeds or [0, 1, 2])
    metrics.images_needed(arguments.false_alarm_rate)  # refuses what is no rate; images are counted later
    rows = cells.parse_rows(arguments.rows)
    if hasattr(arguments, "preset"):
        kind = detector_class(rows[0].method)
        options = given_options(arguments, kind)
        rows = [replace(rows[0], detector=kind(**options), crop_chosen=crop_chosen(arguments))]
    if arguments.name is not None:
        cells.check_file_name("--name", arguments.name)
    names = [category_name(name) for name in arguments.category]
    tables = {name: read_table(arguments, name, together=names) for name in dict.fromkeys(names)}
    alone = len(rows) == len(tables) == 1
    if not alone or rows[0].method not in METHODS or arguments.name is not None or arguments.scheduler:
        reports, problem = _measure_cells(rows, tables, seeds, arguments)
        return reports[0] if alone and reports else reports, problem
    ((table, source),) = tables.values()
    known = {"data_source": source, "false_alarm_rate": arguments.false_alarm_rate, "row": rows[0].name}
    result = benchmark.run(rows[0].on(source), table, seeds, **known)
    print("\n".join(report_lines(result.report)))
    published.record(result.report)
    return result.report, ""


def _measure_cells(
    rows: Sequence[Row],
    tables: dict[str, tuple[pd.DataFrame, str]],
    seeds: Sequence[int],
    arguments: argparse.Namespace,
) -> tuple[list[dict[str, Any]], str]:
    """Measure what is missing, a line for each cell as it ends; gather, print, compare: the reports of all cells that
    could be measured, and a line about the others, "" for none."""
    from tqdm import tqdm

    from mvtec_ad.benchmark import Result, cells
    from mvtec_ad.metrics import format_metric

    folder = transfer_folder() / "sweeps" / (arguments.name or "default")
    planned, missing = cells.plan(rows, tables, seeds, arguments.false_alarm_rate), []
    for cell in planned:
        if (reason := cell.missing(folder)) is not None:
            missing.append(cell)
        if reason:
            print(f"{cell.title} is measured again: {reason}")
    if len(missing) < len(planned):
        print(f"{len(planned) - len(missing)} of {len(planned)} cells are finished already")
    failed: dict[str, str] = {}
    ended = cells.run_cells(missing, folder, jobs=arguments.jobs, scheduler=arguments.scheduler)
    with tqdm(total=len(missing), desc="evaluate", unit="cell", disable=not missing) as bar:
        for cell, report, problem in ended:
            if report is None:
                failed[cell.title] = problem
                tqdm.write(f"{cell.title}: failed: {problem}")
            else:
                auroc, seconds = format_metric(report["metrics"]["image_auroc"]), sum(report["seconds"].values())
                tqdm.write(f"{cell.title}: image AUROC {auroc}, {seconds:.1f} s")
            bar.update()
    results = [Result.load(cell.path(folder)) for cell in planned if cell.title not in failed]
    if results:
        _print_cells(results, tables, folder)
    first = next((f"{title}: {reason}" for title, reason in failed.items()), "")
    problem = f"{len(failed)} of {len(planned)} cells could not be measured, first {first}" if failed else ""
    return [result.report for result in results], problem


def _print_cells(results: Sequence[Result], tables: dict[str, tuple[pd.DataFrame, str]], folder: Path) -> None:
    """The table, summary.csv, every report kept, rows on common images, and who really wins."""
    from mvtec_ad import metrics
    from mvtec_ad.artifacts import write_file
    from mvtec_ad.benchmark import cells, compare, published
    from mvtec_ad.benchmark.result import PROMISE, promise

    reports, lines = [result.report for result in results], []
    for report in reports:
        seconds = f"{sum(report['seconds'].values()):.1f}"
        measured = [*published.shown(report), promise(report)]
        lines.append([report["category"], report["row"], len(report["seeds"]), *measured, seconds])
        if report["protocol"] == "official":  # the others are kept on the common images below
            published.record(report)
    for note in dict.fromkeys(note for report in reports for note in report.get("notes", [])):
        print(f"note: {note}")
    columns = ["category", "row", "seeds", *published.HEADS.values(), PROMISE, "seconds"]
    print(metrics.markdown_table(columns, lines))
    for report in (report for report in reports if "dice" in report["metrics"]):
        dice, iou = (metrics.format_metric(report["metrics"][name]) for name in ("dice", "iou"))
        print(f"{report['category']} {report['row']}: Dice {dice}, IoU {iou} at the level that held-out defects chose")
    write_file(folder / "summary.csv", cells.overview(reports).to_csv(index=False))
    print(f"{folder / 'summary.csv'}: {len(results)} rows; cells beside it")
    for category, (table, source) in tables.items():
        rows = [result for result in results if result.category == category]
        if not rows:
            continue
        baselines = compare.trivial(table, data_source=source)
        try:
            images = compare.common_part(table)
        except DataError as problem:
            print(f"no part of {category} can be kept for all methods: {problem}")
        else:
            common = [row.only(images) for row in rows + baselines]
            reports = [compare.report(row, compare.measure(row)) for row in common]
            for report in reports:
                published.record(report)
            print(f"\n{published.tables(reports)}")
        official = [result for result in rows if result.protocol == "official"]
        if len(official) > 1:
            official += [row for row in baselines if row.row == compare.STRONGEST]
            pairs = compare.paired(official, resamples=max(4000, 25 * len(official) ** 2))
            write_file(folder / f"pairs-{category}.csv", pairs.to_csv(index=False))
            print(f"\n{category}: {len(pairs)} paired differences of image AUROC; how often a row is ahead and behind")
            print(compare.wins(pairs).to_string())
