"""Killed while it writes: the old artifact or the new one is there, whole, and the next run sweeps up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mvtec_ad import artifacts

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed as POSIX does it")

KILLS = 50
SIZE = 250_000  # float64 values: 2 MB an array

# Imports once, then forks a writer for each line it reads; a writer saves version after version until it is killed.
NURSERY = f"""
import itertools, os, sys
import numpy as np
from mvtec_ad import artifacts

def write_for_ever(path):
    print(os.getpid(), flush=True)
    for version in itertools.count(1):
        arrays = {{"version": np.full({SIZE}, float(version))}}
        artifacts.save("padim", {{"a.npz": arrays, "b.npz": arrays}}, profile="quick", data_source="own",
                      categories=[], options={{}}, seed=version, path=path)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            write_for_ever(line.strip())
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


def save(path: Path, version: int) -> Path:
    """One version of the artifact, as the writers make it."""
    arrays = {"version": np.full(SIZE, float(version))}
    about = {"profile": "quick", "data_source": "own", "categories": [], "options": {}, "seed": version}
    return artifacts.save("padim", {"a.npz": arrays, "b.npz": arrays}, path=path, **about)


@pytest.fixture
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The process that forks writers."""
    command = [sys.executable, "-c", NURSERY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()
        process.wait()


def test_fifty_kills_leave_a_whole_artifact(tmp_path: Path, nursery: subprocess.Popen[str]) -> None:
    """At random moments; every member of what is found is of one version, and none older than what was there."""
    path = tmp_path / "padim.zip"
    begun = time.perf_counter()
    save(path, 0)
    longest = max(0.06, 3 * (time.perf_counter() - begun))  # a few saves, however slow the machine is
    moments = random.Random(0)
    whole, replaced, interrupted = 0, 0, 0
    for _ in range(KILLS):
        print(path, file=nursery.stdin, flush=True)
        writer = int(nursery.stdout.readline())
        time.sleep(moments.uniform(0, longest))
        os.kill(writer, signal.SIGKILL)
        assert nursery.stdout.readline() == "ended\n"

        artifact = artifacts.load(path)
        version = artifact.manifest["seed"]
        for name in ("a.npz", "b.npz"):
            values = artifact.arrays(name)["version"]
            assert values.shape == (SIZE,)
            assert (values == version).all()
        whole += 1
        replaced += version > 0
        leftovers = [other for other in tmp_path.iterdir() if other != path]
        assert [str(writer) in leftover.name for leftover in leftovers] in ([], [True])
        interrupted += len(leftovers)
        save(path, 0)
        assert list(tmp_path.iterdir()) == [path]
    assert whole == KILLS
    assert replaced > 0, "no writer lived long enough to save once: the kills prove nothing"
    assert interrupted > 0, "no writer was killed while it wrote: the kills prove nothing"


def leftover(path: Path, process: int | str) -> Path:
    """A temporary file as a process of this number on this host would leave it."""
    with artifacts.atomic_write(path) as file:
        own = Path(file.name)
    made = own.with_name(own.name.replace(f".{os.getpid()}.", f".{process}."))
    assert made != own
    made.write_bytes(b"half")
    return made


def test_only_what_ended_processes_left_is_removed(tmp_path: Path, nursery: subprocess.Popen[str]) -> None:
    """Not what a living process or another host writes, not another artifact's, not what a user called .tmp."""
    path = tmp_path / "padim.zip"
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    dead = leftover(path, ended.pid)
    kept = [
        leftover(path, nursery.pid),
        leftover(path, "mine"),
        leftover(path, 10**30),
        leftover(tmp_path / "other.zip", ended.pid),
        dead.with_name(f".padim.zip.another-host.{ended.pid}.tmp"),
        tmp_path / "padim.zip.tmp",
    ]
    kept[-2].write_bytes(b"half")
    kept[-1].write_bytes(b"mine")
    save(path, 1)
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "other.zip", *kept])
