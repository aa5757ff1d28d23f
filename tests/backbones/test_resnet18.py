"""ResNet-18 in torchvision and in Keras: the same features from one file; and the weights the package carries."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from mvtec_ad.backbones import carried, load_backbone
from mvtec_ad.backbones.backbone import packed_weights
from mvtec_ad.backbones.carried import load_drawn, save_drawn
from mvtec_ad.errors import WeightsError

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


def test_random_weights_of_keras_are_always_the_same() -> None:
    """And the process's own random numbers go on as if nothing had been loaded."""
    before = random.getstate()
    one, other = (load_backbone("keras:resnet18", "random")(pictures(64)) for _ in range(2))
    assert random.getstate() == before
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        ("layer2.0.conv1.weight", None, "lacks 1 tensors of resnet18, first layer2.0.conv1.weight"),
        ("layer1.0.bn1.running_var", torch.ones(3), r"running_var has shape \(3,\), resnet18 needs \(64,\)"),
        ("conv1.weight", torch.ones(64, 7, 7, 3), r"conv1.weight has shape .*, resnet18 needs \(64, 3, 7, 7\)"),
    ],
)
def test_keras_refuses_a_file_that_does_not_fit(
    tmp_path: Path, state: dict[str, torch.Tensor], key: str, tensor: torch.Tensor | None, words: str
) -> None:
    """In the words, and with the shapes, of the file."""
    broken = {name: own for name, own in state.items() if name != key} | ({} if tensor is None else {key: tensor})
    save_file(broken, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=words) as caught:
        load_backbone("keras:resnet18", str(tmp_path / "a.safetensors"))
    assert "\n" not in str(caught.value)


def test_a_torch_file_travels_as_safetensors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """For Keras too: a pickle stays at home."""
    torch.save(state, tmp_path / "own.pth")
    (member,) = packed_weights(str(tmp_path / "own.pth")).items()
    assert member[0] == "backbone/own.safetensors"
    (tmp_path / "copy.safetensors").write_bytes(member[1])
    for name in BOTH:
        one, other = (load_backbone(name, str(tmp_path / file)) for file in ("own.pth", "copy.safetensors"))
        for left, right in zip(one(pictures(64)), other(pictures(64)), strict=True):
            assert torch.equal(left, right)


@pytest.fixture
def carried_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> Path:
    """Carried weights of our own."""
    monkeypatch.setattr(carried, "CARRIED", tmp_path / "weights" / "resnet18_drawn.safetensors")
    return save_drawn(state, {"made_by": "a test"})


def test_carried_weights_come_back(carried_file: Path, state: dict[str, torch.Tensor]) -> None:
    """In half precision, under the same names, without what the cut network does not use."""
    found, name = load_drawn()
    for key, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[key].half().float())
    used = [key for key in state if not key.startswith(("layer4", "fc")) and "num_batches" not in key]
    assert sorted(found) == sorted(used)
    assert {tensor.dtype for tensor in load_file(carried_file).values()} == {torch.float16}
    card = json.loads(carried_file.with_suffix(".json").read_text())
    assert card["made_by"] == "a test"
    assert name == f"drawn (SHA-256 {card['sha256'][:12]}…)"
    assert len(list(carried_file.parent.iterdir())) == 2


@pytest.mark.usefixtures("carried_file")
def test_both_frameworks_agree_on_carried_weights() -> None:
    """Such a network is nobody's published one: PaDiM brings its features to scale."""
    assert_both_agree("drawn", (64, 97))
    assert not load_backbone("resnet18", "drawn").raw
    assert packed_weights("drawn") == {}


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


def missing(path: Path) -> None:
    path.unlink()


def without_card(path: Path) -> None:
    path.with_suffix(".json").unlink()


def empty_card(path: Path) -> None:
    path.with_suffix(".json").write_text("")


def other_card(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


@pytest.mark.parametrize("backbone", BOTH)
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (altered, "resnet18_drawn.safetensors is damaged"),
        (cut, "resnet18_drawn.safetensors is damaged"),
        (missing, "resnet18_drawn.safetensors is missing"),
        (without_card, "resnet18_drawn.json is missing"),
        (empty_card, "resnet18_drawn.json is damaged"),
        (other_card, "resnet18_drawn.json is damaged"),
    ],
)
def test_damaged_carried_weights_are_refused(
    carried_file: Path, harm: Callable[[Path], None], words: str, backbone: str
) -> None:
    """One line with both ways out."""
    harm(carried_file)
    with pytest.raises(WeightsError, match=f"{words}: reinstall the package or run `make backbone`$") as caught:
        load_backbone(backbone, "drawn")
    assert "\n" not in str(caught.value)


def test_weights_beyond_half_precision_are_not_written(carried_file: Path, state: dict[str, torch.Tensor]) -> None:
    """What was there stays."""
    before = carried_file.read_bytes()
    with pytest.raises(WeightsError, match=r"bn1\.running_var holds values that are not finite"):
        save_drawn({**state, "bn1.running_var": torch.full((64,), 1e6)}, {})
    assert carried_file.read_bytes() == before


@pytest.mark.parametrize("name", ["resnet50", "keras:mobilenet"])
def test_other_networks_have_no_drawn_weights(name: str) -> None:
    """And say which have."""
    with pytest.raises(WeightsError, match=f"{name} has no drawn weights, only resnet18 and keras:resnet18 have"):
        load_backbone(name, "drawn")
