"""mvtec_ad: the shared rooms of a notebook suite for visual anomaly detection on MVTec AD.

Importing it loads neither torch nor TensorFlow; the rooms that need one import it themselves.
"""

from importlib import metadata

from mvtec_ad.config import Profile, profile
from mvtec_ad.errors import ArtifactError, DataError, MvtecAdError, SettingsError, WeightsError

try:
    __version__ = metadata.version("mvtec-ad-notebooks")
except metadata.PackageNotFoundError:  # used from a folder that was never installed
    __version__ = "0+unknown"

__all__ = [
    "ArtifactError",
    "DataError",
    "MvtecAdError",
    "Profile",
    "SettingsError",
    "WeightsError",
    "__version__",
    "profile",
]
