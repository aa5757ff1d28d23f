"""Methods of anomaly detection: `fit(images)`, then `score(images) -> Scores`."""

from mvtec_ad.methods.scores import Scores, Trial

__all__ = ["Scores", "Trial"]
