"""Options that check and explain themselves, the one switch, the places on disk, seeds."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np
import pytest

from mvtec_ad import config
from mvtec_ad.config import DataSettings, Options, check_option, option, parse_option, profile
from mvtec_ad.errors import SettingsError
from mvtec_ad.inspection.products import InspectionOptions
from mvtec_ad.methods import METHODS, detector_class
from mvtec_ad.methods.base import TrainedDetector
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.defect_types import DefectTypes
from mvtec_ad.methods.explain import Attribution
from mvtec_ad.methods.gan import Dcgan
from mvtec_ad.methods.pretraining import Pretraining

# --- options ----------------------------------------------------------------------------------------------------------


@dataclass
class Own(Options):
    """One option of each kind, under every rule."""

    count: int = option(3, "whole, within bounds", least=1, most=9)
    rate: float = option(0.5, "between bounds that it does not reach", above=0, below=1)
    name: str = option("a", "one of some", among=("a", "b"))
    flag: bool = option(False, "yes or no")
    scale: float | None = option(None, "or nothing", above=0)
    depths: tuple[int, ...] = option((2, 3), "several", among=(1, 2, 3))
    parts: tuple[str, ...] = option(("x",), "several names")
    found: list[int] | None = None  # no option: what a fit leaves behind

    PRESETS: ClassVar = {"default": {}, "large": {"count": 9, "depths": (1,)}}

    def check(self) -> None:
        """A rule over two options."""
        if self.flag and self.count > 5:
            raise SettingsError("flag wants a count of 5 or less")


REFUSED = [
    ({"count": 0}, "count 0 must be 1 or more"),
    ({"count": 10}, "count 10 must be 9 or less"),
    ({"count": 2.0}, "count 2.0 must be a whole number"),
    ({"count": "2"}, "count '2' must be a whole number"),
    ({"count": True}, "count True must be a whole number"),
    ({"count": np.int64(2)}, r"count (np\.int64\()?2\)? must be a whole number"),
    ({"count": None}, "count None must be a whole number"),
    ({"rate": 0}, "rate 0 must be above 0"),
    ({"rate": 1.0}, "rate 1.0 must be below 1"),
    ({"rate": float("nan")}, "rate nan must be a finite number"),
    ({"scale": float("inf")}, "scale inf must be a finite number"),
    ({"rate": 10**400}, r"rate 10+\.\.\.0+ must be a finite number"),
    ({"rate": -(10**400)}, r"rate -10+\.\.\.0+ must be a finite number"),
    ({"rate": "much"}, "rate 'much' must be a number"),
    ({"name": "c"}, "name 'c' is unknown: use one of a, b"),
    ({"name": 1}, "name 1 must be a text"),
    ({"flag": 1}, "flag 1 must be true or false"),
    ({"scale": 0.0}, "scale 0.0 must be above 0"),
    ({"depths": (1, 4)}, "depths 4 is unknown: use one of 1, 2, 3"),
    ({"depths": (1.0,)}, "depths 1.0 must be a whole number"),
    ({"depths": 2}, "depths 2 must be a tuple"),
    ({"depths": ((1,),)}, r"depths \(1,\) must be a whole number"),
    ({"name": {"a": 1}}, "name {'a': 1} must be a text"),
    ({"parts": "bottle"}, "parts 'bottle' must be a tuple"),
    ({"flag": True, "count": 6}, "flag wants a count of 5 or less"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=str)
def test_each_rule_refuses_what_breaks_it(values: dict[str, Any], words: str) -> None:
    """In one line that names the option and what it may be; through a preset and from JSON alike."""
    for make in (Own, lambda **more: Own.preset("default", **more), lambda **more: Own.from_options(more)):
        with pytest.raises(SettingsError, match=f"^{words}$"):
            make(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"count": 1},
        {"count": 9},
        {"rate": 1e-9},
        {"scale": 2},
        {"scale": None},
        {"depths": ()},
        {"depths": (1, 1, 3), "name": "b", "flag": True},
    ],
    ids=str,
)
def test_what_is_possible_is_taken_and_survives_json(values: dict[str, Any]) -> None:
    """`from_options` is the inverse of `options`, tuples included."""
    made = Own(**values)
    assert {name: getattr(made, name) for name in values} == values
    again = Own.from_options(json.loads(json.dumps(made.options(), allow_nan=False)))
    assert again == made
    assert isinstance(again.depths, tuple)


def test_options_are_the_declared_fields_alone() -> None:
    """In their order; a preset puts some over the defaults, and a caller more over it."""
    assert list(Own(found=[1]).options()) == ["count", "rate", "name", "flag", "scale", "depths", "parts"]
    made = Own.preset("large", rate=0.25)
    assert (made.count, made.depths, made.rate, made.name) == (9, (1,), 0.25, "a")
    assert Own.preset("large", count=2).count == 2
    assert [field.metadata["help"] for field in Own.option_fields()][:2] == [
        "whole, within bounds",
        "between bounds that it does not reach",
    ]


def test_unknown_names_are_refused() -> None:
    """Of a preset, and of an option that another version wrote."""
    with pytest.raises(SettingsError, match=r"^Own has no preset 'huge': use one of default, large$"):
        Own.preset("huge")
    with pytest.raises(SettingsError, match=r"^Own has no option colour, size: it was written by another version$"):
        Own.from_options({"size": 1, "count": 2, "colour": "red"})
    with pytest.raises(SettingsError, match="no option found"):
        Own.from_options({"found": [1]})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "3", 3),
        ("rate", "5e-1", 0.5),
        ("name", "b", "b"),
        ("name", "none", "none"),  # a text, where nothing is not allowed
        ("flag", "True", True),
        ("flag", "false", False),
        ("scale", "none", None),
        ("scale", "2", 2.0),
        ("depths", "1/3", (1, 3)),
        ("parts", "x", ("x",)),
        ("count", "3.5", "count '3.5' must be a whole number"),
        ("rate", "none", "rate 'none' must be a number"),
        ("flag", "yes", "flag 'yes' must be true or false"),
        ("depths", "1-2", "depths '1-2' must be values as 1/2/3"),
    ],
)
def test_options_from_the_text_of_a_command_line(name: str, text: str, expected: Any) -> None:
    """A value of the annotation's type, or words about it."""
    own = next(field for field in Own.option_fields() if field.name == name)
    hint = get_type_hints(Own)[name]
    if isinstance(expected, str) and " must be " in expected:
        with pytest.raises(SettingsError, match=f"^{expected}$"):
            parse_option(own, hint, text)
    else:
        found = parse_option(own, hint, text)
        assert found == expected
        assert type(found) is type(expected)


