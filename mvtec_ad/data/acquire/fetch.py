"""One file over HTTP: continued where it stopped, tried again where the connection was cut."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from mvtec_ad.data.folders import writing

TIMEOUT = 30.0  # seconds without a byte
RETRIES = 4  # in a row without a megabyte of progress
PAUSE = 2.0  # seconds before the first of them; the second waits twice as long, and so on
UNFINISHED = "unfinished-"  # begins the name of a file that is not known to be complete and right
_PIECE = 1 << 16
_PROGRESS = 1 << 20


class DownloadError(Exception):
    """One address did not deliver; not a user's problem yet, for the next one may."""


class _CutError(Exception):
    """The connection ended early; the rest may still come."""


def fetch(
    url: str, path: Path, *, size: int | None = None, room: Callable[[int, int], None] = lambda remaining, total: None
) -> None:
    """Download `url` to `path`, continuing the part of it that lies there.

    A server that ignores the range is read from its first byte again.

    Args:
        url: http or https.
        path: the file; what has come is kept when this fails. Whether it is the right one, the caller must check: what
            lay there before may have been the beginning of another.
        size: bytes the file must have; None believes the server.
        room: called with the bytes still to come and the size of the whole before anything is written; raises to stop.

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
    have = _bytes(path)
    if size is not None and have > size:  # cannot be its beginning
        with writing(path):
            path.unlink()
        have = 0
    if have == size:
        return
    headers = {"User-Agent": "mvtec-ad-notebooks"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as problem:
        with problem:
            if problem.code == 416 and have:  # nothing comes after what is here: the caller's check will tell why
                return
            raise (_CutError if problem.code >= 500 else DownloadError)(f"HTTP {problem.code}") from problem
    except (OSError, http.client.HTTPException) as problem:
        raise _CutError(_reason(problem)) from problem
    with response:
        start, total = _span(response, have)
        if size is not None and total not in (None, size):
            raise DownloadError(f"it offers {total:,} bytes, expected {size:,}")
        total = total or size
        room((total or 0) - start, total or 0)
        _receive(response, path, start, total)
    if total is not None and _bytes(path) < total:
        raise _CutError(f"the connection was cut after {_bytes(path):,} of {total:,} bytes")


def _span(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """At which byte the answer begins, and how long the whole file is where the server says so."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            raise DownloadError("it answers with another range than asked for")
        return have, None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _receive(response: http.client.HTTPResponse, path: Path, start: int, total: int | None) -> None:
    """Append what comes, or write anew where it begins at 0; returns early when the connection is cut."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(path, "ab" if start else "wb") as file,
            tqdm(
                total=total,
                initial=start,
                desc=f"download {path.name.removeprefix(UNFINISHED)}",
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            while True:
                try:
                    piece = response.read(_PIECE)
                except (OSError, http.client.HTTPException) as problem:
                    if total is None:  # else the missing bytes tell
                        raise _CutError(_reason(problem)) from problem
                    return
                if not piece:
                    return
                file.write(piece)
                bar.update(len(piece))


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(problem: Exception) -> str:
    problem = getattr(problem, "reason", problem)
    return str(getattr(problem, "strerror", None) or problem or type(problem).__name__)
