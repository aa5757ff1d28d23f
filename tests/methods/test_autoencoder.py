"""Autoencoder and VAE: differences against loops in numpy, divergences against torch's own, runs that repeat."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch.distributions import Normal, kl_divergence

from mvtec_ad.backbones import Backbone
from mvtec_ad.config import torch_device
from mvtec_ad.errors import SettingsError
from mvtec_ad.methods import autoencoder
from mvtec_ad.methods.autoencoder import Autoencoder, AutoencoderNetwork, Vae, corrupt, difference_map, dissimilarity
from mvtec_ad.methods.base import as_images, held_out_positions
from mvtec_ad.training import warm_cosine

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE, GOOD, EACH = 32, 12, 6  # of twelve good images six are held out
NUMBERS = 3 * SIDE * SIDE  # of an image
TINY = {"image_size": SIDE, "crop": SIDE, "latent": 8, "width": 4, "steps": 4, "batch_images": 8, "sigma": 1.0}
SMALL = TINY | {"map": "absolute", "loss": "mse+ssim"}
NAMES = ("absolute", "mse", "ssim", "mse+ssim", "features")


def small(**changes: Any) -> Autoencoder:
    """A small autoencoder; a VAE where it has a beta."""
    return (Vae if "beta" in changes else Autoencoder)(**SMALL | changes)


def untrained(**changes: Any) -> Autoencoder:
    """A detector around a network that has seen nothing, with random weights in every layer."""
    detector = small(**changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = detector.new_network()
        network.start_from(torch.rand(3, SIDE, SIDE))
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                torch.nn.init.normal_(layer.weight, std=2 / layer.weight[0].numel() ** 0.5)
    detector.network, detector.seed = network.eval().to(torch_device()), 3
    return detector


def tensors(images: np.ndarray) -> torch.Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


def pair(kind: str, height: int = 18, width: int = 14) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images and what was made of them, (2, 3, height, width) float64 in [0, 1]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width] / 10
    images = rng.random((2, 3, height, width))
    if kind == "smooth":
        images = 0.5 + 0.3 * np.sin(rows + np.arange(6).reshape(2, 3, 1, 1)) * np.cos(columns)
    if kind == "constant":
        images = np.broadcast_to(rng.random((2, 3, 1, 1)), images.shape).copy()
    other = np.clip(images + rng.normal(0, 0.1, images.shape), 0, 1)
    return torch.from_numpy(images), torch.from_numpy(other)


def layers(images: torch.Tensor) -> list[torch.Tensor]:
    """Features of two depths: the colours themselves, and means of 2×2 blocks with their squares."""
    blocks = torch.nn.functional.avg_pool2d(images, 2)
    return [images, torch.cat([blocks, blocks**2], 1)]


EXTRACTOR = Backbone("numbers", "none", False, lambda images: [], tensors=layers)


# --- differences ------------------------------------------------------------------------------------------------------


def one_minus_ssim(images: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Eq. 13 of Wang et al., window by window: weighted means, variances and covariance."""
    offsets = np.arange(-5, 6)
    bell = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    bell /= bell.sum()
    found = np.empty(images.shape)
    edges = ((0, 0), (0, 0), (5, 5), (5, 5))
    first, second = (np.pad(one, edges, mode="reflect") for one in (images, other))
    for image, colour, row, column in np.ndindex(images.shape):
        x, y = (one[image, colour, row : row + 11, column : column + 11] for one in (first, second))
        mean_x, mean_y = (bell * x).sum(), (bell * y).sum()
        variances = (bell * (x - mean_x) ** 2).sum() + (bell * (y - mean_y) ** 2).sum()
        covariance = (bell * (x - mean_x) * (y - mean_y)).sum()
        luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        found[image, colour, row, column] = luminance * (2 * covariance + 9e-4) / (variances + 9e-4)
    return 1 - found.mean(1)


