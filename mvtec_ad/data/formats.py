"""What a file tells before and while it is decoded: how large the picture is, and whether all of it is there."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator

PNG, JPEG, BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
STANDARD_CODES = bytes.fromhex("00020103030204030505040400 00017d")  # of a JPEG's gray AC values: ITU-T T.81, table K.5
PADDING = 8  # bytes before the end of a JPEG that some cameras add; more were part of the picture
_LIBJPEG = (b"Corrupt JPEG", b"Premature end of JPEG", b"Invalid SOS", b"Inconsistent progr", b"Warning: unknown JFIF")
_DAMAGE = rb"premature|bad Huffman|bad arithmetic|instead of RST|(\d+) extraneous bytes"


def is_webp(content: bytes) -> bool:
    """Whether these bytes begin a WebP."""
    return content[:4] == b"RIFF" and content[8:12] == b"WEBP"


def picture_size(content: bytes) -> tuple[int, int] | None:
    """(width, height) by the header of a PNG, JPEG, BMP, TIFF or WebP; None where it is none of them, or cut off.

    Decoders take the memory that a header asks for, some kB of file ask for gigabytes; and Pillow, asked for the size
    alone, ends with an error at half of what is fine here.
    """
    try:
        if content.startswith(PNG):
            return struct.unpack_from(">II", content, 16)
        if content.startswith(BMP):
            small = content[14] == 12  # the header of OS/2
            width, height = struct.unpack_from("<HH" if small else "<ii", content, 18)
            return abs(width), abs(height)
        if is_webp(content):
            return _webp_size(content)
        if content.startswith(JPEG):
            return _jpeg_size(content)
        return _tiff_size(content) if content.startswith(TIFF) else None
    except (struct.error, IndexError, OverflowError):
        return None


def _webp_size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(content[start : start + 3], "little") + 1 for start in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (number & 0x3FFF for number in struct.unpack_from("<HH", content, 26))
    return width, height


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Of the frame, whose segment stands before the first scan."""
    position = 2
    while (position := content.find(b"\xff", position)) >= 0:
        marker = content[position + 1]
        if marker == 0xDA:  # start of scan
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, position + 5)
            return width, height
        alone = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8
        position += 1 if alone else 2 + struct.unpack_from(">H", content, position + 2)[0]
    return None


def _tiff_size(content: bytes) -> tuple[int, int]:
    """Of the first page, or of its tiles where these are larger."""
    tags = _tiff_tags(content)
    return max(tags.get(256, 0), tags.get(322, 0)), max(tags.get(257, 0), tags.get(323, 0))


