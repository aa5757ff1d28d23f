"""f-AnoGAN: AnoGAN with an encoder, trained through generator and critic, in place of the latent search.

Schlegl, Seeböck, Waldstein, Langs, Schmidt-Erfurth, "f-AnoGAN: Fast unsupervised anomaly detection with generative
adversarial networks", Medical Image Analysis 54, 2019. The GAN of good images is that of `anogan.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mvtec_ad.config import option
from mvtec_ad.methods import anogan
from mvtec_ad.methods.anogan import ENCODER, Anogan, draw_batch, signed
from mvtec_ad.methods.base import Pixels
from mvtec_ad.methods.gan import Discriminator
from mvtec_ad.training import Run


@dataclass
class FAnogan(Anogan):
    """f-AnoGAN: an encoder, trained through generator and critic, finds the latent vector at once.

    The options of the search count for `as_search` only. The encoder's run lies beside the GAN's checkpoint, under the
    same stem; both are among `checkpoint_files`.

    Attributes:
        curve: columns step, critic, generator, encoder; NaN where a part was not trained.

    Examples:
        >>> good = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
        >>> detector = FAnogan(image_size=16, crop=16, width=2, steps=1, encoder_steps=1).fit(good, seed=0)
        >>> detector.reconstruct(good[:2]).shape
        (2, 16, 16, 3)
    """

    encoder_steps: int = option(400, "training steps of the encoder", least=0, most=1_000_000)
    encoder_lr: float = option(1e-3, "learning rate of the encoder", above=0, most=1)
    kappa: float = option(
        1.0, "κ: weight of the features in the encoder's loss and score; 0 is izi, else izi_f", least=0, most=1e6
    )

    name: ClassVar = "f_anogan"
    encodes: ClassVar[bool] = True
    PRESETS: ClassVar = {
        "default": {},
        "quick": {**Anogan.PRESETS["quick"], "encoder_steps": 600},
        "full": {},
        "digits": {**Anogan.PRESETS["digits"], "encoder_steps": 500},
        "digits_quick": {**Anogan.PRESETS["digits_quick"], "encoder_steps": 120},
    }

    def train(self, images: Pixels, held: Pixels, seed: int, checkpoint: Path | None, progress: bool) -> None:
        """Critic and generator first, then the encoder while both lie still."""
        super().train(images, held, seed, checkpoint, progress)
        networks, size = self.networks, min(self.batch_images, len(images))
        networks.encoder.requires_grad_(True)
        encoder_checkpoint = checkpoint and checkpoint.with_stem(f"{checkpoint.stem}-encoder")
        self.checkpoint_files += [encoder_checkpoint] if encoder_checkpoint else []
        recipe = {"lr": self.encoder_lr, "steps": self.encoder_steps, "seed": seed, "weight_decay": 0.0}
        recipe |= {"every": anogan.EVERY, "checkpoint": encoder_checkpoint, "identity": self.identity(seed)}
        with Run(networks.encoder, **recipe, description=f"{self.name} encoder, seed {seed}", progress=progress) as run:
            for step in run:
                real = draw_batch(images, size, run.rng(self.steps + step, ENCODER, 0))
                reconstructions = networks.averaged(networks.encoder(real))
                run.minimise(encoder_loss(networks.critic, real, reconstructions, self.kappa).mean())
        networks.encoder.eval().requires_grad_(False)
        encoder = run.curve().astype(float).rename(columns={"loss": "encoder"})  # objects where no step was taken
        encoder["step"] = encoder["step"].astype(int) + self.steps
        seconds = self.curve.attrs["seconds_before"] + run.seconds_before
        self.curve = self.curve.merge(encoder, how="outer", on="step")
        self.curve.attrs["seconds_before"] = seconds

    def closest(self, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
        """G(E(x)) of images (B, S, S, 3) uint8, (B, 3, S, S) in [−1, 1], and the loss of each (B,)."""
        wanted = signed(pixels)
        with torch.no_grad():
            reconstructions = self.networks.averaged(self.networks.encoder(wanted))
            return reconstructions, encoder_loss(self.networks.critic, wanted, reconstructions, self.kappa)

    def batch(self) -> int:
        """Without a search there is nothing to restart."""
        return anogan.TOGETHER

    def as_search(self, **options: Any) -> Anogan:
        """AnoGAN's latent search through these networks, under other options of search and score; see `rescored`."""
        return self._under(Anogan, options)


def encoder_loss(critic: Discriminator, images: Tensor, reconstructions: Tensor, kappa: float) -> Tensor:
    """‖x − x̂‖² / n + κ ‖f(x) − f(x̂)‖² / n_f of every image, (B,), with n pixel values and n_f features.

    The loss of an encoder trained in the way izi_f, or izi with κ = 0, and the anomaly score of f-AnoGAN (Schlegl et
    al. 2019, sections on encoder training and on detection), of x and x̂ = G(E(x)), (B, C, S, S) in [−1, 1]; f are
    features of the critic.

    Examples:
        >>> images = torch.ones(2, 3, 16, 16)
        >>> encoder_loss(Discriminator(16, 3, 4, norm="layer"), images, images - 2, kappa=0.0)
        tensor([4., 4.])
    """
    residual = (images - reconstructions).square().flatten(1).mean(1)
    if kappa == 0:
        return residual
    return residual + kappa * (critic.features(images) - critic.features(reconstructions)).square().mean(1)
