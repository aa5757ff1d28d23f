"""The command line: `python -m mvtec_ad COMMAND`, or `mvtec-ad COMMAND`.

A method's flags are its options (`config.option`), read from its class when it is named; heavy imports wait until then.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from mvtec_ad import __version__
from mvtec_ad.commands.detect import add_detect, run_detect
from mvtec_ad.commands.evaluate import add_evaluate, run_evaluate
from mvtec_ad.commands.flags import (
    add_data_options,
    add_false_discovery_rate,
    add_option_flags,
    check_output,
    crop_chosen,
    given_options,
    positive,
    read_table,
)
from mvtec_ad.commands.line import (
    add_export,
    add_forget,
    add_report,
    add_serve,
    add_update,
    check_good,
    run_export,
    run_forget,
    run_report,
    run_serve,
    run_update,
)
from mvtec_ad.commands.search import add_search, run_search
from mvtec_ad.config import DataSettings, make_folder, profile, root_folder, seen_part, transfer_folder
from mvtec_ad.errors import SettingsError, in_words, printable
from mvtec_ad.methods import METHODS, MODELS, detector_class

ALIASES = {"sweep": ["evaluate", "--name", "default"], "inspect": ["detect", ""]}  # for one release


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
        return check_good(arguments)
    print("\n".join(check_layout(arguments.folder)))


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
    parser.add_argument("method", choices=list(MODELS), metavar="METHOD", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--category", required=True, help="folder of one product below --root")
    add_data_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of whatever the method draws")
    parser.add_argument("--false-alarm-rate", type=float, default=0.05, help="share of good parts that may be flagged")
    parser.add_argument("--out", required=True, help="artifact to write, a .zip")
    for method in [word for word in words or () if word in MODELS][:1]:
        add_option_flags(parser.add_argument_group(f"options of {method}"), detector_class(method))


def run_fit(arguments: argparse.Namespace) -> None:
    """Read images, fit, calibrate on images that the model has not seen, save.

    Good images are fitted on; where a method learns from labels, the parts of the supervised split that are not tested.
    """
    from mvtec_ad import artifacts, metrics
    from mvtec_ad.benchmark.cells import Row
    from mvtec_ad.data import splits
    from mvtec_ad.training import checkpoints_folder, remove_checkpoints

    if Path(arguments.out).suffix != ".zip":
        raise SettingsError(f"--out {arguments.out} is no artifact: give a name that ends in .zip")
    check_output("--out", arguments.out, ".zip", make=True)
    kind = detector_class(arguments.method)
    row = Row(arguments.method, arguments.method, kind(**given_options(arguments, kind)), crop_chosen(arguments))
    table, source = read_table(arguments, arguments.category)
    detector = row.on(source)
    category = table["category"].iloc[0]
    one_class = arguments.method in METHODS
    learned = table.query("split == 'train'") if one_class else splits.supervised(table, seed=0).query("part != 'test'")
    learned = (learned.query("label == 0") if one_class else learned).reset_index(drop=True)
    good, defects = int((learned["label"] == 0).sum()), int(learned["label"].sum())
    metrics.check_enough(detector.calibration_images(good), arguments.false_alarm_rate)
    images = list(learned["image_path"]) if one_class else learned
    detector.fit(images, arguments.seed, checkpoints=checkpoints_folder(), progress=True)
    limit = metrics.calibrated(detector.good_scores, arguments.false_alarm_rate)
    threshold = {"value": limit, "false_alarm_rate": arguments.false_alarm_rate}
    measured = {"good_images": good - detector.copies, "threshold": limit}
    path = artifacts.save_model(arguments.out, detector, category, threshold, data_source=source, metrics=measured)
    remove_checkpoints(detector.checkpoint_files)  # until here a killed run finds them again
    looked_at = seen_part(detector.image_size, detector.crop)
    if getattr(detector, "tile", 0):
        looked_at = f"in their native size, by tiles of {detector.tile} px"
    if detector.copies:
        what = "good images" if one_class else "images"
        print(f"{detector.copies} of {len(learned)} {what} are copies of others: each counts once")
    seen = f"{good - detector.copies} good images" if one_class else f"{good} good images and {defects} defects"
    print(
        f"{path}: fitted on {seen} of {category}, {looked_at}; "
        f"threshold {limit:.4g} for at most {arguments.false_alarm_rate:.0%} false alarms; "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )
    if not (table["label"] == 1).any() or not ((table["split"] == "test") & (table["label"] == 0)).any():
        print("No AUROC can be computed: there are no good and defective test images. Try `detect` on images you know.")


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
    "search": ("find images of defects by words, in English, Portuguese or Spanish", add_search, run_search),
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
