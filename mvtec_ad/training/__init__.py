"""The one training loop: a budget of steps, checkpoints, exact resume, early stopping, mixed precision, progress."""

from mvtec_ad.training.checkpoints import checkpoint_path
from mvtec_ad.training.loop import rng_of, train, warm_cosine
from mvtec_ad.training.turns import Turn, train_in_turns

__all__ = ["Turn", "checkpoint_path", "rng_of", "train", "train_in_turns", "warm_cosine"]
