"""Artifacts to and from the browser: what is asked for, what arrives, and what becomes of a notebook then."""

from __future__ import annotations

from pathlib import Path

import pytest
from colab.stub import Colab

from mvtec_ad import artifacts, profile, stages
from mvtec_ad.errors import ArtifactError
from mvtec_ad.stages import Stage, need

ABOUT = {"data_source": "own", "categories": ["part"], "options": {}, "seed": 0}


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Colab:
    """A kernel of Colab in an empty /content, where nothing takes long to make."""
    content = tmp_path / "content"
    content.mkdir()
    monkeypatch.setenv("MVTEC_AD_HOME", str(content))

    def made(stage: str) -> Stage:
        return Stage(stages.STAGES[stage].needs, 1, 2, lambda run, _: saved(stage, run.name, "made here"))

    monkeypatch.setattr(stages, "STAGES", {stage: made(stage) for stage in stages.STAGES})
    colab = Colab(content)
    colab.install(monkeypatch)
    return colab


def saved(stage: str, name: str = "full", content: str = "uploaded", path: Path | None = None) -> Path:
    """An artifact that says where it is from."""
    return artifacts.save(stage, {"content.json": content}, profile=name, **ABOUT, path=path)


def packed(tmp_path: Path, stage: str, name: str = "full") -> bytes:
    """The bytes of an artifact that lies on the user's disk."""
    return saved(stage, name, path=tmp_path / "disk" / f"{stage}.zip").read_bytes()


def contents(at_hand: dict[str, artifacts.Artifact]) -> dict[str, str]:
    """Stage -> where it is from."""
    return {stage: artifact.json("content.json", str) for stage, artifact in at_hand.items()}


FULL = profile("full")


