"""`detect`: a verdict, a score and a heat map for each image."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.settings import PRESETS

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
    parser.add_argument("--method", choices=list(PRESETS), help="which method, where it holds several")
    parser.add_argument("--seed", type=int, help="which seed, where it holds several")
    parser.add_argument("--threshold", type=float, help="instead of the calibrated one")
    parser.add_argument("--heat-maps", default="heat_maps", help="folder for the heat maps; 'none' draws none")
    parser.add_argument("--animation", help="also write all heat maps into this file, a .gif")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(arguments: argparse.Namespace) -> None:
    """Load the model, score, judge, draw.

    Raises:
        DataError: an image cannot be read; all others were judged and printed before.
    """
    from mvtec_ad import transfer
    from mvtec_ad.data import loading
    from mvtec_ad.errors import DataError
    from mvtec_ad.methods import model_artifact

    check(arguments)
    paths = image_paths(arguments.images, arguments.heat_maps)
    wanted = {"method": arguments.method, "category": arguments.category, "seed": arguments.seed}
    model, description = model_artifact.restore(transfer.load(Path(arguments.artifact)), **wanted)
    threshold = description["threshold"]["value"] if arguments.threshold is None else arguments.threshold
    images, problems = loading.load_readable(paths, model.settings.image_size, model.settings.crop)
    readable = [path for position, path in enumerate(paths) if position not in problems]
    judged = iter(judge(arguments, readable, images, model.score(images), threshold) if readable else [])
    rows = [
        unreadable(path, problems[position], threshold) if position in problems else next(judged)
        for position, path in enumerate(paths)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        print(describe(rows, arguments.heat_maps))
    if problems:
        raise DataError(f"{len(problems)} of {len(paths)} images not judged; {problems[min(problems)]}")


def check(arguments: argparse.Namespace) -> None:
    """Refuse what would fail only after minutes of work.

    Raises:
        SettingsError: the threshold is no number.
        DataError: a folder to write into does not exist or cannot be made.
    """
    from mvtec_ad.errors import DataError, SettingsError

    if arguments.threshold is not None and not math.isfinite(arguments.threshold):
        raise SettingsError(f"--threshold {arguments.threshold} judges nothing: give a number")
    if arguments.animation and not Path(arguments.animation).parent.is_dir():
        raise DataError(f"--animation {arguments.animation} cannot be written: its folder does not exist")
    folder = Path(arguments.heat_maps)
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if arguments.heat_maps != "none" and not nearest.is_dir():
        raise DataError(f"--heat-maps {folder} cannot be a folder, a file is in its way: choose another name")


def judge(
    arguments: argparse.Namespace, paths: list[Path], images: np.ndarray, scores: Scores, threshold: float
) -> list[dict[str, Any]]:
    """Draw what was asked for, and return a row per image."""
    import numpy as np

    from mvtec_ad import plotting
    from mvtec_ad.transfer import replacing

    # one colour scale for all images of a run, and the threshold on it where scores are values of the maps
    scale = (0.0, max(float(np.quantile(scores.maps, 0.999)), threshold if threshold < 2 * scores.maps.max() else 0.0))
    pictures: list[str | None] = [None] * len(paths)
    if arguments.heat_maps != "none":
        pictures = write_heat_maps(Path(arguments.heat_maps), paths, figures(paths, images, scores, threshold, scale))
    if arguments.animation:
        animation = plotting.animation(figures(paths, images, scores, threshold, scale))
        with replacing(arguments.animation) as file:
            file.write(animation)
    return [
        {
            "image": str(path),
            "verdict": "defect" if score > threshold else "good",
            "score": float(score),
            "threshold": threshold,
            "heat_map": picture,
        }
        for path, score, picture in zip(paths, scores.image, pictures, strict=True)
    ]


def unreadable(path: Path, problem: Exception, threshold: float) -> dict[str, Any]:
    """The row of an image that cannot be read: no score, and the reason."""
    row = {"image": str(path), "verdict": "unreadable", "score": None, "threshold": threshold, "heat_map": None}
    return row | {"reason": str(problem)}


def describe(rows: list[dict[str, Any]], heat_maps: str) -> str:
    """Rows as lines to read."""
    lines = [
        f"unreadable  {row['reason']}"
        if row["verdict"] == "unreadable"
        else f"{row['verdict']:<6}  score {row['score']:8.3f}  threshold {row['threshold']:.3f}  {row['image']}"
        for row in rows
    ]
    verdicts = [row["verdict"] for row in rows]
    summary = f"{verdicts.count('defect')} of {len(rows)} images called defective"
    if "unreadable" in verdicts:
        summary += f", {verdicts.count('unreadable')} unreadable"
    if any(row["heat_map"] for row in rows):
        summary += f"; heat maps in {heat_maps}/"
    return "\n".join([*lines, summary])


def image_paths(names: list[str], heat_maps: str = "none") -> list[Path]:
    """The named files, and the images in the named folders and below them.

    Args:
        names: files and folders.
        heat_maps: a folder whose pictures are none to judge: what an earlier run drew.

    Raises:
        DataError: a name does not exist, or a folder holds no image.
    """
    from mvtec_ad.data.folders import IMAGE_SUFFIXES, is_image
    from mvtec_ad.errors import DataError

    drawn = None if heat_maps == "none" else Path(heat_maps).absolute()
    paths: list[Path] = []
    for name in map(Path, names):
        if name.is_dir():
            images = sorted(path for path in name.rglob("*") if is_image(path))
            images = [path for path in images if "ground_truth" not in path.relative_to(name).parts]
            found = [path for path in images if drawn not in path.absolute().parents]
            if not found:
                raise DataError(
                    f"folder {name} holds no image: give images, or a folder with some ({', '.join(IMAGE_SUFFIXES)})"
                )
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
    """Write each figure under a name of its own; returns the files in order.

    Raises:
        ArtifactError: a file cannot be written.
    """
    from mvtec_ad.plotting import to_png
    from mvtec_ad.transfer import replacing

    written: list[str] = []
    with contextlib.closing(drawn):  # ends the progress bar's line before an error is printed
        for index, (path, figure) in enumerate(zip(paths, drawn, strict=True)):
            target = folder / f"{path.parent.name}_{path.stem}.png"
            if str(target) in written:
                target = target.with_name(f"{index:04d}_{target.name}")
            with replacing(target) as file:
                file.write(to_png(figure))
            written.append(str(target))
    return written
