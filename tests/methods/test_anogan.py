"""AnoGAN and f-AnoGAN: losses in numpy, searches one at a time, steps written out, runs that repeat bit by bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from alike import arrays, equal
from scipy import ndimage
from torch import Tensor, nn

from mvtec_ad.config import torch_device
from mvtec_ad.errors import SettingsError, TrainingError
from mvtec_ad.methods import anogan
from mvtec_ad.methods.anogan import Anogan, Networks, search, search_loss
from mvtec_ad.methods.base import content_seed, held_out_positions, normal
from mvtec_ad.methods.f_anogan import FAnogan, encoder_loss
from mvtec_ad.methods.gan import Discriminator, Generator
from mvtec_ad.training import warm_cosine

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE, GOOD, SEED = 16, 12, 3
TINY = {"image_size": SIDE, "crop": SIDE, "latent": 4, "width": 4, "steps": 5, "critic_steps": 2, "batch_images": 4}
TINY |= {"search_steps": 6, "restarts": 2}
ENCODING = {**TINY, "encoder_steps": 4}


@pytest.fixture(scope="module")
def seen(draw: Draw) -> np.ndarray:
    """Seven surfaces, the last three with a patch."""
    generator = np.random.default_rng(1)
    return np.stack([draw(generator, SIDE, index >= 4)[0] for index in range(7)])


@pytest.fixture(scope="module")
def fitted(good: np.ndarray) -> FAnogan:
    """f-AnoGAN after a few steps."""
    return FAnogan(**ENCODING).fit(good, SEED)


@pytest.fixture(scope="module")
def alone(good: np.ndarray) -> Anogan:
    """AnoGAN after as many."""
    return Anogan(**TINY).fit(good, SEED)


def signed(images: np.ndarray) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) in [−1, 1]."""
    return torch.from_numpy((images / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2).copy()).to(torch_device())


def wild(kind: str = "wild") -> tuple[Generator, Discriminator]:
    """Generator and critic in evaluation mode, on the CPU: as they begin (`new`), or with weights that draw much."""
    generator, critic = Generator(SIDE, 3, 4, 4), Discriminator(SIDE, 3, 4, norm="layer")
    if kind == "wild":
        for module in nn.ModuleList([generator, critic]).modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                one = module.weight[:, 0] if isinstance(module, nn.ConvTranspose2d) else module.weight[0]
                nn.init.normal_(module.weight, std=1.5 / one.numel() ** 0.5)
        with torch.no_grad():
            for _ in range(20):
                generator(torch.randn(64, 4))
    return generator.eval(), critic.eval()


# Losses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0, 2.5])
@pytest.mark.parametrize("kind", ["search", "encoder"])
def test_losses_by_hand(kind: str, weight: float) -> None:
    """Of a search sums of absolute differences, of an encoder mean squares; of pixels and of features."""
    critic = wild()[1]
    images, reconstructions = torch.rand(2, 3, 3, SIDE, SIDE) * 2 - 1
    with torch.no_grad():
        found = {"search": search_loss, "encoder": encoder_loss}[kind](critic, images, reconstructions, weight).numpy()
        features = [[critic.features(one[None]).numpy() for one in batch] for batch in (images, reconstructions)]
    for one in range(3):
        pixels, details = images[one].numpy() - reconstructions[one].numpy(), features[0][one] - features[1][one]
        assert np.abs(details).sum() > 10
        if kind == "search":
            expected = (1 - weight) * np.abs(pixels).sum() + weight * np.abs(details).sum()
        else:
            expected = np.mean(pixels**2) + weight * np.mean(details**2)
        assert found[one] == pytest.approx(expected, rel=1e-5)


