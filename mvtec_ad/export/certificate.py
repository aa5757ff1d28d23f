"""The certificate of an export: how far its graphs are from the model they were made of, on images, in numbers."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mvtec_ad import metrics
from mvtec_ad.data.loading import read_image
from mvtec_ad.edge import EdgeModel
from mvtec_ad.export.graph import Fitted

TIMED, WARM = 50, 3  # runs of each latency, and before them
PICTURES = 8  # that they are measured on
SMALLEST = float(np.finfo(np.float32).tiny)
THREADS = {1: "one thread", 2: "two threads"}


def certify(
    model: Fitted, graphs: Mapping[str, bytes], images: Mapping[str, Sequence[str | Path]], *, progress: bool = False
) -> dict[str, Any]:
    """How graphs differ from the model that they were made of, plain JSON data.

    Verdicts are those of the model under its own threshold, and those that the graphs give.

    Args:
        graphs: name -> bytes of an ONNX file.
        images: part, as "good" -> its image files.

    Returns:
        Numbers of images by part, and for each graph the largest difference of a score, absolute and relative to the
        model's (of logits, which pass through 0, relative to the odds), and of a value of a map, the images whose
        verdict changed, size, and latencies in milliseconds, from the picture in memory, with one thread and two.
    """
    edges = {name: EdgeModel(graph, 1) for name, graph in graphs.items()}
    threshold = model.description["threshold"]["model"]
    logits = model.description["method"] == "classifier"  # whose difference is already a relative one, of the odds
    zero = {"score_difference": 0.0, "relative_score_difference": 0.0, "map_difference": 0.0, "verdicts_changed": 0}
    results = {name: {**zero, "changed": []} for name in graphs}
    pictures: list[np.ndarray] = []  # that latencies are measured on
    paths = [path for part in images.values() for path in part]
    for path in tqdm(paths, desc="certificate", unit="image", disable=not progress):
        picture = read_image(path)
        _, score, anomaly_map = model.score(picture)
        for name, edge in edges.items():
            result, (edge_score, edge_map, defect) = results[name], edge.run(picture)
            difference = abs(edge_score - score)
            differences = {"score_difference": difference}
            differences["relative_score_difference"] = difference / (1 if logits else max(abs(score), SMALLEST))
            if anomaly_map is not None:
                differences["map_difference"] = float(np.abs(edge_map - anomaly_map).max())
            result |= {key: max(value, result[key]) for key, value in differences.items()}
            if defect != (score > threshold):
                result["verdicts_changed"] += 1
                result["changed"].append(f"{Path(path).parent.name}/{Path(path).name}")
        if len(pictures) < PICTURES:
            pictures.append(picture)
    for name, graph in graphs.items():
        results[name] |= {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
        results[name]["milliseconds"] = {words: latency(graph, pictures, number) for number, words in THREADS.items()}
    return {
        "threshold": model.description["threshold"],
        "images": {part: len(files) for part, files in images.items()},
        "picture": "×".join(map(str, pictures[0].shape[1::-1])),
        "graphs": results,
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        },
        "versions": model.description["versions"],
    }


def latency(graph: bytes, pictures: Sequence[np.ndarray], threads: int) -> dict[str, float]:
    """Median and 95 % quantile of the milliseconds that a picture takes, over `TIMED` runs after some to warm up."""
    edge, milliseconds = EdgeModel(graph, threads), []
    for number in range(-WARM, TIMED):
        picture = pictures[number % len(pictures)]
        start = time.perf_counter()
        edge.run(picture)
        if number >= 0:
            milliseconds.append(1000 * (time.perf_counter() - start))
    return {"median": float(np.median(milliseconds)), "p95": float(np.quantile(milliseconds, 0.95))}


def certificate_lines(certificate: Mapping[str, Any]) -> list[str]:
    """The certificate as a table to read, a column for each graph."""
    graphs = certificate["graphs"]
    counts = ", ".join(f"{number} {part}" for part, number in certificate["images"].items())
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "verdicts changed": lambda graph: str(graph["verdicts_changed"]),
        "largest score difference": lambda graph: f"{graph['score_difference']:.2g}",
        "… relative": lambda graph: f"{graph['relative_score_difference']:.2g}",
        "largest map difference": lambda graph: f"{graph['map_difference']:.2g}",
        "size, MB": lambda graph: f"{graph['bytes'] / 1e6:.1f}",
    }
    for words in THREADS.values():
        rows[f"ms a picture, {words}: median, p95"] = lambda graph, words=words: "{median:.0f}, {p95:.0f}".format(
            **graph["milliseconds"][words]
        )
    lines = [[name, *map(cell, graphs.values())] for name, cell in rows.items()]
    machine = "{cores} cores, load {load}".format(**certificate["machine"])
    head = f"{counts} images of {certificate['picture']} pixels; {machine}"
    return [head, metrics.markdown_table(["against the model", *graphs], lines)]
