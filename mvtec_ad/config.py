"""What a run is: options that check and explain themselves, the profile, places on disk, seeds and the device."""

from __future__ import annotations

import dataclasses
import operator
import os
import random
import reprlib
import sys
import warnings
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np

from mvtec_ad.errors import SettingsError

PROFILES = ("quick", "full")
NAMED_WEIGHTS = ("imagenet", "random", "synthetic")  # anything else is the path of a file
_BOUNDS = {
    "least": (operator.ge, "{} or more"),
    "most": (operator.le, "{} or less"),
    "above": (operator.gt, "above {}"),
    "below": (operator.lt, "below {}"),
}
_SHORT = reprlib.Repr()  # of a value in a message
_SHORT.maxstring, _SHORT.maxother = 100, 100
_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    among: tuple = (),
) -> Any:
    """A field of `Options`: its default, what it means, and what it may be.

    From this one line come the check, the command-line flag with its help, the table in the docs and the manifest.

    A default is an int, float, str, bool, a tuple of these, or None beside one of them. `least` and `most` are values
    allowed, `above` and `below` are not; `among` are the values allowed, of a tuple its items.
    """
    rules = {"least": least, "above": above, "most": most, "below": below, "among": among}
    return dataclasses.field(default=default, metadata={"help": help, **rules})


class Options:
    """Base of dataclasses whose `option` fields are checked when they are made.

    Examples:
        >>> @dataclass
        ... class Own(Options):
        ...     steps: int = option(10, "training steps", least=1)
        >>> Own(steps=3).options()
        {'steps': 3}
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}  # name -> options that differ from the defaults

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in self.option_fields():
            check_option(field, hints[field.name], getattr(self, field.name))
        self.check()

    def check(self) -> None:
        """Refuse combinations of options that cannot work; subclasses say which."""

    @classmethod
    def option_fields(cls) -> list[Field]:
        """The fields that are options, in order."""
        return [field for field in fields(cls) if field.metadata]

    @classmethod
    def preset(cls, name: str, /, **more: Any) -> Any:
        """An instance with the options of a preset, and more put over them."""
        if name not in cls.PRESETS:
            raise SettingsError(f"{cls.__name__} has no preset {name!r}: use one of {', '.join(cls.PRESETS)}")
        return cls(**{**cls.PRESETS[name], **more})

    @classmethod
    def from_options(cls, values: dict[str, Any]) -> Any:
        """The inverse of `options`; unknown names are refused."""
        unknown = sorted(set(values) - {field.name for field in cls.option_fields()})
        if unknown:
            names = ", ".join(name if name.isidentifier() else repr(name) for name in unknown)
            raise SettingsError(f"{cls.__name__} has no option {names}: it was written by another version")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def options(self) -> dict[str, Any]:
        """All options as plain JSON data."""
        values = {field.name: getattr(self, field.name) for field in self.option_fields()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def check_option(field: Field, hint: Any, value: Any) -> None:
    """Refuse a value of another type than the annotation's, or outside of what the option allows."""
    kinds = get_args(hint) or (hint,)
    if value is None and type(None) in kinds:
        return
    many = getattr(hint, "__origin__", None) is tuple
    if many and not isinstance(value, tuple):
        raise SettingsError(f"{field.name} {value!r} must be a tuple")
    rules = field.metadata
    for item in value if many else (value,):
        kind, shown = kinds[0], _SHORT.repr(item)
        right = isinstance(item, (int, float)) if kind is float else isinstance(item, kind)
        if isinstance(item, np.generic) or not right or (isinstance(item, bool) and kind is not bool):
            raise SettingsError(f"{field.name} {shown} must be {_WANTED[kind]}")
        if rules["among"] and item not in rules["among"]:
            raise SettingsError(f"{field.name} {shown} is unknown: use one of {', '.join(map(str, rules['among']))}")
        if kind is float and not abs(item) <= sys.float_info.max:  # nan, infinite, or too many digits
            raise SettingsError(f"{field.name} {shown} must be a finite number")
        for name, (holds, words) in _BOUNDS.items():
            if rules[name] is not None and not holds(item, rules[name]):
                raise SettingsError(f"{field.name} {shown} must be {words.format(rules[name])}")


def seen_part(image_size: int, crop: int) -> str:
    """What a method looks at of each image, in words.

    Examples:
        >>> seen_part(256, 224)
        'the central 224 of 256 pixels'
    """
    return f"the whole picture, {crop} pixels" if crop == image_size else f"the central {crop} of {image_size} pixels"


def parse_option(field: Field, hint: Any, text: str) -> Any:
    """The value of an option from the text of a command line: `3`, `0.5`, `true`, `none`, `1/2/3` for several."""
    kinds = get_args(hint) or (hint,)
    many = getattr(hint, "__origin__", None) is tuple
    if type(None) in kinds and text.lower() == "none":
        return None
    try:
        if many:
            return tuple(kinds[0](part) for part in text.split("/"))
        return {"true": True, "false": False}[text.lower()] if kinds[0] is bool else kinds[0](text)
    except (KeyError, ValueError) as problem:
        wanted = "values as 1/2/3" if many else _WANTED[kinds[0]]
        raise SettingsError(f"{field.name} {text!r} must be {wanted}") from problem


