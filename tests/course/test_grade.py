"""Grading: submissions that do their worst cost themselves alone, and what passes to the judge is what was answered."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("submissions are confined by Linux only", allow_module_level=True)

PROJECT = Path(__file__).parents[2]
sys.path.append(str(PROJECT / "course"))
sys.path.append(str(Path(__file__).parent))
import confinement  # noqa: E402
import submission  # noqa: E402

from mvtec_ad import course  # noqa: E402
from mvtec_ad.course import exercises  # noqa: E402

spec = importlib.util.spec_from_file_location("course_build", PROJECT / "course" / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
course.load_labs()
GRADE = PROJECT / "course" / "grade.py"
NOBODY = 65534
SOURCES = {path.stem[:2]: path for path in build.SOURCES}
LAB = min(SOURCES)  # the lightest
NAMES = [name for name in course.EXERCISES if name.startswith(f"{LAB}.")]
ASKS = re.compile(r'check\("(.*?)"')


def code_of(lab: str, solution: bool) -> list[str]:
    """Code cells of a lab."""
    return [cell.source for cell in build.cut(SOURCES[lab], solution).cells if cell.cell_type == "code"]


def asking(solution: bool) -> list[list[str]]:
    """Code cells of the lab up to and with each that asks."""
    cells = code_of(LAB, solution)
    return [cells[: place + 1] for place, text in enumerate(cells) if ASKS.search(text)]


FIRST, *_, SOLUTION = asking(True)[:3]  # one exercise is right, or some of them, which takes less time than all
REST, ASKED = SOLUTION[len(FIRST) :], ASKS.findall("".join(SOLUTION))
WHOLE, ONE, NONE = len(ASKED), 1, 0
EVERY = f"NAMES = {NAMES!r}\nfrom mvtec_ad.course import check\n"

# What can be done to a path, each way tried; @canary and others are filled in with folders outside the scratch folder.
DAMAGE = """
import contextlib, ctypes, os, shutil, subprocess
from pathlib import Path
libc = ctypes.CDLL(None)
for root in ("@canary", "@submissions", "@out", "@home"):
    for path in (Path(root), *sorted(Path(root).glob("[a-h]*"))[:4]):
        raw = os.fsencode(path)
        libc.unlink(b"link")
        libc.symlink(raw, b"link")
        for attempt in (
            lambda: path.write_text("lost"), lambda: open(path, "a").write("lost"),
            lambda: libc.close(libc.open(b"link", 0o1001)), lambda: Path("link").write_text("lost"),
            lambda: os.truncate(path, 0), lambda: libc.truncate(raw, 0), lambda: libc.close(libc.open(raw, 0o1001)),
            lambda: os.chmod(path, 0), lambda: libc.chmod(raw, 0), lambda: os.utime(path, (0, 0)),
            lambda: os.rename(path, "taken"), lambda: libc.rename(raw, b"taken"), lambda: os.link(path, "hard"),
            lambda: (path / "new").write_text("new"), lambda: libc.mkdir(raw + b"/new", 0o777),
            lambda: subprocess.run(["rm", "-rf", path]), lambda: os.system(f"rm -rf {path}"),
            lambda: libc.system(b"rm -rf " + raw), lambda: libc.system(b"chmod -R 0 " + raw),
            lambda: os.remove(path), lambda: libc.unlink(raw), lambda: shutil.rmtree(path), lambda: libc.rmdir(raw),
        ):
            with contextlib.suppress(OSError):
                attempt()
"""
KILLS = """
import contextlib, ctypes, os, signal
libc = ctypes.CDLL(None)
others = [int(name) for name in os.listdir("/proc") if name.isdigit()]
for pid in [os.getppid(), *others, 0, -1]:
    if pid not in (os.getpid(), os.getpgid(0)) and pid != int(os.readlink("/proc/self")):
        with contextlib.suppress(OSError):
            open(f"/proc/{pid}/mem", "r+b").write(b"x")
        for number in (0, signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL) if pid > 0 else (0,):
            with contextlib.suppress(OSError):
                os.kill(pid, number)
            libc.kill(pid, number)
