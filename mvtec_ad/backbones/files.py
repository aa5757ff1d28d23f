"""What both frameworks need to know about weights files."""

from __future__ import annotations

import hashlib
from pathlib import Path


def describe(path: str | Path) -> str:
    """Name and the first 12 digits of the SHA-256 of a weights file."""
    path = Path(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{path.name} (SHA-256 {digest[:12]}…)"


def unreachable(what: str, problem: object) -> str:
    """The message for a download that failed."""
    return (
        f"{what} could not be downloaded ({problem}): download it elsewhere and give its path with --weights PATH, "
        "or use --weights random"
    )


def packed_weights(weights: str) -> dict[str, bytes]:
    """A local weights file as a member for an artifact: `backbone/FILE` -> bytes; empty for named weights.

    A torch state dict is a pickle, so it travels as safetensors.
    """
    path = Path(weights)
    if weights in ("imagenet", "random", "drawn"):
        return {}
    if path.suffix in (".h5", ".safetensors"):
        return {f"backbone/{path.name}": path.read_bytes()}
    import torch
    from safetensors.torch import save

    state = torch.load(path, map_location="cpu", weights_only=True)
    return {f"backbone/{path.stem}.safetensors": save({name: own.contiguous() for name, own in state.items()})}
