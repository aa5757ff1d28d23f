"""`search`: find images of defects by words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.commands.flags import check_output, image_paths, positive
from mvtec_ad.config import transfer_folder
from mvtec_ad.errors import DataError, printable

if TYPE_CHECKING:
    import numpy as np

Regions = list["np.ndarray | None"]


def add_search(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> None:
    """Flags of `search`."""
    parser.add_argument("query", help='words, for example "scratch near the head"; English, Portuguese or Spanish')
    parser.add_argument("folder", help="images of defects: a category folder in MVTec layout, or any folder")
    parser.add_argument("--model", help="what notebook 13 wrote; transfer/words.zip when not given")
    parser.add_argument("--top", type=positive, default=5, help="images that are listed (default 5)")
    text = "what `fit` wrote: its anomaly maps say where to look, and images that it calls good are left out"
    parser.add_argument("--detector", metavar="MODEL", help=text)
    text = 'search for what is like this one, but as the words say: "small", for example'
    parser.add_argument("--like", metavar="IMAGE", help=text)
    parser.add_argument("--page", help="also write an HTML page of all images with a search box, which works offline")


def run_search(arguments: argparse.Namespace) -> None:
    """Look at the images, rank them by the words, print the first."""
    import numpy as np

    from mvtec_ad.methods import words

    check_output("--page", arguments.page, ".html")
    model = words.load(Path(arguments.model) if arguments.model else transfer_folder() / "words.zip")
    query = model.embed_texts([arguments.query])  # what has no known word is refused before any image is read
    if not Path(arguments.folder).is_dir():
        raise DataError(f"FOLDER {arguments.folder} is no folder: give one of images")
    paths, masks, how = defects_in(Path(arguments.folder), arguments.detector)
    if arguments.like:
        image = image_paths([arguments.like])
        region = regions_by(arguments.detector, image)[0] if arguments.detector else masks_beside(image)
        query = model.like(model.embed_images(model.look_at(image, region)), arguments.query)
    vectors = model.embed_images(model.look_at(paths, masks))
    similarity = (vectors @ query.T)[:, 0]
    order = np.argsort(-similarity, kind="stable")[: arguments.top]
    for rank, row in enumerate(order, start=1):
        print(f"{rank:3d}  {similarity[row]:6.3f}  {printable(str(paths[row]))}")
    print(f"{len(order)} of {len(paths)} images; {how}")
    if arguments.page:
        write_page(arguments.page, paths, vectors, words.for_page(model, vectors))


def defects_in(folder: Path, detector: str | None) -> tuple[list[Path], Regions, str]:
    """Images that are searched, their regions, and in words where these come from."""
    paths = image_paths([str(folder)])
    if detector:
        regions, defective = regions_by(detector, paths)
        if not any(defective):
            raise DataError(f"{detector} calls all {len(paths)} images good: leave --detector out to search them")
        chosen = [number for number, called in enumerate(defective) if called]
        left_out = f"{len(paths) - len(chosen)} more are good by {detector}" * (len(chosen) < len(paths))
        how = "; ".join(filter(None, ["looked at where its anomaly map is highest", left_out]))
        return [paths[number] for number in chosen], [regions[number] for number in chosen], how
    masks = masks_beside(paths)
    masked = sum(mask is not None for mask in masks)
    way = "give --detector, and its anomaly maps say where to look"
    how = f"{masked} looked at where their mask is" if masked else f"each looked at as a whole: {way}"
    return paths, masks, how


def masks_beside(paths: Sequence[Path]) -> Regions:
    """Masks of images in MVTec layout, None for an image without: `ground_truth` stands beside `test`."""
    from mvtec_ad.data.index import read_test
    from mvtec_ad.data.loading import read_mask

    files: dict[Path, Path] = {}
    tests = {path.absolute().parent.parent for path in paths}
    for test in [test for test in tests if test.name == "test" and (test.parent / "ground_truth").is_dir()]:
        table = read_test(test)
        table = table[table["mask_path"].fillna("") != ""]
        both = table["image_path"], table["mask_path"]
        files |= {Path(image).absolute(): Path(mask) for image, mask in zip(*both, strict=True)}
    return [read_mask(files[path.absolute()], path) if path.absolute() in files else None for path in paths]


def regions_by(detector: str, paths: Sequence[Path]) -> tuple[Regions, list[bool]]:
    """Regions around the peak of each anomaly map, in the whole picture, and whether each image is called a defect."""
    import numpy as np

    from mvtec_ad.methods import load_model
    from mvtec_ad.methods.words import region_of

    fitted, description = load_model(detector)
    scores, threshold = fitted.score(paths, progress=True), description["threshold"]["value"]
    if scores.maps is None:
        raise DataError(f"{detector} is a {fitted.name}, which has no anomaly map: use padim or patchcore")
    regions, size = [], scores.maps.shape[1] * fitted.image_size // fitted.crop
    start = (size - scores.maps.shape[1]) // 2
    for anomaly_map in scores.maps:
        region = np.zeros((size, size), bool)  # the map shows the middle of the picture
        region[start : start + len(anomaly_map), start : start + len(anomaly_map)] = region_of(anomaly_map, threshold)
        regions.append(region)
    return regions, (scores.image > threshold).tolist()


def write_page(page: str, paths: Sequence[Path], vectors: np.ndarray, search: dict[str, Any]) -> None:
    """The atlas of the images, on the plane of their two principal components, with a search box."""
    import numpy as np
    import pandas as pd

    from mvtec_ad.artifacts import write_file
    from mvtec_ad.data.loading import load_images
    from mvtec_ad.pages import atlas_page

    folders = [path.absolute().parent for path in paths]
    products = [folder.parents[1] if folder.parent.name == "test" else folder.parent for folder in folders]
    names = {"category": [product.name for product in products], "defect": [folder.name for folder in folders]}
    centred = vectors - vectors.mean(0)
    plane = centred @ np.linalg.svd(centred)[2][:2].T
    table = pd.DataFrame({"image_id": [path.as_posix() for path in paths], **names})
    images = load_images(paths, 256)
    write_file(page, atlas_page(table, {"PCA": plane}, images, title="Search by words", search=search))
    print(f"look at {page}")
