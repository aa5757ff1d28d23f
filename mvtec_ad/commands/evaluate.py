"""`evaluate`: measure a method on a category."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mvtec_ad.commands.options import add_data_options, add_method_parsers, method_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    for own in add_method_parsers(parser):
        own.add_argument("--category", required=True, help="category folder")
        add_data_options(own)
        own.add_argument("--false-alarm-rate", type=float, default=0.05, help="promised by the calibrated threshold")
        own.add_argument("--json", help="also write the report to this file")


def run(arguments: argparse.Namespace) -> None:
    """Fit, score, measure, print, and keep the report for `results`."""
    from mvtec_ad.data import acquire, index
    from mvtec_ad.errors import DataError
    from mvtec_ad.methods import experiment
    from mvtec_ad.results import record
    from mvtec_ad.settings import DataSettings

    if arguments.json and not Path(arguments.json).parent.is_dir():
        raise DataError(f"{arguments.json} cannot be written: its folder does not exist")
    settings = method_settings(arguments)
    root = acquire.locate(arguments.category, root=arguments.root, source=arguments.source, settings=DataSettings())
    table = index.read_category(root, arguments.category)
    source = index.data_source(root, arguments.category, table)
    found = experiment.run(
        arguments.method, table, settings, data_source=source, false_alarm_rate=arguments.false_alarm_rate
    )
    print(describe(found.report))
    record(found.report)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found.report, indent=1) + "\n", encoding="utf-8")


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
