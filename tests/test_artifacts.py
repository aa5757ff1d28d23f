"""Artifacts: what is written comes back, and nothing damaged, foreign or half-written is taken for one."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mvtec_ad import artifacts
from mvtec_ad.artifacts import PRODUCED_BY, SCHEMA, Artifact, atomic_write
from mvtec_ad.errors import ArtifactError

TABLE = pd.DataFrame({"image_id": ["part/good/000", "part/patch/001"], "score": [0.1, 1 / 3], "note": ["", "NA"]})
ARRAYS = {"maps": np.arange(12, dtype=np.float16).reshape(3, 2, 2), "labels": np.array([0, 1, 1])}
WEIGHTS = {"layer.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3).T}
FILES: dict[str, Any] = {
    "scores.csv": TABLE,
    "maps.npz": ARRAYS,
    "part/padim/0/model.safetensors": WEIGHTS,
    "part/padim/0/model.json": {"scale": 0.1, "seeds": [1, 2]},
    "figure.png": b"\x89PNG pixels",
    "page.html": b"<p>page</p>",
    "network.weights.h5": b"\x89HDF weights",
}


def save(path: Path | None = None, files: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Save an artifact whose other properties do not matter."""
    about = {"profile": "quick", "data_source": "own", "categories": ["part"], "options": {"channels": 3}, "seed": 0}
    return artifacts.save("padim", FILES if files is None else files, path=path, **(about | changes))


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None], *, sign: bool = False) -> None:
    """Change the members of a zip behind the manifest's back, or, when asked to sign, with it.

    Args:
        path: the zip.
        change: gets all members, the manifest among them, and changes them in place.
        sign: write the manifest's hashes anew.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    if sign:
        manifest = json.loads(members["manifest.json"])
        manifest["members"] = {
            name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != "manifest.json"
        }
        members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest of a zip; a change that returns something replaces it."""

    def edit(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        changed = change(manifest)
        members["manifest.json"] = json.dumps(manifest if changed is None else changed).encode()

    rewrite(path, edit)


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """The message, which must be one line."""
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_kind_of_member_comes_back(tmp_path: Path) -> None:
    """Tables, arrays with their types, weights, settings, bytes and copied files."""
    (tmp_path / "copied.png").write_bytes(b"copied pixels")
    artifact = artifacts.load(save(tmp_path / "a.zip", {**FILES, "more/copied.png": tmp_path / "copied.png"}))
    assert artifact.names == sorted([*FILES, "more/copied.png"])
    pd.testing.assert_frame_equal(artifact.table("scores.csv"), TABLE)
    for name, arrays in (("maps.npz", ARRAYS), ("part/padim/0/model.safetensors", WEIGHTS)):
        found = artifact.arrays(name)
        assert set(found) == set(arrays)
        for key, array in arrays.items():
            assert found[key].dtype == array.dtype
            np.testing.assert_array_equal(found[key], array)
    assert artifact.json("part/padim/0/model.json") == FILES["part/padim/0/model.json"]
    for name in ("figure.png", "page.html", "network.weights.h5"):
        assert artifact.read(name) == FILES[name]
    assert artifact.read("more/copied.png") == b"copied pixels"
    artifact.extract(tmp_path / "out")
    assert (tmp_path / "out" / "more" / "copied.png").read_bytes() == b"copied pixels"
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_manifest_says_how_it_was_made(tmp_path: Path) -> None:
    """All that the design promises, with true hashes; where no path is given, in the transfer folder."""
    data = artifacts.load(save(tmp_path / "data.zip"))
    path = save(seed=(0, 1), metrics={"image_auroc": 0.9}, inputs=[data])
    assert path == artifacts.load("padim").path == tmp_path / "transfer" / "padim.zip"
    manifest = artifacts.load(path).manifest
    assert manifest["schema"] == SCHEMA
    assert (manifest["stage"], manifest["profile"], manifest["data_source"]) == ("padim", "quick", "own")
    assert (manifest["categories"], manifest["options"], manifest["seed"]) == (["part"], {"channels": 3}, [0, 1])
    assert manifest["metrics"] == {"image_auroc": 0.9}
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["created_utc"].endswith("+00:00")
    assert {"git_commit", "device"} <= set(manifest)
    (made_from,) = manifest["inputs"]
    assert made_from == {"name": "data.zip", "sha256": data.sha256}
    assert manifest["members"]["figure.png"] == hashlib.sha256(FILES["figure.png"]).hexdigest()


def test_the_same_content_is_the_same_artifact_whenever_it_was_written(tmp_path: Path) -> None:
    """What is made again from the same images fits what was made of them; one other byte or source, and it does not."""
    first = artifacts.load(save(tmp_path / "data.zip", metrics={"a": 1}))
    again = artifacts.load(save(tmp_path / "again.zip", dict(reversed(FILES.items())), metrics={"a": 2}))
    other = artifacts.load(save(tmp_path / "other.zip", FILES | {"figure.png": b"another"}))
    assert first.path.read_bytes() != again.path.read_bytes()
    elsewhere = artifacts.load(save(tmp_path / "elsewhere.zip", data_source="synthetic"))
    assert first.sha256 == again.sha256
    assert len({first.sha256, other.sha256, elsewhere.sha256}) == 3


def test_the_commit_says_when_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure made with changes that nobody else has must not name a commit that does not hold them."""
    package = tmp_path / "mvtec_ad"
    package.mkdir(parents=True)
    (package / "artifacts.py").write_text("first\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "why"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(artifacts, "__file__", str(package / "artifacts.py"))
    assert artifacts.git_commit() == head
    (package / "artifacts.py").write_text("second\n")
    assert artifacts.git_commit() == f"{head}-dirty"


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    """Members carry no date of their own."""
    first = save(tmp_path / "first.zip")
    second = save(tmp_path / "second.zip")
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        for name in FILES:
            assert one.read(name) == other.read(name)
            assert one.getinfo(name).date_time == other.getinfo(name).date_time
    with zipfile.ZipFile(io.BytesIO(artifacts.npz_bytes(ARRAYS))) as inner:
        assert {info.date_time for info in inner.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_missing_artifact_names_the_notebook_that_makes_it(project: Path, tmp_path: Path) -> None:
    """The way out is in the message, and it is one; no notebook makes a file of one's own."""
    for stage, notebook in PRODUCED_BY.items():
        with pytest.raises(ArtifactError, match=f"{stage}.zip is missing: run notebooks/{notebook}.ipynb") as caught:
            artifacts.load(stage)
        one_line(caught)
        assert (project / "notebooks" / "source" / f"{notebook}.py").is_file()
    with pytest.raises(ArtifactError, match=r"mine.zip is missing: check the path"):
        artifacts.load(tmp_path / "mine.zip")


TAMPERED: dict[str, tuple[Callable[[dict[str, bytes]], Any], bool, str]] = {
    "changed": (
        lambda members: members.update({"scores.csv": b"image_id,score\n"}),
        False,
        "not match its SHA.*copy it again",
    ),
    "missing": (lambda members: members.pop("maps.npz"), False, "disagree about maps.npz"),
    "long name": (lambda members: members.update({"n" * 10_000 + ".csv": b""}), True, "has no name of ours"),
    "two lines": (lambda members: members.update({"a\nb.csv": b""}), True, "has no name of ours"),
    "many": (lambda members: members.update({f"{n}.csv": b"" for n in range(10_000)}), True, "1000[0-9] members"),
    "extra": (lambda members: members.update({"more.csv": b"x"}), False, "disagree about more.csv"),
    "escaping": (lambda members: members.update({"../evil.csv": b"x"}), True, "leaves the folder.*do not trust"),
    "absolute": (lambda members: members.update({"/tmp/evil.csv": b"x"}), True, "leaves the folder.*do not trust"),
    "drive": (lambda members: members.update({"C:/evil.csv": b"x"}), True, "leaves the folder.*do not trust"),
    "backslash": (lambda members: members.update({"..\\evil.csv": b"x"}), True, "leaves the folder.*do not trust"),
    "torch": (lambda members: members.update({"model.pth": b"x"}), True, "may hold code.*do not trust"),
    "numpy": (lambda members: members.update({"objects.npy": b"x"}), True, "may hold code.*do not trust"),
    "no manifest": (lambda members: members.pop("manifest.json"), False, "damaged"),
    "not JSON": (lambda members: members.update({"manifest.json": b"{"}), False, "damaged"),
    "foreign": (lambda members: members.update({"manifest.json": b"[]"}), False, "none of ours"),
}


@pytest.mark.parametrize(("change", "sign", "words"), TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_artifact_is_refused(
    tmp_path: Path, change: Callable[[dict[str, bytes]], Any], sign: bool, words: str
) -> None:
    """The message names the artifact and the member."""
    path = save(tmp_path / "a.zip")
    rewrite(path, lambda members: None, sign=True)  # rewriting alone is no harm
    assert artifacts.load(path).read("figure.png") == FILES["figure.png"]
    rewrite(path, change, sign=sign)
    with pytest.raises(ArtifactError, match=words) as caught:
        artifacts.load(path)
    assert str(path) in one_line(caught)


def test_a_repeated_member_is_refused(tmp_path: Path) -> None:
    """Which of two equal names is read depends on the reader."""
    path = save(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("figure.png", FILES["figure.png"])
    with pytest.raises(ArtifactError, match="a repeated name"):
        artifacts.load(path)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "older": (lambda manifest: manifest.update(schema=1), "was made by an earlier version of the package: make it"),
    "newer": (lambda manifest: manifest.update(schema=SCHEMA + 1), "update the package"),
    "schema in words": (lambda manifest: manifest.update(schema="two"), "make it again"),
    "no members": (lambda manifest: manifest.pop("members") and None, "again"),
    "members as a list": (lambda manifest: manifest.update(members=list(manifest["members"])), "again"),
    "no profile": (lambda manifest: manifest.pop("profile") and None, "again"),
    "no device": (lambda manifest: manifest.pop("device") and None, "none of ours"),
    "options as a list": (lambda manifest: manifest.update(options=[]), "none of ours"),
    "another date": (lambda manifest: manifest.update(created_utc=2026), "none of ours"),
}


@pytest.mark.parametrize(("change", "words"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_cannot_be_used_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    """As an ArtifactError in one line, whatever is wrong with it."""
    path = save(tmp_path / "a.zip")
    edit_manifest(path, change)
    with pytest.raises(ArtifactError, match=words) as caught:
        artifacts.load(path, profile="quick")
    one_line(caught)


def test_no_damage_goes_unnoticed(tmp_path: Path) -> None:
    """A copy that broke off is refused; wherever a byte is flipped: an ArtifactError, or the very same content."""
    path = save(tmp_path / "a.zip", {name: FILES[name] for name in ("scores.csv", "maps.npz", "figure.png")})
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        expected = {name: archive.read(name) for name in archive.namelist()}
    for share in (0.0, 0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ArtifactError, match="damaged"):
            artifacts.load(path)
    noticed = 0
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            artifact = artifacts.load(path)
        except ArtifactError:
            noticed += 1
            continue
        assert {name: artifact.read(name) for name in artifact.names} | {
            "manifest.json": expected["manifest.json"]
        } == expected
    assert noticed > len(whole) / 3 / 2


def test_another_profile_data_source_or_file_is_refused_in_words(tmp_path: Path) -> None:
    """Unless the reader says it does not matter; and what an artifact does not hold is named beside what it does."""
    path = save(tmp_path / "a.zip")
    known = {"profile": "quick", "data_source": "own"}
    for key, wanted in (("profile", "full"), ("data_source", "mvtec_ad")):
        with pytest.raises(ArtifactError, match=f"'{known[key]}', this run uses '{wanted}'.*OTHER_PROFILE") as caught:
            artifacts.load(path, **(known | {key: wanted}))
        assert f"{key.replace('_', ' ')} '" in one_line(caught)
        assert artifacts.load(path, **(known | {key: None})).path == path
    with pytest.raises(ArtifactError, match=r"no member maps\.csv: it holds figure\.png"):
        artifacts.load(path, **known).table("maps.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.pkl", b"x"), ("model.pth", b"x"), ("script.py", b"x"), ("figure.png", [1, 2]), ("page.html", "text")],
)
def test_what_an_artifact_may_not_hold_is_refused_when_written(tmp_path: Path, name: str, content: Any) -> None:
    """And the older artifact of that name stays."""
    path = save(tmp_path / "a.zip")
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match=f"member {name}"):
        save(path, {"scores.csv": TABLE, name: content})
    with pytest.raises(ArtifactError, match=r"member figure\.png: .*nowhere\.png cannot be read"):
        save(path, {"figure.png": tmp_path / "nowhere.png"})  # that file's problem, not the artifact's
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_objects_are_neither_pickled_nor_unpickled(tmp_path: Path) -> None:
    """numpy would pickle an object array into a .npz; one that came in with a hash that fits is no plain array."""
    with pytest.raises(ValueError, match="allow_pickle"):
        save(tmp_path / "a.zip", {"objects.npz": {"names": np.array(["a", None], object)}})
    assert list(tmp_path.iterdir()) == []
    objects = io.BytesIO()
    np.savez(objects, names=np.array(["a", None], object))
    files = {"objects.npz": objects.getvalue(), "weights.safetensors": b"no tensors"}
    artifact = artifacts.load(save(tmp_path / "a.zip", files))
    for name in files:
        with pytest.raises(ArtifactError, match=f"{name} holds no plain arrays.*make it again") as caught:
            artifact.arrays(name)
        one_line(caught)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    """In a table they come back as the bytes they are; a member of a zip has no such name."""
    table = pd.DataFrame({"image_id": ["part/a\udcff"]})
    loaded = artifacts.load(save(tmp_path / "a.zip", {"scores.csv": table}))
    assert loaded.table("scores.csv")["image_id"].tolist() == ["part/a\udcff"]
    with pytest.raises(ArtifactError, match="no UTF-8, which a zip needs: rename the file"):
        save(tmp_path / "b.zip", {"a\udcff.png": b""})
    assert not (tmp_path / "b.zip").exists()


@pytest.mark.parametrize("use", [lambda one, folder: one.read("scores.csv"), lambda one, folder: one.extract(folder)])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: save(path, {**FILES, "scores.csv": TABLE.head(1)}), "scores.csv does not match its SHA-256"),
        (lambda path: save(path, {"other.csv": TABLE}), "damaged"),
        (lambda path: path.write_bytes(b"no zip"), "damaged"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
)
def test_an_artifact_that_changed_since_it_was_loaded_is_refused(
    tmp_path: Path, use: Callable[[Artifact, Path], Any], change: Callable[[Path], Any], words: str
) -> None:
    """A notebook may hold on to it while another run writes a new one."""
    artifact = artifacts.load(save(tmp_path / "a.zip"))
    change(artifact.path)
    with pytest.raises(ArtifactError, match=words) as caught:
        use(artifact, tmp_path / "out")
    one_line(caught)
    assert not (tmp_path / "out" / "scores.csv").exists()


