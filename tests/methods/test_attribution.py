"""Maps equal what a hand, a loop or captum computes; the network is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from mvtec_ad.errors import DataError, MvtecAdError, SettingsError
from mvtec_ad.frameworks import import_torchvision
from mvtec_ad.methods import attribution
from mvtec_ad.methods.attribution import METHODS, cascade, randomisation_check
from mvtec_ad.methods.base import enlarge

HEIGHT, WIDTH = 32, 40
SIGNS = [1, -1, -1]
GREY = torch.full((3, 1, 1), 0.5)


class Answer(nn.Module):
    """A module of one function, without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def small_network() -> nn.Sequential:
    """Convolutions, batch normalisation with statistics, ReLUs that work in place, one even on the image itself."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 1),
        nn.Flatten(0),
    )
    for weights in network.parameters():
        weights.data.add_(0.3 * torch.randn_like(weights))  # no value is one that a new layer has
    network[2].running_mean.uniform_(-1, 1)
    network[2].running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((3, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> nn.Sequential:
    return small_network()


def torchvision_network(name: str) -> tuple[nn.Module, nn.Module]:
    """A network with random weights and one logit, and its last feature maps."""
    torch.manual_seed(0)
    network = getattr(import_torchvision().models, name)(weights=None, num_classes=1)
    layer = network.layer4 if name == "resnet18" else network.features[-1]
    return nn.Sequential(network, nn.Flatten(0)).eval(), layer


# Integrated gradients -----------------------------------------------------------------------------------------------


def test_a_product_is_shared_equally() -> None:
    """f = x₁ x₂ from zero: the gradients (t x₂, t x₁) integrate to x₁ x₂ / 2 for each."""
    image = torch.zeros(1, 3, 1, 2)
    image[0, 1, 0] = torch.tensor([0.4, 0.9])
    product = Answer(lambda seen: seen[:, 1, 0, 0] * seen[:, 1, 0, 1])
    maps, errors = attribution.integrated_gradients(product, image, baseline=torch.zeros(3, 1, 1))
    np.testing.assert_allclose(maps, [[[0.18, 0.18]]], rtol=1e-5)
    assert errors == pytest.approx([0], abs=1e-5)


@pytest.mark.parametrize("baseline", [GREY, torch.rand((3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(3))])
def test_a_linear_network_by_hand(images: Tensor, baseline: Tensor) -> None:
    """Σ_c w (x − b), with the sign of the answer; in small batches as in one."""
    weights = torch.randn((3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(2))
    linear = Answer(lambda seen: (seen * weights).sum((1, 2, 3)) + 5)
    expected = torch.tensor(SIGNS)[:, None, None] * (weights * (images - baseline)).sum(1)
    for batch in (5, 200):
        maps, errors = attribution.integrated_gradients(linear, images, SIGNS, baseline=baseline, batch=batch)
        assert maps.dtype == np.float32
        np.testing.assert_allclose(maps, expected, atol=1e-5)
        assert errors.max() < 1e-3


def test_completeness(network: nn.Module, images: Tensor) -> None:
    """Maps sum up to the difference of the logits; with one step they do not, and the error says so."""
    maps, errors = attribution.integrated_gradients(network, images, SIGNS, baseline=GREY, steps=128)
    with torch.no_grad():
        change = (network(images.clone()) - network(GREY.expand(1, 3, HEIGHT, WIDTH).clone())).numpy() * SIGNS
    np.testing.assert_allclose(maps.sum((1, 2)), change, rtol=1e-2)
    np.testing.assert_allclose(errors, np.abs(maps.sum((1, 2)) / change - 1), atol=1e-4)
    assert errors.max() < 1e-2
    assert (attribution.integrated_gradients(network, images, baseline=GREY, steps=1)[1] > errors).all()


def test_no_share_of_nothing(network: nn.Module) -> None:
    """The image is the baseline: the map is zero, the relative error is not a number."""
    maps, errors = attribution.integrated_gradients(network, torch.full((1, 3, 9, 9), 0.5), baseline=GREY)
    assert (maps == 0).all()
    assert np.isnan(errors).all()


# Class activation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_grad_cam_is_captums(name: str) -> None:
    """For both answers, in batches."""
    network, layer = torchvision_network(name)
    images = torch.rand((3, 3, 64, 48), generator=torch.Generator().manual_seed(4))
    for sign in (1, -1):
        own = attribution.grad_cam(network, layer, images, [sign] * 3, batch=2)
        method = LayerGradCam(lambda seen, sign=sign: sign * network(seen), layer)
        expected = method.attribute(images, relu_attributions=True)[:, 0].detach().numpy()
        scale = np.abs(method.attribute(images).detach().numpy()).max()
        np.testing.assert_allclose(own / scale, expected / scale, atol=1e-5)
        assert own.dtype == np.float32


@pytest.mark.parametrize("position", [1, 2, 3, 4, 5])
def test_layers_before_a_relu_in_place(network: nn.Sequential, images: Tensor, position: int) -> None:
    """What a layer gave is weighted, not what the next one made of it: as with ReLUs that copy."""
    copying = copy.deepcopy(network)
    for module in copying.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    for method in (attribution.grad_cam, attribution.grad_cam_plus_plus):
        own = method(network, network[position], images, SIGNS)
        np.testing.assert_array_equal(own, method(copying, copying[position], images, SIGNS))
    expected = LayerGradCam(lambda seen: torch.tensor(SIGNS) * copying(seen), copying[position])
    own = attribution.grad_cam(network, network[position], images, SIGNS)
    np.testing.assert_allclose(own, expected.attribute(images, relu_attributions=True)[:, 0].detach(), atol=1e-5)


def literal_grad_cam_plus_plus(activations: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Eq. 19, 9 and 10 of the paper, place by place, with exp(S) left out in front: (C, h, w) twice -> (h, w)."""
    result = np.zeros(activations.shape[1:])
    for channel, slope in zip(activations, slopes, strict=True):
        weight = 0.0
        for one in slope.ravel():
            divisor = 2 * one**2 + channel.sum() * one**3
            alpha = one**2 / divisor if divisor else 0.0
            weight += alpha * max(one, 0.0)
        result += weight * channel
    return np.maximum(result, 0)


