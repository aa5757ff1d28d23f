"""Exercises of the course: solutions pass, stubs fail, and each planted wrong answer gets its own message."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import re
import string
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest

from mvtec_ad import course
from mvtec_ad.course import exercises
from mvtec_ad.errors import SettingsError

PROJECT = Path(__file__).parents[2]
SOLUTION_CELL = re.compile(r"^# %% \[markdown\] solution\n((?:#.*\n)+)", re.M)
HEADING = re.compile(r"^## (\d\d\.\w+) · (\w+)$", re.M)


def load(path: Path) -> ModuleType:
    """A file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load(PROJECT / "course" / "build.py")
course.load_labs()
LABS = {source.stem[:2]: source for source in build.SOURCES}
WRONG = {
    name: answers
    for path in sorted(Path(__file__).parent.glob("wrong_*.py"))
    for name, answers in load(path).WRONG.items()
}


def run(source: Path, solution: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, bool], str]:
    """Name of each exercise -> whether its answer passed, and what was printed, after all code cells ran."""
    import matplotlib.pyplot as plt

    monkeypatch.setattr(exercises, "RESULTS", found := {})
    space: dict[str, Any] = {"display": lambda *shown: None}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for cell in build.cut(source, solution).cells:
            if cell.cell_type == "code" and cell.source != "# <setup>":
                exec(compile(cell.source, str(source), "exec"), space)
    plt.close("all")
    return found, printed.getvalue()


@pytest.mark.parametrize("lab", LABS)
def test_solutions_pass_and_stubs_fail(lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exercise is asked once, the solution is right and prints what its prose states; the stub stops nothing."""
    names = [name for name in course.EXERCISES if name.startswith(f"{lab}.")]
    found, printed = run(LABS[lab], True, monkeypatch)
    assert found == dict.fromkeys(names, True)
    given = "\n".join(cell.source for cell in build.cut(LABS[lab], False).cells)
    numbers = {float(number) for number in re.findall(r"\d*\.\d+", f"{given}\n{printed}")}
    for text in SOLUTION_CELL.findall(LABS[lab].read_text(encoding="utf-8")):
        for number in re.findall(
            r"(?<![\w.:/])\d*\.\d+(?![\w.]*\d)", re.sub(r"\$[^$]*\$|`[^`]*`|\]\([^)]*\)", "", text)
        ):
            digits = len(number.partition(".")[2])
            assert any(round(value, digits) == float(number) for value in numbers), (
                f"{number} is neither given nor printed"
            )
    assert run(LABS[lab], False, monkeypatch)[0] == dict.fromkeys(names, False)


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_asks_what_its_goals_promise(lab: str) -> None:
    """Headings name all exercises with their kinds, every goal names an exercise, and all four kinds are there."""
    notebook = build.cut(LABS[lab], True)
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = HEADING.findall(text)
    registered = [(name, each.kind) for name, each in course.EXERCISES.items() if name.startswith(f"{lab}.")]
    assert sorted(headings) == sorted(registered)
    assert len(headings) >= 6
    assert {kind for _, kind in headings} == set(exercises.KINDS)
    goals = [line for line in notebook.cells[0].source.splitlines() if line.startswith("* ")]
    named = [re.findall(r"`(\d\d\.\w+)`", goal) for goal in goals]
    assert len(goals) >= 4
    assert all(named)
    assert {name for names in named for name in names} == {name for name, _ in headings}


@pytest.mark.parametrize("name", list(course.EXERCISES))
def test_each_wrong_answer_gets_its_own_message(name: str) -> None:
    """At least three planted wrong answers an exercise; no two of them are told the same."""
    answers = WRONG[name]
    assert len(answers) >= 3
    messages = []
    for answer, words in answers:
        verdict = course.check(name, answer)
        assert not verdict.right
        assert words in verdict.message, verdict
        messages.append(verdict.message)
    assert len(set(messages)) == len(messages)


def test_exercises_are_as_many_as_the_readme_says() -> None:
    assert f"{len(course.EXERCISES)} exercises" in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_no_planted_answer_is_of_an_unknown_exercise() -> None:
    assert set(WRONG) == set(course.EXERCISES)


def templates() -> set[str]:
    """The texts of all messages, from the sources."""
    calls = [
        node
        for path in Path(exercises.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say"
    ]
    assert all(isinstance(call.args[0], ast.Constant) for call in calls)
    return {call.args[0].value for call in calls}


def braces(text: str) -> list[tuple[str, str]]:
    """What stands in the braces of a template."""
    return sorted((name, form or "") for _, name, form, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("language", ["pt", "es"])
def test_messages_are_translated(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them and no others, each with the same fields; and a check speaks the language that is set."""
    path = Path(exercises.__file__).parent / "messages" / f"{language}.json"
    catalogue = json.loads(path.read_text(encoding="utf-8"))
    assert set(catalogue) == templates()
    assert {text: braces(text) for text in catalogue} == {text: braces(other) for text, other in catalogue.items()}
    monkeypatch.setenv("MVTEC_AD_LANGUAGE", language)
    monkeypatch.setattr(exercises, "RESULTS", {})
    assert course.check("02.gaussians", 0).message != course.check("02.gaussians", ...).message
    assert (
        course.check("02.gaussians", ...).message
        == catalogue["nothing is here yet: write your answer in place of the dots"]
    )


# --- the machinery ----------------------------------------------------------------------------------------------------


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> str:
    """An exercise: double an array."""
    monkeypatch.setattr(exercises, "EXERCISES", dict(exercises.EXERCISES))
    monkeypatch.setattr(exercises, "RESULTS", {})
    wrong = (lambda x: x, exercises.say("this is x itself"))
    exercises.implement("99.double", lambda x: 2 * x, [(np.array([1.0, 2.0]),), (np.array([3.0]),)], [wrong])
    return "99.double"


def _in_place(x: np.ndarray) -> np.ndarray:
    x *= 2
    return x


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: x.copy(), "x itself"),
        (lambda x: None, "returns nothing yet"),
        (lambda x: ..., "returns nothing yet"),
        (lambda x: 1 / 0, "raises ZeroDivisionError: division by zero"),
        (lambda x: 2 * x[:, None], "its shape is (2, 1), expected (2,)"),
        (lambda x: 2 * x + (len(x) == 1), "example 2 of the check [6.] is expected, yours gives [7.]"),
        (_in_place, "in place"),
        (4.0, "function itself"),
        (None, "nothing is here yet"),
        (..., "nothing is here yet"),
    ],
)
def test_what_differs_is_said(doubled: str, answer: Any, words: str) -> None:
    verdict = exercises.examine(doubled, answer)
    assert not verdict.right
    assert words in verdict.message