@pytest.mark.parametrize("kind", ["noise", "smooth", "constant"])
def test_ssim_equals_a_loop_over_windows(kind: str) -> None:
    """In double precision to the last digits, in single as well as its constants let it; half around it is not used."""
    images, other = pair(kind)
    expected = one_minus_ssim(images.numpy(), other.numpy())
    assert expected.max() > 0.05
    np.testing.assert_allclose(dissimilarity(images, other).numpy(), expected, atol=1e-10)
    images, rounded = images.float(), other.bfloat16()
    single = dissimilarity(images, other.float())
    with torch.autocast("cpu", torch.bfloat16):
        half, halves = dissimilarity(images, other.float()), dissimilarity(images, rounded)
    of_rounded = one_minus_ssim(images.double().numpy(), rounded.double().numpy())
    for found, wanted in ((single, expected), (half, expected), (halves, of_rounded)):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5 if kind == "noise" else 2e-4)


def test_differences_by_hand() -> None:
    """Pixel by pixel, averaged over the colours; a weighted sum of two where two are named."""
    images, other = pair("noise")
    error = images.numpy() - other.numpy()
    ssim = one_minus_ssim(images.numpy(), other.numpy())
    expected = {"absolute": np.abs(error).mean(1), "mse": (error**2).mean(1), "ssim": ssim}
    expected["mse+ssim"] = expected["mse"] + 0.01 * ssim
    for name, values in expected.items():
        np.testing.assert_allclose(difference_map(name, images, other), values, atol=1e-10, err_msg=name)


def test_differences_of_features_by_hand() -> None:
    """1 − cosine in numpy at every cell, enlarged by scipy, averaged over the two layers."""
    images, other = pair("noise")
    expected = np.zeros((2, 18, 14))
    for first, second in zip(layers(images), layers(other), strict=True):
        first, second = first.numpy(), second.numpy()
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        distance = 1 - (first * second).sum(1) / lengths
        factor = 18 // distance.shape[1]
        expected += ndimage.zoom(distance, (1, factor, factor), order=1, mode="nearest", grid_mode=True) / 2
    assert expected.max() > 0.1
    np.testing.assert_allclose(difference_map("features", images, other, EXTRACTOR), expected, atol=1e-10)


@pytest.mark.parametrize("kind", ["noise", "smooth", "constant"])
def test_equal_images_have_no_difference(kind: str) -> None:
    """Whatever the measure; constant images too, where SSIM has nothing to divide by but its constants."""
    images = pair(kind)[0].float()
    for name in NAMES:
        found = difference_map(name, images, images.clone(), EXTRACTOR)
        assert found.shape == (2, 18, 14)
        np.testing.assert_allclose(found, 0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_constant_images_are_finite(name: str, level: float) -> None:
    """Also black ones, and also where the reconstruction is already right."""
    for step in (0.0, 0.1):
        other = torch.full((1, 3, 16, 16), abs(level - step), requires_grad=True)
        difference_map(name, torch.full((1, 3, 16, 16), level), other, EXTRACTOR).sum().backward()
        assert other.grad.isfinite().all()


def test_the_gradient_of_features_reaches_the_reconstruction() -> None:
    """Against finite differences."""
    images, other = pair("noise", 6, 4)
    other.requires_grad_()
    assert torch.autograd.gradcheck(lambda own: difference_map("features", images, own, EXTRACTOR), other)
    difference_map("features", images, other, EXTRACTOR).sum().backward()
    assert (other.grad != 0).all()


# --- the network ------------------------------------------------------------------------------------------------------


def test_divergence_is_that_of_torch() -> None:
    """KL of every row to N(0, I), from tiny to large variances; 0 without a variance."""
    mean, log_variance = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    normal, unit = Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(7), torch.ones(7))
    torch.testing.assert_close(autoencoder.divergence(mean, log_variance), kl_divergence(normal, unit).sum(1))
    assert autoencoder.divergence(torch.zeros(3, 7), torch.zeros(3, 7)).tolist() == [0, 0, 0]
    assert autoencoder.divergence(mean, None).tolist() == [0] * 5


@pytest.mark.parametrize(
    ("side", "latent", "depth", "bottleneck"),
    [(32, 5, 5, 5), (64, 5, 5, 5), (48, 7, 4, 7), (32, 3, 2, 3), (32, 0, 3, 16 * 4 * 4), (64, 0, 5, 32 * 2 * 2)],
)
@pytest.mark.parametrize("variational", [False, True])
def test_shapes_of_the_network(side: int, latent: int, depth: int, bottleneck: int, variational: bool) -> None:
    """A vector in the middle, or the last grid where there is none; an image in [0, 1] at the end."""
    variational = variational and latent > 0
    network = AutoencoderNetwork(side, latent, 4, depth, variational).eval()
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        mean, log_variance = network.encode(images)
        reconstructions, divergences = network(images)
    assert network.bottleneck == bottleneck
    assert network.grid[1:] == (side >> depth, side >> depth)
    assert mean.shape == (2, bottleneck)
    assert (log_variance is None) != variational
    assert reconstructions.shape == images.shape
    assert 0 <= reconstructions.min() <= reconstructions.max() <= 1
    assert divergences.shape == (2,)
    assert (divergences > 0).all() == variational


def test_a_vae_draws_its_vector() -> None:
    """Mean + deviation · noise, decoded; no noise, or noise 0, is the mean decoded. A plain autoencoder takes none."""
    network, plain = untrained(beta=1.0).network, untrained().network
    images, noise = (torch.rand(4, *shape, device=torch_device()) for shape in ((3, SIDE, SIDE), (8,)))
    with torch.inference_mode():
        mean, log_variance = network.encode(images)
        normal = Normal(mean, log_variance.exp().sqrt())
        for given, vector in ((None, mean), (0 * noise, mean), (noise, normal.mean + normal.stddev * noise)):
            reconstructions, divergences = network(images, given)
            torch.testing.assert_close(reconstructions, network.decode(vector))
            unit = Normal(torch.zeros_like(mean), torch.ones_like(mean))
            torch.testing.assert_close(divergences, kl_divergence(normal, unit).sum(1))
        assert not torch.allclose(network(images, noise)[0], network.decode(mean))
        assert torch.equal(plain(images, noise)[0], plain(images)[0])


@pytest.mark.parametrize("latent", [8, 0])
def test_the_first_reconstruction_is_the_mean_image(latent: int) -> None:
    """Before any step; the mean colour where there is no vector."""
    network, mean = AutoencoderNetwork(SIDE, latent, 4).eval(), torch.rand(3, SIDE, SIDE) * 0.9 + 0.05
    network.start_from(mean)
    expected = mean if latent else mean.mean((1, 2), keepdim=True).expand_as(mean)
    with torch.inference_mode():
        torch.testing.assert_close(network(torch.rand(2, 3, SIDE, SIDE))[0], expected.expand(2, -1, -1, -1))


# --- what the network gets to see -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "noise", "mask"])
def test_corrupted_inputs(kind: str) -> None:
    """In [0, 1], the same for the same stream, another for another; the images themselves stay as they are."""
    images = torch.rand(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    seen = corrupt(images, kind, np.random.default_rng(5))
    assert torch.equal(images, before)
    assert (seen.shape, seen.dtype) == (images.shape, images.dtype)
    assert 0 <= seen.min() <= seen.max() <= 1
    assert torch.equal(seen, corrupt(images, kind, np.random.default_rng(5)))
    assert torch.equal(seen, images) == (kind == "none")
    assert torch.equal(seen, corrupt(images, kind, np.random.default_rng(6))) == (kind == "none")
    if kind == "noise":  # on grey, where nothing is cut off; 60 000 numbers
        seen = corrupt(torch.full((20, 3, SIDE, SIDE), 0.5), kind, np.random.default_rng(0))
        assert (seen - 0.5).std().item() == pytest.approx(0.15, rel=0.02)
        assert (seen - 0.5).mean().item() == pytest.approx(0, abs=0.003)


def test_masks_are_squares_of_the_mean_colour() -> None:
    """Of each image's own; at least the smallest square is hidden, at most four of the largest."""
    images = torch.rand(40, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    seen = corrupt(images, "mask", np.random.default_rng(0))
    hidden = (seen != images).any(1)
    for image, own, where in zip(images, seen, hidden, strict=True):
        expected = image.numpy().mean((1, 2), dtype=np.float64)
        np.testing.assert_allclose(own[:, where].T.numpy(), np.tile(expected, (int(where.sum()), 1)), rtol=1e-5)
        labels, number = ndimage.label(where.numpy())
        assert 1 <= number <= 4
        boxes = ndimage.find_objects(labels)
        assert all(min(one.stop - one.start for one in box) >= round(0.1 * SIDE) for box in boxes)
    assert 3**2 <= hidden.sum((1, 2)).min() <= hidden.sum((1, 2)).max() <= 4 * 10**2
    assert (hidden.sum((1, 2)) > 10**2).any()  # more than one square
    edges = hidden[:, 0].any() & hidden[:, -1].any() & hidden[:, :, 0].any() & hidden[:, :, -1].any()
    assert edges, "squares never reach the border"


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "ssim"},
        {"loss": "mse", "corruption": "noise"},
        {"corruption": "mask", "batch_images": 5},
        {"latent": 0, "depth": 3},
        {"beta": 1.0},
        {"beta": 3.0, "corruption": "noise"},
    ],
    ids=str,
)
def test_the_first_steps_by_hand(good: np.ndarray, changes: dict[str, Any]) -> None:
    """Clean targets, damaged inputs, β · KL, AdamW: the losses of three steps from the parts that are tested above."""
    detector = small(steps=3, lr=0.01, **changes)
    kept = np.delete(good, held_out_positions(12, 6, 5), 0)
    torch.manual_seed(5)
    network = detector.new_network().train()
    network.start_from(torch.from_numpy(kept.mean(0) / 255).permute(2, 0, 1))
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    expected = []
    for step in range(3):
        rng = np.random.default_rng([5, step])
        clean = tensors(kept[np.sort(rng.permutation(len(kept))[: detector.batch_images])])
        noise = torch.from_numpy(rng.standard_normal((len(clean), 8)).astype(np.float32)) if "beta" in changes else 0
        vector, log_variance = network.encode(corrupt(clean, detector.corruption, rng))
        bound = torch.zeros(())
        if "beta" in changes:
            normal = Normal(vector, (log_variance / 2).exp())
            bound = changes["beta"] * kl_divergence(normal, Normal(0.0, 1.0)).sum(1).mean()
            vector = normal.mean + normal.stddev * noise
        loss = NUMBERS * difference_map(detector.loss, clean, network.decode(vector)).mean() + bound
        expected.append(loss.item())
        optimiser.param_groups[0]["lr"] = 0.01 * warm_cosine(step, 3)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert detector.fit(good, seed=5).curve["loss"].tolist() == pytest.approx(expected, rel=1e-3)


