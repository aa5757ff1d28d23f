"""Large pictures by tiles: memory and seconds of `fit` and `detect` as whole processes; tiles against the whole.

    python benchmarks/tiles.py [--width 12000] [--height 9000] [--tile 512] [--folder DIR]

Draws a surface of this size as TIFF, with a defect of 60 × 60 pixels, and smaller good ones to fit on (for 5 % false
alarms 19). Peak memory is that of the child process (getrusage), all that it maps included. Then distances of all cells
by tiles are compared with those of one pass over a whole picture of 2,000 × 1,500 pixels.
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

GOOD, GOOD_SIZE = 20, (600, 800)  # a threshold for the large picture would need good ones of its size
DEFECT = 60


def surface(height: int, width: int, seed: int) -> np.ndarray:
    """A rippled surface with grain, (height, width, 3) uint8, drawn in strips."""
    rng = np.random.default_rng(seed)
    picture = np.empty((height, width, 3), np.uint8)
    phase, columns = rng.uniform(0, 6, 2), np.arange(width)
    for start in range(0, height, 256):
        rows = np.arange(start, min(start + 256, height))[:, None]
        ripples = 120 + 30 * np.sin(columns / 23 + phase[0]) * np.cos(rows / 31 + phase[1])
        grain = rng.normal(0, 6, ripples.shape)
        picture[start : start + 256] = np.clip(ripples + grain, 0, 255).astype(np.uint8)[..., None]
    return picture


def child(arguments: list[str], home: Path) -> tuple[float, float, str]:
    """Peak memory in GB and seconds of a command of the package, and what it printed."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "mvtec_ad", *arguments]
    environment = {**os.environ, "MVTEC_AD_HOME": str(home)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=home)
    printed = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - begun, printed


def difference(model: Path) -> str:
    """Largest difference between distances by tiles and those of the whole, and of the scores, relative."""
    import torch

    from mvtec_ad.methods import load_model
    from mvtec_ad.methods.patchcore import measure, patch_features

    detector, _ = load_model(model)
    picture = surface(1504, 2000, 99)  # multiples of 16
    with torch.inference_mode():
        features = patch_features(detector.network(picture[None]), detector.layers, detector.neighbourhood)
    lengths = detector.bank.square().sum(1)
    score, distances = measure(features.flatten(1, 2), detector.bank, lengths, detector.neighbours)
    by_tiles, grid = detector.score_picture(picture)
    whole = distances[0].unflatten(0, grid.shape).numpy()
    relative = np.abs(grid - whole).max() / whole.max()
    return f"distances {relative:.1e}, score {abs(by_tiles / float(score) - 1):.1e} (relative to the largest)"


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=12000)
    parser.add_argument("--height", type=int, default=9000)
    parser.add_argument("--tile", nargs="+", type=int, default=[512])
    parser.add_argument("--folder", type=Path, help="where pictures are drawn; a temporary folder when not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = arguments.folder or Path(name)
        good = home / "surface" / "train" / "good"
        good.mkdir(parents=True, exist_ok=True)
        for number in range(GOOD):
            cv2.imwrite(str(good / f"{number:02d}.png"), surface(*GOOD_SIZE, number))
        large, model = home / "large.tif", home / "model.zip"
        picture = surface(arguments.height, arguments.width, 77)
        top, left = arguments.height * 2 // 3, arguments.width // 3
        picture[top : top + DEFECT, left : left + DEFECT] = (200, 60, 60)
        cv2.imwrite(str(large), picture, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
        del picture
        fit = ["fit", "patchcore", "--root", str(home), "--category", "surface", "--tile", str(arguments.tile[0])]
        memory, seconds, printed = child([*fit, "--coreset", "0.01", "--out", str(model)], home)
        rows = [
            ["fit", f"{GOOD} of {GOOD_SIZE[1]} × {GOOD_SIZE[0]}", arguments.tile[0], f"{memory:.2f}", f"{seconds:.0f}"]
        ]
        print(printed, file=sys.stderr)
        for tile in arguments.tile:
            maps = str(home / f"maps{tile}")
            detect = ["detect", str(model), str(large), "--tile", str(tile), "--heat-maps", maps, "--json"]
            memory, seconds, printed = child(detect, home)
            (row,) = json.loads(printed)
            size = f"{arguments.width} × {arguments.height}, {large.stat().st_size / 1e6:.0f} MB"
            rows.append(["detect", size, tile, f"{memory:.2f}", f"{seconds:.0f}"])
            print(f"{row['verdict']}, score {row['score']:.6f}, threshold {row['threshold']:.6f}", file=sys.stderr)
        print(markdown_table(["command", "pictures", "tile", "peak memory, GB", "seconds"], rows))
        print(f"\nBy tiles against the whole, 2000 × 1504: {difference(model)}")


if __name__ == "__main__":
    main()