@dataclass
class DataSettings(Options):
    """Which images a run is about, and how many of the drawn ones."""

    categories: tuple[str, ...] = option(("bottle", "screw"), "category folders")
    image_size: int = option(256, "every image is resized to a square of this side, once", least=1, most=16384)
    synthetic_train: int = option(100, "drawn good images to fit on, per category", least=1, most=100_000)
    synthetic_test_good: int = option(20, "drawn good test images, per category", least=0, most=100_000)
    synthetic_per_defect: int = option(10, "drawn test images of each defect type", least=0, most=100_000)
    packages: str = option("package", "folder of items seen from two sides; drawn where it is not on disk")
    package_train: int = option(
        60, "drawn damaged packages to learn from, and as many intact ones", least=1, most=100_000
    )
    package_test: int = option(20, "drawn packages to test on", least=1, most=100_000)
    synthetic_seed: int = option(0, "of the drawn images", least=0, most=2**32 - 1)
    least_severity: float = option(
        0.1, "of a drawn defect, from 0.1, barely visible, to 1; they are spread evenly above", least=0.1, most=1
    )

    PRESETS: ClassVar = {
        "quick": {"least_severity": 0.5},
        "full": {
            "categories": ("bottle", "cable", "capsule", "metal_nut", "pill", "screw", "zipper"),
            "synthetic_train": 200,
            "synthetic_per_defect": 20,
            "package_train": 90,
            "package_test": 10,
        },
    }


@dataclass(frozen=True)
class Profile:
    """A run: `quick` needs no download and no GPU, `full` is the reported one. Methods have presets of these names."""

    name: str
    data: DataSettings

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of trainings: three in full, one in quick."""
        return (0,) if self.name == "quick" else (0, 1, 2)


def profile(name: str | None = None, categories: str = "") -> Profile:
    """The profile to run under, `quick` or `full`, as a notebook's form field gives it; without a name it is `quick`.

    `categories`, separated by spaces or commas, take the place of the profile's own. The environment variables
    `MVTEC_AD_PROFILE` and `MVTEC_AD_CATEGORIES` win over the arguments.
    """
    name = os.environ.get("MVTEC_AD_PROFILE") or name or "quick"
    if name not in PROFILES:
        raise SettingsError(f"profile {name!r} is unknown: use one of {', '.join(PROFILES)}")
    data = DataSettings.preset(name)
    words = (os.environ.get("MVTEC_AD_CATEGORIES") or categories).replace(",", " ").split()
    wanted = tuple(word.rstrip("/\\") for word in words)  # a shell completes `bottle/`
    return Profile(name, replace(data, categories=wanted) if wanted else data)


def root_folder() -> Path:
    """Below it lie `data/` and `transfer/`: `MVTEC_AD_HOME`, else the enclosing checkout, else the working folder."""
    if os.environ.get("MVTEC_AD_HOME"):
        return Path(os.path.realpath(os.path.expanduser(os.environ["MVTEC_AD_HOME"])))  # raises nothing
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "mvtec_ad").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


def data_folder() -> Path:
    """Where images lie, as `make_folder` gives it."""
    return make_folder(root_folder() / "data")


def transfer_folder() -> Path:
    """Where artifacts lie, as `make_folder` gives it."""
    return make_folder(root_folder() / "transfer")


def make_folder(folder: Path) -> Path:
    """The folder, made when missing; a SettingsError names it where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise SettingsError(
            f"the folder {folder} cannot be made ({problem.strerror}): set MVTEC_AD_HOME to a folder of yours"
        ) from problem
    return folder


def check_seed(seed: Any) -> None:
    """Refuse, with a SettingsError, what is no seed for every generator: a whole number from 0 below 2³²."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise SettingsError(f"seed {seed!r} must be a whole number from 0 to {2**32 - 1}")


def set_seed(seed: int) -> None:
    """Seed python and numpy, and torch and Keras where they are already imported."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(seed)


def pin(run: Profile, seed: int = 0) -> None:
    """What makes a notebook repeat: `set_seed`, and in quick one thread, so that sums are taken in the same order."""
    set_seed(seed)
    if run.name != "quick":
        return
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"  # TensorFlow is imported later, and looks here


def torch_device() -> str:
    """`cuda` where torch sees a GPU, else `cpu`."""
    import torch

    with warnings.catch_warnings():  # where TensorFlow looked for a driver first, torch warns that there is none
        warnings.filterwarnings("ignore", "CUDA initialization", UserWarning)
        return "cuda" if torch.cuda.is_available() else "cpu"
