"""`detect`: judge images by one model, by an exported one, or by all models of a folder."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mvtec_ad.commands.flags import check_output, image_paths, positive
from mvtec_ad.config import root_folder, transfer_folder
from mvtec_ad.errors import DataError, MvtecAdError, SettingsError, printable, way_to_install
from mvtec_ad.methods import METHODS

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

AT_ONCE = 32  # images that are read, judged and drawn before the next are; the first time 4
LARGER = 1.5  # times the largest fitted picture: where a threshold by tiles no longer holds
SHOWN = 1024  # pixels: the longer side of the picture of a large picture
MOST_FRAMES = 200  # of an animation: four minutes
NAME_BYTES = 120  # of a picture's name; a file system takes 255, and the unfinished file has a longer one


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
