"""Autoencoder and VAE: differences against loops in numpy, divergences against torch's own, runs that repeat."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch.distributions import Normal, kl_divergence

from mvtec_ad.backbones import Backbone
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.methods import autoencoder
from mvtec_ad.methods.autoencoder import differences, fitting
from mvtec_ad.settings import AutoencoderSettings, torch_device
from mvtec_ad.training import rng_of, warm_cosine

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE = 32
NUMBERS = 3 * SIDE * SIDE  # of an image
SMALL = AutoencoderSettings(
    image_size=SIDE, crop=SIDE, latent=8, width=4, steps=4, batch=8, sigma=1.0, map="absolute", seeds=(0,)
)
VAE = replace(SMALL, variational=True)


@pytest.fixture(scope="module")
def good(draw: Draw) -> np.ndarray:
    """(12, SIDE, SIDE, 3) good surfaces; three of them, or more, are held out."""
    generator = np.random.default_rng(0)
    return np.stack([draw(generator, SIDE, False)[0] for _ in range(12)])


@pytest.fixture(scope="module")
def test_set(draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Six good and six defective surfaces, in that order, and their masks."""
    generator = np.random.default_rng(1)
    images, masks = zip(*[draw(generator, SIDE, index >= 6) for index in range(12)], strict=True)
    return np.stack(images), np.stack(masks)


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Seed and number of every training step, in order."""
    taken: list[tuple[int, int]] = []

    def watched(seed: int, step: int) -> np.random.Generator:
        taken.append((seed, step))
        return rng_of(seed, step)

    monkeypatch.setattr(fitting, "rng_of", watched)
    return taken


def fit(settings: AutoencoderSettings, images: np.ndarray) -> autoencoder.Redrawing:
    """Fitted in silence."""
    return autoencoder.fit(settings, images, progress=False)


def resumed(settings: AutoencoderSettings, images: np.ndarray) -> autoencoder.Redrawing:
    """Fitted as `evaluate` does it: with a checkpoint, which is gone on from and removed at the end."""
    (trial,) = autoencoder.fit_and_score(settings, images, images[:1], progress=False)
    return trial.model


def network_of(settings: AutoencoderSettings) -> autoencoder.Autoencoder:
    """The network that the settings describe."""
    shape = settings.crop, settings.latent, settings.width, settings.halvings
    return autoencoder.Autoencoder(*shape, variational=settings.variational)


def untrained(settings: AutoencoderSettings, seed: int = 3) -> autoencoder.Redrawing:
    """A model around a network that has seen nothing, with random weights in every layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = network_of(settings)
        network.start_from(torch.rand(3, settings.crop, settings.crop))
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                torch.nn.init.normal_(layer.weight, std=2 / layer.weight[0].numel() ** 0.5)
    return autoencoder.Redrawing(network.eval().to(torch_device()), settings, seed)


def weights_of(fitted: autoencoder.Redrawing) -> dict[str, np.ndarray]:
    """Every weight and buffer."""
    return {name: value.cpu().numpy() for name, value in fitted.network.state_dict().items()}


def same(one: autoencoder.Redrawing, other: autoencoder.Redrawing) -> bool:
    """Whether two networks are equal to the bit."""
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def checkpoints(home: Path) -> list[str]:
    """Whatever lies where runs keep their checkpoints, hidden and temporary files too."""
    folder = home / "transfer" / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def pair(kind: str, height: int = 18, width: int = 14) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images and what was made of them, (2, 3, height, width) float64 in [0, 1]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width] / 10
    images = rng.random((2, 3, height, width))
    if kind == "smooth":
        images = 0.5 + 0.3 * np.sin(rows + np.arange(6).reshape(2, 3, 1, 1)) * np.cos(columns)
    if kind == "constant":
        images = np.broadcast_to(rng.random((2, 3, 1, 1)), images.shape).copy()
    redrawn = np.clip(images + rng.normal(0, 0.1, images.shape), 0, 1)
    return torch.from_numpy(images), torch.from_numpy(redrawn)


# Differences --------------------------------------------------------------------------------------------------------


