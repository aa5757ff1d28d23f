"""EfficientAD: features, losses, scales and maps against numpy and scipy; what moves what; the exported graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mvtec_ad import edge, export
from mvtec_ad.backbones import Backbone
from mvtec_ad.config import torch_device
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods import efficient_ad
from mvtec_ad.methods.base import held_out_positions
from mvtec_ad.methods.efficient_ad import EfficientAd, Networks, squeezed, student

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE, GOOD, EACH = 64, 12, 8  # of twelve good images six are held out
SMALL = {"image_size": SIDE, "crop": SIDE, "width": 4, "latent": 8, "sigma": 1.0}


def small_teacher() -> Backbone:
    """Three random layers of strides 4, 8 and 16, the last channel of each of which never moves."""
    torch.manual_seed(0)
    steps = [torch.nn.Conv2d(3, 8, 5, 4, 2), torch.nn.Conv2d(8, 12, 3, 2, 1), torch.nn.Conv2d(12, 16, 3, 2, 1)]
    network = torch.nn.ModuleList(steps).requires_grad_(False).eval().to(torch_device())
    for step in steps:
        step.bias[-1] = -1e3

    def layers(pixels: Tensor) -> list[Tensor]:
        found = []
        for step in network:
            pixels = step(pixels).relu()
            found.append(pixels)
        return found

    return Backbone("small", "random", True, lambda images: [], tensors=layers, network=network)


@pytest.fixture(scope="module")
def fitted(good: np.ndarray) -> EfficientAd:
    """On drawn surfaces, in a few steps, with a random teacher."""
    detector = EfficientAd(**SMALL, steps=6, batch_images=2, autoencoder=True)
    detector.use_backbone(small_teacher())
    return detector.fit(good, seed=1)


@pytest.fixture(scope="module")
def others(good: np.ndarray) -> np.ndarray:
    """The good images that were trained on."""
    return np.delete(good, held_out_positions(GOOD, GOOD // 2, 1), 0)


def tensors(images: np.ndarray) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) in [0, 1]."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255).to(torch_device())


def parts(detector: EfficientAd, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Features (B, C, h, w) float64 of teacher, standardised, and of student, both halves, and autoencoder."""
    seen = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    inputs = torch.from_numpy(seen.transpose(0, 3, 1, 2)).float().to(torch_device())
    network = detector.network
    with torch.no_grad():
        given = [detector.teacher(tensors(images)), network.student(inputs), network.autoencoder(inputs)]
    teacher, both, reconstruction = (values.cpu().double().numpy() for values in given)
    mean, deviation = (values.cpu().double().numpy() for values in (network.mean, network.deviation))
    half = both.shape[1] // 2
    return (teacher - mean) / deviation, both[:, :half], both[:, half:], reconstruction


def two_maps(detector: EfficientAd, images: np.ndarray) -> np.ndarray:
    """(B, 2, h, w): mean squares over the channels, teacher − student and autoencoder − student."""
    teacher, of_teacher, of_autoencoder, reconstruction = parts(detector, images)
    return np.stack([((teacher - of_teacher) ** 2).mean(1), ((reconstruction - of_autoencoder) ** 2).mean(1)], 1)


def test_the_teacher_shows_its_layers_at_stride_8(fitted: EfficientAd, good: np.ndarray) -> None:
    """The finer one in means of 2 × 2, the coarser one enlarged by scipy; on good images mean 0 and deviation 1."""
    first, second, third = (layer.cpu().numpy() for layer in fitted.extractor.tensors(tensors(good[:3])))
    cells = SIDE // 8
    first = first.reshape(*first.shape[:2], cells, 2, cells, 2).mean((3, 5))
    third = ndimage.zoom(third, (1, 1, 2, 2), order=1, mode="nearest", grid_mode=True)
    expected = np.concatenate([first, second, third], 1)
    found = fitted.teacher(tensors(good[:3])).cpu().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())


