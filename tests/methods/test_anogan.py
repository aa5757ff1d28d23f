"""AnoGAN and f-AnoGAN: losses in numpy, searches one at a time, steps written out, runs that repeat bit by bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from mvtec_ad import transfer
from mvtec_ad.data import digits
from mvtec_ad.errors import DataError, SettingsError, TrainingError
from mvtec_ad.methods import anogan, model_artifact
from mvtec_ad.methods.anogan import fitting, model, one_class
from mvtec_ad.methods.gan.networks import Discriminator, Generator
from mvtec_ad.methods.sampling import held_out_positions, normal
from mvtec_ad.settings import AnoganSettings, AutoencoderSettings, torch_device
from mvtec_ad.training import rng_of, warm_cosine

Draw = Callable[[np.random.Generator, int, bool], tuple[np.ndarray, np.ndarray]]
SIDE = 16
TINY = AnoganSettings(
    image_size=SIDE,
    crop=SIDE,
    latent=4,
    width=4,
    steps=5,
    critic_steps=2,
    batch=4,
    encoder_steps=4,
    search_steps=6,
    restarts=2,
    seeds=(3,),
)
SEARCHING = replace(TINY, inversion="search")


@pytest.fixture(autouse=True)
def own_numbers() -> Iterator[None]:
    """No test leaves torch's global numbers changed, or depends on what ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def good(draw: Draw) -> np.ndarray:
    """(12, SIDE, SIDE, 3) good surfaces; six of them are held out."""
    generator = np.random.default_rng(0)
    return np.stack([draw(generator, SIDE, False)[0] for _ in range(12)])


@pytest.fixture(scope="module")
def seen(draw: Draw) -> np.ndarray:
    """Seven surfaces, the last three with a patch."""
    generator = np.random.default_rng(1)
    return np.stack([draw(generator, SIDE, index >= 4)[0] for index in range(7)])


def fit(settings: AnoganSettings, images: np.ndarray) -> anogan.Anogan:
    """In silence."""
    return anogan.fit(settings, images, progress=False)


@pytest.fixture(scope="module")
def fitted(good: np.ndarray) -> anogan.Anogan:
    """f-AnoGAN after a few steps."""
    with torch.random.fork_rng():
        return fit(TINY, good)


