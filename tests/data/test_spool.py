"""A spool against the array that it stands for, in memory and on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import numpy as np
import pytest

from mvtec_ad.data import spool
from mvtec_ad.data.spool import Spool
from mvtec_ad.errors import DataError

ARRAY = np.random.default_rng(0).normal(size=(11, 6, 3)).astype(np.float32)


@pytest.fixture(params=[True, False], ids=["memory", "disk"])
def filled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """All of `ARRAY`, in batches of different sizes, one of them not contiguous."""
    monkeypatch.setattr(spool, "HELD", ARRAY.nbytes - (not request.param))
    rows = Spool(len(ARRAY))
    for batch in (ARRAY[:4], np.asfortranarray(ARRAY[4:5]), ARRAY[5:]):
        rows.append(batch)
    assert (rows._file is None) == request.param
    return rows


def test_it_reads_as_the_array_does(filled: Spool) -> None:
    """Rows in any order, also twice; slices; columns; all, one after the other."""
    assert (len(filled), filled.shape) == (11, ARRAY.shape)
    for rows in (np.array([7, 0, 7, 10]), np.array([], int), slice(2, 5), slice(9, 99), slice(None)):
        np.testing.assert_array_equal(filled[rows], ARRAY[rows])
    for part in (slice(0, 6), slice(2, 4), slice(5, 99), slice(0, 0)):
        np.testing.assert_array_equal(filled.columns(part), ARRAY[:, part])
    np.testing.assert_array_equal(np.concatenate(list(filled)), ARRAY)
    assert filled[np.array([1])].dtype == np.float32


def test_taken_rows_are_a_spool(filled: Spool) -> None:
    """Also taken from taken ones; the first one stays as it is."""
    order = np.array([10, 3, 4, 0])
    taken = filled.taken(order)
    np.testing.assert_array_equal(taken[:], ARRAY[order])
    np.testing.assert_array_equal(taken.columns(slice(1, 3)), ARRAY[order, 1:3])
    np.testing.assert_array_equal(taken.taken(np.array([2, 0]))[:], ARRAY[[4, 10]])
    assert (len(taken), taken.shape, len(filled)) == (4, (4, 6, 3), 11)


def test_what_is_held_is_not_on_disk(filled: Spool) -> None:
    """Many rows take no memory, few no file, and no name is left of a file."""
    if filled._file is None:
        assert filled._array.nbytes == ARRAY.nbytes
    else:
        assert filled._array is None
        filled._file.flush()
        assert os.fstat(filled._file.fileno()).st_size == ARRAY.nbytes


class Full:
    """A file on a disk that is full."""

    def close(self) -> None:
        """As any file."""

    def write(self, _: object) -> None:
        """As the system says it."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=["at once", "later"])
def no_room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The temporary folder has none, or somebody else takes it meanwhile."""
    monkeypatch.setattr(spool, "HELD", 0)
    with monkeypatch.context() as patch:
        free = ARRAY.nbytes - 1 if request.param == "at once" else ARRAY.nbytes
        patch.setattr(spool.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
        if request.param == "later":
            patch.setattr(spool.tempfile, "TemporaryFile", Full)
        yield


@pytest.mark.usefixtures("no_room")
def test_a_full_temporary_folder_is_named() -> None:
    """In one line, with the way out."""
    with pytest.raises(DataError, match=r"cannot take the 0\.0 GB that 11 images need .*No space.*TMPDIR"):
        Spool(len(ARRAY)).append(ARRAY[:1])
