"""Save, load and check the zips in `transfer/`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import lzma
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad.errors import ArtifactError
from mvtec_ad.settings import transfer_folder
from mvtec_ad.transfer.colab import upload
from mvtec_ad.transfer.files import file_sha256, replacing
from mvtec_ad.transfer.members import SUFFIXES, add, encode
from mvtec_ad.transfer.provenance import device, git_commit, versions

SCHEMA = 1
# What reading a damaged zip can raise: RuntimeError for a flag that claims encryption, NotImplementedError among them.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, KeyError, ValueError, EOFError, OSError, RuntimeError)
MAKERS = {
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
    members: Mapping[str, Any],
    *,
    profile: str,
    data_source: str,
    categories: Sequence[str],
    settings: Mapping[str, Any],
    seed: int | Sequence[int],
    metrics: Mapping[str, Any] | None = None,
    inputs: Sequence[Artifact] = (),
    path: str | Path | None = None,
) -> Path:
    """Write an artifact.

    Args:
        stage: a key of `MAKERS`, or a method's name for a model fitted on the command line.
        members: name -> content. The suffix decides: .csv a DataFrame; .npz and .safetensors a dict of arrays;
            .json plain data; the others bytes; any of them may also be a Path to copy.
        profile: `quick`, `full` or `custom`.
        data_source: `mvtec_ad`, `rendered` or `own`.
        categories: products it covers.
        settings: of the stage, plain data.
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
    path = Path(path) if path else _place(stage)
    manifest = {
        "schema": SCHEMA,
        "stage": stage,
        "profile": profile,
        "data_source": data_source,
        "categories": list(categories),
        "settings": dict(settings),
        "seed": seed if isinstance(seed, int) else list(seed),
        "versions": versions(),
        "git_commit": git_commit(),
        "device": device(),
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "inputs": [{"name": item.path.name, "sha256": item.sha256} for item in inputs],
        "metrics": dict(metrics or {}),
        "members": {},
    }
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
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
        stage: a key of `MAKERS` (then `transfer/STAGE.zip`), or the path of a zip.
        profile: refuse an artifact of another profile; None accepts any.
        data_source: refuse an artifact from other data; None accepts any.

    Raises:
        ArtifactError: missing, damaged, tampered with, of a newer schema, with a member that leaves the folder or may
            hold code, or of another profile or data source than asked for.
    """
    path = _place(str(stage)) if str(stage) in MAKERS else Path(stage)
    if not path.is_file() and "google.colab" in sys.modules:
        print(f"{path.name} is not here yet: choose the one that an earlier notebook offered for download")
        upload()
    if not path.is_file():
        maker = MAKERS.get(path.stem)
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
    if (
        not isinstance(manifest, dict)
        or not isinstance(manifest.get("schema"), int)
        or not isinstance(manifest.get("members"), dict)
        or not {"profile", "data_source"} <= set(manifest)
    ):
        raise ArtifactError(f"artifact {path}: manifest.json is none of ours: make it again")
    if manifest["schema"] > SCHEMA:
        raise ArtifactError(
            f"artifact {path} has schema {manifest['schema']}, this package reads up to {SCHEMA}: update the package"
        )


def _check_members(path: Path, archive: zipfile.ZipFile, expected: dict[str, str]) -> None:
    found = [name for name in archive.namelist() if name != "manifest.json"]
    for name in found:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
            raise ArtifactError(f"artifact {path}: member {name!r} leaves the folder: do not trust this file")
        if not name.endswith(SUFFIXES):
            raise ArtifactError(f"artifact {path}: member {name!r} may hold code: do not trust this file")
    if set(found) != set(expected) or len(found) != len(expected):
        odd = sorted(set(found) ^ set(expected)) or ["a repeated name"]
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


def _place(stage: str) -> Path:
    """Where an artifact lies that has no path of its own."""
    try:
        return transfer_folder() / f"{stage}.zip"
    except OSError as problem:
        raise ArtifactError(
            f"the folder {problem.filename} cannot be made: {problem.strerror}; set MVTEC_AD_HOME to a folder of yours"
        ) from problem