def dissimilarity(images: np.ndarray, redrawn: np.ndarray) -> np.ndarray:
    """1 − SSIM by eq. 13 of Wang et al., window by window: weighted means, variances and covariance."""
    offsets = np.arange(-5, 6)
    bell = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    bell /= bell.sum()
    batch, colours, height, width = images.shape
    found = np.empty(images.shape)
    edges = ((0, 0), (0, 0), (5, 5), (5, 5))
    first, second = (np.pad(one, edges, mode="reflect") for one in (images, redrawn))
    for image, colour, row, column in np.ndindex(batch, colours, height, width):
        x, y = (one[image, colour, row : row + 11, column : column + 11] for one in (first, second))
        mean_x, mean_y = (bell * x).sum(), (bell * y).sum()
        variances = (bell * (x - mean_x) ** 2).sum() + (bell * (y - mean_y) ** 2).sum()
        covariance = (bell * (x - mean_x) * (y - mean_y)).sum()
        luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        found[image, colour, row, column] = luminance * (2 * covariance + 9e-4) / (variances + 9e-4)
    return 1 - found.mean(1)


@pytest.mark.parametrize("kind", ["noise", "smooth", "constant"])
def test_ssim_equals_a_loop_over_windows(kind: str) -> None:
    """In double precision to the last digits, in single as well as the small constants let it."""
    images, redrawn = pair(kind)
    expected = dissimilarity(images.numpy(), redrawn.numpy())
    assert expected.max() > 0.05
    np.testing.assert_allclose(differences.structural(images, redrawn).numpy(), expected, atol=1e-10)
    found = differences.structural(images.float(), redrawn.float())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5 if kind == "noise" else 2e-4)


@pytest.mark.parametrize("kind", ["noise", "smooth", "constant"])
def test_equal_images_have_no_difference(kind: str) -> None:
    """Whatever the measure; constant images too, where SSIM has nothing to divide by but its constants."""
    images = pair(kind)[0].float()
    for name in ("absolute", "ssim"):
        found = autoencoder.difference_map(name, images, images.clone())
        assert found.shape == (2, 18, 14)
        np.testing.assert_allclose(found, 0, atol=1e-6)
    np.testing.assert_allclose(differences.perceived(images, images.clone(), layers), 0, atol=1e-6)
    for name in ("mse", "ssim", "mse+ssim", "features"):
        np.testing.assert_allclose(autoencoder.loss(name, images, images.clone(), layers), 0, atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", ["mse", "ssim", "mse+ssim", "features"])
def test_gradients_of_constant_images_are_finite(name: str, level: float) -> None:
    """Also black ones, and also where the reconstruction is already right."""
    for step in (0.0, 0.1):
        redrawn = torch.full((1, 3, 16, 16), abs(level - step), requires_grad=True)
        autoencoder.loss(name, torch.full((1, 3, 16, 16), level), redrawn, layers).sum().backward()
        assert redrawn.grad.isfinite().all()


def test_half_precision_around_it_does_not_reach_ssim() -> None:
    """E[x²] − E[x]² of 8-bit mantissas is no variance: on a GPU the loss is computed inside autocast."""
    images, redrawn = (one.float() for one in pair("smooth"))
    expected = dissimilarity(images.numpy(), redrawn.numpy())
    with torch.autocast("cpu", torch.bfloat16):
        found = differences.structural(images, redrawn)
    np.testing.assert_allclose(found.float().numpy(), expected, atol=2e-4)


def test_absolute_and_squared_differences() -> None:
    """Averaged over the colours, pixel by pixel."""
    images, redrawn = pair("noise")
    difference = images.numpy() - redrawn.numpy()
    np.testing.assert_allclose(differences.absolute(images, redrawn), np.abs(difference).mean(1))
    np.testing.assert_allclose(differences.squared(images, redrawn), (difference**2).mean(1))


def layers(images: torch.Tensor) -> list[torch.Tensor]:
    """Features of two depths: the colours themselves, and means of 2×2 blocks with their squares."""
    blocks = torch.nn.functional.avg_pool2d(images, 2)
    return [images, torch.cat([blocks, blocks**2], 1)]


def test_perceived_differences_by_hand() -> None:
    """1 − cosine in numpy at every cell, enlarged by scipy, averaged over the two layers."""
    images, redrawn = pair("noise")
    expected = np.zeros((2, 18, 14))
    for own, other in zip(layers(images), layers(redrawn), strict=True):
        own, other = own.numpy(), other.numpy()
        lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(other, axis=1)
        distance = 1 - (own * other).sum(1) / lengths
        factor = 18 // distance.shape[1]
        expected += ndimage.zoom(distance, (1, factor, factor), order=1, mode="nearest", grid_mode=True) / 2
    assert expected.max() > 0.1
    found = autoencoder.difference_map("features", images, redrawn, layers)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(autoencoder.loss("features", images, redrawn, layers), expected.mean((1, 2)), atol=1e-10)


def test_the_gradient_of_features_reaches_the_reconstruction() -> None:
    """Against finite differences."""
    images, redrawn = pair("noise", 6, 4)
    redrawn.requires_grad_()
    assert torch.autograd.gradcheck(lambda drawn: autoencoder.loss("features", images, drawn, layers), redrawn)
    autoencoder.loss("features", images, redrawn, layers).sum().backward()
    assert (redrawn.grad != 0).all()


@pytest.mark.parametrize(
    ("name", "squares", "structure"),
    [("mse", 1, 0), ("ssim", 0, 1), ("mse+ssim", 1, differences.SSIM_WEIGHT)],
)
def test_a_loss_is_the_mean_of_its_maps(name: str, squares: float, structure: float) -> None:
    """One number an image; a weighted sum of two where two are named."""
    images, redrawn = pair("noise")
    expected = squares * ((images - redrawn) ** 2).mean((1, 2, 3)).numpy()
    expected += structure * dissimilarity(images.numpy(), redrawn.numpy()).mean((1, 2))
    np.testing.assert_allclose(autoencoder.loss(name, images, redrawn), expected, atol=1e-10)


# The network --------------------------------------------------------------------------------------------------------


def test_divergence_is_that_of_torch() -> None:
    """KL of every row to N(0, I), from tiny to large variances."""
    mean, log_variance = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    normal, unit = Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(7), torch.ones(7))
    torch.testing.assert_close(autoencoder.divergence(mean, log_variance), kl_divergence(normal, unit).sum(1))
    zero = torch.zeros(3, 7)
    assert autoencoder.divergence(zero, zero).tolist() == [0, 0, 0]
    assert autoencoder.divergence(mean, None).tolist() == [0] * 5


