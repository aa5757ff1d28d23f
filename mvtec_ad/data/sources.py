"""Where the images of a category come from: a folder, an archive, MVTec's servers, or a program that draws them."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mvtec_ad import synthetic
from mvtec_ad.artifacts import file_sha256
from mvtec_ad.config import DataSettings, data_folder, transfer_folder
from mvtec_ad.data import archives, catalog, index
from mvtec_ad.data.archives import UNFINISHED, ArchiveError, DownloadError
from mvtec_ad.data.catalog import category_name
from mvtec_ad.errors import DataError, writing

SOURCES = ("auto", "mvtec_ad", "synthetic", "download")
RAW_DATA = "raw-data.zip"  # in transfer/: category folders that the user zipped, or uploaded to Colab
ARCHIVE = "mvtec_anomaly_detection.tar.xz"
MANUAL = (
    "download it from the MVTec AD page of mvtec.com, unpack it, and set MVTEC_AD_ROOT to the folder that holds the "
    "category folders (or unpack into data/mvtec_anomaly_detection, or zip them as transfer/raw-data.zip)"
)

_SHARES = "https://www.mydrive.ch/shares"  # the file host that MVTec's download page links to
# The whole data set. MVTec's links change about once a year: the newest stands first, others can be put before it
# with MVTEC_AD_URLS. Whatever answers is held against the SHA-256 in `catalog`.
ARCHIVE_URLS = (
    # on www.mvtec.com/research-teaching/datasets/mvtec-ad/downloads since mid-2026
    f"{_SHARES}/150996/b52ecdcbf521176e9db9c731f2304b27/download/420938113-1629960298/{ARCHIVE}",
    # on that page from November 2025 to May 2026
    f"{_SHARES}/38536/3830184030e49fe74747669442f0f283/download/420938113-1629960298/{ARCHIVE}",
)
# One category each, from the same page. No checksum of them is published: the official counts are checked instead.
CATEGORY_URLS = {
    category: (f"{_SHARES}/{share}/{category}.tar.xz",)
    for category, share in {
        "bottle": "150452/132a93367fb17cdf968dfb5c4013f6e7/download/420937370-1629958698",
        "cable": "150453/10f960e07fec2838b2cd512586633a32/download/420937413-1629958794",
        "capsule": "150454/e0ce6dd74eb150f46c0d98131b3703f2/download/420937454-1629958872",
        "carpet": "150455/eac7fbce84d93a5094e13f391170eca4/download/420937484-1629959013",
        "grid": "150456/bb0b2e3dc804ccb8b4485e01f8e4493b/download/420937487-1629959044",
        "hazelnut": "150457/51d49f65e84bdc100ff8035d7dd783ea/download/420937545-1629959162",
        "leather": "150458/923030ce14e10a7d147e95d0f8885f6b/download/420937607-1629959262",
        "metal_nut": "150459/c68856a21dca589b0f8ff6d4ee0f18f4/download/420937637-1629959294",
        "pill": "150460/d4f1c04da67034ccc8d8b5fa3e73f244/download/420938129-1629960351",
        "screw": "150461/242f454cc6385e5693c4fd4b94567d1e/download/420938130-1629960389",
        "tile": "150462/5479f0fdc97bc6fa16eab0cb0cf0109f/download/420938133-1629960456",
        "toothbrush": "150463/895a1a5fb84b958f07417784b060434b/download/420938134-1629960477",
        "transistor": "150464/99b8ea0332438d64fcc2475ee73f9c29/download/420938166-1629960554",
        "wood": "150465/d5b4115b720cdb54d217e75636e6e374/download/420938383-1629960649",
        "zipper": "150466/bd155b557520edaf692d9bfdb915c24a/download/420938385-1629960680",
    }.items()
}


def locate(
    category: str,
    *,
    root: str | Path | None = None,
    source: str = "auto",
    settings: DataSettings | None = None,
    together: Sequence[str] = (),
) -> Path:
    """The folder that holds `category`, made first where needed.

    Args:
        category: a category folder's name (`catalog.category_name`).
        root: a folder on disk, or an archive (.zip, .tar.gz, …) to unpack below `data/unpacked/`; then nothing else is
            looked at.
        source: `mvtec_ad` takes real MVTec AD where `MVTEC_AD_ROOT` or `data/mvtec_anomaly_detection` holds the
            category, else out of `transfer/raw-data.zip`; `download` does the same, and fetches it from MVTec's servers
            where neither has it; `auto` does the same, and draws images instead; `synthetic` draws in any case. The
            environment variable `MVTEC_AD_SOURCE` wins over the argument.
        settings: how many images to draw.
        together: categories that will be wanted next: what comes out of one archive is unpacked in one pass.

    Returns:
        A folder with `category` below it.

    Raises:
        DataError: the category is a path, real images were asked for and cannot be had, an archive is damaged or not to
            be trusted, the disk is too small or cannot be written, or the category cannot be drawn.
    """
    category, together = category_name(category), [category_name(name) for name in together]
    if root is not None:
        root = Path(root).expanduser()
        return _unpacked(root, category, together) if root.is_file() else root
    source = _checked(source)
    real = None if source == "synthetic" else _real_root(category, together)
    if real is not None:
        return real
    if source == "download":
        return download(category, together)
    if source == "mvtec_ad":
        raise DataError(f"real MVTec AD images of {category} are not on disk: {MANUAL}; or use the source 'download'")
    return _synthetic_root(category, settings or DataSettings())


def available(categories: Sequence[str], *, root: str | Path | None = None, source: str = "auto") -> list[str]:
    """Those of `categories` whose images are there; a printed line names the others, which are left out.

    So `auto` draws nothing beside real products. All come back where none is there, and where `source` draws, fetches
    or insists on what is missing: `locate` does what it says. A .tar is taken to hold all, for looking takes minutes.
    `root` and `source` are as in `locate`.
    """
    if root is None and _checked(source) != "auto":
        return list(categories)
    paths = [Path(root).expanduser()] if root is not None else _real_paths()
    if any(path.is_file() and not zipfile.is_zipfile(path) for path in paths):
        return list(categories)
    if paths[0].is_file():  # then nothing else is looked at
        paths = paths[:1]
    there = [name for name in categories if any(_holds(path, name, plain=root is not None) for path in paths)]
    if absent := [name for name in categories if there and name not in there]:
        place = root or "any place where images are looked for"
        print(f"no folder {', '.join(absent)} in {place}: left out, beside images of {', '.join(there)}")
    return there or list(categories)


def locate_packages(
    category: str, *, root: str | Path | None = None, source: str = "auto", settings: DataSettings | None = None
) -> Path:
    """`locate` for items of a production line, of which MVTec AD has none.

    So `package`, the line that we can draw, is drawn wherever it is not on disk, and a printed line says so: also where
    `source` asks for real images, and where `root` holds other categories only. On disk it may have another name
    (`index.category_folder`). Any other category must be on disk.
    """
    category = category_name(category)
    if category != synthetic.PACKAGE:
        return locate(category, root=root, source=source, settings=settings)
    if root is not None and not Path(root).expanduser().exists():
        raise DataError(f"folder {root} does not exist: give the folder that holds the category folders")
    if root is None and _checked(source) == "synthetic":
        return _synthetic_root(category, settings or DataSettings())
    for path in [Path(root).expanduser()] if root is not None else _real_paths():
        if _holds(path, category):
            return locate(category, root=path)
    print(f"no folder {category} in {root or 'any place where images are looked for'}: packages are drawn")
    return _synthetic_root(category, settings or DataSettings())


def mvtec_folder() -> Path:
    """Where real MVTec AD lies."""
    return data_folder() / "mvtec_anomaly_detection"


def _real_paths() -> list[Path]:
    """Where real images are looked for, in order."""
    roots = [Path(named).expanduser()] if (named := os.environ.get("MVTEC_AD_ROOT")) else []
    if roots and not roots[0].exists():
        raise DataError(f"MVTEC_AD_ROOT is {roots[0]}, which does not exist: mount its drive, or correct or unset it")
    return [*roots, mvtec_folder(), transfer_folder() / RAW_DATA]


def _holds(path: Path, category: str, plain: bool = True) -> bool:
    """Whether a folder or an archive has a folder of this name, on request one with a layout, as real images have."""
    if path.is_file():
        return archives.holds(path, category)
    folder = index.category_folder(path, category)
    return folder.is_dir() if plain else index.has_layout(folder)


def _checked(source: str) -> str:
    """The source that counts: the environment's before the argument's."""
    source = os.environ.get("MVTEC_AD_SOURCE") or source
    if source not in SOURCES:
        raise DataError(f"data source {source!r} is unknown: use one of {', '.join(SOURCES)}")
    return source


def _real_root(category: str, together: Sequence[str]) -> Path | None:
    """Where real images of a category lie, unpacked first where needed; None where there are none."""
    *folders, archive = _real_paths()
    if folders[0].is_file():  # MVTEC_AD_ROOT
        return _unpacked(folders[0], category, together)
    for folder in folders:
        if index.has_layout(index.category_folder(folder, category)):
            return folder
    return _unpacked(archive, category, together) if archive.is_file() and archives.holds(archive, category) else None


def _unpacked(archive: Path, category: str, together: Sequence[str]) -> Path:
    """An archive of the user's own, unpacked once; another size or date is another archive and gets another folder."""
    state = archive.stat()
    mark = hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = data_folder() / "unpacked" / f"{archive.name.split('.')[0]}-{mark}"
    if not (folder / category).is_dir():
        archives.unpack(archive, folder, category, together)
    return folder


def _synthetic_root(category: str, settings: DataSettings) -> Path:
    """Where images of a category are drawn, as many as the settings say."""
    root = data_folder() / "synthetic"
    common = {"seed": settings.synthetic_seed, "least_severity": settings.least_severity}
    if category == synthetic.PACKAGE:
        synthetic.write_packages(root, train=settings.package_train, test=settings.package_test, **common)
    elif category in synthetic.CATEGORIES:
        counts = {"train": settings.synthetic_train, "test_good": settings.synthetic_test_good}
        counts["per_defect"] = settings.synthetic_per_defect
        synthetic.write_category(root, category, **counts, size=settings.image_size, **common)
    else:
        raise DataError(
            f"{category} can be drawn by none of our programs (they draw {', '.join(synthetic.CATEGORIES)} and "
            f"{synthetic.PACKAGE}) and no real images of it are on disk: {MANUAL}"
        )
    return root


# --- MVTec's servers --------------------------------------------------------------------------------------------------


def download(category: str, together: Sequence[str] = ()) -> Path:
    """Fetch a category of MVTec AD and unpack it into `data/mvtec_anomaly_detection/`; returns that folder.

    Addresses are tried in order: those of the environment variable `MVTEC_AD_URLS` (separated by spaces; one that ends
    in CATEGORY.tar.xz is that category's archive, any other the whole data set), the category's own archive, the whole
    data set. The latter is kept in `data/downloads/` for the other categories; a part of a file is continued later.

    Raises:
        DataError: no address delivered, the category is not MVTec AD's, the disk is too small, or a folder of that name
            is in the way.
    """
    folder, whole = mvtec_folder(), data_folder() / "downloads" / ARCHIVE
    if category not in catalog.CATEGORIES:
        raise DataError(f"{category} is not a category of MVTec AD: it has {', '.join(catalog.CATEGORIES)}")
    if (folder / category).exists():
        raise DataError(f"{folder / category} is in the way: it has no train folder; move it away, or complete it")
    if whole.is_file():
        archives.unpack(whole, folder, category, together)
        return folder
    print(f"downloading {category}. {catalog.LICENCE}")
    tried = []
    others = {f"{name}.tar.xz" for name in catalog.CATEGORIES if name != category}
    for url in (*os.environ.get("MVTEC_AD_URLS", "").split(), *CATEGORY_URLS.get(category, ()), *ARCHIVE_URLS):
        name = urlsplit(url).path.rsplit("/", 1)[-1]
        if name in others:
            continue
        try:
            if name == f"{category}.tar.xz":
                _download_category(url, category)
            else:
                _download_whole(url, whole, {category, *together})
                archives.unpack(whole, folder, category, together)
            return folder
        except DownloadError as problem:
            tried.append(f"{urlsplit(url).netloc}/…/{name}: {problem}")
    raise DataError(f"MVTec AD {category} could not be downloaded ({'; '.join(tried)}): {MANUAL}")


def _download_category(url: str, category: str) -> None:
    """Fetch one category's archive, unpack it where its counts are the official ones, and drop it."""

    def official_counts(root: Path, category: str) -> None:
        try:
            differences = index.audit(index.read_category(root, category))
        except DataError as problem:
            raise ArchiveError(str(problem)) from problem
        if differences:
            raise ArchiveError(f"it differs from the official counts: {differences[0]}")

    path = data_folder() / "downloads" / f"{UNFINISHED}{category}.tar.xz"
    room = {"room": lambda missing, total: _check_room(missing + total, category)}
    _fetch(url, path, lambda: archives.unpack(path, mvtec_folder(), category, check=official_counts), **room)
    with writing(path):
        path.unlink()


def _download_whole(url: str, whole: Path, wanted: set[str]) -> None:
    """Fetch the whole data set; it gets its name when its SHA-256 is the official one."""

    def official_sha256() -> None:
        if file_sha256(path) != catalog.ARCHIVE_SHA256:
            raise ArchiveError("its SHA-256 is not that of the official archive")

    path = whole.with_name(f"{UNFINISHED}{ARCHIVE}")
    unpacked = archives.unpacked_estimate(catalog.ARCHIVE_BYTES, wanted)
    room = {"size": catalog.ARCHIVE_BYTES, "room": lambda missing, _: _check_room(missing + unpacked, "MVTec AD")}
    _fetch(url, path, official_sha256, **room)
    with writing(whole):
        path.rename(whole)


def _fetch(url: str, path: Path, check: Callable[[], None], **options: Any) -> None:
    """Download to `path`; what `check` refuses is removed.

    Where a part lay there, it may have been of another file: then once more, from nothing.
    """
    continued = path.is_file()
    archives.fetch(url, path, **options)
    try:
        check()
    except ArchiveError as problem:
        with writing(path):
            path.unlink()
        if not continued:
            raise DownloadError(str(problem)) from problem
        _fetch(url, path, check, **options)


def _check_room(needed: int, what: str) -> None:
    archives.check_room(data_folder(), needed, f"downloading and unpacking {what}")
