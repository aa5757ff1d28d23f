"""Artifacts: the zipped results that stages hand to one another through `transfer/`.

A zip holds `manifest.json` beside tables (.csv), arrays (.npz), weights (.safetensors, .weights.h5), figures (.png) and
settings (.json). It is written under a temporary name and renamed, so a killed run leaves the old one whole; nothing
in it is a pickle; loading checks every member against its SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from mvtec_ad.errors import ArtifactError
from mvtec_ad.settings import transfer_folder

SCHEMA = 1
# What reading a damaged zip can raise: RuntimeError for a flag that claims encryption, NotImplementedError among them.
_DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError, RuntimeError)
MAKERS = {
    "data": "01_data_preparation",
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
SUFFIXES = (".csv", ".npz", ".safetensors", ".h5", ".png", ".json", ".html")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed member dates: equal content gives equal bytes


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
            ArtifactError: there is no such member.
        """
        if name not in self.manifest["members"]:
            raise ArtifactError(f"{self.path} has no member {name}: it holds {', '.join(self.names[:8])} …")
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)

    def table(self, name: str) -> pd.DataFrame:
        """A .csv member."""
        return pd.read_csv(io.BytesIO(self.read(name)), keep_default_na=False)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """A .npz or .safetensors member."""
        if name.endswith(".safetensors"):
            from safetensors.numpy import load

            return load(self.read(name))
        with np.load(io.BytesIO(self.read(name)), allow_pickle=False) as arrays:
            return dict(arrays)

    def json(self, name: str) -> Any:
        """A .json member."""
        return json.loads(self.read(name))

    def extract(self, folder: Path) -> None:
        """Unpack all members below `folder`; names were checked when the artifact was loaded."""
        with zipfile.ZipFile(self.path) as archive:
            archive.extractall(folder, self.names)

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
    path = Path(path) if path else transfer_folder() / f"{stage}.zip"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
        "device": _device(),
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "inputs": [{"name": item.path.name, "sha256": item.sha256} for item in inputs],
        "metrics": dict(metrics or {}),
        "members": {},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in members.items():
                    data = _encode(name, content)
                    manifest["members"][name] = hashlib.sha256(data).hexdigest()
                    _add(archive, name, data)
                _add(archive, "manifest.json", json.dumps(manifest, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        raise ArtifactError(
            f"{path} cannot be written: {problem.strerror or problem}; the old one is kept"
        ) from problem
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
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
    path = transfer_folder() / f"{stage}.zip" if str(stage) in MAKERS else Path(stage)
    if not path.is_file() and "google.colab" in sys.modules:
        print(f"{path.name} is not here yet: choose the one that an earlier notebook offered for download")
        upload()
    if not path.is_file():
        maker = MAKERS.get(path.stem)
        way = f"run notebooks/{maker}.ipynb, which makes it" if maker else "check the path"
        raise ArtifactError(f"artifact {path} is missing: {way}")
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read("manifest.json"))
            _check_manifest(path, manifest)
            _check_members(path, archive, manifest["members"])
    except _DAMAGE as problem:
        raise ArtifactError(f"artifact {path} is damaged ({problem}): make or copy it again") from problem
    for key, wanted in (("profile", profile), ("data_source", data_source)):
        if wanted is not None and manifest[key] != wanted:
            word = key.replace("_", " ")
            raise ArtifactError(
                f"artifact {path} was made with {word} {manifest[key]!r}, this run uses {wanted!r}: "
                f"make it again, or load it with {key}=None"
            )
    return Artifact(path, manifest)


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
        target.write_bytes(content)
        paths.append(target)
    return paths


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of python, the package and the libraries that shape numbers."""
    found = {"python": platform.python_version()}
    for name in ("mvtec-ad-notebooks", "numpy", "scipy", "scikit-learn", "torch", "torchvision", "tensorflow", "keras"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the checkout the package lies in, None outside of one."""
    folder = Path(__file__).parent
    try:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A .npz file; unlike numpy's own writer it carries no date, so equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            own = io.BytesIO()
            np.lib.format.write_array(own, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), own.getvalue())
    return buffer.getvalue()


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {os.cpu_count()} cores"


def _encode(name: str, content: Any) -> bytes:
    if not name.endswith(SUFFIXES):
        raise ArtifactError(f"member {name}: an artifact holds only {', '.join(SUFFIXES)}")
    if isinstance(content, Path):
        return content.read_bytes()
    if isinstance(content, bytes):
        return content
    if name.endswith(".csv"):
        return content.to_csv(index=False).encode()
    if name.endswith(".npz"):
        return npz_bytes(content)
    if name.endswith(".safetensors"):
        from safetensors.numpy import save as encode

        return encode({key: np.ascontiguousarray(array) for key, array in content.items()})
    if name.endswith(".json"):
        return json.dumps(content, indent=1).encode()
    raise ArtifactError(f"member {name}: give its bytes, not {type(content).__name__}")


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED if name.endswith((".csv", ".json", ".html")) else zipfile.ZIP_STORED
    archive.writestr(info, data)


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
        if hashlib.sha256(archive.read(name)).hexdigest() != digest:
            raise ArtifactError(f"artifact {path}: {name} does not match its SHA-256: make or copy it again")