@pytest.mark.parametrize(
    ("side", "latent", "halvings", "code"),
    [(32, 5, 5, 5), (64, 5, 5, 5), (48, 7, 4, 7), (32, 3, 2, 3), (32, 0, 3, 16 * 4 * 4), (64, 0, 5, 32 * 2 * 2)],
)
@pytest.mark.parametrize("variational", [False, True])
def test_shapes_of_the_network(side: int, latent: int, halvings: int, code: int, variational: bool) -> None:
    """A vector in the middle, or the last grid where there is none; an image in [0, 1] at the end."""
    variational = variational and latent > 0
    network = autoencoder.Autoencoder(side, latent, 4, halvings, variational).eval()
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        mean, log_variance = network.encode(images)
        redrawn, divergences = network(images)
    assert network.code == code
    assert mean.shape == (2, code)
    assert (log_variance is None) != variational
    assert redrawn.shape == images.shape
    assert 0 <= redrawn.min() <= redrawn.max() <= 1
    assert divergences.shape == (2,)
    assert (divergences > 0).all() == variational


def test_a_vae_draws_its_vector() -> None:
    """Mean + deviation · noise, decoded; no noise, or noise 0, is the mean decoded."""
    network = untrained(VAE).network
    images = torch.rand(4, 3, SIDE, SIDE, device=torch_device())
    noise = torch.randn(4, 8, device=torch_device())
    with torch.inference_mode():
        mean, log_variance = network.encode(images)
        normal = Normal(mean, log_variance.exp().sqrt())
        for given, vector in ((None, mean), (0 * noise, mean), (noise, normal.mean + normal.stddev * noise)):
            redrawn, divergences = network(images, given)
            torch.testing.assert_close(redrawn, network.decode(vector))
            unit = Normal(torch.zeros_like(mean), torch.ones_like(mean))
            torch.testing.assert_close(divergences, kl_divergence(normal, unit).sum(1))
        assert not torch.allclose(network(images, noise)[0], network.decode(mean))


def test_a_plain_autoencoder_takes_no_noise() -> None:
    """The same image with and without."""
    network = untrained(SMALL).network
    images = torch.rand(4, 3, SIDE, SIDE, device=torch_device())
    with torch.inference_mode():
        torch.testing.assert_close(network(images, torch.ones(4, 8, device=torch_device()))[0], network(images)[0])


