"""What people say of verdicts: images of a folder in MVTec layout, ready for `fit`, and a journal whose lines are its
versions; and the last images, of which somebody may still say something.

    FOLDER/PRODUCT/train/good/HASH.png       good parts, those that were stopped by mistake among them
    FOLDER/PRODUCT/test/TYPE/HASH.png        defects
    FOLDER/feedback.jsonl                    line N makes version N: what was said when of which image, and where it is

A file is named by its content, written aside and renamed, and never changed; who says something else of it moves it. A
killed service leaves each image whole or not there, and the next start writes the line that its journal may lack.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import threading
import unicodedata
from collections import OrderedDict
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from mvtec_ad.artifacts import write_file
from mvtec_ad.data import formats
from mvtec_ad.data.catalog import category_name
from mvtec_ad.errors import ArtifactError, DataError, writing
from mvtec_ad.serving.guard import RequestError

JOURNAL, LOCK = "feedback.jsonl", ".lock"
GOOD, DEFECT, UNKNOWN = "good", "defect", "unknown"
GOOD_NAMES = ("good", "ok", "normal", "pass")  # which `fit` reads as good parts, in any case
OURS = re.compile(r"[0-9a-f]{20}\.(png|jpg|bmp|webp|tiff)")  # names of images that were put here
PLACE = re.compile(rf"[^/\\]+/(train/good|test/[^/\\]+)/{OURS.pattern}")
UNFINISHED = re.compile(rf"\.({OURS.pattern}|{re.escape(JOURNAL)}|drift\.json)\..*\.?tmp")  # of `write_file`
LAST = 50  # images that are remembered
LONGEST_TYPE = 60  # characters
MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".bmp": "image/bmp", ".webp": "image/webp"}
MEDIA_TYPES |= {".tiff": "image/tiff"}


class History:
    """The last images: records, newest first, and their files in the file system, which end with the process.

    Args:
        folder: where the files lie, without a name; None keeps none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.lock = folder, threading.Lock()
        self.records: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.files: dict[str, IO[bytes]] = {}

    def add(self, record: dict[str, Any], content: bytes) -> None:
        """Remember one more, and forget the oldest of more than `LAST`."""
        file = None
        if self.folder is not None:
            with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
                whole = opened.enter_context(tempfile.TemporaryFile(dir=self.folder, buffering=0))
                if whole.write(content) == len(content):  # else there is no room: the verdict is what was asked for
                    opened.pop_all()
                    file = whole
        with self.lock:
            self.records[record["id"]] = record | {"has_file": file is not None}
            if file is not None:
                self.files[record["id"]] = file
            while len(self.records) > LAST:
                oldest, _ = self.records.popitem(last=False)
                if oldest in self.files:
                    self.files.pop(oldest).close()

    def close(self) -> None:
        """Let the files go."""
        with self.lock:
            for file in self.files.values():
                file.close()
            self.files.clear()

    def newest(self) -> list[dict[str, Any]]:
        """All records, newest first, without their maps."""
        with self.lock:
            return [{**record, "map": None} for record in reversed(self.records.values())]

    def record(self, identity: str) -> dict[str, Any]:
        """A record, with its map.

        Raises:
            RequestError: 404, it is not among the last.
        """
        with self.lock:
            if identity not in self.records:
                raise RequestError(404, f"there is no such image among the last {LAST}")
            return self.records[identity]

    def find(self, identity: str) -> tuple[dict[str, Any], bytes | None]:
        """A record and the content of its file, None where that was not kept.

        Raises:
            RequestError: 404, it is not among the last.
        """
        record = self.record(identity)
        with self.lock:
            file = self.files.get(identity)
            if file is None:
                return record, None
            try:
                file.seek(0)
                return record, file.read()
            except OSError:
                return record, None