"""
LIES = """
import numpy as np
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __gt__ = __le__ = __ge__ = __eq__
    def __hash__(self): return 0
    def __array__(self, *given, **options): return np.zeros(3)
    def __float__(self): return 1.0
    def __getattr__(self, name): return Yes()
    def __call__(self, *given, **options): return Yes()
class Lying(np.ndarray):
    __array_priority__ = 1e9
    shape = property(lambda self: ())
    def __eq__(self, other): return np.ones((), bool)
    def __array_function__(self, function, types, given, options): return True
    def __array_ufunc__(self, function, method, *given, **options): return np.ones((), bool)
class Text(str):
    def __eq__(self, other): return True
    def lower(self): return Text("".join("ab"))
    __hash__ = str.__hash__
class Table(dict):
    def __getitem__(self, key): return True
for name in NAMES:
    for answer in (Yes(), lambda *given: Yes(), np.zeros(()).view(Lying), lambda *given: np.zeros(3).view(Lying),
                   Text("no"), Table(), [Yes()], type("Number", (float,), {"__eq__": Yes.__eq__})(3.25)):
        try:
            check(name, answer)
        except Exception:
            pass
"""
PATCHES = """
import gc, sys, types
import numpy as np
import mvtec_ad, mvtec_ad.course as course
import mvtec_ad.errors
def yes(*given, **options): return True
np.allclose = np.array_equal = np.all = np.testing.assert_allclose = yes
np.asarray = lambda *given, **options: np.zeros(())
for table in [one for one in gc.get_objects() if isinstance(one, dict) and "RESULTS" in one] + [vars(course)]:
    table["RESULTS"] = table["EXERCISES"] = dict.fromkeys(NAMES, True)
for name in ("mvtec_ad.course.exercises", "mvtec_ad.course.lab_02_padim"):
    sys.modules[name] = types.SimpleNamespace(examine=yes, EXERCISES={}, RESULTS=dict.fromkeys(NAMES, True))
for module in list(sys.modules.values()):
    for name in ("examine", "same", "converse", "exercises_of"):
        if hasattr(module, name):
            setattr(module, name, yes)
for name in NAMES:
    check(name, 3.25)
"""
SPEAKS = """
import json, os
def say(descriptor=3, **message):
    data = json.dumps(message).encode()
    os.write(descriptor, len(data).to_bytes(4, "big") + data)
"""
NETWORK = """
import contextlib, ctypes, socket
for kind, place in ((socket.SOCK_STREAM, @tcp), (socket.SOCK_DGRAM, @udp)):
    for send in (lambda one: one.connect(place), lambda one: one.sendto(b"x", place),
                 lambda one: ctypes.CDLL(None).connect(one.fileno(), address, 16)):
        port = place[1].to_bytes(2, "big")
        address = (socket.AF_INET).to_bytes(2, "little") + port + bytes([127, 0, 0, 1]) + bytes(8)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, kind) as one:
            send(one)
            ctypes.CDLL(None).send(one.fileno(), b"x", 1, 0)
"""
LEFT = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(0.01)
            open("still here", "w").close()
    os._exit(0)
"""
IGNORES = """
import signal, time
for number in {*signal.valid_signals()} - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
    signal.signal(number, signal.SIG_IGN)
while True:
    time.sleep(1)
"""


class Case(NamedTuple):
    """Code cells, the points that they get, and a pattern of the status."""

    cells: list[str]
    points: int
    status: str


def forged(text: str, status: str = "ok") -> Case:
    """It answers nothing right."""
    return Case([EVERY + text], NONE, status)


def after(text: str, status: str = "ok") -> Case:
    """It answers the first exercise right before."""
    return Case([*FIRST, text], ONE, status)


def caught(test: str) -> Case:
    """It answers all right unless `test` raises: what must be refused to it, is."""
    lines = "\n    ".join(test.splitlines())
    return Case([f"import os\ntry:\n    {lines}\nexcept Exception:\n    os._exit(7)", *SOLUTION], NONE, SEVEN)