# What the network gets to see ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "noise", "mask"])
def test_corrupted_inputs(kind: str) -> None:
    """In [0, 1], the same for the same stream, another for another; the images themselves stay as they are."""
    images = torch.rand(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    seen = fitting.corrupt(images, kind, np.random.default_rng(5))
    assert torch.equal(images, before)
    assert (seen.shape, seen.dtype) == (images.shape, images.dtype)
    assert 0 <= seen.min() <= seen.max() <= 1
    assert torch.equal(seen, fitting.corrupt(images, kind, np.random.default_rng(5)))
    assert torch.equal(seen, images) == (kind == "none")
    assert torch.equal(seen, fitting.corrupt(images, kind, np.random.default_rng(6))) == (kind == "none")


def test_noise_has_the_deviation_that_is_said() -> None:
    """On grey, where nothing is cut off; 60 000 numbers."""
    seen = fitting.corrupt(torch.full((20, 3, SIDE, SIDE), 0.5), "noise", np.random.default_rng(0))
    assert (seen - 0.5).std().item() == pytest.approx(0.15, rel=0.02)
    assert (seen - 0.5).mean().item() == pytest.approx(0, abs=0.003)


def test_masks_are_squares_of_the_mean_colour() -> None:
    """Of each image's own; at least the smallest square is hidden, at most four of the largest."""
    images = torch.rand(40, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    seen = fitting.corrupt(images, "mask", np.random.default_rng(0))
    hidden = (seen != images).any(1)
    for image, own, where in zip(images, seen, hidden, strict=True):
        expected = image.numpy().mean((1, 2), dtype=np.float64)
        np.testing.assert_allclose(own[:, where].T.numpy(), np.tile(expected, (int(where.sum()), 1)), rtol=1e-5)
        number, found = ndimage.label(where.numpy())[1], ndimage.find_objects(ndimage.label(where.numpy())[0])
        assert 1 <= number <= 4
        assert all(min(one.stop - one.start for one in box) >= round(0.1 * SIDE) for box in found)
    assert 3**2 <= hidden.sum((1, 2)).min() <= hidden.sum((1, 2)).max() <= 4 * 10**2
    assert (hidden.sum((1, 2)) > 10**2).any()  # more than one square
    edges = hidden[:, 0].any() & hidden[:, -1].any() & hidden[:, :, 0].any() & hidden[:, :, -1].any()
    assert edges, "squares never reach the border"


# Training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "ssim"},
        {"loss": "mse+ssim", "corruption": "noise"},
        {"corruption": "mask", "batch": 5},
        {"latent": 0, "halvings": 3},
        {"variational": True},
        {"variational": True, "beta": 3.0, "corruption": "noise"},
    ],
    ids=str,
)
def test_the_first_steps_by_hand(good: np.ndarray, changes: dict[str, object]) -> None:
    """Clean targets, damaged inputs, β · KL, AdamW: the losses of three steps from the parts that are tested above."""
    settings = replace(SMALL, steps=3, seeds=(5,), rate=0.01, **changes)
    kept = np.delete(good, fitting.held_out_positions(settings, 12, 5), 0)
    torch.manual_seed(5)
    network = network_of(settings).train()
    network.start_from(torch.from_numpy(kept.mean(0) / 255).permute(2, 0, 1))
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    expected = []
    for step in range(3):
        rng = rng_of(5, step)
        clean = torch.from_numpy(kept[np.sort(rng.permutation(len(kept))[: settings.batch])]).permute(0, 3, 1, 2) / 255
        if settings.variational:
            noise = torch.from_numpy(rng.standard_normal((len(clean), 8)).astype(np.float32))
        vector, log_variance = network.encode(fitting.corrupt(clean, settings.corruption, rng))
        bound = torch.zeros(())
        if settings.variational:
            normal = Normal(vector, (log_variance / 2).exp())
            bound = settings.beta * kl_divergence(normal, Normal(0.0, 1.0)).sum(1).mean()
            vector = normal.mean + normal.stddev * noise
        redrawn = network.decode(vector)
        loss = NUMBERS * autoencoder.loss(settings.loss, clean, redrawn).mean() + bound
        expected.append(loss.item())
        optimiser.param_groups[0]["lr"] = 0.01 * warm_cosine(step, 3)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert fit(settings, good).curve["loss"].tolist() == pytest.approx(expected, rel=1e-3)