def test_the_teachers_features_are_standardised_on_what_is_trained_on(fitted: EfficientAd, others: np.ndarray) -> None:
    """Channel by channel, over all places, not on the held-out images; one that hardly moves is not blown up."""
    teacher, raw = parts(fitted, others)[0], fitted.teacher(tensors(others)).cpu().double().numpy()
    deviations = raw.std((0, 2, 3))
    still = deviations < 0.01 * deviations.mean()
    assert 3 <= still.sum() < 20
    np.testing.assert_allclose(teacher.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(teacher.std((0, 2, 3))[~still], 1, rtol=1e-3)
    assert (teacher.std((0, 2, 3))[still] < 1).all()
    assert fitted.network.deviation.min().cpu() == pytest.approx(0.01 * deviations.mean(), rel=1e-3)


def test_the_loss_by_hand(fitted: EfficientAd, good: np.ndarray) -> None:
    """All and the hardest hundredth, the silence on another picture, and two plain means."""
    images, texture = good[:2], 255 - good[2:3]
    teacher, of_teacher, of_autoencoder, reconstruction = parts(fitted, images)
    hard = np.sort(((teacher - of_teacher) ** 2).ravel())
    number = round(len(hard) / 100)
    assert number > 30
    expected = hard[-number:].mean() + hard.mean() + (parts(fitted, texture)[1] ** 2).mean()
    expected += ((reconstruction - of_autoencoder) ** 2).mean() + ((teacher - reconstruction) ** 2).mean()
    with torch.no_grad():
        seen = tensors(images)
        found = fitted.network.loss(seen, fitted.teacher(seen), tensors(texture))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_autoencoder_does_not_come_to_meet_the_student(fitted: EfficientAd, good: np.ndarray) -> None:
    """Each of three differences moves one network alone, and the student half of its last layer."""
    images, network = tensors(good[:2]), fitted.network
    names = [name for name, _ in network.named_parameters()]
    moved = []
    for difference in network.differences(images, fitted.teacher(images)):
        ends = list(network.parameters())
        gradients = torch.autograd.grad(difference.mean(), ends, allow_unused=True, retain_graph=True)
        moved.append({n: g for n, g in zip(names, gradients, strict=True) if g is not None and g.any()})
    assert [{name.partition(".")[0] for name in found} for found in moved] == [
        {"student"},
        {"student"},
        {"autoencoder"},
    ]
    last = max(name for name in moved[0] if name.startswith("student") and name.endswith("weight"))
    half = len(moved[0][last]) // 2
    assert not moved[0][last][half:].any()
    assert not moved[1][last][:half].any()


def test_scales_and_maps_are_the_papers_but_for_a_constant(
    fitted: EfficientAd, others: np.ndarray, test_set: tuple[np.ndarray, np.ndarray]
) -> None:
    """½ Σ 0.1 · (map − q_a) / (q_b − q_a), with quantiles of the images that were trained on, enlarged, smoothed."""
    known, images = two_maps(fitted, others), test_set[0]
    low, high = (np.quantile(known, share, axis=(0, 2, 3))[:, None, None] for share in (0.9, 0.995))
    grids = (0.1 * (two_maps(fitted, images) - low) / (high - low)).mean(1)
    constant = (0.1 * low / (high - low)).mean()
    maps = ndimage.zoom(grids + constant, (1, 8, 8), order=1, mode="nearest", grid_mode=True)
    maps = np.stack([ndimage.gaussian_filter(one, 1.0) for one in maps])
    found = fitted.score(images)
    np.testing.assert_allclose(found.maps, maps, rtol=1e-3, atol=1e-4 * maps.max())
    np.testing.assert_array_equal(found.image, found.maps.max((1, 2)))
    assert found.image.min() > 0


def test_a_student_sees_38_pixels() -> None:
    """As far as the gradient of one place reaches, where all weights are positive and no unit is silent."""
    network, images = student(3, 2), torch.rand(1, 3, 96, 96, requires_grad=True)
    for weights in network.parameters():
        weights.data.abs_()
    network(images)[0, :, 6, 6].sum().backward()
    rows, columns = (images.grad.abs().sum((0, 1, axis)).nonzero() for axis in (3, 2))
    assert (len(rows), len(columns)) == (38, 38)


@pytest.mark.parametrize("size", [16, 36, 100, 224])
def test_all_networks_give_one_grid(size: int) -> None:
    """Whatever the size: an eighth, rounded down; a constant picture gives numbers."""
    images = torch.rand(1, 3, size, size)
    grid = (1, 5, size // 8, size // 8)
    assert squeezed(5, size, 2, 3)(images).shape == student(5, 1)(images).shape == grid
    assert Networks(5, size, 1, 3)(images, torch.rand(grid)).shape == (1, *grid[2:])


def test_defects_stand_out(good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray]) -> None:
    """Of drawn surfaces, with the teacher that a newcomer gets; where they are, too."""
    images, masks = test_set
    detector = EfficientAd(**SMALL, steps=25).fit(good, seed=0)
    scores = detector.score(images)
    assert roc_auc_score(masks.any((1, 2)), scores.image) == 1
    assert roc_auc_score(masks[EACH:].ravel(), scores.maps[EACH:].ravel()) > 0.9
    assert detector.good_scores.max() < np.median(scores.image[EACH:])
    assert detector.curve["loss"].iloc[-5:].mean() < 0.95 * detector.curve["loss"].iloc[:5].mean()


def test_a_graph_gives_scores_maps_and_verdicts_of_the_model(fitted: EfficientAd) -> None:
    """Of pictures of other sizes, too."""
    limit = {"value": float(np.median(fitted.good_scores)), "false_alarm_rate": 0.5}
    model = export.fitted(fitted, "surface", limit)
    graph = export.to_onnx(model)
    opened = edge.EdgeModel(graph.SerializeToString())
    rng = np.random.default_rng(0)
    for height, width in ((SIDE, SIDE), (90, 50), (130, 130)):
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        seen, expected, expected_map = model.score(picture)
        found, score, anomaly_map = opened.score(picture)
        np.testing.assert_array_equal(found, seen)
        assert score == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(anomaly_map, expected_map, rtol=1e-3, atol=1e-4 * float(expected_map.max()))
        assert opened.run(picture)[2] == (expected > opened.threshold)


def test_what_is_no_teacher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line: no layer, or layers of Keras, which are no tensors of torch."""
    with pytest.raises(SettingsError, match=r"layers \(\) are none of 1, 2 and 3: name one"):
        EfficientAd(layers=())
    monkeypatch.setattr(efficient_ad, "load_backbone", lambda *_: Backbone("keras:a", "random", False, lambda _: []))
    with pytest.raises(SettingsError, match="keras:resnet18 runs in Keras: let the teacher be torch's, as efficient"):
        EfficientAd(**SMALL, backbone="keras:resnet18").new_network()
