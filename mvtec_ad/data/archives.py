"""Archives in MVTec layout: fetched over HTTP, continued where they stopped, and unpacked a whole category at a time.

No file of an archive may leave the folder it is unpacked into.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import http.client
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm import tqdm

from mvtec_ad.data import catalog
from mvtec_ad.data.index import DEEPEST, DEFECT_OF
from mvtec_ad.data.loading import IMAGE_SUFFIXES
from mvtec_ad.errors import WAY_OUT, DataError, writing
from mvtec_ad.synthetic import PACKAGE

TIMEOUT = 30.0  # seconds without a byte
RETRIES = 4  # in a row without a megabyte of progress
PAUSE = 2.0  # seconds before the first of them; the second waits twice as long, and so on
UNFINISHED = "unfinished-"  # begins the name of a download that is not known to be complete and right
_PROGRESS = 1 << 20
_UNPACKING = ".unpacking-"
# What reading a damaged archive can raise; RuntimeError: a zip entry that is, or claims to be, encrypted.
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
_CONTENT = ("train", "test", "ground_truth", "validation")  # folders of a category
_DAMAGE = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, tarfile.TarError)
_DAMAGE += (EOFError, RuntimeError, ValueError)


class ArchiveError(DataError):
    """The fault lies in the archive itself: damaged, not to be trusted, or without the wanted category."""


class DownloadError(Exception):
    """One address did not deliver; not a user's problem yet, for the next one may."""


class _CutError(Exception):
    """The connection ended early; the rest may still come."""


# --- over HTTP --------------------------------------------------------------------------------------------------------


