"""The package's own exceptions.

Each message is one line that names the thing and the way out; the command line prints it without a
traceback and exits with status 2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

WAY_OUT = "make room or move what is in the way, or set MVTEC_AD_HOME to a folder of yours"


class MvtecAdError(Exception):
    """A problem a user can mend: what is wrong, and what to do about it."""


class DataError(MvtecAdError):
    """A folder, an image, a mask or a category is not what it should be."""


class SettingsError(MvtecAdError):
    """A setting, a profile or a combination of options cannot work."""


class WeightsError(MvtecAdError):
    """Pretrained weights are missing, unreachable or do not fit the network."""


class ArtifactError(MvtecAdError):
    """A zipped artifact is missing, damaged, or was made under other conditions than the reader's."""


class TrainingError(MvtecAdError):
    """A training cannot go on: its loss is no number, or its checkpoint belongs to another run."""


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """What the disk can refuse while `place` is made, written, renamed or removed, in one line.

    Raises:
        DataError: the disk is full or read-only, a file is where a folder should be or the other way round, …
    """
    try:
        yield
    except OSError as problem:
        raise DataError(f"{place} cannot be written ({problem.strerror or problem}): {WAY_OUT}") from problem
