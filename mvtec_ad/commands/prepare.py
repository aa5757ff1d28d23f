"""`prepare`: make data.zip."""

from __future__ import annotations

import argparse
from dataclasses import replace

from mvtec_ad.commands.options import add_data_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--profile", help="quick or full")
    parser.add_argument("--category", nargs="+", help="category folders; the profile's when not given")
    parser.add_argument("--image-size", type=int, help="side after resizing, in pixels")
    parser.add_argument("--out", help="where to write; transfer/data.zip when not given")
    add_data_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Read, resize, zip."""
    from mvtec_ad.data.prepare import prepare
    from mvtec_ad.settings import profile
    from mvtec_ad.transfer import load

    chosen = profile(arguments.profile)
    data = chosen.data
    if arguments.category:
        data = replace(data, categories=tuple(arguments.category))
    if arguments.image_size is not None:
        data = replace(data, image_size=arguments.image_size)
    path = prepare(replace(chosen, data=data), root=arguments.root, source=arguments.source, path=arguments.out)
    manifest = load(path).manifest
    print(
        f"{path}: {manifest['metrics']['images']} images of {', '.join(manifest['categories'])} "
        f"({manifest['metrics']['defective']} defective), source {manifest['data_source']}, "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )
