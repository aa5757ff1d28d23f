"""MVTec AD from MVTec's own servers: one archive per category, or one of 5.3 GB with all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mvtec_ad.artifacts import file_sha256
from mvtec_ad.config import data_folder
from mvtec_ad.data import catalog, index
from mvtec_ad.data.acquire import archives
from mvtec_ad.data.acquire.fetch import UNFINISHED, DownloadError, fetch
from mvtec_ad.data.folders import writing
from mvtec_ad.errors import DataError

MANUAL = (
    "download it from the MVTec AD page of mvtec.com, unpack it, and set MVTEC_AD_ROOT to the folder that holds the "
    "category folders (or unpack into data/mvtec_anomaly_detection, or zip them as transfer/raw-data.zip)"
)
ARCHIVE = "mvtec_anomaly_detection.tar.xz"

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


def folder() -> Path:
    """Where real MVTec AD lies."""
    return data_folder() / "mvtec_anomaly_detection"


def download(category: str, together: Sequence[str] = ()) -> Path:
    """Fetch a category and unpack it into `data/mvtec_anomaly_detection/`.

    Addresses are tried in order: those of the environment variable `MVTEC_AD_URLS` (separated by spaces; one that ends
    in CATEGORY.tar.xz is that category's archive, any other the whole data set), the category's own archive, the whole
    data set. The latter is kept in `data/downloads/` for the other categories; a part of a file is continued later.

    Args:
        category: one of MVTec AD's.
        together: other categories to unpack in the same pass, where the whole data set is what could be had.

    Returns:
        The folder with `category` below it.

    Raises:
        DataError: no address delivered, the category is not MVTec AD's, the disk is too small, or a folder of that name
            is in the way.
    """
    if category not in catalog.CATEGORIES:
        raise DataError(f"{category} is not a category of MVTec AD: it has {', '.join(catalog.CATEGORIES)}")
    if (folder() / category).exists():
        raise DataError(f"{folder() / category} is in the way: it has no train folder; move it away, or complete it")
    whole = _downloads() / ARCHIVE
    if whole.is_file():
        archives.unpack(whole, folder(), category, together)
        return folder()
    print(f"downloading {category}. {catalog.LICENCE}")
    tried = []
    for url in _addresses(category):
        try:
            if _file_name(url) == f"{category}.tar.xz":
                _fetch_category(url, category)
            else:
                _fetch_whole(url, category, together)
                archives.unpack(whole, folder(), category, together)
            return folder()
        except DownloadError as problem:
            tried.append(f"{urlsplit(url).netloc}/…/{_file_name(url)}: {problem}")
    raise DataError(f"MVTec AD {category} could not be downloaded ({'; '.join(tried)}): {MANUAL}")


def _addresses(category: str) -> list[str]:
    listed = [*os.environ.get("MVTEC_AD_URLS", "").split(), *CATEGORY_URLS.get(category, ()), *ARCHIVE_URLS]
    others = {f"{name}.tar.xz" for name in catalog.CATEGORIES if name != category}
    return [url for url in listed if _file_name(url) not in others]


def _file_name(url: str) -> str:
    return urlsplit(url).path.rsplit("/", 1)[-1]


def _downloads() -> Path:
    return data_folder() / "downloads"


def _fetch_category(url: str, category: str) -> None:
    """Download one category's archive, unpack it where its counts are the official ones, and drop it."""
    path = _downloads() / f"{UNFINISHED}{category}.tar.xz"
    continued = path.is_file()
    fetch(url, path, room=lambda missing, total: _check_room(missing + total, category))
    try:
        archives.unpack(path, folder(), category, check=_official_counts)
    except archives.ArchiveError as problem:
        _remove(path)
        if continued:  # the part that lay there may have been of another file: once more, from nothing
            return _fetch_category(url, category)
        raise DownloadError(str(problem)) from problem
    _remove(path)


def _fetch_whole(url: str, category: str, together: Sequence[str]) -> None:
    """Download the whole data set; it gets its name when its SHA-256 is the official one."""
    path = _downloads() / f"{UNFINISHED}{ARCHIVE}"
    continued = path.is_file()
    unpacked = archives.unpacked_estimate(catalog.ARCHIVE_BYTES, {category, *together})
    fetch(url, path, size=catalog.ARCHIVE_BYTES, room=lambda missing, _: _check_room(missing + unpacked, "MVTec AD"))
    if file_sha256(path) != catalog.ARCHIVE_SHA256:
        _remove(path)
        if continued:
            return _fetch_whole(url, category, together)
        raise DownloadError("its SHA-256 is not that of the official archive")
    whole = path.with_name(ARCHIVE)
    with writing(whole):
        path.rename(whole)


def _remove(path: Path) -> None:
    with writing(path):
        path.unlink()


def _check_room(needed: int, what: str) -> None:
    archives.check_room(data_folder(), needed, f"downloading and unpacking {what}")


def _official_counts(root: Path, category: str) -> None:
    try:
        differences = index.audit(index.read_category(root, category))
    except DataError as problem:
        raise archives.ArchiveError(str(problem)) from problem
    if differences:
        raise archives.ArchiveError(f"it differs from the official counts: {differences[0]}")