def test_it_learns_what_varies(own_home: Path) -> None:
    """Images that are one of four greys at random: the mean image leaves their variance, the network much less."""
    levels = np.random.default_rng(0).choice([60, 110, 150, 200], 24)
    images = np.broadcast_to(levels[:, None, None, None], (24, SIDE, SIDE, 3)).astype(np.uint8)
    fitted = fit(replace(SMALL, steps=150, width=8, rate=1e-2, patience=0), images)
    aside = fitting.held_out_positions(fitted.settings, 24, 0)
    drawn, mean = fitted.redraw(images[aside]).astype(float), np.delete(images, aside, 0).mean(0)
    assert ((drawn - images[aside]) ** 2).mean() < 0.2 * ((mean - images[aside]) ** 2).mean()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "ssim", "map": "ssim"},
        {"loss": "mse+ssim", "map": "ssim", "corruption": "mask"},
        {"score": "error", "corruption": "noise"},
        {"latent": 0},
        {"variational": True},
        {"variational": True, "score": "elbo"},
        {"loss": "features", "map": "features", "weights": "random", "steps": 30},
    ],
    ids=str,
)
def test_a_planted_patch_is_found(
    good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray], changes: dict[str, object]
) -> None:
    """Every defective image above every good one, its map high inside the patch, with the peak there."""
    images, masks = test_set
    fitted = fit(replace(SMALL, **{"steps": 100, **changes}), good)
    scores = fitted.score(images)
    assert scores.image.dtype == scores.maps.dtype == fitted.good_scores.dtype == np.float32
    assert scores.maps.shape == (12, SIDE, SIDE)
    assert roc_auc_score(np.repeat([0, 1], 6), scores.image) == 1
    assert scores.image[6:].min() > fitted.good_scores.max()
    for one, mask in zip(scores.maps[6:], masks[6:], strict=True):
        assert one[mask].mean() > 1.5 * one[~mask].mean()
        if fitted.settings.map != "features":  # whose cells are 4 to 16 pixels wide
            assert ndimage.binary_dilation(mask, iterations=2)[np.unravel_index(one.argmax(), one.shape)]


@pytest.mark.parametrize("settings", [SMALL, replace(VAE, corruption="mask")], ids=["autoencoder", "vae"])
def test_the_seed_decides_every_bit(good: np.ndarray, settings: AutoencoderSettings) -> None:
    """Weights, batches, noise and held-out images; torch's own stream neither matters nor is touched."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fit(settings, good)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = fit(settings, good), fit(replace(settings, seeds=(1,)), good)
    assert same(first, again)
    assert first.curve.equals(again.curve)
    np.testing.assert_array_equal(first.good_scores, again.good_scores)
    assert all(
        not np.array_equal(value, weights_of(other)[name])
        for name, value in weights_of(first).items()
        if name.endswith("weight")
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_images_are_not_trained_on(good: np.ndarray, seed: int) -> None:
    """Garbage in their place changes no step; garbage in place of any other image does."""
    settings = replace(SMALL, seeds=(seed,))
    aside = fitting.held_out_positions(settings, 12, seed)
    assert len(aside) == settings.calibration_images(12) == 6
    assert (np.diff(aside) > 0).all()
    garbage = np.random.default_rng(9).integers(0, 256, good.shape, np.uint8)
    fitted = fit(settings, good)
    others = good.copy()
    others[aside] = garbage[aside]
    harmed = fit(settings, others)
    np.testing.assert_array_equal(harmed.curve["loss"], fitted.curve["loss"])
    assert same(harmed, fitted)  # so few steps have one check, and no choice between weights
    assert harmed.curve["held_out"].iloc[-1] > 2 * fitted.curve["held_out"].iloc[-1]
    assert harmed.good_scores.min() > fitted.good_scores.max()
    np.testing.assert_array_equal(fitted.good_scores, fitted.score(good[aside]).image)
    for position in np.setdiff1d(np.arange(12), aside)[[0, -1]]:
        others = good.copy()
        others[position] = garbage[position]
        assert fit(settings, others).curve["loss"].iloc[-1] != fitted.curve["loss"].iloc[-1]


def test_the_held_out_loss_is_that_of_undamaged_images(good: np.ndarray) -> None:
    """Neither corruption nor the VAE's noise, and without gradient steps on them: as the model scores them."""
    settings = replace(VAE, loss="mse", corruption="mask", beta=2.0, score="elbo")
    fitted = fit(settings, good)
    expected = fitted.good_scores.mean()  # squared error + β · KL
    assert fitted.curve["held_out"].iloc[-1] == pytest.approx(expected, rel=1e-5)
    assert fitted.curve["held_out"].iloc[:-1].isna().all()


@pytest.mark.parametrize("changes", [{}, {"variational": True, "corruption": "mask", "loss": "ssim"}], ids=str)
def test_fewer_images_than_a_batch_train(good: np.ndarray, changes: dict[str, object]) -> None:
    """Three images: two to learn from, one to calibrate on."""
    fitted = fit(replace(SMALL, batch=32, **changes), good[:3])
    assert fitted.good_scores.shape == (1,)
    assert fitted.curve["loss"].notna().all()
    assert len(fitted.curve) == 4


