"""What a number was made with: versions, commit, device."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path


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
