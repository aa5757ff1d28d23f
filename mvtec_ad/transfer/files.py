"""Files on disk: written whole or not at all, and known by their SHA-256."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mvtec_ad.errors import ArtifactError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` at once when all of it is on the disk, or not at all.

    It has a temporary name beside `path`, with the host and the process in it; what a killed process left there is
    removed by the next one on that host.

    Raises:
        ArtifactError: the disk is full, the folder is read-only or a file. What lay at `path` is left as it was.
    """
    path = Path(path)
    mine = f".{path.name}.{platform.node()}"
    temporary = path.with_name(f"{mine}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f"{glob.escape(mine)}.*.tmp"):
            if _ended(leftover.name.split(".")[-2]):
                with contextlib.suppress(OSError):
                    leftover.unlink()
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        kept = "; the old one is kept" if path.is_file() else ""
        raise ArtifactError(
            f"{path} cannot be written ({problem.strerror or problem}): make room or choose another place{kept}"
        ) from problem
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _ended(process: str) -> bool:
    """Whether no process of this number runs on this host; False where that cannot be told."""
    if os.name == "nt":  # there, signal 0 is no question but Ctrl+C
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return False
