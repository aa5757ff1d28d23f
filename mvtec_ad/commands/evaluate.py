"""`evaluate`: measure a method on a category: detection, or the naming of defect types."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.commands.options import add_data_options, add_method_parsers, method_settings
from mvtec_ad.settings import PRESETS, TYPING_PRESETS

if TYPE_CHECKING:
    import pandas as pd


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    for method, own in add_method_parsers(parser, PRESETS | TYPING_PRESETS).items():
        own.add_argument("--category", required=True, help="category folder")
        add_data_options(own)
        if method in PRESETS:
            own.add_argument(
                "--false-alarm-rate", type=float, default=0.05, help="promised by the calibrated threshold"
            )
        own.add_argument("--json", help="also write the report to this file")


def run(arguments: argparse.Namespace) -> None:
    """Fit, score, measure, print, and keep the report for `results`."""
    from mvtec_ad.data import acquire, index
    from mvtec_ad.errors import DataError
    from mvtec_ad.settings import DataSettings

    if arguments.json and not Path(arguments.json).parent.is_dir():
        raise DataError(f"{arguments.json} cannot be written: its folder does not exist")
    settings = method_settings(arguments)
    root = acquire.locate(arguments.category, root=arguments.root, source=arguments.source, settings=DataSettings())
    table = index.read_category(root, arguments.category)
    source = index.data_source(root, arguments.category, table)
    if arguments.method in PRESETS:
        report = _detection(arguments.method, table, settings, source, arguments.false_alarm_rate)
    else:
        report = _typing(table, settings, source)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _detection(method: str, table: pd.DataFrame, settings: Any, source: str, rate: float) -> dict[str, Any]:
    from mvtec_ad.methods import experiment
    from mvtec_ad.results import record

    report = experiment.run(method, table, settings, data_source=source, false_alarm_rate=rate).report
    print(describe(report))
    record(report)
    return report


def _typing(table: pd.DataFrame, settings: Any, source: str) -> dict[str, Any]:
    """Anomaly maps where they are looked at, folds, types left out; a killed run goes on from its last training."""
    from mvtec_ad.commands.typing_lines import lines
    from mvtec_ad.methods.contrastive import material, report

    maps = material.anomaly_maps(table, settings) if settings.look == "predicted" else None
    kept: list[Path] = []
    gathered = material.gather(table, settings, maps)
    found = report.measure(settings, gathered, [settings.objective], data_source=source, kept=kept)
    print("\n".join(lines(found)))
    for checkpoint in kept:
        checkpoint.unlink(missing_ok=True)
    return found


def describe(report: dict[str, Any]) -> str:
    """A report as lines to read."""
    from mvtec_ad.evaluation import format_metric, format_number

    seeds = len(report["seeds"])
    network = f"{report['backbone']}, {report['weights']}, " if report["backbone"] else ""
    lines = [
        f"{report['method']} on {report['category']} ({report['data_source']}): {network}"
        f"{seeds} seed{'s' if seeds > 1 else ''}",
        f"{report['images']['train']} good images to fit on; tested on {report['images']['good']} good, "
        f"{report['images']['defective']} defective",
        "",
    ]
    lines += [f"  {name:<13} {format_metric(metric)}" for name, metric in report["metrics"].items()]
    lines += ["", "  image AUROC of the trivial rows"]
    lines += [f"    {name:<24} {format_number(value)}" for name, value in report["trivial"].items()]
    lines += [
        "",
        f"  thresholds (calibrated on good training images for {report['false_alarm_rate']:.0%} false alarms)",
    ]
    for name, point in report["thresholds"].items():
        note = "  (chosen on the test labels)" if name == "oracle" else ""
        lines.append(
            f"    {name:<11} {point['value']:.4g}: accuracy {point['accuracy']:.1%}, "
            f"false alarms {point['false_alarm_rate']:.1%}, detected {point['detection_rate']:.1%}{note}"
        )
    lines += [
        "",
        f"  fit {report['seconds']['fit']:.1f} s, score {report['seconds']['score']:.1f} s, "
        f"peak memory {report['peak_memory_gb']:.2f} GB",
    ]
    return "\n".join(lines)
