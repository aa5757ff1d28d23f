"""Naming defect types: a real product, and the drawn ones; three looks, beside frozen features.

    python benchmarks/defect_types.py --product ROOT/FOLDER --weights PATH [--only real|drawn] [--publish]

Writes transfer/typing.json stage by stage; a killed run that is started again goes on with the training it was in.
`--publish` writes assets/typing.json and assets/typing.md from it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from stages import stage, stages

from mvtec_ad.config import DataSettings, home, transfer_folder
from mvtec_ad.data import acquire, index
from mvtec_ad.methods.contrastive import material, report
from mvtec_ad.metrics import format_metric, format_number, markdown_table
from mvtec_ad.settings import LOOKS, TypingSettings

DRAWN = DataSettings.preset("full", rendered_train=100)
DRAWN_LOOKS = ("mask", "predicted")
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
    parser.add_argument("--only", choices=("real", "drawn"), help="run one half; two halves may run side by side")
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    settings = TypingSettings(weights=arguments.weights)
    if arguments.only != "drawn":
        real(arguments.product, settings)
    if arguments.only != "real":
        for look in DRAWN_LOOKS:
            for category in DRAWN.categories:
                drawn(category, replace(settings, look=look))
    found = stages(place())
    text = tables(found, arguments.product.name)
    print(text)
    if arguments.publish:
        assets = home() / "assets"
        (assets / "typing.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (assets / "typing.md").write_text(text + "\n", encoding="utf-8")


def place() -> Path:
    """Where the stages are kept."""
    return transfer_folder() / "typing"


def real(folder: Path, settings: TypingSettings) -> None:
    """Every look, five times five folds; SimCLR once five folds; types left out where one would look in earnest."""
    table = index.read_category(folder.parent, folder.name)
    source = index.data_source(folder.parent, folder.name, table)
    for look in LOOKS:
        own = replace(settings, look=look, repeats=REPEATS)

        def supcon(kept: list[Path], own: TypingSettings = own) -> dict[str, Any]:
            gathered = material.gather(table, own, maps_of(table, own))
            return report.measure(
                own, gathered, ["supcon"], data_source=source, open_set=own.look == "predicted", kept=kept
            )

        def simclr(kept: list[Path], own: TypingSettings = own) -> dict[str, Any]:
            gathered = material.gather(table, own, maps_of(table, own))
            once = replace(own, repeats=1)
            return report.measure(once, gathered, ["simclr"], data_source=source, open_set=False, kept=kept)

        stage(place(), f"{folder.name}, {look}", supcon)
        stage(place(), f"{folder.name}, {look}, simclr", simclr)


def drawn(category: str, settings: TypingSettings) -> None:
    """Five folds; and, with the true place, types left out."""
    table = index.read_category(acquire.locate(category, source="rendered", settings=DRAWN), category)

    def measured(kept: list[Path]) -> dict[str, Any]:
        gathered = material.gather(table, settings, maps_of(table, settings))
        by_mask = settings.look == "mask"
        return report.measure(settings, gathered, ["supcon"], data_source="rendered", open_set=by_mask, kept=kept)

    stage(place(), f"drawn {category}, {settings.look}", measured)


def maps_of(table: pd.DataFrame, settings: TypingSettings) -> np.ndarray | None:
    """PaDiM's maps where they are looked at."""
    return material.anomaly_maps(table, settings) if settings.look == "predicted" else None


def tables(found: dict[str, Any], product: str) -> str:
    """Markdown: the real product by look; the drawn ones; types left out; a few images of a new type."""
    parts = [real_table(found, product)]
    parts += [drawn_table(found, look) for look in DRAWN_LOOKS]
    parts.append(open_set_table(found))
    minutes = sum(one["cpu_minutes"] for one in found.values())
    parts.append(f"CPU minutes in all, anomaly maps and augmented copies included: {minutes:.0f}.")
    return "\n\n".join(part for part in parts if part)


def real_table(found: dict[str, Any], product: str) -> str:
    """Balanced accuracy of every way by look, and the difference to the frozen prototypes."""
    by_look = {look: found.get(f"{product}, {look}", {}).get("ways", {}) for look in LOOKS}
    for look in LOOKS:
        by_look[look] |= {
            way: value
            for way, value in found.get(f"{product}, {look}, simclr", {}).get("ways", {}).items()
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


def drawn_table(found: dict[str, Any], look: str) -> str:
    """Balanced accuracy of every way by product, and their means."""
    own = {
        category: found[f"drawn {category}, {look}"]["ways"]
        for category in DRAWN.categories
        if f"drawn {category}, {look}" in found
    }
    if not own:
        return ""
    rows = []
    for way, words in WAYS.items():
        values = [ways[way]["balanced_accuracy"]["mean"] for ways in own.values() if way in ways]
        if values:
            rows.append([words, *(format_number(value) for value in values), format_number(float(np.mean(values)))])
    return markdown_table([f"Drawn, look {look}: balanced accuracy", *own, "mean"], rows)


def open_set_table(found: dict[str, Any]) -> str:
    """AUROC of "unknown", and naming after a few images, a row a product and way."""
    rows, aurocs = [], {}
    for name, one in found.items():
        for way, result in (one["open_set"] or {}).items():
            if way == "frozen, prototypes" or way == "frozen, linear probe" or way == "supcon, prototypes":
                if name.startswith("drawn"):
                    aurocs.setdefault(way, []).extend(result["types"].values())
                shown = one["few_shot"].get(way.split(",")[0], {}) if "prototypes" in way else {}
                few = [
                    format_number(shown[shots]["balanced_accuracy"]["mean"]) if shots in shown else "–"
                    for shots in ("1", "2", "4", "8")
                ]
                rate = [f"{result['called_unknown']:.0%}", f"{result['false_unknown']:.0%}"]
                rows.append([name, WAYS[way].strip("*"), format_metric(result["auroc"]), *rate, *few])
    for way, values in aurocs.items():
        mean = format_number(float(np.mean(values)))
        rows.append([f"drawn, {len(values)} types", WAYS[way].strip("*"), f"**{mean}**", *["–"] * 6])
    columns = ["A type left out", "way", "AUROC unknown", "called unknown", "known called so"]
    return markdown_table([*columns, "1 image", "2", "4", "8"], rows) if rows else ""


def metric(found: dict[str, Any], name: str) -> str:
    """A metric with its interval, or a dash."""
    return format_metric(found[name]) if name in found else "–"


if __name__ == "__main__":
    main()