class Feedback:
    """A folder of feedback, of one process at a time.

    Raises:
        DataError: another service writes into it, or it cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.journal = self.folder / JOURNAL
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.folder / LOCK, "ab")  # noqa: SIM115
        try:
            import fcntl

            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows, where nothing locks it
            pass
        except BlockingIOError as problem:
            self.lock.close()
            raise DataError(f"another service writes into {self.folder}: give this one its own --feedback") from problem
        self.version = 0
        self.where: dict[str, str] = {}  # content -> path of its image, relative
        with writing(self.folder):
            self._recover()

    @property
    def types(self) -> list[str]:
        """Of the defects that it holds, sorted."""
        return sorted({saved.split("/")[2] for saved in self.where.copy().values()} - {GOOD})

    def close(self) -> None:
        """Let another process have it."""
        self.lock.close()

    def add(self, record: dict[str, Any], content: bytes, right: bool, kind: str | None) -> dict[str, Any]:
        """Keep what was said of an image: whether its verdict was right, and which type it has; the journal's line.

        Raises:
            RequestError: 422, it cannot be told from that what the image shows, or the type is no name of a folder.
            ArtifactError, OSError: it cannot be written.
        """
        product, kind = record["product"] or UNKNOWN, labelled_type(record, right, kind)
        digest = hashlib.sha256(content).hexdigest()
        part = f"train/{GOOD}" if kind == GOOD else f"test/{kind}"
        saved = f"{product}/{part}/{digest[:20]}{suffix(content)}"
        target, former = self.folder / saved, self.where.get(digest[:20])
        if former is not None and former != saved and (self.folder / former).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.folder / former, target)
        elif not target.is_file():
            write_file(target, content)
        self.where[digest[:20]] = saved
        known = {name: record[name] for name in ("id", "name", "product", "verdict", "score", "threshold")}
        line = {"right": right, "type": kind, "saved": saved, "sha256": digest, **known}
        return self._write(line | ({"moved_from": former} if former not in (None, saved) else {}))

    def _write(self, line: dict[str, Any]) -> dict[str, Any]:
        """Append a line as the next version."""
        line = {"version": self.version + 1, "at": datetime.now(timezone.utc).isoformat(timespec="seconds"), **line}
        data = json.dumps(line).encode() + b"\n"
        with open(self.journal, "ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.journal))
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.journal, size)  # half a line would swallow the next one
                raise
        self.version += 1
        return line

    def _recover(self) -> None:
        """Remove what a killed process left half, drop half a line, and write the lines that are missing."""
        for path in [*self.folder.glob(".*.tmp"), *self.folder.glob("*/*/*/.*.tmp")]:
            if UNFINISHED.fullmatch(path.name) and path.is_file():
                path.unlink()
        data = self.journal.read_bytes() if self.journal.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            write_file(self.journal, whole)
        lines = whole.splitlines()
        self.version = len(lines)
        for text in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that somebody else has edited
                line = json.loads(text)
                if PLACE.fullmatch(line["saved"]) and ".." not in line["saved"].split("/"):
                    self.where[line["sha256"][:20]] = line["saved"]
        for path in sorted(self.folder.glob("*/t*/*/*")):
            relative = path.relative_to(self.folder)
            product, split, kind, name = relative.parts
            if not OURS.fullmatch(name) or not path.is_file():
                continue
            if (split, kind == GOOD) not in (("train", True), ("test", False)):
                continue
            saved, key = relative.as_posix(), path.stem
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if self.where.get(key) != saved else ""
            if digest[:20] == key:  # of an image of ours, which was put here when the process was killed
                self.where[key] = saved
                self._write({"right": None, "type": kind, "saved": saved, "sha256": digest, "product": product})


def labelled_type(record: dict[str, Any], right: bool, kind: str | None) -> str:
    """What an image shows by what was said of its verdict: `good`, or the name of a defect's folder.

    A named type says it. Else a right verdict is believed, a wrong one turned round; the type of a defect is the
    record's where that was right, and `defect` where nobody knows.

    Raises:
        RequestError: 422, neither was said, or the type is no name of a folder.
    """
    if kind is not None and kind.strip():
        kind = unicodedata.normalize("NFC", kind.strip())
        try:
            name = category_name(kind)
        except DataError:
            name = ""
        if name != kind or len(kind) > LONGEST_TYPE or not kind.isprintable() or kind.startswith((".", "-")):
            raise RequestError(422, f"a type is the name of a folder, of at most {LONGEST_TYPE} letters, no path")
        kind = GOOD if kind.lower() in GOOD_NAMES else kind
        alike = (kind == GOOD) == (record["verdict"] == GOOD)
        if record["verdict"] in (GOOD, DEFECT) and ((right and not alike) or (not right and alike and kind == GOOD)):
            words = "right" if right else "wrong"
            raise RequestError(422, f"the verdict {record['verdict']} is not {words} where the type is {kind}")
        return kind
    if record["verdict"] not in (GOOD, DEFECT):
        raise RequestError(
            422, f"of an image that is called {record['verdict']}, say its type: good, or the defect's name"
        )
    if right == (record["verdict"] == GOOD):
        return GOOD
    named = record["type"] if right and record["type"] not in (None, UNKNOWN) else None
    return labelled_type(record, right, named) if named else DEFECT


def suffix(content: bytes) -> str:
    """Of a file with this content."""
    kinds = {formats.PNG: ".png", formats.JPEG: ".jpg", formats.BMP: ".bmp"}
    known = next((name for start, name in kinds.items() if content.startswith(start)), None)
    return known or (".webp" if formats.is_webp(content) else ".tiff")


def in_short(problem: OSError | ArtifactError) -> str:
    """Why a file cannot be written, without its path."""
    cause = problem if isinstance(problem, OSError) else problem.__cause__
    return getattr(cause, "strerror", None) or "the folder cannot be written"