STAGES = (Classifier, DefectTypes, Attribution, Dcgan, InspectionOptions)
KINDS: dict[str, type[Options]] = {
    kind.__name__: kind for kind in (*map(detector_class, METHODS), DataSettings, Pretraining, *STAGES)
}
LIMITS = {  # what the numbers among the options may be; Class.option where one differs from the others of its name
    "[1, 16384]": "image_size crop view projection",
    "[32, 16384]": "Classifier.image_size DefectTypes.image_size InspectionOptions.image_size",
    "[1, 1000000]": "steps search_steps channels epochs",
    "[0, 1000000]": "encoder_steps Classifier.steps DefectTypes.steps Autoencoder.epochs Vae.epochs",
    "[1, 100]": "critic_steps restarts",
    "[1, 1000]": "repeats snapshots",
    "[2, 1000]": "copies folds windows",
    "[1, 4096]": "latent",
    "[0, 4096]": "Autoencoder.latent",
    "[1, 256]": "width discriminator_width",
    "[1, 14]": "depth",
    "[1, 64]": "pyramid",
    "[1, 99]": "neighbourhood",
    "[1, 360]": "rotations",
    "[1, 32767]": "recipes",
    "[1, 100000]": "synthetic_train package_train package_test",
    "[0, 100000]": "synthetic_test_good synthetic_per_defect",
    "[2, 100000]": "batch_images path_steps",
    "[2, 10000]": "views batch noisy_copies removals",
    "[2, 10000000]": "Pretraining.images",
    "[0, 4294967295]": "synthetic_seed seed",
    "[1, inf)": "neighbours",
    "[2, inf)": "images few randomised",
    "[0, inf)": "patience Patchcore.neighbours rotation widths tile",
    "[0.01, 1]": "roi_size",
    "(0, 1]": "top_share fit_fraction coreset lr search_lr encoder_lr discriminator_lr",
    "[0, 1000]": "sigma",
    "[0, 10]": "color_jitter",
    "[0, 1000000.0]": "beta kappa",
    "(0, 1000000.0]": "ridge feature_scale memory_gb",
    "(0, 1000000000.0]": "penalty",
    "(0, inf)": "focus temperature miss false_alarm",
    "(0, 1)": "held_out unknown rejected variance",
    "[0, 1)": "averaging translation beta1 smoothing Classifier.color_jitter "
    + " ".join(f"{name}.held_out" for name, kind in KINDS.items() if issubclass(kind, TrainedDetector)),
    "[0, 0.5)": "DefectTypes.translation",
    "[0, 1]": "feature_share",
    "[0, 180]": "DefectTypes.rotation",
    "[0.1, 1]": "least_severity",
}
LITE = "efficientnet_lite0 efficientnet_lite1 efficientnet_lite2"
CHOICES = {
    "interpolation": "nearest bilinear",
    "layers": "1 2 3",
    "loss": "mse ssim mse+ssim features",
    "map": "absolute ssim features",
    "Autoencoder.image_score": "peak error",
    "Vae.image_score": "peak error elbo",
    "image_score": "loss peak",
    "corruption": "none noise mask",
    "Pretraining.objective": "simclr vicreg recipes places both",
    "objective": "supcon simclr",
    "Classifier.backbone": f"{LITE} resnet18 resnet50 wide_resnet50_2 efficientnet_b0 mobilenet_v3_large",
    "backbone": f"{LITE} resnet18 resnet50 wide_resnet50_2",
    "roi": "whole item registered",
    "trained": "layer3 layer2 layer1 all",
    "look": "whole predicted mask",
    "digits": "auto mnist sklearn",
    "norm": "batch layer none",
}