def weights_of(network: nn.Module) -> dict[str, np.ndarray]:
    """Every weight and buffer."""
    return {name: value.cpu().numpy().copy() for name, value in network.state_dict().items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """To the bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def wild(kind: str) -> tuple[Generator, Discriminator]:
    """Generator and critic in evaluation mode, on the CPU: as they begin, or with weights that draw much."""
    generator, critic = Generator(SIDE, 3, 4, 4), Discriminator(SIDE, 3, 4, norm="layer")
    if kind == "wild":
        for network in (generator, critic):
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                    fan = (
                        module.weight[:, 0].numel()
                        if isinstance(module, nn.ConvTranspose2d)
                        else module.weight[0].numel()
                    )
                    nn.init.normal_(module.weight, std=1.5 / fan**0.5)
        with torch.no_grad():
            for _ in range(20):
                generator(torch.randn(64, 4))
    return generator.eval(), critic.eval()


# Losses -------------------------------------------------------------------------------------------------------------


def three(seed: int = 0) -> tuple[Discriminator, Tensor, Tensor]:
    """A critic, and two batches of three images."""
    rng = np.random.default_rng(seed)
    pairs = (torch.from_numpy(rng.uniform(-1, 1, (3, 3, SIDE, SIDE)).astype(np.float32)) for _ in range(2))
    return (wild("wild")[1], *pairs)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_loss_of_a_search_by_hand(share: float) -> None:
    """Sums of absolute differences, of pixels and of features, image by image."""
    critic, images, drawn = three()
    with torch.no_grad():
        found = anogan.search_loss(critic, images, drawn, share).numpy()
        features = [[critic.features(one[None]).numpy() for one in batch] for batch in (images, drawn)]
    for one in range(3):
        residual = np.abs(images[one].numpy() - drawn[one].numpy()).sum(dtype=np.float64)
        difference = np.abs(features[0][one] - features[1][one]).sum(dtype=np.float64)
        assert difference > 10
        assert found[one] == pytest.approx((1 - share) * residual + share * difference, rel=1e-5)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.5])
def test_loss_of_an_encoder_by_hand(kappa: float) -> None:
    """Mean squares of pixels and of features; κ = 0 is the residual alone."""
    critic, images, drawn = three()
    with torch.no_grad():
        found = anogan.encoder_loss(critic, images, drawn, kappa).numpy()
        features = [[critic.features(one[None]).numpy() for one in batch] for batch in (images, drawn)]
    for one in range(3):
        residual = np.mean((images[one].numpy() - drawn[one].numpy()) ** 2, dtype=np.float64)
        difference = np.mean((features[0][one] - features[1][one]) ** 2, dtype=np.float64)
        assert difference > 1e-2
        assert found[one] == pytest.approx(residual + kappa * difference, rel=1e-5)


# Search -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["new", "wild", "trained"])
def test_searches_together_are_those_one_at_a_time(kind: str, fitted: anogan.Anogan) -> None:
    """Several images with several starts: the same losses and vectors as Adam gives for each alone."""
    networks = copy.deepcopy(fitted.networks).cpu()
    generator, critic = (networks.averaged, networks.critic) if kind == "trained" else wild(kind)
    images, starts = three(1)[1], torch.randn(3, 2, 4)
    together = anogan.search(generator, critic, images, starts, steps=20, rate=0.05, feature_share=0.1)
    assert together.losses.shape == (21, 3, 2)
    for image, restart in np.ndindex(3, 2):
        latent = nn.Parameter(starts[image, restart].clone())
        optimiser = torch.optim.Adam([latent], lr=0.05)
        losses = []
        for step in range(21):
            optimiser.zero_grad()
            drawn = generator(latent[None])
            residual = (images[image] - drawn[0]).abs().sum()
            features = (critic.features(images[image : image + 1]) - critic.features(drawn)).abs().sum()
            loss = 0.9 * residual + 0.1 * features
            losses.append(loss.item())
            if step < 20:
                loss.backward()
                optimiser.step()
        np.testing.assert_allclose(together.losses[:, image, restart].numpy(), losses, rtol=1e-5)
        np.testing.assert_allclose(together.latents[image, restart].numpy(), latent.detach().numpy(), atol=2e-4)
    best = [int(np.argmin(losses)) for losses in together.losses[-1].numpy()]
    assert together.best.tolist() == best
    with torch.no_grad():
        expected = torch.cat([generator(together.latents[one, start][None]) for one, start in enumerate(best)])
    torch.testing.assert_close(together.drawn, expected, atol=1e-5, rtol=0)


def test_the_first_loss_is_that_of_the_starts() -> None:
    """And the last one that of the vectors found."""
    generator, critic = wild("wild")
    images, starts = three(2)[1], torch.randn(3, 2, 4)
    found = anogan.search(generator, critic, images, starts, steps=3, rate=0.1, feature_share=0.3)
    for latents, losses in ((starts, found.losses[0]), (found.latents, found.losses[-1])):
        for restart in range(2):
            with torch.no_grad():
                expected = anogan.search_loss(critic, images, generator(latents[:, restart]), 0.3)
            torch.testing.assert_close(losses[:, restart], expected, rtol=1e-5, atol=1e-4)
    assert not torch.equal(found.latents, starts)


def test_a_search_finds_what_the_generator_drew() -> None:
    """Pictures of other vectors: nearly all of the loss goes, and the picture is the target."""
    generator, critic = wild("wild")
    with torch.no_grad():
        targets = generator(torch.randn(3, 4))
    starts = torch.randn(3, 4, 4)
    found = anogan.search(generator, critic, targets, starts, steps=200, rate=0.05, feature_share=0.1)
    assert (found.losses[-1].amin(1) < 0.1 * found.losses[0].amin(1)).all()
    assert (found.drawn - targets).abs().mean() < 0.02
    assert (generator(starts[:, 0]) - targets).abs().mean() > 0.1


@pytest.mark.parametrize("fails", [False, True])
def test_a_search_leaves_networks_as_they_were(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Weights, what may learn, gradients; also where it breaks off; and starting points are not moved in place."""
    generator, critic = wild("wild")
    generator.widen.bias.requires_grad_(False)
    networks = nn.ModuleList([generator, critic])
    before, could = weights_of(networks), [one.requires_grad for one in networks.parameters()]
    images, starts = three(3)[1], torch.randn(3, 2, 4)
    kept, during = starts.clone(), []

    def watched(images: Tensor) -> Tensor:
        during.append(any(one.requires_grad for one in networks.parameters()))
        if fails and len(during) == 4:
            raise RuntimeError("in the middle")
        return Discriminator.features(critic, images)

    monkeypatch.setattr(critic, "features", watched)
    look = partial(anogan.search, generator, critic, images, starts, steps=5, rate=0.1, feature_share=0.5)
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            look()
    else:
        look()
    assert not any(during)
    assert [one.requires_grad for one in networks.parameters()] == could
    assert all(one.grad is None for one in networks.parameters())
    assert_same(weights_of(networks), before)
    assert torch.equal(starts, kept)


# Training -----------------------------------------------------------------------------------------------------------


def test_steps_are_those_written_out(good: np.ndarray, fitted: anogan.Anogan) -> None:
    """WGAN-GP, the averaged generator, then the encoder through it."""
    device = torch_device()
    kept = np.delete(good, held_out_positions(TINY, 12, 3), 0)
    torch.manual_seed(3)
    networks = anogan.Networks(TINY).to(device, memory_format=torch.channels_last)
    mean = np.round(kept.mean(0)).astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
    base = torch.from_numpy(np.arctanh(np.clip(mean, -0.99, 0.99))).to(device)
    for network in (networks.generator, networks.averaged):
        network.base.copy_(base)
    options = {"lr": TINY.rate, "betas": (0.5, 0.999), "weight_decay": 0.0}
    of_critic = torch.optim.AdamW(networks.critic.parameters(), **options)
    of_generator = torch.optim.AdamW(networks.generator.parameters(), **options)
    of_encoder = torch.optim.AdamW(networks.encoder.parameters(), weight_decay=0.0)

    def batch(rng: np.random.Generator) -> Tensor:
        chosen = kept[rng.permutation(6)[:4]].astype(np.float32) / 127.5 - 1
        return torch.from_numpy(chosen.transpose(0, 3, 1, 2).copy()).to(device)

    def compared(parts: tuple[str, ...]) -> None:
        """Every weight, to rounding."""
        for part in parts:
            found, expected = (weights_of(getattr(of, part)) for of in (fitted.networks, networks))
            for name, value in found.items():
                np.testing.assert_allclose(value, expected[name], atol=2e-6, err_msg=f"{part}.{name}")

    curve = np.full((9, 3), np.nan)
    networks.train()
    for step in range(5):
        values = []
        for repeat in range(2):
            rng = rng_of(3, step, 0, repeat)
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
        loss = -networks.critic(networks.generator(normal((4, 4), rng_of(3, step, 1, 0)))).mean()
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
        real = batch(rng_of(3, step, 2, 0))
        redrawn = networks.averaged(networks.encoder(real))
        features = (networks.critic.features(real) - networks.critic.features(redrawn)).square().mean(1)
        loss = ((real - redrawn).square().mean((1, 2, 3)) + features).mean()
        of_encoder.param_groups[0]["lr"] = TINY.encoder_rate * warm_cosine(step - 5, 4)
        of_encoder.zero_grad()
        loss.backward()
        of_encoder.step()
        curve[step, 2] = loss.item()
    assert list(fitted.curve.columns) == ["step", "critic", "generator", "encoder"]
    np.testing.assert_allclose(fitted.curve[["critic", "generator", "encoder"]], curve, rtol=2e-3, atol=1e-5)
    compared(("encoder",))
    assert not fitted.networks.training


def test_both_stages_move_their_own_parts_only(good: np.ndarray, fitted: anogan.Anogan) -> None:
    """Without the second stage, generator and critic are the same; without the first steps, the encoder is new."""
    short = fit(replace(TINY, encoder_steps=0), good)
    for name, value in weights_of(fitted.networks).items():
        if not name.startswith("encoder"):
            np.testing.assert_array_equal(value, weights_of(short.networks)[name], err_msg=name)
    assert not np.array_equal(
        weights_of(fitted.networks)["encoder.judge.weight"], weights_of(short.networks)["encoder.judge.weight"]
    )
    torch.manual_seed(3)
    assert_same(weights_of(anogan.Networks(TINY).encoder), weights_of(short.networks.encoder))


def test_anogan_by_itself_is_the_search_of_f_anogan(good: np.ndarray, seen: np.ndarray, fitted: anogan.Anogan) -> None:
    """The same generator and critic to the bit, the same scores, maps and pictures."""
    alone = fit(SEARCHING, good)
    assert alone.networks.encoder is None
    assert list(alone.curve.columns) == ["step", "critic", "generator"]
    for part in ("generator", "averaged", "critic"):
        assert_same(weights_of(getattr(alone.networks, part)), weights_of(getattr(fitted.networks, part)))
    inverted = anogan.inverted_by(fitted, SEARCHING)
    (one, first), (other, second) = alone.invert(seen), inverted.invert(seen)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.maps, second.maps)
    assert not np.allclose(first.image, fitted.score(seen).image)


