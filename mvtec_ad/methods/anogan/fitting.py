"""Training on good images: WGAN-GP first, then the encoder, in one run with one checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvtec_ad.errors import DataError
from mvtec_ad.methods.anogan.model import Anogan
from mvtec_ad.methods.anogan.networks import Networks, encoder_loss, new_networks, signed
from mvtec_ad.methods.gan.losses import PENALTY, critic_loss, gradient_penalty
from mvtec_ad.methods.gan.networks import move_average
from mvtec_ad.methods.pixels import as_tensor, check_size
from mvtec_ad.methods.sampling import held_out_positions, normal
from mvtec_ad.methods.scores import Trial
from mvtec_ad.methods.trained import train_and_score
from mvtec_ad.settings import AnoganSettings, as_dict, torch_device
from mvtec_ad.training import Turn, rng_of, train_in_turns, warm_cosine

EVERY = 50  # steps between checkpoints
CRITIC, GENERATOR, ENCODER = range(3)  # players, in the random streams
INVERTING = ("score", "sigma", "search_steps", "search_rate", "restarts", "feature_share")  # no weight depends on them


def fit(
    settings: AnoganSettings, images: np.ndarray, *, checkpoint: Path | None = None, progress: bool = True
) -> Anogan:
    """The model of the settings' first seed, trained on good images, (N, S, S, 3) uint8.

    Args:
        settings: what to fit.
        images: `settings.held_out` of them are not trained on.
        checkpoint: where the run is kept, and gone on from; None keeps nothing.
        progress: show a bar.

    Raises:
        DataError: fewer than three images.
        SettingsError: the images have another size.
        TrainingError: a loss is not finite; the last checkpoint stays.
    """
    return _fit(settings, settings.seeds[0], images, checkpoint, progress)


def fit_and_score(
    settings: AnoganSettings, train: np.ndarray, test: np.ndarray, *, progress: bool = True
) -> Iterator[Trial]:
    """Train with every seed of the settings, score, one after the other: see `trained.train_and_score`.

    Args:
        settings: what to fit.
        train: (N, S, S, 3) uint8 good images; `settings.held_out` of them are not trained on.
        test: (M, S, S, 3) uint8.
        progress: show bars.
    """
    return train_and_score(
        "anogan",
        settings.seeds,
        lambda seed: _identity(settings, seed),
        lambda seed, path: _fit(settings, seed, train, path, progress),
        train,
        test,
    )


def _identity(settings: AnoganSettings, seed: int) -> dict[str, Any]:
    """All that the weights depend on beside the images."""
    own = {key: value for key, value in as_dict(settings).items() if key not in INVERTING}
    return {**own, "seeds": [seed], "penalty": PENALTY}


def _fit(settings: AnoganSettings, seed: int, images: np.ndarray, checkpoint: Path | None, progress: bool) -> Anogan:
    if len(images) < 3:
        raise DataError(f"{len(images)} good images are too few: two to learn from and one to hold out are needed")
    check_size(images, settings.crop)
    held = held_out_positions(settings, len(images), seed)
    kept = np.delete(images, held, 0)
    networks = new_networks(settings, seed)
    networks.generator.start_from(signed(as_tensor(kept.mean(0, keepdims=True).round().astype(np.uint8)))[0])
    move_average(networks.averaged, networks.generator, 0, 0)
    with_encoder = networks.encoder is not None
    curve = train_in_turns(
        networks,
        _turns(networks, settings, seed, kept),
        steps=settings.steps + (settings.encoder_steps if with_encoder else 0),
        checkpoint=checkpoint,
        every=EVERY,
        identity=_identity(settings, seed),
        description=f"{'f-AnoGAN' if with_encoder else 'AnoGAN'}, seed {seed}",
        progress=progress,
    )
    model = Anogan(networks.eval(), settings, seed, curve=curve)
    model.good_scores = model.score(images[held]).image
    return model


def _turns(networks: Networks, settings: AnoganSettings, seed: int, images: np.ndarray) -> list[Turn]:
    """Critic and generator, then the encoder while both lie still."""
    size = min(settings.batch, len(images))

    def real(rng: np.random.Generator) -> Tensor:
        return signed(as_tensor(images[rng.permutation(len(images))[:size]]))

    def drawn(rng: np.random.Generator) -> Tensor:
        return networks.generator(normal((size, settings.latent), rng))

    def critic(step: int, repeat: int) -> Tensor:
        rng = rng_of(seed, step, CRITIC, repeat)
        images_, shares = real(rng), torch.from_numpy(rng.random(size, np.float32)).to(torch_device())
        with torch.no_grad():
            fakes = drawn(rng)
        loss = critic_loss(networks.critic(images_), networks.critic(fakes))
        return loss + PENALTY * gradient_penalty(networks.critic, images_, fakes, shares)

    def generator(step: int, repeat: int) -> Tensor:
        return -networks.critic(drawn(rng_of(seed, step, GENERATOR, repeat))).mean()

    def encoder(step: int, repeat: int) -> Tensor:
        networks.averaged.eval()
        images_ = real(rng_of(seed, step, ENCODER, repeat))
        redrawn = networks.averaged(networks.encoder(images_))
        return encoder_loss(networks.critic, images_, redrawn, settings.kappa).mean()

    def after(step: int) -> None:
        move_average(networks.averaged, networks.generator, settings.averaging, step)

    game = {"rate": lambda _: settings.rate, "momentum": 0.5, "last": settings.steps}
    turns = [
        Turn("critic", networks.critic, critic, times=settings.critic_steps, **game),
        Turn("generator", networks.generator, generator, **game, after=after),
    ]
    if networks.encoder is not None:

        def rate(step: int) -> float:
            return settings.encoder_rate * warm_cosine(step - settings.steps, settings.encoder_steps)

        turns.append(Turn("encoder", networks.encoder, encoder, rate, first=settings.steps))
    return turns
