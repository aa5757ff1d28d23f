"""What an autoencoder can do: losses × maps × sizes of the code on one category, one training each.

    python benchmarks/reconstruction.py [--root DIR] [--category bottle] [--steps 300] [--out assets/reconstruction]
                                        [--publish]

Beside it PCA, the linear autoencoder, with codes of the same sizes, and the trivial rows. Every training is kept in
OUT.json as it comes; a run that was broken off goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mvtec_ad import metrics
from mvtec_ad.artifacts import atomic_write
from mvtec_ad.benchmark.published import write_between
from mvtec_ad.config import data_folder, root_folder
from mvtec_ad.data import index, loading, splits
from mvtec_ad.data.sources import locate
from mvtec_ad.methods.autoencoder import Autoencoder, Vae, difference_map
from mvtec_ad.methods.base import Scores, held_out_positions, peak, smooth
from mvtec_ad.methods.baselines import trivial_scores

MAPS = ("absolute", "ssim", "features")
LOSSES = ("mse", "ssim", "mse+ssim")
VECTORS = (8, 32, 128, 512)
GRIDS = (3, 2, 1)  # depths: the last grid is the code, up to a number for every value of the image
Pair = tuple[float, float]


def trainings(steps: int) -> dict[str, Autoencoder]:
    """Name -> what is to be trained."""
    plain = Autoencoder(loss="mse", map="features", steps=steps)
    rows = {f"{loss}, vector {size}": replace(plain, loss=loss, latent=size) for loss in LOSSES for size in VECTORS}
    rows["features, vector 128"] = replace(plain, loss="features")  # one size: each takes minutes
    for corruption in ("none", "noise", "mask"):
        for depth in GRIDS if corruption == "none" else (2,):
            name = f"mse, grid {plain.crop >> depth}×{plain.crop >> depth}"
            name += f", input with {corruption}" if corruption != "none" else ""
            rows[name] = replace(plain, latent=0, depth=depth, corruption=corruption, lr=1e-2, patience=0)
    rows["VAE, vector 128"] = Vae.from_options(plain.options())
    return rows


def measured(test: Any, scores: Scores) -> Pair:
    """Image and pixel AUROC."""
    _, labels, masks = test
    return metrics.image_auroc(labels, scores.image), metrics.pixel_metrics(scores.maps, masks)["pixel_auroc"]


def trained(detector: Autoencoder, train: np.ndarray, test: Any) -> dict[str, Any]:
    """Train once; image and pixel AUROC of every map, CPU seconds, and the error inside defects and on good parts."""
    begun = time.process_time()
    detector.fit(train, progress=True)
    row: dict[str, Any] = {"cpu_seconds": time.process_time() - begun, "code": detector.network.bottleneck}
    images, labels, masks = test
    for name in MAPS:
        row[name] = measured(test, detector.score_as(images, name))
    error = np.abs(detector.reconstruct(images).astype(np.float32) - images).mean(-1)
    return row | {"error_good": float(error[labels == 0].mean()), "error_defect": float(error[masks].mean())}


def linear(train: np.ndarray, test: Any, size: int, sigma: float) -> dict[str, Any]:
    """PCA with `size` components fitted on the same good images."""
    images = test[0]
    flat = train.reshape(len(train), -1).astype(np.float32) / 255
    mean = flat.mean(0)
    components = np.linalg.svd(flat - mean, full_matrices=False)[2][:size]
    own = images.reshape(len(images), -1).astype(np.float32) / 255 - mean
    reconstructed = ((own @ components.T) @ components + mean).clip(0, 1).reshape(images.shape)
    originals = images.astype(np.float32) / 255
    pair = [torch.from_numpy(one).permute(0, 3, 1, 2) for one in (originals, reconstructed.astype(np.float32))]
    row: dict[str, Any] = {"code": len(components)}
    for name in ("absolute", "ssim"):
        maps = smooth(difference_map(name, *pair).numpy(), sigma)
        row[name] = measured(test, Scores(peak(maps), maps))
    return row


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = []
    for name, row in found["rows"].items():
        cells = [" / ".join(map(metrics.format_number, row[one])) if one in row else "–" for one in MAPS]
        errors = f"{row['error_defect'] / row['error_good']:.1f} ×" if "error_good" in row else "–"
        seconds = f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else "–"
        lines.append([name, row["code"], *cells, errors, seconds])
    lines += [
        [f"trivial: {name}", "–", metrics.format_number(value), "", "", "", ""]
        for name, value in found["trivial"].items()
    ]
    columns = [
        "training",
        "code",
        "absolute error",
        "SSIM",
        "features",
        "error inside defects : on good parts",
        "CPU s",
    ]
    return metrics.markdown_table(columns, lines)


def main() -> None:
    """Train what is missing, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="drawn images when not given")
    parser.add_argument("--category", default="bottle")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, help="OUT.json; data/reconstruction-CATEGORY when not given")
    parser.add_argument("--publish", action="store_true", help="write the table into docs/results.md")
    arguments = parser.parse_args()
    root = arguments.root or locate(arguments.category, source="synthetic")
    plain = Autoencoder(steps=arguments.steps)
    whole = splits.official(index.read_category(root, arguments.category))
    fitted, shown = (whole[whole["part"] == part].reset_index(drop=True) for part in ("train", "test"))
    train, images = (plain.load(list(rows["image_path"])) for rows in (fitted, shown))
    test = images, shown["label"].to_numpy(), loading.load_masks(shown, plain.image_size, plain.crop)
    out = arguments.out or data_folder() / f"reconstruction-{arguments.category}"
    file = out.with_suffix(".json")
    source = index.data_source(root, arguments.category, whole)
    about = {"category": arguments.category, "data_source": source, "steps": arguments.steps}
    about["settings"] = plain.options()
    found = json.loads(file.read_text()) if file.is_file() else about | {"rows": {}}
    if any(found[key] != value for key, value in about.items()):
        raise SystemExit(f"{file} holds another run ({found['category']}, {found['steps']} steps): name another --out")
    found["trivial"] = {
        name: metrics.image_auroc(test[1], scores) for name, scores in trivial_scores(train, images).items()
    }
    kept = np.delete(train, held_out_positions(len(train), plain.calibration_images(len(train)), 0), 0)
    for number in VECTORS[:3]:
        if f"PCA {number}" not in found["rows"]:
            found["rows"][f"PCA {number}"] = linear(kept, test, number, plain.sigma)
    for name, one in tqdm(trainings(arguments.steps).items(), desc="trainings", unit="training"):
        if name not in found["rows"]:
            found["rows"][name] = trained(one, train, test)
            with atomic_write(file) as target:
                target.write((json.dumps(found, indent=1) + "\n").encode())
    defects = int(test[1].sum())
    low, high = map(metrics.format_number, metrics.newcombe(0.95, defects, len(test[1]) - defects))
    title = (
        f"Image / pixel AUROC by map: {arguments.category} ({source}), {arguments.steps} steps, one seed; "
        f"{len(train)} good images, tested on {len(test[1]) - defects} good and {defects} defective ones. "
        f"So few leave an image AUROC of .95 the 95 % interval [{low}, {high}]. Made by `benchmarks/reconstruction.py`."
    )
    text = f"{title}\n\n{table(found)}"
    print(f"\n{text}")
    if arguments.publish:
        write_between(root_folder() / "docs" / "results.md", "reconstruction", text)


if __name__ == "__main__":
    main()
