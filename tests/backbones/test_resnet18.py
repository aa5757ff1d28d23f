"""ResNet-18 in torchvision and in Keras: the same features from one file; and the weights the package carries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from mvtec_ad.backbones import load_backbone, synthetic_weights
from mvtec_ad.backbones.backbone import packed_weights
from mvtec_ad.backbones.synthetic_weights import load_synthetic
from mvtec_ad.errors import WeightsError
from mvtec_ad.methods.pretraining import save_synthetic

# torch complains about the driver's absence when TensorFlow looked for one first.
pytestmark = pytest.mark.filterwarnings("ignore:CUDA initialization:UserWarning")

BOTH = ("resnet18", "keras:resnet18")


@pytest.fixture(scope="module", autouse=True)
def full_precision() -> Iterator[None]:
    """On a GPU both frameworks round convolutions to 10 bits unless they are told not to."""
    import tensorflow as tf

    switch = tf.config.experimental
    before = torch.backends.cudnn.allow_tf32, switch.tensor_float_32_execution_enabled()
    torch.backends.cudnn.allow_tf32 = False
    switch.enable_tensor_float_32_execution(False)
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    switch.enable_tensor_float_32_execution(before[1])


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A whole torchvision state dict in which no two tensors can be confused, batch norm's included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        own = torchvision.models.resnet18(weights=None).state_dict()
        for name, tensor in own.items():
            if name.endswith("running_mean") or (tensor.ndim == 1 and name.endswith("bias")):
                tensor.normal_(0, 0.2)
            elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
    return own


def pictures(size: int) -> np.ndarray:
    """Two images of noise."""
    return np.random.default_rng(size).integers(0, 256, (2, size, size, 3), np.uint8)


def assert_both_agree(weights: str, sizes: tuple[int, ...] = (64,)) -> None:
    """To 1e-4 of the largest feature of a layer."""
    one, other = (load_backbone(name, weights) for name in BOTH)
    assert (one.weights, one.raw, one.source) == (other.weights, other.raw, other.source)
    for size in sizes:
        for left, right in zip(one(pictures(size)), other(pictures(size)), strict=True):
            assert left.shape == right.shape
            assert float((left - right).abs().max() / left.abs().max()) < 1e-4


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_both_frameworks_agree_on_one_file(tmp_path: Path, state: dict[str, torch.Tensor], ending: str) -> None:
    """At an even and at an odd size, where padding would show."""
    path = tmp_path / f"own{ending}"
    if ending == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    assert_both_agree(str(path), (64, 97))
    assert load_backbone("keras:resnet18", str(path)).raw


def test_both_frameworks_agree_on_imagenet_weights(shared: Callable[[str], Path]) -> None:
    """The same with weights that were learnt."""
    assert_both_agree(str(shared("weights/resnet18_in1k_to_layer3.pth")), (96, 97))


def test_published_weights_reach_keras(monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> None:
    """`imagenet` is torchvision's file for both."""
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    assert_both_agree("imagenet")


def test_a_torch_file_travels_as_safetensors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """For Keras too: a pickle stays at home."""
    torch.save(state, tmp_path / "own.pth")
    (member,) = packed_weights(str(tmp_path / "own.pth")).items()
    assert member[0] == "backbone/own.safetensors"
    (tmp_path / "copy.safetensors").write_bytes(member[1])
    for name in BOTH:
        one, other = (load_backbone(name, str(tmp_path / file)) for file in ("own.pth", "copy.safetensors"))
        assert all(map(torch.equal, one(pictures(64)), other(pictures(64))))


@pytest.fixture
def synthetic_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> Path:
    """Synthetic weights of our own."""
    monkeypatch.setattr(synthetic_weights, "SYNTHETIC", tmp_path / "weights" / "resnet18_synthetic.safetensors")
    return save_synthetic(state, {"made_by": "a test"})


def test_synthetic_weights_come_back(synthetic_file: Path, state: dict[str, torch.Tensor]) -> None:
    """In half precision, under the same names, without what the cut network does not use."""
    found, name = load_synthetic()
    for key, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[key].half().float())
    used = [key for key in state if not key.startswith(("layer4", "fc")) and "num_batches" not in key]
    assert sorted(found) == sorted(used)
    assert {tensor.dtype for tensor in load_file(synthetic_file).values()} == {torch.float16}
    card = json.loads(synthetic_file.with_suffix(".json").read_text())
    assert card["made_by"] == "a test"
    assert name == f"synthetic (SHA-256 {card['sha256'][:12]}…)"
    assert len(list(synthetic_file.parent.iterdir())) == 2


@pytest.mark.usefixtures("synthetic_file")
def test_both_frameworks_agree_on_synthetic_weights() -> None:
    """Such a network is nobody's published one: PaDiM brings its features to scale."""
    assert_both_agree("synthetic", (64, 97))
    assert not load_backbone("resnet18", "synthetic").raw
    assert packed_weights("synthetic") == {}


CARD = ".json"
HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered": (lambda path: path.write_bytes(path.read_bytes()[:-1000] + bytes(1000)), "safetensors is damaged"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:100_000]), "safetensors is damaged"),
    "missing": (Path.unlink, "safetensors is missing"),
    "without card": (lambda path: path.with_suffix(CARD).unlink(), "json is missing"),
    "empty card": (lambda path: path.with_suffix(CARD).write_text(""), "json is damaged"),
    "other card": (lambda path: path.with_suffix(CARD).write_text("[]"), "json is damaged"),
}


@pytest.mark.parametrize("backbone", BOTH)
@pytest.mark.parametrize("harm", HARM)
def test_damaged_synthetic_weights_are_refused(synthetic_file: Path, harm: str, backbone: str) -> None:
    """One line with both ways out."""
    HARM[harm][0](synthetic_file)
    words = f"resnet18_synthetic.{HARM[harm][1]}: reinstall the package or run `make backbone`$"
    with pytest.raises(WeightsError, match=words):
        load_backbone(backbone, "synthetic")


def test_weights_beyond_half_precision_are_not_written(synthetic_file: Path, state: dict[str, torch.Tensor]) -> None:
    """What was there stays."""
    before = synthetic_file.read_bytes()
    with pytest.raises(WeightsError, match=r"bn1\.running_var holds values that are not finite"):
        save_synthetic({**state, "bn1.running_var": torch.full((64,), 1e6)}, {})
    assert synthetic_file.read_bytes() == before


@pytest.mark.parametrize("name", ["resnet50", "keras:mobilenet"])
def test_other_networks_have_no_synthetic_weights(name: str) -> None:
    """And say which have."""
    with pytest.raises(WeightsError, match=f"{name} has no synthetic weights, only resnet18 and keras:resnet18 have"):
        load_backbone(name, "synthetic")
