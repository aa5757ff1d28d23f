"""Peak memory of `fit` and `detect` by the number of images, as whole processes: what grows beyond the model itself.

    python benchmarks/memory.py [--counts 100 1000 5000] [--methods padim …] [--only fit] [--pictures] [--out FILE]

Images are 256 × 256, drawn, each another one. Trainings take few steps, for memory does not depend on them; the coreset
of PatchCore keeps a hundredth, for its time does. A slope is what an image costs between the two largest counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from mvtec_ad.metrics import markdown_table

SIZE = 256
FEW_STEPS = ["--steps", "5", "--batch-images", "8"]
OPTIONS = {
    "padim": [],
    "patchcore": ["--coreset", "0.01"],
    "autoencoder": FEW_STEPS,
    "vae": FEW_STEPS,
    "anogan": [*FEW_STEPS, "--search-steps", "2"],
    "f_anogan": [*FEW_STEPS, "--encoder-steps", "5"],
    "knn": [],
}


def draw(folder: Path, count: int) -> None:
    """Write as many different images as are missing in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    grounds = [cv2.GaussianBlur(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8), (0, 0), 6) for _ in range(50)]
    for number in range(count):
        path = folder / f"{number:05d}.png"
        if not path.exists():
            image = grounds[number % len(grounds)].copy()
            image[number // SIZE, number % SIZE] = (255, number % 256, number // 256)
            path.write_bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def measured(arguments: list[str], home: Path) -> dict[str, float]:
    """Peak MB of a command of the package, its seconds, and those until its first verdict."""
    command, begun = [sys.executable, "-m", "mvtec_ad", *arguments], time.perf_counter()
    environment = {**os.environ, "MVTEC_AD_HOME": str(home)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=home)
    process.stdout.readline()
    first = time.perf_counter() - begun
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return {"mb": usage.ru_maxrss * 1024 / 1e6, "seconds": time.perf_counter() - begun, "first": first}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=[100, 1000, 5000])
    parser.add_argument("--methods", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--only", choices=["fit", "detect"])
    parser.add_argument("--pictures", action="store_true", help="let `detect` draw heat maps")
    parser.add_argument("--out", type=Path, help="write all figures into this JSON file")
    arguments = parser.parse_args()
    counts, found = sorted(arguments.counts), []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for count in counts:
            draw(home / f"own{count}" / "part" / "train" / "good", count)
        for method in arguments.methods:
            for count in counts:
                images, model = home / f"own{count}", home / f"{method}{count}.zip"
                size = ["--image-size", str(SIZE), "--out", str(model), *OPTIONS[method]]
                commands = {"fit": ["fit", method, "--root", str(images), "--category", "part", *size]}
                maps = str(home / "maps") if arguments.pictures else "none"
                model = home / f"{method}{counts[0]}.zip"
                commands["detect"] = ["detect", str(model), str(images), "--heat-maps", maps]
                for command, words in commands.items():
                    if arguments.only not in (None, command) and (command, count) != ("fit", counts[0]):
                        continue
                    row = {"method": method, "command": command, "images": count, **measured(words, home)}
                    row["model_mb"] = model.stat().st_size / 1e6
                    found.append(row)
                    print(row, file=sys.stderr, flush=True)
    table = []
    for method, command in dict.fromkeys((row["method"], row["command"]) for row in found):
        rows = [row for row in found if (row["method"], row["command"]) == (method, command)]
        cells = [f"{row['mb']:.0f} ({row['seconds']:.0f} s)" for row in rows] + ["—"] * (len(counts) - len(rows))
        first, last = rows[-2:] if len(rows) > 1 else (rows[0], rows[0])
        slope = (last["mb"] - first["mb"]) / max(1, last["images"] - first["images"])
        table.append([method, command, *cells, f"{slope:.3f}"])
    print(markdown_table(["method", "command", *map(str, counts), "MB an image"], table))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