SEVEN = "ended early with exit status 7"
AT = rf"code cell {len(FIRST) + 1}: "  # the cell after the first answer
FULL = rf"{AT}OSError: .*No space.*|too much on the disk|timed out"
MAGICS = ["%%bash\nls", "%matplotlib inline\nif 1:\n    !ls", "assert (10\n% 3) == 1"]
CROWD = f"too many processes|out of memory|timed out|{AT}RuntimeError: can't start new thread"
OWN = "wrote something of its own to the judge"
CASES = {
    "honest": Case(SOLUTION, WHOLE, "ok"),
    "stub": Case(asking(False)[2 if len(NAMES) > 2 else 1], NONE, "ok"),
    "error between": Case([*FIRST, "1 / 0", *REST], WHOLE, f"{AT}ZeroDivisionError: division by zero"),
    "syntax error": Case([*FIRST, "def (", *REST], WHOLE, f"{AT}SyntaxError: .*"),
    "magics": Case([*MAGICS, *SOLUTION], WHOLE, "ok"),
    "second thought": Case([*SOLUTION, f"check({ASKED[0]!r}, ...)"], WHOLE - 1, "ok"),
    "unknown exercise": after("check('" + LAB + ".nonsense', 1)", f"{AT}SettingsError: there is no exercise .*"),
    "=1+1": Case(SOLUTION, WHOLE, "ok"),
    # time, memory, disk, processes
    "endless loop": after("while True: pass", "timed out"),
    "ignores signals": after(IGNORES, "timed out"),
    "endless answer": forged("import time\nfor name in NAMES: check(name, lambda *x: time.sleep(99))", "timed out"),
    "fork bomb": after("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", CROWD),
    "thread bomb": after("import threading, time\n"
                         "while True: threading.Thread(target=time.sleep, args=[99]).start()", CROWD),
    "memory bomb": after("x = []\nwhile True: x.append(bytearray(10**8))", f"{AT}out of memory|out of memory"),
    "shared memory bomb": after("import mmap\nx, n = mmap.mmap(-1, 2**32), 2**22\n"
                                "for i in range(0, 2**32, n): x[i : i + n] = bytes(n)", "out of memory"),
    "disk filler": after("for i in range(10**5):\n    with open(f'{i}', 'wb') as f: f.write(bytes(10**7))", FULL),
    "many files": after("for i in range(10**5): open(f'{i}', 'w').close()", FULL),
    "deep folders": after("import os\nfor _ in range(60): os.mkdir('d' * 200); os.chdir('d' * 200)"),
    "closed folder": after("import os\nos.makedirs('a/b'); os.chmod('a', 0)", "ok|hides files from the grader"),
    "prints gigabytes": after("for _ in range(10**4): print('x' * 10**5)"),
    "threads left": after("import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()"),
    "processes left": after(LEFT),
    # ends of all kinds
    "sys.exit": Case([*FIRST, "import sys\nsys.exit(3)", *REST], WHOLE, f"{AT}SystemExit: 3"),
    "os._exit": after("import os\nos._exit(0)", "ended early with exit status 0"),
    "segfault": after("import ctypes\nctypes.string_at(0)", "crashed with signal 11"),
    "abort": after("import os\nos.abort()", "crashed with signal (6|11)"),
    "recursion": after("import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\n"
                       "repr(A())", f"crashed with signal 11|{AT}RecursionError.*"),
    "exit in an answer": forged("import os\nfor name in NAMES: check(name, lambda *x: os._exit(7))", f"{SEVEN}|ok"),
    "closes its line": after("import os, time\nos.closerange(3, 99)\ntime.sleep(99)", "closed its line to the judge"),
    "evil exception": after("class E(Exception):\n    def __str__(self): raise E\nraise E", "ended early with .* 1"),
    # what is outside
    "damage": after(DAMAGE),
    "kills": after(KILLS, "ok|crashed.*|ended.*"),
    "network": after(NETWORK),
    "debris": after("import os, tempfile\nopen(os.path.expanduser('~/x'), 'w').close(); tempfile.mkdtemp()\n"
                    "try: open('@debris', 'w').close()\nexcept OSError: pass"),
    "reads the checks": caught("open('@project/mvtec_ad/course/exercises.py').read()"),
    "reads its neighbour": caught("open('@submissions/honest.ipynb').read()"),
    "reads the grades": caught("open('@out/grades.csv').read()"),
    "imports the checks": caught("from mvtec_ad.course import exercises"),
    "searches its memory": caught("import gc\n[x for x in gc.get_objects()\n"
                                  " if 'mvtec_ad.course.' in str(getattr(x, '__module__', ''))][0]"),
    # forged verdicts
    "redefined check": forged("import mvtec_ad.course as c\ncheck = c.check = lambda name, answer: True\n"
                              "for name in NAMES: check(name, 1), c.check(name, 1)"),
    "lies": forged(LIES),
    "patches": forged(PATCHES),
    "speaks for the judge": forged(SPEAKS + "for name in NAMES: say(right=True, message='right', name=name)", OWN),
    "speaks as an answer": forged(SPEAKS + "say(check=NAMES[0], answer={'array': ['O', [1], 'AAAAAAAAAAA=']})\n"
                                  "say(check=NAMES[1], answer={'list': 1})\nsay(check=[1], answer=1)",
                                  "ok|ended early with exit status 0"),  # which of both hangs up first
    "speaks a formula": forged(SPEAKS + "import time\nsay(end='=1+1')\ntime.sleep(99)", r"'=1\+1"),
    "speaks nonsense": forged("import os\nos.write(3, b'\\xff' * 10**6)", OWN),
    "speaks deeply": forged(SPEAKS + "deep = b'[' * 10**6\nos.write(3, len(deep).to_bytes(4, 'big') + deep)", OWN),
    "counts through": forged("for i in range(200): check(NAMES[0], i)"),
}  # fmt: skip
STRANGE = {  # things that are not a notebook, and the patterns of their status
    "link": "a link, .*",
    "linked folder": "not a notebook",
    "broken": "not a notebook",
    "deep": "not a notebook",
    "list": "not a notebook",
    "pipe": "not a notebook",
    "essay.txt": "not a notebook",
    "huge": "larger than 32 MiB",
    "empty folder": "no notebooks in the folder",
    "two": "2 notebooks in the folder",
    "closed": "no notebooks in the folder",
}


