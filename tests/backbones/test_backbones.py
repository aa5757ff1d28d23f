"""Every network behind the one call: shapes, weights from everywhere, and errors in words."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from mvtec_ad.backbones import BACKBONES, Backbone, load_backbone
from mvtec_ad.errors import SettingsError, WeightsError

# torch complains about the driver's absence when TensorFlow looked for one first.
pytestmark = pytest.mark.filterwarnings("ignore:CUDA initialization:UserWarning")

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
# name: (channels of the three layers, side of the first at 64 px)
TORCH = {
    "efficientnet_lite0": (24, 40, 112),
    "efficientnet_lite1": (24, 40, 112),
    "efficientnet_lite2": (24, 48, 120),
    "resnet18": (64, 128, 256),
    "resnet50": (256, 512, 1024),
    "wide_resnet50_2": (256, 512, 1024),
    "efficientnet_b0": (24, 40, 112),
    "mobilenet_v3_large": (24, 40, 112),
}
KERAS = {
    **{f"keras:{name}": channels for name, channels in TORCH.items() if "lite" in name},
    "keras:resnet18": (64, 128, 256),
    "keras:mobilenet": (128, 256, 512),
    "keras:resnet50": (256, 512, 1024),
    "keras:efficientnet_b0": (24, 40, 112),
}


def features(backbone: Backbone, images: np.ndarray = IMAGES) -> list[np.ndarray]:
    """All layers as numpy arrays."""
    return [layer.cpu().numpy() for layer in backbone(images)]


def assert_equal_layers(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    """Bitwise."""
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def resnet18() -> Backbone:
    """ResNet-18 with random weights."""
    return load_backbone("resnet18", "random")


@pytest.fixture(scope="module")
def mobilenet() -> Backbone:
    """Keras MobileNet with random weights."""
    return load_backbone("keras:mobilenet", "random")


def test_every_backbone_is_tested() -> None:
    """A new one takes its line in the tables above."""
    assert {*TORCH, *KERAS} == set(BACKBONES)


@pytest.mark.parametrize(("name", "channels"), [*TORCH.items(), *KERAS.items()])
def test_strides_and_channels(name: str, channels: tuple[int, int, int]) -> None:
    """Three layers of strides 4, 8 and 16, float32, finite, not dead."""
    backbone = load_backbone(name, "random")
    layers = features(backbone)
    assert [layer.shape for layer in layers] == [
        (2, 64 // s, 64 // s, c) for s, c in zip((4, 8, 16), channels, strict=True)
    ]
    for layer in layers:
        assert layer.dtype == np.float32
        assert np.isfinite(layer).all()
        assert layer.std() > (1e-3 if "resnet" in name or "keras" in name else 0)  # other initialisations fade
    assert (backbone.name, backbone.weights, backbone.raw) == (name, "random (seed 0)", False)


def test_layers_equal_torchvision_s_own(resnet18: Backbone) -> None:
    """Step by step through the network, with the normalisation of ImageNet written out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None).eval()
    pixels = (IMAGES / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    with torch.no_grad():
        x = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        for layer, found in zip((network.layer1, network.layer2, network.layer3), features(resnet18), strict=True):
            x = layer(x)
            np.testing.assert_allclose(found, x.numpy().transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-4)


def test_an_image_does_not_see_its_batch(resnet18: Backbone, mobilenet: Backbone) -> None:
    """Frozen statistics: alone or beside others, the same features."""
    for backbone in (resnet18, mobilenet):
        for alone, both in zip(features(backbone, IMAGES[:1]), features(backbone), strict=True):
            np.testing.assert_allclose(alone[0], both[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "keras:mobilenet"])
def test_random_weights_are_always_the_same_and_leave_no_trace(name: str, request: pytest.FixtureRequest) -> None:
    """Whatever the process drew before; and what it draws next is as if nothing had been loaded."""
    first = request.getfixturevalue(name.removeprefix("keras:"))
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert_equal_layers(features(load_backbone(name, "random")), features(first))
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert random.getstate() == states[0]


@pytest.mark.parametrize(
    "images",
    [IMAGES.astype(np.float32), IMAGES[0], IMAGES[..., :1], IMAGES.transpose(0, 3, 1, 2), IMAGES.astype(np.int64)],
    ids=["float", "one image", "gray", "channels first", "int64"],
)
def test_other_arrays_are_refused(images: np.ndarray, resnet18: Backbone) -> None:
    """The shape and type that it got are named."""
    with pytest.raises(SettingsError, match=r"must be \(B, H, W, 3\) uint8, not .*" + str(images.dtype)):
        resnet18(images)


@pytest.mark.parametrize("name", ["resnet19", "keras:resnet34", "mobilenet", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    """With the names that there are; weights that are not there before any framework is asked."""
    with pytest.raises(SettingsError, match=f"backbone '{name}' is unknown: use one of .*resnet18.*keras:mobilenet"):
        load_backbone(name, "random")
    with pytest.raises(WeightsError, match=r"'nowhere\.pth': not a file"):
        load_backbone("resnet18", "nowhere.pth")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A whole torchvision state dict, classifier included, of another seed than the random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torchvision.models.resnet18(weights=None).state_dict()


def test_local_files_of_both_kinds_give_equal_features(
    tmp_path: Path, state: dict[str, torch.Tensor], resnet18: Backbone
) -> None:
    """A .pth, the same as .safetensors, and one that was cut after layer3."""
    torch.save(state, tmp_path / "whole.pth")
    save_file(state, tmp_path / "whole.safetensors")
    torch.save(
        {key: value for key, value in state.items() if not key.startswith(("layer4", "fc"))}, tmp_path / "cut.pth"
    )
    first, *others = [
        load_backbone("resnet18", str(tmp_path / n)) for n in ("whole.pth", "whole.safetensors", "cut.pth")
    ]
    for other in others:
        assert_equal_layers(features(first), features(other))
    assert np.abs(features(first)[0] - features(resnet18)[0]).max() > 0.01
    assert first.weights.startswith("whole.pth (SHA-256 ")
    assert first.raw


def saved(value: Callable[[dict[str, torch.Tensor]], Any], end: int | None = None) -> Callable[..., None]:
    """Writes what torch makes of a changed state dict, up to a byte."""

    def write(state: dict[str, torch.Tensor], path: Path) -> None:
        (save_file if path.suffix == ".safetensors" else torch.save)(value(state), path)
        path.write_bytes(path.read_bytes()[:end])

    return write


def odd(state: dict[str, torch.Tensor], key: str, value: float) -> dict[str, torch.Tensor]:
    """The same with one tensor full of a value."""
    return {**state, key: torch.full_like(state[key], value)}


def text(state: dict[str, torch.Tensor], path: Path) -> None:
    path.write_text("<html>404</html>")


BROKEN: dict[str, tuple[Callable[..., None], str]] = {  # file -> how it is made, words
    "lacking.pth": (
        saved(lambda state: {key: value for key, value in state.items() if key != "layer2.0.conv1.weight"}),
        "lacks 1 tensors of resnet18, first layer2.0.conv1.weight",
    ),
    "shape.pth": (
        saved(lambda state: {**state, "layer1.0.conv1.weight": torch.zeros(8, 64, 3, 3)}),
        r"layer1.0.conv1.weight has shape \(8, 64, 3, 3\), resnet18 needs \(64, 64, 3, 3\)",
    ),
    "variance.safetensors": (
        saved(lambda state: {**state, "layer1.0.bn1.running_var": torch.ones(3)}),
        r"running_var has shape \(3,\), resnet18 needs \(64,\)",
    ),
    "keras.safetensors": (
        saved(lambda state: {**state, "conv1.weight": torch.ones(64, 7, 7, 3)}),
        r"conv1.weight has shape .*, resnet18 needs \(64, 3, 7, 7\)",
    ),
    "prefix.pth": (saved(lambda state: {"state_dict": state}), "lacks .* tensors of resnet18, first conv1.weight"),
    "kind.pth": (saved(lambda _: torch.zeros(3)), "kind.pth"),
    "half.pth": (saved(lambda state: state, 100_000), "half.pth cannot be read as a state dict"),
    "empty.pth": (saved(lambda state: state, 0), "empty.pth cannot be read as a state dict"),
    "text.pth": (text, "text.pth cannot be read as a state dict"),
    "code.pth": (saved(lambda _: {"weights": Path("needs code")}), "code.pth cannot be read as a state dict"),
    "nan.pth": (saved(lambda state: odd(state, "bn1.weight", float("nan"))), "bn1.weight holds what no network can"),
    "variance.pth": (saved(lambda state: odd(state, "bn1.running_var", -1.0)), "bn1.running_var holds what no network"),
    "huge.pth": (saved(lambda state: odd(state, "bn1.weight", 3e38)), "huge.pth make features of .* no numbers"),
    "meta.pth": (saved(lambda state: {k: v.to("meta") for k, v in state.items()}), "lacks .* tensors of resnet18"),
    "texts.pth": (
        saved(lambda state: {**state, "bn1.weight": "text"}),
        "lacks 1 tensors of resnet18, first bn1",
    ),
    "half.safetensors": (saved(lambda state: state, 100_000), "half.safetensors cannot be read as a state dict"),
    "text.safetensors": (text, "text.safetensors cannot be read as a state dict"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, state: dict[str, torch.Tensor], name: str) -> None:
    """One line that names the file, and the tensor where there is one: in both frameworks, in the file's shapes."""
    BROKEN[name][0](state, tmp_path / name)
    for backbone in ("resnet18", "keras:resnet18"):
        with pytest.raises(WeightsError, match=BROKEN[name][1]):
            load_backbone(backbone, str(tmp_path / name))


def unreachable(*arguments: Any, **options: Any) -> None:
    """Any download, without a network."""
    raise URLError("Name or service not known")


@pytest.mark.filterwarnings("ignore:.input_shape. is undefined:UserWarning")
def test_an_unreachable_hub_says_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which file it was, and what to do without it: the same sentence for both frameworks."""
    from keras.src.utils import file_utils

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(file_utils, "get_file", unreachable)
    for name, file in (("resnet18", "resnet18 IMAGENET1K_V1"), ("keras:mobilenet", "Keras mobilenet ImageNet")):
        with pytest.raises(WeightsError, match=rf"{file}.*not known.*--weights PATH.*--weights random"):
            load_backbone(name, "imagenet")


def test_published_weights_are_named(monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> None:
    """V1, which published figures used, not torchvision's DEFAULT; such features stay raw."""
    asked = []

    def hand_over(entry: Any, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        asked.append(str(entry))
        return state

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", hand_over)
    backbone = load_backbone("resnet18", "imagenet")
    assert asked == ["ResNet18_Weights.IMAGENET1K_V1"]
    assert (backbone.weights, backbone.raw) == ("IMAGENET1K_V1", True)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_a_keras_file_comes_back(tmp_path: Path, mobilenet: Backbone) -> None:
    """Saved weights give their own features; a file of another network or a damaged one is refused."""
    import keras

    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(None, None, 3))
    path = tmp_path / "own.weights.h5"
    network.save_weights(path)
    backbone = load_backbone("keras:mobilenet", str(path))
    pixels = keras.applications.mobilenet.preprocess_input(IMAGES.astype(np.float32))
    expected = keras.Model(network.input, network.get_layer("conv_pw_3_relu").output).predict(pixels, verbose=0)
    np.testing.assert_allclose(features(backbone)[0], expected, rtol=1e-3, atol=1e-4)
    assert backbone.weights.startswith("own.weights.h5 (SHA-256 ")
    with pytest.raises(WeightsError, match="do not fit Keras efficientnet_b0"):
        load_backbone("keras:efficientnet_b0", str(path))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="do not fit Keras mobilenet"):
        load_backbone("keras:mobilenet", str(path))


@pytest.mark.parametrize(
    ("name", "file"),
    [("resnet18", "resnet18_in1k_to_layer3.pth"), ("keras:mobilenet", "mobilenet_v1_no_top.weights.h5")],
)
def test_trained_weights_load(name: str, file: str, shared: Callable[[str], Path]) -> None:
    """Real ImageNet weights; other features than the random ones."""
    backbone = load_backbone(name, str(shared(f"weights/{file}")))
    assert backbone.weights.startswith(f"{file} (SHA-256 ")
    for trained, drawn in zip(features(backbone), features(load_backbone(name, "random")), strict=True):
        assert np.isfinite(trained).all()
        assert trained.std() > 0.01
        assert np.abs(trained - drawn).max() > 0.1
