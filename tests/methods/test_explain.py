"""Maps equal what a hand, a loop or captum computes; measures what scikit-learn, scipy or a loop does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerGradCam
from scipy.stats import spearmanr
from sklearn.metrics import auc
from torch import Tensor, nn

from mvtec_ad.errors import DataError, MvtecAdError, SettingsError
from mvtec_ad.frameworks import import_torchvision
from mvtec_ad.methods import explain
from mvtec_ad.methods.base import enlarge
from mvtec_ad.methods.explain import METHODS, Attribution
from mvtec_ad.metrics import wilson
from mvtec_ad.synthetic.boxes import Annotation, Box

HEIGHT, WIDTH = 32, 40
SIGNS = [1, -1, -1]
GREY = torch.full((3, 1, 1), 0.5)
SMALL = Attribution(path_steps=4, noisy_copies=3, windows=3)


class Answer(nn.Module):
    """A module of one function, without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images are more than one batch."""
    monkeypatch.setattr(explain, "batch_size", lambda: 2)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((3, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network() -> nn.Sequential:
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
        weights.data.add_(0.3 * torch.randn_like(weights))
    network[2].running_mean.uniform_(-1, 1)
    network[2].running_var.uniform_(0.5, 1.5)
    return network.eval()


# Integrated gradients -----------------------------------------------------------------------------------------------


def test_a_product_is_shared_equally() -> None:
    """f = x₁ x₂ from zero: the gradients (t x₂, t x₁) integrate to x₁ x₂ / 2 for each."""
    image = torch.zeros(1, 3, 1, 2)
    image[0, 1, 0] = torch.tensor([0.4, 0.9])
    product = Answer(lambda inputs: inputs[:, 1, 0, 0] * inputs[:, 1, 0, 1])
    maps, errors = explain.integrated_gradients(product, image, [1], torch.zeros(3, 1, 1))
    np.testing.assert_allclose(maps, [[[0.18, 0.18]]], rtol=1e-5)
    assert errors == pytest.approx([0], abs=1e-5)


@pytest.mark.parametrize("baseline", [None, GREY, torch.rand((3, HEIGHT, WIDTH))])
def test_a_linear_network_by_hand(images: Tensor, baseline: Tensor | None) -> None:
    """Σ_c w (x − b), with the sign of the answer; b is the mean colour where none is given."""
    weights = torch.randn((3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(2))
    linear = Answer(lambda inputs: (inputs * weights).sum((1, 2, 3)) + 5)
    start = images.mean((0, 2, 3))[:, None, None] if baseline is None else baseline
    expected = torch.tensor(SIGNS)[:, None, None] * (weights * (images - start)).sum(1)
    maps, errors = explain.integrated_gradients(linear, images, SIGNS, baseline)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert errors.max() < 1e-3


def test_completeness(network: nn.Module, images: Tensor) -> None:
    """Maps sum up to the difference of the logits; with one step they do not, and the error says so."""
    maps, errors = explain.integrated_gradients(network, images, SIGNS, GREY, steps=128)
    with torch.no_grad():
        change = (network(images.clone()) - network(GREY.expand(1, 3, HEIGHT, WIDTH).clone())).numpy() * SIGNS
    np.testing.assert_allclose(maps.sum((1, 2)), change, rtol=1e-2)
    np.testing.assert_allclose(errors, np.abs(maps.sum((1, 2)) / change - 1), atol=1e-4)
    assert errors.max() < 1e-2
    assert (explain.integrated_gradients(network, images, SIGNS, GREY, steps=1)[1] > errors).all()


def test_no_share_of_nothing(network: nn.Module) -> None:
    """The image is the baseline: the map is zero, the relative error is not a number."""
    maps, errors = explain.integrated_gradients(network, torch.full((1, 3, 9, 9), 0.5), [1], GREY)
    assert (maps == 0).all()
    assert np.isnan(errors).all()


# Grad-CAM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_grad_cam_of_known_networks_is_captums(name: str) -> None:
    """For both answers, in batches, enlarged."""
    torch.manual_seed(0)
    trunk = getattr(import_torchvision().models, name)(weights=None, num_classes=1)
    layer, network = trunk.layer4 if name == "resnet18" else trunk.features[-1], nn.Sequential(trunk, nn.Flatten(0))
    images = torch.rand((3, 3, 64, 48), generator=torch.Generator().manual_seed(4))
    raw = LayerGradCam(network.eval(), layer).attribute(images)[:, 0].detach()
    for sign in (1, -1):
        maps = explain.grad_cam(network, layer, images, [sign] * 3)
        expected = enlarge((sign * raw).relu(), (64, 48))
        np.testing.assert_allclose(maps, expected, atol=1e-5 * float(raw.abs().max()))
        assert maps.dtype == np.float32


@pytest.mark.parametrize("position", [1, 2, 3, 4, 5])
def test_layers_before_a_relu_in_place(network: nn.Sequential, images: Tensor, position: int) -> None:
    """What a layer gave is weighted, not what the next one made of it: as with ReLUs that copy."""
    copying = copy.deepcopy(network)
    for module in copying.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    for plus_plus in (False, True):
        maps, expected = (
            explain.grad_cam(either, either[position], images, SIGNS, plus_plus=plus_plus)
            for either in (network, copying)
        )
        np.testing.assert_array_equal(maps, expected)


def literal_grad_cam_plus_plus(activations: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Eq. 19, 9 and 10 of the paper, position by position, with exp(S) left out in front: (C, h, w) twice -> (h, w)."""
    result = np.zeros(activations.shape[1:])
    for channel, slope in zip(activations, slopes, strict=True):
        weight = 0.0
        for g in slope.ravel():
            divisor = 2 * g**2 + channel.sum() * g**3
            weight += (g**2 / divisor if divisor else 0.0) * max(g, 0.0)
        result += weight * channel
    return np.maximum(result, 0)


