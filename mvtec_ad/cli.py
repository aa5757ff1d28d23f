"""The command line: `python -m mvtec_ad COMMAND`, or `mvtec-ad COMMAND`.

A method's flags are its options (`config.option`), read from its class when it is named; heavy imports wait until then.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, get_args, get_type_hints

from mvtec_ad import __version__
from mvtec_ad.config import DataSettings, Options, make_folder, profile, root_folder, seen_part, transfer_folder
from mvtec_ad.errors import DataError, MvtecAdError, SettingsError, in_words, printable, way_to_install
from mvtec_ad.methods import METHODS, WITH_LABELS, detector_class

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from mvtec_ad.benchmark import Result
    from mvtec_ad.benchmark.cells import Row

ALIASES = {"sweep": ["evaluate", "--name", "default"], "inspect": ["detect", ""]}  # for one release
AT_ONCE = 32  # images that are read, judged and drawn before the next are; the first time 4
LARGER = 1.5  # times the largest fitted picture: where a threshold by tiles no longer holds
SHOWN = 1024  # pixels: the longer side of the picture of a large picture
MOST_FRAMES = 200  # of an animation: four minutes
NAME_BYTES = 120  # of a picture's name; a file system takes 255, and the unfinished file has a longer one
DEFECT_TYPES = "defect_types"  # a row of `evaluate` that names them


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the thing and the way out, like all others."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, printable(f"{self.prog}: {message}; `{self.prog} --help` lists the options") + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 when a user can mend what went wrong."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a console of another alphabet lacks is printed as \u03ba
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    typed = words[0] if words else ""
    if words and words[0] in ALIASES:
        words = [*ALIASES[words[0]], *words[1:]]
    try:
        parser = Parser(prog="mvtec-ad", description="Anomaly detection on MVTec AD and own images.")
        parser.add_argument("--version", action="version", version=__version__)
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        for name, (text, add_flags, _) in COMMANDS.items():
            command = commands.add_parser(
                name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
            )
            add_flags(command, words[1:] if words[:1] == [name] else None)
        parsed, unknown = parser.parse_known_args(words)
        if unknown:  # said by the command, whose options they are not
            rows = parsed.command == "evaluate" and not hasattr(parsed, "preset")
            way = "; a preset or one row of several takes its options as padim:keras,channels=50" if rows else ""
            if parsed.command == "fit" and "--tile" in unknown:
                way = "; only patchcore can look at tiles, for it does not depend on the position in the picture"
            commands.choices[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}{way}")
        COMMANDS[parsed.command][2](parsed)
        print(end="", flush=True)  # what the reader of our output refuses, he refuses here
    except BrokenPipeError:  # he has gone, as `head` does: nobody wants the rest
        return 0
    except Exception as problem:
        reason = in_words(problem)
        if not reason:  # a fault of ours
            raise
        print(f"mvtec-ad {typed}: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mvtec-ad {typed}: interrupted; finished artifacts are whole", file=sys.stderr)
        return 130
    return 0


def entry() -> NoReturn:
    """`main` as a whole process, without the second that python spends on it before and after.

    Importing torch makes a million objects and frees none, so the collector's default rhythm costs a third of the
    import (0.9 s measured); and taking torch and torchvision apart at exit costs another 0.9 s, for nothing: every
    file is closed by then.
    """
    gc.set_threshold(200_000, 20, 20)
    try:
        status = main()
    except SystemExit as end:  # of the parser: --help, or an option it refuses
        status = end.code
    except BrokenPipeError:  # while the parser wrote, or after an error was to be written
        status = 0
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # its reader has gone, or it was never there
            stream.flush()
    os._exit(status)


# --- flags that several commands share --------------------------------------------------------------------------------


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


# --- check ------------------------------------------------------------------------------------------------------------


def add_check(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `check`."""
    parser.add_argument("folder", help="a category, a folder of categories or of anything else, or an archive")
    text = "what `fit` wrote: list the images of the folder, all said to be good, that do not look like the others"
    parser.add_argument("--model", help=text)
    parser.add_argument("--category", help="which model, where the artifact holds several")
    parser.add_argument("--method", choices=list(METHODS), help="which method, where it holds several")
    parser.add_argument("--seed", type=int, help="which seed, where it holds several")
    add_false_discovery_rate(parser)


def run_check(arguments: argparse.Namespace) -> None:
    """Say what is read as what."""
    from mvtec_ad.data.layout import check_layout

    if arguments.model:
        return _check_good(arguments)
    print("\n".join(check_layout(arguments.folder)))


def _check_good(arguments: argparse.Namespace) -> None:
    """List "good" images that are perhaps not good."""
    from mvtec_ad.inspection.suspects import suspects
    from mvtec_ad.methods import load_model

    paths = image_paths([arguments.folder])
    which = {"method": arguments.method, "category": arguments.category, "seed": arguments.seed}
    detector, _ = load_model(arguments.model, **which)
    if len(detector.hashes) != len(detector.good_scores):
        print(f"this {detector.name} does not know its own images: all are taken for new ones", file=sys.stderr)
    table = suspects(detector, paths, arguments.false_discovery_rate, progress=True)
    odd = table[table["suspect"]]
    print("\n".join(suspect_lines(odd)), end="\n" if len(odd) else "")
    for known, words in ((False, "new to the model"), (True, "that the model was fitted on")):
        part = table[table["known"] == known]
        if len(part):
            print(f"{int(part['suspect'].sum())} of {len(part)} images {words} do not look good")
    print("".join(f"{line}\n" for line in unnoticed(table, detector, arguments.false_discovery_rate)), end="")


# --- prepare ----------------------------------------------------------------------------------------------------------