def _tiff_tags(content: bytes) -> dict[int, int]:
    """Numbers of the first page's tags: width 256, height 257, orientation 274, of its tiles 322 and 323."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), content, start)
    step, place, tags = (20, 12, {}) if big else (12, 8, {})
    first = start + (8 if big else 2)
    for entry in range(first, min(first + count * step, len(content)), step):
        tag, kind = struct.unpack_from(order + "HH", content, entry)
        if tag in (256, 257, 274, 322, 323) and kind in (3, 4, 16):
            letter = {3: "H", 4: "I", 16: "Q"}[kind]
            (tags[tag],) = struct.unpack_from(order + letter, content, entry + place)
    return tags


def shown_shape(content: bytes) -> tuple[tuple[int, int] | None, int]:
    """(Height, width) of a picture as it is displayed, None where its header does not tell, and the EXIF orientation, 1
    to 8, that it is stored under."""
    if content.startswith(TIFF):
        exif = content
    elif is_webp(content):
        exif = content.rpartition(b"EXIF")[2][4:].removeprefix(b"Exif\0\0")
    else:
        exif = content.partition(b"eXIf" if content.startswith(PNG) else b"Exif\0\0")[2]
    try:
        tags = _tiff_tags(exif) if exif.startswith(TIFF) else {}
    except (struct.error, IndexError, OverflowError):
        tags = {}
    orientation = tags.get(274, 1) if 1 <= tags.get(274, 1) <= 8 else 1
    size = (tags.get(256, 0), tags.get(257, 0)) if content.startswith(TIFF) else picture_size(content)
    if not size or 0 in size:
        return None, orientation
    return (size if orientation > 4 else size[::-1]), orientation


def is_whole(content: bytes) -> bool:
    """Whether a PNG's checksums hold up to its last chunk, a JPEG ends and has no hole of zeros, a WebP has its length.

    Costs a hundredth of decoding. Other formats are left to their decoder. Decoders differ in what they make of half a
    file: an error, a line on stderr, or a picture that is gray from some row on, which would be called a defect.
    """
    if content.startswith(JPEG):  # an end of image after the last start of scan; padding may follow
        scan, end = content.rfind(b"\xff\xda"), content.rfind(b"\xff\xd9")
        # by the standard codes, a run of zeros is three blocks of nothing but −1; the codes of a flat picture may be 0
        hole = STANDARD_CODES in content[:scan] and bytes(64) in content[scan:end]
        return end > scan and not hole
    if is_webp(content):
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    return not content.startswith(PNG) or _is_whole_png(content)


def _is_whole_png(content: bytes) -> bool:
    view, start = memoryview(content), 8
    while start + 12 <= len(content):  # a chunk: length, type, data, checksum of type and data
        end = start + 8 + int.from_bytes(view[start : start + 4], "big")
        kind, checksum = view[start + 4 : start + 8], view[end : end + 4]
        # an upper-case first letter marks what the picture cannot do without
        if bytes(kind[:1]).isupper() and zlib.crc32(view[start + 4 : end]) != int.from_bytes(checksum, "big"):
            return False
        if kind == b"IEND":
            return True
        start = end + 4
    return False


class Stderr:
    """What libjpeg prints: that a JPEG has a hole, it says on the console alone, and decodes on.

    While some thread decodes, the process's stderr goes to a file; what others have written there meanwhile is written
    on when the last is done. Where there is no stderr, and on Windows, nothing is heard.
    """

    def __init__(self) -> None:
        self.condition, self.inside, self.exclusive = threading.Condition(), 0, False
        self.file, self.console = None, None

    @contextlib.contextmanager
    def damage(self, alone: bool = False) -> Iterator[list[bool]]:
        """Yields a list that afterwards holds whether damage was printed: meanwhile by any thread, or `alone`."""
        printed: list[bool] = []
        with self.condition:
            self.condition.wait_for(lambda: not self.exclusive)
            if alone:
                self.exclusive = True  # from here on no other comes in
                self.condition.wait_for(lambda: not self.inside)
            if not self.inside:
                self._open()
            self.inside, start = self.inside + 1, self._size()
        try:
            yield printed
        finally:
            with self.condition:
                printed.append(self._size() > start and _is_damage(os.pread(self.file.fileno(), 1 << 16, start)))
                self.inside, self.exclusive = self.inside - 1, self.exclusive and not alone
                if not self.inside:
                    self._close()
                self.condition.notify_all()

    def _open(self) -> None:
        if not hasattr(os, "pread"):
            return
        with contextlib.suppress(OSError):  # nothing is open there, or there is no room
            console = os.dup(2)
            try:
                self.file = tempfile.TemporaryFile()  # noqa: SIM115
                os.dup2(self.file.fileno(), 2)
                self.console = console
            finally:
                if self.console is None:
                    os.close(console)

    def _close(self) -> None:
        if self.console is None:
            return
        os.dup2(self.console, 2)
        os.close(self.console)
        self.console = None
        self.file.seek(0)
        lines = self.file.read().splitlines(keepends=True)
        self.file.close()
        with contextlib.suppress(OSError):
            os.write(2, b"".join(line for line in lines if not line.startswith(_LIBJPEG)))

    def _size(self) -> int:
        return 0 if self.console is None else os.fstat(self.file.fileno()).st_size


def _is_damage(words: bytes) -> bool:
    return any(not match[1] or int(match[1]) > PADDING for match in re.finditer(_DAMAGE, words))