@pytest.mark.parametrize(("count", "held_out"), [(3, 0.9), (12, 0.96)])
def test_a_large_held_out_share_leaves_images_to_learn_from(good: np.ndarray, count: int, held_out: float) -> None:
    """The settings allow any share below 1; two images stay, or one line says what does not go."""
    with contextlib.suppress(DataError, SettingsError):
        fitted = fit(replace(SMALL, held_out=held_out), good[:count])
        assert fitted.curve["loss"].notna().all()
        assert 1 <= len(fitted.good_scores) < count


def test_one_image_a_step(good: np.ndarray) -> None:
    """Batch normalisation has one value a channel then, at the smallest image: it trains, or one line says no."""
    with contextlib.suppress(DataError, SettingsError):
        assert fit(replace(SMALL, batch=1), good).curve["loss"].notna().all()


def test_patience_below_zero_trains(good: np.ndarray) -> None:
    """No model that has not taken a step is handed out; or one line says no."""
    with contextlib.suppress(DataError, SettingsError):
        assert len(fit(replace(SMALL, patience=-1), good).curve) == 4


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_images_are_refused(good: np.ndarray, count: int, own_home: Path) -> None:
    """The message says how many are needed, and no checkpoint is left."""
    with pytest.raises(DataError, match=f"{count} good images are too few .* at least 3") as caught:
        fit(SMALL, good[:count])
    assert "\n" not in str(caught.value)
    assert checkpoints(own_home) == []


@pytest.mark.parametrize("level", [0, 90, 255])
@pytest.mark.parametrize("changes", [{"map": "ssim", "loss": "mse+ssim"}, {"variational": True, "score": "elbo"}])
def test_constant_images_train_and_score(level: int, changes: dict[str, object]) -> None:
    """Black, grey and white: nothing varies, nothing is divided by zero."""
    images = np.full((5, SIDE, SIDE, 3), level, np.uint8)
    fitted = fit(replace(SMALL, **changes), images)
    scores = fitted.score(images)
    for values in (scores.image, scores.maps, fitted.good_scores, fitted.curve["loss"]):
        assert np.isfinite(values).all()
    assert np.ptp(scores.image) < 1e-6


@pytest.mark.parametrize("shape", [(SIDE * 2, SIDE * 2), (SIDE // 2, SIDE // 2), (SIDE, SIDE * 2)])
def test_images_of_another_size_are_refused(shape: tuple[int, int]) -> None:
    """In one line with both sizes, whatever is asked of the model."""
    fitted = untrained(SMALL)
    images = np.zeros((2, *shape, 3), np.uint8)
    for ask in (fitted.score, fitted.redraw):
        with pytest.raises(SettingsError, match=f"{shape[0]}×{shape[1]}, not the 32×32 .*: resize them") as caught:
            ask(images)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use", ["loss", "map"])
def test_a_network_without_gradients_is_refused(good: np.ndarray, monkeypatch: pytest.MonkeyPatch, use: str) -> None:
    """A Keras network gives none; before anything is trained."""
    keras = Backbone("keras:mobilenet", "random", False, lambda images: [])
    monkeypatch.setattr(fitting, "load_backbone", lambda name, weights: keras)
    with pytest.raises(SettingsError, match="keras:mobilenet gives no gradients here: use a torchvision network"):
        fit(replace(SMALL, backbone="keras:mobilenet", **{use: "features"}), good)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, None), ({"loss": "features"}, "resnet18"), ({"map": "features"}, "resnet18")],
    ids=str,
)
def test_a_backbone_only_where_features_are_compared(
    good: np.ndarray, changes: dict[str, object], expected: str | None
) -> None:
    """And its weights stay as they were."""
    fitted = fit(replace(SMALL, steps=2, weights="random", **changes), good)
    assert (fitted.backbone.name if fitted.backbone else None) == expected
    assert not any(name.startswith("backbone") for name in weights_of(fitted))


