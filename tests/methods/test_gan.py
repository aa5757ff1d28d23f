"""GAN of digits: losses by logarithms, a gradient penalty by differences, steps written out, runs that repeat."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from alike import equal
from torch import Tensor, nn

from mvtec_ad.config import torch_device
from mvtec_ad.data import digits
from mvtec_ad.errors import DataError, SettingsError, TrainingError
from mvtec_ad.methods import gan
from mvtec_ad.methods.base import normal
from mvtec_ad.methods.gan import (
    Dcgan,
    Discriminator,
    Generator,
    critic_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    grids_of,
    interpolate,
    latents,
    move_average,
)
from mvtec_ad.training import Run

TINY = {"latent": 8, "width": 4, "discriminator_width": 4, "batch_images": 8, "epochs": 2, "snapshots": 3}
SEED = 5


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(26, 28, 28) uint8: three batches of eight, and two left over."""
    return digits.load("sklearn").images[:26].copy()


def verdicts(count: int, seed: int) -> Tensor:
    """(count,) float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, count))


def real_share(raw: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 1 / (1 + np.exp(-raw))


# Losses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_the_discriminator_minimises_two_cross_entropies(smoothing: float) -> None:
    """Written with logarithms; only the real label is smoothed."""
    real, generated = verdicts(7, 0), verdicts(5, 1)
    share_real, share_generated = real_share(real.numpy()), real_share(generated.numpy())
    of_real = (1 - smoothing) * np.log(share_real) + smoothing * np.log(1 - share_real)
    expected = -of_real.mean() - np.log(1 - share_generated).mean()
    assert discriminator_loss(real, generated, smoothing).item() == pytest.approx(expected, rel=1e-12)


def test_the_generator_minimises_what_does_not_saturate() -> None:
    """−log D, not log(1 − D): where an image is found out for sure, its slope is −1, not 0; losses stay finite."""
    generated = verdicts(5, 1)
    assert generator_loss(generated).item() == pytest.approx(-np.log(real_share(generated.numpy())).mean(), rel=1e-12)
    real, sure = torch.tensor([-1000.0], requires_grad=True), torch.tensor([-1000.0], requires_grad=True)
    assert discriminator_loss(real, -sure).item() == pytest.approx(2000)
    (discriminator_loss(real, -sure) + generator_loss(sure)).backward()
    assert real.grad.item() == pytest.approx(-1)
    assert sure.grad.item() == pytest.approx(-2)


def test_a_critic_tells_means_apart() -> None:
    """Generated minus real."""
    assert critic_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5, 2.0])).item() == pytest.approx(1.0 - 2.0)


def bent(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """A small critic of (B, 1, 2, 2) images that is not linear: 4 × 3 weights and 3 more."""
    first, second = weights[:12].view(4, 3), weights[12:]
    return lambda images: torch.tanh(images.flatten(1) @ first) @ second


def between() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Real and generated images, shares, and weights of `bent`, float64."""
    rng = np.random.default_rng(1)
    shapes = (3, 1, 2, 2), (3, 1, 2, 2), 15
    real, generated, weights = (torch.from_numpy(rng.normal(size=shape)) for shape in shapes)
    return real, generated, torch.tensor([0.0, 0.25, 0.9], dtype=torch.float64), weights


def test_penalty_is_that_of_finite_differences() -> None:
    """At ε x + (1 − ε) x̃: slopes by central differences, and so is its slope in the weights."""
    real, generated, shares, weights = between()
    critic = bent(weights)
    total = 0.0
    for x, fake, share in zip(real, generated, shares, strict=True):
        point = share * x + (1 - share) * fake
        slopes = []
        for place in np.ndindex(*point.shape):
            nudge = torch.zeros_like(point)
            nudge[place] = 1e-6
            slopes.append((critic((point + nudge)[None]) - critic((point - nudge)[None])).item() / 2e-6)
        total += (np.linalg.norm(slopes) - 1) ** 2
    found = gradient_penalty(critic, real, generated, shares).item()
    assert found == pytest.approx(total / 3, rel=1e-7)
    assert gradient_penalty(critic, real, generated, 1 - shares).item() != pytest.approx(found, rel=1e-2)
    penalty = lambda w: gradient_penalty(bent(w), real, generated, shares)  # noqa: E731
    assert torch.autograd.gradcheck(penalty, weights.requires_grad_())  # it can be minimised


