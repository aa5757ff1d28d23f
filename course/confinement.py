"""A process that runs a stranger's code and touches nothing but a scratch folder: Linux, four layers, each optional.

* namespaces: all mounts are read-only but a small scratch of its own; no network, no processes but its own.
* Landlock: writes in the scratch folder only, no reading of what is hidden. It does not govern modes of files, nor UDP.
* other user: where root grades, a user without a name.
* audit hook: Python's own calls are refused; native code passes it by.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

LAYERS = ("namespaces", "Landlock", "other user", "audit hook")
DISK = 2**28  # bytes in a scratch folder
THREADS = 64  # threads and processes
libc = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
SET_DIES_WITH_PARENT, SET_DUMPABLE, KEEP_CAPABILITIES, ADOPT_ORPHANS, NO_NEW_PRIVILEGES = 1, 4, 8, 36, 38


class Limits(NamedTuple):
    """What a confined process gets."""

    seconds: float
    memory: int
    layers: Collection[str]
    readable: Collection[Path]  # beside Python and the system, where Landlock is
    hidden: Collection[Path]  # less these


def must(result: int) -> int:
    """The result of a system call; what it refused is an OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def without(root: Path, hidden: Iterable[Path]) -> list[Path]:
    """Folders and files that cover a folder, less some of what is in it."""
    inside = [path for path in hidden if path.is_relative_to(root)]
    if not inside or root in inside:
        return [] if inside else [root]
    return [part for child in root.iterdir() if not child.is_symlink() for part in without(child, inside)]


def landlock(scratch: Path, limits: Limits) -> None:
    """Restrict this process: it writes in a folder, and reads what Python and the system need."""
    version = must(libc.syscall(444, None, 0, 1))
    # All that can be done to files but to list and to run them; renaming since 2, truncating since 3, devices since 5.
    files = 0x1FF6 | 0x2000 * (version >= 2) | 0x4000 * (version >= 3) | 0x8000 * (version >= 5)
    attributes = (ctypes.c_uint64 * 3)(files, 3, 3)  # and TCP since 4, signals and abstract sockets since 6
    rules = must(libc.syscall(444, attributes, 8 + 8 * (version >= 4) + 8 * (version >= 6), 0))
    roots = {"/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys", "/dev", sys.prefix, sys.base_prefix}
    roots |= {*sysconfig.get_paths().values(), str(Path(np.__file__).parents[1]), *map(str, limits.readable)}
    read, write, truncate = 4, 2, files & 0x4000
    allowed = {
        path: read for root in roots if os.path.exists(root) for path in without(Path(root).resolve(), limits.hidden)
    }
    for path, access in {**allowed, Path("/dev/null"): read | write | truncate, scratch: files}.items():
        descriptor = os.open(path, os.O_PATH)
        rule = access.to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
        must(libc.syscall(445, rules, 1, rule, 0))
        os.close(descriptor)
    must(libc.syscall(446, rules, 0))


ONE = ("remove", "rmdir", "mkdir", "chmod", "chown", "truncate", "utime", "setxattr", "removexattr")
PATHS = {
    "open": 1,
    "shutil.rmtree": 1,
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    **{f"os.{name}": 1 for name in ONE},
}
REFUSED = re.compile(
    r"os\.(system|exec|posix_spawn|spawn|kill|killpg)|subprocess\.Popen|pty\.spawn|socket\.(connect|bind|send|get).*"
)


