"""Measured figures beside published ones.

Measured: `assets/results.json`, published with the suite, and `transfer/results/`, what this machine measured.
Published: `reported.json` in the package, each figure with its source.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from mvtec_ad.errors import DataError
from mvtec_ad.evaluation import format_metric, format_number, markdown_table
from mvtec_ad.settings import home, transfer_folder
from mvtec_ad.transfer import git_commit, versions


def reported() -> list[dict[str, Any]]:
    """Published figures: method, backbone, category, metric, value, detail, source and, where the source states it,
    image_size, crop and channels."""
    text = resources.files("mvtec_ad").joinpath("reported.json").read_text(encoding="utf-8")
    return json.loads(text)["rows"]


def record(report: dict[str, Any]) -> Path:
    """Keep a report of `methods.experiment.run` under `transfer/results/`; a newer run of the same replaces it."""
    folder = transfer_folder() / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{_name(report)}.json"
    stamped = {
        **report,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(stamped, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def measured() -> list[dict[str, Any]]:
    """Published-with-the-suite reports, each replaced by this machine's own where there is one."""
    reports: dict[str, dict[str, Any]] = {}
    committed = home() / "assets" / "results.json"
    if committed.is_file():
        reports = {_name(report): report for report in _read(committed)}
    for path in sorted((transfer_folder() / "results").glob("*.json")):
        report = _read(path)
        reports[_name(report)] = report
    return [reports[name] for name in sorted(reports)]


def published_for(report: dict[str, Any], metric: str = "image_auroc") -> list[dict[str, Any]]:
    """Published rows of the same method, backbone, category and metric; weights other than ImageNet have none."""
    keys = ("method", "backbone", "category")
    return [row for row in reported() if row["metric"] == metric and all(row[key] == report.get(key) for key in keys)]


def same_protocol(report: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether backbone, channels, crop and size of a measurement match those a source states."""
    settings = report["settings"]
    return row["backbone"] == report["backbone"] and all(
        key in row and row[key] == settings.get(key) for key in ("image_size", "crop", "channels")
    )


def verdict(report: dict[str, Any], row: dict[str, Any]) -> str:
    """What a measurement says about a published figure.

    `reproduced` when the published value lies in the 95 % interval of ours, `above` or `below` when ours is
    higher or lower than that; otherwise why the two cannot be compared.
    """
    if report["data_source"] != "mvtec_ad":
        return "not comparable: other images"
    if any(word in (report["weights"] or "") for word in ("random", "drawn")):
        return "not comparable: other weights"
    if not same_protocol(report, row):
        return "not comparable: other protocol" if "crop" in row else "not comparable: protocol not stated"
    metric = report["metrics"][row["metric"]]
    if metric["low"] <= row["value"] <= metric["high"]:
        return "reproduced"
    return "above" if metric["mean"] > row["value"] else "below"


def tables(reports: list[dict[str, Any]]) -> str:
    """Markdown: one table for real images with the published figures, one for other images without them."""
    real = [report for report in reports if report["data_source"] == "mvtec_ad"]
    other = [report for report in reports if report["data_source"] != "mvtec_ad"]
    parts = []
    if real:
        rows = [row for report in real for row in _real_rows(report)]
        columns = [
            "Real MVTec AD",
            "image AUROC, ours",
            "pixel AUROC, ours",
            "AUPRO, ours",
            "published image / pixel AUROC",
            "verdict",
        ]
        parts.append(markdown_table(columns, rows))
    if other:
        rows = [[f"{_title(report)} ({report['data_source']})", *_own(report)] for report in other]
        parts.append(markdown_table(["Other images", "image AUROC", "pixel AUROC", "AUPRO"], rows))
    return (
        "\n\n".join(parts)
        or "Nothing has been measured yet: run `python -m mvtec_ad evaluate padim --category bottle`."
    )


def publish(reports: list[dict[str, Any]]) -> None:
    """Write the reports to `assets/results.json` and their table into `README.md`.

    Raises:
        DataError: there is nothing to publish, or the README has no place for it.
    """
    if not reports:
        raise DataError("nothing has been measured: run `evaluate` first")
    write_between(home() / "README.md", "results", tables(reports))
    (home() / "assets" / "results.json").write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the lines `<!-- name: start -->` and `<!-- name: end -->` of a Markdown file.

    Raises:
        DataError: the file has no such lines.
    """
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if start not in old or end not in old.split(start)[1]:
        raise DataError(f"{path} has no lines {start} and {end}: add them where the table belongs")
    before, after = old.split(start)[0], old.split(end)[1]
    path.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} cannot be read ({problem}): remove it") from problem


def _name(report: dict[str, Any]) -> str:
    """A file name that only the same method, images, network and settings share."""
    identity = json.dumps([report[key] for key in ("weights", "settings", "seeds")], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    backbone = (report["backbone"] or "none").replace(":", "-")
    return "-".join([report["data_source"], report["category"], report["method"], backbone, digest])


def _title(report: dict[str, Any]) -> str:
    settings = report["settings"]
    size, crop = settings["image_size"], settings["crop"]
    details = {
        "padim": "{channels} channels",
        "patchcore": "{coreset:.0%} coreset",
        "autoencoder": "loss {loss}, map {map}, score {score}, latent {latent}",
        "vae": "loss {loss}, map {map}, score {score}, latent {latent}",
        "anogan": "score {score}, {search_steps} steps of search, latent {latent}",
        "f_anogan": "score {score}, κ = {kappa:g}, latent {latent}",
    }
    parts = [report["method"], report["backbone"], report["weights"], details[report["method"]].format(**settings)]
    parts.append(f"{size}→{crop} px" if crop != size else f"{crop} px")
    return f"{report['category']}: {', '.join(part for part in parts if part)}"


def _own(report: dict[str, Any]) -> list[str]:
    metrics = report["metrics"]
    return [
        format_metric(metrics[name]) if name in metrics else "–" for name in ("image_auroc", "pixel_auroc", "au_pro")
    ]


def _real_rows(report: dict[str, Any]) -> list[list[str]]:
    head = [_title(report), *_own(report)]
    image, pixel = published_for(report), published_for(report, "pixel_auroc")
    alone = [row for row in pixel if not any(_same_source(row, own) for own in image)]
    found = [[_published(row, pixel), verdict(report, row)] for row in image + alone]
    if not found:
        return [[*head, "–", "none published"]]
    first, *rest = found
    return [[*head, *first], *[["", "", "", "", *row] for row in rest]]


def _same_source(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return (row["source"], row["detail"]) == (other["source"], other["detail"])


def _published(row: dict[str, Any], pixel: list[dict[str, Any]]) -> str:
    """Image AUROC of a source, its pixel AUROC where it has one, and the source."""
    values = [format_number(row["value"]) if row["metric"] == "image_auroc" else "–"]
    values += [format_number(own["value"]) for own in pixel if _same_source(own, row)]
    detail = f": {row['detail']}" if row["detail"] else ""
    return f"{' / '.join(values)} ({row['source']}{detail})"
