"""Supervised classification of packages and of a product, on labelled images: what each step is worth.

    python benchmarks/classifier.py --packages ROOT/FOLDER --product ROOT/FOLDER [--publish]

Writes transfer/classifier.json stage by stage; a killed run that is started again goes on where it was (and inside a
stage where its last checkpoint was). `--publish` writes assets/classifier.json and its tables in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad import artifacts, metrics
from mvtec_ad.benchmark.published import write_between
from mvtec_ad.config import root_folder, transfer_folder
from mvtec_ad.data import index, splits
from mvtec_ad.methods import baselines, classifier, explain
from mvtec_ad.methods.base import as_tensor
from mvtec_ad.methods.classifier import JOINT, Classifier, by_view, joint_minus_better_view, score_unseen
from mvtec_ad.metrics import format_metric, format_number, markdown_table
from mvtec_ad.training import checkpoints_folder, remove_checkpoints

PER_VIEW, TOGETHER = "one model per view", "one model for all views"
NETWORKS = {  # heads on other networks that need no hub
    "EfficientNet-Lite2": {"backbone": "efficientnet_lite2"},
    "ResNet-18 without photographs": {"backbone": "resnet18", "weights": "synthetic"},
}
TRIED = {  # heads on the frozen network, without fine-tuning
    "whole picture, global average": {"roi": "whole", "pyramid": (1,)},
    "whole picture, pyramid": {"roi": "whole"},
    "item, pyramid": {"roi": "item"},
    "registered, global average": {"pyramid": (1,)},
    "registered, pyramid": {},
}
SPLITS = (0, 1, 2, 3, 4)


def main() -> None:
    """Run what is missing, then print or publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", required=True, type=Path, help="folder of packages")
    parser.add_argument("--product", required=True, type=Path, help="folder of a product in MVTec layout")
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    detector = Classifier()
    results = Results(transfer_folder() / "classifier.json", detector.options())
    product(arguments.product, replace(detector, roi="whole", image_size=128), results)
    packages(arguments.packages, detector, results)
    text = tables(results.values)
    print(text)
    if arguments.publish:
        assets = root_folder() / "assets"
        (assets / "classifier.json").write_text(json.dumps(results.values, indent=1) + "\n", encoding="utf-8")
        write_between(root_folder() / "docs" / "results.md", "classifier", text)


class Results:
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
        clocks = {"cpu_minutes": time.process_time, "minutes": time.perf_counter}
        begun = {key: clock() for key, clock in clocks.items()}
        result = task()
        self.values[name] = result | {key: (clock() - begun[key]) / 60 for key, clock in clocks.items()}
        self.path.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")


def cross_validate(detector: Classifier, table: pd.DataFrame, way: str = PER_VIEW, folds: int = 5) -> pd.DataFrame:
    """Every image scored by a model that has seen neither it nor another view of its item.

    Returns:
        As `score_unseen`, with column fold, in the order of the table.
    """
    fold = splits.grouped_folds(table, folds, 0)
    frames, models = [], []
    for number in range(folds):
        train, test = table[fold != number], table[fold == number]
        scored, fitted = score_unseen(detector, train, test, per_view=way == PER_VIEW, checkpoints=checkpoints_folder())
        frames.append(scored.assign(fold=number))
        models += fitted
    forget(models)
    return pd.concat(frames).loc[table.index]


