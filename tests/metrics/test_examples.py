"""Every public class and function of the room has an example, and it prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

from mvtec_ad import metrics

MODULES = [
    importlib.import_module(f"mvtec_ad.metrics.{module.name}") for module in pkgutil.iter_modules(metrics.__path__)
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.split(".")[-1])
def test_examples_print_what_they_say(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_public_name_has_an_example(name):
    assert doctest.DocTestParser().get_examples(getattr(metrics, name).__doc__)
