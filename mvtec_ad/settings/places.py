"""Places on disk."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The root that `data/` and `transfer/` lie under.

    `MVTEC_AD_HOME` where it is set, else the checkout that encloses the working folder, else the working folder.
    """
    if os.environ.get("MVTEC_AD_HOME"):
        return Path(os.environ["MVTEC_AD_HOME"]).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "mvtec_ad").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


def data_folder() -> Path:
    """Where images lie; made when missing."""
    folder = home() / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def transfer_folder() -> Path:
    """Where artifacts lie; made when missing."""
    folder = home() / "transfer"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