def audit(scratch: str) -> Callable[[str, tuple], None]:
    """A hook that refuses what Python itself does outside a folder."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def hook(event: str, arguments: tuple) -> None:
        if REFUSED.fullmatch(event):
            raise PermissionError(f"{event} is refused to a submission")
        if event == "open" and not (arguments[2] or 0) & writing:
            return
        for path in arguments[: PATHS.get(event, 0)]:
            place = scratch if path is None or isinstance(path, int) else os.path.realpath(os.fsdecode(path))
            if place != "/dev/null" and not f"{place}/".startswith(f"{scratch}/"):
                raise PermissionError(f"{event} outside the scratch folder is refused to a submission")

    return hook


def only_a_mount_of_its_own(scratch: Path, user: int | None) -> None:
    """Make all mounts read-only, and the scratch folder a new one in memory, of limited size."""
    must(libc.unshare(NEW_MOUNTS | NEW_IPC | NEW_NETWORK))
    read_only_and_private = (ctypes.c_uint64 * 4)(1, 0, 1 << 18, 0)
    must(libc.syscall(442, -100, b"/", 0x8000, read_only_and_private, 32))  # mount_setattr, with all below
    options = f"size={DISK},nr_inodes=10000,mode=700" + (f",uid={user},gid={user}" if user is not None else "")
    must(libc.mount(b"scratch", os.fsencode(scratch), b"tmpfs", 6, options.encode()))


def become(user: int) -> None:
    """Change to a user; where Python lies in a folder of root's, the right to read stays, which Landlock bounds."""
    folders = [folder for file in (os.__file__, np.__file__) for folder in Path(file).resolve().parents]
    closed = any(not folder.stat().st_mode & 1 for folder in folders)
    libc.prctl(KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    drop_capabilities(but=4 if closed else 0)


def drop_capabilities(but: int = 0) -> None:
    must(libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(but, but)))