def test_it_learns_what_varies() -> None:
    """Images that are one of four greys at random: the mean image leaves their variance, the network much less."""
    levels = np.random.default_rng(0).choice([60, 110, 150, 200], 24)
    images = np.broadcast_to(levels[:, None, None, None], (24, SIDE, SIDE, 3)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(24)  # no two of them the same, which would count once
    detector = small(steps=150, width=8, lr=1e-2, patience=0).fit(images)
    held = held_out_positions(24, 12, 0)
    squares = (detector.reconstruct(images[held]).astype(float) - images[held]) ** 2
    mean = np.delete(images, held, 0).mean(0)
    assert squares.mean() < 0.2 * ((mean - images[held]) ** 2).mean()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "ssim", "map": "ssim"},
        {"map": "ssim", "corruption": "mask"},
        {"image_score": "error", "corruption": "noise"},
        {"latent": 0},
        {"beta": 1.0, "loss": "mse"},
        {"beta": 1.0, "image_score": "elbo"},
        {"loss": "features", "map": "features", "backbone": "resnet18", "weights": "random", "steps": 30},
    ],
    ids=str,
)
def test_a_planted_patch_is_found(
    good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray], changes: dict[str, Any]
) -> None:
    """Every defective image above every good one, its map high inside the patch, with the peak there."""
    images, masks = test_set
    detector = small(**{"steps": 100, **changes}).fit(good)
    scores = detector.score(images)
    assert scores.image.dtype == scores.maps.dtype == detector.good_scores.dtype == np.float32
    assert scores.maps.shape == (12, SIDE, SIDE)
    assert roc_auc_score(np.repeat([0, 1], 6), scores.image) == 1
    assert scores.image[6:].min() > detector.good_scores.max()
    for one, mask in zip(scores.maps[6:], masks[6:], strict=True):
        assert one[mask].mean() > 1.5 * one[~mask].mean()
        if detector.map != "features":  # whose cells are 4 to 16 pixels wide
            assert ndimage.binary_dilation(mask, iterations=2)[np.unravel_index(one.argmax(), one.shape)]


def test_the_held_out_loss_is_that_of_undamaged_images(draw: Draw) -> None:
    """Neither corruption nor noise nor batch statistics of their own; of 35: more than are looked at together."""
    images = np.stack([draw(np.random.default_rng(index), SIDE, False)[0] for index in range(70)])
    detector = small(beta=2.0, loss="mse", corruption="mask", image_score="elbo", held_out=0.5).fit(images)
    assert len(detector.good_scores) == 35
    held_out = detector.curve["held_out"]
    assert held_out.iloc[-1] == pytest.approx(detector.good_scores.mean(), rel=1e-5)  # squared error + β · KL
    assert held_out.iloc[:-1].isna().all()


