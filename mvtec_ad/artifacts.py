"""Artifacts: the zips that notebooks and commands hand to one another through `transfer/`.

A zip holds `manifest.json` beside tables (.csv), arrays (.npz), weights (.safetensors, .weights.h5), figures (.png) and
settings (.json). It is written under a temporary name and renamed, so a killed run leaves the old one whole; nothing
in it is a pickle; loading checks every member against its SHA-256.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import json
import lzma
import os
import platform
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

import numpy as np

from mvtec_ad.config import data_folder, transfer_folder
from mvtec_ad.errors import ArtifactError, MvtecAdError, SettingsError
from mvtec_ad.schema import misfit, parse_json

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 3
LARGEST_NUMBER = {"data": 100_000, "packages": 100_000}  # members that a stage may have; others hold no images
LARGEST_GROWTH = 100, 10_000_000  # times its size, plus bytes, that a zip may unpack to; ours stay below 20 times
LONGEST_NAME = 500  # of a member
# What reading a damaged zip can raise: RuntimeError for a flag that claims encryption, NotImplementedError among them.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, KeyError, ValueError, EOFError, OSError, RuntimeError)
PRODUCED_BY = {
    "data": "01_data_preparation",
    "packages": "01_data_preparation",
    "padim": "02_padim",
    "autoencoder": "03_autoencoder",
    "patchcore": "03b_patchcore",
    "models": "04_supervised_classifier",
    "attributions": "05_interpretability",
    "contrastive": "06_contrastive_typing",
    "dcgan": "07_dcgan",
    "gan": "07b_anogan",
    "inspection": "08_inspection_pipeline",
    "comparison": "09_comparison",
    "backbone": "10_backbone_without_photographs",
    "segmentation": "12_segmentation",
    "words": "13_words",
}


class _Input(TypedDict):
    name: str
    sha256: str


_WRITTEN = {  # what `save` writes that a reader relies on
    **dict.fromkeys(("stage", "profile", "data_source", "device", "created_utc"), str),
    **{"categories": list[str], "options": dict[str, Any], "seed": int | list[int], "versions": dict[str, str]},
    **{"git_commit": str | None, "inputs": list[_Input], "metrics": dict[str, Any], "members": dict[str, str]},
}
_MANIFEST = TypedDict("_MANIFEST", _WRITTEN)


@dataclass(frozen=True)
class Artifact:
    """A checked artifact on disk."""

    path: Path  # of the zip
    manifest: dict[str, Any]  # what `save` recorded

    @property
    def names(self) -> list[str]:
        """Its files, without the manifest, sorted."""
        return sorted(self.manifest["members"])

    @property
    def sha256(self) -> str:
        """SHA-256 of what it holds and of its data source: the same for equal files, whenever they were made."""
        content = [self.manifest["data_source"], self.manifest["members"]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """Bytes of one file; ArtifactError where there is none, or the zip is no longer the one that was loaded."""
        if name not in self.manifest["members"]:
            name = name if name.isprintable() else repr(name)
            raise ArtifactError(f"{self.path} has no member {name}: it holds {', '.join(self.names[:8])} …")
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            return _checked(self.path, archive, name, self.manifest["members"][name])

    def table(self, name: str, columns: Mapping[str, type] | None = None) -> pd.DataFrame:
        """A .csv file, which must have these columns: of str, int or float, the latter finite."""
        import pandas as pd

        columns, data = columns or {}, self.read(name)
        texts = {column: str for column, kind in columns.items() if kind is str}
        with _parsing(self.path, name, "table"):
            table = pd.read_csv(io.BytesIO(data), keep_default_na=False, dtype=texts, encoding_errors="surrogateescape")
            if missing := sorted(set(columns) - set(table)):
                raise ValueError(f"it lacks {', '.join(missing)}")
            for column, kind in columns.items():
                values, allowed = table[column].to_numpy(), "iuf" if kind is float else "iu"
                if kind is not str and not (values.dtype.kind in allowed and np.isfinite(values).all()):
                    raise ValueError(f"{column} must be {'finite' if kind is float else 'whole'} numbers")
            return table

    def json(self, name: str, kind: Any = Any) -> Any:
        """A .json file of this type, as `schema.misfit` takes it."""
        data = self.read(name)
        with _parsing(self.path, name, "data that fit"):
            return parse_json(data, kind)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """A .npz or .safetensors file of finite numbers, but for training curves, which lack what was not measured.

        Objects, which numpy would have to unpickle, are an ArtifactError.
        """
        import safetensors.numpy

        data = self.read(name)
        with _parsing(self.path, name, "plain arrays"):
            if name.endswith(".safetensors"):
                arrays = safetensors.numpy.load(data)
            else:
                with zipfile.ZipFile(io.BytesIO(data)) as archive:
                    _check_size(archive, len(data))
                with np.load(io.BytesIO(data), allow_pickle=False) as file:
                    arrays = {key: np.asarray(file[key]) for key in file}
            for key, array in arrays.items():
                lacking = array.dtype.kind == "f" and not key.startswith("curve.") and not np.isfinite(array).all()
                if array.dtype.kind not in "biuf" or lacking:
                    raise ValueError(f"{key[:LONGEST_NAME]!r} of {array.dtype} holds what is no finite number")
            return arrays

    def extract(self, folder: Path) -> None:
        """Unpack all files below `folder`; names were checked when the artifact was loaded.

        Raises:
            ArtifactError: the zip is no longer the one that was loaded.
            OSError: `folder` cannot be written to.
        """
        with _reading(self.path):
            archive = zipfile.ZipFile(self.path)
        with archive:
            for name, digest in self.manifest["members"].items():
                with _reading(self.path):
                    data = _checked(self.path, archive, name, digest)
                target = Path(folder, *PurePosixPath(name).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)


def save(
    stage: str,
    files: Mapping[str, Any],
    *,
    profile: str,
    data_source: str,
    categories: Sequence[str],
    options: Mapping[str, Any],
    seed: int | Sequence[int],
    metrics: Mapping[str, Any] | None = None,
    inputs: Sequence[Artifact | Mapping[str, str]] = (),
    path: str | Path | None = None,
) -> Path:
    """Write an artifact and return its path.

    Args:
        stage: a key of `PRODUCED_BY`, or a method's name for a model fitted on the command line.
        files: name -> content. The suffix decides: .csv a DataFrame; .npz and .safetensors a dict of arrays;
            .json plain data; the others bytes; any of them may also be a Path to copy.
        profile: `quick`, `full` or `custom`.
        data_source: `mvtec_ad`, `synthetic` or `own`.
        categories, options, seed: products it covers, plain options of the stage, and its seed or seeds.
        metrics: what `results` and the run's table show.
        inputs: artifacts it was made from, or what another manifest says of them (`name`, `sha256`).
        path: where to write; `transfer/STAGE.zip` when None.

    Raises:
        ArtifactError: a member's suffix is not allowed, the disk is full or the folder is read-only. An older
            artifact of that name is left as it was.
    """
    path = Path(path) if path else transfer_folder() / f"{stage}.zip"
    manifest = {"schema": SCHEMA, "stage": stage, "profile": profile, "data_source": data_source}
    manifest |= {"categories": list(categories), "options": dict(options)}
    manifest |= {"seed": seed if isinstance(seed, int) else list(seed)}
    manifest |= {"versions": versions(), "git_commit": git_commit(), "device": device()}
    manifest |= {"created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    made_from = (
        {"name": item.path.name, "sha256": item.sha256} if isinstance(item, Artifact) else item for item in inputs
    )
    manifest |= {"inputs": [dict(item) for item in made_from]}
    manifest |= {"metrics": dict(metrics or {}), "members": {}}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in [*files.items(), ("manifest.json", manifest)]:  # the last has the digests of the others
            data = encode(name, content)
            manifest["members"][name] = hashlib.sha256(data).hexdigest()
            text = name.endswith(TEXT)  # the rest would not shrink
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED)
    return path


def load(stage: str | Path, *, profile: str | None = None, data_source: str | None = None) -> Artifact:
    """Open an artifact and check all of it.

    Args:
        stage: a key of `PRODUCED_BY` (then `transfer/STAGE.zip`), or the path of a zip.
        profile, data_source: refuse an artifact of another one; None accepts any.

    Raises:
        ArtifactError: missing, damaged, tampered with, of a newer schema, with a member that leaves the folder or may
            hold code, or of another profile or data source than asked for.
    """
    path = transfer_folder() / f"{stage}.zip" if str(stage) in PRODUCED_BY else Path(stage)
    if not path.is_file():
        notebook = PRODUCED_BY.get(path.stem)
        way = f"run notebooks/{notebook}.ipynb, which makes it" if notebook else "check the path"
        raise ArtifactError(f"artifact {path} is missing: {way}")
    with _reading(path), zipfile.ZipFile(path) as archive:
        _check_size(archive, path.stat().st_size)
        manifest = parse_json(archive.read("manifest.json"), Any)
        _check_manifest(path, manifest)
        _check_files(path, archive, manifest)
    for key, wanted in (("profile", profile), ("data_source", data_source)):
        if wanted is not None and manifest[key] != wanted:
            other = f"was made with {key.replace('_', ' ')} {manifest[key]!r}, this run uses {wanted!r}"
            raise ArtifactError(
                f"artifact {path} {other}: remove it, or take it with {key}=None (in a notebook: OTHER_PROFILE)"
            )
    return Artifact(path, manifest)


def _check_manifest(path: Path, manifest: Any) -> None:
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if isinstance(schema, int) and schema < SCHEMA:
        raise ArtifactError(f"artifact {path} was made by an earlier version of the package: make it again")
    if isinstance(schema, int) and schema > SCHEMA:
        newer = f"has schema {schema}, this package reads up to {SCHEMA}"
        raise ArtifactError(f"artifact {path} {newer}: update the package")
    problem = misfit(manifest, _MANIFEST) if schema == SCHEMA else "it has no schema"
    if problem:
        raise ArtifactError(f"artifact {path}: manifest.json is none of ours ({problem}): make it again")


def _check_size(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse, with a ValueError, a zip of this many bytes that would unpack to far more than any of ours."""
    unpacked, (times, more) = sum(info.file_size for info in archive.infolist()), LARGEST_GROWTH
    if unpacked > times * size + more:
        raise ValueError(f"its {size} bytes would unpack to {unpacked}")


