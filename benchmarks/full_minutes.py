"""Estimated minutes of every notebook in profile full, on real MVTec AD and a T4: nothing of it is run.

    python benchmarks/full_minutes.py [--out assets/full_minutes.json] [--page docs/how_it_was_measured.md]

What the notebooks do stands in `full_parts.py`, what one time of it costs in `costs.py`. How far to trust it is
measured too: two trainings of quick, estimated for a core of this CPU in the same way, and run.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from costs import T4, step, this_core, tuning
from full_parts import SOURCES, parts
from threadpoolctl import threadpool_limits

from mvtec_ad import artifacts
from mvtec_ad.benchmark.published import write_between
from mvtec_ad.methods.autoencoder import Autoencoder
from mvtec_ad.methods.pretraining import Pretraining, pretrain
from mvtec_ad.metrics import markdown_table
from mvtec_ad.stages import STAGES


def needed(notebook: str) -> set[str]:
    """Artifacts without which a notebook cannot begin, and those that they are made from."""
    call = re.search(r"need\(\s*run,(.*?)(?:optional|other_profile)", SOURCES[notebook].read_text("utf-8"), re.S)
    names = set(re.findall(r'"(\w+)"', call[1])) if call else set()
    while more := {name for stage in names for name in STAGES[stage].needs} - names:
        names |= more
    return names


def estimate() -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """A row per part; and of each notebook the minutes after earlier ones, and `alone`, when it makes what it needs."""
    rows, notebooks = [], {}
    for part in sorted(parts(), key=lambda part: part.notebook):
        cost = part.cost()
        row = {"notebook": part.notebook, "part": part.what, "count": part.count, "unit": part.unit}
        rows.append(row | {"gflop": cost.gflop, "minutes": part.count * cost.seconds() / 60, "stage": part.stage})
    for name in SOURCES:
        own = [row for row in rows if row["notebook"] == name]
        made = [row for row in rows if row["notebook"] != name and row["stage"] in needed(name)]
        minutes, more = (sum(row["minutes"] for row in some) for some in (own, made))
        notebooks[name] = {"minutes": minutes, "alone": minutes + more}
        notebooks[name]["longest"] = max(own, key=lambda row: row["minutes"])["part"]
    return rows, notebooks


def page_table(report: dict[str, Any]) -> str:
    """Markdown: minutes of every notebook."""
    lines = [
        [name, f"{row['minutes']:.0f}", f"{row['alone']:.0f}", row["longest"]]
        for name, row in report["notebooks"].items()
    ]
    return markdown_table(["notebook", "minutes", "from nothing", "what takes longest"], lines)


def quick_trainings() -> dict[str, dict[str, float]]:
    """CPU seconds of two trainings of quick: as they are estimated, from what this core delivers, and as they are."""
    model, settings, core = Autoencoder.preset("quick"), Pretraining.preset("quick"), this_core()
    textures = np.random.default_rng(0).integers(0, 256, (settings.images, 96, 96, 3), np.uint8)
    bank, images = (textures, np.zeros(textures.shape[:3], np.int16)), textures[:60, :64, :64]
    estimated = [step(Autoencoder, "quick") * model.steps]
    estimated += [tuning("resnet18", settings.view, settings.views) * settings.steps]
    tasks = {"autoencoder": lambda: model.fit(images), "pretraining": lambda: pretrain(settings, bank, progress=False)}
    check = {}
    for (name, task), cost in zip(tasks.items(), estimated, strict=True):
        begun = time.process_time()
        task()
        check[name] = {"estimated": cost.seconds(core), "measured": time.process_time() - begun}
        check[name]["ratio"] = check[name]["measured"] / check[name]["estimated"]
    return check


def main() -> None:
    """Estimate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write all figures into this JSON file")
    parser.add_argument("--page", type=Path, help="write the minutes between the marks full_minutes of this page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        (rows, notebooks), check = estimate(), quick_trainings()
    report = {"note": "estimated: nothing was run on a T4", "machine": T4._asdict(), "check": check}
    report |= {"git_commit": artifacts.git_commit(), "notebooks": notebooks, "parts": rows}
    lines = [
        [
            row["notebook"],
            row["part"],
            f"{row['count']:,} {row['unit']}",
            f"{row['gflop']:.2f}",
            f"{row['minutes']:.2f}",
        ]
        for row in rows
    ]
    print(markdown_table(["notebook", "part", "how often", "GFLOP of one", "minutes"], lines))
    print(f"\n{page_table(report)}\n\nCPU seconds of trainings of quick: {json.dumps(check, indent=1)}")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.page:
        write_between(arguments.page, "full_minutes", page_table(report))


if __name__ == "__main__":
    main()