def spawn(limits: Limits, scratch: Path, user: int, work: Callable[[], None]) -> int:
    """The process that does some work confined. Called once by a process: it cannot fork others afterwards."""
    own, group, root, changes = os.getuid(), os.getgid(), os.getuid() == 0, "other user" in limits.layers
    if changes:
        os.chown(scratch, user, user)
    if "namespaces" in limits.layers:
        must(libc.unshare(NEW_PROCESSES | (0 if root else NEW_USER)))
        maps = {"setgroups": "deny", "uid_map": f"{own} {own} 1", "gid_map": f"{group} {group} 1"}
        for name, text in {} if root else maps.items():
            Path(f"/proc/self/{name}").write_text(text)
    if process := os.fork():
        return process
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.setsid()
        os.nice(10)  # who watches it comes first
        os.umask(0o077)
        if "namespaces" in limits.layers:
            only_a_mount_of_its_own(scratch, user if changes else None)
        os.chdir(scratch)
        libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if "Landlock" in limits.layers:
            landlock(scratch, limits)
        if changes:
            become(user)
        elif limits.layers:
            drop_capabilities()
        libc.prctl(SET_DUMPABLE, 1, 0, 0, 0)  # its /proc/self stays its own
        libc.prctl(SET_DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        # DATA is what it allocates; AS leaves room for libraries. For NPROC all counts that the user runs, but what is
        # outside a namespace of users; twice as much may start as may stay, so that who watches sees it.
        alone = changes or "namespaces" in limits.layers
        others = [] if alone else [one for pid, one in processes().items() if owner(pid) == own]
        threads = sum(one.threads for one in others) + 2 * THREADS
        most = {"CPU": math.ceil(limits.seconds) + 1, "DATA": limits.memory, "AS": limits.memory + 2**33}
        for name, limit in {**most, "FSIZE": DISK, "CORE": 0, "NOFILE": 256, "NPROC": threads}.items():
            hard = resource.getrlimit(number := getattr(resource, f"RLIMIT_{name}"))[1]
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(number, (limit, limit))
        if "audit hook" in limits.layers:
            sys.addaudithook(audit(str(scratch)))
        work()
    finally:
        os._exit(1)


def refused_by(limits: Limits, user: int) -> list[str]:
    """What these layers refuse on this machine, tried out; nothing where Python does not work in them."""
    outside, scratch = (Path(tempfile.mkdtemp(prefix="grade-")).resolve() for _ in range(2))
    (outside / "kept").write_text("kept")
    grader, (read, write) = os.getpid(), os.pipe()

    def attempts() -> None:
        (scratch / "own").write_text("own")
        compile((Path(os.__file__).parent / "this.py").read_text(), "a file of Python", "exec")
        found = []
        for name, attempt in {
            "writing": lambda: (outside / "kept").write_text("lost"),
            "modes of files": lambda: os.chmod(outside / "kept", 0o777),
            "TCP": lambda: socket.create_connection(listener.getsockname(), timeout=1).close(),
            "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", listener.getsockname()),
            "signals": lambda: os.kill(grader, 0),
            "reading what is hidden": lambda: (
                os.listdir(limits.hidden[0]) and next(limits.hidden[0].glob("*.py")).read_text()
            ),
        }.items():
            try:
                attempt()
            except OSError:
                found.append(name)
        os.write(write, json.dumps(found).encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        if not (helper := os.fork()):
            try:
                os.waitpid(spawn(limits, scratch, user, attempts), 0)
            finally:
                os._exit(0)
        os.waitpid(helper, 0)
    os.close(write)
    with open(read, encoding="utf-8") as lines:
        found = json.loads(lines.read() or "[]")
    for folder in (outside, scratch):
        shutil.rmtree(folder)
    return found


def layers_held(limits: Limits, user: int) -> list[str]:
    """The layers that keep a file outside the scratch folder as it is, after each has said what it refuses."""
    refused = {name: refused_by(limits._replace(layers=[name]), user) for name in LAYERS}
    for name, things in refused.items():
        print(f"{name}: {'refuses ' + ', '.join(things) if things else 'not on this machine'}")
    native = {thing for name in refused for thing in refused[name] if name != "audit hook"}
    if left := [thing for thing in refused["audit hook"] if thing not in native]:
        print(f"attention: native code could get past the audit hook to {', '.join(left)}")
    sys.stdout.flush()
    return [name for name, things in refused.items() if "writing" in things]


# --- seen from outside ------------------------------------------------------------------------------------------------


def die_with(parent: int) -> None:
    """End this process when its parent ends, or now where that is over."""
    libc.prctl(SET_DIES_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class Process(NamedTuple):
    """A running process: its parent, its threads, its memory in bytes, its seconds of computing."""

    parent: int
    threads: int
    memory: int
    seconds: float


def processes() -> dict[int, Process]:
    """All processes that /proc shows."""
    found = {}
    page, ticks = resource.getpagesize(), os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            seconds = sum(map(int, fields[11:15])) / ticks
            found[int(path.parts[2])] = Process(int(fields[1]), int(fields[17]), int(fields[21]) * page, seconds)
    return found


def owner(process: int) -> int:
    """The user of a process; -1 where it ended."""
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{process}").st_uid
    return -1


def descendants(skip: Collection[int] = ()) -> dict[int, Process]:
    """Children of this process but some, theirs, and so on."""
    known, found = processes(), [os.getpid()]
    for parent in found:
        found += [pid for pid, one in known.items() if one.parent == parent and pid not in skip]
    return {pid: known[pid] for pid in found[1:]}


def end_all(skip: Collection[int] = ()) -> None:
    """Kill what descends from this process, until nothing is left that could fork."""
    while left := descendants(skip):
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)


def occupied(scratch: Path) -> int:
    """Bytes below a folder; raises OSError where a folder in it is closed to the reader."""

    def closed(problem: OSError) -> None:
        if not isinstance(problem, FileNotFoundError):
            raise problem

    total = 0
    for folder, inner, files in os.walk(scratch, onerror=closed):
        for name in inner + files:
            with contextlib.suppress(OSError):
                total += 4096 + 512 * os.lstat(os.path.join(folder, name)).st_blocks
    return total


def exceeded(limits: Limits, scratch: Path) -> str:
    """What the descendants of this process have too much of; "" where they keep to their limits."""
    family = descendants().values()
    if sum(one.seconds for one in family) > limits.seconds:
        return "timed out"
    if sum(one.memory for one in family) > limits.memory:
        return "out of memory"
    if sum(one.threads for one in family) > THREADS:
        return "too many processes"
    try:
        return "too much on the disk" if occupied(scratch) > DISK else ""
    except OSError:
        return "hides files from the grader"


def remove(scratch: Path) -> None:
    """Remove a folder, whatever is in it: folders closed to their owner, or deeper than Python climbs."""
    for command in (["chmod", "-R", "u+rwX", "--"], ["rm", "-rf", "--"]):
        subprocess.run([*command, str(scratch)], stderr=subprocess.DEVNULL)
