"""Methods of anomaly detection: `fit(images)`, then `score(images) -> Scores`.

A method is a module with

    fit(settings, images, *, checkpoint=None, progress=True) -> model   of the settings' first seed
    fit_and_score(settings, train, test, *, progress=True) -> Iterator[Trial]              a trial per seed
    pack(model) -> (JSON data, arrays)                                  what a file keeps of it
    unpack(settings, seed, JSON data, arrays, backbone) -> model

and its model has `settings`, `seed`, `backbone` (or None), `good_scores` and `score(images) -> Scores`.
"""

import importlib
from types import ModuleType

from mvtec_ad.errors import SettingsError
from mvtec_ad.methods.scores import Scores, Trial
from mvtec_ad.settings import PRESETS

SHARED = {"vae": "autoencoder", "f_anogan": "anogan"}  # methods that are settings of another one's module


def module_of(method: str) -> ModuleType:
    """The module of a method, a key of `settings.PRESETS`.

    Raises:
        SettingsError: the method is unknown.
    """
    if method not in PRESETS:
        raise SettingsError(f"method {method!r} is unknown: use one of {', '.join(PRESETS)}")
    return importlib.import_module("mvtec_ad.methods." + SHARED.get(method, method))


__all__ = ["Scores", "Trial", "module_of"]