@pytest.mark.parametrize("name", KINDS)
def test_every_option_refuses_what_it_may_not_be(name: str) -> None:
    """In one line with its name and its value, before anything is computed; what lies on a bound is taken."""
    kind, hints = KINDS[name], get_type_hints(KINDS[name])
    limits = {option: interval for interval, options in LIMITS.items() for option in options.split()}
    for field in kind.option_fields():
        rules, (number, *_) = field.metadata, get_args(hints[field.name]) or (hints[field.name],)
        many = isinstance(field.default, tuple)
        bad: list[Any] = [{"a": 1}, *([(object(),), "x"] if many else [(1,)])]
        if number in (int, float):
            step = 1 if number is int else 1e-9
            low = rules["least"] if rules["least"] is not None else rules["above"]
            high = rules["most"] if rules["most"] is not None else rules["below"]
            bad += [] if low is None else [low - step, low - 5] + ([low] if rules["above"] is not None else [])
            bad += (
                [] if high is None else [high + max(step, step * high)] + ([high] if rules["below"] is not None else [])
            )
            bad += [float("nan"), float("inf"), 10**400, True, "1"] if number is float else [2.5, True, "1"]
            for bound in (rules["least"], rules["most"]):
                if bound is not None and not many:
                    check_option(field, hints[field.name], number(bound))
            if low is not None or high is not None:
                shown = "[" if rules["least"] is not None else "("
                end = "]" if rules["most"] is not None else ")"
                expected = limits.get(f"{name}.{field.name}", limits.get(field.name))
                assert f"{shown}{low}, {'inf' if high is None else high}{end}" == expected, field.name
        if rules["among"]:
            bad += [(9,)] if many else ["cubic", ""]
            expected = CHOICES.get(f"{name}.{field.name}", CHOICES.get(field.name))
            assert " ".join(map(str, rules["among"])) == expected, field.name
        for value in bad:
            with pytest.raises(SettingsError, match=field.name):
                kind(**{field.name: value})


@pytest.mark.parametrize("kind", KINDS.values())
def test_settings_of_the_stages_survive_json(kind: type[Options]) -> None:
    """Each has a preset for both profiles."""
    assert {"quick", "full"} <= set(kind.PRESETS)
    for preset in kind.PRESETS:
        made = kind.preset(preset)
        assert kind.from_options(json.loads(json.dumps(made.options(), allow_nan=False))) == made


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (Classifier, {"pyramid": ()}, r"pyramid \(\) needs at least one grid"),
        (DefectTypes, {"weights": "random"}, "random weights leave nothing worth freezing: use trained all"),
        (Pretraining, {"images": 8, "views": 9}, "9 views a step of 8 images: choose fewer views"),
    ],
)
def test_impossible_settings_are_refused(kind: type[Options], values: dict[str, Any], words: str) -> None:
    """Where they are made, in words."""
    with pytest.raises(SettingsError, match=words):
        kind(**values)


