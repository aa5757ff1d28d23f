"""What a notebook reads and does not find is made, in order, or left out with a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mvtec_ad import artifacts, profile, stages
from mvtec_ad.artifacts import PRODUCED_BY
from mvtec_ad.config import Profile
from mvtec_ad.errors import DataError
from mvtec_ad.notebooks import READS
from mvtec_ad.stages import STAGES, Inputs, Stage, need

ABOUT = {"data_source": "own", "categories": ["part"], "options": {}, "seed": 0}
QUICK = profile("quick")


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Instead of the true ones: (stage, what it was given) of each that was made, in order."""
    made: list[tuple[str, list[str]]] = []

    def maker(stage: str) -> Stage:
        def make(run: Profile, inputs: Inputs) -> Path:
            made.append((stage, sorted(inputs)))
            return artifacts.save(stage, {}, profile=run.name, **ABOUT)

        return Stage(STAGES[stage].needs, 1, 2, make)

    monkeypatch.setattr(stages, "STAGES", {stage: maker(stage) for stage in STAGES})
    return made


def test_missing_stages_are_made_once_each_after_what_they_need(
    makers: list, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two stages want the same data; nothing is made twice, also not by the next notebook."""
    at_hand = need(QUICK, "models", "contrastive")
    assert list(at_hand) == ["models", "contrastive"]
    assert [stage for stage, _ in makers] == ["data", "packages", "models", "padim", "contrastive"]
    assert all(set(STAGES[stage].needs) <= set(given) for stage, given in makers)
    assert "contrastive.zip is not here and is made now, about 1 s on 2 CPU cores" in capsys.readouterr().out
    need(QUICK, "contrastive", "models", "data")
    assert len(makers) == 5


def test_optional_stages_are_taken_and_never_made(makers: list, capsys: pytest.CaptureFixture[str]) -> None:
    """Each that is missing is named, with the notebook that makes it."""
    assert list(need(QUICK, "data", optional=("gan", "inspection"))) == ["data"]
    printed = capsys.readouterr().out
    assert "gan.zip is not here and is left out: notebooks/07b_anogan.ipynb makes it" in printed
    assert "inspection.zip is not here and is left out: notebooks/08_inspection_pipeline.ipynb makes it" in printed
    artifacts.save("inspection", {}, profile="quick", **ABOUT)
    assert list(need(QUICK, "data", optional=("gan", "inspection"))) == ["data", "inspection"]


@pytest.mark.parametrize("stage", ["data", "padim"])
def test_what_cannot_be_made_is_left_out_unless_it_is_the_images(
    stage: str, makers: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without images no notebook can go on; without one method's models it can."""

    def fail(run: Profile, inputs: Inputs) -> Path:
        raise DataError("part has one image")

    monkeypatch.setitem(stages.STAGES, stage, Stage(STAGES[stage].needs, 1, 2, fail))
    if stage == "data":
        with pytest.raises(DataError, match="part has one image"):
            need(QUICK, "data", "padim")
        return
    at_hand = need(QUICK, "data", "padim", "contrastive")
    assert at_hand["padim"] is None
    assert at_hand["data"]
    assert at_hand["contrastive"]  # which fits PaDiM itself, where it can
    assert capsys.readouterr().out.count(".zip is left out: part has one image") == 1


def test_products_that_the_data_lack_are_named(makers: list, capsys: pytest.CaptureFixture[str]) -> None:
    """`full` wants seven, and three may be on the disk."""
    need(profile("quick", "part screw bottle"), "data")
    assert "bottle, screw: left out, for data.zip has no images of them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "source", "said"), [("full", "synthetic", True), ("full", "own", False), ("quick", "synthetic", False)]
)
def test_full_says_loudly_that_its_products_are_synthetic(
    name: str, source: str, said: bool, makers: list, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asked for real ones; quick never has any."""
    artifacts.save("data", {}, profile=name, **ABOUT | {"data_source": source})
    need(profile(name), "data")
    assert ("the products are DRAWN" in capsys.readouterr().out) == said


def test_every_stage_that_a_notebook_reads_can_be_made_or_is_optional() -> None:
    """The graph of the stages is that of the notebooks; what one names outside of `optional` has a line here."""
    for source in (Path(__file__).parents[1] / "notebooks" / "source").glob("*.py"):
        for call in re.findall(r"need\(([^)]*)", source.read_text(encoding="utf-8")):
            assert set(re.findall(r'"(\w+)"', call.partition("optional")[0])) <= set(STAGES), source
    for stage, how in STAGES.items():
        number = PRODUCED_BY[stage].partition("_")[0]
        assert {PRODUCED_BY[name].partition("_")[0] for name in how.needs} <= set(READS.get(number, "").split()) | {
            number
        }
        assert set(how.needs) <= set(STAGES)
    assert set(STAGES) < set(PRODUCED_BY)
