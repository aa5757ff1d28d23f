"""The pages of the API: a page a room, a page a method with the table of its options."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args, get_type_hints

from mvtec_ad.config import _BOUNDS, Options

# The public rooms, in the order in which one meets them; `methods` has a page for each of its files.
ROOMS = (
    "config",
    "errors",
    "data",
    "synthetic",
    "metrics",
    "plotting",
    "backbones",
    "methods",
    "inspection",
    "artifacts",
    "augment",
    "training",
    "tiles",
    "regions",
    "drift",
    "report",
    "export",
    "edge",
    "serving",
    "benchmark",
    "course",
    "notebooks",
)


def modules_of(room: str) -> list[ModuleType]:
    """The public modules of a room, the room itself first; the labs of the course, which hold answers, are left out."""
    first = importlib.import_module(f"mvtec_ad.{room}")
    found = [first]
    if hasattr(first, "__path__"):
        for module in pkgutil.walk_packages(first.__path__, f"{first.__name__}."):
            name = module.name.rpartition(".")[2]
            if not name.startswith(("_", "lab_")):
                found.append(importlib.import_module(module.name))
    return found


def members(module: ModuleType) -> list[tuple[str, Any]]:
    """The public functions and classes that a module defines, in the order of its text."""
    found = [
        (name, value)
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and value.__doc__
    ]
    return sorted(found, key=lambda item: inspect.getsourcelines(item[1])[1])


def own_members(kind: type) -> list[str]:
    """The public methods and properties that a class itself defines and describes."""
    found = []
    for name, value in vars(kind).items():
        function = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
        if inspect.isfunction(function) and function.__module__ == kind.__module__ and function.__doc__:
            found += [name] * (not name.startswith("_"))
    return found


def cell(value: Any) -> str:
    """A value for a table's cell."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "empty"
    return str(value).lower() if isinstance(value, bool) else str(value) or "empty"


def plain(number: float) -> str:
    """A bound without an exponent, thousands set apart.

    Examples:
        >>> plain(1e6), plain(0.5), plain(1)
        ('1,000,000', '0.5', '1')
    """
    return f"{int(number):,}" if number == int(number) else f"{number:,}"


def allowed(field: Any, hint: Any) -> str:
    """What an option may be, in words: its type, then its bounds or the values to choose from.

    Examples:
        >>> from mvtec_ad.methods.padim import Padim
        >>> field = next(field for field in Padim.option_fields() if field.name == "channels")
        >>> allowed(field, int)
        'whole number, 1 or more, 1,000,000 or less'
    """
    rules = field.metadata
    kinds = get_args(hint) or (hint,)
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    many = getattr(hint, "__origin__", None) is tuple
    words = [f"{names[kinds[0]]}s" if many else names[kinds[0]]]
    if rules["among"]:
        words = [("some of " if many else "") + ", ".join(f"`{value}`" for value in rules["among"])]
    words += [text.format(plain(rules[name])) for name, (_, text) in _BOUNDS.items() if rules[name] is not None]
    return ", ".join(words) + (", or none" if type(None) in kinds else "")


def options_table(kind: type[Options]) -> str:
    """The options of a class as a Markdown table, and its presets as a list."""
    hints = get_type_hints(kind)
    lines = ["| option | default | may be | what it is |", "| :--- | :--- | :--- | :--- |"]
    for field in kind.option_fields():
        row = (f"`{field.name}`", cell(field.default), allowed(field, hints[field.name]), field.metadata["help"])
        lines.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |")
    if kind.PRESETS:
        lines += ["", "Presets, and what they set:", ""]
        for name, values in kind.PRESETS.items():
            changed = ", ".join(f"`{key}` {cell(value)}" for key, value in values.items())
            lines.append(f"* **{name}**: {changed or 'the defaults'}")
    return "\n".join([*lines, ""])


def directive(kind: str, name: str, signature: str = "", *options: str) -> str:
    """A directive of autodoc in a Markdown page."""
    lines = [f".. {kind}:: {name}{signature}", *(f"   {option}" for option in options)]
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def section(module: ModuleType, level: int) -> Iterator[str]:
    """The Markdown of a module: what it says of itself, its classes with options, its functions."""
    yield f"{'#' * level} {module.__name__.rpartition('.')[2]}\n"
    yield f"`import {module.__name__}`\n"
    yield f"{inspect.getdoc(module) or ''}\n"
    for name, value in members(module):
        full = f"{module.__name__}.{name}"
        if inspect.isfunction(value):
            yield directive("autofunction", full)
        elif issubclass(value, Options) and dataclasses.is_dataclass(value):
            yield f"{'#' * (level + 1)} {name}\n"
            yield directive("autoclass", full, "()")  # the signature repeats what the table says
            yield f"**Options of {name}**\n"
            yield options_table(value)
            for method in own_members(value):
                kind = "autoproperty" if isinstance(vars(value)[method], property) else "automethod"
                yield directive(kind, f"{full}.{method}")
        else:
            names = own_members(value)
            yield directive("autoclass", full, "", *[f":members: {', '.join(names)}"] * bool(names))


def api_pages() -> dict[str, str]:
    """The pages of the API by name, their contents among them."""
    pages, first_lines = {}, []
    for room in ROOMS:
        modules = modules_of(room)
        about = (inspect.getdoc(modules[0]) or "").split("\n\n")[0].replace("\n", " ")
        first_lines.append(f"* [{room}]({room}.md): {about or 'images and their tables.'}")
        if room == "methods":
            files = [module for module in modules[1:] if members(module)]
            for module in files:
                pages[f"methods/{module.__name__.rpartition('.')[2]}"] = "\n".join(section(module, 1))
            names = "\n".join(name for name in pages if name.startswith("methods/"))
            head = "\n".join(section(modules[0], 1))
            pages[room] = f"{head}\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"
            continue
        shown = [module for module in modules if members(module)]
        if len(modules) == 1:
            pages[room] = "\n".join(section(modules[0], 1))
        else:
            text = "\n".join("\n".join(section(module, 2)) for module in shown if module is not modules[0])
            head = "\n".join(section(modules[0], 1))
            pages[room] = f"{head}\n{text}"
    tree = "\n".join(["```{toctree}", ":hidden:", "", *ROOMS, "```", ""])
    pages["contents"] = "\n".join(["# API", "", "What may be imported, room by room.", "", *first_lines, "", tree])
    return pages