def test_grad_cam_plus_plus_is_the_papers(network: nn.Sequential, images: Tensor) -> None:
    """From activations and slopes of the part of the network after the layer."""
    maps = explain.grad_cam(network, network[3], images, SIGNS, plus_plus=True)
    activations = network[:4](images.clone()).detach().requires_grad_()
    slopes = torch.autograd.grad((network[4:](activations) * torch.tensor(SIGNS)).sum(), activations)[0].double()
    values = activations.detach().double()
    grids = [literal_grad_cam_plus_plus(values[n].numpy(), slopes[n].numpy()) for n in range(3)]
    np.testing.assert_allclose(maps, enlarge(torch.tensor(np.stack(grids)), (HEIGHT, WIDTH)), rtol=1e-4, atol=1e-6)
    assert (maps > 0).any((1, 2)).all()


# Smooth gradients and occlusion -------------------------------------------------------------------------------------


def test_smooth_gradients_of_a_square() -> None:
    """f = Σ x²: |2 x + 2 σ mean noise|, σ a share of the image's range; the same noise whatever stands beside."""
    generator = torch.Generator().manual_seed(5)
    images = torch.rand((3, 3, 8, 9), generator=generator) * torch.tensor([1, 0.5, 0.1])[:, None, None, None]
    square = Answer(lambda inputs: inputs.square().sum((1, 2, 3)))
    state = torch.random.get_rng_state()
    maps = explain.smooth_grad(square, images, samples=2, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    noise = torch.randn((2, 3, 8, 9), generator=torch.Generator().manual_seed(3)).mean(0)
    for index, image in enumerate(images):
        expected = (2 * image + 2 * explain.NOISE * (image.max() - image.min()) * noise).abs().sum(0)
        np.testing.assert_allclose(maps[index], expected, rtol=1e-4)
        alone = explain.smooth_grad(square, images[index : index + 1], samples=2, seed=3)
        np.testing.assert_array_equal(alone[0], maps[index])


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 5), (7, 3), (32, 32)])
def test_occlusion_is_a_loop(network: nn.Module, images: Tensor, window: int, stride: int) -> None:
    """Windows from the top left, every pixel covered, those over the border cut off; the mean where they overlap."""
    baseline = torch.rand((3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(6))
    maps = explain.occlusion(network, images, SIGNS, baseline, window=window, stride=stride)
    for image, sign, values in zip(images, SIGNS, maps, strict=True):
        total, count = np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH))
        for top in range(0, HEIGHT - window + stride, stride):
            for left in range(0, WIDTH - window + stride, stride):
                hidden, area = image.clone(), (..., slice(top, top + window), slice(left, left + window))
                hidden[area] = baseline[area]
                with torch.no_grad():
                    before, after = network(torch.stack([image, hidden]))
                total[area] += sign * float(before - after)
                count[area] += 1
        assert count.min() >= 1
        np.testing.assert_allclose(values, total / count, atol=1e-5)