# Networks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "grids"), [(28, [28, 14, 7, 3]), (64, [64, 32, 16, 8, 4]), (16, [16, 8, 4]), (60, [60, 30, 15, 7, 3])]
)
def test_grids_are_halved_down_to_four_cells(size: int, grids: list[int]) -> None:
    """Rounded down; the discriminator's grids are just these, and the generator comes back to the whole size."""
    assert grids_of(size) == grids
    discriminator, sizes = Discriminator(size, 1, 2), []
    images = torch.rand(2, 1, size, size)
    for layer in discriminator.downs:
        images = layer(images)
        sizes.append(images.shape[-1])
    assert sorted(set(sizes), reverse=True) == grids[1:]
    assert Generator(size, 1, 3, 2)(torch.randn(2, 3)).shape == (2, 1, size, size)


def test_shapes_and_range() -> None:
    """Pictures in [−1, 1], a verdict a picture, as many numbers as an encoder is asked for."""
    generator = Generator(28, 3, 10, 4)
    nn.init.normal_(generator.ups[-1].weight, std=3)
    images = generator(torch.randn(5, 10))
    assert images.shape == (5, 3, 28, 28)
    assert 0.9 < images.max() <= 1
    assert -1 <= images.min() < -0.9
    for outputs, shape in ((None, (5,)), (6, (5, 6)), (1, (5, 1))):  # one number of an encoder is no verdict
        assert Discriminator(28, 3, 4, outputs=outputs)(images).shape == shape
    assert Discriminator(28, 3, 4).features(images).shape == (5, 16 * 3 * 3)


def test_weights_begin_small() -> None:
    """From N(0, 0.02²), biases at 0, in generator and discriminator."""
    for network in (Generator(28, 1, 64, 16), Discriminator(28, 1, 32)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.25)
                assert module.bias is None or not module.bias.any()


def test_a_generator_starts_from_the_mean() -> None:
    """With nothing in its last layer it draws just that, but for black and white, which tanh never reaches."""
    generator = Generator(28, 3, 10, 4)
    mean = torch.rand(3, 28, 28) * 2 - 1
    mean[:, 0, 0], mean[:, 0, 1] = 1, -1
    generator.start_from(mean)
    nn.init.zeros_(generator.ups[-1].weight)
    generated = generator(torch.randn(4, 10))
    torch.testing.assert_close(generated, mean.clamp(-0.99, 0.99).expand(4, -1, -1, -1), atol=1e-5, rtol=0)
    assert "base" in generator.state_dict()  # a file keeps it


@pytest.mark.parametrize(("norm", "alone"), [("layer", True), ("none", True), ("batch", False)])
def test_whether_one_image_changes_anothers_verdict(norm: str, alone: bool) -> None:
    """In training: never under layer norm, which a gradient penalty needs; under batch norm it does."""
    critic = Discriminator(28, 1, 4, norm=norm).train()
    for module in critic.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
    images = torch.rand(4, 1, 28, 28) * 2 - 1
    changed = torch.cat([images[:1], torch.full((3, 1, 28, 28), -0.9)])
    assert (critic(images)[0].item() == pytest.approx(critic(changed)[0].item(), rel=1e-3)) == alone


