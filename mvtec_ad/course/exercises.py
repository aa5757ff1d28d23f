"""Exercises of the course: how an answer is examined, and how what differs is said."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mvtec_ad.errors import SettingsError

KINDS = ("predict", "implement", "break", "decide")
LANGUAGES = ("en", "pt", "es")
EXERCISES: dict[str, Exercise] = {}  # name -> exercise, in the order of the labs
RESULTS: dict[str, bool] = {}  # name -> whether the last answer of this process was right
STUBS = (None, Ellipsis)  # what an exercise holds before anybody has written into it


@dataclass(frozen=True)
class Message:
    """What a check says: an English template, which is its key in the catalogues, and what stands in its braces."""

    template: str
    fields: dict[str, Any] = field(default_factory=dict)

    def text(self, language: str) -> str:
        """In a language; in English where the catalogue lacks it."""
        return catalogue(language).get(self.template, self.template).format(**self.fields)


def say(template: str, **fields: Any) -> Message:
    """A message of a check. Templates are string constants: the tests collect them from the sources."""
    return Message(template, fields)


@cache
def catalogue(language: str) -> dict[str, str]:
    """English template -> its translation."""
    path = Path(__file__).parent / "messages" / f"{language}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


Examine = Callable[[Any], Message | None]  # None: the answer is right


@dataclass(frozen=True)
class Exercise:
    """One exercise: `02.mahalanobis`, its kind, and the examination of an answer."""

    name: str
    kind: str
    examine: Examine


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and one line that says what differs where it is not."""

    name: str
    right: bool
    message: str

    def __repr__(self) -> str:
        return f"{'✓' if self.right else '✗'} {self.name}: {self.message}"


def register(name: str, kind: str, examine: Examine) -> None:
    """Add an exercise.

    Raises:
        ValueError: Its name is taken, or its kind is none of `KINDS`.
    """
    if name in EXERCISES or kind not in KINDS:
        raise ValueError(f"{name}, {kind}: the name is taken, or the kind is none of {', '.join(KINDS)}")
    EXERCISES[name] = Exercise(name, kind, examine)


def language() -> str:
    """The language of the checks: MVTEC_AD_LANGUAGE, English where it is unset."""
    chosen = os.environ.get("MVTEC_AD_LANGUAGE", "en")
    if chosen not in LANGUAGES:
        raise SettingsError(f"MVTEC_AD_LANGUAGE is {chosen!r}: choose one of {', '.join(LANGUAGES)}")
    return chosen


def examine(name: str, answer: Any) -> Verdict:
    """Verdict on an answer; what goes wrong in the answer itself becomes part of the message."""
    if name not in EXERCISES:
        lab = name.partition(".")[0]
        names = [known for known in EXERCISES if known.startswith(f"{lab}.")] or sorted(EXERCISES)
        raise SettingsError(f"there is no exercise {name!r}: {', '.join(names)}")
    if any(answer is stub for stub in STUBS):
        message: Message | None = say("nothing is here yet: write your answer in place of the dots")
    else:
        message = EXERCISES[name].examine(answer)
    RESULTS[name] = message is None
    return Verdict(name, message is None, (message or say("right")).text(language()))


# --- the four kinds ---------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A value in at most one short line."""
    text = np.array2string(np.asarray(value), precision=4, threshold=8, separator=", ").replace("\n", " ")
    return text if len(text) < 90 else f"{text[:87]}..."


def same(first: Any, second: Any, tolerance: float) -> bool:
    """Whether both are of one shape and equal within a tolerance, relative and absolute; text is compared as text."""
    try:
        first, second = np.asarray(first), np.asarray(second)
        if first.dtype.kind in "OUS" or second.dtype.kind in "OUS":
            return first.shape == second.shape and bool((first == second).all())
        return first.shape == second.shape and np.allclose(
            first, second, rtol=tolerance, atol=tolerance, equal_nan=True
        )
    except (TypeError, ValueError):
        return False


def outputs_of(function: Callable[..., Any], cases: Sequence[tuple]) -> list[Any]:
    """What a function returns for each case; its arguments are copies."""
    with np.errstate(all="ignore"):
        return [function(*copy.deepcopy(case)) for case in cases]


