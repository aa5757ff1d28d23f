"""The trunk: a torchvision network's convolutional layers under its names. Every network of the suite is cut here."""

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
import torch.nn.functional as F
from torch import nn

from mvtec_ad.errors import WeightsError
from mvtec_ad.frameworks import import_torchvision

RESIDUAL = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generator as `seed` leaves it, for as long as the block lasts; afterwards it is where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def trunk(name: str, until: str | None = None) -> nn.Sequential:
    """A network of torchvision without its classifier, or up to a layer, with random weights from torch's generator.

    Its layers stand in order under torchvision's names (`conv1` … `layer4`, or the numbers of `features`):
    standardised (B, 3, H, W) -> (B, C, h, w).
    """
    network = import_torchvision().models.get_model(name, weights=None)
    if "resnet" in name:
        layers = [(layer, getattr(network, layer)) for layer in RESIDUAL]
    else:
        layers = list(network.features.named_children())
    names = [layer for layer, _ in layers]
    return nn.Sequential(OrderedDict(layers[: None if until is None else names.index(until) + 1]))


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

    Where the weights of a residual network end before its `layer4`, the trunk gets another one: `add_last_block`.
    `weights` are `imagenet` (downloaded once), `synthetic` (carried by the package) or the path of a state dict, which
    may have more layers than the trunk. Weights that cannot be had, read, or do not fit are a WeightsError.
    """
    state, description = state_of(name, weights)
    prefix = "" if "resnet" in name else "features."
    new_block = not prefix and hasattr(layers, "layer4") and not any(key.startswith("layer4.") for key in state)
    if new_block:
        add_last_block(layers)
        description += ", layer4 new"
    new = ("layer4.",) if new_block else ()
    needed = {key: tensor for key, tensor in layers.state_dict().items() if not key.startswith(new)}
    shapes = {f"{prefix}{key}": tuple(tensor.shape) for key, tensor in needed.items() if "num_batches" not in key}
    check_state(state, shapes, name, description)
    given = {key: state.get(f"{prefix}{key}") for key in needed}  # counters of batches may be missing
    fitting = {key: tensor for key, tensor in given.items() if tensor is not None and tensor.shape == needed[key].shape}
    layers.load_state_dict(fitting, strict=False)
    return description


def add_last_block(layers: nn.Sequential) -> None:
    """Turn `layer4` into one that at first only passes on what reaches it, averaged over 2 × 2 cells.

    For weights that end before it: a random block would bury the trained features under it. So its shortcut averages
    (He et al. 2019, arXiv:1812.01187, ResNet-D) and copies channels, and its branches begin at zero (Goyal et al.
    2017, arXiv:1706.02677, section 5.1).
    """
    convolution = layers.layer4[0].downsample[0]
    copy = nn.Conv2d(convolution.in_channels, convolution.out_channels, 1, bias=False)
    with torch.no_grad():
        source = torch.arange(convolution.out_channels) % convolution.in_channels
        copy.weight.copy_(F.one_hot(source, convolution.in_channels)[:, :, None, None].float())
        for block in layers.layer4:
            (block.bn3 if hasattr(block, "bn3") else block.bn2).weight.zero_()
    average = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
    layers.layer4[0].downsample = nn.Sequential(average, copy, layers.layer4[0].downsample[1])


# --- weights ----------------------------------------------------------------------------------------------------------

# The enum that published anomaly-detection figures used; torchvision's DEFAULT is V2 for two of these networks.
IMAGENET_ENUM = "IMAGENET1K_V1"
PLAIN = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64)  # the last are counters


def state_of(name: str, weights: str) -> tuple[dict[str, torch.Tensor], str]:
    """A state dict and what to call it; arguments and errors as in `load_trunk`."""
    if weights == "synthetic":
        from mvtec_ad.backbones.synthetic_weights import load_synthetic

        return load_synthetic()
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