def test_grad_cam_plus_plus_is_the_papers(network: nn.Sequential, images: Tensor) -> None:
    """From activations and slopes of the part of the network after the layer."""
    maps = attribution.grad_cam_plus_plus(network, network[3], images, SIGNS, batch=2)
    activations = network[:4](images.clone()).detach().requires_grad_()
    slopes = torch.autograd.grad((network[4:](activations) * torch.tensor(SIGNS)).sum(), activations)[0]
    for index in range(3):
        expected = literal_grad_cam_plus_plus(
            activations[index].detach().double().numpy(), slopes[index].double().numpy()
        )
        np.testing.assert_allclose(maps[index], expected, rtol=1e-4, atol=1e-6)
    assert (maps > 0).any((1, 2)).all()


# Smooth gradients and occlusion -------------------------------------------------------------------------------------


def test_smooth_gradients_of_a_linear_network(images: Tensor) -> None:
    """Noise changes nothing there: |w|, summed over the colours."""
    weights = torch.randn(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    maps = attribution.smooth_grad(Answer(lambda seen: (seen * weights).sum((1, 2, 3))), images)
    np.testing.assert_allclose(maps, np.broadcast_to(weights.abs().sum(0), maps.shape), rtol=1e-5)


def test_smooth_gradients_of_a_square() -> None:
    """f = Σ x²: |2 x + 2 σ mean noise|, σ a share of the image's range; the same noise whatever stands beside."""
    images = (
        torch.rand((3, 3, 8, 9), generator=torch.Generator().manual_seed(5))
        * torch.tensor([1, 0.5, 0.1])[:, None, None, None]
    )
    square = Answer(lambda seen: seen.square().sum((1, 2, 3)))
    maps = attribution.smooth_grad(square, images, samples=7, noise=0.2, seed=3, batch=2)
    noise = torch.randn((7, 3, 8, 9), generator=torch.Generator().manual_seed(3)).mean(0)
    for index, image in enumerate(images):
        expected = (2 * image + 2 * 0.2 * (image.max() - image.min()) * noise).abs().sum(0)
        np.testing.assert_allclose(maps[index], expected, rtol=1e-4)
        alone = attribution.smooth_grad(square, images[index : index + 1], samples=7, noise=0.2, seed=3)
        np.testing.assert_allclose(alone[0], maps[index], rtol=1e-6)


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 5), (7, 3), (32, 32)])
def test_occlusion_is_a_loop(network: nn.Module, images: Tensor, window: int, stride: int) -> None:
    """Windows from the top left, every pixel covered, those over the border cut off; the mean where they overlap."""
    baseline = torch.rand((3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(6))
    maps = attribution.occlusion(network, images, SIGNS, baseline=baseline, window=window, stride=stride, batch=7)
    for image, sign, found in zip(images, SIGNS, maps, strict=True):
        total, count = np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH))
        for top in range(0, HEIGHT - window + stride, stride):
            for left in range(0, WIDTH - window + stride, stride):
                place = (..., slice(top, top + window), slice(left, left + window))
                hidden = image.clone()
                hidden[place] = baseline[place]
                with torch.no_grad():
                    before, after = network(torch.stack([image, hidden]))
                total[place] += sign * float(before - after)
                count[place] += 1
        assert count.min() >= 1
        np.testing.assert_allclose(found, total / count, atol=1e-5)


