"""What tests of drawn sets compare."""

import hashlib

import pytest


@pytest.fixture(scope="session")
def digests():
    """SHA-256 of every file below a folder, by its path there."""

    def digests(folder):
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return digests
