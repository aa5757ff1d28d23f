"""The trunk: a network's convolutional layers under its names. Every torch network of the suite is cut here."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from mvtec_ad.backbones import efficientnet_lite
from mvtec_ad.backbones.backbone import LITE, RESIDUAL, TORCH_TAPS, check_synthetic
from mvtec_ad.errors import WeightsError
from mvtec_ad.frameworks import import_torchvision


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generator as `seed` leaves it, for as long as the block lasts; afterwards it is where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def trunk(name: str) -> nn.Sequential:
    """A network's layers down to stride 16, with random weights from torch's generator.

    Stride 16, because defects are small and what lies deeper knows more of what things are. The layers stand in order
    under torchvision's names (`conv1` … `layer3`, or the numbers of `features`); those of EfficientNet-Lite are grouped
    as `layer1` to `layer3` too. Images standardised by torchvision's mean and deviation, (B, 3, H, W) -> (B, C, h, w).
    """
    if name in LITE:
        layers = efficientnet_lite.layers_of(name)
    else:
        network = import_torchvision().models.get_model(name, weights=None)
        layers = list((network if name in RESIDUAL else network.features).named_children())
    names = [layer for layer, _ in layers]
    return nn.Sequential(OrderedDict(layers[: names.index(TORCH_TAPS[name][-1]) + 1]))


def outputs(layers: nn.Sequential, images: torch.Tensor, at: tuple[str, ...]) -> list[torch.Tensor]:
    """What the layers named `at` give, shallow to deep."""
    given = []
    for name, layer in layers.named_children():
        images = layer(images)
        if name in at:
            given.append(images)
    return given


def load_trunk(layers: nn.Sequential, name: str, weights: str) -> str:
    """Fill a trunk with trained weights, in place; returns what they are called.

    `weights` are `imagenet` (EfficientNet-Lite's are installed, others downloaded once), `synthetic` (carried by the
    package) or the path of a state dict, which may have more layers than the trunk. Weights that cannot be had, read,
    or do not fit are a WeightsError.
    """
    state, description = state_of(name, weights)
    needed = layers.state_dict()
    names = {key: _name_in_file(name, key) for key in needed}
    shapes = {names[key]: tuple(tensor.shape) for key, tensor in needed.items() if "num_batches" not in key}
    check_state(state, shapes, name, description)
    given = {key: state.get(names[key]) for key in needed}  # counters of batches may be missing
    fitting = {key: tensor for key, tensor in given.items() if tensor is not None and tensor.shape == needed[key].shape}
    layers.load_state_dict(fitting, strict=False)
    return description


def _name_in_file(network: str, key: str) -> str:
    """What a state dict of the whole network calls a tensor of the trunk."""
    if network in LITE:
        return efficientnet_lite.timm_name(key)
    return key if network in RESIDUAL else f"features.{key}"


# --- weights ----------------------------------------------------------------------------------------------------------

# The enum that published anomaly-detection figures used; torchvision's DEFAULT is V2 for two of these networks.
IMAGENET_ENUM = "IMAGENET1K_V1"
PLAIN = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64)  # the last are counters


def state_of(name: str, weights: str) -> tuple[dict[str, torch.Tensor], str]:
    """A state dict and what to call it; arguments and errors as in `load_trunk`."""
    check_synthetic(name, weights)
    if weights == "synthetic":
        from mvtec_ad.backbones.synthetic_weights import load_synthetic

        return load_synthetic()
    if name in LITE:
        named = weights == "imagenet"
        path, description = efficientnet_lite.imagenet_file(name) if named else (Path(weights), describe(weights))
        return efficientnet_lite.to_timm(read_state(path)), description
    if weights != "imagenet":
        return read_state(Path(weights)), describe(weights)
    entry = import_torchvision().models.get_model_weights(name)[IMAGENET_ENUM]
    try:
        return entry.get_state_dict(progress=True, check_hash=True), IMAGENET_ENUM
    except (URLError, OSError, RuntimeError) as problem:
        raise WeightsError(unreachable(f"{name} {IMAGENET_ENUM} ({entry.url})", problem)) from problem


def check_state(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], name: str, description: str) -> None:
    """Refuse, with a WeightsError, a state dict that lacks what a network needs, or has no sound numbers there.

    It may have more, which nobody looks at.
    """
    missing = [key for key in shapes if key not in state]
    if missing:
        raise WeightsError(f"{description} lacks {len(missing)} tensors of {name}, first {missing[0]}: wrong network?")
    wrong = [key for key, shape in shapes.items() if tuple(state[key].shape) != tuple(shape)]
    if wrong:
        raise WeightsError(
            f"{description}: {wrong[0]} has shape {tuple(state[wrong[0]].shape)}, {name} needs "
            f"{tuple(shapes[wrong[0]])}: wrong network?"
        )
    for key in shapes:
        numbers, variance = state[key].float(), key.endswith("running_var")
        if not numbers.isfinite().all() or (variance and (numbers < 0).any()):
            raise WeightsError(f"{description}: {key} holds what no network can have: download the weights again")


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state dict on disk that hold plain real numbers; WeightsError where it is none.

    Other entries, such as the step of a training, are left out. No code of a pickle is run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old and odd formats
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                state = load_file(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise ValueError(f"it holds a {type(state).__name__}")
            return {key: tensor.detach() for key, tensor in state.items() if isinstance(key, str) and _plain(tensor)}
    except PermissionError as problem:
        way = "check the path and its permissions"
        raise WeightsError(f"weights {path} cannot be read ({problem.strerror}): {way}") from problem
    except Exception as problem:  # whatever pickles and the readers of two foreign formats can raise
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise WeightsError(f"weights {path} cannot be read as a state dict ({reason}): download it again") from problem


def _plain(value: Any) -> bool:
    """Whether a torch network can take it: a dense tensor of real numbers, none that is quantised or without data."""
    if not isinstance(value, torch.Tensor) or value.is_nested or value.layout != torch.strided:
        return False
    return value.device.type == "cpu" and value.dtype in PLAIN


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
