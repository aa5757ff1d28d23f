"""Options that several commands share."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from typing import Any

from mvtec_ad.settings import PADIM_PRESETS, PadimSettings


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--root and --source."""
    parser.add_argument(
        "--root",
        help="folder that holds the category folders, or an archive (.tar.xz, .zip) of them; without it real MVTec AD "
        "is looked for",
    )
    parser.add_argument(
        "--source",
        default="auto",
        help="where --root is not given: auto (real MVTec AD where it lies on disk or in transfer/raw-data.zip, else "
        "drawn), mvtec_ad (real or an error), download (real, fetched from MVTec where missing; CC BY-NC-SA 4.0) or "
        "rendered (drawn by code)",
    )


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """The settings of a method; what is not given keeps the preset's value."""
    parser.add_argument("method", choices=["padim"], help="method to use")
    parser.add_argument("--preset", choices=sorted(PADIM_PRESETS), default="resnet18", help="settings to start from")
    parser.add_argument("--backbone", help="resnet18, resnet50, wide_resnet50_2, efficientnet_b0 or keras:NAME")
    parser.add_argument("--weights", help="imagenet, random, drawn or the path of a weights file")
    parser.add_argument("--channels", type=int, help="random channels kept out of all layers")
    parser.add_argument("--seeds", type=int, nargs="+", help="channel draws")
    parser.add_argument("--image-size", type=int, help="side after resizing, in pixels")
    parser.add_argument("--crop", type=int, help="side of the central part that is kept; the image size keeps all")
    parser.add_argument("--ridge", type=float, help="ε of eq. 1, in units of feature variance")
    parser.add_argument("--sigma", type=float, help="Gaussian smoothing of the map, in pixels")
    parser.add_argument("--memory-gb", type=float, help="features held at once")


def method_settings(arguments: argparse.Namespace, *, whole_picture: bool = False) -> PadimSettings:
    """The preset with everything that was given on the command line put over it.

    Args:
        arguments: parsed, with the options of `add_method_options`.
        whole_picture: drop the preset's crop, which published protocols have and a product's border does not forgive.
    """
    preset = PADIM_PRESETS[arguments.preset]
    given: dict[str, Any] = {}
    for field in fields(PadimSettings):
        value = getattr(arguments, field.name, None)
        if value is not None:
            given[field.name] = tuple(value) if isinstance(value, list) else value
    if "crop" not in given and (whole_picture or "image_size" in given):
        given["crop"] = given.get("image_size", preset.image_size)
    return replace(preset, **given)
