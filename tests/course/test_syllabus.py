"""Sheets of the weeks, syllabus and project: what they quote stands where they say, and minutes and points add up."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from functools import cache
from pathlib import Path

import pytest

from mvtec_ad import course
from mvtec_ad.course import exercises

PROJECT = Path(__file__).parents[2]
COURSE = PROJECT / "course"
WEEKS = [f"{week:02}" for week in range(1, 10)]
SECTIONS = ["Goals", "Board", "Lecture", "Lab", "Mistakes to expect", "Expected numbers", "Paper", "Oral exam"]
DECIMAL = re.compile(r"(?<![\d.])\d*\.\d+")

course.load_labs()


def sections(week: str) -> dict[str, str]:
    """Title of each section of a sheet -> its text."""
    parts = re.split(r"^## (.+)\n", (COURSE / "weeks" / f"{week}.md").read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of the tables of a text, without their headings."""
    tables = re.findall(r"^\|.*\n\|[-| :]+\|\n((?:\|.*\n?)+)", text, re.M)
    return [[cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()]


def source_of(folder: Path, week: str, suffix: str) -> Path:
    """The one file of a week in a folder."""
    [path] = folder.glob(f"{week}_*{suffix}")
    return path


@cache
def outputs(notebook: str) -> str:
    """The printed outputs of an executed notebook, blanks made single."""
    cells = json.loads((PROJECT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    found = [output for cell in cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.get("data", {}).get("text/plain") or [] for output in found]
    return " ".join(" ".join("".join(text) for text in texts).split())


def stands_in(quoted: str, text: str) -> bool:
    """Whether a text holds a number as a whole, not as a part of a longer one."""
    return re.search(rf"(?<![\d.]){re.escape(quoted)}(?!\d|\.\d)", text) is not None


@cache
def templates(week: str) -> frozenset[str]:
    """The constant texts of all messages in the source of a lab's check."""
    tree = ast.parse(source_of(PROJECT / "mvtec_ad" / "course", f"lab_{week}", ".py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return frozenset(ast.literal_eval(call.args[0]) for call in calls if call.func.id == "say")


@cache
def planted(week: str) -> dict[str, list[tuple]]:
    """Name of an exercise -> its wrong answers, each with words of its message."""
    spec = importlib.util.spec_from_file_location("wrong", Path(__file__).parent / f"wrong_{week}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


# --- sheets -----------------------------------------------------------------------------------------------------------


def test_each_week_has_one_sheet() -> None:
    assert [path.stem for path in sorted((COURSE / "weeks").glob("*"))] == WEEKS


@pytest.mark.parametrize("week", WEEKS)
def test_a_sheet_has_all_sections_in_order(week: str) -> None:
    parts = sections(week)
    assert list(parts) == SECTIONS
    assert len(re.findall(r"^\* \*\*\w+\*\*", parts["Goals"], re.M)) == 5
    assert len(re.findall(r"^\*\*.+\?\*\* \w", parts["Oral exam"], re.M)) == 2


@pytest.mark.parametrize("week", WEEKS)
def test_the_board_is_that_of_the_slides_step_by_step(week: str) -> None:
    board = sections(week)["Board"]
    slides = source_of(COURSE / "slides", week, ".md").read_text(encoding="utf-8").split("\n---\n")
    [slide] = [slide for slide in slides if re.search(r"^## Board: ", slide, re.M)]
    title = re.search(r"^## Board: (\w)(.+)$", slide, re.M)
    minutes = re.search(r"^Note: (\d+) min", slide, re.M)[1]
    assert board.strip().startswith(f"*{title[1].upper()}{title[2]}*, {minutes} minutes")
    steps = [int(step) for step in re.findall(r"^(\d+)\. ", board, re.M)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 7
    asked = board.partition("What students will ask:")[2]
    assert len(re.findall(r"^\* \*.+[?.]\* ", asked, re.M)) == 3


@pytest.mark.parametrize("week", WEEKS)
def test_minutes_of_the_lecture_are_those_of_the_slides(week: str) -> None:
    slides = source_of(COURSE / "slides", week, ".md").read_text(encoding="utf-8").split("\n---\n")
    noted = [int(re.search(r"^Note: (\d+) min", slide, re.M)[1]) for slide in slides]
    *plan, total = rows(sections(week)["Lecture"])
    following = 1
    for numbers, minutes, _ in plan:
        ends = [int(number) for number in numbers.split("–")]
        first, last = ends[0], ends[-1]
        assert first == following
        assert int(minutes) == sum(noted[first - 1 : last])
        following = last + 1
    assert following == len(slides) + 1
    assert total[:2] == ["**sum**", f"**{sum(noted)}**"]


@pytest.mark.parametrize("week", WEEKS)
def test_minutes_of_the_lab_are_ninety_for_all_exercises(week: str) -> None:
    *plan, total = rows(sections(week)["Lab"])
    assert sum(int(minutes) for minutes, _, _ in plan) == 90
    assert total[0] == "**90**"
    source = source_of(COURSE / "exercises", week, ".py").read_text(encoding="utf-8")
    planned = [name for _, names, _ in plan for name in re.findall(r"`([\w.]+)`", names)]
    assert planned == re.findall(r"^# ## (\d\d\.\w+) · ", source, re.M)


@pytest.mark.parametrize("week", WEEKS)
def test_quoted_messages_are_what_the_checks_say(week: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quoted message is a template of the lab, and one of its planted wrong answers is told just that."""
    monkeypatch.setattr(exercises, "RESULTS", {})
    monkeypatch.delenv("MVTEC_AD_LANGUAGE", raising=False)
    mistakes = re.findall(r"^`(\d\d\.\w+)`\n\n> (.+)\n\n\S", sections(week)["Mistakes to expect"], re.M)
    assert len(mistakes) == sections(week)["Mistakes to expect"].count("\n> ") == 3
    for name, message in mistakes:
        assert name.startswith(week)
        assert message in templates(week)
        told = [course.check(name, answer).message for answer, _ in planted(week)[name]]
        assert message in told, f"{name} says this to none of the planted answers: {told}"


@pytest.mark.parametrize("week", WEEKS)
def test_expected_numbers_stand_in_the_notebooks(week: str) -> None:
    intro = (COURSE / "weeks" / f"{week}.md").read_text(encoding="utf-8").partition("## ")[0]
    numbers = rows(sections(week)["Expected numbers"])
    assert len(numbers) >= 7
    for number, notebook, *said in numbers:
        assert f"[{notebook}](" in intro
        assert stands_in(number, outputs(notebook)), f"{number} is not in {notebook}"
        assert all(said)
        for decimal in DECIMAL.findall(" ".join(said)):
            assert re.search(rf"(?<![\d.])0?{re.escape(decimal)}(?!\d)", outputs(notebook)), f"{decimal}, {notebook}"


def test_a_number_is_found_as_a_whole_only() -> None:
    assert stands_in(".928 [.802, .975]", "bottle .928 [.802, .975] screw")
    assert not stands_in(".928", "1.928 and .9281")
    assert not stands_in("6 of 50", "16 of 50")


@pytest.mark.parametrize("week", WEEKS)
def test_the_paper_is_that_of_the_reading_list(week: str) -> None:
    paper = sections(week)["Paper"]
    listed = re.split(r"^## ", (COURSE / "reading.md").read_text(encoding="utf-8"), flags=re.M)
    [own] = [section for section in listed if section.startswith(week)]
    assert re.sub(r"\s+", " ", re.search(r"\*\*(.+?)\*\*", own, re.S)[1]).startswith(paper.strip().split(". What")[0])
    assert f"reading.md#{anchor(own.splitlines()[0])})" in paper


# --- links ------------------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """What a heading is linked by."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


PAGES = ["README.md", "syllabus.md", "project.md", *(f"weeks/{week}.md" for week in WEEKS)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Labs are made from their sources, so a source is what must be there."""
    for link in re.findall(r"\]\(([^)]+)\)", (COURSE / page).read_text(encoding="utf-8")):
        target, _, place = link.partition("#")
        path = ((COURSE / page).parent / target).resolve()
        if path.parent.name == "labs":
            path = COURSE / "exercises" / f"{path.stem}.py"
        assert path.exists(), link
        if place:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            assert place in map(anchor, headings), link


# --- syllabus and project ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("linked", "there"),
    [
        (r"\.\./notebooks/(\w+)\.ipynb", "../notebooks/*.ipynb"),
        (r"labs/(\w+)\.ipynb", "exercises/*.py"),
        (r"quizzes/(\w+)\.json", "quizzes/*.json"),
        (r"slides/(\w+)\.md", "slides/*.md"),
        (r"weeks/(\w+)\.md", "weeks/*.md"),
    ],
)
def test_the_syllabus_names_all_there_is(linked: str, there: str) -> None:
    text = (COURSE / "syllabus.md").read_text(encoding="utf-8")
    assert set(re.findall(rf"\({linked}\)", text)) == {path.stem for path in COURSE.glob(there)}


def part(name: str, heading: str) -> str:
    """A section of a page."""
    return re.split(rf"^## {heading}\n", (COURSE / name).read_text(encoding="utf-8"), flags=re.M)[1].partition("\n## ")[
        0
    ]


def test_a_row_of_the_syllabus_is_of_one_week() -> None:
    """Lab, quiz, slides and reading have the number of the week, and its sheet names the same notebooks."""
    table = rows(part("syllabus.md", "Week by week"))
    assert len(table) == 9
    for week, row in zip(WEEKS, table, strict=True):
        sheet, _, notebooks, *others = row
        assert f"(weeks/{week}.md)" in sheet
        assert all(re.search(rf"[/#]{week}[_.-]", cell) for cell in others)
        intro = (COURSE / "weeks" / f"{week}.md").read_text(encoding="utf-8").partition("## ")[0]
        named = re.findall(r"/(\w+)\.ipynb", notebooks)
        assert re.findall(r"\[(\w+)\]", re.search(r"notebooks? (.+?), lab", intro)[1]) == named


def test_electives_are_those_that_no_week_has() -> None:
    weekly, elective = (
        set(re.findall(r"notebooks/(\w+)\.ipynb", part("syllabus.md", name))) for name in ("Week by week", "Electives")
    )
    assert not weekly & elective
    assert {name[:2] for name in elective} == {"10", "12", "13", "14", "15"}


def test_hours_and_percents_add_up() -> None:
    quarters = {"¼": 0.25, "½": 0.5, "¾": 0.75}

    def value(cell: str) -> float:
        return sum(quarters.get(sign, 0) for sign in cell) + float(re.sub(r"\D", "", cell) or 0)

    *hours, total = rows(part("syllabus.md", "Workload"))
    assert sum(value(cell) for _, cell in hours) == value(total[1]) == 90
    assert sum(int(row[1]) for row in rows(part("syllabus.md", "Assessment"))) == 100
    assert sum(value(row[1]) for row in rows(part("project.md", "The report"))) == 4


def test_the_short_course_has_six_of_the_weeks() -> None:
    table = rows(part("syllabus.md", "In six weeks"))
    assert [row[0] for row in table] == list("123456")
    assert len({row[1] for row in table}) == 6
    left = [week for week in WEEKS if not any(f"weeks/{week}.md" in row[1] for row in table)]
    assert left == ["05", "06", "07"]


def test_the_rubric_has_a_hundred_points_in_rising_levels() -> None:
    table = rows(part("project.md", "Rubric"))
    points = [[int(re.match(r"(\d+): \S", cell)[1]) for cell in row[1:]] for row in table]
    assert all(len(row) == 4 and row == sorted(set(row)) and row[0] == 0 for row in points)
    assert sum(row[-1] for row in points) == 100
    criteria = " ".join(row[0] for row in table)
    assert all(word in criteria for word in ("intervals", "trivial rows", "failure case", "honest abstract"))
