"""Supervised segmentation beside PatchCore on real products: repeated, by labels, a type left out, drawn defects.

    python benchmarks/segmentation.py measure bottle     one product: prints its tables, fills assets/segmentation.json
    python benchmarks/segmentation.py show               prints the tables of what was measured

Reads real MVTec AD where MVTEC_AD_ROOT says. Each repetition cuts the supervised split anew. Segmentation learns from
the parts train and validation, of which it holds a fifth out for its level; PatchCore is fitted on all official good
training images, and its level is chosen on all defects of those two parts. Both are asked about the same test part.
Intervals over repetitions are Nadeau and Bengio's (`metrics.corrected_t`), for the repetitions share images; that of
the difference of AUPRO is also bootstrapped over images, each drawn as often in every repetition and for both methods.

The rule, written down before the repetitions 100 to 114 were looked at: one method is ahead in AUPRO on a product where
the corrected interval over these 15 repetitions excludes zero. The bootstrap stands beside it and decides nothing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from mvtec_ad import metrics, synthetic
from mvtec_ad.artifacts import write_file
from mvtec_ad.data import index, loading, splits
from mvtec_ad.methods.patchcore import Patchcore
from mvtec_ad.methods.segmentation import Segmentation, best_level, overlap

TARGET = Path(__file__).parents[1] / "assets" / "segmentation.json"
SIZE = 192
REPETITIONS, CURVE_REPETITIONS = range(100, 115), range(100, 102)
DEFECTS = (1, 2, 5, 10, 20)  # labelled ones of the learning curve
TESTED = 0.3  # share of the images that a repetition tests on
DRAWN = {"train": 60, "test_good": 20, "per_defect": 12, "size": SIZE}
NAMES = ("au_pro", "pixel_auroc", "dice", "iou")


def resized(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The same table over copies of SIZE pixels: decoding the originals for every fit would take most of the time."""
    table = table.copy()
    images = loading.load_images(list(table["image_path"]), SIZE)
    masks = loading.load_masks(table, SIZE)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), image[..., ::-1])
        table.loc[number, "image_path"] = str(path)
        if table.loc[number, "mask_path"]:
            cv2.imwrite(str(folder / f"{number}_mask.png"), mask.astype(np.uint8) * 255)
            table.loc[number, "mask_path"] = str(folder / f"{number}_mask.png")
    return table


