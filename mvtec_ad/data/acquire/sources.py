"""The one entry: which folder holds a category, after unpacking, downloading or drawing it where needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mvtec_ad.config import DataSettings, data_folder, transfer_folder
from mvtec_ad.data import rendered
from mvtec_ad.data.acquire import archives, official
from mvtec_ad.data.catalog import category_name
from mvtec_ad.errors import DataError

SOURCES = ("auto", "mvtec_ad", "rendered", "download")
MANUAL = official.MANUAL
RAW_DATA = "raw-data.zip"  # in transfer/: category folders that the user zipped, or uploaded to Colab


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
        root: a folder on disk, or an archive (.tar.xz, .zip) to unpack below `data/unpacked/`; then nothing else is
            looked at.
        source: `mvtec_ad` takes real MVTec AD where `MVTEC_AD_ROOT` or `data/mvtec_anomaly_detection` holds the
            category, else out of `transfer/raw-data.zip`; `download` does the same, and fetches it from MVTec's servers
            where neither has it; `auto` does the same, and draws images instead; `rendered` draws in any case. The
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
    source = _wanted(source)
    if source == "rendered":
        return _drawn_root(category, settings or DataSettings())
    real = _real_root(category, together) or _raw_data_root(category, together)
    if real is not None:
        return real
    if source == "download":
        return official.download(category, together)
    if source == "mvtec_ad":
        raise DataError(f"real MVTec AD images of {category} are not on disk: {MANUAL}; or use the source 'download'")
    return _drawn_root(category, settings or DataSettings())


def locate_packages(
    category: str, *, root: str | Path | None = None, source: str = "auto", settings: DataSettings | None = None
) -> Path:
    """`locate` for items of a production line, of which MVTec AD has none.

    So `package`, the line that we can draw, is drawn wherever it is not on disk, and a printed line says so: also where
    `source` asks for real images, and where `root` holds other categories only. Any other name must be on disk.
    """
    category = category_name(category)
    if category != rendered.PACKAGE:
        return locate(category, root=root, source=source, settings=settings)
    if root is not None and not Path(root).expanduser().exists():
        raise DataError(f"folder {root} does not exist: give the folder that holds the category folders")
    if root is not None:
        places = [root]
    elif _wanted(source) == "rendered":
        return _drawn_root(category, settings or DataSettings())
    else:
        places = [os.environ.get("MVTEC_AD_ROOT"), official.folder(), transfer_folder() / RAW_DATA]
    for place in places:
        if place and _holds(Path(place).expanduser(), category):
            return locate(category, root=place)
    print(f"no folder {category} in {root or 'any place where images are looked for'}: packages are drawn")
    return _drawn_root(category, settings or DataSettings())


def _wanted(source: str) -> str:
    """The source that counts: the environment's before the argument's."""
    source = os.environ.get("MVTEC_AD_SOURCE") or source
    if source not in SOURCES:
        raise DataError(f"data source {source!r} is unknown: use one of {', '.join(SOURCES)}")
    return source


def _holds(place: Path, category: str) -> bool:
    """Whether a folder, or an archive, holds a category."""
    return archives.holds(place, category) if place.is_file() else (place / category).is_dir()


def _real_root(category: str, together: Sequence[str]) -> Path | None:
    named = os.environ.get("MVTEC_AD_ROOT")
    if named and Path(named).expanduser().is_file():
        return _unpacked(Path(named).expanduser(), category, together)
    candidates = [named, official.folder()]
    for candidate in candidates:
        if candidate and (Path(candidate).expanduser() / category / "train").is_dir():
            return Path(candidate).expanduser()
    return None


def _raw_data_root(category: str, together: Sequence[str]) -> Path | None:
    archive = transfer_folder() / RAW_DATA
    if not archive.is_file() or not archives.holds(archive, category):
        return None
    return _unpacked(archive, category, together)


def _unpacked(archive: Path, category: str, together: Sequence[str]) -> Path:
    """An archive of the user's own, unpacked once; another size or date is another archive and gets another folder."""
    state = archive.stat()
    mark = hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = data_folder() / "unpacked" / f"{archive.name.split('.')[0]}-{mark}"
    if not (folder / category).is_dir():
        archives.unpack(archive, folder, category, together)
    return folder


def _drawn_root(category: str, settings: DataSettings) -> Path:
    root = data_folder() / "rendered"
    if category == rendered.PACKAGE:
        rendered.write_packages(
            root, train=settings.package_train, test=settings.package_test, seed=settings.rendered_seed
        )
    elif category in rendered.CATEGORIES:
        rendered.write_category(
            root,
            category,
            train=settings.rendered_train,
            test_good=settings.rendered_test_good,
            per_defect=settings.rendered_per_defect,
            size=settings.image_size,
            seed=settings.rendered_seed,
        )
    else:
        raise DataError(
            f"{category} can be drawn by none of our programs (they draw {', '.join(rendered.CATEGORIES)} and "
            f"{rendered.PACKAGE}) and no real images of it are on disk: {MANUAL}"
        )
    return root
