"""The package's own exceptions.

Each message is one line that names the thing and the way out; the command line prints it without a
traceback and exits with status 2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

EXTRAS = {  # extra of the package -> modules that it installs and that are imported late
    "notebooks": "torch torchvision tensorflow keras timm pandas scipy sklearn joblib psutil matplotlib seaborn tqdm "
    "safetensors captum umap bokeh jinja2 nbformat nbclient jupyter threadpoolctl",
    "export": "onnx onnxscript",
    "edge": "onnxruntime",
    "serve": "fastapi uvicorn starlette pydantic h11 multipart python_multipart prometheus_client",
    "cluster": "dask distributed",
}
WAY_OUT = "make room or move what is in the way, or set MVTEC_AD_HOME to a folder of yours"


def escape(text: str) -> str:
    """The text, all of it as in `\\n`, `\\u5199` or, for a byte of a file's name that is no UTF-8, `\\udcff`."""
    return text.encode("unicode_escape").decode("ascii")


def printable(text: str) -> str:
    """The text on one line, its control characters and what is no UTF-8 escaped."""
    return "".join(letter if letter.isprintable() else escape(letter) for letter in text)


class MvtecAdError(Exception):
    """A problem a user can mend: what is wrong, and what to do about it."""

    def __str__(self) -> str:
        return printable(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the line, without the calls that led to it."""
        return [f"{type(self).__name__}: {self}"]


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


def way_to_install(extra: str) -> str:
    """The command that installs an extra of the package."""
    return f'pip install "mvtec-ad-notebooks[{extra}]"'


def in_words(problem: Exception) -> str:
    """What went wrong on one line, where a user can mend it: what the package refuses, where the system refuses a
    file, a place or memory, and where an extra of the package is not installed; "" where the fault is ours."""
    if isinstance(problem, MvtecAdError):
        return str(problem)
    if isinstance(problem, ModuleNotFoundError):
        module = (problem.name or "").partition(".")[0]
        extra = next((extra for extra, modules in EXTRAS.items() if module in modules.split()), None)
        return f"{module} is not installed: {way_to_install(extra)}" if extra else ""
    if isinstance(problem, OSError):
        place = f"{problem.filename} cannot be used" if problem.filename else "reading or writing failed"
        return printable(f"{place} ({problem.strerror or problem}): check it and its permissions, {WAY_OUT}")
    if isinstance(problem, MemoryError) or "allocate" in str(problem):  # numpy, OpenCV, torch on CPU and GPU
        return "there is not enough memory for this: choose a smaller image size, batch or network"
    return ""


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