FAILURES = {
    "full disk": ("os.fsync", OSError(errno.ENOSPC, "No space left on device"), ArtifactError, "No space left"),
    "read-only folder": ("os.replace", PermissionError(errno.EACCES, "Permission denied"), ArtifactError, "Permission"),
    "read-only file": ("mvtec_ad.artifacts.open", PermissionError(errno.EACCES, "No"), ArtifactError, "written"),
    "killed while flushing": ("os.fsync", KeyboardInterrupt(), KeyboardInterrupt, None),
    "killed before renaming": ("os.replace", KeyboardInterrupt(), KeyboardInterrupt, None),
}


@pytest.mark.parametrize(("function", "problem", "expected", "words"), FAILURES.values(), ids=FAILURES)
def test_a_failed_write_leaves_the_old_artifact_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    problem: BaseException,
    expected: type[BaseException],
    words: str | None,
) -> None:
    """And no temporary file behind."""
    path = save(tmp_path / "a.zip")
    before = path.read_bytes()

    def fail(*arguments: Any) -> None:
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(function, fail, raising=False)
        with pytest.raises(expected, match=words) as caught:
            save(path, {"scores.csv": TABLE})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    if expected is ArtifactError:
        assert f"{path} cannot be written" in one_line(caught)
        assert "the old one is kept" in str(caught.value)


