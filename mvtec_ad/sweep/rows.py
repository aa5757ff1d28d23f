"""What a sweep measures: a row is a method with settings, written as `METHOD[:PRESET][,FIELD=VALUE …]`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mvtec_ad.errors import SettingsError, WeightsError
from mvtec_ad.settings import PRESETS, ClassifierSettings

SUPERVISED = ("classifier", "inspector")  # learn from defects, so they are tested on the supervised test part only
METHODS: dict[str, dict[str, Any]] = PRESETS | {name: {"default": ClassifierSettings()} for name in SUPERVISED}
NAMED_WEIGHTS = ("imagenet", "random", "drawn")  # anything else is the path of a file


@dataclass(frozen=True)
class Row:
    """A method with settings, under a name of its own.

    Attributes:
        name: safe as a file name; what `method` says in scores.csv.
        method: a key of `METHODS`.
        settings: its seeds are replaced by those of the sweep, one a cell.
    """

    name: str
    method: str
    settings: Any


def parse_rows(texts: Sequence[str]) -> list[Row]:
    """`parse_row` of each text.

    Raises:
        SettingsError: one cannot be read, or two have the same name.
    """
    rows = [parse_row(text) for text in texts]
    first: dict[str, str] = {}
    for text, row in zip(texts, rows, strict=True):
        key = row.name.casefold()  # some file systems take A and a for the same
        if key in first:
            raise SettingsError(
                f"rows {first[key]} and {text} have the same name {row.name}: give one of them a name=…"
            )
        first[key] = text
    return rows


def parse_row(text: str) -> Row:
    """Read one row.

    Args:
        text: for example `padim:keras`, `autoencoder,loss=ssim,steps=300` or `padim,weights=x.pth,name=padim-x`. The
            fields are those of the method's settings; several numbers stand as `1/2/3`; an image size without a crop
            keeps the whole picture. Without `name=` the name is made of what was given.

    Raises:
        SettingsError: a method, preset or field is unknown, a value does not fit, or the name is no file name.
        WeightsError: the weights are no file.
    """
    head, *parts = text.split(",")
    method, colon, preset = head.partition(":")
    if method not in METHODS:
        raise SettingsError(f"row {text}: method {method!r} is unknown: use one of {', '.join(METHODS)}")
    presets = METHODS[method]
    if colon and preset not in presets:
        raise SettingsError(f"row {text}: {method} has no preset {preset!r}: use one of {', '.join(presets)}")
    given: dict[str, str] = {}
    for part in parts:
        field, _, value = part.partition("=")
        if not field or not value:
            raise SettingsError(f"row {text}: {part!r} is no setting: write FIELD=VALUE, without spaces")
        if field in given:
            raise SettingsError(f"row {text}: {field} is given twice: remove one of them")
        given[field] = value
    name = given.pop("name", None) or _name(method, preset, given)
    check_file_name(f"row {text}: name", name)
    try:
        settings = _with(presets[preset] if colon else next(iter(presets.values())), given)
    except (SettingsError, WeightsError) as problem:
        raise type(problem)(f"row {text}: {problem}") from problem
    return Row(name, method, settings)


def check_file_name(what: str, name: str) -> None:
    """Refuse what is no plain name of a file or folder on every system."""
    if not re.fullmatch(r"[A-Za-z0-9][\w+.-]{0,99}", name, re.ASCII) or name.endswith("."):
        raise SettingsError(
            f"{what} {name!r} is no file name: use up to 100 letters, digits and . _ + - after a letter or digit"
        )


def _name(method: str, preset: str, given: dict[str, str]) -> str:
    """`autoencoder-loss-ssim` of `autoencoder,loss=ssim`; of a path only the file's own name."""
    words = [method, preset]
    for field, value in given.items():
        words += [field, Path(value).stem if field == "weights" else value]
    return re.sub(r"[^\w+.-]+", "-", "-".join(word for word in words if word), flags=re.ASCII).rstrip(".-")


def _with(settings: Any, given: dict[str, str]) -> Any:
    """The preset with everything that was given put over it."""
    if "seeds" in given:
        raise SettingsError("seeds are the same for all rows: give them once, with --seeds")
    known = [field.name for field in fields(settings) if field.name != "seeds"]
    unknown = [field for field in given if field not in known]
    if unknown:
        raise SettingsError(f"there is no setting {unknown[0]}: use name or {', '.join(known)}")
    hints = get_type_hints(type(settings))
    values = {field: _value(field, value, hints[field]) for field, value in given.items()}
    if "image_size" in values and "crop" in known:
        values.setdefault("crop", values["image_size"])
    if values.get("weights", "random") not in NAMED_WEIGHTS:
        values["weights"] = _weights_file(values["weights"])
    return replace(settings, **values)


def _value(field: str, text: str, hint: Any) -> Any:
    """A text as what the settings want.

    Raises:
        SettingsError: it is none.
    """
    kinds = get_args(hint) or (hint,)
    try:
        if type(None) in kinds and text.lower() == "none":
            return None
        if hint == tuple[int, ...]:
            return tuple(int(part) for part in text.split("/"))
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kinds[0](text)  # int, float or str
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(text)
        return value
    except (KeyError, ValueError) as problem:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}
        kind = "whole numbers as 1/2/3" if hint == tuple[int, ...] else wanted[kinds[0]]
        more = " or none" if type(None) in kinds else ""
        raise SettingsError(f"{field} {text!r} must be {kind}{more}") from problem


def _weights_file(value: str) -> str:
    """An absolute path: workers may stand in another folder."""
    path = Path(value).expanduser().resolve()
    if not path.is_file():
        raise WeightsError(
            f"weights {value!r}: not a file; use {', '.join(NAMED_WEIGHTS)} or the path of a weights file"
        )
    return str(path)