# All methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_one_signature(network: nn.Sequential, images: Tensor, name: str) -> None:
    """Maps of the image's size, twice the same, under `no_grad` too; nothing about the network changes."""
    before, pixels = copy.deepcopy(network.state_dict()), images.clone()
    first = METHODS[name](network, network[5], images, SIGNS, GREY)
    with torch.no_grad():
        again = METHODS[name](network, network[5], images, SIGNS, GREY)
    assert (first.shape, first.dtype) == ((3, HEIGHT, WIDTH), np.float32)
    np.testing.assert_array_equal(first, again)
    assert np.ptp(first, axis=(1, 2)).min() > 0
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(weights.grad is None for weights in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(images, pixels)
    assert not images.requires_grad
    np.testing.assert_array_equal(METHODS[name](network, network[5], images, None, GREY)[0], first[0])


@pytest.mark.parametrize("name", METHODS)
def test_the_other_answer(network: nn.Sequential, images: Tensor, name: str) -> None:
    """The sign turns what is additive, leaves what has none, and gives class activation another map."""
    first, other = (METHODS[name](network, network[4], images, [sign] * 3, GREY) for sign in (1, -1))
    if name in ("integrated_gradients", "occlusion"):
        np.testing.assert_allclose(first, -other, atol=1e-6)
    elif name == "smooth_grad":
        np.testing.assert_array_equal(first, other)
    else:
        assert (first != other).any()
    if name == "grad_cam":  # ReLU(x) − ReLU(−x) = x
        raw = LayerGradCam(network, network[4]).attribute(images)[:, 0].detach()
        np.testing.assert_allclose(first - other, enlarge(raw, (HEIGHT, WIDTH)), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((3, 5, 5))}, DataError, r"images must have shape \(N, 3, H, W\)"),
        ({"images": torch.full((3, 3, 9, 9), 200)}, DataError, "divide uint8 pixels by 255"),
        ({"images": torch.full((3, 3, 9, 9), torch.nan)}, DataError, "outside"),
        ({"signs": [1, 0, 1]}, DataError, "signs must be"),
        ({"signs": [1]}, DataError, r"each of 3 images, not an array of shape \(1,\)"),
        ({"baseline": torch.zeros(3, 5, 5)}, DataError, r"baseline must have shape \(3, 32, 40\) or \(3, 1, 1\)"),
        ({"network": nn.Linear(2, 2)}, SettingsError, "training mode"),
        ({"network": Answer(lambda seen: seen.mean((2, 3)))}, DataError, r"one logit an image, \(\d+,\), not"),
        ({"network": Answer(lambda seen: seen.mean((1, 2, 3)) / 0)}, DataError, "not finite"),
        ({"stride": 9}, SettingsError, "stride ≤ window"),
        ({"window": 33}, SettingsError, "≤ 32 pixels"),
    ],
)
def test_bad_input(
    network: nn.Module, images: Tensor, change: dict[str, object], error: type[MvtecAdError], message: str
) -> None:
    """One line that names what is wrong."""
    good = {"network": network, "images": images, "signs": SIGNS, "baseline": GREY, "window": 8, "stride": 4}
    with pytest.raises(error, match=message) as caught:
        attribution.occlusion(**(good | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "message"), [(nn.Conv2d(3, 3, 1), "no part of this network"), (8, r"feature maps \(B, C, h, w\)")]
)
def test_a_layer_without_maps(network: nn.Sequential, images: Tensor, layer: nn.Module | int, message: str) -> None:
    """Of another network, or linear; no hook stays behind."""
    with pytest.raises(SettingsError, match=message):
        attribution.grad_cam(network, network[layer] if isinstance(layer, int) else layer, images)
    assert not any(module._forward_hooks for module in network.modules())


