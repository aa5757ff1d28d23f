"""Grade a folder of submissions to a lab into a CSV: one row a student, one point an exercise.

    python course/grade.py SUBMISSIONS/ --lab 02 [--out grades.csv] [--seconds 60] [--memory 2] [--jobs 2] [--resume]

A submission is NAME.ipynb or NAME/02_anything.ipynb. Two processes grade it. The first one is confined and runs the
code cells one by one; an exception in one does not stop the rest. `check` there is a messenger: it writes the answer as
plain numbers, texts, arrays and containers to the second process, the judge, which examines it with this checkout's
mvtec_ad.course and runs no code of the student. Of a function the judge sends arguments and gets results back. So what
a submission changes in its process does not reach the verdict: whatever it forges arrives as one more answer, and the
last answer to an exercise counts. Who found the answer no grader sees; course/grading.md says how to look at that.

course/confinement.py keeps a submission in its scratch folder by four layers, and a run says first what each of them
refuses on this machine. Without Landlock or another user to change to, it grades only with --trust.
"""

from __future__ import annotations

import os
import sys

if sys.platform != "linux":
    print("grade: only Linux confines submissions: grade on a Linux machine, a virtual one, or in WSL", file=sys.stderr)
    sys.exit(2)
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"))
os.environ["MPLBACKEND"] = "Agg"  # whoever forks has one thread, and a judge can start no other

import argparse
import contextlib
import csv
import importlib
import json
import pwd
import select
import signal
import socket
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "course")]
import confinement  # noqa: E402
from submission import Stop, Wire, notebook_of, run_cells  # noqa: E402

from mvtec_ad.errors import SettingsError, in_words, printable  # noqa: E402

CHECKS = PROJECT / "mvtec_ad" / "course"  # imported by judges only
ANSWERS = 50  # that are examined of one exercise: no submission counts through all numbers
LOST: dict[str, Any] = {"answers": {}, "seconds": "", "status": "its judge was killed"}
BY_THE_CLOCK = 3  # times the seconds of computing: other work may keep the machine busy


# --- the judge --------------------------------------------------------------------------------------------------------


def exercises_of(lab: str) -> list[str]:
    """Names of a lab's exercises, after its checks were imported."""
    for path in sorted(CHECKS.glob(f"lab_{lab}_*.py")):
        importlib.import_module(f"mvtec_ad.course.{path.stem}")
    from mvtec_ad.course import EXERCISES

    return [name for name in EXERCISES if name.startswith(f"{lab}.")]


def converse(wire: Wire, names: Sequence[str], answers: dict[str, tuple[bool, str]]) -> str:
    """How a submission ended; what it answered is examined, and the verdicts are written into `answers`."""
    from mvtec_ad.course import exercises

    asked: Counter[str] = Counter()
    while "check" in (message := wire.receive()):
        name = message["check"]
        if name not in names:
            wire.send(unknown=f"there is no exercise {name!r}: {', '.join(names)}")
            continue
        asked[name] += 1
        if asked[name] > ANSWERS:
            answers[name] = (False, f"answered more than {ANSWERS} times")
        else:
            try:
                verdict = exercises.examine(name, wire.decode(message["answer"]))
                answers[name] = (verdict.right, verdict.message)
            except Exception as problem:
                answers[name] = (False, f"the check cannot read this answer: {type(problem).__name__}")
        wire.send(right=answers[name][0], message=answers[name][1])
    return str(message.get("end", "wrote something of its own to the judge"))


def end_of(process: int, limits: confinement.Limits) -> str:
    """How a process ended that closed its line; it is given half a second."""
    for _ in range(50):
        found, status, usage = os.wait4(process, os.WNOHANG)
        if found:
            if usage.ru_utime + usage.ru_stime >= limits.seconds:
                return "timed out"
            number = os.waitstatus_to_exitcode(status)
            return f"crashed with signal {-number}" if number < 0 else f"ended early with exit status {number}"
        time.sleep(0.01)
    return "closed its line to the judge"


