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
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from mvtec_ad.config import data_folder, transfer_folder
from mvtec_ad.errors import ArtifactError, SettingsError

SCHEMA = 2
_MANIFEST = {  # what `save` writes that a reader relies on
    **{"stage": str, "profile": str, "data_source": str, "categories": list, "options": dict, "versions": dict},
    **{"device": str, "created_utc": str, "inputs": list, "metrics": dict, "members": dict},
}
# What reading a damaged zip can raise: RuntimeError for a flag that claims encryption, NotImplementedError among them.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, KeyError, ValueError, EOFError, OSError, RuntimeError)
PRODUCED_BY = {
    "data": "01_data_preparation",
    "packages": "01_data_preparation",
    "padim": "02_padim",
    "autoencoder": "03_autoencoder",
    "patchcore": "03_autoencoder",
    "models": "04_supervised_classifier",
    "attributions": "05_interpretability",
    "contrastive": "06_contrastive_typing",
    "gan": "07_dcgan_anogan",
    "inspection": "08_inspection_pipeline",
    "comparison": "09_comparison",
    "backbone": "10_backbone_without_photographs",
}


@dataclass(frozen=True)
class Artifact:
    """A checked artifact on disk.

    Attributes:
        path: the zip.
        manifest: what `save` recorded.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Members, without the manifest, sorted."""
        return sorted(self.manifest["members"])

    def read(self, name: str) -> bytes:
        """Bytes of one member.

        Raises:
            ArtifactError: there is no such member, or the zip is no longer the one that was loaded.
        """
        if name not in self.manifest["members"]:
            raise ArtifactError(f"{self.path} has no member {name}: it holds {', '.join(self.names[:8])} …")
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            return _member(self.path, archive, name, self.manifest["members"][name])

    def table(self, name: str) -> pd.DataFrame:
        """A .csv member."""
        return pd.read_csv(io.BytesIO(self.read(name)), keep_default_na=False)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """A .npz or .safetensors member.

        Raises:
            ArtifactError: it is none, or holds objects, which numpy would have to unpickle.
        """
        data = self.read(name)
        try:
            if name.endswith(".safetensors"):
                from safetensors.numpy import load

                return load(data)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as problem:  # the two readers have a dozen ways to say it
            raise ArtifactError(
                f"{self.path}: {name} holds no plain arrays ({_first_line(problem)}): make it again"
            ) from problem

    def json(self, name: str) -> Any:
        """A .json member."""
        with _reading(self.path):
            return json.loads(self.read(name))

    def extract(self, folder: Path) -> None:
        """Unpack all members below `folder`; names were checked when the artifact was loaded.

        Raises:
            ArtifactError: the zip is no longer the one that was loaded.
            OSError: `folder` cannot be written to.
        """
        with _reading(self.path):
            archive = zipfile.ZipFile(self.path)
        with archive:
            for name, digest in self.manifest["members"].items():
                with _reading(self.path):
                    data = _member(self.path, archive, name, digest)
                target = Path(folder, *PurePosixPath(name).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole zip."""
        return file_sha256(self.path)


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
    inputs: Sequence[Artifact] = (),
    path: str | Path | None = None,
) -> Path:
    """Write an artifact.

    Args:
        stage: a key of `PRODUCED_BY`, or a method's name for a model fitted on the command line.
        files: name -> content. The suffix decides: .csv a DataFrame; .npz and .safetensors a dict of arrays;
            .json plain data; the others bytes; any of them may also be a Path to copy.
        profile: `quick`, `full` or `custom`.
        data_source: `mvtec_ad`, `rendered` or `own`.
        categories: products it covers.
        options: of the stage, plain data.
        seed: seed or seeds.
        metrics: what `results` and the run's table show.
        inputs: artifacts it was made from.
        path: where to write; `transfer/STAGE.zip` when None.

    Returns:
        The path written.

    Raises:
        ArtifactError: a member's suffix is not allowed, the disk is full or the folder is read-only. An older
            artifact of that name is left as it was.
    """
    path = Path(path) if path else transfer_folder() / f"{stage}.zip"
    manifest = {
        "schema": SCHEMA,
        "stage": stage,
        "profile": profile,
        "data_source": data_source,
        "categories": list(categories),
        "options": dict(options),
        "seed": seed if isinstance(seed, int) else list(seed),
        "versions": versions(),
        "git_commit": git_commit(),
        "device": device(),
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "inputs": [{"name": item.path.name, "sha256": item.sha256} for item in inputs],
        "metrics": dict(metrics or {}),
        "members": {},
    }
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            data = encode(name, content)
            manifest["members"][name] = hashlib.sha256(data).hexdigest()
            add(archive, name, data)
        add(archive, "manifest.json", json.dumps(manifest, indent=1).encode())
    return path


def load(
    stage: str | Path,
    *,
    profile: str | None = None,
    data_source: str | None = None,
) -> Artifact:
    """Open an artifact and check all of it.

    Args:
        stage: a key of `PRODUCED_BY` (then `transfer/STAGE.zip`), or the path of a zip.
        profile: refuse an artifact of another profile; None accepts any.
        data_source: refuse an artifact from other data; None accepts any.

    Raises:
        ArtifactError: missing, damaged, tampered with, of a newer schema, with a member that leaves the folder or may
            hold code, or of another profile or data source than asked for.
    """
    path = transfer_folder() / f"{stage}.zip" if str(stage) in PRODUCED_BY else Path(stage)
    if not path.is_file() and "google.colab" in sys.modules:
        print(f"{path.name} is not here yet: choose the one that an earlier notebook offered for download")
        upload()
    if not path.is_file():
        maker = PRODUCED_BY.get(path.stem)
        way = f"run notebooks/{maker}.ipynb, which makes it" if maker else "check the path"
        raise ArtifactError(f"artifact {path} is missing: {way}")
    with _reading(path), zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        _check_manifest(path, manifest)
        _check_members(path, archive, manifest["members"])
    for key, wanted in (("profile", profile), ("data_source", data_source)):
        if wanted is not None and manifest[key] != wanted:
            word = key.replace("_", " ")
            raise ArtifactError(
                f"artifact {path} was made with {word} {manifest[key]!r}, this run uses {wanted!r}: "
                f"make it again, or load it with {key}=None"
            )
    return Artifact(path, manifest)


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    foreign = ArtifactError(f"artifact {path}: manifest.json is none of ours: make it again")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), int):
        raise foreign
    if manifest["schema"] < SCHEMA:
        raise ArtifactError(f"artifact {path} was made by an earlier version of the package: make it again")
    if manifest["schema"] > SCHEMA:
        raise ArtifactError(
            f"artifact {path} has schema {manifest['schema']}, this package reads up to {SCHEMA}: update the package"
        )
    if "git_commit" not in manifest or not all(isinstance(manifest.get(key), kind) for key, kind in _MANIFEST.items()):
        raise foreign


def _check_members(path: Path, archive: zipfile.ZipFile, expected: dict[str, str]) -> None:
    names = [name for name in archive.namelist() if name != "manifest.json"]
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
            raise ArtifactError(f"artifact {path}: member {name!r} leaves the folder: do not trust this file")
        if not name.endswith(SUFFIXES):
            raise ArtifactError(f"artifact {path}: member {name!r} may hold code: do not trust this file")
    if set(names) != set(expected) or len(names) != len(expected):
        odd = sorted(set(names) ^ set(expected)) or ["a repeated name"]
        raise ArtifactError(f"artifact {path} and its manifest disagree about {odd[0]}: make or copy it again")
    for name, digest in expected.items():
        _member(path, archive, name, digest)


def _member(path: Path, archive: zipfile.ZipFile, name: str, digest: str) -> bytes:
    """Bytes of one member, which must have this SHA-256."""
    data = archive.read(name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtifactError(f"artifact {path}: {name} does not match its SHA-256: make or copy it again")
    return data


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What reading a damaged zip can raise, in one line."""
    try:
        yield
    except _DAMAGE as problem:
        raise ArtifactError(f"artifact {path} is damaged ({_first_line(problem)}): make or copy it again") from problem


def _first_line(problem: BaseException) -> str:
    return str(problem).partition("\n")[0] or type(problem).__name__


# --- models -----------------------------------------------------------------------------------------------------------


def model_files(detector: Any, category: str, threshold: Mapping[str, float]) -> dict[str, Any]:
    """What `save` needs to keep a fitted detector: `CATEGORY/METHOD/SEED/model.json` and `….safetensors`.

    Where the backbone's weights came from a local file, those weights are added under `backbone/`.

    Args:
        detector: fitted; has `name`, `seed`, `options()`, `state()` and `weights_files()`.
        category: product it was fitted on.
        threshold: `{"value", "false_alarm_rate"}`, kept beside the model.
    """
    folder = f"{category}/{detector.name}/{detector.seed}"
    weights = detector.weights_files()
    state = {key: _plain(value) for key, value in detector.state().items() if key != "seed"}  # that stands below
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    description = {
        "method": detector.name,
        "category": category,
        "seed": detector.seed,
        "options": detector.options(),
        "backbone": detector.backbone_name,
        "weights": detector.weights_name,
        "weights_member": next(iter(weights), None),
        "threshold": dict(threshold),
        "state": {key: value for key, value in state.items() if key not in arrays},
    }
    return {f"{folder}/model.json": description, f"{folder}/model.safetensors": arrays, **weights}


def save_model(
    path: str | Path, detector: Any, category: str, threshold: Mapping[str, float], *, data_source: str, **more: Any
) -> Path:
    """Write one fitted detector as an artifact of its own; arguments as in `model_files` and `save`."""
    return save(
        detector.name,
        model_files(detector, category, threshold),
        profile="custom",
        data_source=data_source,
        categories=[category],
        options=detector.options(),
        seed=detector.seed,
        path=path,
        **more,
    )


def read_model(
    artifact: Artifact | str | Path, *, method: str | None = None, category: str | None = None, seed: int | None = None
) -> tuple[Artifact, dict[str, Any], dict[str, Any]]:
    """The artifact, description and state of one model; `mvtec_ad.methods.load_model` makes a detector of them.

    Args:
        artifact: a checked artifact, or the path of one.
        method: which method; may be None when the artifact holds one only.
        category: which product; may be None when the artifact holds one only.
        seed: the first one when None.

    Raises:
        ArtifactError: no model fits, several methods or categories do, or what is there is no whole model.
    """
    artifact = artifact if isinstance(artifact, Artifact) else load(Path(artifact))
    with complete(artifact):
        models = [artifact.json(name) for name in artifact.names if name.endswith("/model.json")]
        wanted = {"method": method, "category": category, "seed": seed}
        fitting = [model for model in models if all(value in (None, model[key]) for key, value in wanted.items())]
        held = ", ".join(f"{model['category']} {model['method']} seed {model['seed']}" for model in models) or "none"
    if not fitting:
        asked = f"{category or 'any category'} {method or 'any method'} seed {'any' if seed is None else seed}"
        raise ArtifactError(f"{artifact.path} has no model of {asked}: it holds {held}")
    for key in ("method", "category"):
        if len({model[key] for model in fitting}) > 1:
            raise ArtifactError(f"{artifact.path} holds more than one {key} ({held}): choose one with --{key}")
    description = fitting[0]
    with complete(artifact):
        arrays = artifact.arrays("{category}/{method}/{seed}/model.safetensors".format(**description))
        description["threshold"]["value"] = float(description["threshold"]["value"])
        return artifact, description, {**description["state"], **arrays, "seed": int(description["seed"])}


def weights_copy(artifact: Artifact, member: str) -> Path:
    """A weights file of an artifact on disk, named by its content and reused: Keras reads weights from files only."""
    digest = artifact.manifest["members"].get(member, "")
    copy = data_folder() / "weights" / f"{digest[:16]}{''.join(Path(member).suffixes)}"
    if not (copy.is_file() and file_sha256(copy) == digest):
        write_file(copy, artifact.read(member))
    return copy


@contextlib.contextmanager
def complete(artifact: Artifact) -> Iterator[None]:
    """Whatever a model lacks that another version or hand has written, in one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SettingsError) as problem:
        reason = str(problem) if isinstance(problem, SettingsError) else f"{type(problem).__name__} {problem}"
        reason = reason.splitlines()[0]
        raise ArtifactError(f"{artifact.path} holds no whole model ({reason}): fit it again") from problem


def _plain(value: Any) -> Any:
    """Tensors as arrays, tuples as lists."""
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    return list(value) if isinstance(value, tuple) else value


# --- what an artifact may hold, as bytes ------------------------------------------------------------

TEXT = (".csv", ".json", ".html", ".xml")
SUFFIXES = (*TEXT, ".npz", ".safetensors", ".h5", ".png", ".jpg", ".jpeg")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed member dates: equal content gives equal bytes


def encode(name: str, content: Any) -> bytes:
    """Bytes of a member; its suffix decides how (see `save`).

    Raises:
        ArtifactError: the suffix is not allowed, or the content does not fit it.
    """
    if not name.endswith(SUFFIXES):
        raise ArtifactError(f"member {name}: an artifact holds only {', '.join(SUFFIXES)}")
    if isinstance(content, Path):
        try:
            return content.read_bytes()
        except OSError as problem:
            raise ArtifactError(f"member {name}: {content} cannot be read ({problem.strerror})") from problem
    if isinstance(content, bytes):
        return content
    if name.endswith(".csv"):
        return content.to_csv(index=False).encode()
    if name.endswith(".npz"):
        return npz_bytes(content)
    if name.endswith(".safetensors"):
        from safetensors.numpy import save as to_safetensors

        return to_safetensors({key: np.ascontiguousarray(array) for key, array in content.items()})
    if name.endswith(".json"):
        return json.dumps(content, indent=1).encode()
    raise ArtifactError(f"member {name}: give its bytes, not {type(content).__name__}")


def add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Append a member; text is compressed, the rest would not shrink."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED if name.endswith(TEXT) else zipfile.ZIP_STORED
    archive.writestr(info, data)


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
    removed by the next one on that host. An error of the body that is not about this file, such as another file that is
    missing, passes through as it is.

    Raises:
        ArtifactError: the disk is full, the folder is read-only or a file. What lay at `path` is left as it was.
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
            yield file
            with _writing(path):
                file.flush()
                os.fsync(file.fileno())
        except OSError as problem:
            if problem.filename is None and problem.errno in _NO_ROOM:
                raise _unwritable(path, problem) from problem
            raise
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
def _writing(path: Path) -> Iterator[None]:
    """What the file system can refuse, in one line."""
    try:
        yield
    except OSError as problem:
        raise _unwritable(path, problem) from problem


def _unwritable(path: Path, problem: OSError) -> ArtifactError:
    end = "; the old one is kept" if path.is_file() else ""
    return ArtifactError(
        f"{path} cannot be written ({problem.strerror or problem}): make room or choose another place{end}"
    )


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


# --- provenance


def versions() -> dict[str, str]:
    """Versions of python, the package and the libraries that shape numbers."""
    libraries = {"python": platform.python_version()}
    for name in ("mvtec-ad-notebooks", "numpy", "scipy", "scikit-learn", "torch", "torchvision", "tensorflow", "keras"):
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
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


def download(path: str | Path) -> None:
    """In Colab, offer the artifact to the browser; elsewhere say where it lies."""
    if "google.colab" in sys.modules:
        sys.modules["google.colab"].files.download(str(path))
    else:
        size = Path(path).stat().st_size / 1e6
        print(f"{Path(path).name}: {size:.1f} MB in {Path(path).parent.name}/")


def upload() -> list[Path]:
    """In Colab, ask for artifacts and put them into `transfer/`; elsewhere do nothing."""
    if "google.colab" not in sys.modules:
        return []
    received = sys.modules["google.colab"].files.upload()
    paths = []
    for name, content in received.items():
        target = transfer_folder() / PurePosixPath(name).name
        write_file(target, content)
        paths.append(target)
    return paths
