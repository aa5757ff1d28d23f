"""Measured figures beside published ones.

Measured: `assets/results.json`, published with the suite; `transfer/results/`, what this machine measured; and the
reports of the artifacts in `transfer/`, which are gathered and shown but never published.
Published: `published.json` beside this file, each figure with its source.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from mvtec_ad import artifacts
from mvtec_ad.artifacts import PRODUCED_BY, write_file
from mvtec_ad.benchmark.compare import TEST_PART
from mvtec_ad.benchmark.result import METRICS, PROMISE, Report, origin, promise
from mvtec_ad.config import root_folder, transfer_folder
from mvtec_ad.errors import DataError
from mvtec_ad.methods import METHODS, detector_class
from mvtec_ad.metrics import format_metric, format_number, markdown_table
from mvtec_ad.schema import misfit, parse_json

HEADS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "au_pro": "AUPRO"}
SHARED = ("image_auroc", "image_ap", "f1_max", "false_alarms", "pixel_auroc", "au_pro")  # of methods on the same images
CLOSE = 0.01  # within which of a published figure an interval must lie to confirm it
PROTOCOL = {  # options that a source must state, and have like ours, for its figures to be compared
    "padim": ("channels", "image_size", "crop"),
    "patchcore": ("coreset", "layers", "image_size", "crop"),
    "knn": ("neighbours", "layers", "image_size", "crop"),
    "subspace_ad": ("rotations", "variance", "layers", "image_size", "crop"),
    "autoencoder": ("loss", "latent", "image_size"),
    "vae": ("loss", "latent", "image_size"),
    "anogan": ("latent", "steps", "image_size"),
    "f_anogan": ("latent", "steps", "image_size"),
    "efficient_ad": ("width", "layers", "steps", "image_size"),
}
# ImageNet weights as libraries call them, and files of them (torchvision's ResNet-18, Keras's MobileNet).
IMAGENET = re.compile(r"IMAGENET1K_V\d$|(keras )?imagenet($| \(SHA-256 )|.*\(SHA-256 (0d88f485e032|a8f30fc84651)")
TITLED = ("backbone", "weights", "image_size", "crop")  # options with a place of their own


def published() -> list[dict[str, Any]]:
    """Published figures, a row each: method, backbone, category (or `mean`, of all 15), metric, value, source, detail
    and protocol, the options that the source states; where there is one, read_in, another place where figures or
    protocol were read, and differs, a reason why the figure cannot be compared.

    Examples:
        >>> row = published()[0]
        >>> row["category"], row["metric"], row["value"], row["protocol"]["channels"]
        ('carpet', 'image_auroc', 0.984, 100)
    """
    text = resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    rows = []
    for source in json.loads(text)["sources"]:
        figures = source.pop("figures")
        for metric, by_category in figures.items():
            known = {"detail": "", "protocol": {}, **source, "metric": metric}
            rows += [known | {"category": category, "value": value} for category, value in by_category.items()]
    return rows


def published_for(report: Report, metric: str = "image_auroc") -> list[dict[str, Any]]:
    """Published rows of the same method, backbone, category and metric on the official test images, comparable or not
    (`verdict`); where there is none of the category, means of all categories."""
    if report.get("part") == TEST_PART or report.get("protocol", "official") != "official":
        return []
    keys = ("method", "backbone")
    rows = [row for row in published() if row["metric"] == metric and all(row[key] == report.get(key) for key in keys)]
    by_category = [row for row in rows if row["category"] == report["category"]]
    return by_category or [row for row in rows if row["category"] == "mean"]


def verdict(report: Report, row: dict[str, Any]) -> str:
    """What a measurement says about a published figure.

    At the three decimals that are printed: `confirmed` when our whole 95 % interval lies within ±.01 of it; else
    `agrees` when it lies in our interval, `above` or `below` when ours is higher or lower than that; `not comparable`
    and why where images, network, weights or an option of `PROTOCOL` are others, or the source does not state them.

    Examples:
        >>> row = {"metric": "image_auroc", "category": "bottle", "value": 0.99, "backbone": None, "protocol": {}}
        >>> metric = {"image_auroc": {"mean": 0.985, "low": 0.98, "high": 0.991}}
        >>> report = {"method": "mine", "data_source": "mvtec_ad", "settings": {}, "metrics": metric}
        >>> verdict(report, row)
        'confirmed'
    """
    if report["data_source"] != "mvtec_ad" or report.get("part") == TEST_PART:
        return "not comparable: other images"
    if row["backbone"] != report.get("backbone"):
        return "not comparable: other network"
    if report.get("weights") and not IMAGENET.match(report["weights"]):
        return "not comparable: other weights"
    if "differs" in row:
        return f"not comparable: {row['differs']}"
    if row["category"] == "mean":
        return "not comparable: mean of all categories"
    settings, stated = report["settings"], row["protocol"]
    ours = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    other = [f"{key} {_words(value)}" for key, value in stated.items() if value != ours.get(key)]
    if other:
        return f"not comparable: {', '.join(other)} there"
    if absent := [key for key in PROTOCOL.get(report["method"], ()) if key not in stated]:
        return f"not comparable: {', '.join(absent)} not stated"
    metric = report["metrics"].get(row["metric"])
    if metric is None:
        return "not comparable: not measured"
    low, high, value = (round(number, 3) for number in (metric["low"], metric["high"], row["value"]))  # as printed
    if max(value - low, high - value) <= CLOSE + 1e-9:
        return "confirmed"
    if low <= value <= high:
        return "agrees"
    return "above" if low > value else "below"


def peers(report: Report, metrics: Sequence[str] = METRICS) -> list[tuple[str, str]]:
    """Published figures of each source as text, and their verdicts, both metric by metric, with a dash where a source
    has no figure and one reason where it is that of all; one line that says so where there is no source."""
    sources: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for metric in metrics:
        for row in published_for(report, metric):
            sources.setdefault((row["source"], row["detail"]), {})[metric] = row
    lines = []
    for (source, detail), rows in sources.items():
        values = [format_number(rows[metric]["value"]) if metric in rows else "–" for metric in metrics]
        words = [verdict(report, rows[metric]) if metric in rows else "–" for metric in metrics]
        reasons = set(words) - {"–"}
        alike = len(reasons) == 1 and min(reasons).startswith("not comparable")
        text = f"{' / '.join(values)} ({source}{': ' if detail else ''}{detail})"
        lines.append((text, min(reasons) if alike else " / ".join(words)))
    return lines or [("–", "no published figure found")]


def verdicts(reports: Iterable[Report], by: str, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Measured beside published: a line for each source of figures, or one that says why there is none.

    Texts in columns category, `by` (method, backbone or row), one for each metric, reported, verdict; the last two are
    `peers`, and reported holds the metrics in the order of their columns.
    """
    lines = []
    for report in reports:
        yours, source = [report["category"], report[by], *shown(report, metrics)], report["data_source"]
        pairs = peers(report, metrics) if source == "mvtec_ad" else [("–", f"not comparable: {source} images")]
        lines += [[*yours, *pair] for pair in pairs]
    heads = [HEADS[name] for name in metrics]
    return pd.DataFrame(lines, columns=["category", by, *heads, "reported", "verdict"])