# Search -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["new", "wild", "trained"])
def test_searches_together_are_those_one_at_a_time(kind: str, fitted: FAnogan) -> None:
    """Several images with several starts: the same losses and vectors as Adam gives for each alone."""
    networks = copy.deepcopy(fitted.networks).cpu()
    generator, critic = (networks.averaged, networks.critic) if kind == "trained" else wild(kind)
    images, starts = torch.rand(3, 3, SIDE, SIDE) * 2 - 1, torch.randn(3, 2, 4)
    together = search(generator, critic, images, starts, steps=20, lr=0.05, feature_share=0.1)
    assert together.losses.shape == (21, 3, 2)
    for image, restart in np.ndindex(3, 2):
        latent = nn.Parameter(starts[image, restart].clone())
        optimiser = torch.optim.Adam([latent], lr=0.05)
        losses = []
        for step in range(21):
            picture = generator(latent[None])
            residual = (images[image] - picture[0]).abs().sum()
            features = (critic.features(images[image : image + 1]) - critic.features(picture)).abs().sum()
            losses.append(0.9 * residual + 0.1 * features)
            if step < 20:
                optimiser.zero_grad()
                losses[-1].backward()
                optimiser.step()
        np.testing.assert_allclose(together.losses[:, image, restart], torch.stack(losses).detach(), rtol=1e-5)
        np.testing.assert_allclose(together.latents[image, restart], latent.detach(), atol=2e-4)
    assert together.best.tolist() == together.losses[-1].numpy().argmin(1).tolist()
    with torch.no_grad():
        expected = generator(together.latents[torch.arange(3), together.best])
    torch.testing.assert_close(together.reconstruction, expected, atol=1e-5, rtol=0)


def test_a_search_finds_what_was_generated() -> None:
    """Pictures of other vectors: nearly all of the loss goes, and the picture is the target; nothing else is moved."""
    generator, critic = wild()
    before = copy.deepcopy(nn.ModuleList([generator, critic]))
    with torch.no_grad():  # a search needs gradients where its caller has none, too
        targets, starts = generator(torch.randn(3, 4)), torch.randn(3, 4, 4)
        kept = starts.clone()
        found = search(generator, critic, targets, starts, steps=200, lr=0.05, feature_share=0.1)
        assert (generator(starts[:, 0]) - targets).abs().mean() > 0.1
    assert (found.losses[-1].amin(1) < 0.1 * found.losses[0].amin(1)).all()
    assert (found.reconstruction - targets).abs().mean() < 0.02
    assert torch.equal(starts, kept)
    assert equal(nn.ModuleList([generator, critic]), before)
    assert all(one.grad is None for one in (*generator.parameters(), *critic.parameters()))


# Training -----------------------------------------------------------------------------------------------------------


