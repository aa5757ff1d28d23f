"""Archives in MVTec layout, .tar.xz or .zip: a category is unpacked whole or not at all.

No member may leave the folder it is unpacked into.
"""

from __future__ import annotations

import contextlib
import lzma
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from mvtec_ad.data import catalog
from mvtec_ad.data.folders import WAY_OUT
from mvtec_ad.errors import DataError

# What reading a damaged archive can raise; RuntimeError: a zip member that is, or claims to be, encrypted.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError, EOFError, RuntimeError, ValueError)
_PIECE = 1 << 20
_UNFINISHED = ".unpacking-"


class ArchiveError(DataError):
    """The fault lies in the archive itself: damaged, not to be trusted, or without the wanted category."""


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str  # file | folder | other
    size: int  # bytes, unpacked
    open: Callable[[], IO[bytes]]

    @property
    def parts(self) -> tuple[str, ...]:
        """The path, also where a Windows program wrote it."""
        return PurePosixPath(self.name.replace("\\", "/")).parts

    def place(self, wanted: Collection[str]) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
        """Category, what stands before it, and the path below it; None for what nobody wants.

        Category folders lie at the top or below one folder. Mac programs add `__MACOSX` and `._` files.
        """
        parts = self.parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            return None
        for depth in (0, 1):
            if len(parts) > depth + 1 and parts[depth] in wanted:
                return parts[depth], parts[:depth], parts[depth + 1 :]
        return None


