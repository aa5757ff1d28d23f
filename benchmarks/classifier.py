"""Supervised classification of packages and of a product, on labelled images: what each step is worth.

    python benchmarks/classifier.py --packages ROOT/FOLDER --product ROOT/FOLDER --weights PATH [--publish]

Writes transfer/classifier.json stage by stage; a killed run that is started again goes on where it was (and inside a
stage where its last checkpoint was). `--publish` writes assets/classifier.json and assets/classifier.md from it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import artifacts, metrics
from mvtec_ad.config import home, transfer_folder
from mvtec_ad.data import index, splits
from mvtec_ad.methods import attribution, classifier
from mvtec_ad.methods.attribution import study
from mvtec_ad.methods.classifier import experiment
from mvtec_ad.metrics import format_metric, format_number, markdown_table
from mvtec_ad.settings import AttributionSettings, ClassifierSettings

SCRATCH = ("mobilenet_v3_large", "efficientnet_b0")
TRIED = {  # heads on the frozen network, without fine-tuning
    "whole picture, global average": {"look": "whole", "pyramid": (1,)},
    "whole picture, pyramid": {"look": "whole"},
    "item, pyramid": {"look": "item"},
    "registered, global average": {"pyramid": (1,)},
    "registered, pyramid": {},
}
SPLITS = (0, 1, 2, 3, 4)


def main() -> None:
    """Run what is missing, then print or publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", required=True, type=Path, help="folder of packages")
    parser.add_argument("--product", required=True, type=Path, help="folder of a product in MVTec layout")
    parser.add_argument("--weights", default="imagenet", help="of the ResNet-18")
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    settings = ClassifierSettings(weights=arguments.weights)
    found = Found(transfer_folder() / "classifier.json", settings.options())
    product(arguments.product, replace(settings, look="whole", image_size=128), found)
    packages(arguments.packages, settings, found)
    text = tables(found.values)
    print(text)
    if arguments.publish:
        assets = home() / "assets"
        (assets / "classifier.json").write_text(json.dumps(found.values, indent=1) + "\n", encoding="utf-8")
        (assets / "classifier.md").write_text(text + "\n", encoding="utf-8")


