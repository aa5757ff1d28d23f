"""One shape for every feature extractor, the call that makes one from a name, and the weights that it may have."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import numpy as np

from mvtec_ad.artifacts import Artifact, weights_copy
from mvtec_ad.config import torch_device
from mvtec_ad.errors import ArtifactError, SettingsError, WeightsError
from mvtec_ad.frameworks import import_torchvision

if TYPE_CHECKING:
    import torch

# What torchvision's networks expect to be subtracted from, and divided out of, RGB from 0 to 1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_TAPS = {
    "resnet18": ("layer1", "layer2", "layer3"),
    "resnet50": ("layer1", "layer2", "layer3"),
    "wide_resnet50_2": ("layer1", "layer2", "layer3"),
    "efficientnet_b0": ("features.2", "features.3", "features.5"),
}
KERAS_TAPS = {
    "resnet18": ("layer1", "layer2", "layer3"),
    "resnet50": ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
    "efficientnet_b0": ("block2b_add", "block3b_add", "block5c_add"),
    "mobilenet": ("conv_pw_3_relu", "conv_pw_5_relu", "conv_pw_11_relu"),
}
BACKBONES = (*TORCHVISION_TAPS, *(f"keras:{name}" for name in KERAS_TAPS))
DRAWN = ("resnet18", "keras:resnet18")  # the networks that the carried weights fit


@dataclass(frozen=True)
class Backbone:
    """A frozen network, cut at three depths (strides 4, 8 and 16).

    Attributes:
        name: as given to `load_backbone`.
        weights: what was loaded, for people and manifests: a named enum, "random (seed 0)" or a file and its hash.
        raw: True where published PaDiM figures use the features as they are; False asks PaDiM for one scalar that
            brings them to that scale.
        forward: uint8 (B, H, W, 3) RGB -> list of float32 (B, h, w, C), shallow to deep.
        source: the `weights` argument it was loaded with.
        tensors: the same network for a loss: RGB (B, 3, H, W) float32 in [0, 1] -> layers (B, C, h, w), with
            gradients; None for Keras.
    """

    name: str
    weights: str
    raw: bool
    forward: Callable[[np.ndarray], list[torch.Tensor]]
    source: str = ""
    tensors: Callable[[torch.Tensor], list[torch.Tensor]] | None = None

    def __call__(self, images: np.ndarray) -> list[torch.Tensor]:
        """Features of a batch.

        Args:
            images: (B, H, W, 3) uint8, RGB.

        Returns:
            One float32 tensor (B, h, w, C) per layer, shallow to deep.

        Raises:
            SettingsError: the array has another shape or type.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise SettingsError(f"images must be (B, H, W, 3) uint8, not {images.shape} {images.dtype}")
        return self.forward(images)


def load_backbone(name: str, weights: str = "imagenet") -> Backbone:
    """Build a feature extractor.

    Args:
        name: one of `BACKBONES`; the prefix `keras:` chooses Keras, otherwise torchvision.
        weights: `imagenet` (downloaded once by the framework), `random` (seed 0, always the same), `drawn` (carried by
            the package, for `DRAWN` only), or the path of a local file: a torchvision state dict (.pth, .safetensors;
            also for `keras:resnet18`) or a Keras weights file (.h5).

    Raises:
        SettingsError: the name is unknown.
        WeightsError: the weights cannot be had or do not fit.
    """
    if name not in BACKBONES:
        raise SettingsError(f"backbone {name!r} is unknown: use one of {', '.join(BACKBONES)}")
    if weights == "drawn" and name not in DRAWN:
        raise WeightsError(
            f"{name} has no drawn weights, only {' and '.join(DRAWN)} have: use one of them, or --weights random"
        )
    if weights not in ("imagenet", "random", "drawn") and not Path(weights).is_file():
        raise WeightsError(
            f"weights {weights!r}: not a file; use imagenet, random, drawn or the path of a weights file"
        )
    if name.startswith("keras:"):
        from mvtec_ad.backbones.keras_networks import load

        return replace(load(name.removeprefix("keras:"), weights), source=weights)
    return replace(_load_torchvision(name, weights), source=weights)


def batch_size() -> int:
    """Images a forward pass. On a CPU four stay in its caches: measured 6.8 ms an image, 8.3 with 16, 10 with 32."""
    return 4 if torch_device() == "cpu" else 64


