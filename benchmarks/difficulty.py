"""How hard the drawn products are, and how far they are from photographs.

    python benchmarks/difficulty.py --weights PATH [--root ROOT] [--publish]

Draws every product in MVTec AD's own counts and measures PaDiM (ResNet-18, the published protocol, the given weights
and random ones) and the trivial rows on it; with --root the same on the real bottles there, and each model is shown
the other's good bottles. --publish writes `assets/difficulty.json` and the tables of the data card,
`mvtec_ad/synthetic/README.md`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from mvtec_ad import benchmark, synthetic
from mvtec_ad.benchmark.published import published, write_between
from mvtec_ad.config import data_folder, root_folder
from mvtec_ad.data import catalog, index
from mvtec_ad.methods.padim import Padim
from mvtec_ad.metrics import format_metric, image_auroc, markdown_table

ROWS = ("mean_intensity", "distance_to_mean", "pixel_z_score")
BANDS = ((0.1, 0.4), (0.4, 0.7), (0.7, 1.0))  # of severity


def draw_all(root: Path) -> None:
    """Every product in the counts of MVTec AD, 256 pixels a side."""
    for name in synthetic.CATEGORIES:
        synthetic.write_category(root, name, **catalog.official_counts(name))


def measure(root: Path, category: str, weights: str) -> dict[str, Any]:
    """PaDiM with the given weights and with random ones, and the trivial rows, on one category."""
    table = index.read_category(root, category)
    source = index.data_source(root, category, table)
    row: dict[str, Any] = {"category": category, "data_source": source, "differences": index.audit(table)}
    for name, kind in (("imagenet", weights), ("random", "random")):
        found = benchmark.run(Padim(backbone="resnet18", weights=kind), table, data_source=source, progress=False)
        row[name] = {key: found.report["metrics"][key] for key in ("image_auroc", "pixel_auroc", "au_pro")}
        if name == "imagenet" and "severity" in found.table:
            row["by_severity"] = by_severity(found)
    trivial = found.report["trivial"]
    row["trivial"] = {key: trivial[key] for key in ROWS}
    row["trivial"]["mean_intensity"] = max(trivial["mean_intensity"], trivial["mean_intensity_inverted"])
    return row


def by_severity(found: benchmark.Result) -> list[float]:
    """Image AUROC of all good images against the defects of each band, mean over the seeds."""
    severity, labels = found.table["severity"].to_numpy(), found.labels
    values = []
    for low, high in BANDS:
        kept = (labels == 0) | ((severity >= low) & (severity < high))
        values.append(float(np.mean([image_auroc(labels[kept], one[kept]) for one in found.scores])))
    return values


def order_of_difficulty(rows: list[dict[str, Any]]) -> float:
    """Spearman's rank correlation of our image AUROC with the published one, over the drawn products."""
    theirs = {
        row["category"]: row["value"]
        for row in published()
        if row["backbone"] == "resnet18" and row["metric"] == "image_auroc" and row["source"].startswith("xiahaifeng")
    }
    ours = [row["imagenet"]["image_auroc"]["mean"] for row in rows]
    return float(spearmanr(ours, [theirs[row["category"]] for row in rows]).statistic)


def realism(drawn_root: Path, real_root: Path, weights: str) -> list[dict[str, Any]]:
    """PaDiM fitted on drawn and on real bottles, each on the test images of both; one row a model and a seed."""
    tables = {"synthetic": index.read_category(drawn_root, "bottle"), "real": index.read_category(real_root, "bottle")}
    tested = {name: table[table["split"] == "test"].reset_index(drop=True) for name, table in tables.items()}
    rows = []
    for fitted, other in (("synthetic", "real"), ("real", "synthetic")):
        good = list(tables[fitted].query("split == 'train'")["image_path"])
        for seed in (0, 1, 2):
            detector = Padim(backbone="resnet18", weights=weights).fit(good, seed)
            own, strange = (detector.score(list(tested[name]["image_path"])).image for name in (fitted, other))
            rows.append({"fitted": fitted, **_gap(own, strange, tested[fitted], tested[other])})
    return rows


def _gap(own: np.ndarray, strange: np.ndarray, own_table: pd.DataFrame, other_table: pd.DataFrame) -> dict[str, float]:
    good, other_good = own[own_table["label"] == 0], strange[other_table["label"] == 0]
    labels = np.repeat([0, 1], [len(good), len(other_good)])
    return {
        "own_good": float(np.median(good)),
        "own_defects": float(np.median(own[own_table["label"] == 1])),
        "other_good": float(np.median(other_good)),
        "auroc_good_against_other_good": image_auroc(labels, np.concatenate([good, other_good])),
        "auroc_on_other": image_auroc(other_table["label"].to_numpy(), strange),
    }


def difficulty_table(found: dict[str, Any]) -> str:
    """Markdown: a row per product."""
    columns = ["", "ImageNet: image AUROC", "pixel AUROC", "random: image AUROC", "pixel AUROC"]
    columns += ["brightness", "distance to mean", "z-score", "severity .1–.4", ".4–.7", ".7–1"]
    lines = []
    for row in found["rows"]:
        name = f"real {row['category']}" if row["data_source"] != "synthetic" else row["category"]
        cells = [format_metric(row[w][m]) for w in ("imagenet", "random") for m in ("image_auroc", "pixel_auroc")]
        plain = [*row["trivial"].values(), *row.get("by_severity", [])]
        cells += [f"{value:.3f}".removeprefix("0") for value in plain]
        lines.append([name, *cells, *["–"] * (len(columns) - 1 - len(cells))])
    return markdown_table(columns, lines)


def realism_table(found: dict[str, Any]) -> str:
    """Markdown: means over the seeds."""
    rows = pd.DataFrame(found["realism"]).groupby("fitted", sort=False).mean()
    columns = ["fitted on", "median score of its own good", "of its own defects", "of the other's good"]
    columns += ["AUROC, own good against the other's good", "AUROC on the other's test images"]
    lines = [
        [
            f"{name} bottles",
            *(f"{row[key]:.1f}" for key in ("own_good", "own_defects", "other_good")),
            *(f"{row[key]:.3f}" for key in ("auroc_good_against_other_good", "auroc_on_other")),
        ]
        for name, row in rows.iterrows()
    ]
    return markdown_table(columns, lines)


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet", help="ImageNet ResNet-18: imagenet, or the path of a file")
    parser.add_argument("--root", type=Path, help="folder of real MVTec AD that holds bottle")
    parser.add_argument("--publish", action="store_true", help="write assets/difficulty.json and the tables")
    arguments = parser.parse_args()
    drawn = data_folder() / "official_counts"
    draw_all(drawn)
    rows = [measure(drawn, name, arguments.weights) for name in synthetic.CATEGORIES]
    found: dict[str, Any] = {"render_version": synthetic.RENDER_VERSION, "spearman": order_of_difficulty(rows)}
    found["rows"] = rows
    if arguments.root:
        rows.append(measure(arguments.root, "bottle", arguments.weights))
        found["realism"] = realism(drawn, arguments.root, arguments.weights)
    print(difficulty_table(found))
    print(f"\nSpearman's correlation with the published order of difficulty: {found['spearman']:.2f}")
    if arguments.root:
        print("\n" + realism_table(found))
    if arguments.publish:
        (root_folder() / "assets" / "difficulty.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        card = root_folder() / "mvtec_ad" / "synthetic" / "README.md"
        write_between(card, "difficulty", difficulty_table(found))
        write_between(card, "realism", realism_table(found))


if __name__ == "__main__":
    main()
