"""Naming defect types: a real product, and synthetic ones; three looks, beside frozen features.

    python benchmarks/defect_types.py --product ROOT/FOLDER --weights PATH [--only real|synthetic] [--publish]

Writes transfer/defect_types/ stage by stage; a killed run that is started again goes on with the training it was in.
`--publish` writes assets/defect_types.json and the tables in docs/results.md from it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from stages import stage, stages

from mvtec_ad.benchmark.defect_types import anomaly_maps, measure
from mvtec_ad.benchmark.published import write_between
from mvtec_ad.config import DataSettings, root_folder, transfer_folder
from mvtec_ad.data import index, sources
from mvtec_ad.methods.defect_types import LOOKS, DefectTypes
from mvtec_ad.metrics import format_metric, format_number, markdown_table

SYNTHETIC = DataSettings.preset("full", synthetic_train=100)
SYNTHETIC_LOOKS = ("mask", "predicted")
REPEATS = 5  # of five folds, on the real product
WAYS = {
    "always the same": "chance",
    "mean colours": "mean colours, no network",
    "frozen, prototypes": "frozen, prototypes",
    "frozen, k-NN": "frozen, k-NN",
    "frozen, linear probe": "frozen, linear probe",
    "simclr, prototypes": "SimCLR, prototypes",
    "supcon, prototypes": "**SupCon, prototypes**",
    "supcon, k-NN": "SupCon, k-NN",
}


def main() -> None:
    """Run what is missing, then print or publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--product", required=True, type=Path, help="folder of a product in MVTec layout")
    parser.add_argument("--weights", default="imagenet", help="of the ResNet-18")
    parser.add_argument("--only", choices=("real", "synthetic"), help="run one half; two halves may run side by side")
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    detector = DefectTypes(backbone="resnet18", weights=arguments.weights)
    if arguments.only != "synthetic":
        real(arguments.product, detector)
    if arguments.only != "real":
        for look in SYNTHETIC_LOOKS:
            for category in SYNTHETIC.categories:
                synthetic(category, replace(detector, look=look))
    results = stages(folder())
    text = tables(results, arguments.product.name)
    print(text)
    if arguments.publish:
        assets = root_folder() / "assets"
        (assets / "defect_types.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        write_between(root_folder() / "docs" / "results.md", "defect types", text)


def folder() -> Path:
    """Where the stages are kept."""
    return transfer_folder() / "defect_types"


def real(product: Path, detector: DefectTypes) -> None:
    """Every look, five times five folds; SimCLR once five folds; types left out where one would look in earnest."""
    table = index.read_category(product.parent, product.name)
    source = index.data_source(product.parent, product.name, table)
    for look in LOOKS:
        often, once = replace(detector, look=look, repeats=REPEATS), replace(detector, look=look)
        name = f"{product.name}, {look}"
        stage(folder(), name, task(table, often, "supcon", source, open_set=look == "predicted"))
        stage(folder(), f"{name}, simclr", task(table, once, "simclr", source, open_set=False))


def synthetic(category: str, detector: DefectTypes) -> None:
    """Five folds; and, with the true place, types left out."""
    table = index.read_category(sources.locate(category, source="synthetic", settings=SYNTHETIC), category)
    by_mask = detector.look == "mask"
    stage(folder(), f"drawn {category}, {detector.look}", task(table, detector, "supcon", "synthetic", by_mask))


def task(
    table: pd.DataFrame, detector: DefectTypes, objective: str, source: str, open_set: bool
) -> Callable[[list[Path]], dict[str, Any]]:
    """What a stage does: PaDiM's maps where they are looked at, then all that is measured."""

    def measured(checkpoints: list[Path]) -> dict[str, Any]:
        maps = anomaly_maps(table, detector) if detector.look == "predicted" else None
        defects = detector.gather(table, maps, progress=True)
        return measure(detector, defects, [objective], 0, checkpoints, data_source=source, open_set=open_set)

    return measured


def tables(results: dict[str, Any], product: str) -> str:
    """Markdown: the real product by look; the drawn ones; types left out; a few images of a new type."""
    parts = [real_table(results, product)]
    parts += [synthetic_table(results, look) for look in SYNTHETIC_LOOKS]
    parts.append(open_set_table(results))
    minutes = sum(report["cpu_minutes"] for report in results.values())
    parts.append(f"CPU minutes in all, anomaly maps and augmented copies included: {minutes:.0f}.")
    return "\n\n".join(part for part in parts if part)


def real_table(results: dict[str, Any], product: str) -> str:
    """Balanced accuracy of every way by look, and the difference to the frozen prototypes."""
    by_look = {look: results.get(f"{product}, {look}", {}).get("ways", {}) for look in LOOKS}
    for look in LOOKS:
        by_look[look] |= {
            way: value
            for way, value in results.get(f"{product}, {look}, simclr", {}).get("ways", {}).items()
            if way.startswith("simclr")
        }
    if not any(by_look.values()):
        return ""
    rows = []
    for way, words in WAYS.items():
        cells = [metric(by_look[look].get(way, {}), "balanced_accuracy") for look in LOOKS]
        rows.append([words, *cells])
    differences = [
        metric(by_look[look].get("supcon, prototypes", {}), "balanced_accuracy_difference") for look in LOOKS
    ]
    rows.append(["SupCon − frozen prototypes", *differences])
    for name, words in (("macro_f1", "macro F1"), ("retrieval_map", "retrieval mAP"), ("silhouette", "silhouette")):
        for way in ("frozen, prototypes", "supcon, prototypes"):
            cells = [metric(by_look[look].get(way, {}), name) for look in LOOKS]
            rows.append([f"{words}: {way.split(',')[0]}", *cells])
    return markdown_table([f"{product} (real): balanced accuracy", *LOOKS], rows)


def synthetic_table(results: dict[str, Any], look: str) -> str:
    """Balanced accuracy of every way by product, and their means."""
    by_category = {
        category: results[f"drawn {category}, {look}"]["ways"]
        for category in SYNTHETIC.categories
        if f"drawn {category}, {look}" in results
    }
    if not by_category:
        return ""
    rows = []
    for way, words in WAYS.items():
        values = [ways[way]["balanced_accuracy"]["mean"] for ways in by_category.values() if way in ways]
        if values:
            rows.append([words, *(format_number(value) for value in values), format_number(float(np.mean(values)))])
    return markdown_table([f"Drawn, look {look}: balanced accuracy", *by_category, "mean"], rows)


def open_set_table(results: dict[str, Any]) -> str:
    """AUROC of "unknown", and naming after a few images, a row a product and way."""
    rows, aurocs = [], {}
    for name, report in results.items():
        for way, result in (report["open_set"] or {}).items():
            if way == "frozen, prototypes" or way == "frozen, linear probe" or way == "supcon, prototypes":
                if name.startswith("drawn"):
                    aurocs.setdefault(way, []).extend(result["types"].values())
                shown = report["few_shot"].get(way.split(",")[0], {}) if "prototypes" in way else {}
                few = [
                    format_number(shown[shots]["balanced_accuracy"]["mean"]) if shots in shown else "–"
                    for shots in ("1", "2", "4", "8")
                ]
                shares = [f"{result['called_unknown']:.0%}", f"{result['false_unknown']:.0%}"]
                rows.append([name, WAYS[way].strip("*"), format_metric(result["auroc"]), *shares, *few])
    for way, values in aurocs.items():
        mean = format_number(float(np.mean(values)))
        rows.append([f"drawn, {len(values)} types", WAYS[way].strip("*"), f"**{mean}**", *["–"] * 6])
    columns = ["A type left out", "way", "AUROC unknown", "called unknown", "known called so"]
    return markdown_table([*columns, "1 image", "2", "4", "8"], rows) if rows else ""


def metric(results: dict[str, Any], name: str) -> str:
    """A metric with its interval, or a dash."""
    return format_metric(results[name]) if name in results else "–"


if __name__ == "__main__":
    main()
