"""Measured figures beside published ones.

Measured: `assets/results.json`, published with the suite; `transfer/results/`, what this machine measured; and the
reports of the artifacts in `transfer/`, which are gathered and shown but never published.
Published: `published.json` beside this file, each figure with its source.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from mvtec_ad import artifacts
from mvtec_ad.artifacts import PRODUCED_BY, write_file
from mvtec_ad.benchmark.compare import TEST_PART
from mvtec_ad.benchmark.result import METRICS, Report, origin
from mvtec_ad.config import home, transfer_folder
from mvtec_ad.errors import DataError
from mvtec_ad.methods import METHODS, detector_class
from mvtec_ad.metrics import format_metric, format_number, markdown_table
from mvtec_ad.settings import ClassifierSettings

NEEDED = {"method", "category", "data_source", "seeds", "settings", "metrics"}
SHARED = ("image_auroc", "image_ap", "f1_max", "false_alarms", "pixel_auroc", "au_pro")  # of methods on the same images
TITLED = ("backbone", "architecture", "weights", "image_size", "crop", "seeds")  # options with a place of their own


def published() -> list[dict[str, Any]]:
    """Published figures: method, backbone, category, metric, value, detail, source and, where the source states it,
    image_size, crop and channels.

    Examples:
        >>> sorted(published()[0])[:3]
        ['backbone', 'category', 'channels']
    """
    return json.loads(resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8"))["rows"]


def published_for(report: Report, metric: str = "image_auroc") -> list[dict[str, Any]]:
    """Published rows of the same method, backbone, category and metric, on the official test images.

    Whether they can be compared with a report is for `verdict` to say.
    """
    if report.get("part") == TEST_PART or report.get("protocol", "official") != "official":
        return []
    keys = ("method", "backbone", "category")
    return [row for row in published() if row["metric"] == metric and all(row[key] == report.get(key) for key in keys)]


def verdict(report: Report, row: dict[str, Any]) -> str:
    """What a measurement says about a published figure.

    `reproduced` when the published value lies in the 95 % interval of ours, `above` or `below` when ours is higher or
    lower than that; otherwise why the two cannot be compared: backbone, channels, crop and size must match those that
    the source states.
    """
    protocol = ("image_size", "crop", "channels")
    if report["data_source"] != "mvtec_ad" or report.get("part") == TEST_PART:
        return "not comparable: other images"
    if any(word in (report["weights"] or "") for word in ("random", "drawn")):
        return "not comparable: other weights"
    same = all(key in row and row[key] == report["settings"].get(key) for key in protocol)
    if row["backbone"] != report["backbone"] or not same:
        return "not comparable: other protocol" if "crop" in row else "not comparable: protocol not stated"
    metric = report["metrics"][row["metric"]]
    if metric["low"] <= row["value"] <= metric["high"]:
        return "reproduced"
    return "above" if metric["mean"] > row["value"] else "below"


# --- what has been measured -------------------------------------------------------------------------------------------


def record(report: Report) -> Path:
    """Keep a report under `transfer/results/`; a newer one of the same method, images and options replaces it.

    Date, commit, versions and device are added where the report does not know them (those read from a file do), and the
    profile `custom`. A weights file is named from where we stand: a report is no place for a machine's folders.
    """
    settings = report["settings"]
    if os.path.isabs(settings.get("weights") or ""):
        settings = {**settings, "weights": os.path.relpath(settings["weights"])}
    stamped = {
        "profile": "custom",
        "device": artifacts.device(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "git_commit": artifacts.git_commit(),
        "versions": artifacts.versions(),
        **report,
        "settings": settings,
    }
    path = transfer_folder() / "results" / f"{_name(stamped)}.json"
    write_file(path, json.dumps(stamped, indent=1) + "\n")
    return path


def measured() -> list[Report]:
    """All that is known, once each: this machine's records win over what is published with the suite, and both win over
    the artifacts in `transfer/`, whose reports have `artifact`, the name of the zip.

    Raises:
        DataError: a file of results cannot be read, or is none.
        ArtifactError: an artifact is damaged.
    """
    files = [home() / "assets" / "results.json", *sorted((transfer_folder() / "results").glob("*.json"))]
    read = [report for path in files if path.is_file() for report in _read(path)]
    reports = {_name(report): report for report in [*from_artifacts(), *read]}
    return [reports[name] for name in sorted(reports)]


def from_artifacts() -> list[Report]:
    """Reports of the artifacts in `transfer/`, with what their manifests know: profile, device, commit, date, versions.

    Each has `artifact`, the name of the zip. Only reports of detection methods are taken: others have other shapes.

    Raises:
        ArtifactError: an artifact is damaged.
    """
    reports = []
    for stage in PRODUCED_BY:
        if (transfer_folder() / f"{stage}.zip").is_file():
            artifact = artifacts.load(stage)
            known = {**origin(artifact), "artifact": artifact.path.name}
            content = artifact.json("reports.json") if "reports.json" in artifact.names else []
            reports += [{**known, **report} for report in content if _is_report(report)]
    return reports


def publish(reports: Sequence[Report]) -> None:
    """Write reports to `assets/results.json` and their table into `README.md`, each whole or not at all.

    Those of artifacts are left out: a notebook shows them, and its quick profile is no measurement to publish.

    Raises:
        DataError: there is nothing to publish, or the README has no place for it.
        ArtifactError: a file cannot be written.
    """
    reports = [report for report in reports if "artifact" not in report]
    if not reports:
        raise DataError("nothing has been measured: run `evaluate` first")
    write_between(home() / "README.md", "results", tables(reports))
    write_file(home() / "assets" / "results.json", json.dumps(reports, indent=1) + "\n")


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the lines `<!-- name: start -->` and `<!-- name: end -->` of a Markdown file.

    Raises:
        DataError: the file has no such lines.
        ArtifactError: it cannot be written; the old one is kept.
    """
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, marked, rest = old.partition(start)
    if not marked or end not in rest:
        raise DataError(f"{path} has no lines {start} and {end}: add them where the table belongs")
    write_file(path, f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}")