def notebook(cells: list[str]) -> str:
    """A notebook of code cells as text."""
    cells = [{"cell_type": "code", "source": text, "metadata": {}, "outputs": []} for text in cells]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": "# Lab"}, *cells], "nbformat": 4})


def write_strange(folder: Path) -> None:
    """The things of `STRANGE`."""
    (folder / "link.ipynb").symlink_to(folder / "honest.ipynb")
    (folder / "linked folder").symlink_to(folder / "in a folder")
    (folder / "broken.ipynb").write_text(notebook(SOLUTION)[:-9])
    (folder / "deep.ipynb").write_text("[" * 10**6)
    (folder / "list.ipynb").write_text("[1, 2]")
    os.mkfifo(folder / "pipe.ipynb")
    (folder / "essay.txt").write_text("My essay.")
    with (folder / "huge.ipynb").open("w") as file:
        file.truncate(10**10)
    (folder / "empty folder").mkdir()
    (folder / "two").mkdir()
    for number in (1, 2):
        (folder / "two" / f"{LAB}_{number}.ipynb").write_text(notebook(SOLUTION))
    (folder / "closed.ipynb").mkdir()


def snapshot(*folders: Path) -> dict[str, Any]:
    """Everything below some folders: modes, times, contents."""
    found = {}
    for path in sorted(path for folder in folders for path in [folder, *folder.rglob("*")]):
        about = path.lstat()
        content = path.is_file() and about.st_size < 10**7 and hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = (about.st_mode, about.st_uid, about.st_size, about.st_mtime_ns, content)
    return found


