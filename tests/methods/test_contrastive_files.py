"""The file that keeps a typer: the same embeddings and verdicts, to the bit; what is damaged is one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mvtec_ad import artifacts
from mvtec_ad.errors import ArtifactError, MvtecAdError
from mvtec_ad.methods import contrastive
from mvtec_ad.methods.contrastive import DefectTyper, Regions, fitting
from mvtec_ad.settings import TypingSettings

SMALL = TypingSettings(weights="drawn", side=0.5, image_size=32, copies=2, steps=2, batch=6, projection=8, neighbours=2)
KEEP = {"profile": "custom", "data_source": "rendered", "categories": ["part"], "options": {}, "seed": 0}
TYPES = ["dent", "burn", "cut"] * 2
IDS = [f"part/test/{name}/{number:03d}" for number, name in enumerate(TYPES)]


def pictures(seed: int = 0) -> tuple[np.ndarray, Regions]:
    """Six of them, and where to look."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (6, 64, 64, 3), np.uint8), Regions(rng.uniform(0.2, 0.8, (6, 2)), 0.5)


def fitted(settings: TypingSettings = SMALL, types: list[str] = TYPES, seed: int = 0) -> DefectTyper:
    """On them."""
    seen = fitting.views_of(settings, *pictures(), progress=False)
    return contrastive.fit(settings, seen, types, seed=seed, progress=False)


@pytest.fixture(scope="module")
def typer() -> DefectTyper:
    """With a limit that lies between the novelties of what is asked."""
    found = fitted()
    novelty = found.novelty(found.embed(*pictures(1)))
    return replace(found, limit=float(np.sort(novelty)[2]))


def saved(path: Path, *members: dict[str, Any]) -> artifacts.Artifact:
    """All of them in one artifact."""
    together = {name: content for some in members for name, content in some.items()}
    return artifacts.load(artifacts.save("contrastive", together, **KEEP, path=path))


def same(one: DefectTyper, other: DefectTyper) -> None:
    """New pictures have the same embeddings, novelty and names, to the bit."""
    first, second = one.embed(*pictures(1)), other.embed(*pictures(1))
    assert first.tobytes() == second.tobytes()
    assert one.novelty(first).tobytes() == other.novelty(second).tobytes()
    assert one.name(first).tolist() == other.name(second).tolist()
    assert one.embeddings.tobytes() == other.embeddings.tobytes()
    assert one.types.tolist() == other.types.tolist()
    assert one.prototypes.tobytes() == other.prototypes.tobytes()


def test_the_file_gives_the_same_typer(typer: DefectTyper, tmp_path: Path) -> None:
    """With its limit, its curve and what was measured; some are unknown to it and some are not."""
    artifact = saved(tmp_path / "typers.zip", contrastive.members(typer, "part", IDS, {"balanced_accuracy": 0.75}))
    assert contrastive.names(artifact) == [("part", "supcon")]
    again, description = contrastive.restore(artifact, "part")
    same(typer, again)
    said = again.name(again.embed(*pictures(1))).tolist()
    assert said.count("unknown") == 3
    assert again.limit == typer.limit
    assert (again.settings, again.seed, again.weights) == (typer.settings, 0, typer.weights)
    pd.testing.assert_frame_equal(again.curve, typer.curve, check_dtype=False)
    assert description["metrics"] == {"balanced_accuracy": 0.75}
    assert description["types"] == ["burn", "cut", "dent"]
    assert artifact.table("part/supcon/0/known.csv")["image_id"].tolist() == IDS
    np.testing.assert_array_equal(artifact.arrays("part/supcon/0/model.safetensors")["prototypes"], typer.prototypes)
    assert not any(module.training for module in again.encoder.modules())


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "random", "trained": "all"},
        {"trained": "layer2", "objective": "simclr"},
        {"look": "whole"},
        {"steps": 0},
    ],
    ids=str,
)
def test_every_kind_of_typer_can_be_kept(change: dict[str, Any], tmp_path: Path) -> None:
    """From scratch, with its own statistics; without a limit, or a step."""
    own = fitted(replace(SMALL, **change))
    artifact = saved(tmp_path / "typers.zip", contrastive.members(own, "part", IDS, {}))
    again, _ = contrastive.restore(artifact, "part", own.settings.objective)
    same(own, again)
    assert again.limit == np.inf
    assert list(again.curve.columns) == ["step", "loss"]
    assert len(again.curve) == own.settings.steps


def test_a_typer_with_a_new_type_can_be_kept(typer: DefectTyper, tmp_path: Path) -> None:
    """And taught another one."""
    more = typer.with_type("crack", typer.embed(*pictures(2))[:2])
    artifact = saved(tmp_path / "typers.zip", contrastive.members(more, "part", [*IDS, "new/0", "new/1"], {}))
    again, _ = contrastive.restore(artifact, "part")
    assert again.names == ["burn", "crack", "cut", "dent"]
    same(more, again)
    few = typer.embed(*pictures(3))[:1]
    same(more.with_type("zip", few), again.with_type("zip", few))


@pytest.mark.parametrize("names", [("01", "02", "10"), ("1e3", "nan", "None"), ("true", "a b", 'say "so", twice')])
def test_types_keep_their_names(names: tuple[str, str, str], tmp_path: Path) -> None:
    """Folders may be named by a number, or by what a table reader takes for nothing."""
    own = fitted(replace(SMALL, steps=0), list(names) * 2)
    again, _ = contrastive.restore(saved(tmp_path / "typers.zip", contrastive.members(own, "part", IDS, {})), "part")
    assert again.types.tolist() == list(names) * 2
    assert again.names == own.names
    same(own, again)


