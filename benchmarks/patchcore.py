"""PatchCore beside anomalib's, as whole processes in one run, and its coreset beside the naive loop.

    python benchmarks/patchcore.py --weights FILE --anomalib PYTHON [--root DIR] [--category bottle] [--runs 1]
                                   [--coreset-images 60] [--out assets/benchmark_patchcore]

PYTHON is an interpreter that has anomalib; `make .venv-anomalib/installed` makes one.

Both sides read the same files, resize to 256, crop to 224, use layers 2 and 3 of ResNet-18 with the same weights, keep
a tenth of the patches and re-weight with 9 neighbours. Ours also computes AUPRO, intervals, a calibrated threshold and
the trivial rows. anomalib runs twice: as it comes, and lean (no validation on the test images, no pictures). Without
--anomalib only our row is measured.

The coreset is picked out of the projected patches of the first --coreset-images training images (0: not at all; give
more than there are for all), by every pick's distance to every patch, and by `mvtec_ad.methods.patchcore.greedy`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from sides import OURS, bars, both_sides, table
from tqdm import tqdm

from mvtec_ad import plotting
from mvtec_ad.data import index
from mvtec_ad.data.sources import locate
from mvtec_ad.methods.patchcore import Patchcore, greedy, patch_features, project
from mvtec_ad.metrics import markdown_table


def projected_patches(root: Path, category: str, detector: Patchcore, images: int) -> torch.Tensor:
    """What the coreset is picked out of: (n, projection) float32, patches of the first training images."""
    rows = index.read_category(root, category).query("split == 'train'").head(images)
    seen = detector.batches(list(rows["image_path"]))
    parts = [patch_features(layers, detector.layers, detector.neighbourhood).flatten(0, 2) for layers in seen]
    return project(torch.cat(parts), detector.projection, np.random.default_rng(0))


def naive(points: torch.Tensor, number: int, first: int) -> np.ndarray:
    """Algorithm 1 as it is written, every pick's distance to every point; (number,) int64."""
    picks, distances = [first], torch.full_like(points[:, 0], torch.inf)
    for _ in tqdm(range(number - 1), desc="naive", unit="pick"):
        distances = torch.minimum(distances, (points - points[picks[-1]]).norm(dim=1))
        picks.append(int(distances.argmax()))
    return np.array(picks)


def compare_coresets(points: torch.Tensor, share: float) -> str:
    """Markdown: both sides on the same points."""
    number = max(1, round(share * len(points)))
    begun = time.perf_counter()
    ours = greedy(points, number, 0)
    between = time.perf_counter()
    theirs = naive(points, number, 0)
    slow, fast = time.perf_counter() - between, between - begun
    others, moved = len(np.setdiff1d(ours, theirs)), int((ours != theirs[: len(ours)]).sum())
    same = f"{others} others, {moved} at another place" if moved else "the same"
    if len(ours) < number:  # all other patches equal a pick, and the naive loop takes picks again
        same += f", {len(ours)} distinct"
    lines = [
        ["norm(X − c) every pick", f"{slow:.1f}", f"{slow / fast:.1f} ×", ""],
        [OURS, f"{fast:.1f}", "1.0 ×", same],
    ]
    title = f"Coreset: {number} picks of {len(points)} patches, {points.shape[1]} dimensions"
    return f"{title}\n\n{markdown_table(['', 'seconds', '', 'picks'], lines)}"


def main() -> None:
    """Measure, interleaved so that a busy moment meets both sides; print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="drawn images when not given")
    parser.add_argument("--category", default="bottle")
    parser.add_argument("--weights", required=True, help="state dict of ResNet-18, or random")
    parser.add_argument("--anomalib", help="python that has anomalib")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--coreset-images", type=int, default=60, help="training images whose patches are picked from")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.png")
    arguments = parser.parse_args()
    root = (arguments.root or locate(arguments.category, source="synthetic")).resolve()
    options = ["--root", str(root), "--category", arguments.category, "--weights", arguments.weights]
    rows = both_sides("patchcore", options, arguments.anomalib, arguments.runs)
    title = f"PatchCore, resnet18, layers 2 and 3, coreset 0.1, {arguments.category}, median of {arguments.runs}"
    text = f"{title}\n\n{table(rows, OURS)}"
    if arguments.coreset_images:
        detector = Patchcore(backbone="resnet18", weights=arguments.weights)
        points = projected_patches(root, arguments.category, detector, arguments.coreset_images)
        text += f"\n\n{compare_coresets(points, detector.coreset)}"
    print(f"\n{text}")
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps({"title": title, "rows": rows}, indent=1) + "\n")
        arguments.out.with_suffix(".png").write_bytes(plotting.to_png(bars(rows, title), dpi=110))


if __name__ == "__main__":
    main()