def judge(place: Path, lab: str, limits: confinement.Limits, user: int, scratch: Path) -> dict[str, Any]:
    """Verdicts on a submission, its seconds and its status."""
    os.setsid()
    confinement.libc.prctl(confinement.ADOPT_ORPHANS, 1, 0, 0, 0)
    answers: dict[str, tuple[bool, str]] = {}
    begun, process = time.monotonic(), 0

    def watch(*_: object) -> None:
        """Stop what exceeds its limits; else look again soon."""
        late = time.monotonic() - begun > BY_THE_CLOCK * limits.seconds
        if reason := "timed out" if late else confinement.exceeded(limits, scratch):
            raise Stop(reason)
        signal.setitimer(signal.ITIMER_REAL, 0.1)

    try:
        notebook = notebook_of(place, lab)
        ours, theirs = socket.socketpair()
        process = confinement.spawn(limits, scratch, user, lambda: run_cells(notebook, theirs.fileno(), scratch))
        theirs.close()
        names, wire = exercises_of(lab), Wire(ours.fileno(), is_judge=True)
        wire.receive()  # it is confined, and waits
        begun = time.monotonic()
        signal.signal(signal.SIGALRM, watch)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        wire.send(begin=True)
        status = converse(wire, names, answers)
    except Stop as reason:
        status = str(reason)
    except ConnectionError:  # it died while it was written to
        status = "ended early"
    signal.setitimer(signal.ITIMER_REAL, 0)
    if status == "ended early":
        status = end_of(process, limits)
    seconds = round(time.monotonic() - begun, 1)
    confinement.end_all()
    return {"answers": answers, "seconds": seconds, "status": status}


# --- the class --------------------------------------------------------------------------------------------------------


