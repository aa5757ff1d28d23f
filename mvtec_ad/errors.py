"""The package's own exceptions.

Each message is one line that names the thing and the way out; the command line prints it without a
traceback and exits with status 2.
"""


class MvtecAdError(Exception):
    """A problem a user can mend: what is wrong, and what to do about it."""


class DataError(MvtecAdError):
    """A folder, an image, a mask or a category is not what it should be."""


class SettingsError(MvtecAdError):
    """A setting, a profile or a combination of options cannot work."""


class WeightsError(MvtecAdError):
    """Pretrained weights are missing, unreachable or do not fit the network."""


class ArtifactError(MvtecAdError):
    """A zipped artifact is missing, damaged, or was made under other conditions than the reader's."""


class TrainingError(MvtecAdError):
    """A training cannot go on: its loss is no number, or its checkpoint belongs to another run."""