def test_spectral_norm_makes_the_largest_singular_value_one() -> None:
    """Of every weight, after some forward passes, and again when the weights have moved; without it, it is another."""

    def largest(critic: Discriminator) -> list[float]:
        layers = [module for module in critic.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        return [np.linalg.svd(layer.weight.detach().flatten(1).numpy(), compute_uv=False)[0] for layer in layers]

    critic = Discriminator(28, 1, 4, norm="none", spectral=True)
    weights = [m.parametrizations.weight.original for m in critic.modules() if hasattr(m, "parametrizations")]
    with torch.no_grad():
        for times in (1, 7):
            for weight in weights:
                weight.mul_(times).add_(torch.randn_like(weight), alpha=0.02)
            for _ in range(60):
                critic.train()(torch.rand(2, 1, 28, 28))
            assert largest(critic.eval()) == pytest.approx([1, 1, 1, 1], abs=0.02)
    assert all(value != pytest.approx(1, abs=0.1) for value in largest(Discriminator(28, 1, 4, norm="none")))


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (20, 0.7), (3, 4 / 13), (500, 0.7)])
def test_averaged_weights(step: int, share: float) -> None:
    """The share grows as (1 + step) / (10 + step) to the 0.7 asked for; what batch norm counts is taken as it is."""
    average, network = Generator(28, 1, 4, 2), Generator(28, 1, 4, 2)
    for value in (*average.parameters(), *network.buffers()):
        nn.init.normal_(value) if value.is_floating_point() else value.fill_(7)
    before = copy.deepcopy(average)
    move_average(average, network, 0.7, step)
    for mean, old, new in zip(average.parameters(), before.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mean, share * old + (1 - share) * new)
    assert all(torch.equal(one, other) for one, other in zip(average.buffers(), network.buffers(), strict=True))


# Latent vectors -----------------------------------------------------------------------------------------------------


def test_a_great_circle_by_hand() -> None:
    """A quarter of a circle in three parts: 0°, 30°, 60°, 90°; of many dimensions, equal lengths and equal steps."""
    vectors = interpolate(np.array([2.0, 0, 0], np.float32), np.array([0, 2.0, 0], np.float32), 4)
    angles = np.radians([0, 30, 60, 90])
    np.testing.assert_allclose(vectors, 2 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1), atol=1e-6)
    assert vectors.dtype == np.float32
    first, second = latents(2, 100, 3).astype(np.float64)
    second *= np.linalg.norm(first) / np.linalg.norm(second)
    vectors = interpolate(first, second, 9).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.linalg.norm(first), rtol=1e-6)
    angles = np.arccos((vectors[1:] * vectors[:-1]).sum(1) / (first @ first))
    np.testing.assert_allclose(angles, np.arccos(first @ second / (first @ first)) / 8, rtol=1e-5)


@pytest.mark.parametrize("factor", [None, 1.0, 2.0])
def test_ends_are_the_vectors_themselves(factor: float | None) -> None:
    """Of different lengths too; between equal directions the way is straight: no division by the sine of 0."""
    for seed in range(5):
        first, second = latents(2, 64, seed)
        second = second if factor is None else factor * first
        vectors = interpolate(first, second, 3)
        np.testing.assert_allclose(vectors[[0, -1]], [first, second], rtol=3e-7)
        if factor is not None:
            np.testing.assert_allclose(vectors[1], (1 + factor) / 2 * first, rtol=1e-5)


# Training -----------------------------------------------------------------------------------------------------------