def test_several_typers_share_a_file(typer: DefectTyper, tmp_path: Path) -> None:
    """By category, objective and seed; without a seed the first one is taken."""
    other = fitted(replace(SMALL, objective="simclr"))
    second = fitted(replace(SMALL, steps=1), seed=1)
    artifact = saved(
        tmp_path / "typers.zip",
        contrastive.members(second, "part", IDS, {}),
        contrastive.members(typer, "part", IDS, {}),
        contrastive.members(other, "part", IDS, {}),
        contrastive.members(typer, "particle", IDS, {"own": 1}),
    )
    assert contrastive.names(artifact) == [("part", "simclr"), ("part", "supcon"), ("particle", "supcon")]
    same(contrastive.restore(artifact, "part")[0], typer)
    same(contrastive.restore(artifact, "part", seed=1)[0], second)
    same(contrastive.restore(artifact, "part", "simclr")[0], other)
    assert contrastive.restore(artifact, "particle")[1]["metrics"] == {"own": 1}


@pytest.mark.parametrize(
    ("category", "objective", "seed", "wanted"),
    [
        ("screw", "supcon", None, "screw/supcon"),
        ("par", "supcon", None, "par/supcon"),
        ("part", "simclr", None, "part/simclr"),
        ("part", "supcon", 7, "part/supcon/7"),
    ],
)
def test_a_missing_typer_is_named(
    category: str, objective: str, seed: int | None, wanted: str, typer: DefectTyper, tmp_path: Path
) -> None:
    """With what there is, in one line."""
    artifact = saved(tmp_path / "typers.zip", contrastive.members(typer, "part", IDS, {}))
    with pytest.raises(ArtifactError, match=f"typers.zip has no typer {wanted}: it holds part/supcon$") as problem:
        contrastive.restore(artifact, category, objective, seed)
    assert "\n" not in str(problem.value)
    nothing = saved(tmp_path / "other.zip", {"table.csv": pd.DataFrame({"a": [1]})})
    assert contrastive.names(nothing) == []
    with pytest.raises(ArtifactError, match="it holds none"):
        contrastive.restore(nothing, category, objective, seed)


FOLDER = "part/supcon/0"
Members = dict[str, Any]


def without(*keys: str) -> Callable[[Members], None]:
    """Tensors are missing."""

    def change(members: Members) -> None:
        for key in keys:
            del members[f"{FOLDER}/model.safetensors"][key]

    return change


def put(member: str, content: Any) -> Callable[[Members], None]:
    """A member is another one, or missing."""

    def change(members: Members) -> None:
        if content is None:
            del members[f"{FOLDER}/{member}"]
        else:
            members[f"{FOLDER}/{member}"] = content

    return change


def described(**values: Any) -> Callable[[Members], None]:
    """The description says something else; None takes a key away."""

    def change(members: Members) -> None:
        description = {**members[f"{FOLDER}/model.json"], **values}
        members[f"{FOLDER}/model.json"] = {key: own for key, own in description.items() if own is not None}

    return change


DAMAGE: dict[str, Callable[[Members], None]] = {
    "no tensors": put("model.safetensors", None),
    "tensors of another file": put("model.safetensors", b"no tensors"),
    "no embeddings": without("embeddings"),
    "a layer less": without("encoder.above.layer3.0.conv1.weight"),
    "no units": without("encoder.mean", "encoder.scale"),
    "no list of images": put("known.csv", None),
    "an image less": put("known.csv", pd.DataFrame({"image_id": IDS[:5], "defect": TYPES[:5]})),
    "no types": put("known.csv", pd.DataFrame({"image_id": IDS})),
    "an empty list": put("known.csv", b""),
    "no curve": put("curve.csv", None),
    "an empty curve": put("curve.csv", b""),
    "cut off": put("model.json", b'{"seed": 0, '),
    "a list": put("model.json", [1, 2]),
    "no bytes of text": put("model.json", b"\xff\xfe\x00"),
    "no seed": described(seed=None),
    "no settings": described(settings=None),
    "a word for settings": described(settings=3),
    "settings that cannot be": described(settings={"look": "box"}),
    "settings of another version": described(settings={"colour": 1}),
    "settings of another network": described(settings={"backbone": "resnet50"}),
    "no limit": lambda members: members[f"{FOLDER}/model.json"].pop("limit"),
    "a word for a limit": described(limit="high"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_typer_is_one_line(name: str, typer: DefectTyper, tmp_path: Path) -> None:
    """Whatever is missing or wrong: the artifact is named, and nothing half restored comes back."""
    members = contrastive.members(typer, "part", IDS, {})
    DAMAGE[name](members)
    broken = saved(tmp_path / "broken.zip", members)
    with pytest.raises(MvtecAdError if name.startswith("settings") else ArtifactError) as problem:
        contrastive.restore(broken, "part")
    assert "\n" not in str(problem.value)
    if not name.startswith("settings"):
        assert "broken.zip" in str(problem.value)


def test_embeddings_of_another_width_are_refused(typer: DefectTyper, tmp_path: Path) -> None:
    """They could not be compared with anything that the encoder says."""
    members = contrastive.members(typer, "part", IDS, {})
    members[f"{FOLDER}/model.safetensors"]["embeddings"] = typer.embeddings[:, :-1]
    with pytest.raises(ArtifactError) as problem:
        contrastive.restore(saved(tmp_path / "broken.zip", members), "part")
    assert "\n" not in str(problem.value)