def aside(work: Callable[[], Any]) -> tuple[int, int]:
    """A forked process that does some work, and where its result can be read as JSON."""
    (read, write), own = os.pipe(), os.getpid()
    if process := os.fork():
        os.close(write)
        return process, read
    try:
        confinement.die_with(own)
        with open(write, "w", encoding="utf-8") as file:
            json.dump(work(), file)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def result_of(process: int, descriptor: int) -> Any:
    """What `aside` worked out; None where it died."""
    with open(descriptor, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(process, 0)
    return json.loads(text) if text else None


def cell(text: str) -> str:
    """A text of a student for a CSV: one line that no spreadsheet takes for a formula."""
    text = printable(text)[:300]
    return f"'{text}" if text[:1] in tuple("=+-@") else text


def graded(out: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Name -> row of the grades that are there."""
    if not out.exists():
        return {}
    try:
        with out.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = {row["name"]: row for row in reader} if reader.fieldnames == list(columns) else None
    except (OSError, ValueError, csv.Error):
        rows = None
    if rows is None:
        raise SettingsError(f"{out} holds no grades of this lab: name another file with --out")
    return rows


def record(out: Path, columns: Sequence[str], row: dict[str, Any]) -> None:
    """Put one row into the grades, written aside and renamed: at no moment a grade is lost."""
    rows = graded(out, columns) | {row["name"]: row}
    with (part := out.with_name(f"{out.name}.part")).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows.values())
    os.replace(part, out)


def prepare(lab: str) -> list[str]:
    """Names of a lab's exercises; other modules that its checks use are imported, once for all that fork."""

    def found() -> list[list[str]]:
        before = {*sys.modules}
        names = exercises_of(lab)
        return [names, [name for name in sys.modules if name not in before and not name.startswith("mvtec_ad.course")]]

    names, modules = result_of(*aside(found)) or ([], [])
    if not names:
        raise SettingsError(f"there is no lab {lab!r}: give two digits, such as 02")
    for module in ["matplotlib.pyplot", *modules]:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    return names


def arguments_of(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line, examined."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:
            raise SettingsError(message)

    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("submissions", type=Path)
    parser.add_argument("--lab", required=True, help="its two digits")
    parser.add_argument("--out", type=Path, default=Path("grades.csv"))
    parser.add_argument("--seconds", type=float, default=60, help="of computing; thrice as many by the clock")
    parser.add_argument("--memory", type=float, default=2, help="GiB")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--resume", action="store_true", help="leave the submissions out that have a row in --out")
    parser.add_argument("--trust", action="store_true", help="grade even where nothing but the audit hook confines")
    given = parser.parse_args(words)
    if not given.submissions.is_dir():
        raise SettingsError(f"{given.submissions} is no folder: name the one with the submissions")
    if not (given.out.parent.is_dir() and os.access(given.out.parent, os.W_OK)) or given.out.is_dir():
        raise SettingsError(f"{given.out} cannot be written: name a file in a folder of yours with --out")
    for name in ("seconds", "memory", "jobs"):
        if not 0 < getattr(given, name) < 10**6:
            raise SettingsError(f"--{name} {getattr(given, name)}: give a positive number")
    return given


class Running(NamedTuple):
    """A judge at work."""

    name: str
    process: int
    user: int
    scratch: Path
    last: float  # the moment at which it is killed itself


def grade(places: dict[str, Path], lab: str, limits: confinement.Limits, users: Sequence[int]) -> Iterator[dict]:
    """Name, verdicts, seconds and status of each submission, as soon as it is judged; as many at a time as users."""
    confinement.libc.prctl(confinement.ADOPT_ORPHANS, 1, 0, 0, 0)
    queue, running = list(places.items()), dict[int, Running]()  # where its result is read -> judge
    interrupted: list[int] = []  # an exception at any place could be lost in what runs at a fork
    signal.signal(signal.SIGINT, lambda *about: interrupted.append(1))
    try:
        while queue or running:
            if interrupted:
                raise KeyboardInterrupt
            while queue and len(running) < len(users):
                name, place = queue.pop(0)
                user = next(user for user in users if user not in [one.user for one in running.values()])
                scratch = Path(tempfile.mkdtemp(prefix="grade-")).resolve()
                process, descriptor = aside(partial(judge, place, lab, limits, user, scratch))
                last = time.monotonic() + BY_THE_CLOCK * limits.seconds + 60
                running[descriptor] = Running(name, process, user, scratch, last)
            for descriptor in select.select(list(running), [], [], 1)[0]:
                one = running.pop(descriptor)
                found = result_of(one.process, descriptor)
                confinement.end_all(skip=[other.process for other in running.values()])
                confinement.remove(one.scratch)
                yield {"name": one.name, **(found or LOST)}
            for one in running.values():
                if time.monotonic() > one.last:
                    os.kill(one.process, signal.SIGKILL)
    finally:  # interrupted, or a grade could not be written
        confinement.end_all()
        for one in running.values():
            confinement.remove(one.scratch)


def run(words: Sequence[str] | None) -> None:
    """Grade as the command line says."""
    given = arguments_of(words)
    names = prepare(given.lab)
    columns = ["name", *names, "total", "seconds", "status", *(f"{name} message" for name in names)]
    out, folder = given.out.resolve(), given.submissions.resolve()
    done = graded(out, columns)
    entries = [path for path in sorted(folder.iterdir()) if path.name[0] != "." and path != out]
    stems = Counter(path.name.removesuffix(".ipynb") for path in entries)
    places = {}
    for path in entries:
        stem = path.name.removesuffix(".ipynb")
        places[cell(stem if stems[stem] == 1 else path.name)] = path
    if given.resume:
        places = {name: path for name, path in places.items() if name not in done}

    taken = {entry.pw_uid for entry in pwd.getpwall()}
    users = [user for user in range(64_000, 65_000) if user not in taken][: given.jobs]
    limits = confinement.Limits(given.seconds, int(given.memory * 2**30), (), [CHECKS.parent], [CHECKS, folder, out])
    limits = limits._replace(layers=confinement.layers_held(limits, users[0]))
    if not {"Landlock", "other user"} & {*limits.layers} and not given.trust:
        raise SettingsError("neither Landlock nor another user is to be had here: grade elsewhere, or say --trust")

    with contextlib.closing(grade(places, given.lab, limits, users)) as judged:
        for found in judged:
            verdicts = {name: found["answers"].get(name, (False, "no answer")) for name in names}
            row = {"name": found["name"], "seconds": found["seconds"], "status": cell(found["status"])}
            row |= {name: int(right) for name, (right, _) in verdicts.items()}
            row |= {f"{name} message": cell(message) for name, (_, message) in verdicts.items()}
            row["total"] = sum(row[name] for name in names)
            record(out, columns, row)
            print(f"{row['name']}: {row['total']} of {len(names)}, {row['status']}", flush=True)
    print(f"{len(places)} graded: {given.out}")


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 where the command line cannot be followed, 130 where it was interrupted."""
    try:
        run(words)
    except SettingsError as problem:
        print(f"grade: {problem}", file=sys.stderr)
        return 2
    except OSError as problem:
        print(f"grade: {in_words(problem)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("grade: interrupted; the same command with --resume goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