# All methods --------------------------------------------------------------------------------------------------------


def test_the_study_is_its_methods_and_leaves_the_network(network: nn.Sequential, images: Tensor) -> None:
    """Maps of the image's size, twice the same, under `no_grad` too; nothing about the network changes."""
    before, pixels, layer = copy.deepcopy(network.state_dict()), images.clone(), network[5]
    maps, errors = SMALL.maps(network, layer, images, SIGNS)
    with torch.no_grad():
        again, _ = SMALL.maps(network, layer, images, SIGNS)
    colour = images.mean((0, 2, 3))[:, None, None]
    expected, completeness = explain.integrated_gradients(network, images, SIGNS, colour, steps=4)
    expected = {
        "integrated_gradients": expected,
        "grad_cam": explain.grad_cam(network, layer, images, SIGNS),
        "grad_cam_plus_plus": explain.grad_cam(network, layer, images, SIGNS, plus_plus=True),
        "smooth_grad": explain.smooth_grad(network, images, samples=3),
        "occlusion": explain.occlusion(network, images, SIGNS, colour, window=20, stride=10),  # 3 over 40 pixels
    }
    np.testing.assert_array_equal(errors, completeness)
    assert list(maps) == list(METHODS)
    for name, values in maps.items():
        assert (values.shape, values.dtype) == ((3, HEIGHT, WIDTH), np.float32)
        assert np.ptp(values, axis=(1, 2)).min() > 0
        np.testing.assert_array_equal(values, again[name])
        np.testing.assert_array_equal(values, expected[name])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(weights.grad is None for weights in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(images, pixels)
    assert not images.requires_grad


def test_the_other_answer(network: nn.Sequential, images: Tensor) -> None:
    """The sign turns what is additive, leaves what has none, and gives class activation another map."""
    first, other = (SMALL.maps(network, network[4], images, [sign] * 3)[0] for sign in (1, -1))
    for name in ("integrated_gradients", "occlusion"):
        np.testing.assert_allclose(first[name], -other[name], atol=1e-6)
    np.testing.assert_array_equal(first["smooth_grad"], other["smooth_grad"])
    assert (first["grad_cam_plus_plus"] != other["grad_cam_plus_plus"]).any()
    np.testing.assert_array_equal(first["grad_cam"], explain.grad_cam(network, network[4], images))  # no sign: +1


def test_methods_and_options_that_are_none(network: nn.Sequential, images: Tensor) -> None:
    maps, errors = SMALL.maps(network, network[5], images, SIGNS, ["grad_cam"])
    assert list(maps) == ["grad_cam"]
    assert len(errors) == 0
    with pytest.raises(SettingsError, match="method 'guess' is unknown: use one of integrated_gradients, "):
        SMALL.maps(network, network[5], images, SIGNS, ["guess"])
    with pytest.raises(SettingsError, match="removals 1 must be 2 or more"):
        Attribution(removals=1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((3, 5, 5))}, DataError, r"images must have shape \(N, 3, H, W\)"),
        ({"images": torch.full((3, 3, 9, 9), 200)}, DataError, "divide uint8 pixels by 255"),
        ({"images": torch.full((3, 3, 9, 9), torch.nan)}, DataError, "outside"),
        ({"signs": [1, 0, 1]}, DataError, "signs must be"),
        ({"signs": [1]}, DataError, r"each of 3 images, not an array of shape \(1,\)"),
        ({"network": nn.Linear(2, 2)}, SettingsError, "training mode"),
        ({"network": Answer(lambda inputs: inputs.mean((2, 3)))}, DataError, r"one logit an image, \(\d+,\), not"),
        ({"network": Answer(lambda inputs: inputs.mean((1, 2, 3)) / 0)}, DataError, "not finite"),
    ],
)
def test_bad_input(
    network: nn.Module, images: Tensor, change: dict[str, object], error: type[MvtecAdError], message: str
) -> None:
    """One line that names what is wrong."""
    good = {"network": network, "images": images, "signs": SIGNS, "window": 8, "stride": 4}
    with pytest.raises(error, match=message):
        explain.occlusion(**(good | change))