def unpack(
    archive: Path,
    folder: Path,
    category: str,
    together: Sequence[str] = (),
    *,
    check: Callable[[Path, str], None] | None = None,
) -> None:
    """Unpack `category` into `folder/category`, and those of `together` that the archive holds beside it.

    They are written into a temporary folder and renamed when all is there, so a killed run leaves no half a category;
    a category folder that exists already is left as it is.

    Args:
        archive: a .tar.xz or .zip with category folders at its top or below one folder.
        folder: where category folders go; made when missing.
        category: must be in the archive.
        together: may be in the archive.
        check: called with the temporary folder and each category before it is renamed; raises to refuse it.

    Raises:
        ArchiveError: the archive is damaged, holds a link or a path that leaves the folder, or lacks the category.
        DataError: the archive cannot be read, or the disk is too small or cannot be written.
    """
    wanted = {name for name in (category, *together) if not (folder / name).exists()}
    with _reading(archive), open(archive, "rb"):
        needed = _unpacked_bytes(archive, wanted)
    try:
        check_room(folder, needed, f"unpacking {', '.join(sorted(wanted))}")
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
        try:
            held = _write(archive, unfinished, wanted)
            if category in wanted and not (unfinished / category).is_dir():
                listed = ", ".join(sorted(held)) or "none at its top or below one folder"
                raise ArchiveError(f"{archive} holds no category folder {category}: it holds {listed}")
            for name in sorted(path.name for path in unfinished.iterdir()):
                if check:
                    check(unfinished, name)
                if not (folder / name).exists():  # someone else may have been faster
                    (unfinished / name).rename(folder / name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except _DAMAGE as problem:
        raise ArchiveError(f"{archive} is damaged ({problem}): get it again") from problem
    except OSError as problem:
        raise DataError(
            f"{archive} cannot be unpacked into {folder} ({problem.strerror or problem}): {WAY_OUT}"
        ) from problem


def holds(archive: Path, category: str) -> bool:
    """Whether anything in the archive belongs to `category`.

    Raises:
        ArchiveError: the archive is damaged.
        DataError: it cannot be read.
    """
    with _reading(archive), contextlib.closing(_members(archive)) as members:
        return any(member.place({category}) for member in members)


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as problem:
        raise ArchiveError(f"{archive} is damaged ({problem}): get it again") from problem
    except OSError as problem:
        raise DataError(f"{archive} cannot be read: {problem.strerror or problem}") from problem


def check_room(folder: Path, needed: int, purpose: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        folder: where the bytes will go; it need not exist yet.
        needed: bytes.
        purpose: begins the message.

    Raises:
        DataError: less is free than needed.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise DataError(
            f"{purpose} needs {tqdm.format_sizeof(needed, 'B')} in {folder}, {tqdm.format_sizeof(free, 'B')} are free: "
            "free some space, or set MVTEC_AD_HOME to a folder on a larger disk"
        )


def unpacked_estimate(archive_bytes: int, wanted: Collection[str]) -> int:
    """Bytes that `wanted` will take, unpacked from a .tar.xz of that size.

    PNG files hardly shrink in an archive. Of the official one, a category takes up to twice its share of the images.
    """
    if archive_bytes != catalog.ARCHIVE_BYTES:
        return archive_bytes
    images = {name: item.train + item.test_good + item.test_defective for name, item in catalog.CATEGORIES.items()}
    share = sum(images.get(name, 0) for name in wanted) / sum(images.values())
    return int(archive_bytes * min(1, 2 * share))


def _unpacked_bytes(archive: Path, wanted: Collection[str]) -> int:
    if archive.suffix.lower() != ".zip":  # the sizes inside are known only after reading all of it
        return unpacked_estimate(archive.stat().st_size, wanted)
    with contextlib.closing(_members(archive)) as members:
        return sum(member.size for member in members if member.place(wanted))


def _write(archive: Path, target: Path, wanted: Collection[str]) -> set[str]:
    """Write the wanted members below `target`; returns the names of all category folders that were seen."""
    held, prefixes = set(), {}
    with contextlib.closing(_members(archive, f"unpack {', '.join(sorted(wanted))}")) as members:
        for member in members:
            _refuse_unsafe(archive, member)
            held |= {folder for folder, inside in pairwise(member.parts[:3]) if inside == "train"}
            place = member.place(wanted)
            if place is None:
                continue
            category, prefix, inside = place
            if prefixes.setdefault(category, prefix) != prefix:
                raise ArchiveError(f"{archive} holds two folders {category}: keep one of them in it")
            path = target.joinpath(category, *inside)
            if member.kind == "folder":
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with member.open() as source, open(path, "xb") as file:
                    shutil.copyfileobj(source, file, _PIECE)
            except FileExistsError as problem:
                raise ArchiveError(f"{archive} holds {member.name} twice: keep one of them in it") from problem
    return held


def _refuse_unsafe(archive: Path, member: _Member) -> None:
    parts = member.parts
    if ".." in parts or (parts and (parts[0].startswith("/") or ":" in parts[0])):
        raise ArchiveError(f"{archive}: member {member.name!r} leaves the folder: do not trust this file")
    if member.kind == "other":
        raise ArchiveError(f"{archive}: member {member.name!r} is a link or a device: do not trust this file")


def _members(archive: Path, title: str | None = None) -> Iterator[_Member]:
    """Every member in its order; with a title, behind a progress bar."""
    name = archive.name.lower()
    if name.endswith(".zip"):
        return _zip_members(archive, title)
    if name.endswith((".tar.xz", ".txz")):
        return _tar_members(archive, title)
    raise ArchiveError(f"{archive} is neither a .tar.xz nor a .zip: give one of those, or a folder")


def _zip_members(archive: Path, title: str | None) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in tqdm(opened.infolist(), desc=title, unit="file", disable=title is None):
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip was made without one
            plain = "file" if mode in (0, stat.S_IFREG) else "other"
            kind = "folder" if info.filename.endswith(("/", "\\")) else plain
            yield _Member(info.filename, kind, info.file_size, partial(opened.open, info))


def _tar_members(archive: Path, title: str | None) -> Iterator[_Member]:
    # lzma.open, not tarfile's own r|xz: only it notices an archive that was cut between two members.
    with (
        open(archive, "rb") as file,
        tqdm.wrapattr(file, "read", total=archive.stat().st_size, desc=title, disable=title is None) as counted,
        lzma.open(counted) as plain,
        tarfile.open(fileobj=plain, mode="r|") as opened,
    ):
        for info in opened:
            kind = "folder" if info.isdir() else "file" if info.isreg() else "other"
            yield _Member(info.name, kind, info.size, partial(opened.extractfile, info))
        while plain.read(_PIECE):  # to the end, where the checksum stands
            pass


def _sweep(folder: Path) -> None:
    """Remove what a killed run left; younger than a day, it may be another run's work."""
    for leftover in folder.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):  # its owner may remove it at this moment
            if leftover.stat().st_mtime < time.time() - 86_400:
                shutil.rmtree(leftover)
