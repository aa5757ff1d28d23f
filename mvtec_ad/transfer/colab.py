"""In Colab every notebook has a machine of its own: artifacts travel through the browser."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

from mvtec_ad.settings import transfer_folder
from mvtec_ad.transfer.files import replacing


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
        with replacing(target) as file:
            file.write(content)
        paths.append(target)
    return paths