# Regions and measures -----------------------------------------------------------------------------------------------

MAP = np.array([[0, 1, 2, 0], [0, 5, 3, -4], [0, 0, 9, 0], [-9, 0, 0, 0]], np.float32)
MAPS, REGIONS = np.stack([MAP] * 4), np.zeros((4, 4, 4), bool)
REGIONS[0, 2, 2:] = REGIONS[1, 1, 1:3] = REGIONS[1, 3, 0] = REGIONS[3] = True


def test_regions_lie_where_mask_and_box_do(tmp_path: Path) -> None:
    """Half a picture of 64×64, pixel areas onto pixel areas; with and without boxes in the table."""
    mask = np.zeros((64, 64), np.uint8)
    mask[8:16, 20:40] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    (tmp_path / "box.xml").write_bytes(Annotation((64, 64), "damaged", Box(20, 8, 39, 15)).xml("box.png"))
    table = pd.DataFrame(
        {"mask_path": [str(tmp_path / "mask.png"), "", ""], "box_path": ["", str(tmp_path / "box.xml"), ""]}
    )
    halves = np.stack([np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])] * 3)
    expected = np.zeros((3, 32, 32), bool)
    expected[:2, 4:8, 10:20] = True
    np.testing.assert_array_equal(explain.regions_of(table, halves, 32), expected)
    expected[1] = False
    np.testing.assert_array_equal(explain.regions_of(table[["mask_path"]], halves, 32), expected)


def test_peak_and_energy_by_hand() -> None:
    """9 at (2, 2), and 9 and 8 of 20 positive units; the first of two maxima decides, a constant map points nowhere."""
    assert explain.pointing_game(MAPS, REGIONS).tolist() == [True, False, False, True]
    np.testing.assert_allclose(explain.energy_inside(MAPS, REGIONS), [9 / 20, 8 / 20, 0, 1])
    assert np.isnan(explain.energy_inside(-np.abs(MAPS), REGIONS)).all()
    twice = np.zeros((2, 4, 4))
    twice[:, 1, 1] = twice[:, 2, 2] = 1
    assert explain.pointing_game(twice, REGIONS[[1, 0]]).tolist() == [True, False]
    assert explain.pointing_game(np.full((1, 4, 4), 3.0), REGIONS[3:]).tolist() == [False]


def test_localisation_puts_the_measures_side_by_side() -> None:
    """Of annotated images alone, and of as many as a method has explained; a method without any has no numbers."""
    table = explain.localisation({"all": MAPS, "two": MAPS[:2], "none": MAPS[:0]}, REGIONS).set_index("method")
    assert table["images"].to_dict() == {"all": 3, "two": 2, "none": 0}
    assert table.loc["all", "hits"] == np.mean([True, False, True])
    assert table.loc["two", "energy"] == pytest.approx(np.mean([9 / 20, 8 / 20]))
    gain = explain.pointing_against_area([1, 0], REGIONS[:2].mean((1, 2)))
    assert table.loc["two", ["gain", "gain_low", "gain_high"]].tolist() == pytest.approx(list(gain.values()))
    inside, outside = MAPS[0][REGIONS[0]], MAPS[0][~REGIONS[0]]
    better = (inside[:, None] > outside).mean() + (inside[:, None] == outside).mean() / 2
    first = explain.localisation({"first": MAPS[:1]}, REGIONS).loc[0, "region_auroc"]
    assert first == pytest.approx(better)
    assert table.loc["none"].iloc[1:].isna().all()


def test_agreement_is_scipys() -> None:
    """With ties; 1 with itself in any unit, −1 with its opposite, nan where a map is constant."""
    first, second = np.random.default_rng(2).integers(0, 9, (2, 5, 8, 6)).astype(float)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(explain.agreement(first, second), expected)
    np.testing.assert_allclose(explain.agreement(first, np.exp(first)), 1)
    np.testing.assert_allclose(explain.agreement(first, -first), -1)
    assert np.isnan(explain.agreement(first, np.ones_like(first))).all()