def _read(path: Path) -> list[Report]:
    """The report, or the list of reports, of a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} cannot be read ({problem}): remove it") from problem
    reports = content if isinstance(content, list) else [content]
    if not all(_is_report(report) for report in reports):
        raise DataError(f"{path} holds no report of a measurement: remove it, or move it elsewhere")
    return reports


def _is_report(report: Any) -> bool:
    """Whether it has the shape of a report of a detection method."""
    if not isinstance(report, dict) or not set(report) >= NEEDED:
        return False
    settings, metrics = report["settings"], report["metrics"]
    if not (isinstance(settings, dict) and "image_size" in settings and isinstance(metrics, dict)):
        return False
    shown = [metrics.get("image_auroc"), *(metrics[name] for name in SHARED if name in metrics)]
    return all(isinstance(metric, dict) and {"mean", "low", "high"} <= set(metric) for metric in shown)


def _name(report: Report) -> str:
    """A file name that only the same method, images, network and options share."""
    keys = ("weights", "settings", "seeds", *(["second"] if "second" in report else []))
    identity = json.dumps([report.get(key) for key in keys], sort_keys=True)
    backbone = (report.get("backbone") or "none").replace(":", "-")
    parts = [report["data_source"], report["category"], report.get("row", report["method"]), backbone]
    parts += [hashlib.sha256(identity.encode()).hexdigest()[:8], *([report["part"]] if "part" in report else [])]
    return "-".join(parts).replace(" ", "-")


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(reports: Sequence[Report]) -> str:
    """Markdown: real images with the published figures, other images without, and methods on the very same images.

    Real and other images never share a table.
    """
    groups: dict[tuple[bool, bool], list[Report]] = {}
    for report in reports:
        real = report["data_source"] == "mvtec_ad"
        groups.setdefault((report.get("part") == TEST_PART, not real), []).append(report)
    parts = []
    for (together, other), group in sorted(groups.items(), key=lambda item: item[0]):
        parts.append((_same_images_table if together else _official_table)(group, not other))
    return "\n\n".join(parts) or "Nothing has been measured yet: run `mvtec-ad evaluate padim --category bottle`."


def _official_table(reports: Sequence[Report], real: bool) -> str:
    if not real:
        rows = [[f"{_title(report)} ({report['data_source']})", *_shown(report)] for report in reports]
        return markdown_table(["Other images", "image AUROC", "pixel AUROC", "AUPRO"], rows)
    columns = ["image AUROC, ours", "pixel AUROC, ours", "AUPRO, ours", "published image / pixel AUROC", "verdict"]
    return markdown_table(["Real MVTec AD", *columns], [row for report in reports for row in _real_rows(report)])


def _same_images_table(reports: Sequence[Report], real: bool) -> str:
    words = ("image AUROC", "AP", "F1-max", "false alarms at 95 % detection", "pixel AUROC", "AUPRO")
    rows = []
    for report in reports:
        title = _title(report) if real else f"{_title(report)} ({report['data_source']})"
        costs = [report.get("cost", {}).get(key) for key in ("fit_seconds", "milliseconds")]
        costs = ["–" if cost is None else f"{cost:.2g}" if cost < 10 else f"{cost:.0f}" for cost in costs]
        rows.append([title, *_shown(report, SHARED), *costs])
    head = "Real MVTec AD, the same test images for all" if real else "Other images, the same for all"
    return markdown_table([head, *words, "fit s", "ms / image"], rows)


def _real_rows(report: Report) -> list[list[str]]:
    """A line for each source with a figure of this row, its image and pixel AUROC; the first one has ours."""
    sources: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in [*published_for(report), *published_for(report, "pixel_auroc")]:
        sources.setdefault((row["source"], row["detail"]), {})[row["metric"]] = row
    lines = []
    for (source, detail), figures in sources.items():
        values = [format_number(figures["image_auroc"]["value"]) if "image_auroc" in figures else "–"]
        values += [format_number(figures["pixel_auroc"]["value"])] if "pixel_auroc" in figures else []
        text = f"{' / '.join(values)} ({source}{': ' if detail else ''}{detail})"
        lines.append(["", "", "", "", text, verdict(report, next(iter(figures.values())))])
    lines = lines or [["", "", "", "", "–", "no published peer"]]
    lines[0][:4] = [_title(report), *_shown(report)]
    return lines


def _shown(report: Report, names: Sequence[str] = METRICS) -> list[str]:
    return [format_metric(report["metrics"][name]) if name in report["metrics"] else "–" for name in names]


def _title(report: Report) -> str:
    """Category, row, network, the options that are not the method's defaults, and pixels."""
    settings, method = report["settings"], report["method"]
    kind = detector_class(method) if method in METHODS else ClassifierSettings if "architecture" in settings else None
    defaults = {field.name: field.default for field in kind.option_fields()} if kind else {}
    parts = [
        report.get("row", method),
        report.get("backbone") or settings.get("architecture"),
        report.get("weights") or ("architecture" in settings and settings["weights"]),
    ]
    for name, default in defaults.items():
        value = settings.get(name, default)
        value = tuple(value) if isinstance(value, list) else value
        if value != default and name not in TITLED:
            parts.append(f"{name} {'/'.join(map(str, value)) if isinstance(value, tuple) else value}")
    size = settings["image_size"]
    crop = settings.get("crop", size)
    parts.append(f"{size}→{crop} px" if crop != size else f"{crop} px")
    if report.get("protocol") == "supervised" and "part" not in report:
        parts.append(TEST_PART)
    return f"{report['category']}: {', '.join(part for part in parts if part)}"
