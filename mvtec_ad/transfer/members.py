"""What an artifact may hold, as bytes."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mvtec_ad.errors import ArtifactError

TEXT = (".csv", ".json", ".html", ".xml")
SUFFIXES = (*TEXT, ".npz", ".safetensors", ".h5", ".png", ".jpg", ".jpeg")
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
            own = io.BytesIO()
            np.lib.format.write_array(own, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), own.getvalue())
    return buffer.getvalue()