@pytest.mark.parametrize("numbers", [600, 100_000], ids=["less than a buffer", "in the middle of a member"])
def test_a_disk_that_fills_up_while_writing_leaves_the_old_artifact_whole(tmp_path: Path, numbers: int) -> None:
    """A true failing write."""
    resource = pytest.importorskip("resource")
    path = save(tmp_path / "a.zip")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(ArtifactError, match="cannot be written") as caught:
            save(path, {"maps.npz": {"maps": np.zeros(numbers)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(caught)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def fail_while_writing(path: Path, problem: BaseException) -> None:
    """Begin to write a file, and raise."""
    with atomic_write(path) as file:
        file.write(b"half")
        raise problem


PASSED_ON = {
    "another file": FileNotFoundError(errno.ENOENT, "No such file or directory", "weights.h5"),
    "another file, whose disk is full": OSError(errno.ENOSPC, "No space left on device", "elsewhere.png"),
    "not about room": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "no number": OSError("odd"),
    "of the body": ValueError("mine"),
    "killed": KeyboardInterrupt(),
}


@pytest.mark.parametrize("problem", PASSED_ON.values(), ids=PASSED_ON)
def test_what_is_not_about_the_file_that_is_written_passes_unchanged(tmp_path: Path, problem: BaseException) -> None:
    """Who looks for `weights.h5` must not be told to make room for `a.bin`; the old file stays."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(problem)) as caught:
        fail_while_writing(path, problem)
    assert caught.value is problem
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", [b"old", None])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_no_room_becomes_one_line(tmp_path: Path, number: int, old: bytes | None) -> None:
    """As `file.write` raises it, without a name."""
    path = tmp_path / "deep" / "a.bin"
    if old:
        path.parent.mkdir()
        path.write_bytes(old)
    with pytest.raises(ArtifactError, match=r"a\.bin cannot be written \(no room\): make room or") as caught:
        fail_while_writing(path, OSError(number, "no room"))
    assert ("the old one is kept" in one_line(caught)) == bool(old)
    assert [one.read_bytes() for one in path.parent.iterdir()] == ([old] if old else [])


def test_a_write_takes_the_place_of_the_old_file_at_its_end(tmp_path: Path) -> None:
    """Not before; folders are made, unless one of them is a file (`--out notes.txt/padim.zip`)."""
    path = tmp_path / "deep" / "er" / "a.bin"
    for content, before in ((b"first", None), (b"second", b"first")):
        with atomic_write(path) as file:
            file.write(content)
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]
    with pytest.raises(ArtifactError, match="cannot be written"):
        save(path / "padim.zip")
    assert path.read_bytes() == b"second"


def test_outside_colab_the_place_of_an_artifact_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing is asked for."""
    artifacts.download(save(tmp_path / "a.zip"))
    assert "a.zip" in capsys.readouterr().out
    assert artifacts.upload() == []


@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_that_would_unpack_to_far_more_than_it_is_is_refused(tmp_path: Path, packed: int) -> None:
    """Before anything is unpacked; the same inside of a .npz."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", packed) as archive:
        archive.writestr("scores.csv", bytes(30_000_000))
    with pytest.raises(ArtifactError, match="would unpack to 30000000"):
        artifacts.load(tmp_path / "bomb.zip")
    inner = io.BytesIO()
    np.savez_compressed(inner, maps=np.zeros(30_000_000, np.uint8))
    artifact = artifacts.load(save(tmp_path / "inner.zip", {"maps.npz": inner.getvalue()}))
    with pytest.raises(ArtifactError, match=r"maps\.npz holds no plain arrays \(its"):
        artifact.arrays("maps.npz")


ODD_FILES: dict[str, tuple[bytes, str]] = {
    "nan.csv": (b"image_id,score\na,nan\n", "score must be finite numbers"),
    "inf.csv": (b"image_id,score\na,inf\n", "score must be finite numbers"),
    "text.csv": (b"image_id,score\na,high\n", "score must be finite numbers"),
    "lacking.csv": (b"image_id\na\n", "it lacks score"),
    "ragged.csv": (b'image_id,score\na,1\nb,"2\n', "holds no table"),
    "empty.csv": (b"", "holds no table"),
    "list.json": (b"[1]", "it is \\[1\\], not an object"),
    "nan.json": (b'{"a": NaN}', r"it\['a'\] is nan, not a finite number"),
    "huge.json": (b'{"a": 1' + b"0" * 400 + b"}", "not a finite number"),
    "true.json": (b'{"a": true}', "is True, not a finite number"),
    "deep.json": (b"[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("name", ODD_FILES)
def test_a_signed_file_of_another_shape_is_refused_where_it_is_read(tmp_path: Path, name: str) -> None:
    """A hash says that the file is what was written, not that it makes sense."""
    content, words = ODD_FILES[name]
    artifact = artifacts.load(save(tmp_path / "odd.zip", {name: content}))
    with pytest.raises(ArtifactError, match=words) as caught:
        artifact.table(name, {"image_id": str, "score": float}) if name.endswith("csv") else artifact.json(
            name, dict[str, float]
        )
    assert name in one_line(caught)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1j, "text"])
@pytest.mark.parametrize("name", ["state.npz", "state.safetensors"])
def test_arrays_that_hold_what_is_no_number_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    """But for training curves, where a part that was not measured has none."""
    if name.endswith(".safetensors") and not isinstance(value, float):
        pytest.skip("numpy writes neither texts nor complex numbers into safetensors")
    artifact = artifacts.load(save(tmp_path / "odd.zip", {name: {"bank": np.array([value])}}))
    with pytest.raises(ArtifactError, match=r"holds no plain arrays.*bank"):
        artifact.arrays(name)
    curve = artifacts.load(save(tmp_path / "curve.zip", {name: {"curve.loss": np.array([np.nan])}}))
    assert np.isnan(curve.arrays(name)["curve.loss"]).all()


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    """Asking whether an older file lies there would fail as well."""
    with pytest.raises(ArtifactError, match="cannot be written"):
        artifacts.write_file(tmp_path / ("n" * 400), "text")