def _words(value: Any) -> str:
    """An option as tables show it."""
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --- what has been measured -------------------------------------------------------------------------------------------


def record(report: Report) -> Path:
    """Keep a report under `transfer/results/`; a newer one of the same method, images and options replaces it.

    Where and when it was made is added where the report does not know it (those read from a file do). A weights file is
    named from where we stand: a report is no place for a machine's folders.
    """
    settings = report["settings"]
    if os.path.isabs(settings.get("weights") or ""):
        settings = {**settings, "weights": os.path.relpath(settings["weights"])}
    date = datetime.now(timezone.utc).date().isoformat()
    stamped = {"profile": "custom", "device": artifacts.device(), "date": date, "git_commit": artifacts.git_commit()}
    stamped |= {"versions": artifacts.versions(), **report, "settings": settings}
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
    files = [root_folder() / "assets" / "results.json", *sorted((transfer_folder() / "results").glob("*.json"))]
    read = [report for path in files if path.is_file() for report in _read(path)]
    reports = {_name(report): report for report in [*from_artifacts(), *read]}
    return [reports[name] for name in sorted(reports)]


def from_artifacts() -> list[Report]:
    """Reports of the artifacts in `transfer/`, with what their manifests know of them, and `artifact`, the zip's name.

    Only those of detection methods are taken: others have other shapes. A damaged artifact is an ArtifactError.
    """
    reports = []
    for artifact in (artifacts.load(stage) for stage in PRODUCED_BY if (transfer_folder() / f"{stage}.zip").is_file()):
        known = {**origin(artifact), "artifact": artifact.path.name}
        content = artifact.json("reports.json", list) if "reports.json" in artifact.names else []
        reports += [{**known, **report} for report in content if not misfit(report, Report)]
    return reports


def publish(reports: Sequence[Report]) -> None:
    """Write reports to `assets/results.json` and their tables into `docs/results.md`, each whole or not at all.

    Those of artifacts are left out: a notebook shows them, and its quick profile is no measurement to publish.

    Raises:
        DataError: there is nothing to publish, or `docs/results.md` has no place for it.
    """
    reports = [report for report in reports if "artifact" not in report]
    if not reports:
        raise DataError("nothing has been measured: run `evaluate` first")
    write_between(root_folder() / "docs" / "results.md", "results", tables(reports))
    write_file(root_folder() / "assets" / "results.json", json.dumps(reports, indent=1) + "\n")


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the lines `<!-- name: start -->` and `<!-- name: end -->` of a Markdown file;
    DataError where it has no such lines."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, marked, rest = old.partition(start)
    if not marked or end not in rest:
        raise DataError(f"{path} has no lines {start} and {end}: add them where the table belongs")
    write_file(path, f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}")