def kept_backbone(artifact: Artifact, description: Mapping[str, Any], source: str) -> Backbone:
    """The network that a model of an artifact stands on, from where it came from or from the artifact.

    Args:
        artifact: a checked artifact.
        description: of the model, with `backbone`, `weights` and `weights_member`.
        source: the `weights` argument that the network was loaded with.

    Raises:
        ArtifactError: the model stood on other carried weights than this package has.
        WeightsError: the weights cannot be had.
        KeyError: the description is none.
    """
    name, weights, member = (description[key] for key in ("backbone", "weights", "weights_member"))
    backbone = load_backbone(name, source if member is None else str(weights_copy(artifact, member)))
    if source == "drawn" and backbone.weights != weights:
        raise ArtifactError(
            f"{artifact.path} was fitted on {weights}, and this package carries {backbone.weights}: fit it again"
        )
    return backbone


# --- torchvision -----------------------------------------------------------------------------------------------------


def _load_torchvision(name: str, weights: str) -> Backbone:
    """A torchvision network, cut."""
    torchvision = import_torchvision()
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None).eval()
    extractor = create_feature_extractor(network, list(TORCHVISION_TAPS[name])).eval()
    description = "random (seed 0)"
    if weights != "random":
        state, description = state_of(name, weights)
        _fill(extractor, state, name, description)
    raw = weights not in ("random", "drawn")
    return as_backbone(lambda pixels: list(extractor(pixels).values()), extractor, name, description, raw)


def as_backbone(
    layers_of: Callable[[torch.Tensor], list[torch.Tensor]],
    network: torch.nn.Module,
    name: str,
    description: str,
    raw: bool = False,
) -> Backbone:
    """A torch network as a frozen feature extractor; the other arguments are `Backbone`'s.

    Args:
        layers_of: standardised images (B, 3, H, W) -> layers (B, C, h, w), shallow to deep.
        network: what `layers_of` runs; frozen and moved to the device here.
        name: of the architecture.
        description: of the weights.
        raw: whether PaDiM takes the features as they are.
    """
    import torch

    device = torch_device()
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=device).view(1, 3, 1, 1)

    def tensors(pixels: torch.Tensor) -> list[torch.Tensor]:
        return layers_of((pixels - mean) / deviation)

    @torch.inference_mode()
    def forward(images: np.ndarray) -> list[torch.Tensor]:
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # B×3×H×W, channels-last in memory
        return [layer.permute(0, 2, 3, 1) for layer in tensors(pixels.float() / 255)]  # B×h×w×C

    return Backbone(name, description, raw, forward, tensors=tensors)


def _fill(extractor: Any, state: dict[str, Any], name: str, description: str) -> None:
    """Load what the cut network needs; deeper layers and the classifier may be absent or present."""
    own = extractor.state_dict()
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    counters = {key for key in own if key.endswith("num_batches_tracked") and key not in state}
    check_state(state, {key: shape for key, shape in shapes.items() if key not in counters}, name, description)
    extractor.load_state_dict({key: state.get(key, own[key]) for key in own})


# --- weights ----------------------------------------------------------------------------------------------------------

# The enum that published anomaly-detection figures used; torchvision's DEFAULT is V2 for two of these networks.
IMAGENET_ENUM = "IMAGENET1K_V1"


def state_of(name: str, weights: str) -> tuple[dict[str, torch.Tensor], str]:
    """A state dict and what to call it.

    Args:
        name: torchvision's name of the network.
        weights: `imagenet`, `drawn` or the path of a local file.

    Raises:
        WeightsError: the weights cannot be had or read.
    """
    if weights == "drawn":
        from mvtec_ad.backbones.carried import load_drawn

        return load_drawn()
    if weights != "imagenet":
        return _read(Path(weights)), describe(weights)
    entry = import_torchvision().models.get_model_weights(name)[IMAGENET_ENUM]
    try:
        return entry.get_state_dict(progress=True, check_hash=True), IMAGENET_ENUM
    except (URLError, OSError, RuntimeError) as problem:
        raise WeightsError(unreachable(f"{name} {IMAGENET_ENUM} ({entry.url})", problem)) from problem


def check_state(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], name: str, description: str) -> None:
    """Whether a state dict has what a network needs; it may have more.

    Raises:
        WeightsError: a tensor is missing or has another shape.
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


def _read(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        return state
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError, OSError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise WeightsError(f"weights {path} cannot be read as a state dict ({reason}): download it again") from problem
    except Exception as problem:  # safetensors raises its own type, which has no public base
        if type(problem).__module__.startswith("safetensors"):
            raise WeightsError(f"weights {path} are damaged ({problem}): download them again") from problem
        raise


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
