"""What JSON data of a file must look like: types of `typing` are the schemas, and this finds what does not fit."""

from __future__ import annotations

import json
import reprlib
import sys
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

_WORDS = {int: "a whole number", float: "a finite number", str: "a text", list: "a list", dict: "an object"}
_LARGEST_INT = 2**63 - 1


def misfit(value: Any, kind: Any, where: str = "it") -> str:
    """What is first wrong with JSON data, "" where it is of a type: a TypedDict, list[…], dict[str, …], |, Any.

    Whole numbers count as floats and must fit 64 bits, floats are finite; keys that a TypedDict does not name may hold
    anything.

    Examples:
        >>> misfit({"seeds": [0, "one"]}, dict[str, list[int]])
        "it['seeds'][1] is 'one', not a whole number"
    """
    if kind is Any:
        return ""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        problems = [misfit(value, choice, where) for choice in arguments]
        return "" if "" in problems else problems[0]
    plain = origin or (dict if is_typeddict(kind) else kind)
    right = isinstance(value, (int, float) if plain is float else plain)
    if isinstance(value, (int, float)) and plain is not bool:
        largest = _LARGEST_INT if isinstance(value, int) else sys.float_info.max
        right = right and not isinstance(value, bool) and abs(value) <= largest
    if not right:
        return f"{where} is {reprlib.repr(value)}, not {_WORDS.get(plain, plain.__name__)}"
    if is_typeddict(kind):
        if missing := sorted(kind.__required_keys__ - set(value)):
            return f"{where} lacks {missing[0]}"
        parts = [(key, value[key], hint) for key, hint in get_type_hints(kind).items() if key in value]
    elif plain is dict and arguments:
        parts = [(key, part, arguments[1]) for key, part in value.items()]
    else:
        parts = [(number, part, arguments[0]) for number, part in enumerate(value if arguments else ())]
    problems = (misfit(part, hint, f"{where}[{reprlib.repr(key)}]") for key, part, hint in parts)
    return next(filter(None, problems), "")


def parse_json(text: str | bytes, kind: Any) -> Any:
    """The data of a JSON text, of a type as `misfit` takes it; ValueError, in one line, for any other."""
    try:
        value = json.loads(text)
    except RecursionError as problem:
        raise ValueError("its lists are nested too deeply") from problem
    if problem := misfit(value, kind):
        raise ValueError(problem)
    return value
