"""The ResNet-18 that the package carries, trained on drawn images: `--weights drawn`.

The weights lie in half precision under torchvision's names (conv1 to layer3), with a card beside them that says how
they were made and holds their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvtec_ad.artifacts import atomic_write
from mvtec_ad.errors import WeightsError

if TYPE_CHECKING:
    import torch

CARRIED = Path(__file__).with_name("weights") / "resnet18_drawn.safetensors"
COMPARISON = CARRIED.with_name("objectives.json")
KEPT = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")
WAY_OUT = "reinstall the package or run `make backbone`"


def save_drawn(state: dict[str, torch.Tensor], card: dict[str, Any]) -> Path:
    """Write the carried weights and their card, each whole or not at all.

    Args:
        state: of a torchvision ResNet-18; deeper layers and the classifier are left out.
        card: how the weights were made; `sha256` is added.

    Returns:
        The weights file; the card has its name with the ending `.json`.

    Raises:
        WeightsError: a value is not finite in half precision.
        ArtifactError: the folder cannot be written.
    """
    from safetensors.torch import save

    half = {
        name: own.detach().cpu().half().contiguous()
        for name, own in state.items()
        if name.startswith(KEPT) and not name.endswith("num_batches_tracked")
    }
    infinite = [name for name, own in half.items() if not own.isfinite().all()]
    if infinite:
        raise WeightsError(f"{infinite[0]} holds values that are not finite in half precision: train again")
    data = save(half)
    card = {**card, "sha256": hashlib.sha256(data).hexdigest()}
    with atomic_write(CARRIED) as weights_file, atomic_write(CARRIED.with_suffix(".json")) as card_file:
        weights_file.write(data)
        card_file.write((json.dumps(card, indent=1) + "\n").encode())
    return CARRIED


def load_drawn() -> tuple[dict[str, torch.Tensor], str]:
    """The carried state dict in float32, and what the weights are called.

    Raises:
        WeightsError: the file or its card is missing, or they do not belong together.
    """
    data = _bytes(CARRIED)
    digest = hashlib.sha256(data).hexdigest()
    if drawn_card()["sha256"] != digest:
        raise WeightsError(f"{CARRIED} is damaged: {WAY_OUT}")
    from safetensors.torch import load

    return {name: own.float() for name, own in load(data).items()}, f"drawn (SHA-256 {digest[:12]}…)"


def drawn_card() -> dict[str, Any]:
    """What is written about the carried weights.

    Raises:
        WeightsError: the card is missing or damaged.
    """
    path = CARRIED.with_suffix(".json")
    try:
        card = json.loads(_bytes(path))
        card["sha256"]
    except (ValueError, TypeError, KeyError) as problem:
        raise WeightsError(f"{path} is damaged: {WAY_OUT}") from problem
    return card


def save_comparison(found: dict[str, Any]) -> Path:
    """Write what each objective gave at equal cost, beside the weights."""
    with atomic_write(COMPARISON) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())
    return COMPARISON


def comparison() -> dict[str, Any]:
    """What `save_comparison` wrote: settings, and for each objective its CPU seconds and results.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        return json.loads(_bytes(COMPARISON))
    except ValueError as problem:
        raise WeightsError(f"{COMPARISON} is damaged: {WAY_OUT}") from problem


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as problem:
        raise WeightsError(f"{path} is missing: {WAY_OUT}") from problem
    except OSError as problem:
        raise WeightsError(f"{path} cannot be read ({problem.strerror}): {WAY_OUT}") from problem
