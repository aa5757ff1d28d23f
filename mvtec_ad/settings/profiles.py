"""Profiles: one switch, `quick` or `full`, decides the settings of every stage.

A profile holds one instance of each stage's dataclass. Nothing else in the suite asks which profile it runs under.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from mvtec_ad.errors import SettingsError
from mvtec_ad.settings.adversarial import DIGITS_AS_ANOMALIES, AnoganSettings, DcganSettings
from mvtec_ad.settings.contrastive import TypingSettings
from mvtec_ad.settings.inspection import InspectionSettings
from mvtec_ad.settings.methods import (
    KERAS_RECIPE,
    REPORTED_AUTOENCODER,
    AutoencoderSettings,
    PadimSettings,
    PatchcoreSettings,
)
from mvtec_ad.settings.stages import DataSettings, PretrainingSettings
from mvtec_ad.settings.supervised import AttributionSettings, ClassifierSettings


@dataclass(frozen=True)
class Profile:
    """All settings of a run.

    `quick` needs no download and no GPU; `full` is the reported run on real MVTec AD.
    """

    name: str
    data: DataSettings = field(default_factory=DataSettings)
    padim: PadimSettings = field(default_factory=PadimSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    patchcore: PatchcoreSettings = field(default_factory=PatchcoreSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    attribution: AttributionSettings = field(default_factory=AttributionSettings)
    typing: TypingSettings = field(default_factory=TypingSettings)
    dcgan: DcganSettings = field(default_factory=DcganSettings)
    anogan: AnoganSettings = field(default_factory=AnoganSettings)
    digit_anomalies: AnoganSettings = DIGITS_AS_ANOMALIES
    inspection: InspectionSettings = field(default_factory=InspectionSettings)
    pretraining: PretrainingSettings = field(default_factory=PretrainingSettings)


PROFILES = {
    "quick": Profile(
        "quick",
        padim=PadimSettings(weights="drawn", image_size=192, crop=192, sigma=3.0, channels=64),
        autoencoder=AutoencoderSettings(image_size=64, crop=64, sigma=1.0, width=12, batch=16, steps=120, seeds=(0,)),
        patchcore=PatchcoreSettings(weights="drawn", image_size=192, crop=192, sigma=3.0, seeds=(0,), coreset=0.02),
        classifier=ClassifierSettings(weights="drawn", image_size=128, steps=16, batch=8),
        attribution=AttributionSettings(images=6, path_steps=12, noisy_copies=6, windows=5, removals=6, randomised=2),
        typing=TypingSettings(weights="drawn", look="mask", image_size=80, copies=6, steps=10, batch=20, rate=1e-3),
        dcgan=DcganSettings(digits="sklearn", epochs=10),
        anogan=AnoganSettings(
            image_size=32, crop=32, steps=80, batch=16, encoder_steps=80, search_steps=30, seeds=(0,)
        ),
        digit_anomalies=replace(DIGITS_AS_ANOMALIES, steps=120, batch=16, encoder_steps=120, search_steps=40),
        inspection=InspectionSettings(weights="drawn", image_size=64),
        pretraining=PretrainingSettings(images=800, image_size=96, view=64, views=32, steps=90),
    ),
    "full": Profile(
        "full",
        data=DataSettings(
            categories=("bottle", "cable", "capsule", "metal_nut", "pill", "screw", "zipper"),
            rendered_train=200,
            rendered_per_defect=20,
            package_train=90,
            package_test=10,
        ),
        padim=KERAS_RECIPE,
        autoencoder=REPORTED_AUTOENCODER,
    ),
}


def profile(name: str | None = None, categories: str = "", **stages: Any) -> Profile:
    """The profile to run under.

    Args:
        name: `quick` or `full`, as a notebook's form field gives it. The environment variable
            `MVTEC_AD_PROFILE` wins over it; without either it is `quick`.
        categories: names separated by spaces or commas, instead of the profile's own; the environment variable
            `MVTEC_AD_CATEGORIES` wins over it.
        **stages: replacements for whole stage settings, for example `padim=PadimSettings(channels=200)`.

    Raises:
        SettingsError: the name is unknown.
    """
    name = os.environ.get("MVTEC_AD_PROFILE") or name or "quick"
    if name not in PROFILES:
        raise SettingsError(f"profile {name!r} is unknown: use one of {', '.join(PROFILES)}")
    chosen = replace(PROFILES[name], **stages)
    wanted = tuple((os.environ.get("MVTEC_AD_CATEGORIES") or categories).replace(",", " ").split())
    return replace(chosen, data=replace(chosen.data, categories=wanted)) if wanted else chosen
