"""The course: checks of its exercises that say what differs."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from mvtec_ad.course.exercises import EXERCISES, RESULTS, Verdict, examine

__all__ = ["EXERCISES", "RESULTS", "Verdict", "check", "load_labs", "summary"]


@cache
def load_labs() -> None:
    """Import all labs, which register their exercises."""
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith("lab_")):
        importlib.import_module(f"{__name__}.{module}")


def check(name: str, answer: Any) -> Verdict:
    """Verdict on the answer to an exercise: right, or one line that says what differs.

    Args:
        name: Lab and name of the exercise: `02.mahalanobis`.
        answer: What the exercise asks for: a function, a number, letters of statements, or what makes a method fail.

    Returns:
        The verdict, whose text is in the language of MVTEC_AD_LANGUAGE (`en`, `pt`, `es`).

    Raises:
        SettingsError: There is no such exercise.

    Example:
        >>> from mvtec_ad import course
        >>> course.check("00.convolution", 30)
        ✓ 00.convolution: right
    """
    load_labs()
    return examine(name, answer)


def summary(lab: str) -> str:
    """How many exercises of a lab (`02`) are right by now, and which are left.

    Example:
        >>> from mvtec_ad import course
        >>> " of 13" in course.summary("02")
        True
    """
    load_labs()
    names = [name for name in EXERCISES if name.startswith(f"{lab}.")]
    left = [name for name in names if not RESULTS.get(name)]
    return f"{len(names) - len(left)} of {len(names)}" + (f"; left: {', '.join(left)}" if left else "")
