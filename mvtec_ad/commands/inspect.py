"""`inspect`: product, verdict, place and type of the defect for each image, by the models of all notebooks."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mvtec_ad.settings import OPINIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.figure import Figure

    from mvtec_ad.commands.inspect_page import Card
    from mvtec_ad.inspector import Inspection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("images", nargs="+", help="image files or folders")
    parser.add_argument("--artifacts", help="folder of the notebooks' artifacts; transfer/ when not given")
    seconds = [*OPINIONS, "none"]
    parser.add_argument("--second", choices=seconds, default="autoencoder", help="asked where the classifier is unsure")
    parser.add_argument("--product", help="category of all images; when not given, each is recognised")
    parser.add_argument("--view", help="from which side, where the product has several")
    parser.add_argument("--figures", help="folder for a figure of each image")
    parser.add_argument(
        "--page", help="HTML page of all images; for a folder transfer/inspections/index.html when not given"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(arguments: argparse.Namespace) -> None:
    """Load the models, inspect, draw, print.

    Raises:
        DataError: an image cannot be read; all others were judged and printed before.
    """
    from mvtec_ad.commands import inspect_page
    from mvtec_ad.commands.detect import image_paths
    from mvtec_ad.errors import DataError
    from mvtec_ad.inspector import UNREADABLE, Inspector

    check(arguments)
    target = page_target(arguments)
    paths = image_paths(arguments.images, arguments.figures or "none")
    second = None if arguments.second == "none" else arguments.second
    inspector = Inspector.load(arguments.artifacts, second=second)
    told = {"product": arguments.product, "view": arguments.view}
    found = inspector.inspect(paths, **told, heat=bool(target or arguments.figures), progress=len(paths) > 1)
    with contextlib.closing(found):  # ends the progress bar's line before an error is printed
        cards, figures = take(found, paths, arguments.figures, bool(target))
    inspections = [card.inspection for card in cards]
    notes = skipped(inspections, inspector.missing)
    if target:
        inspect_page.write_page(target, cards, notes)
    if arguments.json:
        rows = [own.as_dict() | {"figure": figure} for own, figure in zip(inspections, figures, strict=True)]
        print(json.dumps(rows, indent=1))
    else:
        print("\n".join([*lines(inspections), summary(inspections), *notes]))
        if arguments.figures:
            print(f"figures in {arguments.figures}/")
    if target:
        print(f"look at {target}", file=sys.stderr if arguments.json else sys.stdout)
    problems = [own.problem for own in inspections if own.verdict == UNREADABLE]
    if problems:
        raise DataError(f"{len(problems)} of {len(paths)} images not judged; {problems[0]}")


def check(arguments: argparse.Namespace) -> None:
    """Refuse what would fail only after minutes of work.

    Raises:
        SettingsError: a view without a product.
        DataError: a folder or a page cannot be written.
    """
    from mvtec_ad.errors import DataError, SettingsError

    if arguments.view and not arguments.product:
        raise SettingsError(f"--view {arguments.view} needs --product: a view is one of a product")
    if arguments.page and Path(arguments.page).is_dir():
        raise DataError(f"--page {arguments.page} is a folder: name a file in it, for example index.html")
    folders = {"--figures": arguments.figures, "--page": arguments.page and str(Path(arguments.page).parent)}
    for option, folder in folders.items():
        if folder:
            nearest = next(place for place in (Path(folder), *Path(folder).parents) if place.exists())
            if not nearest.is_dir():
                raise DataError(f"{option} {folder} cannot be a folder, a file is in its way: choose another name")


def page_target(arguments: argparse.Namespace) -> Path | None:
    """Where the page goes; None where none was asked for and no folder was named."""
    from mvtec_ad.settings import transfer_folder

    if arguments.page:
        return Path(arguments.page)
    if any(Path(name).is_dir() for name in arguments.images):
        return transfer_folder() / "inspections" / "index.html"
    return None


def take(
    found: Iterator[Inspection], paths: list[Path], folder: str | None, pictured: bool
) -> tuple[list[Card], list[str] | list[None]]:
    """Turn each inspection into a card as it comes, so that no pixels pile up, and write its figure where asked.

    Args:
        found: by the inspector, in the order of the paths.
        paths: of the images.
        folder: for the figures; None draws none.
        pictured: whether the cards need pictures.

    Returns:
        The cards, and the file of each figure, or None for each.
    """
    from mvtec_ad import plotting
    from mvtec_ad.commands.detect import write_heat_maps
    from mvtec_ad.commands.inspect_page import make_card

    if not folder:
        cards = [make_card(own, pictured) for own in found]
        return cards, [None] * len(cards)
    cards = []

    def drawn() -> Iterator[Figure]:
        for own in found:
            cards.append(make_card(own, pictured))
            yield plotting.inspection_figure(own)

    return cards, write_heat_maps(Path(folder), paths, drawn())


def lines(inspections: Sequence[Inspection]) -> list[str]:
    """A line for each image, verdict first, in columns; an unreadable one says why instead."""
    from mvtec_ad.inspector import UNREADABLE

    table = [[] if own.verdict == UNREADABLE else columns(own) for own in inspections]
    widths = [max(map(len, column)) for column in zip(*filter(None, table), strict=True)]
    first = max(len(own.verdict) for own in inspections)
    described = []
    for own, row in zip(inspections, table, strict=True):
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False) if width]
        end = own.image if row else own.problem
        described.append("  ".join([own.verdict.ljust(first), *cells, end]))
    return described


def columns(own: Inspection) -> list[str]:
    """Product, probability, second opinion and type of an image in words, "" for what is not known."""
    product = f"{own.product} {own.view}".rstrip() if own.product else ""
    if not product and own.strangeness is not None:
        product = f"{own.strangeness:.2f} × the limit"
    probability = "" if own.probability is None else f"p {own.probability:.3f}"
    return [product, probability, said(own), type_words(own)]


def said(own: Inspection) -> str:
    """The second opinion, with the score and the threshold that it stands on."""
    if own.opinion is None:
        return ""
    opinion = own.opinion
    sign = ">" if opinion.score > opinion.threshold else "≤"
    return f"{opinion.method}: {opinion.verdict}, {opinion.score:.4g} {sign} {opinion.threshold:.4g}"


def type_words(own: Inspection) -> str:
    """The type and how far it is; for an unknown one, how new and where that begins."""
    if own.type is None:
        return ""
    if own.type == "unknown" and own.novelty is not None and own.novelty_limit is not None:
        return f"unknown type, novelty {own.novelty:.2f} > {own.novelty_limit:.2f}"
    return own.type if own.type_distance is None else f"{own.type}, distance {own.type_distance:.2f}"


def counts(inspections: Sequence[Inspection]) -> dict[str, int]:
    """Verdict -> number of images, all verdicts in their order."""
    from mvtec_ad.inspector import VERDICTS

    verdicts = [own.verdict for own in inspections]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def summary(inspections: Sequence[Inspection]) -> str:
    """How many images have which verdict, in one line."""
    parts = [f"{count} {verdict}" for verdict, count in counts(inspections).items() if count]
    return f"{len(inspections)} image{'s' * (len(inspections) != 1)}: {', '.join(parts)}"


def skipped(inspections: Sequence[Inspection], missing: Sequence[str]) -> list[str]:
    """A line for each reason why a stage was left out, with the number of images; then what else is missing."""
    reasons = [reason for own in inspections for reason in own.skipped]
    told = [f"skipped for {reasons.count(reason)} of {len(inspections)}: {reason}" for reason in dict.fromkeys(reasons)]
    return told + [text for text in missing if not any(text in reason for reason in reasons)]
