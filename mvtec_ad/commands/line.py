"""Commands of a line: `update`, `forget`, `check --model`, `serve`, `export` and `report`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.commands.flags import add_false_discovery_rate, check_output, image_paths, positive
from mvtec_ad.config import transfer_folder
from mvtec_ad.errors import DataError, SettingsError, printable
from mvtec_ad.methods import METHODS

if TYPE_CHECKING:
    import pandas as pd


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


def check_good(arguments: argparse.Namespace) -> None:
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