@pytest.mark.parametrize("answer", [[1, 2], 3.0, "abz", {"a": 1}])
def test_statements_are_chosen_by_letters(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercises, "EXERCISES", dict(exercises.EXERCISES))
    monkeypatch.setattr(exercises, "RESULTS", {})
    exercises.choose("99.chosen", "ab", {letter: exercises.say("why") for letter in "abc"})
    assert exercises.examine("99.chosen", ["A", "b"]).right
    assert "the letters of the statements that hold, of a, b, c" in exercises.examine("99.chosen", answer).message


def test_right_answers_may_be_lists_and_of_another_precision(doubled: str) -> None:
    assert exercises.examine(doubled, lambda x: [2 * float(value) for value in x]).right
    assert exercises.examine(doubled, lambda x: (2 * x).astype(np.float32)).right


def test_an_unknown_exercise_and_an_unknown_language_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"no exercise '02\.mahalanobi': .*02\.mahalanobis"):
        course.check("02.mahalanobi", 1)
    monkeypatch.setenv("MVTEC_AD_LANGUAGE", "de")
    with pytest.raises(SettingsError, match="choose one of en, pt, es"):
        course.check("02.gaussians", 1)


def test_names_are_registered_once(doubled: str) -> None:
    with pytest.raises(ValueError, match="taken"):
        exercises.register(doubled, "predict", lambda answer: None)


# --- the notebooks ---------------------------------------------------------------------------------------------------


def test_the_stub_holds_no_line_of_the_solution() -> None:
    for source in LABS.values():
        stubs = "\n".join(cell.source for cell in build.cut(source, False).cells)
        assert "solution>" not in stubs
        for _, text in build.SOLUTION.findall(source.read_text(encoding="utf-8")):
            for line in text.splitlines():
                assert len(line.strip()) < 12 or line.strip() not in stubs.splitlines()
        for cell in build.cut(source, False).cells:
            if cell.cell_type == "code" and cell.source != "# <setup>":
                ast.parse(cell.source)


@pytest.mark.parametrize("folder", build.FOLDERS)
@pytest.mark.parametrize("lab", LABS)
def test_committed_notebooks_equal_their_sources(lab: str, folder: str) -> None:
    """Students get theirs without outputs; a solution ran from top to bottom, and no check in it failed."""
    assert build.problems(LABS[lab], folder) == []
    notebook = nbformat.read(PROJECT / "course" / folder / f"{LABS[lab].stem}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [
        number if folder == "solutions" else None for number in range(1, len(cells) + 1)
    ]
    assert all(not cell.outputs for cell in cells if folder == "labs")
    assert "✗" not in json.dumps([cell.outputs for cell in cells], ensure_ascii=False)
