"""Measured figures beside published ones.

Measured: `assets/results.json`, published with the suite; `transfer/results/`, what this machine measured; and the
reports of the artifacts in `transfer/`, which are gathered and shown but never published.
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
from mvtec_ad.transfer import MAKERS, git_commit, load, replacing, versions
from mvtec_ad.transfer.provenance import device

SAME_IMAGES = "supervised test"  # the part of a report whose images all methods have scored
_NEEDED = {"method", "category", "data_source", "seeds", "settings", "metrics"}


def reported() -> list[dict[str, Any]]:
    """Published figures: method, backbone, category, metric, value, detail, source and, where the source states it,
    image_size, crop and channels."""
    text = resources.files("mvtec_ad").joinpath("reported.json").read_text(encoding="utf-8")
    return json.loads(text)["rows"]


def record(report: dict[str, Any]) -> Path:
    """Keep a report of `methods.experiment.run` under `transfer/results/`; a newer run of the same replaces it.

    Date, commit, versions and device are added where the report does not know them (the cells of a sweep do), and the
    profile `custom`.
    """
    path = transfer_folder() / "results" / f"{_name(report)}.json"
    stamped = {
        "profile": "custom",
        "device": device(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "git_commit": git_commit(),
        "versions": versions(),
        **report,
    }
    with replacing(path) as file:
        file.write((json.dumps(stamped, indent=1) + "\n").encode())
    return path


def measured() -> list[dict[str, Any]]:
    """All that is known, once each: this machine's records win over what is published with the suite, and both win over
    the artifacts in `transfer/`, whose reports have `artifact`, the name of the zip.

    Raises:
        DataError: a file of results cannot be read.
        ArtifactError: an artifact is damaged.
    """
    reports = {_name(report): report for report in from_artifacts()}
    committed = home() / "assets" / "results.json"
    if committed.is_file():
        reports |= {_name(report): report for report in _read(committed)}
    for path in sorted((transfer_folder() / "results").glob("*.json")):
        report = _read(path)
        reports[_name(report)] = report
    return [reports[name] for name in sorted(reports)]


def from_artifacts() -> list[dict[str, Any]]:
    """Reports of the artifacts in `transfer/`, with what their manifests know: profile, device, commit, date, versions.

    Each has `artifact`, the name of the zip. Only reports of detection methods are taken: others have other shapes.

    Raises:
        ArtifactError: an artifact is damaged.
    """
    reports = []
    for stage in MAKERS:
        path = transfer_folder() / f"{stage}.zip"
        if not path.is_file():
            continue
        artifact = load(path)
        manifest = artifact.manifest
        origin = {key: manifest[key] for key in ("profile", "device", "git_commit", "versions") if key in manifest}
        origin |= {"date": manifest.get("created_utc", "")[:10], "artifact": path.name}
        for report in artifact.json("reports.json") if "reports.json" in artifact.names else []:
            if isinstance(report, dict) and set(report) >= _NEEDED and "image_auroc" in report["metrics"]:
                reports.append({**origin, **report})
    return reports


def published_for(report: dict[str, Any], metric: str = "image_auroc") -> list[dict[str, Any]]:
    """Published rows of the same method, backbone, category and metric, on the official test images.

    Whether they can be compared with a report is for `verdict` to say.
    """
    if report.get("part") == SAME_IMAGES or report.get("protocol", "official") != "official":
        return []
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
    if report["data_source"] != "mvtec_ad" or report.get("part") == SAME_IMAGES:
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
    """Markdown: real images with the published figures, other images without, and methods on the very same images.

    Real and other images never share a table.
    """
    together = [report for report in reports if report.get("part") == SAME_IMAGES]
    alone = [report for report in reports if report.get("part") != SAME_IMAGES]
    parts = []
    for real in (True, False):
        own = [report for report in alone if (report["data_source"] == "mvtec_ad") == real]
        if own:
            parts.append(_real_table(own) if real else _other_table(own))
    for real in (True, False):
        own = [report for report in together if (report["data_source"] == "mvtec_ad") == real]
        if own:
            parts.append(_same_images_table(own, real))
    return (
        "\n\n".join(parts)
        or "Nothing has been measured yet: run `python -m mvtec_ad evaluate padim --category bottle`."
    )


def _real_table(reports: list[dict[str, Any]]) -> str:
    columns = [
        "Real MVTec AD",
        "image AUROC, ours",
        "pixel AUROC, ours",
        "AUPRO, ours",
        "published image / pixel AUROC",
        "verdict",
    ]
    return markdown_table(columns, [row for report in reports for row in _real_rows(report)])


def _other_table(reports: list[dict[str, Any]]) -> str:
    rows = [[f"{_title(report)} ({report['data_source']})", *_own(report)] for report in reports]
    return markdown_table(["Other images", "image AUROC", "pixel AUROC", "AUPRO"], rows)


def _same_images_table(reports: list[dict[str, Any]], real: bool) -> str:
    metrics = ("image_auroc", "image_ap", "f1_max", "false_alarms", "pixel_auroc", "au_pro")
    words = ("image AUROC", "AP", "F1-max", "false alarms at 95 % detection", "pixel AUROC", "AUPRO")
    rows = []
    for report in reports:
        title = _title(report) if real else f"{_title(report)} ({report['data_source']})"
        cost = report.get("cost", {})
        rows.append(
            [title, *_own(report, metrics), *(_number(cost.get(key)) for key in ("fit_seconds", "milliseconds"))]
        )
    head = "Real MVTec AD, the same test images for all" if real else "Other images, the same for all"
    return markdown_table([head, *words, "fit s", "ms / image"], rows)


def _number(value: float | None) -> str:
    """Two figures that count, or a dash."""
    return "–" if value is None else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def publish(reports: list[dict[str, Any]]) -> None:
    """Write reports to `assets/results.json` and their table into `README.md`.

    Those of artifacts are left out: a notebook shows them, and its quick profile is no measurement to publish.

    Raises:
        DataError: there is nothing to publish, or the README has no place for it.
    """
    reports = [report for report in reports if "artifact" not in report]
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
    keys = ("weights", "settings", "seeds", *(["second"] if "second" in report else []))
    identity = json.dumps([report.get(key) for key in keys], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    backbone = (report.get("backbone") or "none").replace(":", "-")
    parts = [report["data_source"], report["category"], report.get("row", report["method"]), backbone, digest]
    if "part" in report:
        parts.append(report["part"].replace(" ", "-"))
    return "-".join(parts)


def _title(report: dict[str, Any]) -> str:
    settings = report["settings"]
    details = {
        "padim": "{channels} channels",
        "patchcore": "{coreset:.0%} coreset",
        "autoencoder": "loss {loss}, map {map}, score {score}, latent {latent}",
        "vae": "loss {loss}, map {map}, score {score}, latent {latent}",
        "anogan": "score {score}, {search_steps} steps of search, latent {latent}",
        "f_anogan": "score {score}, κ = {kappa:g}, latent {latent}",
        "classifier": "look {look}",
        "inspector": "look {look}",
    }
    parts = [
        report.get("row", report["method"]),
        report.get("backbone") or settings.get("architecture"),
        report.get("weights") or ("architecture" in settings and settings["weights"]),
        details.get(report["method"], "").format(**settings),
    ]
    size = settings["image_size"]
    crop = settings.get("crop", size)
    parts.append(f"{size}→{crop} px" if crop != size else f"{crop} px")
    if report.get("protocol") == "supervised" and "part" not in report:
        parts.append(SAME_IMAGES)
    return f"{report['category']}: {', '.join(part for part in parts if part)}"


def _own(report: dict[str, Any], names: tuple[str, ...] = ("image_auroc", "pixel_auroc", "au_pro")) -> list[str]:
    metrics = report["metrics"]
    return [format_metric(metrics[name]) if name in metrics else "–" for name in names]


def _real_rows(report: dict[str, Any]) -> list[list[str]]:
    head = [_title(report), *_own(report)]
    image, pixel = published_for(report), published_for(report, "pixel_auroc")
    alone = [row for row in pixel if not any(_same_source(row, own) for own in image)]
    found = [[_published(row, pixel), verdict(report, row)] for row in image + alone]
    if not found:
        return [[*head, "–", "no published peer"]]
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
