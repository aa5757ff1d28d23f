"""Benchmarks of many stages: each is kept in a file of its own when it is done, and not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvtec_ad import artifacts


def stage(folder: Path, name: str, task: Callable[[list[Path]], dict[str, Any]]) -> None:
    """Do what is not done yet; CPU minutes are those of the run that finished it.

    Args:
        folder: of the files; made where missing.
        name: of the stage and its file.
        task: gets an empty list, which it fills with the checkpoints that are to be removed when it is done; returns
            plain JSON data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    if path.is_file():
        return
    print(f"{name} …", flush=True)
    kept: list[Path] = []
    begun = time.process_time()
    result = task(kept)
    result |= {"cpu_minutes": (time.process_time() - begun) / 60, "git_commit": artifacts.git_commit()}
    with artifacts.atomic_write(path) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())
    for checkpoint in kept:
        checkpoint.unlink(missing_ok=True)


def stages(folder: Path) -> dict[str, Any]:
    """All finished stages by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