def add_prepare(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `prepare`."""
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


def run_prepare(arguments: argparse.Namespace) -> None:
    """Read, resize, zip."""
    from mvtec_ad import artifacts
    from mvtec_ad.data import prepare

    check_output("--out", arguments.out, ".zip", make=True)
    chosen = profile(arguments.profile)
    where = {"root": arguments.root, "source": arguments.source, "path": arguments.out}
    if arguments.packages:
        for option, value in (("--category", arguments.category), ("--image-size", arguments.image_size)):
            if value is not None:
                raise SettingsError(f"{option} says nothing about packages, which keep their size: leave it out")
        path = prepare.prepare_packages(chosen, category=arguments.packages, **where)
    else:
        given = {"categories": arguments.category and tuple(arguments.category), "image_size": arguments.image_size}
        data = replace(chosen.data, **{name: value for name, value in given.items() if value is not None})
        path = prepare.prepare(replace(chosen, data=data), **where)
    manifest = artifacts.load(path).manifest
    print(
        f"{path}: {manifest['metrics']['images']} images of {', '.join(manifest['categories'])} "
        f"({manifest['metrics']['defective']} defective), source {manifest['data_source']}, "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )


# --- fit --------------------------------------------------------------------------------------------------------------


def add_fit(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `fit`, and the options of the method that is named."""
    parser.add_argument("method", choices=list(METHODS), metavar="METHOD", help=f"one of {', '.join(METHODS)}")
    parser.add_argument("--category", required=True, help="folder of one product below --root")
    add_data_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of whatever the method draws")
    parser.add_argument("--false-alarm-rate", type=float, default=0.05, help="share of good parts that may be flagged")
    parser.add_argument("--out", required=True, help="artifact to write, a .zip")
    for method in [word for word in words or () if word in METHODS][:1]:
        add_option_flags(parser.add_argument_group(f"options of {method}"), detector_class(method))


def run_fit(arguments: argparse.Namespace) -> None:
    """Read good images, fit, calibrate on images that the model has not seen, save."""
    from mvtec_ad import artifacts, metrics
    from mvtec_ad.benchmark.cells import Row
    from mvtec_ad.training import checkpoints_folder, remove_checkpoints

    if Path(arguments.out).suffix != ".zip":
        raise SettingsError(f"--out {arguments.out} is no artifact: give a name that ends in .zip")
    check_output("--out", arguments.out, ".zip", make=True)
    kind = detector_class(arguments.method)
    row = Row(arguments.method, arguments.method, kind(**given_options(arguments, kind)), crop_chosen(arguments))
    table, source = read_table(arguments, arguments.category)
    detector = row.on(source)
    category = table["category"].iloc[0]
    good = table[(table["split"] == "train") & (table["label"] == 0)]
    metrics.check_enough(detector.calibration_images(len(good)), arguments.false_alarm_rate)
    detector.fit(list(good["image_path"]), arguments.seed, checkpoints=checkpoints_folder(), progress=True)
    limit = metrics.calibrated(detector.good_scores, arguments.false_alarm_rate)
    threshold = {"value": limit, "false_alarm_rate": arguments.false_alarm_rate}
    measured = {"good_images": len(good) - detector.copies, "threshold": limit}
    path = artifacts.save_model(arguments.out, detector, category, threshold, data_source=source, metrics=measured)
    remove_checkpoints(detector.checkpoint_files)  # until here a killed run finds them again
    looked_at = seen_part(detector.image_size, detector.crop)
    if getattr(detector, "tile", 0):
        looked_at = f"in their native size, by tiles of {detector.tile} px"
    if detector.copies:
        print(f"{detector.copies} of {len(good)} good images are copies of others: each counts once")
    print(
        f"{path}: fitted on {len(good) - detector.copies} good images of {category}, {looked_at}; "
        f"threshold {limit:.4g} for at most {arguments.false_alarm_rate:.0%} false alarms; "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )
    if not (table["label"] == 1).any() or not ((table["split"] == "test") & (table["label"] == 0)).any():
        print("No AUROC can be computed: there are no good and defective test images. Try `detect` on images you know.")


# --- update and forget ------------------------------------------------------------------------------------------------


def add_update(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `update`."""
    add_change(parser, "new good images: files or folders")
    parser.add_argument(
        "--suspects",
        choices=("refuse", "leave-out", "take"),
        default="refuse",
        help="what is done about new images that do not look good: nothing is written (default), or they are left out, "
        "or taken all the same",
    )
    add_false_discovery_rate(parser)


def add_forget(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `forget`."""
    add_change(parser, "images that it was fitted on: files or folders")
    text = "good images at hand, old or new, 20 or more, that fill the holes in a coreset of patchcore; needed there"
    parser.add_argument("--repair", metavar="GOOD", help=text)


def add_change(parser: argparse.ArgumentParser, images: str) -> None:
    """What `update` and `forget` share."""
    parser.add_argument("artifact", help="what `fit padim` or `fit patchcore` wrote")
    parser.add_argument("images", nargs="+", help=images)
    parser.add_argument("--out", required=True, help="artifact to write, another .zip")
    parser.add_argument("--category", help="which model, where the artifact holds several")
    parser.add_argument("--method", choices=list(METHODS), help="which method, where it holds several")
    parser.add_argument("--seed", type=int, help="which seed, where it holds several")


def add_false_discovery_rate(parser: argparse.ArgumentParser) -> None:
    """--false-discovery-rate."""
    text = "share of good images among those that are called suspects, at most (default 0.1)"
    parser.add_argument("--false-discovery-rate", type=float, default=0.1, help=text)


def run_update(arguments: argparse.Namespace) -> None:
    """Judge the new images, take them in, calibrate again."""
    _change(arguments, "update")


def run_forget(arguments: argparse.Namespace) -> None:
    """Remove images, calibrate again."""
    _change(arguments, "forget")


def _change(arguments: argparse.Namespace, word: str) -> None:
    """An artifact with one changed model, whose manifest names those that it came from."""
    from mvtec_ad import artifacts, metrics
    from mvtec_ad.methods import load_model

    if Path(arguments.out).suffix != ".zip":
        raise SettingsError(f"--out {arguments.out} is no artifact: give a name that ends in .zip")
    check_output("--out", arguments.out, ".zip", make=True)
    if os.path.exists(arguments.out) and os.path.samefile(arguments.out, arguments.artifact):
        raise SettingsError(f"--out {arguments.out} is the model itself: give another name, so that you can go back")
    paths = image_paths(arguments.images)
    artifact = artifacts.load(Path(arguments.artifact))
    which = {"method": arguments.method, "category": arguments.category, "seed": arguments.seed}
    detector, description = load_model(artifact, **which)
    detector.check_changeable("updated" if word == "update" else "made to forget")
    threshold, suspects = description["threshold"], []
    if word == "update":
        paths, suspects = _new_images(detector, paths, arguments)
    repair = []
    if word == "forget" and detector.name == "patchcore" and detector.coreset < 1:
        if not arguments.repair:
            raise SettingsError(
                "where rows of a coreset are removed there may be holes, and good images would be flagged: give "
                "--repair GOOD/, a folder of 20 or more good images at hand, old or new"
            )
        repair = [str(path) for path in image_paths([arguments.repair])]
        gone = set(detector.content_hashes([str(path) for path in paths]))
        hashes = detector.content_hashes(repair)
        repair = [path for path, digest in zip(repair, hashes, strict=True) if digest not in gone]
        if not repair:
            raise SettingsError("--repair holds only images that are forgotten: give 20 or more other good ones")
    before = len(detector.good_scores)
    change = getattr(detector, word)([str(path) for path in paths], progress=True)
    recomputed = detector.repair(repair, progress=True) if repair else change.recomputed
    limit = metrics.calibrated(detector.good_scores, threshold["false_alarm_rate"])
    measured = {"good_images": len(detector.good_scores), "threshold": limit, "change": word, "images": change.images}
    measured |= {"scores_recomputed": recomputed, "suspects_left_out": len(suspects)}
    path = artifacts.save_model(
        arguments.out,
        detector,
        description["category"],
        {**threshold, "value": limit},
        data_source=artifact.manifest["data_source"],
        metrics=measured,
        inputs=[*artifact.manifest["inputs"], artifact],
    )
    if change.copies:
        print(f"{change.copies} of {len(paths)} images are copies of others or known already: each counts once")
    earlier = len(detector.good_scores) - recomputed
    print(
        f"{path}: {change.images} images {'added to' if word == 'update' else 'forgotten of'} {before}; threshold "
        f"{limit:.4g}, before {threshold['value']:.4g}, for at most {threshold['false_alarm_rate']:.0%} false alarms"
        + (f"; {earlier} of its {len(detector.good_scores)} scores are those of the earlier model" if earlier else "")
        + f"; {path.stat().st_size / 1e6:.1f} MB"
    )


def _new_images(detector: Any, paths: list[Path], arguments: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """The images that are taken in, and those that are left out because they do not look good."""
    from mvtec_ad.inspection.suspects import suspects

    table = suspects(detector, paths, arguments.false_discovery_rate)
    odd = table[table["suspect"] & ~table["known"]]
    for line in [*suspect_lines(odd), *unnoticed(table, detector, arguments.false_discovery_rate)]:
        print(line)
    if len(odd) and arguments.suspects == "refuse":
        raise DataError(
            f"{len(odd)} of {len(table)} new images do not look like the good ones, nothing is written: look at them, "
            "then give --suspects leave-out, or take where they are good"
        )
    if arguments.suspects == "take" or not len(odd):
        return paths, []
    if len(odd) == len(table):
        raise DataError(f"none of the {len(table)} new images looks good, nothing is left to take in")
    left_out = set(odd["image"])
    return [path for path in paths if str(path) not in left_out], sorted(left_out)


def unnoticed(table: pd.DataFrame, detector: Any, false_discovery_rate: float) -> list[str]:
    """What the number of good scores does not allow to find among new images, in a line or none."""
    from mvtec_ad.metrics import fewest_discoveries

    count, good = int((~table["known"]).sum()), len(detector.good_scores)
    fewest = fewest_discoveries(count, good, false_discovery_rate) if count else 1
    line = f"with {good} good scores, fewer than {fewest} odd ones of {count} new images cannot be told from chance"
    return [f"{line}: `detect` judges each alone"] if fewest > 1 else []


def suspect_lines(odd: pd.DataFrame) -> list[str]:
    """Images that do not look good, a line each, the oddest first."""
    rows = odd.sort_values("score", ascending=False).itertuples()
    return [f"suspect  score {row.score:8.3f}  p {row.p_value:.4f}  {printable(row.image)}" for row in rows]


# --- detect -----------------------------------------------------------------------------------------------------------


def add_detect(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `detect`."""
    text = "what `fit` or `export` wrote; or a folder of the notebooks' artifacts: then it is the line"
    parser.add_argument("artifact", help=text)
    parser.add_argument("images", nargs="+", help="image files or folders")
    folder = {"dest": "anomaly_maps", "metavar": "HEAT_MAPS"}
    parser.add_argument("--heat-maps", "--figures", **folder, help="folder for the heat maps; 'none' draws none")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    single = parser.add_argument_group("with one artifact")
    single.add_argument("--category", help="which model, where the artifact holds several")
    single.add_argument("--method", choices=list(METHODS), help="which method, where it holds several")
    single.add_argument("--seed", type=int, help="which seed, where it holds several")
    single.add_argument("--threshold", type=float, help="instead of the calibrated one")
    single.add_argument(
        "--tile",
        type=positive,
        help="side in pixels of the tiles of a large picture, with a model of `fit patchcore --tile`: changes memory "
        "and no verdict",
    )
    single.add_argument(
        "--animation",
        help=f"also write the heat maps into this file, a .gif; of more than {MOST_FRAMES} those of the highest scores",
    )
    line = parser.add_argument_group("with a folder of artifacts")
    line.add_argument("--second", choices=[*METHODS, "none"], help="asked where the classifier is unsure")
    line.add_argument("--product", help="category of all images; when not given, each is recognised")
    line.add_argument("--view", help="from which side, where the product has several")
    line.add_argument("--page", help="HTML page of all images; for a folder transfer/inspections/index.html")
    line.add_argument("--artifacts", help=argparse.SUPPRESS)  # of the alias `inspect`


def run_detect(arguments: argparse.Namespace) -> None:
    """Judge images by one model, or by all models of a folder."""
    if arguments.artifact and arguments.artifacts:
        raise SettingsError(f"--artifacts says nothing beside {arguments.artifact}: leave it out")
    target = Path(arguments.artifact or arguments.artifacts or root_folder() / "transfer")
    whole_line = target.is_dir() or not arguments.artifact
    useless = "category method seed threshold tile animation" if whole_line else "second product view page"
    for option in useless.split():
        if getattr(arguments, option) is not None:
            what = "a folder of artifacts" if whole_line else "a single artifact"
            raise SettingsError(f"--{option} says nothing with {what}: leave it out")
    (_inspect if whole_line else _detect)(target, arguments)


def _detect(target: Path, arguments: argparse.Namespace) -> None:
    """Some images at a time: read, score, print, then draw. Nothing of an image is kept but its row."""
    if arguments.threshold is not None and not math.isfinite(arguments.threshold):
        raise SettingsError(f"--threshold {arguments.threshold} judges nothing: give a number")
    exported = target.suffix.lower() == ".onnx"  # then nothing is imported that an edge device may lack
    folder = None if arguments.anomaly_maps == "none" else Path(arguments.anomaly_maps or "heat_maps")
    folder = _drawable(folder, arguments) if exported else folder
    check_output("--heat-maps", folder)
    check_output("--animation", arguments.animation, ".gif")
    paths = image_paths(arguments.images)
    which = {"method": arguments.method, "category": arguments.category, "seed": arguments.seed}
    if exported and arguments.tile:
        raise SettingsError(
            "--tile: an exported model looks at a resized picture: use the .zip that `fit --tile` wrote"
        )
    scorer = _exported(target, **which) if exported else _artifact(target, arguments.tile, **which)
    threshold = scorer.threshold if arguments.threshold is None else arguments.threshold
    files, pictures = PictureFiles(folder), Pictures(arguments.animation, threshold, scorer.threshold)
    counts, problem = {"defect": 0, "good": 0, "unreadable": 0}, None
    with printed_rows(arguments.json) as add_row, progress_bar(len(paths), arguments.json) as bar:
        for part in growing(len(paths), scorer.at_once or AT_ONCE):
            chunk = paths[part]
            images, scores, maps, problems = scorer.score(chunk)
            readable = [path for position, path in enumerate(chunk) if position not in problems]
            mapped = bool(readable) and maps is not None  # some methods judge an image as a whole
            names = [files.name(path) if mapped else None for path in readable]
            judged = iter(zip(scores, names, strict=True))
            for position, path in enumerate(chunk):
                value, figure = (None, None) if position in problems else next(judged)
                verdict = "unreadable" if value is None else "defect" if value > threshold else "good"
                row = {"image": str(path), "threshold": threshold, "verdict": verdict, "score": value}
                row["heat_map"] = figure
                if position in problems:
                    problem = problem or problems[position]
                    row["reason"] = str(problems[position])
                counts[verdict] += 1
                add_row(row)
            if mapped and (folder or arguments.animation):
                pictures.draw(files, names, readable, images, scores, maps)
            bar.update(len(chunk))
    if not arguments.json:
        summary = f"{counts['defect']} of {len(paths)} images called defective"
        summary += f", {counts['unreadable']} unreadable" if counts["unreadable"] else ""
        print(summary + files.where("heat maps"), flush=True)
    if pictures.frames:
        from mvtec_ad import plotting

        frames = (pictures.figure(*frame) for frame in pictures.frames)
        files.write(arguments.animation, lambda: plotting.animation(frames))
    not_judged = [f"{counts['unreadable']} of {len(paths)} images not judged; {problem}"] if problem else []
    if arguments.animation and not pictures.frames:
        reason = f"{scorer.name} has no anomaly map to show" if counts["unreadable"] < len(paths) else "no image"
        files.problems.append(f"--animation {arguments.animation} is not written: {reason}")
    if not_judged or files.problems:
        raise DataError("; ".join([*not_judged, *files.summary()]))


# images, scores, maps or None, and, for each position that cannot be read, what is wrong
FileScores = tuple["Sequence[np.ndarray]", list[float], "Sequence[np.ndarray] | None", dict[int, DataError]]


class FileScorer(NamedTuple):
    """What scores image files, the method's name, the calibrated threshold, and how many files at once at most."""

    score: Callable[[Sequence[Path]], FileScores]
    name: str
    threshold: float
    at_once: int | None = None  # None: `AT_ONCE`


def _artifact(target: Path, tile: int | None, **which: Any) -> FileScorer:
    """By a fitted artifact; by tiles, one picture after the other, where it was fitted on them."""
    from mvtec_ad.data.loading import load_readable
    from mvtec_ad.methods import load_model

    detector, description = load_model(target, **which)
    threshold, tiled = description["threshold"]["value"], bool(getattr(detector, "tile", 0))
    if tile and not tiled:
        raise SettingsError(no_tiles(detector))
    if tiled:
        detector.tile = tile or detector.tile
        return FileScorer(lambda paths: _by_tiles(detector, paths[0]), detector.name, threshold, at_once=1)

    def score(paths: Sequence[Path]) -> FileScores:
        images, problems = load_readable(paths, detector.image_size, detector.crop)
        if len(problems) == len(paths):
            return images, [], None, problems
        scores = detector.score_seen(detector.parts(images))
        return images, scores.image.tolist(), scores.maps, problems

    return FileScorer(score, detector.name, threshold)


def no_tiles(detector: Any) -> str:
    """Why a model has no use for tiles."""
    if detector.name == "patchcore":
        return f"--tile: this model was fitted on pictures resized to {detector.image_size} px; fit it with --tile"
    return f"--tile: {detector.name} looks at a resized picture, each position by itself; fit patchcore with --tile"


def _by_tiles(detector: Any, path: Path) -> FileScores:
    """A large picture, its score and its anomaly map, picture and map made small; or what is wrong with it."""
    from mvtec_ad.data.loading import read_image, resample

    try:
        picture = read_image(path)
    except DataError as problem:
        return [], [], None, {0: problem}
    pixels = picture.shape[0] * picture.shape[1]
    if pixels > LARGER * detector.most_pixels:
        fitted = f"{detector.most_pixels / 1e6:.3g} million pixels, and {path} has {pixels / 1e6:.3g}"
        why = "the largest of more distances is larger, so good parts will be flagged more often than promised"
        print(f"the threshold was calibrated on pictures of {fitted}: {why}", file=sys.stderr)
    score, grid = detector.score_picture(picture, progress=True)
    share = min(1, SHOWN / max(picture.shape))
    height, width = (max(1, round(share * size)) for size in picture.shape[:2])
    return resample(picture, height, width)[None], [float(score)], resample(grid, height, width)[None], {}


def _exported(target: Path, **which: Any) -> FileScorer:
    """By a graph that `export` wrote, without torch."""
    from mvtec_ad.data.loading import read_image
    from mvtec_ad.edge import EdgeModel

    for option in [option for option, value in which.items() if value is not None]:
        raise SettingsError(f"--{option} says nothing with an exported model, which is a single one: leave it out")
    model = EdgeModel(target)

    def score(paths: Sequence[Path]) -> FileScores:
        triples, problems = [], {}
        for position, path in enumerate(paths):
            try:
                triples.append(model.score(read_image(path)))
            except DataError as problem:
                problems[position] = problem
        images, scores, maps = map(list, zip(*triples, strict=True)) if triples else ([], [], [None])
        return images, scores, None if maps[0] is None else maps, problems

    return FileScorer(score, model.method, model.threshold)


def _drawable(folder: Path | None, arguments: argparse.Namespace) -> Path | None:
    """The folder for heat maps; None, and a line, where they were not asked for and what draws them is missing."""
    try:
        for module in ("matplotlib", "pandas", "safetensors"):
            importlib.import_module(module)
    except ModuleNotFoundError:
        if folder and (arguments.anomaly_maps or arguments.animation):
            raise
        if folder:
            print(f"no heat maps: to draw them, {way_to_install('notebooks')}", file=sys.stderr)
        return None
    return folder


def progress_bar(count: int, shown: bool) -> Any:
    """A bar for machines' output, whose rows say nothing to who waits; `update` does nothing where tqdm is missing."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return contextlib.nullcontext(argparse.Namespace(update=lambda _: None))
    return tqdm(total=count, unit="image", disable=not shown)  # rows in words are progress enough


def growing(count: int, most: int) -> Iterator[slice]:
    """Slices through `count` images, 4 and then ever more up to `most`, so that the first verdict comes soon."""
    start, size = 0, 4
    while start < count:
        size = min(size, most)
        yield slice(start, min(start + size, count))
        start, size = start + size, 2 * size


@contextlib.contextmanager
def printed_rows(as_json: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that prints a row at once: a line to read, or, for machines, a part of one JSON list."""
    count = 0

    def add(row: dict[str, Any]) -> None:
        nonlocal count
        if as_json:
            print("," if count else "[", json.dumps(row, indent=1), sep="\n", end="", flush=True)
        elif row["verdict"] == "unreadable":
            print(f"unreadable  {printable(row['reason'])}", flush=True)
        else:
            words = f"{row['verdict']:<6}  score {row['score']:8.3f}  threshold {row['threshold']:.3f}"
            print(f"{words}  {printable(row['image'])}", flush=True)
        count += 1

    try:
        yield add
    finally:
        if as_json:
            print("\n]" if count else "[]")


class Pictures:
    """A picture of each image: the image, and its anomaly map on one colour scale.

    The scale goes to twice the calibrated threshold where scores are values of the maps, else to what the first images
    reach, so that it does not depend on how many images follow.
    """

    def __init__(self, animation: str | None, threshold: float, calibrated: float) -> None:
        self.animation, self.threshold, self.calibrated = animation, threshold, calibrated
        self.scale: tuple[float, float] | None = None
        self.frames: list[tuple[Path, np.ndarray, np.ndarray, float]] = []

    def draw(
        self,
        files: PictureFiles,
        names: Sequence[str | None],
        paths: Sequence[Path],
        images: Sequence[np.ndarray],
        scores: list[float],
        maps: Sequence[np.ndarray],
    ) -> None:
        """Write the pictures of some images under these names; a None is not written."""
        import numpy as np

        from mvtec_ad.plotting import to_png

        if self.scale is None:
            peaks = [anomaly_map.max() for anomaly_map in maps]
            of_maps = self.calibrated > 0 and np.allclose(peaks, scores, rtol=1e-4)
            self.scale = (0.0, 2 * self.calibrated if of_maps else float(np.quantile(maps, 0.999)))
        frames = list(zip(paths, images, maps, scores, strict=True))
        for name, frame in zip(names, frames, strict=True):
            files.write(name, lambda frame=frame: to_png(self.figure(*frame)))
        if self.animation:  # copies, for a view would keep all images of its batch
            self.frames += [(path, image.copy(), of_image.copy(), score) for path, image, of_image, score in frames]
            highest = sorted(range(len(self.frames)), key=lambda place: -self.frames[place][3])[:MOST_FRAMES]
            self.frames = [self.frames[place] for place in sorted(highest)]

    def figure(self, path: Path, image: np.ndarray, anomaly_map: np.ndarray, score: float) -> Figure:
        """The image and its anomaly map with the verdict."""
        from mvtec_ad import plotting

        words = {"scores": [score], "threshold": self.threshold, "titles": [plotting.file_title(path)]}
        return plotting.anomaly_map_gallery(image[None], anomaly_map[None], scale=self.scale, **words)


class PictureFiles:
    """Names of the pictures in a folder, None where none are wanted; one that fails costs no verdict.

    No two pictures have one name, and none that of a file that no earlier run has drawn.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.names, self.problems = folder, set(), []
        self.beside = ""  # the first that has another name because a user's file lies there

    def name(self, path: Path) -> str | None:
        """Where the picture of an image will lie."""
        from mvtec_ad.data.loading import is_figure

        if self.folder is None:
            return None
        whole = os.fsencode(f"{path.parent.name}_{path.stem}")
        stem = whole[-NAME_BYTES:].decode("utf-8", "ignore")
        others = (f"{number:04d}_{stem}" for number in itertools.count(len(self.names)))
        for name in (self.folder / f"{stem}.png" for stem in itertools.chain([stem], others)):
            if (key := str(name).casefold()) in self.names:
                continue
            if not os.path.lexists(name) or is_figure(name):
                self.names.add(key)
                return str(name)
            self.beside = self.beside or f"{name} is no heat map, it was left as it is"

    def write(self, name: str | None, make: Callable[[], bytes]) -> bool:
        """Make and write a picture; whether that worked, else `problems` has another line."""
        from mvtec_ad.artifacts import write_file

        try:
            if name:
                write_file(name, make())
            return bool(name)
        except Exception as problem:  # whatever: the verdicts are what was asked for
            reason = f"{name} cannot be drawn ({type(problem).__name__} {problem})"
            self.problems.append(str(problem) if isinstance(problem, MvtecAdError) else reason)
            return False

    def where(self, what: str) -> str:
        """The end of a sentence that says where they are."""
        beside = f"; {self.beside}" if self.beside else ""
        return f"; {what} in {self.folder}/{beside}" if self.names else ""

    def summary(self) -> list[str]:
        """What could not be written, in one line or none."""
        more = f" (and {len(self.problems) - 1} more pictures)" if len(self.problems) > 1 else ""
        return [self.problems[0] + more] if self.problems else []


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


def _inspect(folder: Path, arguments: argparse.Namespace) -> None:
    """Product, verdict, place and type of the defect for each image, by the models of all notebooks."""
    from mvtec_ad import pages, plotting
    from mvtec_ad.inspection.inspector import UNREADABLE, Inspector

    if arguments.view and not arguments.product:
        raise SettingsError(f"--view {arguments.view} needs --product: a view is one of a product")
    figures = None if arguments.anomaly_maps in (None, "none") else Path(arguments.anomaly_maps)
    check_output("--page", arguments.page, ".html", make=True)
    check_output("--heat-maps", figures)
    target = Path(arguments.page) if arguments.page else None
    if target is None and any(Path(name).is_dir() for name in arguments.images):
        target = transfer_folder() / "inspections" / "index.html"
    paths = image_paths(arguments.images)
    second = arguments.second or "autoencoder"
    inspector = Inspector.load(folder, second=None if second == "none" else second)
    known = {"product": arguments.product, "view": arguments.view}
    files, cards, inspections, widths = PictureFiles(figures), [], [], [len("defect")]
    rows = printed_rows(as_json=True) if arguments.json else contextlib.nullcontext()
    quiet = {"anomaly_maps": bool(target or figures), "progress": arguments.json and len(paths) > 1}
    inspected = inspector.inspect(paths, **known, **quiet)
    with contextlib.closing(inspected), rows as add_row:  # ends the progress bar's line before an error is printed
        for path, inspection in zip(paths, inspected, strict=True):
            card, name = pages.make_card(inspection, bool(target)), files.name(path)  # so that no pixels pile up
            inspections.append(card.inspection)
            if not add_row:
                print(printable(pages.inspection_line(card.inspection, widths)), flush=True)
            if target:
                cards.append(card)
                cards = cards if len(cards) < 2 * pages.MOST_CARDS else pages.first_cards(cards)
            written = files.write(name, lambda each=inspection: plotting.to_png(plotting.inspection_figure(each)))
            if add_row:
                add_row(card.inspection.as_dict() | {"figure": name if written else None})
    notes = pages.skipped(inspections, inspector.missing)
    if not arguments.json:
        lines = [pages.inspection_summary(inspections), *notes]
        print("\n".join([*map(printable, lines), *filter(None, [files.where("figures")[2:]])]), flush=True)
    if target and files.write(str(target), lambda: pages.inspection_page(cards, notes, inspections)):
        print(f"look at {target}", file=sys.stderr if arguments.json else sys.stdout)
    unreadable = [inspection.problem for inspection in inspections if inspection.verdict == UNREADABLE]
    not_judged = [f"{len(unreadable)} of {len(paths)} images not judged; {unreadable[0]}"] if unreadable else []
    if not_judged or files.problems:
        raise DataError("; ".join([*not_judged, *files.summary()]))


# --- serve ------------------------------------------------------------------------------------------------------------


def add_serve(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `serve`."""
    parser.add_argument("model", help="what `fit` or `export` wrote, or a folder of the notebooks' artifacts: the line")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; others than this machine need --token"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one; default: 8000")
    text = "that every request must bring (Authorization: Bearer); default: the environment variable MVTEC_AD_TOKEN"
    parser.add_argument("--token", help=text)
    text = "folder for what people say of verdicts, in MVTec layout; default: transfer/feedback; 'none' keeps none"
    parser.add_argument("--feedback", metavar="FOLDER", help=text)
    single = parser.add_argument_group("with one artifact")
    single.add_argument("--category", help="which model, where the artifact holds several")
    single.add_argument("--method", choices=list(METHODS), help="which method, where it holds several")
    single.add_argument("--seed", type=int, help="which seed, where it holds several")
    line = parser.add_argument_group("with a folder of artifacts")
    line.add_argument("--second", choices=[*METHODS, "none"], help="asked where the classifier is unsure")
    line.add_argument("--product", help="category of all images; when not given, each is recognised")
    line.add_argument("--view", help="from which side, where the product has several")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--megabytes", type=positive, default=64, help="of a request; default: 64")
    limits.add_argument("--megapixels", type=positive, default=50, help="of an image; default: 50")
    limits.add_argument("--images", type=positive, default=16, help="of a request; default: 16")
    limits.add_argument(
        "--waiting", type=positive, default=64, help="images that may wait, of all requests; default: 64"
    )


def run_serve(arguments: argparse.Namespace) -> None:
    """Take the port and the folder, read the model, answer until Ctrl-C."""
    import time

    from mvtec_ad.serving import app as service
    from mvtec_ad.serving.feedback import Feedback
    from mvtec_ad.serving.guard import Limits, check_token, listen
    from mvtec_ad.serving.models import load_served

    target, begun = Path(arguments.model), time.perf_counter()
    useless = "category method seed" if target.is_dir() else "second product view"
    for option in useless.split():
        if getattr(arguments, option) is not None:
            what = "a folder of artifacts" if target.is_dir() else "a single model"
            raise SettingsError(f"--{option} says nothing with {what}: leave it out")
    if arguments.view and not arguments.product:
        raise SettingsError(f"--view {arguments.view} needs --product: a view is one of a product")
    if arguments.images > arguments.waiting:
        raise SettingsError(
            f"--images {arguments.images} would never fit --waiting {arguments.waiting}: raise that one"
        )
    token = check_token(arguments.host, arguments.token or os.environ.get("MVTEC_AD_TOKEN"))
    limits = Limits(**{name: getattr(arguments, name) for name in ("megabytes", "megapixels", "images", "waiting")})
    folder = None if arguments.feedback == "none" else Path(arguments.feedback or transfer_folder() / "feedback")
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(listen(arguments.host, arguments.port))
        feedback = None if folder is None else opened.enter_context(contextlib.closing(Feedback(folder)))
        print(f"reading {target}", flush=True)
        which = {name: getattr(arguments, name) for name in ("category", "method", "seed", "product", "view")}
        second = None if arguments.second == "none" else arguments.second or "autoencoder"
        app = service.create_app(
            load_served(target, second=second, **which), limits=limits, token=token, feedback=feedback
        )
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        print("no feedback is kept" if folder is None else f"feedback goes to {folder}")
        ready = f"ready after {time.perf_counter() - begun:.1f} s: {address}{'?token=…' if token else ''}"
        service.run(app, listener, ready=f"{ready} (what can be asked: {address}docs); Ctrl-C ends it")
        print(f"ended; {app.state.service.inspected} images were inspected")


# --- export -----------------------------------------------------------------------------------------------------------


def add_export(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `export`."""
    parser.add_argument("artifact", help="what `fit` wrote, or models.zip of notebook 04")
    parser.add_argument("--onnx", required=True, metavar="DIR", help="folder for NAME.onnx and NAME-certificate.json")
    text = "the float32 graph must judge them as the model does, or nothing is written; of int8 changes are counted"
    parser.add_argument("--good", nargs="+", default=[], help=f"good images, files or folders: {text}")
    parser.add_argument("--test", nargs="+", default=[], help="other images, likewise")
    parser.add_argument("--category", help="which model, where the artifact holds several")
    parser.add_argument("--method", choices=list(METHODS), help="which method, where it holds several")
    parser.add_argument("--seed", type=int, help="which seed, where it holds several")
    parser.add_argument("--name", help="which classifier, where it holds several, as top-192")
    parser.add_argument("--int8", action="store_true", help="also write NAME-int8.onnx, a third of the size")
    parser.add_argument("--page", help="also write an HTML file that inspects pictures in a browser; npm is needed")


def run_export(arguments: argparse.Namespace) -> None:
    """Load, trace, compare on every image, write."""
    check_output("--onnx", arguments.onnx)
    check_output("--page", arguments.page, ".html", make=True)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch is imported: graphs are made where they will run
    images = {part: image_paths(names) for part in ("good", "test") if (names := getattr(arguments, part))}
    if not images:
        raise SettingsError("a certificate needs images to compare on: give good ones with --good, others with --test")
    for module in ("onnx", "onnxscript"):  # said before what else is missing
        importlib.import_module(module)
    from mvtec_ad import export

    which = {key: getattr(arguments, key) for key in ("category", "method", "seed", "name")}
    model = export.load_fitted(arguments.artifact, **which)
    more = {"int8": arguments.int8, "page": arguments.page, "progress": True}
    chosen = [str(value) for value in which.values() if value is not None]  # two models of an artifact have two names
    stem = "-".join([Path(arguments.artifact).stem, *chosen]).replace("/", "-")
    files, certificate = export.export_model(model, arguments.onnx, stem, images, **more)
    print("\n".join(export.certificate_lines(certificate)))
    print("\n".join(f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in files))


# --- evaluate ---------------------------------------------------------------------------------------------------------


def add_evaluate(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `evaluate`, and the options of the method where a single one is named without any."""
    parser.add_argument(
        "rows",
        nargs="+",
        metavar="METHOD",
        help=f"one of {', '.join(METHODS)}, classifier, inspector or {DEFECT_TYPES}; several as "
        "METHOD[:PRESET][,FIELD=VALUE …][,name=NAME], for example padim:keras or autoencoder,loss=ssim,steps=300",
    )
    parser.add_argument("--category", nargs="+", required=True, help="category folders")
    add_data_options(parser)
    text = "of whatever a method draws; 0 1 2 (defect_types: 0) when none"
    parser.add_argument("--seeds", nargs="+", type=int, help=text)
    parser.add_argument("--false-alarm-rate", type=float, default=0.05, help="promised by the calibrated threshold")
    parser.add_argument("--json", help="also write the report, or the list of reports, to this file")
    many = parser.add_argument_group("several methods or categories")
    many.add_argument("--jobs", type=positive, default=2, help="measured at once, each by one thread")
    many.add_argument(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="measure on this Dask cluster instead: its workers need this package, `--nthreads 1`, and the images and "
        "weights files under the same paths",
    )
    many.add_argument("--name", help="keep what is finished in transfer/sweeps/NAME, and go on there; default: default")
    named = list(itertools.takewhile(lambda word: not word.startswith("-"), words or ()))
    if len(named) == 1 and named[0] in (DEFECT_TYPES, *METHODS, *WITH_LABELS):
        add_option_flags(parser.add_argument_group(f"options of {named[0]}"), _options_of(named[0]))


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Fit, score, measure, print, and keep the reports for `results`, those of the other rows where one fails."""
    from mvtec_ad.artifacts import write_file

    check_output("--json", arguments.json, ".json")
    check_output("the folder of records", transfer_folder())  # refused now, not after minutes of work
    evaluate = _evaluate_defect_types if DEFECT_TYPES in arguments.rows else _evaluate_rows
    measured, problem = evaluate(arguments)
    if arguments.json and measured:
        write_file(arguments.json, json.dumps(measured, indent=1) + "\n")
    if problem:
        raise MvtecAdError(problem)


def _options_of(row: str) -> type[Options]:
    """The class whose options a row of `evaluate` has."""
    if row != DEFECT_TYPES:
        return detector_class(row)
    from mvtec_ad.methods.defect_types import DefectTypes

    return DefectTypes


def _evaluate_defect_types(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Anomaly maps where they are looked at, folds, types left out; a killed run goes on from its last training."""
    from mvtec_ad import benchmark
    from mvtec_ad.benchmark import defect_types
    from mvtec_ad.data.copies import image_notes, picture_hashes
    from mvtec_ad.pages import defect_types_lines
    from mvtec_ad.training import remove_checkpoints

    if len(arguments.rows) > 1 or len(arguments.category) > 1 or arguments.name or arguments.scheduler:
        problem = "is measured alone: one category, no other method, no --name and no --scheduler"
        raise SettingsError(f"{DEFECT_TYPES} {problem}")
    kind = _options_of(DEFECT_TYPES)
    detector, seed = kind(**given_options(arguments, kind)), benchmark.check_seeds(arguments.seeds or [0])[0]
    table, source = read_table(arguments, arguments.category[0])
    maps = defect_types.anomaly_maps(table, detector, seed=seed) if detector.look == "predicted" else None
    checkpoints: list[Path] = []
    defects = detector.gather(table, maps, seed=seed, progress=True)
    measured = defect_types.measure(detector, defects, [detector.objective], seed, checkpoints, data_source=source)
    notes = [f"note: {note}" for note in image_notes(table, picture_hashes(list(table["image_path"])))]
    print("\n".join([*notes, *defect_types_lines(measured)]))
    remove_checkpoints(checkpoints)
    return measured, ""


def _evaluate_rows(arguments: argparse.Namespace) -> tuple[dict[str, Any] | list[dict[str, Any]], str]:
    """The report of one row on one category, or those of several, which are kept as cells; and what failed of these."""
    from mvtec_ad import benchmark, metrics
    from mvtec_ad.benchmark import cells, published
    from mvtec_ad.data.catalog import category_name
    from mvtec_ad.pages import report_lines

    seeds = benchmark.check_seeds(arguments.seeds or [0, 1, 2])
    metrics.images_needed(arguments.false_alarm_rate)  # refuses what is no rate; images are counted later
    rows = cells.parse_rows(arguments.rows)
    if hasattr(arguments, "preset"):
        kind = detector_class(rows[0].method)
        options = given_options(arguments, kind)
        rows = [replace(rows[0], detector=kind(**options), crop_chosen=crop_chosen(arguments))]
    if arguments.name is not None:
        cells.check_file_name("--name", arguments.name)
    names = [category_name(name) for name in arguments.category]
    tables = {name: read_table(arguments, name, together=names) for name in dict.fromkeys(names)}
    alone = len(rows) == len(tables) == 1
    if not alone or rows[0].method not in METHODS or arguments.name is not None or arguments.scheduler:
        reports, problem = _measure_cells(rows, tables, seeds, arguments)
        return reports[0] if alone and reports else reports, problem
    ((table, source),) = tables.values()
    known = {"data_source": source, "false_alarm_rate": arguments.false_alarm_rate, "row": rows[0].name}
    result = benchmark.run(rows[0].on(source), table, seeds, **known)
    print("\n".join(report_lines(result.report)))
    published.record(result.report)
    return result.report, ""


def _measure_cells(
    rows: Sequence[Row],
    tables: dict[str, tuple[pd.DataFrame, str]],
    seeds: Sequence[int],
    arguments: argparse.Namespace,
) -> tuple[list[dict[str, Any]], str]:
    """Measure what is missing, a line for each cell as it ends; gather, print, compare: the reports of all cells that
    could be measured, and a line about the others, "" for none."""
    from tqdm import tqdm

    from mvtec_ad.benchmark import Result, cells
    from mvtec_ad.metrics import format_metric

    folder = transfer_folder() / "sweeps" / (arguments.name or "default")
    planned, missing = cells.plan(rows, tables, seeds, arguments.false_alarm_rate), []
    for cell in planned:
        if (reason := cell.missing(folder)) is not None:
            missing.append(cell)
        if reason:
            print(f"{cell.title} is measured again: {reason}")
    if len(missing) < len(planned):
        print(f"{len(planned) - len(missing)} of {len(planned)} cells are finished already")
    failed: dict[str, str] = {}
    ended = cells.run_cells(missing, folder, jobs=arguments.jobs, scheduler=arguments.scheduler)
    with tqdm(total=len(missing), desc="evaluate", unit="cell", disable=not missing) as bar:
        for cell, report, problem in ended:
            if report is None:
                failed[cell.title] = problem
                tqdm.write(f"{cell.title}: failed: {problem}")
            else:
                auroc, seconds = format_metric(report["metrics"]["image_auroc"]), sum(report["seconds"].values())
                tqdm.write(f"{cell.title}: image AUROC {auroc}, {seconds:.1f} s")
            bar.update()
    results = [Result.load(cell.path(folder)) for cell in planned if cell.title not in failed]
    if results:
        _print_cells(results, tables, folder)
    first = next((f"{title}: {reason}" for title, reason in failed.items()), "")
    problem = f"{len(failed)} of {len(planned)} cells could not be measured, first {first}" if failed else ""
    return [result.report for result in results], problem


def _print_cells(results: Sequence[Result], tables: dict[str, tuple[pd.DataFrame, str]], folder: Path) -> None:
    """The table, summary.csv, every report kept, rows on common images, and who really wins."""
    from mvtec_ad import metrics
    from mvtec_ad.artifacts import write_file
    from mvtec_ad.benchmark import cells, compare, published
    from mvtec_ad.benchmark.result import PROMISE, promise

    reports, lines = [result.report for result in results], []
    for report in reports:
        seconds = f"{sum(report['seconds'].values()):.1f}"
        measured = [*published.shown(report), promise(report)]
        lines.append([report["category"], report["row"], len(report["seeds"]), *measured, seconds])
        if report["protocol"] == "official":  # the others are kept on the common images below
            published.record(report)
    for note in dict.fromkeys(note for report in reports for note in report.get("notes", [])):
        print(f"note: {note}")
    columns = ["category", "row", "seeds", *published.HEADS.values(), PROMISE, "seconds"]
    print(metrics.markdown_table(columns, lines))
    write_file(folder / "summary.csv", cells.overview(reports).to_csv(index=False))
    print(f"{folder / 'summary.csv'}: {len(results)} rows; cells beside it")
    for category, (table, source) in tables.items():
        rows = [result for result in results if result.category == category]
        if not rows:
            continue
        baselines = compare.trivial(table, data_source=source)
        try:
            images = compare.common_part(table)
        except DataError as problem:
            print(f"no part of {category} can be kept for all methods: {problem}")
        else:
            common = [row.only(images) for row in rows + baselines]
            reports = [compare.report(row, compare.measure(row)) for row in common]
            for report in reports:
                published.record(report)
            print(f"\n{published.tables(reports)}")
        official = [result for result in rows if result.protocol == "official"]
        if len(official) > 1:
            official += [row for row in baselines if row.row == compare.STRONGEST]
            pairs = compare.paired(official, resamples=max(4000, 25 * len(official) ** 2))
            write_file(folder / f"pairs-{category}.csv", pairs.to_csv(index=False))
            print(f"\n{category}: {len(pairs)} paired differences of image AUROC; how often a row is ahead and behind")
            print(compare.wins(pairs).to_string())


# --- report -----------------------------------------------------------------------------------------------------------


def add_report(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `report`."""
    parser.add_argument("artifact", metavar="MODEL", help="what `fit` wrote")
    parser.add_argument("good", metavar="GOOD", help="folder of new good images, which the model was not fitted on")
    text = "test images: a category folder, its test/ (ground_truth/ beside it), or a folder with one per defect type"
    parser.add_argument("test", metavar="TEST", nargs="?", help=text)
    parser.add_argument("--page", default="report.html", help="HTML page to write (default report.html)")
    parser.add_argument("--miss", type=float, default=10.0, help="cost of a defect that passes (default 10)")
    parser.add_argument("--false-alarm", type=float, default=1.0, help="of a good part that is stopped (default 1)")
    text = "shares of defective parts for which costs are expected (default .01 .05 .2)"
    parser.add_argument("--prevalence", type=float, nargs="+", default=[0.01, 0.05, 0.2], help=text)
    text = "good images that defects of each shape, size and contrast are painted on; 0: none (default 12)"
    parser.add_argument("--painted", type=int, default=12, help=text)
    parser.add_argument("--category", help="which model, where the artifact holds several")
    parser.add_argument("--method", choices=list(METHODS), help="which method, where it holds several")
    parser.add_argument("--seed", type=int, help="which seed, where it holds several")


def run_report(arguments: argparse.Namespace) -> None:
    """Score new good images and, where given, test images; print what may be promised and write the page."""
    from mvtec_ad.artifacts import write_file
    from mvtec_ad.data.index import read_test
    from mvtec_ad.methods import load_model
    from mvtec_ad.report import measure, report_lines, report_page

    check_output("--page", arguments.page, ".html")
    if not Path(arguments.good).is_dir():
        raise DataError(f"GOOD {arguments.good} is no folder: give one of new good images")
    if arguments.painted < 0:
        raise SettingsError(f"--painted {arguments.painted} cannot be: give 0 or more images to paint on")
    paths = image_paths([arguments.good])
    test = read_test(arguments.test) if arguments.test else None
    which = {"method": arguments.method, "category": arguments.category, "seed": arguments.seed}
    detector, description = load_model(arguments.artifact, **which)
    costs = {"miss": arguments.miss, "false_alarm": arguments.false_alarm, "prevalences": arguments.prevalence}
    measured = measure(detector, description, paths, test, **costs, painted=arguments.painted, progress=True)
    print("\n".join(map(printable, report_lines(measured))))
    write_file(arguments.page, report_page(measured))
    print(f"look at {arguments.page}", flush=True)
    if problems := measured["problems"]:
        raise DataError(f"{len(problems)} image{'s' * (len(problems) > 1)} not judged; {problems[0]}")


# --- run --------------------------------------------------------------------------------------------------------------


def add_run(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `run`."""
    parser.add_argument("notebooks", nargs="*", help="numbers, for example 01 02; all when not given")
    parser.add_argument("--profile", help="quick or full")
    parser.add_argument("--category", nargs="+", help="category folders instead of the profile's")
    parser.add_argument("--jobs", type=positive, help="notebooks run at once; quick: 2, full: 1, which has the GPU")


def run_run(arguments: argparse.Namespace) -> None:
    """Execute the notebooks in their committed form, each after those that it reads, and write `transfer/runs/`."""
    import nbformat

    from mvtec_ad.benchmark import published
    from mvtec_ad.notebooks import choose_notebooks, execute_notebooks
    from mvtec_ad.pages import write_run_page

    chosen = profile(arguments.profile)
    notebooks = choose_notebooks(root_folder() / "notebooks", arguments.notebooks)
    folder = make_folder(transfer_folder() / "runs")
    os.environ |= {"MVTEC_AD_PROFILE": chosen.name, "MVTEC_AD_HOME": str(root_folder())}
    if arguments.category:
        os.environ["MVTEC_AD_CATEGORIES"] = " ".join(arguments.category)
    committed = {folder / path.name: nbformat.read(path, as_version=4) for path in notebooks}
    jobs = arguments.jobs or (min(2, os.cpu_count() or 1) if chosen.name == "quick" else 1)
    seconds = execute_notebooks(committed, jobs)
    executed = [(path.stem, notebook, seconds[path]) for path, notebook in committed.items()]
    page = write_run_page(folder, executed, chosen.name)
    print(f"\n{published.tables(published.from_artifacts())}\n\nlook at {page}")


# --- backbone ---------------------------------------------------------------------------------------------------------


def add_backbone(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `backbone`; an option that is not given keeps the value of the carried weights."""
    if words is not None:
        from mvtec_ad.methods.pretraining import Pretraining

        add_option_flags(parser, Pretraining)
    text = "stop after this many steps; the same command goes on from there"
    parser.add_argument("--until", type=positive, help=text)
    parser.add_argument("--compare", action="store_true", help="train every objective this way, and carry none of them")
    parser.add_argument("--root", help="folder of real MVTec AD with bottle, to be reported (never chosen by)")
    parser.add_argument("--imagenet", help="file with ImageNet weights of ResNet-18, to be reported beside")


def run_backbone(arguments: argparse.Namespace) -> None:
    """Draw, train, measure, keep."""
    from mvtec_ad.backbones import load_backbone
    from mvtec_ad.data import index
    from mvtec_ad.methods import pretraining

    options = pretraining.Pretraining(**given_options(arguments, pretraining.Pretraining))
    if arguments.root is not None:  # now, not after hours of training
        index.read_category(Path(arguments.root), "bottle")
    if arguments.imagenet is not None:
        load_backbone("resnet18", arguments.imagenet)
    if arguments.compare:
        pretraining.compare_objectives(options, arguments.root)
    else:
        pretraining.train_and_save(options, until=arguments.until, root=arguments.root, imagenet=arguments.imagenet)


# --- results ----------------------------------------------------------------------------------------------------------


def add_results(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `results`."""
    parser.add_argument("--publish", action="store_true", help="write assets/results.json and docs/results.md")


def run_results(arguments: argparse.Namespace) -> None:
    """Print, and publish when asked."""
    from mvtec_ad.benchmark import published

    reports = published.measured()
    print(published.tables(reports))
    if arguments.publish:
        published.publish(reports)
        print("\npublished to assets/results.json and docs/results.md")


COMMANDS = {  # command -> what it does, the function that adds its flags, the one that does it
    "check": ("say what a folder's images are read as, what is odd, and how to bring them in", add_check, run_check),
    "prepare": ("make data.zip: the images of a run, resized once; or packages.zip", add_prepare, run_prepare),
    "fit": ("fit a method on good images and calibrate a threshold", add_fit, run_fit),
    "update": ("take more good images into a fitted model, and calibrate it again", add_update, run_update),
    "forget": ("remove good images from a fitted model, and calibrate it again", add_forget, run_forget),
    "detect": (
        "verdict, score and heat map for images, with a fitted artifact; with a folder of them the whole line",
        add_detect,
        run_detect,
    ),
    "serve": (
        "verdicts by HTTP on this machine or a line: images in, JSON out, a page to look at, drift alarm, feedback",
        add_serve,
        run_serve,
    ),
    "export": ("write a model as one ONNX graph, with a certificate that it judges the same", add_export, run_export),
    "evaluate": (
        "measure methods on categories: metrics with intervals, thresholds, trivial rows",
        add_evaluate,
        run_evaluate,
    ),
    "report": (
        "what may be promised of a fitted model: false alarms, smallest defect, costs, on one page",
        add_report,
        run_report,
    ),
    "run": ("execute the notebooks in order and leave one page to look at", add_run, run_run),
    "backbone": ("train the network that the package carries, on images without a subject", add_backbone, run_backbone),
    "results": ("measured figures beside published ones", add_results, run_results),
}


if __name__ == "__main__":
    entry()