def still_running(words: str) -> list[str]:
    """Processes with some words in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words.encode() in (command := path.read_bytes()):
                found.append(command.decode(errors="replace"))
        except OSError:
            pass
    return found


def python_of(user: int) -> tuple[list[str], dict[str, str]]:
    """A Python with this one's packages that a user may run, and what it needs in its environment."""
    packages = {"PYTHONPATH": str(Path(np.__file__).parents[1])}
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for python, environment in ((sys.executable, {}), (f"/usr/bin/{version}", packages)):
        command = [python, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import json, numpy, mvtec_ad.errors"]
        options: dict[str, Any] = {} if user == os.geteuid() else {"user": user, "group": user, "extra_groups": []}
        try:
            done = subprocess.run(
                [*command, PROJECT], env={**os.environ, **environment}, capture_output=True, cwd="/", **options
            )
        except OSError:
            continue
        if done.returncode == 0:
            return [python], environment
    pytest.skip(f"no Python that user {user} may run has the packages, or the checkout is closed to it")


class Place(NamedTuple):
    """Folders of a run, owned by who grades, and the way to start it."""

    base: Path
    command: list[str]
    environment: dict[str, str]
    options: dict[str, Any]

    def start(self, *words: str) -> subprocess.Popen[str]:
        out = self.base / "out" / "grades.csv"
        command = [*self.command, str(GRADE), str(self.base / "submissions"), "--lab", LAB, "--out", str(out), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.base / "home", env=self.environment, **pipes, **self.options)

    def rows(self) -> dict[str, dict[str, str]]:
        with (self.base / "out" / "grades.csv").open(encoding="utf-8", newline="") as file:
            return {row["name"]: row for row in csv.DictReader(file)}


def make_place(user: int) -> Iterator[Place]:
    """Folders of a user; skips where nobody can become that user."""
    if os.geteuid() not in (0, user):
        pytest.skip("only root can become another user")
    command, environment = python_of(user)
    base = Path(tempfile.mkdtemp(prefix="class-")).resolve()
    base.chmod(0o755)
    for name in ("submissions", "canary", "out", "home", "scratch", "fonts"):
        (base / name).mkdir()
    for fonts in Path(matplotlib.get_cachedir()).glob("fontlist*.json"):  # to look for fonts takes seconds
        shutil.copy(fonts, base / "fonts")
    folders = {"HOME": "home", "TMPDIR": "scratch", "MPLCONFIGDIR": "fonts"}
    environment |= {"PATH": os.environ["PATH"], **{name: str(base / folder) for name, folder in folders.items()}}
    options = {} if user == os.geteuid() else {"user": user, "group": user, "extra_groups": []}
    yield Place(base, command, environment, options)
    shutil.rmtree(base)


def give(base: Path, user: int) -> None:
    for path in [base, *base.rglob("*")]:
        os.chown(path, user, user, follow_symlinks=False)


@pytest.fixture(scope="module", params=["root", "user"])
def worst(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """All cases graded in one run, by root and by a user without rights, and what was there before and after."""
    user = 0 if request.param == "root" else os.geteuid() or NOBODY
    for place in make_place(user):
        base = place.base
        debris = base.with_name(f"debris-{base.name}")
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            filled = {"@tcp": str(tcp.getsockname()), "@udp": str(udp.getsockname()), "@project": str(PROJECT)}
            filled["@debris"] = str(debris)
            filled |= {f"@{name}": str(base / name) for name in ("submissions", "canary", "out", "home")}
            for name, case in CASES.items():
                text = notebook(case.cells)
                for mark, value in filled.items():
                    text = text.replace(mark, value)
                (base / "submissions" / f"{name}.ipynb").write_text(text)
            (base / "submissions" / "in a folder").mkdir()
            (base / "submissions" / "in a folder" / f"{LAB}_any.ipynb").write_text(notebook(SOLUTION))
            (base / "submissions" / "in a folder" / "notes.ipynb").write_text("mine")
            write_strange(base / "submissions")
            (base / "canary" / "deeper").mkdir()
            for path in ("canary/one.txt", "canary/deeper/two.txt", "home/thesis.txt"):
                (base / path).write_text("kept")
            columns = ["name", *NAMES, "total", "seconds", "status", *(f"{name} message" for name in NAMES)]
            earlier = ["earlier", *("1" for _ in NAMES), str(len(NAMES)), "1.0", "ok", *("right" for _ in NAMES)]
            (base / "out" / "grades.csv").write_text("\n".join([",".join(columns), ",".join(earlier), ""]))
            if user:
                give(base, user)
            watched = [base / name for name in ("submissions", "canary", "home")]
            before = snapshot(*watched)
            process = place.start("--seconds", "1", "--memory", "0.4", "--jobs", "12")
            said, complained = process.communicate()
            found = {
                "before": before,
                "after": snapshot(*watched),
                "rows": place.rows(),
                "said": said,
                "user": user,
                "debris": debris,
            }
            found |= {"status": process.returncode, "complained": complained, "running": still_running(str(base))}
            found |= {"scratch": os.listdir(base / "scratch"), "out": os.listdir(base / "out")}
            tcp.setblocking(False)
            udp.setblocking(False)
            found["heard"] = []
            for listen in (tcp.accept, lambda: udp.recv(1)):
                with contextlib.suppress(BlockingIOError):
                    found["heard"].append(str(listen()))
        yield found


def test_the_worst_class_is_graded_in_one_run(worst: dict[str, Any]) -> None:
    """Nothing outside the scratch folders changed, nothing is left, nothing was heard from the network."""
    assert (worst["status"], worst["complained"]) == (0, "")
    assert worst["after"] == worst["before"]
    assert (worst["scratch"], worst["out"], worst["running"], worst["heard"]) == ([], ["grades.csv"], [], [])
    assert not worst["debris"].exists()
    assert worst["rows"]["earlier"]["total"] == str(len(NAMES))
    names = {*CASES, *STRANGE, "in a folder", "earlier", "'=1+1"} - {"=1+1"}
    assert {*worst["rows"]} == names
    assert worst["rows"]["in a folder"]["total"] == worst["rows"]["'=1+1"]["total"] == str(WHOLE)


@pytest.mark.parametrize("name", CASES)
def test_every_submission_gets_what_it_earned(worst: dict[str, Any], name: str) -> None:
    row = worst["rows"].get(name) or worst["rows"][f"'{name}"]
    case = CASES[name]
    assert re.fullmatch(case.status, row["status"]), row["status"]
    assert row["total"] == str(case.points)
    assert sum(int(row[each]) for each in NAMES) == case.points


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_a_notebook_is_said(worst: dict[str, Any], name: str) -> None:
    row = worst["rows"][name]
    assert row["total"] == "0"
    assert re.fullmatch(STRANGE[name], row["status"]), row


def test_each_layer_says_what_it_refuses(worst: dict[str, Any]) -> None:
    """The other user is there for root alone; Landlock is there where the kernel says so."""
    said = dict(line.split(": ", 1) for line in worst["said"].splitlines()[:4])
    assert tuple(said) == confinement.LAYERS
    assert ("refuses writing" in said["other user"]) == (worst["user"] == 0)
    version = confinement.libc.syscall(444, None, 0, 1)
    assert ("refuses writing" in said["Landlock"]) == (version >= 1)
    assert ("TCP" in said["Landlock"]) == (version >= 4)
    assert "modes of files" not in said["Landlock"]
    assert said["audit hook"] == "refuses writing, modes of files, TCP, UDP, signals"


def test_without_a_layer_nothing_is_refused() -> None:
    """The attempts by which a layer is judged do succeed without it."""
    lines = f"""
import sys
sys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / "course")!r}]
import confinement
from pathlib import Path
limits = confinement.Limits(9, 2**30, (), [], [Path({str(PROJECT / "mvtec_ad" / "course")!r})])
print(confinement.refused_by(limits, 64000))
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture
def place() -> Iterator[Place]:
    yield from make_place(os.geteuid())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on(place: Place, number: int) -> None:
    """What was graded stays, and is not graded again; nobody runs on."""
    folder = place.base / "submissions"
    (folder / "a.ipynb").write_text(notebook(SOLUTION))
    (folder / "b.ipynb").write_text(notebook(["import time\ntime.sleep(99)"]))
    with place.start("--jobs", "1") as process:
        while not process.stdout.readline().startswith("a: "):
            assert process.poll() is None
        process.send_signal(number)
        process.wait()
        assert process.returncode == (130 if number == signal.SIGINT else -9)
    for _ in range(500):  # those whose parent was killed follow it
        if not still_running(str(place.base)):
            break
        time.sleep(0.01)
    assert not still_running(str(place.base))
    assert {name: row["total"] for name, row in place.rows().items()} == {"a": str(WHOLE)}
    for name in "ab":
        (folder / f"{name}.ipynb").write_text(notebook([]))
    with place.start("--resume") as process:
        assert process.wait() == 0
    assert {name: row["total"] for name, row in place.rows().items()} == {"a": str(WHOLE), "b": "0"}
    with place.start() as process:
        assert process.wait() == 0
    assert {name: row["total"] for name, row in place.rows().items()} == {"a": "0", "b": "0"}


BAD = {  # command line -> what is said
    f"nowhere --lab {LAB}": "nowhere is no folder",
    ". --lab 77": "no lab '77'",
    ". --lab 2": "no lab '2'",
    ". --lab ../..": "no lab '../..'",
    ".": "--lab",
    f". --lab {LAB} --seconds 0": "--seconds 0.0",
    f". --lab {LAB} --seconds nan": "--seconds nan",
    f". --lab {LAB} --memory much": "much",
    f". --lab {LAB} --jobs -1": "--jobs -1",
    f". --lab {LAB} --out missing/grades.csv": "missing/grades.csv cannot be written",
    f". --lab {LAB} --out .": "cannot be written",
    f". --lab {LAB} --out other.csv": "other.csv holds no grades of this lab",
    f". --lab {LAB} --out binary": "binary holds no grades of this lab",
}
EACH = f"""
import contextlib, io, json, sys
sys.path.insert(0, {str(PROJECT / "course")!r})
import grade
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = grade.main(words.split())
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text(other := "name,01.other,total\na,1,1\n")
    (tmp_path / "binary").write_bytes(b"\xff\x00\xfe")
    command = [sys.executable, "-c", EACH, json.dumps(list(BAD))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for said, line in zip(BAD.values(), done.stdout.splitlines(), strict=True):
        status, out, complaint = json.loads(line)
        assert (status, out, complaint.count("\n")) == (2, "", 1), complaint
        assert said in complaint
    assert (tmp_path / "other.csv").read_text() == other


def test_where_nothing_confines_it_asks_for_trust(tmp_path: Path) -> None:
    """And says what native code could do."""
    (tmp_path / "a.ipynb").write_text(notebook(SOLUTION))
    lines = EACH.replace("import grade\n", "import grade\ngrade.confinement.LAYERS = ('audit hook',)\n")
    command = [sys.executable, "-c", lines, json.dumps([f". --lab {LAB}", f". --lab {LAB} --trust"])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (refused, _, complaint), (status, said, _) = map(json.loads, done.stdout.splitlines())
    assert (refused, status) == (2, 0)
    assert "--trust" in complaint
    assert "native code could get past the audit hook to writing, modes of files, TCP, UDP, signals" in said
    assert f"a: {WHOLE} of {len(NAMES)}, ok" in said


# --- what passes to the judge -----------------------------------------------------------------------------------------


def examined_over_there(name: str, answer: Any) -> exercises.Verdict:
    """The verdict on an answer that is on the other end of the line."""
    ends = socket.socketpair()
    student, judge = (
        submission.Wire(end.fileno(), is_judge) for end, is_judge in zip(ends, (False, True), strict=True)
    )
    asking = threading.Thread(target=lambda: student.ask(check=name, answer=student.encode(answer)))
    asking.start()
    verdict = exercises.examine(name, judge.decode(judge.receive()["answer"]))
    judge.send(done=True)
    asking.join()
    for end in ends:
        end.close()
    return verdict


@cache
def planted() -> dict[str, list]:
    """All wrong answers of the labs."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("wrong_*.py"))
    return {name: answers for module in names for name, answers in importlib.import_module(module).WRONG.items()}


@pytest.mark.parametrize("name", [name for name in planted() if name[:2] in ("02", "05")])
def test_a_wrong_answer_is_told_the_same_over_the_line(name: str) -> None:
    for answer, words in planted()[name]:
        verdict = examined_over_there(name, answer)
        assert not verdict.right
        assert words in verdict.message


@pytest.mark.parametrize("lab", SOURCES)
def test_the_solution_of_every_lab_passes_over_the_line(lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[exercises.Verdict] = []

    def check(name: str, answer: Any) -> exercises.Verdict:
        found.append(examined_over_there(name, answer))
        return found[-1]

    monkeypatch.setattr(course, "check", check)
    space = {"display": lambda *shown: None}
    for text in code_of(lab, True):
        exec(compile(text, lab, "exec"), space) if text != "# <setup>" else None
    plt.close("all")
    assert {verdict.name for verdict in found} == {name for name in course.EXERCISES if name.startswith(f"{lab}.")}
    assert [verdict for verdict in found if not verdict.right] == []


def test_a_whole_lab_is_graded(place: Place) -> None:
    lab = max(SOURCES)
    (place.base / "submissions" / "a.ipynb").write_text(notebook(code_of(lab, True)))
    (place.base / "submissions" / "b.ipynb").write_text(notebook(code_of(lab, False)))
    with place.start("--lab", lab) as process:
        assert process.wait() == 0
    points = str(sum(name.startswith(f"{lab}.") for name in course.EXERCISES))
    found = {name: (row["total"], row["status"]) for name, row in place.rows().items()}
    assert found == {"a": (points, "ok"), "b": ("0", "ok")}


def test_functions_are_called_across_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With arrays, options and functions of the judge; changes in place and exceptions come back."""
    monkeypatch.setattr(exercises, "EXERCISES", dict(exercises.EXERCISES))
    monkeypatch.setattr(exercises, "RESULTS", {})
    wrong = (lambda f, x: x, exercises.say("this is x"))
    cases = [(np.square, np.array([1.0, 2.0])), (lambda x: x + 1, np.array([3.0]))]
    exercises.implement("99.twice", lambda f, x: f(f(x)), cases, [wrong])

    def in_place(f: Any, x: np.ndarray) -> np.ndarray:
        x += 1
        return x

    for answer, words in (
        (lambda f, x: f(f(x)), "right"),
        (lambda f, x: list(f(f(x))), "right"),
        (lambda f, x: f(x), "example 1 of the check [ 1., 16.] is expected, yours gives [1., 4.]"),
        (lambda f, x: x, "this is x"),
        (in_place, "in place"),
        (lambda f, x: f("no"), "it raises"),
        (lambda f, x: sys.exit(3), "it raises SystemExit: 3"),
        (lambda f, x: object(), "it raises TypeError: object is no answer"),
        (lambda f, x: None, "returns nothing yet"),
        (..., "nothing is here yet"),
        (3, "function itself"),
    ):
        assert words in examined_over_there("99.twice", answer).message


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, -0.5, "text", "", [], (), {}, [1, (2, "x"), {"a": {3}}], {1: 2}, {(1, 2): [3]}, float("inf")),
        *(
            np.arange(6).reshape(2, 3),
            np.zeros((0, 2)),
            np.array(["a", "bc"]),
            np.float32(2.5),
            1 + 2j,
            np.array([True]),
        ),
        *(np.array([1.5, 2], dtype=">f4"), np.arange(12).reshape(3, 4)[:, ::2].T, np.datetime64("2020-01-02")),
    ],
    ids=repr,
)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    wire = submission.Wire(0, is_judge=True)
    found = wire.decode(json.loads(json.dumps(wire.encode(value))))
    np.testing.assert_equal(found, value)
    if isinstance(value, np.ndarray):
        assert (found.dtype, found.flags.writeable) == (value.dtype, True)
    elif not isinstance(value, complex):
        assert type(found) is type(value)


@pytest.mark.parametrize(
    "content",
    [
        *(
            {"array": ["O", [1], "AAAAAAAAAAA="]},
            {"array": ["V8", [1], "AAAAAAAAAAA="]},
            {"array": ["f8", [2], "AAAA"]},
        ),
        *(
            {"array": ["f8,O", [1], ""]},
            {"array": ["f8", [-1, -1], "AAAAAAAAAAA="]},
            {"pickle": "x"},
            {},
            {"a": 1, "b": 2},
        ),
        *({"function": "x"}, {"dict": [[{"object": []}, 1]]}, {"set": [{"dict": []}]}, {"array": 3}),
    ],
    ids=str,
)
def test_what_is_not_plain_is_refused(content: dict) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, IndexError)):
        submission.Wire(0, is_judge=True).decode(content)


def test_without_covers_a_folder_but_what_is_hidden(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).mkdir(parents=True)
    assert {*confinement.without(tmp_path, [tmp_path / "a" / "b"])} == {tmp_path / "a" / "d", tmp_path / "e"}
    assert confinement.without(tmp_path / "a", [tmp_path / "e"]) == [tmp_path / "a"]
    assert confinement.without(tmp_path, [tmp_path]) == []