def test_everything_is_asked_for_in_one_dialog(
    colab: Colab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With names and sizes; what is chosen is taken, and the second of a name is the same artifact."""
    colab.choices.append({"data.zip": packed(tmp_path, "data"), "models (1).zip": packed(tmp_path, "models")})
    at_hand = need(FULL, "data", "models", optional=("gan",))
    assert contents(at_hand) == {"data": "uploaded", "models": "uploaded"}
    printed = capsys.readouterr().out
    assert "data.zip (about 210 MB), models.zip (about 105 MB), gan.zip (about 35 MB)" in printed
    assert "gan.zip is not here and is left out: notebooks/07b_anogan.ipynb makes it" in printed
    assert [name for name, *_ in colab.log] == ["upload"]
    assert sorted(path.name for path in colab.folder.iterdir()) == ["transfer"]


def test_packages_are_as_large_however_many_products_there_are(
    colab: Colab, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their size is said once, the images' by product."""
    colab.choices.append(None)
    need(profile("full", "bottle screw"), "data", "packages")
    once, each = stages.MEGABYTES["packages"], 2 * stages.MEGABYTES["data"]
    assert f"data.zip (about {each} MB), packages.zip (about {once} MB)" in capsys.readouterr().out


def test_what_lies_there_is_not_asked_for(colab: Colab, tmp_path: Path) -> None:
    """A notebook that is run again opens no dialog."""
    saved("data")
    assert contents(need(FULL, "data")) == {"data": "uploaded"}
    assert colab.log == []


def test_whoever_cancels_gets_it_made(colab: Colab, capsys: pytest.CaptureFixture[str]) -> None:
    """Across two missing stages, in order."""
    colab.choices.append(None)
    assert contents(need(FULL, "contrastive")) == {"contrastive": "made here"}
    lines = [line for line in capsys.readouterr().out.splitlines() if "is made now" in line]
    assert [line.partition(".zip")[0] for line in lines] == ["data", "padim", "contrastive"]
    assert "about 2 minutes for seven products, estimated for a T4" in lines[-1]


def test_quick_asks_for_nothing(colab: Colab) -> None:
    """It is made sooner than it is uploaded."""
    assert contents(need(profile("quick"), "padim")) == {"padim": "made here"}
    assert colab.log == []


@pytest.mark.parametrize("kind", ["truncated", "empty zip", "other profile"])
def test_an_upload_that_is_no_use_is_named_removed_and_asked_for_again(kind: str, colab: Colab, tmp_path: Path) -> None:
    """The message says what arrived."""
    whole = packed(tmp_path, "data")
    wrong = {"truncated": whole[:200], "empty zip": b"PK\x05\x06" + bytes(18)}
    wrong["other profile"] = packed(tmp_path, "data", "quick")
    colab.choices += [{"data.zip": wrong[kind]}, {"data.zip": whole}]
    with pytest.raises(ArtifactError, match=rf"data\.zip {len(wrong[kind]):,} bytes were received, and removed again"):
        need(FULL, "data")
    assert not stages.path_of("data").exists()
    assert contents(need(FULL, "data")) == {"data": "uploaded"}


def test_an_artifact_of_another_profile_is_taken_where_that_is_asked_for(colab: Colab, tmp_path: Path) -> None:
    """Uploaded, or from an earlier run."""
    saved("data", "quick")
    with pytest.raises(ArtifactError, match="was made with profile 'quick', this run uses 'full'"):
        need(FULL, "data")
    colab.choices.append({"padim.zip": packed(tmp_path, "padim", "quick")})
    at_hand = need(FULL, "data", "padim", other_profile=True)
    assert contents(at_hand) == {"data": "uploaded", "padim": "uploaded"}


def test_what_was_not_asked_for_is_named(colab: Colab, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be meant for another cell, as raw-data.zip is."""
    colab.choices.append({"raw-data.zip": b"images"})
    assert contents(need(FULL, "data")) == {"data": "made here"}
    assert "raw-data.zip was not asked for, and lies in transfer/" in capsys.readouterr().out
    assert (colab.folder / "transfer" / "raw-data.zip").read_bytes() == b"images"


def test_other_files_in_the_working_folder_stay(colab: Colab, tmp_path: Path) -> None:
    """Colab's own copy of an upload goes, whatever number it got; a file of the user's stays."""
    (colab.folder / "data.zip").write_bytes(b"somebody else's")
    colab.choices.append({"data.zip": packed(tmp_path, "data")})
    assert contents(need(FULL, "data")) == {"data": "uploaded"}
    assert {path.name for path in colab.folder.iterdir()} == {"data.zip", "transfer"}
    assert (colab.folder / "data.zip").read_bytes() == b"somebody else's"


def test_every_upload_that_is_no_use_is_removed(colab: Colab, tmp_path: Path) -> None:
    """Two at once: otherwise the second would lie there, and stop every further run."""
    whole = {f"{stage}.zip": packed(tmp_path, stage) for stage in ("data", "packages", "padim")}
    colab.choices.append(whole | {"data.zip": whole["data.zip"][:100], "padim.zip": whole["padim.zip"][:100]})
    with pytest.raises(ArtifactError, match=r"of data\.zip 100 bytes.*; of padim\.zip 100 bytes"):
        need(FULL, "data", "packages", "padim")
    assert [path.name for path in (colab.folder / "transfer").glob("*.zip")] == ["packages.zip"]


def test_an_upload_takes_the_place_of_nothing(colab: Colab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of what took hours to make, nor of a file that arrived meanwhile, nor of one of the same name."""
    saved("padim", content="trained for hours")
    data = packed(tmp_path, "data")
    colab.choices.append(
        {"padim.zip": b"old", "data.zip": data, "data (1).zip": b"the second", "MVTec (2021).zip": b"x"}
    )
    asking = colab.upload

    def drag_meanwhile() -> dict[str, bytes]:
        (colab.folder / "dragged.zip").write_bytes(b"dragged")
        return asking()

    artifacts.sys.modules["google.colab"].files.upload = drag_meanwhile
    assert contents(need(FULL, "data", "padim")) == {"data": "uploaded", "padim": "trained for hours"}
    assert (colab.folder / "transfer" / "MVTec (2021).zip").read_bytes() == b"x"
    assert sorted(path.name for path in colab.folder.iterdir()) == ["dragged.zip", "transfer"]
    printed = capsys.readouterr().out
    assert "padim.zip is not taken, for transfer/padim.zip is there: remove that one first" in printed
    assert "data (1).zip is not taken, for transfer/data.zip is there" in printed


def test_downloads_reach_the_browser(colab: Colab) -> None:
    """Under their own names."""
    path = saved("data")
    artifacts.download(path)
    assert colab.downloads == {"data.zip": path.read_bytes()}
