"""Installing the project on Colab leaves the libraries of the running kernel alone.

`oldest.txt` and `newest.txt` list what a runtime has installed. The requirements are resolved against them for that
runtime's Python and platform, from the metadata of wheels: nothing is built, no wheel is downloaded or installed.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE.parents[1] / "requirements.txt"
RUNTIMES = ["oldest", "newest"]
# A kernel that has imported one of these breaks when pip replaces it.
PROTECTED = ["numpy", "pandas", "torch", "tensorflow"]
# What not every runtime has, so that pip fetches its newest release there.
MISSING = ["captum", "jupyter", "umap-learn"]
# Colab runs on Ubuntu 22.04, that is glibc 2.35.
PLATFORM = "x86_64-manylinux_2_35"
# What uv reads where pip has a setting of its own.
SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "trusted-host": "UV_INSECURE_HOST"}


class ConflictError(Exception):
    """No set of versions satisfies the requirements and the constraints together."""


def read_requirements(path: Path) -> dict[str, Requirement]:
    """The requirements of a file, by normalised name."""
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def read_pins(path: Path) -> dict[str, Version]:
    """The exact versions of a constraint file, by normalised name."""
    pins = {}
    for name, requirement in read_requirements(path).items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{path.name}: {requirement} is no exact version"
        pins[name] = Version(specifier.version)
    return pins


def python_version(runtime: str) -> str:
    """The Python version that the first line of a constraint file names."""
    first = (HERE / f"{runtime}.txt").read_text(encoding="utf-8").partition("\n")[0]
    found = re.search(r"Python (3\.\d+)", first)
    assert found, f"{runtime}.txt: the first line names no Python version"
    return found[1]


def target(runtime: str) -> list[str]:
    """The arguments that let uv resolve for a runtime instead of this machine."""
    return ["--python-version", python_version(runtime), "--python-platform", PLATFORM]


def uv_environment() -> dict[str, str]:
    """This process's environment, with pip's index and certificate handed to uv, which does not read pip's settings.

    Additional indexes stay out: uv takes a name only from the first index that has it, and a partial mirror hides
    the version a runtime has.
    """
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False, timeout=60
    )
    for section in (":env:", "install", "global"):
        for key, variable in SETTINGS.items():
            found = re.search(rf"^{re.escape(section)}\.{key}=(.+)$", listed.stdout, flags=re.MULTILINE)
            if found:
                environment.setdefault(variable, " ".join(ast.literal_eval(found[1]).split()))
    return environment


@dataclass(frozen=True)
class Resolver:
    """uv, and the environment it runs in."""

    binary: str
    environment: dict[str, str]

    def run(self, *arguments: str, **streams: str) -> str:
        """What `uv pip compile` prints; skips where the package index cannot be reached, never for a conflict."""
        command = [self.binary, "pip", "compile", "--python", sys.executable, "--only-binary", ":all:"]
        command += ["--color", "never", "--no-header", "--no-annotate", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=300, env=self.environment, **streams
        )
        if "No solution found" in done.stderr:
            raise ConflictError(done.stderr)
        if "Failed to fetch" in done.stderr:
            cause = done.stderr.strip().splitlines()[-1].strip().removeprefix("cause: ")
            pytest.skip(f"the package index cannot be reached: {cause}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def resolve(self, runtime: str, requirements: Path) -> dict[str, Version]:
        """The version of everything an installation needs, beside what the runtime has."""
        constraints = ["--constraints", str(HERE / f"{runtime}.txt")]
        return read_versions(self.run(*target(runtime), *constraints, str(requirements)))

    def newest(self, runtime: str, requirements: Path) -> dict[str, Version]:
        """The newest release that each requirement allows on a runtime's Python, taken for itself."""
        return read_versions(self.run(*target(runtime), "--no-deps", str(requirements)))


@pytest.fixture(scope="module")
def resolver() -> Resolver:
    """A resolver that has just reached the package index; all tests that need one skip together."""
    module = pytest.importorskip("uv", reason="uv is missing: install the project with its dev extra")
    found = Resolver(module.find_uv_bin(), uv_environment())
    found.run("--refresh", "--no-deps", "-", input="captum")
    return found


def read_versions(text: str) -> dict[str, Version]:
    """The `name==version` lines of a resolution, by normalised name."""
    pairs = [line.split("==") for line in text.splitlines() if "==" in line]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def changed_requirements(tmp_path: Path, **specifiers: str) -> Path:
    """A copy of the requirements in which some libraries ask for something else."""
    requirements = read_requirements(REQUIREMENTS)
    assert specifiers.keys() <= requirements.keys()
    lines = [f"{name}{specifiers.get(name, requirement.specifier)}" for name, requirement in requirements.items()]
    path = tmp_path / "requirements.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtime_satisfies_every_requirement(runtime: str) -> None:
    requirements, pins = read_requirements(REQUIREMENTS), read_pins(HERE / f"{runtime}.txt")
    assert set(PROTECTED) <= pins.keys()
    too_old = [
        f"{requirement} (has {pins[name]})"
        for name, requirement in requirements.items()
        if name in pins and not requirement.specifier.contains(pins[name])
    ]
    assert not too_old, f"pip would replace a library of Colab's {runtime} runtime: {', '.join(too_old)}"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_installing_keeps_what_the_runtime_has(runtime: str, resolver: Resolver) -> None:
    pins = read_pins(HERE / f"{runtime}.txt")
    resolved = resolver.resolve(runtime, REQUIREMENTS)
    assert read_requirements(REQUIREMENTS).keys() <= resolved.keys()
    assert set(PROTECTED) <= resolved.keys()
    assert {name: resolved[name] for name in pins} == pins


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_newest_release_of_what_is_missing_fits(runtime: str, resolver: Resolver) -> None:
    """pip tries the newest release of a missing library first, and replaces numpy rather than take an older one."""
    resolved = resolver.resolve(runtime, REQUIREMENTS)
    newest = resolver.newest(runtime, REQUIREMENTS)
    older = {name: f"{resolved[name]} instead of {newest[name]}" for name in MISSING if resolved[name] != newest[name]}
    assert not older


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_raised_floor_is_a_conflict(runtime: str, tmp_path: Path, resolver: Resolver) -> None:
    with pytest.raises(ConflictError, match=r"numpy>=2\.5"):
        resolver.resolve(runtime, changed_requirements(tmp_path, numpy=">=2.5"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_library_that_caps_numpy_is_a_conflict(runtime: str, tmp_path: Path, resolver: Resolver) -> None:
    with pytest.raises(ConflictError, match=r"captum==0\.8\.0 depends on numpy"):
        resolver.resolve(runtime, changed_requirements(tmp_path, captum="==0.8.0"))
