"""Flags that several commands share, and what they refuse before any work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from mvtec_ad.config import DataSettings, Options
from mvtec_ad.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--root and --source."""
    parser.add_argument(
        "--root",
        help="folder that holds the category folders, or an archive (.zip, .tar, .tar.gz, .tar.xz) of them; without it "
        "real MVTec AD is looked for",
    )
    parser.add_argument(
        "--source",
        default="auto",
        help="where --root is not given: auto (real MVTec AD where it lies on disk or in transfer/raw-data.zip, else "
        "drawn), mvtec_ad (real or an error), download (real, fetched from MVTec where missing; CC BY-NC-SA 4.0) or "
        "synthetic (drawn by code)",
    )


def add_option_flags(parser: argparse.ArgumentParser, kind: type[Options]) -> None:
    """A flag for every option of a class, with its help; and `--preset`."""
    presets = [name for name in kind.PRESETS if name not in ("quick", "full")]
    text = f"options to start from (default {presets[0]}"
    text += ", but the whole picture where the category is your own)" if "crop" in kind.__dataclass_fields__ else ")"
    parser.add_argument("--preset", choices=list(kind.PRESETS), help=text)
    hints = get_type_hints(kind)
    for field in kind.option_fields():
        hint, flag = hints[field.name], "--" + field.name.replace("_", "-")
        kinds = get_args(hint) or (hint,)
        how: dict[str, Any] = {"type": kinds[0], "metavar": field.name.upper()}
        if getattr(hint, "__origin__", None) is tuple:
            how["nargs"] = "+"
        elif kinds[0] is bool:
            how = {"action": argparse.BooleanOptionalAction}
        default = "none" if field.default is None else field.default
        text = f"{field.metadata['help']} (default {default})".replace("%", "%%")
        parser.add_argument(flag, dest=f"option_{field.name}", default=None, help=text, **how)


def given_options(arguments: argparse.Namespace, kind: type[Options]) -> dict[str, Any]:
    """The preset with every flag of `add_option_flags` that was given put over it; an image size without a crop keeps
    the whole picture."""
    known = {field.name: field.default for field in kind.option_fields()}
    flags = {name: getattr(arguments, f"option_{name}", None) for name in known}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in flags.items() if v is not None}
    if "crop" in known and "image_size" in given:
        given = {"crop": given["image_size"], **given}
    return {**kind.PRESETS[arguments.preset or next(iter(kind.PRESETS))], **given}


def crop_chosen(arguments: argparse.Namespace) -> bool:
    """Whether it was said what part of the picture is looked at: by a preset, a crop or an image size."""
    given = (getattr(arguments, name, None) for name in ("preset", "option_crop", "option_image_size"))
    return any(value is not None for value in given)


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be 1 or more")
    return number


def check_output(option: str, path: str | Path | None, suffix: str = "", *, make: bool = False) -> None:
    """Refuse before any work what could not be written after it: a file of this suffix, whose folder is made or not;
    without a suffix, a folder.

    Raises:
        DataError: a folder is in the file's way or a file in the folder's, its folder does not exist, or a file of
            another kind could lie there, as an image.
    """
    if path is None:
        return
    path, folder = Path(path), not suffix
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not folder and path.is_dir():
        raise DataError(f"{option} {path} is a folder: name a file in it")
    if nearest.is_file() and (folder or nearest != path):
        raise DataError(f"{option} {path} cannot be made, {nearest} is a file: choose another name")
    if not (folder or make or path.absolute().parent.is_dir()):
        raise DataError(f"{option} {path} cannot be written: its folder does not exist")
    if not folder and path.suffix.lower() != suffix:
        raise DataError(f"{option} {path} would be no {suffix[1:].upper()} by its name: give one that ends in {suffix}")
    if not os.access(nearest, os.W_OK):
        raise DataError(f"{option} {path} cannot be written (permission denied): choose another place")


def read_table(arguments: argparse.Namespace, category: str, together: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """Images of a category, fetched or drawn where they are missing, and their data source."""
    from mvtec_ad.data import index, layout, sources

    where = {"root": arguments.root, "source": arguments.source, "settings": DataSettings(), "together": together}
    root = Path(os.path.abspath(sources.locate(category, **where)))  # workers may stand in another folder
    table = index.read_category(root, category)
    for line in layout.unused(root / table["category"].iloc[0], table):
        print(f"not used: {line}; {index.look_at(root / category)}", file=sys.stderr)
    return table, index.data_source(root, category, table)


def image_paths(names: Sequence[str]) -> list[Path]:
    """The named files, and the images in the named folders and below, without the pictures that runs drew there.

    Raises:
        DataError: a name does not exist, or a folder holds no image.
    """
    from mvtec_ad.data.loading import IMAGE_SUFFIXES, is_figure, is_image, paths_below

    paths: list[Path] = []
    for name in map(Path, names):
        if name.is_dir():
            images = [path for path in paths_below(name) if is_image(path)]
            images = [path for path in images if "ground_truth" not in path.relative_to(name).parts]
            images = [path for path in images if not is_figure(path)]
            if not images:
                way = f"give images, or a folder with some ({', '.join(IMAGE_SUFFIXES)})"
                raise DataError(f"folder {name} holds no image: {way}")
            paths += images
        elif os.path.lexists(name):  # what is no file after all costs the others nothing
            paths.append(name)
        else:
            raise DataError(f"image {name} does not exist: check the path")
    return paths


def add_false_discovery_rate(parser: argparse.ArgumentParser) -> None:
    """--false-discovery-rate."""
    text = "share of good images among those that are called suspects, at most (default 0.1)"
    parser.add_argument("--false-discovery-rate", type=float, default=0.1, help=text)