def test_epochs_are_whole_passes_over_all_good_images(good: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image once a pass, in batches of nearly one size and another order each time; none is held out."""
    batches, loss_of = [], Autoencoder.loss_of
    monkeypatch.setattr(
        Autoencoder,
        "loss_of",
        lambda self, clean, *more: (
            batches.append(sorted(as_images(clean).sum((1, 2, 3)).tolist())),
            loss_of(self, clean, *more),
        )[1],
    )
    detector = small(epochs=3, batch_images=5, held_out=0.0).fit(good)
    marks = sorted(good.sum((1, 2, 3)).tolist())
    assert len(set(marks)) == len(marks) == GOOD
    assert [len(batch) for batch in batches] == 9 * [4]
    passes = [list(itertools.chain(*batches[first : first + 3])) for first in (0, 3, 6)]
    assert [sorted(one) for one in passes] == 3 * [marks]
    assert passes[0] != passes[1] != passes[2]
    assert len(detector.curve) == 9
    assert "held_out" not in detector.curve
    again = small(epochs=3, batch_images=5, held_out=0.0).load_state(detector.state())
    np.testing.assert_array_equal(again.score(good).image, detector.score(good).image)
    assert detector.good_scores.shape == (0,)


def test_the_reported_setting_is_what_is_reported() -> None:
    """All good images, 100 epochs, squared error: nothing is held out and nothing stops it early."""
    reported = Autoencoder.preset("reported")
    assert (reported.loss, reported.map, reported.epochs, reported.patience) == ("mse", "absolute", 100, 0)
    assert reported.calibration_images(209) == 0
    assert not reported.calibrates
    assert Autoencoder.preset("full") == Autoencoder()


def test_it_stops_early_with_the_best_weights(draw: Draw) -> None:
    """Held-out images are looked at every 50 steps; when they get worse it stops, and ends with what was best."""
    images = np.stack([draw(np.random.default_rng(index), SIDE, False)[0] for index in range(6)])
    detector = small(patience=1, steps=1000, lr=0.01, width=8).fit(images)
    checks = detector.curve["held_out"].dropna()
    assert checks.index.tolist() == list(range(49, len(detector.curve), 50))
    assert len(detector.curve) < 1000
    assert checks.iloc[-1] >= checks.min() == checks.iloc[-2]
    held = images[held_out_positions(6, 3, 0)]
    with torch.no_grad():
        assert detector.held_out_loss(held) == pytest.approx(checks.min(), rel=1e-6)
    endless = small(patience=0, steps=len(detector.curve) + 20, lr=0.01, width=8).fit(images)
    assert len(endless.curve) == len(detector.curve) + 20


@pytest.mark.parametrize("level", [0, 90, 255])
@pytest.mark.parametrize("changes", [{"map": "ssim"}, {"beta": 1.0, "image_score": "elbo"}], ids=str)
def test_constant_images_train_and_score(level: int, changes: dict[str, Any]) -> None:
    """Black, grey and white: nothing varies, nothing is divided by zero."""
    images = np.full((3, SIDE, SIDE, 3), level, np.uint8)  # two to learn from, one to calibrate on, no whole batch
    detector = small(batch_images=32, held_out=0.9, **changes)
    detector.fit_seen(detector.parts(images), 3, 0)  # `fit` would take them for one image
    assert detector.good_scores.shape == (1,)
    scores = detector.score(images)
    for values in (scores.image, scores.maps, detector.good_scores, detector.curve["loss"]):
        assert np.isfinite(values).all()
    assert np.ptp(scores.image) < 1e-6


# --- the network whose features are compared --------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["loss", "map"])
def test_a_network_without_gradients_is_refused(good: np.ndarray, monkeypatch: pytest.MonkeyPatch, use: str) -> None:
    """A Keras network gives none; before anything is trained."""
    keras = Backbone("keras:mobilenet", "random", False, lambda images: [])
    monkeypatch.setattr(autoencoder, "load_backbone", lambda name, weights: keras)
    monkeypatch.setattr(autoencoder, "Run", None)
    with pytest.raises(SettingsError, match="keras:mobilenet gives no gradients here: use a torch network"):
        small(backbone="keras:mobilenet", **{use: "features"}).fit(good)


@pytest.mark.parametrize(("changes", "used"), [({}, False), ({"loss": "features"}, True), ({"map": "features"}, True)])
def test_a_backbone_only_where_features_are_compared(
    good: np.ndarray, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], used: bool
) -> None:
    """Loaded when it is needed, once, and no part of what is trained and kept."""
    loaded = []

    def load(name: str, weights: str) -> Backbone:
        loaded.append((name, weights))
        return EXTRACTOR

    monkeypatch.setattr(autoencoder, "load_backbone", load)
    detector = small(steps=2, weights="random", **changes)
    assert loaded == []
    detector.fit(good).score(good[:1])
    assert loaded == [("efficientnet_lite0", "random")] * used
    assert (detector.backbone_name, detector.weights_name) == (("numbers", "none") if used else (None, None))
    assert set(detector.state()) == set(small(steps=2).fit(good).state())


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("map_name", ["absolute", "ssim", "features"])
def test_maps_and_peaks_by_hand(test_set: tuple[np.ndarray, np.ndarray], map_name: str) -> None:
    """The difference to the reconstruction, blurred by scipy, and its maximum; in batches as all at once."""
    detector = untrained(map=map_name)
    detector.use_backbone(EXTRACTOR)
    images = np.concatenate([test_set[0]] * 3)  # 36: more than one batch
    pixels = tensors(images)
    with torch.inference_mode():
        other = detector.network(pixels.to(torch_device()))[0].cpu()
    raw = difference_map(map_name, pixels, other, EXTRACTOR).double().numpy()
    expected = np.stack([ndimage.gaussian_filter(one, 1.0) for one in raw])
    scores = detector.score(images)
    np.testing.assert_allclose(scores.maps, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(scores.image, scores.maps.max((1, 2)))


@pytest.mark.parametrize("beta", [0.0, 1.0, 50.0])
def test_the_elbo_score_is_minus_the_evidence_bound(test_set: tuple[np.ndarray, np.ndarray], beta: float) -> None:
    """Log-probabilities of torch under a normal distribution of variance ½, less β · KL, up to the constant."""
    detector, images = untrained(beta=beta, image_score="elbo"), test_set[0]
    pixels = tensors(images).to(torch_device())
    with torch.inference_mode():
        mean, log_variance = detector.network.encode(pixels)
        likelihood = Normal(detector.network.decode(mean).double(), 0.5**0.5).log_prob(pixels.double()).sum((1, 2, 3))
        divergences = kl_divergence(Normal(mean.double(), (log_variance.double() / 2).exp()), Normal(0.0, 1.0)).sum(1)
    constant = NUMBERS * 0.5 * np.log(np.pi)
    expected = (-(likelihood - beta * divergences) - constant).cpu().numpy()
    np.testing.assert_allclose(detector.score(images).image, expected, rtol=1e-4)
    error = detector.score_as(images, "absolute", "error").image
    assert (error == detector.score(images).image).all() == (beta == 0)


def test_scores_under_another_map(test_set: tuple[np.ndarray, np.ndarray]) -> None:
    """Those of a detector with that map and image score among its options; its own stay; unknown names are refused."""
    detector, images = untrained(beta=1.0), test_set[0]
    before = detector.options()
    for map_name, image_score in (("ssim", "peak"), ("absolute", "error"), ("ssim", "elbo")):
        own = untrained(beta=1.0, map=map_name, image_score=image_score).score(images)
        found = detector.score_as(images, map_name, image_score)
        np.testing.assert_array_equal(found.image, own.image)
        np.testing.assert_array_equal(found.maps, own.maps)
    assert detector.options() == before
    features = untrained(map="features")
    features.use_backbone(EXTRACTOR)  # as an artifact gives it: not the one of the options
    np.testing.assert_array_equal(features.score_as(images, "features").maps, features.score(images).maps)
    for names in (("mse",), ("ssim", "loss")):
        with pytest.raises(SettingsError, match="is unknown: use one of"):
            detector.score_as(images, *names)
    with pytest.raises(SettingsError, match="'elbo' is unknown"):
        untrained().score_as(images, "ssim", "elbo")


@pytest.mark.parametrize("changes", [{}, {"beta": 1.0}], ids=["autoencoder", "vae"])
def test_reconstructions(test_set: tuple[np.ndarray, np.ndarray], changes: dict[str, Any]) -> None:
    """uint8 images: the network's own, rounded; always the same, and of images of another size at the network's."""
    detector, images = untrained(**changes), test_set[0]
    found = detector.reconstruct(images)
    assert (found.shape, found.dtype) == (images.shape, np.uint8)
    with torch.inference_mode():
        expected = detector.network(tensors(images).to(torch_device()))[0]
    assert np.abs(found - expected.permute(0, 2, 3, 1).cpu().numpy() * 255.0).max() <= 0.501
    np.testing.assert_array_equal(detector.reconstruct(images), found)
    np.testing.assert_array_equal(detector.reconstruct(images[4:5])[0], found[4])
    np.testing.assert_array_equal(detector.reconstruct(images.repeat(2, 1).repeat(2, 2)), found)


def test_samples() -> None:
    """Decoded standard normal vectors, the seed decides which."""
    detector = untrained(beta=1.0)
    found = detector.sample(5, seed=2)
    assert (found.shape, found.dtype) == ((5, SIDE, SIDE, 3), np.uint8)
    np.testing.assert_array_equal(found, detector.sample(5, seed=2))
    assert (found != detector.sample(5, seed=3)).any()
    assert len(np.unique(found.reshape(5, -1), axis=0)) == 5
    vectors = torch.from_numpy(np.random.default_rng(2).standard_normal((5, 8))).float().to(torch_device())
    with torch.inference_mode():
        expected = detector.network.decode(vectors).permute(0, 2, 3, 1).cpu().numpy() * 255.0
    assert np.abs(found - expected).max() <= 0.501