def test_steps_are_those_written_out(good: np.ndarray, fitted: FAnogan) -> None:
    """WGAN-GP, the averaged generator, then the encoder through it."""
    device = torch_device()
    trained_on = np.delete(good, held_out_positions(12, 6, SEED), 0)
    torch.manual_seed(SEED)
    networks = Networks(SIDE, 4, 4, encodes=True).to(device, memory_format=torch.channels_last)
    mean = np.round(trained_on.mean(0)).astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
    base = torch.from_numpy(np.arctanh(np.clip(mean, -0.99, 0.99))).to(device)
    for network in (networks.generator, networks.averaged):
        network.base.copy_(base)
    options = {"lr": 5e-4, "betas": (0.5, 0.999), "weight_decay": 0.0}
    of_critic = torch.optim.AdamW(networks.critic.parameters(), **options)
    of_generator = torch.optim.AdamW(networks.generator.parameters(), **options)
    of_encoder = torch.optim.AdamW(networks.encoder.parameters(), weight_decay=0.0)

    def random(*of: int) -> np.random.Generator:
        return np.random.default_rng([SEED, *of])

    def batch(rng: np.random.Generator) -> Tensor:
        return signed(trained_on[rng.permutation(6)[:4]])

    def compared(parts: tuple[str, ...]) -> None:
        """Every weight, to rounding."""
        for part in parts:
            found, expected = (arrays(getattr(of, part)) for of in (fitted.networks, networks))
            for name, value in found.items():
                np.testing.assert_allclose(value, expected[name], atol=2e-6, err_msg=f"{part}.{name}")

    curve = np.full((9, 3), np.nan)
    networks.train()
    for step in range(5):
        values = []
        for repeat in range(2):
            rng = random(step, 0, repeat)
            real, shares = batch(rng), torch.from_numpy(rng.random(4, np.float32)).to(device)[:, None, None, None]
            fake = networks.generator(normal((4, 4), rng)).detach()
            mixed = (shares * real + (1 - shares) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(networks.critic(mixed).sum(), mixed, create_graph=True)
            penalty = ((slope.square().sum((1, 2, 3)).sqrt() - 1) ** 2).mean()
            loss = networks.critic(fake).mean() - networks.critic(real).mean() + 10 * penalty
            of_critic.zero_grad()
            loss.backward()
            of_critic.step()
            values.append(loss.item())
        loss = -networks.critic(networks.generator(normal((4, 4), random(step, 1, 0)))).mean()
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        curve[step, :2] = np.mean(values), loss.item()
        share = (1 + step) / (10 + step)
        with torch.no_grad():
            for one, now in zip(networks.averaged.parameters(), networks.generator.parameters(), strict=True):
                one.copy_(share * one + (1 - share) * now)
            for one, now in zip(networks.averaged.buffers(), networks.generator.buffers(), strict=True):
                one.copy_(now)
    compared(("critic", "generator", "averaged"))
    for part in ("averaged", "critic"):  # the encoder is trained through just these
        getattr(networks, part).load_state_dict(getattr(fitted.networks, part).state_dict())
    networks.averaged.eval()
    for step in range(5, 9):
        real = batch(random(step, 2, 0))
        reconstruction = networks.averaged(networks.encoder(real))
        features = (networks.critic.features(real) - networks.critic.features(reconstruction)).square().mean(1)
        loss = ((real - reconstruction).square().mean((1, 2, 3)) + features).mean()
        of_encoder.param_groups[0]["lr"] = 1e-3 * warm_cosine(step - 5, 4)
        of_encoder.zero_grad()
        loss.backward()
        of_encoder.step()
        curve[step, 2] = loss.item()
    assert list(fitted.curve.columns) == ["step", "critic", "generator", "encoder"]
    assert list(fitted.curve["step"]) == list(range(9))
    np.testing.assert_allclose(fitted.curve[["critic", "generator", "encoder"]], curve, rtol=2e-3, atol=1e-5)
    compared(("encoder",))
    assert not any(network.training for network in fitted.networks.modules())
    assert not any(weights.requires_grad for weights in fitted.networks.parameters())


def test_both_stages_move_their_own_parts_only(good: np.ndarray, fitted: FAnogan, alone: Anogan) -> None:
    """The generator and critic of AnoGAN are those of f-AnoGAN; the encoder is new until the second stage."""
    short = FAnogan(**{**ENCODING, "encoder_steps": 0}).fit(good, SEED)
    assert alone.networks.encoder is None
    assert list(alone.curve.columns) == ["step", "critic", "generator"]
    for part in ("generator", "averaged", "critic"):
        for other in (alone, short):
            assert equal(getattr(other.networks, part), getattr(fitted.networks, part))
    assert not torch.equal(short.networks.encoder.head.weight, fitted.networks.encoder.head.weight)
    torch.manual_seed(SEED)
    assert equal(Networks(SIDE, 4, 4, encodes=True).encoder, short.networks.encoder)
    assert short.curve["encoder"].isna().all()
    assert short.curve["encoder"].dtype == float  # a file takes no objects


# Scores -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.0, 1.0])
@pytest.mark.parametrize("image_score", ["loss", "peak"])
def test_scores_of_the_encoder_by_hand(seen: np.ndarray, fitted: FAnogan, image_score: str, kappa: float) -> None:
    """Map: the residual, averaged over colours and smoothed as scipy does. Score: its peak, or the encoder's loss."""
    detector = fitted.rescored(image_score=image_score, sigma=1.5, kappa=kappa)
    pictures, scores = detector.invert(seen)
    wanted = signed(seen)
    with torch.no_grad():
        closest = torch.cat([fitted.networks.averaged(fitted.networks.encoder(image[None])) for image in wanted])
        features = [fitted.networks.critic.features(images).cpu().numpy() for images in (wanted, closest)]
    wanted, closest = wanted.cpu().numpy(), closest.cpu().numpy()
    maps = np.stack([ndimage.gaussian_filter(residual, 1.5) for residual in np.abs(wanted - closest).mean(1)])
    np.testing.assert_allclose(scores.maps, maps, atol=1e-5)
    loss = ((wanted - closest) ** 2).mean((1, 2, 3)) + kappa * ((features[0] - features[1]) ** 2).mean(1)
    np.testing.assert_allclose(scores.image, maps.max((1, 2)) if image_score == "peak" else loss, rtol=1e-4)
    assert scores.image.dtype == scores.maps.dtype == np.float32
    exact = (closest.transpose(0, 2, 3, 1).astype(np.float64) + 1) * 127.5
    assert np.abs(pictures - exact).max() < 0.51
    np.testing.assert_array_equal(detector.reconstruct(seen), pictures)
    np.testing.assert_array_equal(detector.score(seen).image, scores.image)


def test_scores_of_the_search_by_hand(seen: np.ndarray, fitted: FAnogan, alone: Anogan) -> None:
    """The lowest loss of all starts, drawn by seed and content, and the map of its picture; the same for both."""
    scores = alone.rescored(sigma=0.0).score(seen)
    networks = alone.networks
    for place, image in enumerate(signed(seen)):
        starts = normal((2, 4), np.random.default_rng([SEED, content_seed(seen[place])]))[None]
        found = search(networks.averaged, networks.critic, image[None], starts, steps=6, lr=0.05, feature_share=0.1)
        assert scores.image[place] == pytest.approx(found.losses[-1].min().item(), rel=1e-4)
        residual = (image - found.reconstruction[0]).abs().mean(0).cpu().numpy()
        np.testing.assert_allclose(scores.maps[place], residual, atol=1e-3)
    searching = fitted.as_search(sigma=0.0)
    assert type(searching) is Anogan
    assert searching == alone.rescored(sigma=0.0)
    assert len(searching.good_scores) == 0  # f-AnoGAN's are on another scale
    np.testing.assert_array_equal(searching.score(seen).image, scores.image)
    np.testing.assert_array_equal(searching.score(seen).maps, scores.maps)
    assert not np.allclose(fitted.score(seen).image, scores.image)
    peaks = searching.rescored(image_score="peak").score(seen)
    np.testing.assert_array_equal(peaks.image, scores.maps.max((1, 2)))


@pytest.mark.parametrize(("together", "sizes"), [(1, [1] * 7), (12, [4, 3]), (64, [7])])
def test_every_image_and_restart_has_a_start_of_its_own(
    seen: np.ndarray, fitted: FAnogan, monkeypatch: pytest.MonkeyPatch, together: int, sizes: list[int]
) -> None:
    """However many searches go on at once, the same ones, by seed and content; a lone search gets company."""
    searching, begun = fitted.as_search(restarts=3, search_steps=1), []

    def watched(generator: Generator, critic: Discriminator, images: Tensor, starts: Tensor, **options: float):
        begun.append(starts.cpu().numpy())
        return search(generator, critic, images, starts, **options)

    monkeypatch.setattr(anogan, "search", watched)
    monkeypatch.setattr(anogan, "TOGETHER", together)
    searching.score(seen)
    assert [len(starts) for starts in begun] == [-(-size // 4) * 4 for size in sizes]  # fours
    starts = np.concatenate([starts[:size] for starts, size in zip(begun, sizes, strict=True)])
    expected = [normal((3, 4), np.random.default_rng([SEED, content_seed(image)])).cpu() for image in seen]
    np.testing.assert_array_equal(starts, np.stack(expected))
    assert len(np.unique(starts.reshape(21, 4), axis=0)) == 21


def test_samples_repeat(fitted: FAnogan) -> None:
    """The same seed, the same images; what the averaged generator draws."""
    one = fitted.sample(5, 2)
    assert one.shape == (5, SIDE, SIDE, 3)
    np.testing.assert_array_equal(one, fitted.sample(5, 2))
    assert not np.array_equal(one, fitted.sample(5, 3))
    with torch.no_grad():
        exact = fitted.networks.averaged(normal((5, 4), np.random.default_rng(2))).cpu().numpy()
    assert np.abs(one - (exact.transpose(0, 2, 3, 1) + 1) * 127.5).max() < 0.51


# Runs ---------------------------------------------------------------------------------------------------------------


def test_runs_that_may_go_on_from_one_another(tmp_path: Path, good: np.ndarray, fitted: FAnogan) -> None:
    """Other searches and scores find the same checkpoints; another seed or what changes a weight does not."""
    FAnogan(**ENCODING).fit(good, SEED, checkpoints=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 2
    scoring = {"image_score": "peak", "sigma": 2.0, "search_steps": 9, "restarts": 1, "feature_share": 0.5}
    again = FAnogan(**{**ENCODING, **scoring, "search_lr": 1.0}).fit(good, SEED, checkpoints=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert equal(again.networks, fitted.networks)
    other = FAnogan(**ENCODING).fit(good, SEED + 1, checkpoints=tmp_path)
    assert set(other.checkpoint_files).isdisjoint(before)
    assert not np.array_equal(other.good_scores, fitted.good_scores)
    kept, path = np.delete(good, held_out_positions(12, 6, SEED), 0), again.checkpoint_files[0]
    for change in ({"lr": 1e-3}, {"kappa": 0.5}, {"encoder_steps": 5}, {"averaging": 0.5}, {"held_out": 0.3}):
        with pytest.raises(TrainingError, match=rf"another run \(.*{next(iter(change))}.* differ\)"):
            FAnogan(**{**ENCODING, **change}).train(kept, kept, SEED, path, False)


# Errors and options -------------------------------------------------------------------------------------------------


def test_what_cannot_be_fitted_or_scored(good: np.ndarray, fitted: FAnogan, alone: Anogan) -> None:
    """Three images are enough, one number can be the latent vector; what is not there is not made up."""
    small = FAnogan(**{**ENCODING, "steps": 1, "encoder_steps": 1, "latent": 1}).fit(good[:3])
    assert small.good_scores.shape == (1,)
    assert small.score(good).maps.shape == (12, SIDE, SIDE)
    with pytest.raises(SettingsError, match="latent changes the weights"):
        fitted.as_search(latent=3)
    with pytest.raises(SettingsError, match="no option kappa"):
        alone.rescored(kappa=2.0)


def test_presets() -> None:
    """Digits are as large as MNIST's, and both methods train the same GAN."""
    for name, side in {"default": 64, "quick": 32, "full": 64, "digits": 28, "digits_quick": 28}.items():
        one, other = Anogan.preset(name), FAnogan.preset(name)
        assert other.options() == other.options() | one.options()
        assert one.crop == one.image_size == side


def test_larger_images_are_searched_for_fewer_at_a_time() -> None:
    """As many pixels at once as 64 searches of 64 pixels have."""
    sizes = {28: 64, 64: 64, 128: 16, 256: 4, 1024: 1}
    assert {side: Anogan(image_size=side, crop=side).batch() for side in sizes} == sizes
    assert Anogan(restarts=3).batch() == 21