def test_held_out_images_are_not_trained_on(good: np.ndarray, fitted: anogan.Anogan) -> None:
    """Others in their place: the same weights and curve, other good scores; another image to learn from is noticed."""
    held = held_out_positions(TINY, 12, 3)
    assert len(held) == 6
    others = good.copy()
    others[held] = 255 - others[held]
    changed = fit(TINY, others)
    assert_same(weights_of(changed.networks), weights_of(fitted.networks))
    assert changed.curve.equals(fitted.curve)
    assert len(fitted.good_scores) == 6
    assert (changed.good_scores != fitted.good_scores).all()
    np.testing.assert_allclose(fitted.good_scores, fitted.score(good[held]).image, rtol=1e-6)
    kept = good.copy()
    kept[np.setdiff1d(np.arange(12), held)[0]] = 0
    assert not np.array_equal(weights_of(fit(TINY, kept).networks)["generator.base"], fitted.networks.generator.base)


# Scores -------------------------------------------------------------------------------------------------------------


def signed(images: np.ndarray) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) in [−1, 1]."""
    return torch.from_numpy((images / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2).copy()).to(torch_device())


@pytest.mark.parametrize("kappa", [0.0, 1.0])
@pytest.mark.parametrize("score", ["loss", "peak"])
def test_scores_of_the_encoder_by_hand(seen: np.ndarray, fitted: anogan.Anogan, score: str, kappa: float) -> None:
    """Map: the residual, averaged over colours and smoothed as scipy does. Score: its peak, or the encoder's loss."""
    settings = replace(TINY, score=score, sigma=1.5, kappa=kappa)
    redrawn, scores = anogan.inverted_by(fitted, settings).invert(seen)
    wanted = signed(seen)
    with torch.no_grad():
        drawn = torch.cat([fitted.networks.averaged(fitted.networks.encoder(one[None])) for one in wanted])
        features = [fitted.networks.critic.features(one).cpu().numpy() for one in (wanted, drawn)]
    wanted, drawn = wanted.cpu().numpy(), drawn.cpu().numpy()
    residuals = np.abs(wanted - drawn).mean(1)
    maps = np.stack([ndimage.gaussian_filter(one, 1.5) for one in residuals])
    np.testing.assert_allclose(scores.maps, maps, atol=1e-5)
    loss = ((wanted - drawn) ** 2).mean((1, 2, 3)) + kappa * ((features[0] - features[1]) ** 2).mean(1)
    np.testing.assert_allclose(scores.image, maps.max((1, 2)) if score == "peak" else loss, rtol=1e-4)
    assert scores.image.dtype == scores.maps.dtype == np.float32
    exact = (drawn.transpose(0, 2, 3, 1).astype(np.float64) + 1) * 127.5
    assert np.abs(redrawn - exact).max() < 0.51
    np.testing.assert_array_equal(anogan.inverted_by(fitted, settings).redraw(seen), redrawn)