def _check_files(path: Path, archive: zipfile.ZipFile, manifest: dict[str, Any]) -> None:
    names, expected = archive.namelist(), manifest["members"]
    if len(names) > LARGEST_NUMBER.get(manifest["stage"], 1_000):
        raise ArtifactError(f"artifact {path} has {len(names)} members, far more than ours: do not trust this file")
    names.remove("manifest.json")
    for name in [*names, *expected]:
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ArtifactError(f"artifact {path}: member {name[:40]!r}… has no name of ours: do not trust this file")
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
            raise ArtifactError(f"artifact {path}: member {name!r} leaves the folder: do not trust this file")
        if not name.endswith(SUFFIXES):
            raise ArtifactError(f"artifact {path}: member {name!r} may hold code: do not trust this file")
    if sorted(names) != sorted(expected):
        odd = sorted(set(names) ^ set(expected)) or ["a repeated name"]
        raise ArtifactError(f"artifact {path} and its manifest disagree about {odd[0]}: make or copy it again")
    for name, digest in expected.items():
        _checked(path, archive, name, digest)


def _checked(path: Path, archive: zipfile.ZipFile, name: str, digest: str) -> bytes:
    """Bytes of one file, which must have this SHA-256."""
    data = archive.read(name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactError(f"artifact {path}: {name} does not match its SHA-256: make or copy it again")
    return data


@contextlib.contextmanager
def _parsing(path: Path, name: str, what: str) -> Iterator[None]:
    """Whatever the readers of foreign tables, JSON and arrays can raise, in one line; they have a dozen ways to."""
    try:
        yield
    except Exception as problem:
        raise ArtifactError(f"{path}: {name} holds no {what} ({_first_line(problem)}): make it again") from problem


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What reading a zip can raise, where it is damaged or may not be read, in one line."""
    try:
        yield
    except _DAMAGE as problem:
        if isinstance(problem, OSError) and problem.filename:  # else it is zipfile that found nonsense
            way = f"cannot be read ({problem.strerror}): check the path and its permissions"
            raise ArtifactError(f"artifact {path} {way}") from problem
        raise ArtifactError(f"artifact {path} is damaged ({_first_line(problem)}): make or copy it again") from problem


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [""])[0][:1000] or type(problem).__name__


# --- models -----------------------------------------------------------------------------------------------------------


class Threshold(TypedDict):
    """The calibrated threshold of a model."""

    value: float
    false_alarm_rate: float


class ModelDescription(TypedDict):
    """What `model.json` of a detector holds."""

    method: str
    category: str
    seed: int
    options: dict[str, Any]
    backbone: str | None
    weights: str | None
    weights_member: str | None
    threshold: Threshold
    state: dict[str, Any]


def model_files(detector: Any, category: str, threshold: Mapping[str, float]) -> dict[str, Any]:
    """What `save` needs to keep a fitted detector: `CATEGORY/METHOD/SEED/model.json` and `….safetensors`.

    Where the backbone's weights came from a local file, those weights are added under `backbone/`. The threshold,
    `{"value", "false_alarm_rate"}`, is kept beside the model.
    """
    folder = f"{category}/{detector.name}/{detector.seed}"
    weights, state, arrays = detector.weights_files(), {}, {}
    for key, value in detector.state().items():
        value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        if isinstance(value, np.ndarray):
            arrays[key] = value
        elif key != "seed":  # that stands below
            state[key] = list(value) if isinstance(value, tuple) else value
    description = {"method": detector.name, "category": category, "seed": detector.seed, "options": detector.options()}
    description |= {"backbone": detector.backbone_name, "weights": detector.weights_name}
    description |= {"weights_member": next(iter(weights), None), "threshold": dict(threshold), "state": state}
    return {f"{folder}/model.json": description, f"{folder}/model.safetensors": arrays, **weights}


def save_model(
    path: str | Path, detector: Any, category: str, threshold: Mapping[str, float], *, data_source: str, **more: Any
) -> Path:
    """Write one fitted detector as an artifact of its own; arguments as in `model_files` and `save`."""
    known = {"profile": "custom", "data_source": data_source, "categories": [category], "seed": detector.seed}
    files = model_files(detector, category, threshold)
    return save(detector.name, files, options=detector.options(), path=path, **known, **more)


def read_model(
    artifact: Artifact | str | Path, *, method: str | None = None, category: str | None = None, seed: int | None = None
) -> tuple[Artifact, dict[str, Any], dict[str, Any]]:
    """The artifact, description and state of one model; `mvtec_ad.methods.load_model` makes a detector of them.

    Method and category may be None where the artifact holds one only; a seed of None is the first.

    Raises:
        ArtifactError: no model fits, several methods or categories do, or what is there is no whole model.
    """
    artifact = artifact if isinstance(artifact, Artifact) else load(Path(artifact))
    folders = [name.split("/")[:-1] for name in artifact.names if name.endswith("/model.json")]
    models = [dict(zip(("category", "method", "seed"), folder, strict=True)) for folder in folders if len(folder) == 3]
    wanted = {"method": method, "category": category, "seed": None if seed is None else str(seed)}
    fitting = [model for model in models if all(value in (None, model[key]) for key, value in wanted.items())]
    held = ", ".join("{category} {method} seed {seed}".format(**model) for model in models[:8]) or "none"
    held += ", …" * (len(models) > 8)
    if not fitting:
        asked = f"{category or 'any category'} {method or 'any method'} seed {'any' if seed is None else seed}"
        raise ArtifactError(f"{artifact.path} has no model of {asked}: it holds {held}")
    for key in ("method", "category"):
        if len({model[key] for model in fitting}) > 1:
            raise ArtifactError(f"{artifact.path} holds more than one {key} ({held}): choose one with --{key}")
    folder = "{category}/{method}/{seed}".format(**fitting[0])
    with complete(artifact):
        description = parse_json(artifact.read(f"{folder}/model.json"), ModelDescription)
        if "{category}/{method}/{seed}".format(**description) != folder:
            raise ValueError(f"{folder}/model.json describes another one")
        arrays = artifact.arrays(f"{folder}/model.safetensors")
        return artifact, description, {**description["state"], **arrays, "seed": description["seed"]}


def weights_copy(artifact: Artifact, member: str) -> Path:
    """A weights file of an artifact on disk, named by its content and reused: Keras reads weights from files only."""
    digest = artifact.manifest["members"].get(member, "")
    copy = data_folder() / "weights" / f"{digest[:16]}{''.join(Path(member).suffixes)}"
    if not (copy.is_file() and file_sha256(copy) == digest):
        write_file(copy, artifact.read(member))
    return copy


@contextlib.contextmanager
def complete(artifact: Artifact) -> Iterator[None]:
    """Whatever a model lacks that another version or hand has written, in one line.

    All exceptions count: numbers that do not fit together meet numpy, torch, OpenCV and Keras here.
    """
    try:
        yield
    except Exception as problem:
        if isinstance(problem, MvtecAdError) and not isinstance(problem, SettingsError):
            raise
        name = "" if isinstance(problem, SettingsError | ValueError) else f"{type(problem).__name__} "
        reason = f"{name}{_first_line(problem)}"
        raise ArtifactError(f"{artifact.path} holds no whole model ({reason}): fit it again") from problem


# --- what an artifact may hold, as bytes ------------------------------------------------------------

TEXT = (".csv", ".json", ".html", ".xml")
SUFFIXES = (*TEXT, ".npz", ".safetensors", ".h5", ".png", ".jpg", ".jpeg")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed member dates: equal content gives equal bytes


def encode(name: str, content: Any) -> bytes:
    """Bytes of a member; its suffix decides how (see `save`)."""
    if not name.endswith(SUFFIXES):
        raise ArtifactError(f"member {name}: an artifact holds only {', '.join(SUFFIXES)}")
    if name.encode("utf-8", "ignore").decode() != name:
        raise ArtifactError(f"member {name!r} has a name that is no UTF-8, which a zip needs: rename the file")
    if isinstance(content, Path):
        try:
            return content.read_bytes()
        except OSError as problem:
            raise ArtifactError(f"member {name}: {content} cannot be read ({problem.strerror})") from problem
    if isinstance(content, bytes):
        return content
    if name.endswith(".csv"):
        return content.to_csv(index=False).encode("utf-8", "surrogateescape")  # names of files are bytes
    if name.endswith(".json"):
        return json.dumps(content, indent=1).encode()
    if name.endswith(".npz"):
        return npz_bytes(content)
    if name.endswith(".safetensors"):
        import safetensors.numpy

        return safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in content.items()})
    raise ArtifactError(f"member {name}: give its bytes, not {type(content).__name__}")


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A .npz file; unlike numpy's own writer it carries no date, so equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), content.getvalue())
    return buffer.getvalue()


# --- files on disk


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` at once when all of it is on the disk, or not at all.

    It has a temporary name beside `path`, with the host and the process in it; what a killed process left there is
    removed by the next one on that host. A full disk or a read-only folder is an ArtifactError, and what lay at `path`
    stays; an error of the body that is not about this file passes through as it is.
    """
    path = Path(path)
    mine = f".{path.name}.{platform.node()}"
    temporary = path.with_name(f"{mine}.{os.getpid()}.tmp")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in path.parent.glob(f"{glob.escape(mine)}.*.tmp"):
                if _ended(leftover.name.split(".")[-2]):
                    with contextlib.suppress(OSError):
                        leftover.unlink()
            file = open(temporary, "wb")  # noqa: SIM115
        try:
            with _writing(path, room_only=True):
                yield file
            with _writing(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):  # where there was no room, there is none for what its buffer holds
                file.close()
        with _writing(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_file(path: str | Path, content: str | bytes) -> None:
    """Bytes or a text through `atomic_write`; what UTF-8 cannot hold, as in a file's name, becomes a question mark."""
    with atomic_write(path) as file:
        file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)


@contextlib.contextmanager
def _writing(path: Path, room_only: bool = False) -> Iterator[None]:
    """What the file system can refuse, in one line; on request, only that there is no room for this very file."""
    try:
        yield
    except OSError as problem:
        if room_only and (problem.filename is not None or problem.errno not in _NO_ROOM):
            raise
        end = "; the old one is kept" if os.path.isfile(path) else ""  # False, not an error, for too long a name
        reason = problem.strerror or problem
        raise ArtifactError(f"{path} cannot be written ({reason}): make room or choose another place{end}") from problem


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _ended(process: str) -> bool:
    """Whether no process of this number runs on this host; False where that cannot be told."""
    if os.name == "nt":  # there, signal 0 is no question but Ctrl+C
        return False
    try:
        os.kill(int(process), 0)
    except (OSError, ValueError, OverflowError) as problem:
        return isinstance(problem, ProcessLookupError)
    return False


# --- provenance


def versions() -> dict[str, str]:
    """Versions of python, the package and the libraries that shape numbers."""
    libraries = {"python": platform.python_version()}
    for name in ("mvtec-ad-notebooks", "numpy", "scipy", "scikit-learn", "torch", "torchvision", "tensorflow", "keras"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            libraries[name] = metadata.version(name)
    return libraries


def git_commit() -> str | None:
    """Commit of the checkout the package lies in, `-dirty` where tracked files differ from it; None outside of one."""
    folder = Path(__file__).parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def device() -> str:
    """The GPU torch sees, else the number of processor cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {os.cpu_count()} cores"


# --- Colab


def in_colab() -> bool:
    """Whether this is a kernel of Google Colab."""
    return "google.colab" in sys.modules


def download(path: str | Path) -> None:
    """In Colab, offer the artifact to the browser; elsewhere say where it lies."""
    if in_colab():
        sys.modules["google.colab"].files.download(str(path))
    else:
        size = Path(path).stat().st_size / 1e6
        print(f"{Path(path).name}: {size:.1f} MB in {Path(path).parent.name}/")


def upload() -> list[Path]:
    """In Colab, ask for files and put them into `transfer/`, `models (1).zip` as models.zip; elsewhere do nothing.

    The dialog takes several at once; whoever cancels it gets an empty list. What lies there already is kept.
    """
    if not in_colab():
        return []
    paths, here = [], set(Path().iterdir())
    for name, content in sys.modules["google.colab"].files.upload().items():
        plain = re.sub(r" ?\(\d+\)(?=\.zip$)", "", PurePosixPath(name).name)
        known = plain == "raw-data.zip" or plain.removesuffix(".zip") in PRODUCED_BY
        target = transfer_folder() / (plain if known else PurePosixPath(name).name)
        if target.is_file():
            print(f"{name} is not taken, for {target.parent.name}/{target.name} is there: remove that one first")
        else:
            write_file(target, content)
            paths.append(target)
        for copy in set(Path().glob("*.*")) - here:  # Colab's own, beside the notebook
            if copy.is_file() and copy.resolve() != target.resolve() and copy.read_bytes() == content:
                copy.unlink()
    return paths


def check_uploads(paths: Sequence[Path], profile: str | None) -> None:
    """Load what was uploaded; what is damaged, or of another profile, is removed, so that it is asked for again."""
    problems = []
    for path in paths:
        try:
            load(path, profile=profile)
        except ArtifactError as problem:
            problems.append(f"of {path.name} {path.stat().st_size:,} bytes were received, and removed again: {problem}")
            path.unlink()
    if problems:
        raise ArtifactError(f"{'; '.join(problems)}; run this cell again")