# Random weights -----------------------------------------------------------------------------------------------------


def test_the_cascade_changes_what_it_names(network: nn.Sequential) -> None:
    """One group more at each stage, statistics too; the original, the copies before and the generator stay."""
    before, state = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    stages = list(cascade(network, ["8", "4", "2"], seed=1))
    assert [name for name, _ in stages] == ["8", "4", "2"]
    for count, (_, partly) in enumerate(stages, start=1):
        after = partly.state_dict()
        changed = {key for key in after if not torch.equal(after[key], before[key])}
        named = {key for key in after if key.split(".")[0] in ["8", "4", "2"][:count]}
        assert changed == named - {"2.num_batches_tracked"}
        assert not partly.training
    last = stages[-1][1]
    assert (last[2].running_mean == 0).all()
    assert (last[2].running_var == 1).all()
    assert torch.equal(last[8].weight, stages[0][1][8].weight)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_seed_decides(network: nn.Sequential) -> None:
    first, again, other = (next(cascade(network, ["8"], seed))[1][8].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_known_networks_can_be_drawn_anew(name: str) -> None:
    """As one group: every weight matrix differs, and none of the original does."""
    network, _ = torchvision_network(name)
    before = copy.deepcopy(network.state_dict())
    (_, new), *_ = cascade(network, ["0"])
    for key, value in before.items():
        assert torch.equal(network.state_dict()[key], value)
        assert value.ndim < 2 or not torch.equal(new.state_dict()[key], value)


def test_randomisation_check(network: nn.Sequential, images: Tensor) -> None:
    """A map of the edges in the image passes none of it; one of the weights loses its likeness, zero maps give nan."""
    edges = randomisation_check(network, ["8", "4"], lambda _: images.mean(1).numpy())
    np.testing.assert_allclose([edges["8"], edges["4"]], 1)
    found = randomisation_check(
        network, ["8", "4"], lambda seen: attribution.integrated_gradients(seen, images, baseline=GREY)[0]
    )
    assert list(found) == ["8", "4"]
    assert all(values.shape == (3,) and (np.abs(values) < 0.999).all() for values in found.values())
    nothing = randomisation_check(network, ["8"], lambda _: np.zeros((3, 4, 4)))
    assert np.isnan(nothing["8"]).all()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["head"], "no module 'head': it has 0, 1, "),
        (["0"], "'0' holds no weights"),
        (["8", "8"], "different module names"),
        ([], "different module names"),
        ("8", "different module names"),
    ],
)
def test_groups_that_cannot_be_drawn(network: nn.Sequential, groups: list[str], message: str) -> None:
    """One line, before anything is drawn."""
    with pytest.raises(SettingsError, match=message) as caught:
        next(cascade(network, groups))
    assert "\n" not in str(caught.value)


def test_weights_without_a_recipe(network: nn.Sequential) -> None:
    """A parameter that no layer of torch owns."""
    network[6].scale = nn.Parameter(torch.ones(1))
    with pytest.raises(SettingsError, match="AdaptiveAvgPool2d in '6' has no reset_parameters"):
        next(cascade(network, ["6"]))