# Scores -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("map_name", ["absolute", "ssim"])
def test_maps_and_peaks_by_hand(test_set: tuple[np.ndarray, np.ndarray], map_name: str) -> None:
    """The difference to the reconstruction, blurred by scipy, and its maximum; in batches as all at once."""
    fitted = untrained(replace(SMALL, map=map_name))
    images = np.concatenate([test_set[0]] * 3)  # 36: more than one batch
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        redrawn = fitted.network(pixels.to(torch_device()))[0].cpu()
    raw = {
        "absolute": np.abs(pixels.numpy() - redrawn.numpy()).mean(1),
        "ssim": differences.structural(pixels, redrawn).numpy(),
    }[map_name]
    expected = np.stack([ndimage.gaussian_filter(one.astype(np.float64), 1.0) for one in raw])
    scores = fitted.score(images)
    np.testing.assert_allclose(scores.maps, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(scores.image, scores.maps.max((1, 2)))


@pytest.mark.parametrize("beta", [0.0, 1.0, 50.0])
def test_the_elbo_score_is_minus_the_evidence_bound(test_set: tuple[np.ndarray, np.ndarray], beta: float) -> None:
    """Log-probabilities of torch under a normal distribution of variance ½, less β · KL, up to the constant."""
    fitted = untrained(replace(VAE, beta=beta, score="elbo"))
    images = test_set[0]
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255).to(torch_device())
    with torch.inference_mode():
        mean, log_variance = fitted.network.encode(pixels)
        likelihood = Normal(fitted.network.decode(mean).double(), 0.5**0.5).log_prob(pixels.double()).sum((1, 2, 3))
        divergences = kl_divergence(Normal(mean.double(), (log_variance.double() / 2).exp()), Normal(0.0, 1.0)).sum(1)
    constant = NUMBERS * 0.5 * np.log(np.pi)
    expected = (-(likelihood - beta * divergences) - constant).cpu().numpy()
    np.testing.assert_allclose(fitted.score(images).image, expected, rtol=1e-4)
    error = autoencoder.scores_of(fitted, images, "absolute", "error").image
    assert (error == fitted.score(images).image).all() == (beta == 0)


def test_scores_under_another_map(test_set: tuple[np.ndarray, np.ndarray]) -> None:
    """Those that a model with that map and score in its settings gives."""
    fitted = untrained(VAE)
    for map_name, score_name in (("ssim", "peak"), ("absolute", "error"), ("ssim", "elbo")):
        own = untrained(replace(VAE, map=map_name, score=score_name)).score(test_set[0])
        found = autoencoder.scores_of(fitted, test_set[0], map_name, score_name)
        np.testing.assert_array_equal(found.image, own.image)
        np.testing.assert_array_equal(found.maps, own.maps)


@pytest.mark.parametrize("settings", [SMALL, VAE], ids=["autoencoder", "vae"])
def test_redrawing(test_set: tuple[np.ndarray, np.ndarray], settings: AutoencoderSettings) -> None:
    """uint8 images of the same shape: the network's own, rounded; always the same."""
    fitted, images = untrained(settings), test_set[0]
    redrawn = fitted.redraw(images)
    assert (redrawn.shape, redrawn.dtype) == (images.shape, np.uint8)
    with torch.inference_mode():
        expected = fitted.network((torch.from_numpy(images).permute(0, 3, 1, 2) / 255).to(torch_device()))[0]
    assert np.abs(redrawn - expected.permute(0, 2, 3, 1).cpu().numpy() * 255.0).max() <= 0.501
    np.testing.assert_array_equal(redrawn, fitted.redraw(images))
    np.testing.assert_array_equal(redrawn[4], fitted.redraw(images[4:5])[0])


def test_sampling() -> None:
    """Decoded standard normal vectors, the seed decides which."""
    fitted = untrained(VAE)
    drawn = fitted.sample(5, seed=2)
    assert (drawn.shape, drawn.dtype) == ((5, SIDE, SIDE, 3), np.uint8)
    np.testing.assert_array_equal(drawn, fitted.sample(5, seed=2))
    assert (drawn != fitted.sample(5, seed=3)).any()
    assert len(np.unique(drawn.reshape(5, -1), axis=0)) == 5
    vectors = torch.from_numpy(np.random.default_rng(2).standard_normal((5, 8))).float().to(torch_device())
    with torch.inference_mode():
        expected = fitted.network.decode(vectors).permute(0, 2, 3, 1).cpu().numpy() * 255.0
    assert np.abs(drawn - expected).max() <= 0.501


@pytest.mark.parametrize(
    "settings",
    [SMALL, replace(VAE, score="elbo"), replace(SMALL, latent=0, halvings=2)],
    ids=["autoencoder", "vae", "without a vector"],
)
def test_packing_and_unpacking(
    good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray], settings: AutoencoderSettings
) -> None:
    """To the bit: weights, scores, reconstructions, the curve and the scores of the held-out images."""
    fitted = fit(settings, good)
    description, arrays = autoencoder.pack(fitted)
    arrays = {name: value.copy() for name, value in arrays.items()} | {"good_scores": fitted.good_scores}
    again = autoencoder.unpack(settings, 0, description, arrays, None)
    assert same(again, fitted)
    assert again.curve.equals(fitted.curve)
    assert (again.settings, again.seed, again.backbone) == (settings, 0, None)
    np.testing.assert_array_equal(again.good_scores, fitted.good_scores)
    before, after = fitted.score(test_set[0]), again.score(test_set[0])
    np.testing.assert_array_equal(after.image, before.image)
    np.testing.assert_array_equal(after.maps, before.maps)
    np.testing.assert_array_equal(again.redraw(good), fitted.redraw(good))


