"""Rows that come batch by batch and are all needed later: in memory, or in a temporary file where they are many."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from mvtec_ad.errors import DataError

HELD = 2**29  # bytes that stay in memory: all images of an MVTec AD category, and most features of one


class Spool:
    """An array of `count` rows that is filled in order, and read by row or by column.

    Attributes:
        shape: (count, …), known from the first batch on.

    Examples:
        >>> spool = Spool(4)
        >>> for batch in (np.zeros((3, 2)), np.ones((1, 2))):
        ...     spool.append(batch)
        >>> spool[2:].tolist(), spool.columns(slice(1, 2)).ravel().tolist()
        ([[0.0, 0.0], [1.0, 1.0]], [0.0, 0.0, 0.0, 1.0])
    """

    def __init__(self, count: int) -> None:
        self.shape: tuple[int, ...] = (count,)
        self._order, self._filled = np.arange(count), 0

    def append(self, rows: np.ndarray) -> None:
        """The next rows.

        Raises:
            DataError: the temporary folder has no room for all of them.
        """
        if not self._filled:
            self.shape, self._type, self._row = (*self.shape, *rows.shape[1:]), rows.dtype, rows[:1].nbytes
            held = self.shape[0] * self._row <= HELD
            self._array, self._file = (np.empty(self.shape, self._type), None) if held else (None, self._open())
            if self._file is not None:
                weakref.finalize(self, self._file.close)
        if self._file is None:
            self._array[self._filled : self._filled + len(rows)] = rows
        else:
            try:
                self._file.write(np.ascontiguousarray(rows).data)
            except OSError as problem:
                raise self._no_room(problem) from problem
        self._filled += len(rows)

    def taken(self, positions: np.ndarray) -> Spool:
        """Some of the rows, in this order; they are not copied."""
        part = Spool(len(positions))
        vars(part).update({**vars(self), "shape": (len(positions), *self.shape[1:]), "_order": self._order[positions]})
        part._whole = self  # with which the file would go
        return part

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number : number + 1] for number in range(len(self)))

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some rows, (n, …)."""
        order = self._order[rows]
        return self._array[order] if self._file is None else self._read(order, slice(0, self.shape[1]))

    def columns(self, part: slice) -> np.ndarray:
        """Of all rows what lies in a slice of the second axis, (count, p, …)."""
        return self._array[self._order, part] if self._file is None else self._read(self._order, part)

    def _read(self, order: np.ndarray, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self.shape[1])
        values, column = np.empty((len(order), stop - start, *self.shape[2:]), self._type), self._row // self.shape[1]
        for place, position in enumerate(order.tolist()):
            self._file.seek(position * self._row + start * column)
            self._file.readinto(values[place].data)
        return values

    def _open(self) -> BinaryIO:
        """A file without a name, which is gone when this process is."""
        if shutil.disk_usage(tempfile.gettempdir()).free < self.shape[0] * self._row:
            raise self._no_room(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return tempfile.TemporaryFile()

    def _no_room(self, problem: OSError) -> DataError:
        needed = self.shape[0] * self._row / 1e9
        return DataError(
            f"{tempfile.gettempdir()} cannot take the {needed:.1f} GB that {self.shape[0]} images need for a while "
            f"({problem.strerror}): let TMPDIR name a folder with more room, or give fewer images"
        )