def _read(path: Path) -> list[Report]:
    """The report, or the list of reports, of a file."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"), Any)
    except PermissionError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}): check its permissions") from problem
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} cannot be read ({problem}): remove it") from problem
    reports = content if isinstance(content, list) else [content]
    if problem := misfit(reports, list[Report]):
        way = "remove it, or move it elsewhere"
        raise DataError(f"{path} holds no report of a measurement ({problem}): {way}")
    return reports


def _name(report: Report) -> str:
    """A file name that only the same method, images, network and options share."""
    keys = ("weights", "settings", "seeds", *(["second"] if "second" in report else []))
    identity = json.dumps([report.get(key) for key in keys], sort_keys=True)
    backbone = (report.get("backbone") or "none").replace(":", "-")
    parts = [report["data_source"], report["category"], report.get("row", report["method"]), backbone]
    parts += [hashlib.sha256(identity.encode()).hexdigest()[:8], *([report["part"]] if "part" in report else [])]
    return re.sub(r"[\s/\\\ud800-\udfff]", "-", "-".join(parts))


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(reports: Sequence[Report]) -> str:
    """Markdown: real images with the published figures, other images without, and methods on the very same images.

    Real and other images never share a table.
    """
    parts = []
    for together, real in ((False, True), (False, False), (True, True), (True, False)):
        group = [r for r in reports if (r.get("part") == TEST_PART, r["data_source"] == "mvtec_ad") == (together, real)]
        title = "Real MVTec AD" if real else "Other images"
        if together:
            title += ", the same test images for all" if real else ", the same for all"
            columns = ["image AUROC", "AP", "F1-max", "false alarms at 95 % detection", "pixel AUROC", "AUPRO", PROMISE]
            columns += ["fit s", "ms / image"]
            rows = [[_title(report), *shown(report, SHARED), promise(report), *_costs(report)] for report in group]
        elif real:
            columns = [*(f"{HEADS[name]}, ours" for name in METRICS), PROMISE]
            columns += ["published image / pixel AUROC / AUPRO", "verdict"]
            rows = [row for report in group for row in _real_rows(report)]
        else:
            columns, rows = [*HEADS.values(), PROMISE], [[_title(r), *shown(r), promise(r)] for r in group]
        if group:
            parts.append(markdown_table([title, *columns], rows))
    return "\n\n".join(parts) or "Nothing has been measured yet: run `mvtec-ad evaluate padim --category bottle`."


def _costs(report: Report) -> list[str]:
    costs = [report.get("cost", {}).get(key) for key in ("fit_seconds", "milliseconds")]
    return ["–" if cost is None else f"{cost:.2g}" if cost < 10 else f"{cost:.0f}" for cost in costs]


def _real_rows(report: Report) -> list[list[str]]:
    """A line for each source with figures of this row; the first one has ours."""
    ours = [_title(report), *shown(report), promise(report)]
    return [[*(ours if number == 0 else [""] * 5), *pair] for number, pair in enumerate(peers(report))]


def shown(report: Report, names: Sequence[str] = METRICS) -> list[str]:
    return [format_metric(report["metrics"][name]) if name in report["metrics"] else "–" for name in names]


def _title(report: Report) -> str:
    """Category, row, network, the options that are not the method's defaults, pixels, and other images than MVTec's."""
    settings, method = report["settings"], report["method"]
    learned = "roi" in settings  # options of the classifier, which an inspector begins with
    kind = detector_class(method) if method in METHODS else detector_class("classifier") if learned else None
    defaults = {field.name: field.default for field in kind.option_fields()} if kind else {}
    parts = [report.get("row", method)]
    parts += [report.get(name) or (learned and settings.get(name)) for name in ("backbone", "weights")]
    for name, default in defaults.items():
        value = settings.get(name, default)
        if name not in TITLED and (tuple(value) if isinstance(value, list) else value) != default:
            parts.append(f"{name} {_words(value)}")
    size = settings["image_size"]
    crop = settings.get("crop", size)
    parts.append(f"{size}→{crop} px" if crop != size else f"{crop} px")
    if report.get("protocol") == "supervised" and "part" not in report:
        parts.append(TEST_PART)
    source = "" if report["data_source"] == "mvtec_ad" else f" ({report['data_source']})"
    return f"{report['category']}: {', '.join(part for part in parts if part)}{source}"
