"""EfficientAD on real products: AUROC, processor minutes of a fit, milliseconds an image by torch and by ONNX.

    python benchmarks/efficient_ad.py --root ROOT [--category bottle …] [--seeds 0 1 2] [--patchcore]

A row of a product and a seed is measured once and stays in assets/efficient_ad.json, models and graphs stay in
transfer/efficient_ad/. With --patchcore a PatchCore of 1 % coreset at 224 pixels stands beside. Processor time is that
of one thread, so that a busy machine counts for little; milliseconds of two threads are as the clock shows them, of the
fastest tenth of the calls for the same reason.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mvtec_ad import artifacts, export, metrics
from mvtec_ad.config import transfer_folder
from mvtec_ad.data import index, loading, splits
from mvtec_ad.edge import EdgeModel
from mvtec_ad.methods.base import Detector
from mvtec_ad.methods.efficient_ad import EfficientAd
from mvtec_ad.methods.patchcore import Patchcore
from mvtec_ad.metrics import calibrated, markdown_table

OUT = Path(__file__).parents[1] / "assets" / "efficient_ad.json"
CALLS = 40  # of each latency
GOOD = 50  # training images that a certificate compares beside the test images


def milliseconds(call: Callable[[np.ndarray], Any], pictures: list[np.ndarray], clock: Callable[[], float]) -> float:
    """Of a picture in memory: the tenth part of `CALLS` takes less, after three to warm up."""
    taken = []
    for number in range(-3, CALLS):
        start = clock()
        call(pictures[number % len(pictures)])
        taken += [1000 * (clock() - start)] if number >= 0 else []
    return float(np.quantile(taken, 0.1))


def graph_beside_model(
    detector: Detector, category: str, threshold: dict[str, float], test: list[str], good: list[str], folder: Path
) -> dict[str, Any]:
    """The exported graph: how far it is from the model, and how long both take for a picture."""
    model = export.fitted(detector, category, threshold)
    _, certificate = export.export_model(model, folder, "model", {"test": test, "good": good})
    pictures = [loading.read_image(path) for path in test[:8]]
    one, two = (EdgeModel(folder / "model.onnx", threads) for threads in (1, 2))
    graph = certificate["graphs"]["float32"]
    return {
        **{name: graph[name] for name in ("verdicts_changed", "relative_score_difference", "bytes")},
        "images": sum(certificate["images"].values()),
        "milliseconds": {
            "torch, one thread, processor": milliseconds(model.score, pictures, time.process_time),
            "ONNX, one thread, processor": milliseconds(one.run, pictures, time.process_time),
            "ONNX, one thread, clock": milliseconds(one.run, pictures, time.perf_counter),
            "ONNX, two threads, clock": milliseconds(two.run, pictures, time.perf_counter),
        },
        "load": round(os.getloadavg()[0], 1),
        "versions": certificate["versions"],
    }


def measured(detector: Detector, category: str, seed: int, root: Path, folder: Path) -> dict[str, Any]:
    """One fit, all test images, and of seed 0 the exported graph beside the model."""
    table = splits.official(index.read_category(root, category))
    train, test = (table[table["part"] == part].reset_index(drop=True) for part in ("train", "test"))
    fitted, files = list(train["image_path"]), list(test["image_path"])
    start = time.process_time()
    detector.fit(fitted, seed)
    minutes = (time.process_time() - start) / 60
    scores = detector.score(files)
    masks = loading.load_masks(test, detector.image_size, detector.crop)
    report = metrics.evaluate(test["label"], scores.image[None], [scores.maps], masks)
    threshold = {"value": float(calibrated(detector.good_scores, 0.05)), "false_alarm_rate": 0.05}
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.save_model(folder / "model.zip", detector, category, threshold, data_source="mvtec_ad")
    good = (test["label"] == 0).to_numpy()
    return {
        "method": detector.name,
        "category": category,
        "seed": seed,
        "cpu_minutes": minutes,
        **{name: report[name]["mean"] for name in ("image_auroc", "pixel_auroc", "au_pro")},
        "false_alarms": float((scores.image[good] > threshold["value"]).mean()),
        "found": float((scores.image[~good] > threshold["value"]).mean()),
        "labels": test["label"].tolist(),
        "scores": np.round(scores.image.astype(float), 6).tolist(),
        "graph": graph_beside_model(detector, category, threshold, files, fitted[:GOOD], folder) if seed == 0 else None,
    }


def shown(rows: list[dict[str, Any]]) -> str:
    """A line a method and product, over its seeds."""
    lines = []
    for method, category in dict.fromkeys((row["method"], row["category"]) for row in rows):
        group = [row for row in rows if (row["method"], row["category"]) == (method, category)]
        auroc = metrics.evaluate(group[0]["labels"], [row["scores"] for row in group])["image_auroc"]
        means = {name: np.mean([row[name] for row in group]) for name in ("pixel_auroc", "au_pro", "cpu_minutes")}
        graph = group[0]["graph"]  # seed 0 comes first
        line = [category, method, len(group), metrics.format_metric(auroc)]
        line += [f"{value:.3f}" for value in means.values()]
        line += [f"{value:.1f}" for value in graph["milliseconds"].values()]
        line.append(f"{graph['verdicts_changed']} of {graph['images']}")
        lines.append([*line, f"{graph['relative_score_difference']:.1g}"])
    names = list(graph["milliseconds"])
    columns = ["product", "method", "seeds", "image AUROC", "pixel AUROC", "AUPRO", "processor minutes"]
    return markdown_table([*columns, *(f"ms: {name}" for name in names), "verdicts changed", "score (relative)"], lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--category", nargs="+", default=["bottle", "capsule", "metal_nut"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--patchcore", action="store_true")
    arguments = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for category in arguments.category:
        cells: list[tuple[Detector, int]] = [(EfficientAd(), seed) for seed in arguments.seeds]
        cells += [(Patchcore(coreset=0.01, image_size=224, crop=224), 0)] if arguments.patchcore else []
        for detector, seed in cells:
            known = json.loads(OUT.read_text()) if OUT.is_file() else []
            key = [detector.name, category, seed]
            if key not in [[row["method"], row["category"], row["seed"]] for row in known]:
                folder = transfer_folder() / "efficient_ad" / "-".join(map(str, key))
                row = measured(detector, category, seed, arguments.root, folder)
                known = json.loads(OUT.read_text()) if OUT.is_file() else []  # another product may be measured beside
                artifacts.write_file(
                    OUT, json.dumps(sorted([*known, row], key=lambda one: one["seed"]), indent=1) + "\n"
                )
    print(shown(json.loads(OUT.read_text())))
