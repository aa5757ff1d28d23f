"""`detect`: a verdict, a score and a heat map for each image."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from matplotlib.figure import Figure

    from mvtec_ad.methods import Scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("artifact", help="what `fit` wrote")
    parser.add_argument("images", nargs="+", help="image files or folders")
    parser.add_argument("--category", help="which model, where the artifact holds several")
    parser.add_argument("--method", default="padim", choices=["padim"], help="which method, where it holds several")
    parser.add_argument("--seed", type=int, help="which seed, where it holds several")
    parser.add_argument("--threshold", type=float, help="instead of the calibrated one")
    parser.add_argument("--heat-maps", default="heat_maps", help="folder for the heat maps; 'none' draws none")
    parser.add_argument("--animation", help="also write all heat maps into this file, a .gif")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(arguments: argparse.Namespace) -> None:
    """Load the model, score, judge, draw."""
    import numpy as np

    from mvtec_ad import plotting, transfer
    from mvtec_ad.data import loading
    from mvtec_ad.methods import padim_artifact

    paths = image_paths(arguments.images)
    model, description = padim_artifact.restore(
        transfer.load(Path(arguments.artifact)), category=arguments.category, seed=arguments.seed
    )
    threshold = description["threshold"]["value"] if arguments.threshold is None else arguments.threshold
    images = loading.load_images(paths, model.settings.image_size, model.settings.crop)
    scores = model.score(images)
    # one colour scale for all images of a run, and the threshold always on it
    scale = (0.0, max(float(np.quantile(scores.maps, 0.999)), threshold))
    pictures: list[str | None] = [None] * len(paths)
    if arguments.heat_maps != "none":
        pictures = write_heat_maps(Path(arguments.heat_maps), paths, figures(paths, images, scores, threshold, scale))
    if arguments.animation:
        frames = figures(paths, images, scores, threshold, scale)
        Path(arguments.animation).write_bytes(plotting.animation(frames))
    rows = [
        {
            "image": str(path),
            "verdict": "defect" if score > threshold else "good",
            "score": float(score),
            "threshold": threshold,
            "heat_map": picture,
        }
        for path, score, picture in zip(paths, scores.image, pictures, strict=True)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['verdict']:<6}  score {row['score']:8.3f}  threshold {threshold:.3f}  {row['image']}")
    flagged = sum(row["verdict"] == "defect" for row in rows)
    print(
        f"{flagged} of {len(rows)} images called defective"
        + (f"; heat maps in {arguments.heat_maps}/" if any(pictures) else "")
    )


def image_paths(names: list[str]) -> list[Path]:
    """The named files, and the images in the named folders and below them.

    Raises:
        DataError: a name does not exist, or a folder holds no image.
    """
    from mvtec_ad.data.index import IMAGE_SUFFIXES
    from mvtec_ad.errors import DataError

    paths: list[Path] = []
    for name in map(Path, names):
        if name.is_dir():
            images = (p for p in name.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            found = sorted(p for p in images if "ground_truth" not in p.parts)
            if not found:
                raise DataError(f"folder {name} holds no image ({', '.join(IMAGE_SUFFIXES)})")
            paths += found
        elif name.is_file():
            paths.append(name)
        else:
            raise DataError(f"image {name} does not exist: check the path")
    return paths


def figures(
    paths: list[Path], images: np.ndarray, scores: Scores, threshold: float, scale: tuple[float, float]
) -> Iterator[Figure]:
    """One figure per image: the image, and its anomaly map with the verdict.

    Args:
        paths: of the images.
        images: (N, H, W, 3) uint8.
        scores: with maps.
        threshold: of the verdict.
        scale: ends of the colour scale.
    """
    from tqdm import tqdm

    from mvtec_ad import plotting

    for index, path in enumerate(tqdm(paths, desc="heat maps", unit="image")):
        one = slice(index, index + 1)
        yield plotting.heat_maps(
            images[one],
            scores.maps[one],
            scores=scores.image[one],
            threshold=threshold,
            titles=[f"{path.parent.name}/{path.name}"],
            scale=scale,
        )


def write_heat_maps(folder: Path, paths: list[Path], drawn: Iterator[Figure]) -> list[str]:
    """Write each figure under a name of its own; returns the files in order."""
    from mvtec_ad.plotting import to_png

    folder.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    for index, (path, figure) in enumerate(zip(paths, drawn, strict=True)):
        target = folder / f"{path.parent.name}_{path.stem}.png"
        if str(target) in written:
            target = target.with_name(f"{index:04d}_{target.name}")
        target.write_bytes(to_png(figure))
        written.append(str(target))
    return written
