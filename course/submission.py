"""A submission: its notebook on disk, how that runs confined, and the line by which plain answers reach the judge."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import sys
import tempfile
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import mvtec_ad  # not mvtec_ad.course: nothing of the checks is in the memory of a submission
from mvtec_ad.errors import SettingsError

LONGEST = 2**25  # bytes of a notebook, and of a message
PLAIN = "biufcmMSU"  # kinds of arrays that are numbers, dates or texts


class Stop(BaseException):
    """The submission ends here, its points so far stay. A check's `except Exception` does not hold it up."""


def notebook_of(place: Path, lab: str) -> bytes:
    """The notebook of a submission, which may be any kind of thing on disk."""
    try:
        if place.is_dir() and not place.is_symlink():
            inside = sorted(place.glob("*.ipynb"))
            fitting = [path for path in inside if path.name.startswith(f"{lab}_")] or inside
            if len(fitting) != 1:
                raise Stop(f"{len(fitting) or 'no'} notebooks in the folder")
            place = fitting[0]
        if place.suffix != ".ipynb":
            raise Stop("not a notebook")
        with open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Stop("not a notebook")
            if len(content := file.read(LONGEST + 1)) > LONGEST:
                raise Stop(f"larger than {LONGEST >> 20} MiB")
            return content
    except OSError as problem:
        raise Stop(f"a link, or cannot be read: {problem.strerror}") from None


class Wire:
    """One end of the line: sends values as JSON, and serves functions of its side to the other one."""

    def __init__(self, descriptor: int, is_judge: bool) -> None:
        self.descriptor, self.is_judge, self.functions = descriptor, is_judge, []

    def encode(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if value is ...:
            return {"dots": None}
        if isinstance(value, (list, tuple, set, range)):
            return {
                next(kind.__name__ for kind in (tuple, set, object) if isinstance(value, kind)): [
                    *map(self.encode, value)
                ]
            }
        if isinstance(value, dict):
            return {"dict": [[self.encode(key), self.encode(item)] for key, item in value.items()]}
        if isinstance(value, np.random.Generator):
            return {"generator": value.bit_generator.state}
        if callable(value) and not hasattr(value, "__array__"):
            self.functions.append(value)
            return {"function": len(self.functions) - 1}
        array = np.asarray(value)
        if array.dtype.kind in PLAIN:
            return {"array": [array.dtype.str, array.shape, base64.b64encode(array.tobytes()).decode()]}
        if array.dtype.kind == "O" and array.ndim:
            return self.encode(array.tolist())
        raise TypeError(f"{type(value).__name__} is no answer: give numbers, texts, arrays, containers or a function")

    def decode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "array":
            dtype = np.dtype(content[0])
            if dtype.kind not in PLAIN:
                raise ValueError(f"{dtype}: plain data only")
            return np.frombuffer(base64.b64decode(content[2]), dtype).reshape(content[1]).copy()[()]
        if kind == "generator":
            generator = np.random.Generator(np.random.PCG64())
            generator.bit_generator.state = content
            return generator
        if kind == "function":
            return self.called_over_there(int(content))
        if kind == "dict":
            return {self.decode(key): self.decode(item) for key, item in content}
        kinds: dict[str, Callable[[Any], Any]] = {
            "dots": lambda nothing: ...,
            "tuple": tuple,
            "set": set,
            "object": list,
        }
        return kinds[kind](map(self.decode, content or ()))

    def called_over_there(self, index: int) -> Callable[..., Any]:
        """A function of the other side; what it does to its arguments in place is done here, too."""

        def function(*arguments: Any, **options: Any) -> Any:
            reply = self.ask(call=index, arguments=[*map(self.encode, arguments)], options=self.encode(options))
            if "raised" in reply:
                kind, text = map(str, reply["raised"])
                raise type(kind[:80], (Exception,), {})(text[:500])
            for mine, theirs in zip(arguments, map(self.decode, reply["arguments"]), strict=True):
                if self.is_judge and isinstance(mine, np.random.Generator):
                    mine.bit_generator.state = theirs.bit_generator.state
                elif self.is_judge and isinstance(mine, (np.ndarray, list)) and np.ndim(mine):
                    mine[:] = theirs
            return self.decode(reply["result"])

        return function

    def send(self, **message: Any) -> None:
        data = json.dumps(message).encode()
        if len(data) > LONGEST:
            raise TypeError(f"an answer of {len(data)} bytes is too long")
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(self.descriptor, data) :]

    def read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            found += (part := os.read(self.descriptor, min(size - len(found), 2**20)))
            if not part:
                raise Stop("ended early")
        return found

    def receive(self) -> dict[str, Any]:
        size = int.from_bytes(self.read(4), "big")
        try:
            message = json.loads(self.read(size)) if size <= LONGEST else None
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise Stop("wrote something of its own to the judge")
        return message

    def ask(self, **message: Any) -> dict[str, Any]:
        """The reply to a message; functions that the other side calls meanwhile are served."""
        self.send(**message)
        while "call" in (reply := self.receive()):
            try:
                arguments, options = [*map(self.decode, reply["arguments"])], self.decode(reply["options"])
                with np.errstate(all="ignore"):
                    result = self.encode(self.functions[int(reply["call"])](*arguments, **options))
                answer = {
                    "result": result,
                    "arguments": [None if callable(one) else self.encode(one) for one in arguments],
                }
            except Stop:
                raise
            except BaseException as problem:  # sys.exit in a function, too
                answer = {"raised": [type(problem).__name__, str(problem)]}
            self.send(**answer)
        return reply


