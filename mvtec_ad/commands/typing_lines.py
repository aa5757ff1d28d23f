"""A report of `contrastive.report.measure` as lines to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mvtec_ad.evaluation import format_metric, format_number

METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "retrieval_map": "retrieval mAP",
    "silhouette": "silhouette",
}


def lines(report: dict[str, Any]) -> list[str]:
    """All of it: what was looked at, every way, confusions, mixtures, a type left out, a few images of it."""
    return [*_head(report), "", *_ways(report), "", *_confusion(report), *_mixtures(report), "", *_left_out(report)]


def _head(report: dict[str, Any]) -> Iterator[str]:
    settings, types = report["settings"], report["types"]
    yield (
        f"typing on {report['category']} ({report['data_source']}): {settings['backbone']}, {report['weights']}, "
        f"look {settings['look']}"
    )
    counts = ", ".join(f"{count} {name}" for name, count in types.items())
    yield f"{sum(types.values())} defects of {len(types)} types: {counts}"
    yield f"{settings['folds']} folds, dealt {settings['repeats']} time{'s' if settings['repeats'] > 1 else ''}"


def _ways(report: dict[str, Any]) -> Iterator[str]:
    yield f"  {'':<22} " + " ".join(f"{words:<22}" for words in METRICS.values()).rstrip()
    for way, found in report["ways"].items():
        cells = [format_metric(found[name]) if name in found else "" for name in METRICS]
        yield (f"  {way:<22} " + " ".join(f"{cell:<22}" for cell in cells)).rstrip()


def _confusion(report: dict[str, Any]) -> Iterator[str]:
    yield "  what was there: what was said (all folds)"
    found = report["confusion"]
    for name, counts in zip(found["types"], found["counts"], strict=True):
        said = [f"{count} {one}" for count, one in zip(counts, found["said"], strict=True) if count]
        yield f"    {name:<22} {', '.join(said)}"


def _mixtures(report: dict[str, Any]) -> Iterator[str]:
    mixed = report["mixtures"]
    if mixed:
        nearest = ", ".join(f"{share:.0%} {name}" for name, share in mixed["nearest"].items())
        yield ""
        yield f"  {mixed['images']} images with several types at once: {mixed['called_unknown']:.0%} called unknown"
        yield f"    nearest: {nearest}"


def _left_out(report: dict[str, Any]) -> Iterator[str]:
    if report["open_set"] is None:
        yield "  no type was left out: that takes three or more"
        return
    yield "  a type left out of the training: is it called unknown?"
    for way, found in report["open_set"].items():
        rates = f"{found['called_unknown']:.0%} of it called unknown, {found['false_unknown']:.0%} of known ones"
        yield f"    {way:<22} AUROC {format_metric(found['auroc'])}; {rates}"
    yield "  and named, after a few images of it? balanced accuracy over all types (recall of the new one)"
    for way, by_shots in report["few_shot"].items():
        cells = [
            f"{shots}: {format_number(one['balanced_accuracy']['mean'])} ({format_number(one['recall']['mean'])})"
            for shots, one in by_shots.items()
        ]
        yield f"    {way:<22} " + "; ".join(cells)
