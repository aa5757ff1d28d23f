"""The inspector: does it name products, refuse what is none of them, and does its second opinion pay?

    python benchmarks/inspector.py --weights PATH [--bottle ROOT/bottle] [--packages ROOT/FOLDER] [--publish]
        [--only products|cost|speed]

Products are the seven drawn ones; --bottle and --packages are photographs and renders that it has never seen.
Stages are kept in transfer/inspector/ when they are done; `--publish` writes assets/inspector.json and
the tables in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from stages import stage, stages

from mvtec_ad import metrics, synthetic
from mvtec_ad.backbones import load_backbone
from mvtec_ad.benchmark import supervised
from mvtec_ad.benchmark.published import write_between
from mvtec_ad.config import DataSettings, root_folder, transfer_folder
from mvtec_ad.data import index, sources, splits
from mvtec_ad.data.loading import read_image
from mvtec_ad.inspection import InspectionOptions, Inspector, ProductClassifier
from mvtec_ad.inspection.products import describe
from mvtec_ad.methods.autoencoder import Autoencoder
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.metrics import format_metric, markdown_table

LEFT_OUT = "bottle"
SYNTHETIC = DataSettings(synthetic_train=60, synthetic_test_good=20, synthetic_per_defect=10)
SEEDS = (0,)


def main() -> None:
    """Run what is missing, then print or publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet", help="of the ResNet-18s")
    parser.add_argument("--bottle", type=Path, help="folder of real bottles in MVTec layout")
    parser.add_argument("--packages", type=Path, help="folder of packages")
    parser.add_argument("--only", choices=("products", "cost", "speed"))
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    folder = transfer_folder() / "inspector"
    if arguments.only in (None, "products"):
        stage(folder, "products", lambda kept: name_products(arguments))
    if arguments.only in (None, "cost"):
        for category in synthetic.CATEGORIES:
            stage(folder, f"cost-{category}", lambda kept, category=category: cost(category, synthetic_table(category)))
    if arguments.only == "speed":
        stage(folder, "speed", lambda kept: speed())
    found = stages(folder)
    text = tables(found)
    print(text)
    if arguments.publish:
        assets = root_folder() / "assets"
        (assets / "inspector.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write_between(root_folder() / "docs" / "results.md", "inspection", text)


def synthetic_table(category: str) -> pd.DataFrame:
    """Table of a drawn product."""
    return index.read_category(sources.locate(category, source="synthetic", settings=SYNTHETIC), category)


def read(paths: Sequence[str]) -> list[np.ndarray]:
    """Pictures of any size."""
    return [read_image(path) for path in paths]


def name_products(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seven products and their test images; then six, and what each refuses."""
    options = InspectionOptions(weights=arguments.weights)
    network = load_backbone(options.backbone, options.weights)
    features, tested = {}, {}
    for category in synthetic.CATEGORIES:
        table = splits.supervised(synthetic_table(category), seed=0)
        learned = read(table.loc[table["part"] != "test", "image_path"])
        features[category] = describe(network, learned, options.image_size)
        tested[category] = read(table.loc[table["part"] == "test", "image_path"])
    seven = ProductClassifier.fit(options, network, features)
    right, count, rows = 0, 0, {}
    for category, pictures in tested.items():
        names, ood_scores = seven.name(pictures)
        hits = int(((names == category) & (ood_scores <= 1)).sum())
        rows[category] = {"images": len(pictures), "right": hits, "none": int((ood_scores > 1).sum())}
        right, count = right + hits, count + len(pictures)
    six = ProductClassifier.fit(options, network, {name: x for name, x in features.items() if name != LEFT_OUT})
    unknown = {f"{LEFT_OUT}, drawn": tested[LEFT_OUT]}
    if arguments.bottle:
        real = index.read_category(arguments.bottle.parent, arguments.bottle.name)
        unknown["bottle, real"] = read(real.loc[real["split"] == "test", "image_path"])
    if arguments.packages:
        boxes = index.read_category(arguments.packages.parent, arguments.packages.name)
        unknown["packages, third-party renders"] = read(boxes["image_path"])
    refused = {}
    for name, pictures in unknown.items():
        _, ood_scores = six.name(pictures)
        refused[name] = {"images": len(pictures), **share((ood_scores > 1).sum(), len(pictures))}
        refused[name]["smallest_distance"] = float(ood_scores.min())
    return {
        "named": share(right, count),
        "images": count,
        "products": rows,
        "strangers": refused,
        "weights": network.weights,
    }


def share(hits: int, count: int) -> dict[str, float]:
    """A share with Wilson's interval."""
    low, high = metrics.wilson(float(hits / count), count)
    return {"mean": float(hits / count), "low": low, "high": high}


def cost(category: str, table: pd.DataFrame) -> dict[str, Any]:
    """Classifier and inspector of one drawn product, with the settings of the profile *quick*, for each seed."""
    settings = Classifier.preset("quick", roi="whole", image_size=128)
    second = {"inspection": InspectionOptions.preset("quick"), "second": Autoencoder.preset("quick")}
    found = supervised.run("inspector", table, settings, SEEDS, data_source="synthetic", **second)
    verdicts = [{"label": found.labels.tolist(), "alone": own, "both": both} for own, both in found.report["verdicts"]]
    report = {key: value for key, value in found.report.items() if key not in ("verdicts", "mistakes")}
    return {"report": report | {"cost": found.report["mistakes"]}, "verdicts": verdicts}


def speed(images: int = 100) -> dict[str, Any]:
    """Milliseconds an image of the line, with the artifacts of this home, second opinion and types included."""
    tables = [index.read_category(sources.locate(name, source="synthetic"), name) for name in ("bottle", "screw")]
    paths = pd.concat([table[table["split"] == "test"] for table in tables])["image_path"]
    paths = list(paths.sample(images, replace=len(paths) < images, random_state=0))
    inspector = Inspector.load()
    list(inspector.inspect(paths[:20], anomaly_maps=False))  # what the first images cost more is not counted
    spent = {}
    for name, anomaly_maps in (("verdicts", False), ("with heat maps", True)):
        begun = time.perf_counter()
        list(inspector.inspect(paths, anomaly_maps=anomaly_maps))
        spent[name] = 1000 * (time.perf_counter() - begun) / images
    return {"milliseconds": spent, "images": images}


def tables(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    parts = []
    if "products" in found:
        own = found["products"]
        rows = [["seven drawn products, test images", own["images"], "named right", format_metric(own["named"])]]
        for name, one in own["strangers"].items():
            rows.append([f"{name}, known are the six others", one["images"], "none of these", format_metric(one)])
        parts.append(markdown_table(["", "images", "", "share"], rows))
    costs = {name.removeprefix("cost-"): one for name, one in found.items() if name.startswith("cost-")}
    if costs:
        rows = []
        for name, one in {**costs, "all drawn products": pooled(list(costs.values()))}.items():
            own = one["report"]["cost"]
            images = len(one["verdicts"][0]["label"])
            widths = ", ".join(f"{band['width']:g}" for band in one["report"].get("bands", []))
            difference = "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**own["difference"])
            rows.append(
                [name, images, widths, *(f"{own[way]['mean']:.3f}" for way in ("classifier", "inspector")), difference]
            )
        columns = ["", "test images", "half-width", "classifier alone", "inspector", "difference, paired"]
        parts.append(markdown_table(columns, rows))
    return "\n\n".join(parts)


def pooled(found: list[dict[str, Any]]) -> dict[str, Any]:
    """All products together: their images one after the other."""
    verdicts = [
        {key: np.concatenate([one["verdicts"][seed][key] for one in found]) for key in ("label", "alone", "both")}
        for seed in range(len(SEEDS))
    ]
    pairs = [(own["alone"].astype(bool), own["both"].astype(bool)) for own in verdicts]
    difference = supervised.cost_difference(verdicts[0]["label"], pairs, InspectionOptions())
    return {"report": {"cost": difference}, "verdicts": verdicts}


if __name__ == "__main__":
    main()