# Interrupted runs ---------------------------------------------------------------------------------------------------


def test_no_checkpoint_is_left_by_a_finished_run(
    good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray], own_home: Path
) -> None:
    """Neither by one seed nor by several, and not while another method's file lies beside."""
    (own_home / "transfer" / "checkpoints").mkdir(parents=True)
    (own_home / "transfer" / "checkpoints" / "other.checkpoint").write_bytes(b"mine")
    fit(SMALL, good)  # keeps none where it was not told to
    assert checkpoints(own_home) == ["other.checkpoint"]
    trials = list(autoencoder.fit_and_score(replace(SMALL, seeds=(0, 3)), good, test_set[0], progress=False))
    assert [trial.seed for trial in trials] == [0, 3]
    assert checkpoints(own_home) == ["other.checkpoint"]


def test_every_trial_is_the_model_of_its_seed(good: np.ndarray, test_set: tuple[np.ndarray, np.ndarray]) -> None:
    """As if it were fitted alone."""
    for trial in autoencoder.fit_and_score(replace(SMALL, seeds=(3, 0)), good, test_set[0], progress=False):
        alone = fit(replace(SMALL, seeds=(trial.seed,)), good)
        assert same(trial.model, alone)
        np.testing.assert_array_equal(trial.good_scores, alone.good_scores)
        np.testing.assert_array_equal(trial.scores.maps, alone.score(test_set[0]).maps)
        np.testing.assert_array_equal(trial.scores.image, alone.score(test_set[0]).image)
        assert trial.fit_seconds > 0
        assert trial.score_seconds > 0


def test_seeds_that_are_done_are_not_trained_again(
    good: np.ndarray,
    test_set: tuple[np.ndarray, np.ndarray],
    own_home: Path,
    steps_taken: list[tuple[int, int]],
) -> None:
    """Broken off after the first of two seeds, started again: only the second one's steps, the same scores."""
    settings = replace(SMALL, seeds=(0, 3))
    whole = list(autoencoder.fit_and_score(settings, good, test_set[0], progress=False))
    assert steps_taken == [(seed, step) for seed in (0, 3) for step in range(4)]
    run = autoencoder.fit_and_score(settings, good, test_set[0], progress=False)
    next(run)
    run.close()
    assert len(checkpoints(own_home)) == 1
    steps_taken.clear()
    again = list(autoencoder.fit_and_score(settings, good, test_set[0], progress=False))
    assert steps_taken == [(3, step) for step in range(4)]
    for one, other in zip(whole, again, strict=True):
        assert same(one.model, other.model)
        assert one.model.curve.equals(other.model.curve)
        np.testing.assert_array_equal(one.scores.maps, other.scores.maps)
    assert checkpoints(own_home) == []


def test_an_interrupted_seed_goes_on(
    good: np.ndarray, own_home: Path, monkeypatch: pytest.MonkeyPatch, steps_taken: list[tuple[int, int]]
) -> None:
    """From its last checkpoint, every 50 steps, to the same bits; with other images or settings it begins anew."""
    settings = replace(VAE, steps=120, corruption="mask", width=1, batch=4)
    whole = fit(settings, good)
    monkeypatch.undo()
    watch = fitting.rng_of

    def interrupt(seed: int, step: int) -> np.random.Generator:
        if step == 110:
            raise KeyboardInterrupt
        return watch(seed, step)

    monkeypatch.setenv("MVTEC_AD_HOME", str(own_home))
    monkeypatch.setattr(fitting, "rng_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        resumed(settings, good)
    assert len(checkpoints(own_home)) == 1
    taken: list[int] = []

    def watched(seed: int, step: int) -> np.random.Generator:
        taken.append(step)
        return watch(seed, step)

    monkeypatch.setattr(fitting, "rng_of", watched)
    resumed(replace(settings, steps=3), good)
    resumed(replace(settings, steps=3), good[::-1].copy())
    assert taken == [0, 1, 2] * 2
    taken.clear()
    again = resumed(settings, good)
    assert taken == list(range(100, 120))
    assert same(again, whole)
    assert again.curve.equals(whole.curve)
    np.testing.assert_array_equal(again.good_scores, whole.good_scores)
    assert checkpoints(own_home) == []
