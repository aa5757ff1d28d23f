"""The folders of the packages: two views of each item, and boxes in the XML of Pascal VOC beside the test images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from mvtec_ad.synthetic.boxes import Annotation, Box
from mvtec_ad.synthetic.package.item import NUMBER, VIEWS, draw_package, package_number
from mvtec_ad.synthetic.writing import (
    IMAGES,
    LARGEST,
    LEAST_SEVERITY,
    SMALLEST,
    check_number,
    seed_of,
    write_png,
    write_set,
)

PACKAGE = "package"


def write_packages(
    root: Path,
    *,
    train: int,
    test: int,
    size: tuple[int, int] = (270, 480),
    seed: int = 0,
    least_severity: float = LEAST_SEVERITY,
    workers: int = 2,
    progress: bool = True,
) -> Path:
    """Draws packages into `root/package/{train,test}/{damaged,intact}/{side,top}/NUMBER_VIEW.png`.

    An XML file beside each test image holds the box of the damage, or of the item where it is intact. The images do not
    depend on `workers`. As in `write_category`, a temporary folder takes the name at the end, a folder that already
    holds exactly this set is kept, and one drawn with other parameters is replaced.

    Args:
        root: Folder of the data set.
        train: Number of damaged, and of intact, items to learn from.
        test: Number of damaged, and of intact, items to test on.
        size: Height and width of a view in pixels.
        seed: Of the whole set; no item's seed or number occurs twice in one set.
        least_severity: As in `draw_package`.
        workers: Threads that draw.
        progress: Whether to show a progress bar.

    Returns:
        `root / "package"`.

    Raises:
        DataError: A number is out of range, or the folder holds images that were not drawn here.
    """
    check_number("seed", seed, 0, None)
    check_number("workers", workers, 1, None)
    check_number("least_severity", least_severity, LEAST_SEVERITY, 1)
    for name, count in (("train", train), ("test", test)):
        check_number(name, count, 0, IMAGES)
    for name, side in zip(("height", "width"), size, strict=True):
        check_number(name, side, SMALLEST, LARGEST)
    return write_set(
        Path(root) / PACKAGE,
        {"category": PACKAGE, "seed": seed, "size": list(size), "train": train, "test": test}
        | {"least_severity": least_severity},
        lambda folder: _write_items(folder, _plan(seed, train, test), size, least_severity, workers, progress),
    )


def _plan(seed: int, train: int, test: int) -> dict[int, str]:
    """Returns the folder of every item, such as `test/intact`, by the item's seed."""
    parts = (("train/intact", train), ("train/damaged", train), ("test/intact", test), ("test/damaged", test))
    return {
        seed_of(seed, NUMBER, part, index): folder
        for part, (folder, count) in enumerate(parts)
        for index in range(count)
    }


def _write_items(
    folder: Path, plan: dict[int, str], size: tuple[int, int], least_severity: float, workers: int, progress: bool
) -> dict[str, dict[str, float]]:
    """Draws and writes all items; returns seed and severity of each image by its path."""
    for part in ("train/intact", "train/damaged", "test/intact", "test/damaged"):
        for view in VIEWS:
            (folder / part / view).mkdir(parents=True)
    write = partial(_write_item, folder, size, least_severity)
    with ThreadPoolExecutor(workers) as pool:
        severities = pool.map(write, plan.keys(), plan.values())
        severities = list(tqdm(severities, f"drawing {PACKAGE}", len(plan), disable=not progress, unit="item"))
    return {
        _path(part, view, package_number(seed)): {"seed": seed, "severity": severity}
        for (seed, part), severity in zip(plan.items(), severities, strict=True)
        for view in VIEWS
    }


def _path(part: str, view: str, number: str) -> str:
    return f"{part}/{view}/{number}_{view}.png"


def _write_item(folder: Path, size: tuple[int, int], least_severity: float, seed: int, part: str) -> float:
    stage, kind = part.split("/")
    item = draw_package(seed, kind == "damaged", size, least_severity)
    for view in VIEWS:
        path = folder / _path(part, view, item.number)
        write_png(path, item.views[view][..., ::-1])
        if stage == "test":
            annotation = Annotation(size, kind, Box(*item.boxes[view]))
            path.with_suffix(".xml").write_bytes(annotation.xml(path.name))
    return item.severity