def parts_of(table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is learned from, and the test part."""
    table = splits.supervised(table, seed=seed)
    return tuple(table[rows].reset_index(drop=True) for rows in (table["part"] != "test", table["part"] == "test"))


def measured(maps: np.ndarray, level: float, test: pd.DataFrame, sizes: dict[str, str]) -> dict[str, Any]:
    """Metrics on a test part; Dice also by type and by size of the defect."""
    masks, labels = loading.load_masks(test, SIZE), test["label"].to_numpy() == 1
    dice, iou = overlap(maps > level, masks)
    frame = test.assign(dice=dice, size=test["image_id"].map(sizes))[labels]
    values = {key: value for key, value in metrics.pixel_metrics(maps, masks).items() if key in NAMES}
    values |= {"dice": float(dice[labels].mean()), "iou": float(iou[labels].mean()), "level": level}
    return values | {by: frame.groupby(by)["dice"].mean().to_dict() for by in ("defect", "size")}


def histograms(maps: np.ndarray, test: pd.DataFrame) -> metrics.PixelHistograms:
    """Of the maps of a test part."""
    return metrics.PixelHistograms.from_maps(maps, loading.load_masks(test, SIZE))


def fitted(table: pd.DataFrame, seed: int, pool: dict | None = None, **options: Any) -> Segmentation:
    """A trained network."""
    return Segmentation(**{"image_size": SIZE, "crop": SIZE, **options}).fit(table, seed, pool=pool)


def scored(model: Segmentation, test: pd.DataFrame, sizes: dict[str, str]) -> dict:
    """`measured` of a network, its maps brought to SIZE."""
    maps = [cv2.resize(each, (SIZE, SIZE)) for each in model.score(list(test["image_path"])).maps]
    return measured(np.stack(maps), model.level, test, sizes)


def some_defects(learned: pd.DataFrame, number: int, seed: int) -> pd.DataFrame:
    """All good images and `number` defects, drawn; those of a smaller number are among those of a larger."""
    defects = learned.index[learned["label"] == 1]
    left = np.random.default_rng(seed).permutation(defects)[number:]
    return learned.drop(index=left).reset_index(drop=True)


def measure(category: str, keep: Callable[[dict[str, Any]], None]) -> None:
    """Everything about one product, kept after each of its parts."""
    torch.set_num_threads(1)
    begun, report = time.process_time(), {"size": SIZE, "seconds": {}}

    def end(part: str) -> None:
        """Note the processor seconds of a part."""
        nonlocal begun
        report["seconds"][part] = round(time.process_time() - begun, 1)
        begun = time.process_time()
        keep(report)

    with tempfile.TemporaryDirectory() as folder:
        table = resized(index.read_category(Path(os.environ["MVTEC_AD_ROOT"]), category), Path(folder))
        areas = loading.load_masks(table, SIZE).mean((1, 2))
        thirds = np.quantile(areas[areas > 0], [1 / 3, 2 / 3])
        words = np.array(["small", "medium", "large"])[np.searchsorted(thirds, areas)]
        sizes, report["thirds"] = dict(zip(table["image_id"], words, strict=True)), thirds.tolist()
        counts = table.groupby(["split", "defect"]).size()
        report["images"] = {"/".join(folder): int(count) for folder, count in counts.items()}
        end("reading")

        official = table[table["split"] == "train"]
        patchcore = Patchcore(image_size=SIZE, crop=SIZE, coreset=0.02).fit(list(official["image_path"]))
        tests = table[table["split"] == "test"].reset_index(drop=True)
        maps = dict(zip(tests["image_id"], patchcore.score(list(tests["image_path"])).maps, strict=True))
        report["patchcore_options"] = patchcore.options()
        end("patchcore")

        def of_patchcore(learned: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
            defects = learned[learned["label"] == 1]
            level = best_level(np.stack([maps[n] for n in defects["image_id"]]), loading.load_masks(defects, SIZE))
            return measured(np.stack([maps[name] for name in test["image_id"]]), level, test, sizes)

        pool: dict = {}
        report["repetitions"], models, resampled = [], {}, []
        weights = dict(zip(tests["image_id"], metrics.resample_weights(tests["label"], 2000).T, strict=True))
        for seed in REPETITIONS:
            learned, test = parts_of(table, seed)
            models[seed] = fitted(learned, seed, pool)
            rows = {"segmentation": scored(models[seed], test, sizes), "patchcore": of_patchcore(learned, test)}
            report["repetitions"].append(rows)
            both = (
                models[seed].score(list(test["image_path"])).maps,
                np.stack([maps[name] for name in test["image_id"]]),
            )
            drawn = np.stack([weights[name] for name in test["image_id"]], 1)  # images drawn alike in all repetitions
            resampled.append([histograms(each, test).coarsen().au_pro(weights=drawn) for each in both])
            keep(report)
        report["segmentation_options"] = models[REPETITIONS[0]].options()
        means = [[row[m]["au_pro"] for row in report["repetitions"]] for m in ("segmentation", "patchcore")]
        pair = np.nanmean(resampled, axis=0), np.mean(means, axis=1)
        report["au_pro_difference"] = metrics.paired_difference(*pair[0], *pair[1], int(tests["label"].sum()))
        report["summary"] = summary(report["repetitions"])
        end("repetitions")

        def curve(seed: int) -> None:
            learned, test = parts_of(table, seed)
            for number in DEFECTS:
                model = fitted(some_defects(learned, number, seed), seed, pool)
                report["curve"].append({"defects": number, "seed": seed, **scored(model, test, sizes)})
                keep(report)

        report["curve"] = []
        curve(CURVE_REPETITIONS[0])
        end("curve, first draw")

        report["left_out"] = {}
        learned, test = parts_of(table, REPETITIONS[0])
        for kind in sorted(set(learned["defect"]) - {"good"}):
            asked = test[test["defect"].isin(("good", kind))].reset_index(drop=True)
            without = fitted(learned[learned["defect"] != kind].reset_index(drop=True), REPETITIONS[0], pool)
            rows = {"without": scored(without, asked, sizes), "with": scored(models[REPETITIONS[0]], asked, sizes)}
            report["left_out"][kind] = rows | {"patchcore": of_patchcore(learned, asked)}
            keep(report)
        end("left out")

        for seed in CURVE_REPETITIONS[1:]:
            curve(seed)
        end("curve, other draws")

        root = Path(folder) / "drawn"
        synthetic.write_category(root, category, **DRAWN, seed=0)
        drawn = index.read_category(root, category)
        model = fitted(drawn, 0)
        report["synthetic"] = {"rows": [scored(model, parts_of(table, seed)[1], sizes) for seed in REPETITIONS]}
        report["synthetic"]["drawn"] = {"good": int((drawn["label"] == 0).sum()), "defects": int(drawn["label"].sum())}
        end("synthetic")

        report["unet"] = []
        for seed in CURVE_REPETITIONS:
            learned, test = parts_of(table, seed)
            model = fitted(learned, seed, architecture="unet", image_size=96, crop=96, steps=150)
            report["unet"].append(scored(model, test, sizes))
            keep(report)
        report["unet_options"] = model.options()
        end("unet")


# --- what it says -----------------------------------------------------------------------------------------------------


def over(values: list[float]) -> str:
    """Mean and interval over repetitions."""
    return metrics.format_metric(metrics.corrected_t(values, TESTED))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Metric -> both methods and their difference, each with its interval over repetitions, and the verdict."""
    report = {}
    for name in NAMES:
        ours, theirs = ([row[method][name] for row in rows] for method in ("segmentation", "patchcore"))
        values = {"segmentation": ours, "patchcore": theirs, "difference": np.subtract(ours, theirs)}
        intervals = {key: metrics.corrected_t(value, TESTED) for key, value in values.items()}
        verdict = metrics.verdict(intervals["difference"]["low"], intervals["difference"]["high"])
        report[name] = intervals | {"verdict": verdict}
    return report


def lines(category: str, report: dict[str, Any]) -> list[str]:
    """The tables of a product."""
    rows = report["repetitions"]
    pairs = [
        [
            name,
            *(metrics.format_metric(row[key]) for key in ("segmentation", "patchcore", "difference")),
            row["verdict"],
        ]
        for name, row in summary(rows).items()
    ]
    text = [f"## {category}, {len(rows)} repetitions", ""]
    text += [metrics.markdown_table(["", "DeepLabV3+", "PatchCore", "difference", ""], pairs), ""]
    if "au_pro_difference" in report:
        gap = report["au_pro_difference"]
        word = metrics.verdict(gap["low"], gap["high"])
        text += [f"AUPRO difference, images drawn alike in all repetitions: {metrics.format_metric(gap)}: {word}", ""]
    for by in ("defect", "size"):
        table = []
        for key in dict.fromkeys(key for row in rows for key in row["segmentation"][by]):
            both = [[row[m][by][key] for row in rows if key in row[m][by]] for m in ("segmentation", "patchcore")]
            if len(both[0]) > 1:
                table.append([key, over(both[0]), over(both[1]), over(list(np.subtract(*both)))])
        text += [metrics.markdown_table([f"Dice by {by}", "DeepLabV3+", "PatchCore", "difference"], table), ""]
    if report.get("curve"):
        table, crossing = [], None
        for number in DEFECTS:
            points = [row for row in report["curve"] if row["defects"] == number]
            theirs = np.mean([rows[REPETITIONS.index(row["seed"])]["patchcore"]["au_pro"] for row in points])
            ours = np.mean([row["au_pro"] for row in points])
            crossing = crossing or (number if ours > theirs else None)
            dice = np.mean([row["dice"] for row in points])
            table.append([number, *map(metrics.format_number, (ours, theirs, ours - theirs, dice))])
        heads = ["labelled defects", "AUPRO, DeepLabV3+", "AUPRO, PatchCore", "difference", "Dice, DeepLabV3+"]
        text += [metrics.markdown_table(heads, table), ""]
        text += [f"supervision overtakes PatchCore at {crossing or 'none of these numbers'} labelled defects", ""]
    if report.get("left_out"):
        table = [
            [kind, *(metrics.format_number(row[m][name]) for name in ("dice", "au_pro") for m in row)]
            for kind, row in report["left_out"].items()
        ]
        heads = [f"{name} {m}" for name in ("Dice", "AUPRO") for m in ("left out", "shown", "PatchCore")]
        text += [metrics.markdown_table(["type left out", *heads], table), ""]
    for key, title in (("synthetic", "trained on drawn defects only"), ("unet", "U-Net from scratch")):
        found = report[key]["rows"] if key == "synthetic" and key in report else report.get(key)
        if found:
            text.append(
                f"{title}, {len(found)} test parts: "
                + ", ".join(f"{name} {metrics.format_number(np.mean([row[name] for row in found]))}" for name in NAMES)
            )
    return [*text, "", f"processor seconds: {report['seconds']}", ""]


def main(command: str, *categories: str) -> None:
    """Measure and keep, or show."""

    def known() -> dict[str, Any]:
        return json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}

    def keep(category: str, report: dict[str, Any]) -> None:
        write_file(TARGET, json.dumps(known() | {category: report}, indent=1) + "\n")

    for category in categories if command == "measure" else ():
        measure(category, lambda report, category=category: keep(category, report))
    for category, report in known().items():
        print("\n".join(lines(category, report)))


if __name__ == "__main__":
    main(*sys.argv[1:])
