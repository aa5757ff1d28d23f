"""Settings of every stage, profiles, places on disk, seeds and the device."""

from mvtec_ad.settings.adversarial import DIGITS_AS_ANOMALIES, AnoganSettings, DcganSettings
from mvtec_ad.settings.contrastive import LOOKS, TYPING_PRESETS, TypingSettings
from mvtec_ad.settings.inspection import OPINIONS, InspectionSettings
from mvtec_ad.settings.machine import set_seed, torch_device
from mvtec_ad.settings.methods import (
    KERAS_RECIPE,
    PRESETS,
    REPORTED_AUTOENCODER,
    AutoencoderSettings,
    PadimSettings,
    PatchcoreSettings,
    default_settings,
)
from mvtec_ad.settings.places import data_folder, home, transfer_folder
from mvtec_ad.settings.profiles import PROFILES, Profile, profile
from mvtec_ad.settings.stages import DataSettings, PretrainingSettings, as_dict, from_dict
from mvtec_ad.settings.supervised import ARCHITECTURES, AttributionSettings, ClassifierSettings

__all__ = [
    "ARCHITECTURES",
    "DIGITS_AS_ANOMALIES",
    "KERAS_RECIPE",
    "LOOKS",
    "OPINIONS",
    "PRESETS",
    "PROFILES",
    "REPORTED_AUTOENCODER",
    "TYPING_PRESETS",
    "AnoganSettings",
    "AttributionSettings",
    "AutoencoderSettings",
    "ClassifierSettings",
    "DataSettings",
    "DcganSettings",
    "InspectionSettings",
    "PadimSettings",
    "PatchcoreSettings",
    "PretrainingSettings",
    "Profile",
    "TypingSettings",
    "as_dict",
    "data_folder",
    "default_settings",
    "from_dict",
    "home",
    "profile",
    "set_seed",
    "torch_device",
    "transfer_folder",
]