def fetch(
    url: str, path: Path, *, size: int | None = None, room: Callable[[int, int], None] = lambda missing, total: None
) -> None:
    """Download `url` to `path`: what lies there is continued, cut connections are tried again.

    What has come stays when this fails. Whether it is the right file, the caller must check: what lay there before may
    have been the beginning of another.

    Args:
        url: http or https; a server that ignores ranges is read from its first byte again.
        path: the file.
        size: bytes the file must have; None believes the server.
        room: called with the bytes still to come and those of the whole before anything is written; raises to stop.

    Raises:
        DownloadError: this address cannot deliver the file.
        DataError: the file cannot be written.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError("no http address")
    failures, started = 0, False
    while True:
        before = _bytes(path)
        try:
            return _continue(url, path, size, room)
        except _CutError as cut:
            started |= _bytes(path) != before
            failures = 0 if _bytes(path) >= before + _PROGRESS else failures + 1
            if not started or failures > RETRIES:  # a dead address is not worth waiting for: there are others
                raise DownloadError(str(cut)) from cut
            time.sleep(PAUSE * failures)


def _continue(url: str, path: Path, size: int | None, room: Callable[[int, int], None]) -> None:
    """One request, for what is missing."""
    start = _bytes(path)
    if size is not None and start > size:  # cannot be its beginning
        with writing(path):
            path.unlink()
        start = 0
    if start == size:
        return
    headers = {"User-Agent": "mvtec-ad-notebooks"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as problem:
        with problem:
            if problem.code == 416 and start:  # nothing comes after what is here: the caller's check will tell why
                return
            raise (_CutError if problem.code >= 500 else DownloadError)(f"HTTP {problem.code}") from problem
    except (OSError, http.client.HTTPException) as problem:
        raise _CutError(_reason(problem)) from problem
    with response:
        length = response.headers.get("Content-Length", "")
        if response.status == 206:
            answer = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if answer is None or int(answer[1]) != start:
                raise DownloadError("it answers with another range than asked for")
            length = answer[2]
        else:
            start = 0
        total = int(length) if length.isdigit() else size
        if size is not None and total != size:
            raise DownloadError(f"it offers {total:,} bytes, expected {size:,}")
        room((total or 0) - start, total or 0)
        _receive(response, path, start, total)
    if total is not None and _bytes(path) < total:
        raise _CutError(f"the connection was cut after {_bytes(path):,} of {total:,} bytes")


def _receive(response: http.client.HTTPResponse, path: Path, start: int, total: int | None) -> None:
    """Append what comes, or write anew where it begins at 0; returns early when the connection is cut."""
    bar = {"total": total, "initial": start, "desc": f"download {path.name.removeprefix(UNFINISHED)}"}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab" if start else "wb") as file, tqdm(**bar, unit="B", unit_scale=True) as counted:
            while True:
                try:
                    piece = response.read(1 << 16)
                except (OSError, http.client.HTTPException) as problem:
                    if total is None:  # else the missing bytes tell
                        raise _CutError(_reason(problem)) from problem
                    return
                if not piece:
                    return
                file.write(piece)
                counted.update(len(piece))


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(problem: Exception) -> str:
    problem = getattr(problem, "reason", problem)
    return str(getattr(problem, "strerror", None) or problem or type(problem).__name__)


# --- on disk ----------------------------------------------------------------------------------------------------------


_Place = tuple[str, tuple[str, ...], tuple[str, ...]]  # category, what stands before it, the path below it


class _Entry(NamedTuple):
    name: str
    kind: str  # file | folder | other
    size: int  # bytes, unpacked
    open: Callable[[], IO[bytes]]

    @property
    def parts(self) -> tuple[str, ...]:
        """The path, also where a Windows program wrote it."""
        return PurePosixPath(self.name.replace("\\", "/")).parts

    @property
    def hidden(self) -> bool:
        """Whether a part of the path is hidden, or there is none."""
        return not self.parts or any(part.startswith(".") or part == "__MACOSX" for part in self.parts)

    def place(self, wanted: Collection[str] | None, content_of: str | None = None) -> _Place | None:
        """Where it belongs; None for what nobody wants.

        Category folders lie at the top or below one folder. Mac programs add `__MACOSX` and `._` files. Where the
        archive is the content of a category, or images of it, `content_of` names it; where nothing is `wanted` in
        particular, all is.
        """
        parts = self.parts
        if self.hidden:
            return None
        if wanted is None:
            return parts[0], (), parts[1:]
        for depth in range(min(2, len(parts))):
            if content_of:
                image = len(parts) == depth + 1 and self.name.lower().endswith(IMAGE_SUFFIXES)
                if image or parts[depth].casefold() in _CONTENT:
                    return content_of, parts[:depth], parts[depth:]
            elif len(parts) > depth + 1 and parts[depth] in wanted:
                return parts[depth], parts[:depth], parts[depth + 1 :]
        return None

    def line_place(self) -> _Place | None:
        """The same for items of a production line, which are `package` wherever they lie (`index.category_folder`)."""
        parts = self.parts
        if self.hidden or len(parts) < 3 or parts[-3] not in DEFECT_OF:
            return None
        start = len(parts) - 3
        start -= start > 0 and parts[start - 1].casefold() in ("train", "test")
        around = parts[:start]
        if start > DEEPEST or any(part.casefold() in _CONTENT for part in around):
            return None
        return PACKAGE, around, parts[start:]

    @property
    def is_view(self) -> bool:
        """Whether it is named as an image of an item of a production line."""
        return self.line_place() is not None and PurePosixPath(self.parts[-1]).stem.endswith(f"_{self.parts[-2]}")


def unpack(
    archive: Path,
    folder: Path,
    category: str,
    together: Sequence[str] = (),
    *,
    check: Callable[[Path, str], None] | None = None,
) -> None:
    """Unpack `category` into `folder/category`, and those of `together` that the archive holds beside it.

    An archive has category folders at its top or below one folder, or is the content of `category`, or images of it;
    `package` is the production line in it where no folder has that name. They are written into a temporary folder and
    renamed when all is there, so a killed run leaves no half a category; a category folder that exists already is left
    as it is. `check` sees the temporary folder and each category first; it raises to refuse it.

    Raises:
        ArchiveError: the archive is damaged, holds a link or a path that leaves the folder, or lacks the category.
        DataError: the archive cannot be read, or the disk is too small or cannot be written.
    """
    wanted = {name for name in (category, *together) if not (folder / name).exists()}
    with _reading(archive), open(archive, "rb"):
        if archive.suffix.lower() == ".zip":
            sizes = [entry.size for entry in _entries(archive) if entry.place(wanted)]
            needed = sum(sizes or [entry.size for entry in _entries(archive)])
        else:  # the sizes inside are known only after reading all of it
            needed = unpacked_estimate(archive.stat().st_size, wanted)
    refusal = f"{archive} cannot be unpacked into {folder}"
    with _reading(archive, refusal, f": {WAY_OUT}"):
        check_room(folder, needed, f"unpacking {', '.join(sorted(wanted))}")
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_UNPACKING}*"):  # of a killed run; younger than a day, another may work there
            with contextlib.suppress(OSError):  # its owner may remove it at this moment
                if leftover.stat().st_mtime < time.time() - 86_400:
                    shutil.rmtree(leftover)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNPACKING, dir=folder))
        try:
            categories = _write(archive, unfinished, wanted)
            if category in wanted and category == PACKAGE and not (unfinished / category).is_dir():
                _write(archive, unfinished, wanted, line=True)
            if category in wanted and not categories and not (unfinished / category).is_dir():
                _write(archive, unfinished, wanted, category)
            if category in wanted and not (unfinished / category).is_dir():
                listed = ", ".join(sorted(categories)) or "none at its top or below one folder"
                way = f"; `mvtec-ad prepare --root {archive} --packages` reads its packages"
                hint = way if category != PACKAGE and holds(archive, PACKAGE) else ""
                raise ArchiveError(f"{archive} holds no category folder {category}: it holds {listed}{hint}")
            for name in sorted(path.name for path in unfinished.iterdir()):
                if check:
                    check(unfinished, name)
                if not (folder / name).exists():  # someone else may have been faster
                    (unfinished / name).rename(folder / name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def unpack_all(archive: Path, folder: Path) -> None:
    """Unpack everything but hidden files into a folder that does not exist yet; errors as `unpack`."""
    with _reading(archive), contextlib.closing(_entries(archive)) as entries:
        needed = sum(entry.size for entry in entries)
    check_room(folder, needed, f"unpacking {archive}")
    with _reading(archive, f"{archive} cannot be unpacked into {folder}", f": {WAY_OUT}"):
        _write(archive, folder, None)


def holds(archive: Path, category: str) -> bool:
    """Whether anything in the archive belongs to `category`; one that is damaged or unreadable is a DataError."""
    with _reading(archive), contextlib.closing(_entries(archive)) as entries:
        return any(entry.place({category}) or (category == PACKAGE and entry.is_view) for entry in entries)


def check_room(folder: Path, needed: int, purpose: str) -> None:
    """Refuse, with a DataError, what the disk cannot hold: `needed` bytes in `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
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


@contextlib.contextmanager
def _reading(archive: Path, refusal: str = "", end: str = "") -> Iterator[None]:
    """What an archive and the disk can raise, in one line."""
    try:
        yield
    except _DAMAGE as problem:
        raise ArchiveError(f"{archive} is damaged ({problem}): get it again") from problem
    except OSError as problem:
        reason = problem.strerror or problem
        raise DataError(f"{refusal} ({reason}){end}" if refusal else f"{archive} cannot be read: {reason}") from problem


def _write(
    archive: Path, target: Path, wanted: Collection[str] | None, content_of: str | None = None, line: bool = False
) -> set[str]:
    """Write the wanted entries, or those of a production line, below `target`; returns the names of all category
    folders that were seen."""
    categories, prefixes = set(), {}
    with contextlib.closing(_entries(archive, f"unpack {', '.join(sorted(wanted or [archive.name]))}")) as entries:
        for entry in entries:
            parts = entry.parts
            if ".." in parts or (parts and (parts[0].startswith("/") or ":" in parts[0])):
                raise ArchiveError(f"{archive}: member {entry.name!r} leaves the folder: do not trust this file")
            if entry.kind == "other":
                raise ArchiveError(f"{archive}: member {entry.name!r} is a link or a device: do not trust this file")
            categories |= {folder for folder, inside in pairwise(parts[:3]) if inside == "train"}
            place = entry.line_place() if line else entry.place(wanted, content_of)
            if place is None:
                continue
            category, prefix, inside = place
            if prefixes.setdefault(category, prefix) != prefix:
                raise ArchiveError(f"{archive} holds two folders {category}: keep one of them in it")
            path = target.joinpath(category, *inside)
            if entry.kind == "folder":
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with entry.open() as source, open(path, "xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            except FileExistsError as problem:
                raise ArchiveError(f"{archive} holds {entry.name} twice: keep one of them in it") from problem
    return categories


def _unpacked(file: IO[bytes], archive: Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    """The tar inside an open file, by the archive's suffix."""
    kind = {".gz": gzip, ".tgz": gzip, ".xz": lzma, ".txz": lzma, ".bz2": bz2}.get(archive.suffix.lower())
    return kind.open(file) if kind else contextlib.nullcontext(file)


def _entries(archive: Path, title: str | None = None) -> Iterator[_Entry]:
    """Every entry in its order; with a title, behind a progress bar."""
    name = archive.name.lower()
    if not name.endswith(ARCHIVES):
        raise ArchiveError(
            f"{archive} is no archive that is read ({', '.join(ARCHIVES)}): give one of those, or a folder"
        )
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            for info in tqdm(opened.infolist(), desc=title, unit="file", disable=title is None):
                mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip was made without one
                plain = "file" if mode in (0, stat.S_IFREG) else "other"
                kind = "folder" if info.filename.endswith(("/", "\\")) else plain
                yield _Entry(info.filename, kind, info.file_size, partial(opened.open, info))
        return
    # not tarfile's own r|xz: only lzma.open notices an archive that was cut between two entries
    with (
        open(archive, "rb") as file,
        tqdm.wrapattr(file, "read", total=archive.stat().st_size, desc=title, disable=title is None) as counted,
        _unpacked(counted, archive) as plain,
        tarfile.open(fileobj=plain, mode="r|") as opened,
    ):
        for info in opened:
            kind = "folder" if info.isdir() else "file" if info.isreg() else "other"
            yield _Entry(info.name, kind, info.size, partial(opened.extractfile, info))
        while plain.read(1 << 20):  # to the end, where the checksum stands
            pass