def implement(
    name: str,
    reference: Callable[..., Any],
    cases: Sequence[tuple],
    mistakes: Sequence[tuple[Callable[..., Any], Message]],
    tolerance: float = 1e-6,
) -> None:
    """An equation to be written as a function.

    Args:
        name: `02.mahalanobis`.
        reference: The right function; returns a number, an array, a text, or a tuple of numbers.
        cases: Arguments of each call: numbers, arrays, texts, functions. The first one can be followed by hand.
        mistakes: Wrong function and message, told to an answer that gives the same in all cases.
        tolerance: Relative and absolute.
    """
    expected = outputs_of(reference, cases)

    def examine(answer: Any) -> Message | None:
        if not callable(answer):
            return say("give the function itself, without calling it")
        returned = []
        for case in cases:
            arguments = copy.deepcopy(case)
            try:
                with np.errstate(all="ignore"):
                    returned.append(answer(*arguments))
            except Exception as problem:
                kind, text = type(problem).__name__, str(problem)
                return say("it raises {kind}: {text}", kind=kind, text=text[:160].replace("\n", " "))
            if not all(
                same(used, given, 0) for used, given in zip(arguments, case, strict=True) if not callable(given)
            ):
                return say("it changes its argument in place: work on a copy")
        if any(value is stub for value in returned for stub in STUBS):
            return say("it returns nothing yet: write your code in place of the dots, and return the result")
        if all(same(*pair, tolerance) for pair in zip(returned, expected, strict=True)):
            return None
        for wrong, message in mistakes:
            if all(same(*pair, tolerance) for pair in zip(returned, outputs_of(wrong, cases), strict=True)):
                return message
        pairs = list(zip(returned, expected, strict=True))
        for shapes in ([np.shape(value) for value in pair] for pair in pairs):
            if shapes[0] != shapes[1]:
                return say("its shape is {yours}, expected {expected}", yours=shapes[0], expected=shapes[1])
        at = next(number for number, pair in enumerate(pairs) if not same(*pair, tolerance))
        values = {"number": at + 1, "expected": shown(expected[at]), "yours": shown(returned[at])}
        return say("for example {number} of the check {expected} is expected, yours gives {yours}", **values)

    examine(reference)  # a reference that changes its arguments is noticed here
    register(name, "implement", examine)


def predict(
    name: str,
    expected: Any,
    mistakes: Sequence[tuple[Any, Message]],
    hint: Message,
    tolerance: float = 1e-3,
    kind: str = "predict",
) -> None:
    """A number, a text or a tuple of them, said before anything runs.

    Args:
        name: `02.how_many_numbers`.
        expected: The right answer, computed wherever it can be.
        mistakes: Wrong answer and message.
        hint: What is said to any other answer, after whether a number is too large or too small.
        tolerance: Relative and absolute.
        kind: *decide* where the number is a decision.
    """

    def examine(answer: Any) -> Message | None:
        if callable(answer):
            return say("give a value, not a function")
        if same(answer, expected, tolerance):
            return None
        for wrong, message in mistakes:
            if same(answer, wrong, tolerance):
                return message
        both = [np.asarray(value) for value in (answer, expected)]
        if all(value.ndim == 0 and value.dtype.kind in "iufb" for value in both):
            text = hint.text(language())
            if both[0] > both[1]:
                return say("too large. {hint}", hint=text)
            return say("too small. {hint}", hint=text)
        return hint

    register(name, kind, examine)


def choose(name: str, right: str, why: Mapping[str, Message], kind: str = "decide") -> None:
    """Letters of all statements that hold, such as `"bd"`.

    Args:
        name: `09.abstract`.
        right: The letters of those that hold.
        why: Letter of each statement -> what is said where it was chosen and does not hold, or holds and was left out.
        kind: *predict* where it is a prediction.
    """

    def examine(answer: Any) -> Message | None:
        parts = [answer] if isinstance(answer, str) else answer if isinstance(answer, (list, tuple, set)) else [None]
        letters = set("".join(parts).lower()) - set(" ,;") if all(isinstance(part, str) for part in parts) else None
        if letters is None or not letters <= set(why):
            return say("give the letters of the statements that hold, of {letters}", letters=", ".join(sorted(why)))
        wrong = sorted(letters ^ set(right))
        if not wrong:
            return None
        state, reason = wrong[0], why[wrong[0]].text(language())
        if state in letters:
            return say("{letter} does not hold: {reason}", letter=state, reason=reason)
        return say("{letter} holds, too: {reason}", letter=state, reason=reason)

    register(name, kind, examine)


def breaks(name: str, test: Examine) -> None:
    """Something that makes a method fail: `test` tries it, and says why it does not fail yet, or None."""

    def examine(answer: Any) -> Message | None:
        try:
            return test(copy.deepcopy(answer))
        except Exception as problem:
            kind, text = type(problem).__name__, str(problem)[:160].replace("\n", " ")
            return say("your answer cannot be tried, {kind}: {text}", kind=kind, text=text)

    register(name, "break", examine)