def test_scores_of_the_search_by_hand(seen: np.ndarray, fitted: anogan.Anogan) -> None:
    """The lowest loss of all starts, and the map of its picture."""
    scores = anogan.inverted_by(fitted, replace(SEARCHING, sigma=0.0)).score(seen)
    networks = fitted.networks
    for place, image in enumerate(signed(seen)):
        starts = normal((2, 4), np.random.default_rng([3, place]))[None]
        found = anogan.search(
            networks.averaged, networks.critic, image[None], starts, steps=6, rate=0.05, feature_share=0.1
        )
        assert scores.image[place] == pytest.approx(found.losses[-1].min().item(), rel=1e-4)
        residual = (image - found.drawn[0]).abs().mean(0).cpu().numpy()
        np.testing.assert_allclose(scores.maps[place], residual, atol=1e-3)


def test_starts_do_not_depend_on_batches(
    seen: np.ndarray, fitted: anogan.Anogan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many searches go on at once; every image and every restart has its own."""
    searching = anogan.inverted_by(fitted, replace(SEARCHING, restarts=3))
    all_starts, all_scores, cuts = [], [], []
    for together in (64, 1, 6, 7):
        monkeypatch.setattr(model, "TOGETHER", together)
        starts: list[Tensor] = []

        def watched(generator: Generator, critic: Discriminator, images: Tensor, begun: Tensor, **options: float):
            starts.append(begun)  # noqa: B023
            return anogan.search(generator, critic, images, begun, **options)

        monkeypatch.setattr(model, "search", watched)
        all_scores.append(searching.score(seen).image)
        all_starts.append(torch.cat(starts).cpu().numpy())
        cuts.append([len(one) for one in starts])
    assert cuts == [[7], 7 * [1], [2, 2, 2, 1], [2, 2, 2, 1]]
    assert len(np.unique(all_starts[0].reshape(21, 4), axis=0)) == 21
    for starts_, scores in zip(all_starts[1:], all_scores[1:], strict=True):
        np.testing.assert_array_equal(starts_, all_starts[0])
        np.testing.assert_allclose(scores, all_scores[0], rtol=1e-4)


def test_samples_repeat(fitted: anogan.Anogan) -> None:
    """The same seed, the same images; what the averaged generator draws."""
    one = fitted.sample(5, 2)
    assert one.shape == (5, SIDE, SIDE, 3)
    np.testing.assert_array_equal(one, fitted.sample(5, 2))
    assert not np.array_equal(one, fitted.sample(5, 3))


# Runs ---------------------------------------------------------------------------------------------------------------


def checkpoints(home: Path) -> list[str]:
    """Whatever lies where runs keep their checkpoints."""
    folder = home / "transfer" / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("where", [(3, 0, 1), (4, 1, 0), (5, 2, 0), (7, 2, 0)], ids=str)
def test_an_interrupted_run_ends_the_same(
    own_home: Path,
    good: np.ndarray,
    seen: np.ndarray,
    fitted: anogan.Anogan,
    monkeypatch: pytest.MonkeyPatch,
    where: tuple[int, int, int],
) -> None:
    """In the critic's, the generator's and the encoder's moves, bit by bit; steps after the checkpoint are redone."""
    monkeypatch.setattr(fitting, "EVERY", 2)
    taken: list[int] = []

    def stops(seed: int, step: int, *more: int) -> np.random.Generator:
        if (step, *more) == where:
            raise KeyboardInterrupt
        return rng_of(seed, step, *more)

    def noted(seed: int, step: int, *more: int) -> np.random.Generator:
        taken.append(step)
        return rng_of(seed, step, *more)

    monkeypatch.setattr(fitting, "rng_of", stops)
    with pytest.raises(KeyboardInterrupt):
        list(anogan.fit_and_score(TINY, good, seen, progress=False))
    assert len(checkpoints(own_home)) == 1
    monkeypatch.setattr(fitting, "rng_of", noted)
    (trial,) = anogan.fit_and_score(TINY, good, seen, progress=False)
    assert sorted(set(taken)) == list(range(where[0] // 2 * 2, 9))
    assert_same(weights_of(trial.model.networks), weights_of(fitted.networks))
    assert trial.model.curve.equals(fitted.curve)
    np.testing.assert_array_equal(trial.good_scores, fitted.good_scores)
    np.testing.assert_array_equal(trial.scores.maps, fitted.score(seen).maps)
    assert checkpoints(own_home) == []


def test_a_trial_for_every_seed(own_home: Path, good: np.ndarray, seen: np.ndarray, fitted: anogan.Anogan) -> None:
    """In order, each as if it were alone; checkpoints stay until all are done."""
    trials, kept = [], []
    for trial in anogan.fit_and_score(replace(TINY, seeds=(3, 5)), good, seen, progress=False):
        trials.append(trial)
        kept.append(len(checkpoints(own_home)))
    assert [trial.seed for trial in trials] == [3, 5]
    assert kept == [1, 2]
    assert checkpoints(own_home) == []
    assert_same(weights_of(trials[0].model.networks), weights_of(fitted.networks))
    np.testing.assert_array_equal(trials[0].scores.image, fitted.score(seen).image)
    other = fit(replace(TINY, seeds=(5,)), good)
    assert_same(weights_of(trials[1].model.networks), weights_of(other.networks))
    assert not np.array_equal(trials[0].scores.image, trials[1].scores.image)


def test_what_no_weight_depends_on_is_no_other_run(tmp_path: Path, good: np.ndarray) -> None:
    """Another way to score goes on from the same checkpoint; another rate does not."""
    path = tmp_path / "run.checkpoint"
    first = anogan.fit(TINY, good, checkpoint=path, progress=False)
    before = path.read_bytes()
    scoring = replace(TINY, score="peak", sigma=2.0, search_steps=9, restarts=1, feature_share=0.5, search_rate=1.0)
    again = anogan.fit(scoring, good, checkpoint=path, progress=False)
    assert path.read_bytes() == before
    assert_same(weights_of(again.networks), weights_of(first.networks))
    for change in ({"rate": 1e-3}, {"seeds": (4,)}, {"kappa": 0.5}, {"encoder_steps": 5}, {"inversion": "search"}):
        with pytest.raises(TrainingError, match=rf"another run \(.*{next(iter(change))}.* differ\)"):
            anogan.fit(replace(TINY, **change), good, checkpoint=path, progress=False)


@pytest.mark.parametrize("method", ["anogan", "f_anogan"])
def test_a_model_comes_back_from_a_file(
    tmp_path: Path, good: np.ndarray, seen: np.ndarray, fitted: anogan.Anogan, method: str
) -> None:
    """Scores, maps, pictures, weights, threshold and curve, to the bit."""
    own = fitted if method == "f_anogan" else fit(SEARCHING, good)
    threshold = {"value": 1.5, "false_alarm_rate": 0.05}
    members = model_artifact.members(method, own, "part", threshold)
    about = {"profile": "quick", "data_source": "own", "categories": ["part"], "settings": {}, "seed": 0}
    artifact = transfer.load(transfer.save("anogan", members, path=tmp_path / "a.zip", **about))
    assert set(artifact.names) == {f"part/{method}/3/model.json", f"part/{method}/3/model.safetensors"}
    restored, description = model_artifact.restore(artifact)
    assert (description["method"], description["backbone"], description["threshold"]) == (method, None, threshold)
    assert (restored.settings, restored.seed, restored.backbone) == (own.settings, 3, None)
    assert_same(weights_of(restored.networks), weights_of(own.networks))
    (pictures, scores), (again, after) = own.invert(seen), restored.invert(seen)
    np.testing.assert_array_equal(again, pictures)
    np.testing.assert_array_equal(after.image, scores.image)
    np.testing.assert_array_equal(after.maps, scores.maps)
    np.testing.assert_array_equal(restored.good_scores, own.good_scores)
    assert restored.curve.equals(own.curve)
    np.testing.assert_array_equal(restored.sample(3), own.sample(3))


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_images_are_refused(good: np.ndarray, count: int) -> None:
    """Three are enough."""
    with pytest.raises(DataError, match=f"{count} good images are too few"):
        fit(TINY, good[:count])
    if count == 2:
        assert len(fit(replace(TINY, steps=1, encoder_steps=1), good[:3]).good_scores) == 1


def test_images_of_another_size_are_refused(good: np.ndarray, fitted: anogan.Anogan) -> None:
    """To fit and to score, in one line."""
    wide = np.zeros((4, SIDE, SIDE + 4, 3), np.uint8)
    for call in (lambda: fit(TINY, wide), lambda: fitted.score(wide), lambda: fitted.redraw(np.zeros((1, 8, 8, 3)))):
        with pytest.raises(SettingsError, match=r"not the 16×16 the model was fitted on") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_an_encoder_that_was_not_trained_is_refused(good: np.ndarray) -> None:
    """It is not made up."""
    alone = fit(replace(SEARCHING, steps=1, search_steps=1), good)
    with pytest.raises(SettingsError, match="fitted without an encoder"):
        anogan.inverted_by(alone, TINY)


# Digits -------------------------------------------------------------------------------------------------------------


def test_four_ways_of_redrawing_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scores and redraws every digit; PCA as an SVD gives it."""
    monkeypatch.setattr(one_class, "AutoencoderSettings", partial(AutoencoderSettings, width=4))
    all_digits = digits.load("sklearn")
    ones = all_digits.of(1)
    ones = digits.Digits(ones.images[:14], ones.labels[:14], "ones")
    test = digits.Digits(all_digits.images[-9:], all_digits.labels[-9:], "some")
    settings = replace(TINY, image_size=28, crop=28, latent=5, steps=2, encoder_steps=2)
    own = one_class.fit_on(settings, ones, progress=False)
    found = one_class.compare(own, ones, test, autoencoder_steps=2, progress=False)
    assert set(found) == {"f_anogan", "anogan", "autoencoder", "pca"}
    for way in found.values():
        assert way.scores.shape == (9,)
        assert way.scores.dtype == np.float32
        assert np.isfinite(way.scores).all()
        assert (way.pictures.shape, way.pictures.dtype) == ((9, 28, 28), np.uint8)
        assert way.milliseconds > 0

    known, flat = ones.images.reshape(14, -1).astype(np.float64), test.images.reshape(9, -1).astype(np.float64)
    axes = np.linalg.svd(known - known.mean(0), full_matrices=False)[2][:5]
    redrawn = ((flat - known.mean(0)) @ axes.T @ axes + known.mean(0)).clip(0, 255).reshape(9, 28, 28)
    assert np.abs(found["pca"].pictures - redrawn).max() < 0.51
    errors = ((test.images - np.round(redrawn)) ** 2).mean((1, 2))
    np.testing.assert_allclose(found["pca"].scores, errors, rtol=1e-3)

    gray = np.repeat(test.images[..., None], 3, 3)
    np.testing.assert_array_equal(found["f_anogan"].scores, own.score(gray).image)
    np.testing.assert_array_equal(found["f_anogan"].pictures, own.redraw(gray)[..., 0])
    searched = anogan.inverted_by(own, replace(settings, inversion="search")).score(gray)
    np.testing.assert_array_equal(found["anogan"].scores, searched.image)
    pictures = found["autoencoder"].pictures.astype(np.float64)
    np.testing.assert_allclose(found["autoencoder"].scores, ((test.images - pictures) ** 2).mean((1, 2)), rtol=1e-5)


def test_a_single_number_can_be_the_latent_vector(good: np.ndarray) -> None:
    """An encoder of one output is an encoder still, no verdict."""
    model = fit(replace(TINY, latent=1), good)
    assert model.networks.encoder(torch.zeros(2, 3, SIDE, SIDE, device=torch_device())).shape == (2, 1)
    assert model.networks.critic(torch.zeros(2, 3, SIDE, SIDE, device=torch_device())).shape == (2,)
    assert model.score(good).maps.shape == (12, SIDE, SIDE)
