"""The examples in docstrings print what they say; every metric, every method and every class of options has one."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from mvtec_ad import metrics
from mvtec_ad.methods import METHODS, WITH_LABELS, detector_class

PACKAGE = Path(metrics.__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    """With numpy and what the module itself imports at hand."""
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"np": np}, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(
    "thing",
    [
        *(value for value in vars(metrics).values() if callable(value)),
        *(detector_class(method) for method in (*METHODS, *WITH_LABELS)),
    ],
    ids=lambda thing: thing.__name__,
)
def test_what_users_call_has_an_example(thing: object) -> None:
    """Metrics and methods."""
    assert doctest.DocTestParser().get_examples(thing.__doc__ or "")
