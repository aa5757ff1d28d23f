"""`prepare`: make data.zip or packages.zip."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mvtec_ad.commands.options import add_data_options
from mvtec_ad.errors import SettingsError
from mvtec_ad.settings import DataSettings, Profile, profile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--profile", help="quick or full")
    parser.add_argument("--category", nargs="+", help="category folders; the profile's when not given")
    parser.add_argument(
        "--packages",
        nargs="?",
        const=DataSettings.packages,
        metavar="FOLDER",
        help="make packages.zip instead: items seen from several sides, at the size they have, out of this folder; "
        f"{DataSettings.packages} when not named, which is drawn where it is not on disk",
    )
    parser.add_argument("--image-size", type=int, help="side after resizing, in pixels")
    parser.add_argument("--out", help="where to write; transfer/data.zip or transfer/packages.zip when not given")
    add_data_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Read, resize, zip."""
    from mvtec_ad.transfer import load

    chosen = profile(arguments.profile)
    path = _packages(arguments, chosen) if arguments.packages else _products(arguments, chosen)
    manifest = load(path).manifest
    print(
        f"{path}: {manifest['metrics']['images']} images of {', '.join(manifest['categories'])} "
        f"({manifest['metrics']['defective']} defective), source {manifest['data_source']}, "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )


def _products(arguments: argparse.Namespace, chosen: Profile) -> Path:
    from mvtec_ad.data.prepare import prepare

    data = chosen.data
    if arguments.category:
        data = replace(data, categories=tuple(arguments.category))
    if arguments.image_size is not None:
        data = replace(data, image_size=arguments.image_size)
    return prepare(replace(chosen, data=data), root=arguments.root, source=arguments.source, path=arguments.out)


def _packages(arguments: argparse.Namespace, chosen: Profile) -> Path:
    from mvtec_ad.data.prepare import prepare_packages

    for option, value in (("--category", arguments.category), ("--image-size", arguments.image_size)):
        if value is not None:
            raise SettingsError(f"{option} says nothing about packages, which keep their size: leave it out")
    return prepare_packages(
        chosen, root=arguments.root, source=arguments.source, category=arguments.packages, path=arguments.out
    )