def repeated_splits(detector: Classifier, table: pd.DataFrame, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A product with the supervised split, cut anew for each seed.

    What the model learns from are the parts `train` and `validation`; the model's own seed holds the latter out anew.

    Returns:
        For each seed `classifier.measure` of its test part, and image AUROC of the trivial rows on it.
    """
    results, models = [], []
    for seed in seeds:
        table = splits.supervised(table, seed=seed)
        train, test = table[table["part"] != "test"], table[table["part"] == "test"]
        options = {"per_view": False, "seed": seed, "checkpoints": checkpoints_folder()}
        scored, fitted = score_unseen(detector, train, test, **options)
        labels, trivial = test["label"].to_numpy(), baselines.trivial_rows(train, test)
        rows = {name: metrics.image_auroc(labels, trivial[name]) for name in trivial}
        measured = classifier.measure(labels, scored["score"].to_numpy())
        results.append({"seed": seed, **measured, "trivial": rows})
        models += fitted
    forget(models)
    return results


def forget(models: Sequence[Classifier]) -> None:
    """Remove the checkpoints of trainings whose result is safe."""
    remove_checkpoints(path for model in models for path in model.checkpoint_files)


def packages(folder: Path, detector: Classifier, results: Results) -> None:
    """Cross-validation on the items to learn from; then, once, the test items."""
    table = index.read_category(folder.parent, folder.name)
    train, test = (table[table["split"] == part].reset_index(drop=True) for part in ("train", "test"))

    def validated(detector: Classifier, way: str) -> dict[str, Any]:
        scored = cross_validate(detector, train, way)
        scores = scored[["image_id", "fold", "score"]].round({"score": 4}).to_dict("list")
        return {**by_view(scored), "difference": joint_minus_better_view(scored), "scores": scores}

    def tested(detector: Classifier, way: str) -> dict[str, Any]:
        options = {"per_view": way == PER_VIEW, "checkpoints": checkpoints_folder()}
        scored, models = score_unseen(detector, train, test, **options)
        keep(folder.name, detector.backbone, way, models)
        forget(models)
        return {**by_view(scored), "difference": joint_minus_better_view(scored)}

    def no_network() -> dict[str, Any]:
        fold = splits.grouped_folds(train, 5, 0)
        parts = [baselines.trivial_rows(train[fold != k], train[fold == k]) for k in range(5)]
        scores = pd.concat(parts).loc[train.index]
        return {
            view: {name: metrics.image_auroc(rows["label"], scores.loc[rows.index, name]) for name in scores}
            for view, rows in train.groupby("view")
        }

    results.stage("trivial rows", no_network)
    results.stage(f"cross-validated, {PER_VIEW}", lambda: validated(detector, PER_VIEW))
    results.stage(f"test items, {PER_VIEW}", lambda: tested(detector, PER_VIEW))
    results.stage("explanations", lambda: explained(folder.name, detector.backbone, test))
    for name, changes in TRIED.items():
        head = replace(detector, steps=0, **changes)
        results.stage(f"head alone: {name}", lambda head=head: validated(head, PER_VIEW))
    results.stage(f"cross-validated, {TOGETHER}", lambda: validated(detector, TOGETHER))
    results.stage(f"test items, {TOGETHER}", lambda: tested(detector, TOGETHER))
    for name, changes in NETWORKS.items():
        head = replace(detector, steps=0, **changes)
        results.stage(f"head alone: {name}", lambda head=head: validated(head, PER_VIEW))


def explained(category: str, backbone: str, test: pd.DataFrame) -> dict[str, Any]:
    """Where the models per view look on the test items: completeness, and whether peaks lie in the boxes."""
    rows, errors = [], []
    for view in sorted(test["view"].unique()):
        artifact = artifacts.load(transfer_folder() / f"classifier-{backbone}-{view}.zip")
        model, _ = classifier.restore(artifact, category, f"{backbone}-{view}")
        own = test[test["view"] == view].reset_index(drop=True)
        images, transforms = model.cut(own)
        regions = explain.regions_of(own, transforms, model.image_size)
        signs, network = np.where(own["label"] == 1, 1.0, -1.0), model.network
        maps, error = explain.Attribution().maps(network, network.body, as_tensor(images), signs)
        errors += error.tolist()
        for method, found in maps.items():
            hits, shares = explain.pointing_game(found, regions), regions.mean((1, 2))
            columns = {"view": view, "label": own["label"], "method": method, "hit": hits, "covered": shares}
            rows.append(pd.DataFrame(columns))
    table = pd.concat(rows)
    pointing = {
        f"{method}, {'damaged' if label else 'intact'}, {view}": {
            "hits": float(part["hit"].mean()),
            "covered": float(part["covered"].mean()),
            **explain.pointing_against_area(part["hit"].to_numpy(), part["covered"].to_numpy()),
        }
        for (method, label), whole in table.groupby(["method", "label"])
        for view, part in [("both views", whole), *whole.groupby("view")]
    }
    return {"completeness_errors": errors, "median_error": float(np.nanmedian(errors)), "pointing": pointing}


def keep(category: str, backbone: str, way: str, models: list[Classifier]) -> None:
    """Each trained model in an artifact of its own: transfer/classifier-NAME.zip."""
    for model in models:
        name = f"{backbone}-{'all' if way == TOGETHER else next(iter(model.finders))}"
        limit = metrics.cost_threshold(model.validation["label"], model.validation["score"], 10, 1)
        artifacts.save(
            "models",
            classifier.files(model, category, name, threshold=limit, metrics={}),
            profile="custom",
            data_source="own",
            categories=[category],
            options=model.options(),
            seed=model.seed,
            path=transfer_folder() / f"classifier-{name}.zip",
        )


def product(folder: Path, detector: Classifier, results: Results) -> None:
    """The supervised split of a product, cut anew five times."""
    table = index.read_category(folder.parent, folder.name)

    def repeated() -> dict[str, Any]:
        repeats = repeated_splits(detector, table, SPLITS)
        return {"category": folder.name, "image_size": detector.image_size, "splits": repeats}

    results.stage("product", repeated)


def tables(found: dict[str, Any]) -> str:
    """Markdown: packages, what was tried, and the product."""
    views = ["side", "top", JOINT]
    rows = []
    for name, result in found.items():
        if isinstance(result, dict) and JOINT in result:
            cells = [format_metric(result[view]["image_auroc"]) for view in views]
            accuracy = format_metric(result[JOINT]["accuracy"])
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