class Answered(NamedTuple):
    """What the judge replied."""

    name: str
    right: bool
    message: str

    def __repr__(self) -> str:
        return f"{'✓' if self.right else '✗'} {self.name}: {self.message}"


def compiled(text: str, name: str) -> types.CodeType:
    """Code of a cell; where it is no Python, without its lines for IPython alone, `%matplotlib` and `!pip`."""
    try:
        return compile(text, name, "exec")
    except SyntaxError:
        text = "" if text.startswith("%%") else re.sub(r"^([ \t]*)[%!].*", r"\1pass", text, flags=re.M)
        return compile(text, name, "exec")


def run_cells(notebook: bytes, descriptor: int, scratch: Path) -> None:
    """Run a student's cells, confined; ends the process."""
    nothing = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.dup2(descriptor, 3)
    os.closerange(4, 2**16)
    kept = {name: value for name, value in os.environ.items() if "_THREADS" in name}
    os.environ.clear()
    os.environ |= dict.fromkeys(("HOME", "TMPDIR", "MVTEC_AD_HOME", "MPLCONFIGDIR"), str(scratch))
    os.environ |= {"PATH": "/usr/bin:/bin", "USER": "student", "MPLBACKEND": "Agg", **kept}
    tempfile.tempdir, sys.argv, sys.dont_write_bytecode = str(scratch), [""], True
    wire, one_at_a_time = Wire(3, is_judge=False), threading.RLock()
    wire.ask(ready=True)  # the judge lives: from here on this process dies with it

    def check(name: str, answer: Any) -> Answered:
        with one_at_a_time:
            reply = wire.ask(check=str(name), answer=wire.encode(answer))
        if "unknown" in reply:
            raise SettingsError(reply["unknown"])
        return Answered(str(name), reply["right"], reply["message"])

    course = mvtec_ad.course = sys.modules["mvtec_ad.course"] = types.ModuleType("mvtec_ad.course")
    course.check, course.summary = check, lambda lab: "the grader counts"
    space = sys.modules["__main__"] = types.ModuleType("__main__")
    space.display = lambda *shown: None
    try:
        cells = ["".join(cell["source"]) for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        wire.send(end="not a notebook")
        os._exit(0)
    fault = ""
    for number, text in enumerate(cells, start=1):
        try:
            exec(compiled(text, f"cell {number}"), vars(space))
        except BaseException as problem:  # sys.exit, too
            found = "out of memory" if isinstance(problem, MemoryError) else f"{type(problem).__name__}: {problem}"
            fault = fault or f"code cell {number}: {found}"
    wire.send(end=fault[:500] or "ok")
    os._exit(0)