# --- the profile ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "argument", "expected"),
    [
        (None, None, "quick"),
        (None, "full", "full"),
        ("full", None, "full"),
        ("full", "quick", "full"),
        ("quick", "full", "quick"),
        ("", "full", "full"),
    ],
)
def test_the_environment_wins_over_the_argument(
    monkeypatch: pytest.MonkeyPatch, environment: str | None, argument: str | None, expected: str
) -> None:
    """`MVTEC_AD_PROFILE`, then the form field, then quick; the data are those of the profile."""
    if environment is not None:
        monkeypatch.setenv("MVTEC_AD_PROFILE", environment)
    run = profile(argument)
    assert (run.name, run.data) == (expected, DataSettings.preset(expected))


def test_categories_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separated by spaces or commas; the environment wins, and nothing else of the profile changes."""
    assert profile("full", "screw, pill nut").data == DataSettings.preset("full", categories=("screw", "pill", "nut"))
    monkeypatch.setenv("MVTEC_AD_CATEGORIES", "cable")
    assert profile(None, "screw").data.categories == ("cable",)
    monkeypatch.setenv("MVTEC_AD_CATEGORIES", "")
    assert profile(None, "screw").data.categories == ("screw",)


def test_an_unknown_profile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the argument and from the environment alike."""
    with pytest.raises(SettingsError, match="'fast' is unknown: use one of quick, full"):
        profile("fast")
    monkeypatch.setenv("MVTEC_AD_PROFILE", "slow")
    with pytest.raises(SettingsError, match="'slow' is unknown"):
        profile("quick")


# --- places -----------------------------------------------------------------------------------------------------------


def test_home_is_the_named_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`MVTEC_AD_HOME` wins over where one stands; `~` is understood."""
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path / "elsewhere"))
    assert config.root_folder() == tmp_path / "elsewhere"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MVTEC_AD_HOME", "~/mine")
    assert config.root_folder() == tmp_path / "mine"


def test_home_is_the_enclosing_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From any folder below it."""
    for folder in ("mvtec_ad", "notebooks/source"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.delenv("MVTEC_AD_HOME")
    for folder in (tmp_path, tmp_path / "notebooks", tmp_path / "notebooks" / "source"):
        monkeypatch.chdir(folder)
        assert config.root_folder() == tmp_path


def test_home_is_the_working_folder_outside_of_any_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wheel in site-packages must not write beside itself."""
    monkeypatch.delenv("MVTEC_AD_HOME")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert config.root_folder() == tmp_path / "work"
    assert config.transfer_folder() == tmp_path / "work" / "transfer"
    assert config.data_folder() == tmp_path / "work" / "data"
    assert (tmp_path / "work" / "data").is_dir()
    assert (tmp_path / "work" / "transfer").is_dir()


@pytest.mark.parametrize("place", [config.data_folder, config.transfer_folder])
@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_home_that_cannot_be_made_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: Any, below: str
) -> None:
    """A file where a folder should be: one line with the folder and the way out."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MVTEC_AD_HOME", str(tmp_path / "file" / below))
    with pytest.raises(SettingsError, match=r"file/.* cannot be made \(.*\): set MVTEC_AD_HOME to a folder"):
        place()
    assert (tmp_path / "file").read_text() == "mine"


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_one_seed_decides_every_generator() -> None:
    """python, numpy and torch repeat themselves after the same seed, and differ after another."""
    import torch

    def draw(seed: int) -> tuple[float, float, float]:
        config.set_seed(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    assert draw(3) == draw(3)
    assert all(one != other for one, other in zip(draw(3), draw(4), strict=True))


def test_full_measures_three_seeds_and_quick_one() -> None:
    """Three, so that a claim can rest on more than one."""
    assert profile("quick").seeds == (0,)
    assert profile("full").seeds == (0, 1, 2)


def test_quick_is_pinned_to_one_thread() -> None:
    """torch's sums and those of linear algebra; full may use all. Both repeat what is drawn."""
    code = (
        "import torch, numpy, sklearn, threadpoolctl; torch.set_num_threads(2); threadpoolctl.threadpool_limits(2)\n"
        "from mvtec_ad.config import pin, profile\n"
        "for name in ('full', 'quick'):\n"
        "    pin(profile(name))\n"
        "    print(torch.get_num_threads(), *{pool['num_threads'] for pool in threadpoolctl.threadpool_info()})\n"
        "    print(torch.rand(1).item(), numpy.random.rand()); pin(profile(name))\n"
        "    print(torch.rand(1).item(), numpy.random.rand())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    full, first, again, quick, *more = printed.splitlines()
    assert (full, quick) == ("2 2", "1 1")
    assert first == again
    assert more[0] == more[1]