def test_chance_is_taken_off() -> None:
    """The mean of hit − area, between bounds that the seed decides."""
    hits, areas = np.array([1, 0, 1, 1, 1, 0, 1, 1]), np.linspace(0.05, 0.4, 8)
    gain = explain.pointing_against_area(hits, areas, resamples=2000)
    assert gain["mean"] == pytest.approx(0.75 - 0.225)
    assert gain["low"] < gain["mean"] < gain["high"] <= 1
    assert gain == explain.pointing_against_area(hits, areas, resamples=2000)
    assert gain != explain.pointing_against_area(hits, areas, resamples=2000, seed=1)


@pytest.mark.parametrize("hit", [0, 1])
def test_where_all_hits_agree_wilson_says_what_could_have_been(hit: int) -> None:
    """The bootstrap would give the few hundredths by which the regions vary."""
    gain = explain.pointing_against_area(np.full(20, hit), np.linspace(0.02, 0.06, 20))
    low, high = wilson(hit, 20)
    assert gain == pytest.approx({"mean": hit - 0.04, "low": low - 0.04, "high": high - 0.04})


@pytest.mark.parametrize("chance", [0.3, 0.9, 0.97])
def test_intervals_hold_the_truth(chance: float) -> None:
    """In 300 test sets of 30 images about as often as the docstring says, also where most sets are without a miss."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        areas = rng.beta(2, 20, 30)
        gain = explain.pointing_against_area(rng.random(30) < chance, areas, resamples=500)
        held += gain["low"] <= chance - 2 / 22 <= gain["high"]
    assert held / 300 > 0.88


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_deletion_and_insertion_are_loops(steps: int) -> None:
    """Pixel after pixel from the highest, ties from the top left; curves, and their areas by scikit-learn."""
    generator = torch.Generator().manual_seed(0)
    images, network = torch.rand((3, 3, 4, 5), generator=generator), nn.Sequential(nn.Flatten(), nn.Linear(60, 1))
    network = nn.Sequential(network, nn.Flatten(0)).eval()
    network[0][1].weight.data = torch.randn((1, 60), generator=generator)
    maps = torch.randint(0, 6, (3, 4, 5), generator=generator).numpy()
    curves = explain.deletion_insertion(network, images, maps, SIGNS, steps)
    baseline = images.mean((0, 2, 3))[:, None, None].expand(3, 4, 5)
    for index in range(3):
        order = sorted(((-maps[index, row, column], row, column)) for row in range(4) for column in range(5))
        for step in range(steps + 1):
            deleted, inserted = images[index].clone(), baseline.clone()
            for _, row, column in order[: round(20 * step / steps)]:
                deleted[:, row, column] = baseline[:, row, column]
                inserted[:, row, column] = images[index, :, row, column]
            for name, image in (("deletion", deleted), ("insertion", inserted)):
                value = torch.sigmoid(SIGNS[index] * network(image[None])).item()
                assert curves[name][index, step] == pytest.approx(value, rel=1e-5)
        for name in ("deletion", "insertion"):
            expected = auc(np.linspace(0, 1, steps + 1), curves[name][index])
            assert curves[f"{name}_area"][index] == pytest.approx(expected)
    with pytest.raises(DataError, match=r"maps must have shape \(3, 4, 5\), as the images, not \(2, 4, 5\)"):
        explain.deletion_insertion(network, images, maps[:2], SIGNS, steps)


@pytest.mark.parametrize("measure", [explain.pointing_game, explain.energy_inside, explain.agreement])
def test_stacks_that_do_not_fit(measure: object) -> None:
    """Another size, another number, no stack, no number."""
    for maps, others in [(MAPS, REGIONS[:, :3]), (MAPS[:2], REGIONS), (MAP, REGIONS[0]), (MAPS[:0], REGIONS[:0])]:
        with pytest.raises(DataError, match=r"two stacks of one shape \(N, H, W\)"):
            measure(maps, others)
    with pytest.raises(DataError, match="not finite"):
        measure(np.full((4, 4, 4), np.nan), REGIONS)