def fit(images: np.ndarray, *, seed: int = SEED, checkpoint: Path | None = None, **changes: object) -> Dcgan:
    """A tiny one."""
    return Dcgan(**{**TINY, **changes}).fit(images, seed, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def fitted(images: np.ndarray) -> Dcgan:
    """Trained for six steps."""
    return fit(images)


def test_steps_are_those_written_out(images: np.ndarray, fitted: Dcgan) -> None:
    """Six of them: batches without repetition in an epoch, both players' moves, the averaged generator."""
    device = torch_device()
    torch.manual_seed(SEED)
    generator, discriminator = Generator(28, 1, 8, 4).to(device), Discriminator(28, 1, 4).to(device)
    mean = {name: value.detach().clone() for name, value in generator.named_parameters()}
    options = {"lr": 1e-3, "betas": (0.5, 0.999), "weight_decay": 0.0}
    of_generator = torch.optim.AdamW(generator.parameters(), **options)
    of_discriminator = torch.optim.AdamW(discriminator.parameters(), **options)
    losses: list[tuple[float, float]] = []
    for step in range(6):
        order = np.random.default_rng([SEED, step // 3]).permutation(26)[step % 3 * 8 : step % 3 * 8 + 8]
        real = torch.from_numpy(images[order][:, None] / np.float32(127.5) - 1).float().to(device)
        fake = generator(normal((8, 8), np.random.default_rng([SEED, step, 1]))).detach()
        shares = torch.sigmoid(discriminator(real)), torch.sigmoid(discriminator(fake))
        of_discriminator.zero_grad()
        first = -shares[0].log().mean() - (1 - shares[1]).log().mean()
        first.backward()
        of_discriminator.step()
        of_generator.zero_grad()
        generated = generator(normal((8, 8), np.random.default_rng([SEED, step, 2])))
        second = -torch.sigmoid(discriminator(generated)).log().mean()
        second.backward()
        of_generator.step()
        losses.append((first.item(), second.item()))
        weight = (1 + step) / (10 + step)
        for name, value in generator.named_parameters():
            mean[name] = weight * mean[name] + (1 - weight) * value.detach()
    assert list(fitted.curve.columns) == ["step", "discriminator", "generator"]
    np.testing.assert_allclose(fitted.curve[["discriminator", "generator"]], losses, rtol=1e-4)
    unseen = [
        f"ups.{layer}.{what}" for layer, what in ((2, "bias"), (3, "running_mean"), (5, "bias"), (6, "running_mean"))
    ]
    for name, value in fitted.generator.state_dict().items():
        if name in unseen:  # a bias that batch norm takes away again follows rounding errors
            continue
        expected = mean.get(name, generator.state_dict()[name]).cpu().numpy()
        np.testing.assert_allclose(value.cpu(), expected, atol=2e-5, rtol=1e-3, err_msg=name)
    assert not fitted.generator.training


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"spectral": True, "norm": "none"},
        {"norm": "layer", "smoothing": 0.1, "discriminator_lr": 4e-3, "averaging": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("until", [1, 3])
def test_an_interrupted_run_ends_the_same(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], until: int
) -> None:
    """Bit by bit: weights, what was drawn on the way, curve; another learning rate is another run."""
    path = tmp_path / "run.checkpoint"
    with monkeypatch.context() as patch:
        patch.setattr(gan, "Run", partial(Run, until=until))
        assert len(fit(images, checkpoint=path, **change).curve) == until
    torch.manual_seed(99)  # of no account
    assert equal(fit(images, checkpoint=path, **change), fit(images, **change))
    with pytest.raises(TrainingError, match=r"another run \(lr differ\)"):
        fit(images, checkpoint=path, **change, lr=2e-3)


def test_what_an_option_changes(images: np.ndarray, fitted: Dcgan) -> None:
    """Each one the first step's losses already, or the second's; the same seed gives the same, whatever drew before."""
    torch.manual_seed(123)
    np.random.seed(4)
    assert equal(fit(images), fitted)
    changes = {"seed": 6}, {"discriminator_lr": 4e-3}, {"lr": 4e-3}, {"beta1": 0.9}, {"norm": "layer"}
    for change in (*changes, {"spectral": True}, {"smoothing": 0.1}, {"width": 5}, {"discriminator_width": 5}):
        other = fit(images, epochs=1, **change)
        assert not np.allclose(other.curve, fitted.curve[:3], rtol=1e-5), change


def test_pictures_on_the_way_are_drawn_from_the_same_noise(fitted: Dcgan, images: np.ndarray) -> None:
    """After every second of six steps; the last ones are what the model draws."""
    assert fitted.moments.tolist() == [2, 4, 6]
    assert fitted.grids.shape == (3, 16, 28, 28)
    assert fitted.grids.dtype == np.uint8
    noise = latents(16, 8, SEED)
    np.testing.assert_array_equal(fitted.generate(noise), fitted.grids[-1])
    np.testing.assert_array_equal(fitted.sample(16, SEED), fitted.grids[-1])
    pictures = torch.from_numpy(noise).to(torch_device())
    with torch.no_grad():
        exact = (fitted.generator(pictures)[:, 0].cpu().numpy().astype(np.float64) + 1) * 127.5
    assert np.abs(fitted.grids[-1] - exact).max() <= 0.51  # rounded, not cut off
    early, late = (fit(images, snapshots=epochs, epochs=epochs) for epochs in (1, 2))
    np.testing.assert_array_equal(early.generate(noise), late.grids[0])  # those of the model at that step


@pytest.mark.parametrize(("snapshots", "epochs"), [(1, 1), (3, 1), (5, 2), (50, 1)])
def test_every_moment_has_its_pictures(images: np.ndarray, snapshots: int, epochs: int) -> None:
    """Also where fewer steps are taken than pictures are asked for: no moment twice, none before the first step."""
    model, steps = fit(images, snapshots=snapshots, epochs=epochs, averaging=0.0, lr=0.01), 3 * epochs
    assert (np.diff(model.moments) > 0).all()
    assert model.moments[0] >= 1
    assert model.moments[-1] == steps
    assert len(model.grids) == len(model.moments) == min(snapshots, steps)
    for one, grid in enumerate(model.grids):
        assert grid.any()
        assert all(not np.array_equal(grid, before) for before in model.grids[:one])


def test_drawing_does_not_depend_on_the_batch(fitted: Dcgan) -> None:
    """More vectors than are generated at once, and one alone: batch norm has stopped counting."""
    noise = latents(300, 8, 1)
    many = fitted.generate(noise)
    assert many.shape == (300, 28, 28)
    for place in (0, 255, 256, 299):
        assert np.abs(fitted.generate(noise[place : place + 1])[0].astype(int) - many[place]).max() <= 1


def test_a_state_gives_the_same_pictures(fitted: Dcgan) -> None:
    """All of a model from plain data and arrays; generated to the bit."""
    options, state = json.loads(json.dumps(fitted.options())), {k: np.array(v) for k, v in fitted.state().items()}
    again = Dcgan.from_options(options).load_state(state)
    assert equal(again, fitted)
    assert again == fitted  # options
    assert again.seed == SEED
    np.testing.assert_array_equal(again.sample(20, 2), fitted.sample(20, 2))
    del state["generator.widen.weight"]
    with pytest.raises(KeyError, match=r"widen\.weight"):
        Dcgan.from_options(options).load_state(state)


@pytest.mark.parametrize(
    "shape", [(7, 28, 28), (0, 28, 28), (8, 28, 28, 1), (64, 784), (8, 28, 20), (8, 20, 28)], ids=str
)
def test_what_is_no_batch_of_square_gray_pictures_is_refused(shape: tuple[int, ...]) -> None:
    """In one line, with what is there."""
    with pytest.raises(DataError, match=r"gray") as caught:
        fit(np.zeros(shape, np.uint8))
    assert str(shape) in str(caught.value)


def test_a_run_that_breaks_names_the_step(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is no number; and nothing can be generated before a fit."""
    monkeypatch.setattr(gan, "generator_loss", lambda generated: generated.mean() * float("nan"))
    with pytest.raises(TrainingError, match="DCGAN: the loss is nan at step 0"):
        fit(images)
    with pytest.raises(SettingsError, match="not fitted"):
        Dcgan().sample(1)


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "steps"), [(127, 64, 3, 3), (128, 64, 3, 6), (1437, 64, 50, 1100), (10, 64, 5, 5)]
)
def test_steps_are_whole_batches(images: int, batch: int, epochs: int, steps: int) -> None:
    """What is left of an epoch is not a batch; an epoch has one step at least."""
    assert Dcgan(batch_images=batch, epochs=epochs).steps(images) == steps