class Found:
    """Results by stage, on disk after each."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if self.values.setdefault("settings", settings) != settings:
            raise SystemExit(f"{path} holds results of other settings: remove it to begin again")
        self.values.setdefault("git_commit", artifacts.git_commit())

    def stage(self, name: str, task: Callable[[], dict[str, Any]]) -> None:
        """Do what is not done yet; CPU minutes are those of the run that finished it."""
        if name in self.values:
            return
        print(f"{name} …", flush=True)
        begun = time.perf_counter()
        result, minutes = experiment.timed(task)
        self.values[name] = {**result, "cpu_minutes": minutes, "minutes": (time.perf_counter() - begun) / 60}
        self.path.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")


def judged(scored: pd.DataFrame) -> dict[str, Any]:
    """Every view, the joint verdict, and what it adds."""
    return {**experiment.by_view(scored), "difference": experiment.joint_minus_better_view(scored)}


def packages(folder: Path, settings: ClassifierSettings, found: Found) -> None:
    """Cross-validation on the items to learn from; then, once, the test items."""
    table = index.read_category(folder.parent, folder.name)
    train, test = (table[table["split"] == part].reset_index(drop=True) for part in ("train", "test"))

    def validated(own: ClassifierSettings, way: str) -> dict[str, Any]:
        scored = experiment.cross_validate(own, train, way)
        scores = scored[["image_id", "fold", "score"]].round({"score": 4}).to_dict("list")
        return {
            **experiment.by_view(scored),
            "difference": experiment.joint_minus_better_view(scored),
            "scores": scores,
        }

    def tested(own: ClassifierSettings, way: str) -> dict[str, Any]:
        scored, models, paths = experiment.score_unseen(own, train, test, way)
        keep(folder.name, own.architecture, way, models)
        for path in paths:
            path.unlink(missing_ok=True)
        return judged(scored)

    def no_network() -> dict[str, Any]:
        fold = splits.grouped_folds(train, 5, 0)
        parts = [experiment.trivial_rows(train[fold != k], train[fold == k]) for k in range(5)]
        scores = pd.concat(parts).loc[train.index]
        return {
            view: {name: metrics.image_auroc(rows["label"], scores.loc[rows.index, name]) for name in scores}
            for view, rows in train.groupby("view")
        }

    found.stage("trivial rows", no_network)
    found.stage(f"cross-validated, {experiment.PER_VIEW}", lambda: validated(settings, experiment.PER_VIEW))
    found.stage(f"test items, {experiment.PER_VIEW}", lambda: tested(settings, experiment.PER_VIEW))
    found.stage("explanations", lambda: explained(folder.name, test))
    for name, changes in TRIED.items():
        own = replace(settings, steps=0, **changes)
        found.stage(f"head alone: {name}", lambda own=own: validated(own, experiment.PER_VIEW))
    found.stage(f"cross-validated, {experiment.TOGETHER}", lambda: validated(settings, experiment.TOGETHER))
    found.stage(f"test items, {experiment.TOGETHER}", lambda: tested(settings, experiment.TOGETHER))
    for architecture in SCRATCH:
        own = experiment.from_scratch(settings, architecture)
        found.stage(f"test items, {architecture} from scratch", lambda own=own: tested(own, experiment.TOGETHER))


def explained(category: str, test: pd.DataFrame) -> dict[str, Any]:
    """Where the models per view look on the test items: completeness, and whether peaks lie in the boxes."""
    rows, errors = [], []
    for view in sorted(test["view"].unique()):
        artifact = artifacts.load(transfer_folder() / f"classifier-resnet18-{view}.zip")
        model, _ = classifier.restore(artifact, category, f"resnet18-{view}")
        own = test[test["view"] == view].reset_index(drop=True)
        images, transforms = model.cut(own)
        regions = study.regions_of(model, own, transforms)
        maps, error = study.explain_all(model, images, np.where(own["label"] == 1, 1.0, -1.0), AttributionSettings())
        errors += error.tolist()
        for method, found in maps.items():
            hits, shares = attribution.pointing_game(found, regions), attribution.covered(regions)
            columns = {"view": view, "label": own["label"], "method": method, "hit": hits, "covered": shares}
            rows.append(pd.DataFrame(columns))
    table = pd.concat(rows)
    pointing = {
        f"{method}, {'damaged' if label else 'intact'}, {view}": {
            "hits": float(part["hit"].mean()),
            "covered": float(part["covered"].mean()),
            **attribution.pointing_against_area(part["hit"].to_numpy(), part["covered"].to_numpy()),
        }
        for (method, label), whole in table.groupby(["method", "label"])
        for view, part in [("both views", whole), *whole.groupby("view")]
    }
    return {"completeness_errors": errors, "median_error": float(np.nanmedian(errors)), "pointing": pointing}


def keep(category: str, architecture: str, way: str, models: list[classifier.DefectClassifier]) -> None:
    """Each trained model in an artifact of its own: transfer/classifier-NAME.zip."""
    for model in models:
        name = f"{architecture}-{'all' if way == experiment.TOGETHER else next(iter(model.finders))}"
        limit = metrics.bayes_threshold(10, 1, model.temperature)
        artifacts.save(
            "models",
            classifier.members(model, category, name, threshold=limit, metrics={}),
            profile="custom",
            data_source="own",
            categories=[category],
            options=model.settings.options(),
            seed=model.seed,
            path=transfer_folder() / f"classifier-{name}.zip",
        )


def product(folder: Path, settings: ClassifierSettings, found: Found) -> None:
    """The supervised split of a product, cut anew five times."""
    table = index.read_category(folder.parent, folder.name)

    def repeated() -> dict[str, Any]:
        repeats = experiment.repeated_splits(settings, table, SPLITS)
        return {"category": folder.name, "image_size": settings.image_size, "splits": repeats}

    found.stage("product", repeated)


def tables(found: dict[str, Any]) -> str:
    """Markdown: packages, what was tried, and the product."""
    views = ["side", "top", experiment.JOINT]
    rows = []
    for name, result in found.items():
        if isinstance(result, dict) and experiment.JOINT in result:
            cells = [format_metric(result[view]["image_auroc"]) for view in views]
            accuracy = format_metric(result[experiment.JOINT]["accuracy"])
            rows.append([name, *cells, format_metric(result["difference"]), accuracy, f"{result['cpu_minutes']:.0f}"])
    for name in found["trivial rows"]["side"]:
        cells = [format_number(found["trivial rows"][view][name]) for view in views[:2]]
        rows.append([f"trivial: {name}", *cells, "–", "–", "–", "0"])
    columns = ["Packages: image AUROC", *views, "joint − better view", "accuracy, joint", "CPU minutes"]
    repeats = found["product"]["splits"]
    values = [one["image_auroc"]["mean"] for one in repeats]
    lines = [
        [one["seed"], format_metric(one["image_auroc"]), *(format_number(value) for value in one["trivial"].values())]
        for one in repeats
    ]
    names = list(repeats[0]["trivial"])
    means = [float(np.mean([one["trivial"][name] for one in repeats])) for name in names]
    lines.append(["mean", *(format_number(value) for value in (float(np.mean(values)), *means))])
    heads = [f"{found['product']['category']}, split", "image AUROC", *names]
    parts = [markdown_table(columns, rows), markdown_table(heads, lines)]
    if "explanations" in found:
        parts += explanation_tables(found["explanations"])
    return "\n\n".join(parts)


def explanation_tables(found: dict[str, Any]) -> list[str]:
    """A sentence on completeness, and the pointing game."""
    rows = [
        [
            name,
            f"{one['hits']:.2f}",
            f"{one['covered']:.2f}",
            f"{one['mean']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]",
        ]
        for name, one in found["pointing"].items()
    ]
    words = f"Integrated gradients: median relative error of completeness {found['median_error']:.4f}."
    heads = ["Peak in the box (one model per view, test items)", "hits", "covered share", "difference"]
    return [words, markdown_table(heads, rows)]


if __name__ == "__main__":
    main()
