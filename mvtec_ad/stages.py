"""What a notebook reads: artifacts that lie in `transfer/`, are uploaded in Colab, or are made here and now.

A missing artifact is made by the very functions that the notebook of its name uses, in the order of the graph, with the
same options; what such a notebook shows beside it (other recipes, an atlas) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mvtec_ad import artifacts, benchmark, metrics
from mvtec_ad.artifacts import PRODUCED_BY, Artifact
from mvtec_ad.benchmark import defect_types as measuring
from mvtec_ad.config import Profile, transfer_folder
from mvtec_ad.data import index, prepare, splits
from mvtec_ad.errors import ArtifactError, DataError
from mvtec_ad.methods import classifier, defect_types, items
from mvtec_ad.methods.classifier import Classifier
from mvtec_ad.methods.defect_types import DefectTypes
from mvtec_ad.methods.padim import Padim
from mvtec_ad.notebooks import where_possible

Inputs = Mapping[str, Artifact]
# Of one product in full, about; the packages in all.
MEGABYTES = {"data": 30, "packages": 50, "padim": 75, "autoencoder": 10, "patchcore": 20, "models": 15}
MEGABYTES |= {"contrastive": 5, "gan": 5, "inspection": 10}
MISS, FALSE_ALARM = 10.0, 1.0  # what mistakes cost where a classifier's threshold is chosen


def need(
    run: Profile, *stages: str, optional: Sequence[str] = (), other_profile: bool = False
) -> dict[str, Artifact | None]:
    """Stage -> checked artifact of what a notebook reads; None of `padim` and `contrastive` that cannot be made.

    What lies in `transfer/` is taken. In Colab, in *full*, the rest is asked for in one dialog. What is missing then is
    made, with the stages that it is made from. A line says where PaDiM or defect types cannot be made of these images.

    Args:
        run: the profile; artifacts of another one are refused, unless `other_profile`.
        stages: keys of `STAGES`.
        optional: keys of `artifacts.PRODUCED_BY` that are taken where they lie, and left out with a line elsewhere.

    Raises:
        ArtifactError: what lies there or was uploaded is damaged or of another profile; a damaged upload is removed.
        DataError: there are no images of a category, or they cannot be read or learned from.

    Examples:
        >>> from mvtec_ad import profile
        >>> need(profile("quick"), "data")["data"].manifest["stage"]  # doctest: +SKIP
        'data'
    """
    accepted = None if other_profile else run.name
    if run.name == "full":
        ask([*stages, *optional], run, accepted)
    at_hand: dict[str, Artifact | None] = {}

    def get(stage: str) -> None:
        """Put a stage, and what it is made from, into `at_hand`."""
        if stage in at_hand:
            return
        if not path_of(stage).is_file():
            for name in STAGES[stage].needs:
                get(name)
            print(f"{stage}.zip is not here and is made now, {duration(stage, run)}", flush=True)
            STAGES[stage].make(run, at_hand)
        at_hand[stage] = artifacts.load(stage, profile=accepted)
        absent = set(run.data.categories) - set(at_hand[stage].manifest["categories"])
        if stage == "data" and run.name == "full" and at_hand[stage].manifest["data_source"] == "synthetic":
            way = "set MVTEC_AD_ROOT to their folder, or put raw-data.zip into transfer/, and remove data.zip"
            print(f"no real images were found, so the products are DRAWN; for real ones {way}")
        if stage == "data" and absent:
            print(f"{', '.join(sorted(absent))}: left out, for data.zip has no images of them")

    for stage in [*stages, *optional]:
        if stage in optional and not path_of(stage).is_file():
            print(f"{stage}.zip is not here and is left out: notebooks/{PRODUCED_BY[stage]}.ipynb makes it")
            continue
        try:
            get(stage)
        except (ArtifactError, DataError) as problem:
            if stage in stages and (stage not in ("padim", "contrastive") or isinstance(problem, ArtifactError)):
                raise
            at_hand[stage] = None
            print(f"{stage}.zip is left out: {problem}")
    return {stage: at_hand[stage] for stage in [*stages, *optional] if stage in stages or at_hand.get(stage)}


def ask(stages: Sequence[str], run: Profile, profile: str | None) -> None:
    """In Colab, ask in one dialog for all of these that are missing.

    Raises:
        ArtifactError: an upload is damaged, or of another profile: it is removed.
    """
    missing = [stage for stage in stages if not path_of(stage).is_file()]
    if not missing or not artifacts.in_colab():
        return
    sizes = {stage: MEGABYTES[stage] * (1 if stage == "packages" else len(run.data.categories)) for stage in missing}
    listed = ", ".join(f"{stage}.zip (about {size} MB)" for stage, size in sizes.items())
    print(f"Choose what earlier notebooks offered for download, all at once: {listed}.")
    print("Cancel, and what this notebook cannot do without is made here.")
    paths = artifacts.upload()
    for path in paths:
        if path.stem not in missing:
            print(f"{path.name} was not asked for, and lies in {path.parent.name}/")
    artifacts.check_uploads([path for path in paths if path.stem in missing], profile)


def path_of(stage: str) -> Path:
    """Where the artifact of a stage lies."""
    return transfer_folder() / f"{stage}.zip"


def duration(stage: str, run: Profile) -> str:
    """How long it takes to make one, in words."""
    if run.name == "quick":
        return f"about {STAGES[stage].seconds} s on 2 CPU cores"
    return f"about {STAGES[stage].minutes} minutes for seven products, estimated for a T4"


# --- making -----------------------------------------------------------------------------------------------------------


def make_padim(run: Profile, inputs: Inputs) -> Path:
    """`padim.zip`: scores, maps and models of every product that can be measured."""
    data, detector = inputs["data"], Padim.preset(run.name)
    root, about = prepare.unpack(data), {"data_source": data.manifest["data_source"], "keep_models": True}

    def measured(name: str) -> benchmark.Result:
        table = benchmark.check_measurable(detector, index.read_category(root, name))
        return benchmark.run(detector, table, **about)

    results = where_possible(measured, data.manifest["categories"])
    if not results:
        raise DataError("no product has what it takes to measure")
    results = list(results.values())
    return benchmark.save_results("padim", results, profile=run.name, inputs=[data], models=True, maps="first")


def make_models(run: Profile, inputs: Inputs) -> Path:
    """`models.zip`: classifiers of the packages, one a view and one for both, and of every product."""
    packages, data = inputs["packages"], inputs["data"]
    detector, line = Classifier.preset(run.name), packages.manifest["categories"][0]
    table = index.read_category(prepare.unpack(packages), line)
    train, test = (table[table["split"] == part].reset_index(drop=True) for part in ("train", "test"))
    finders, cuts = detector.find_items(train[train["group"].isin(train["group"].unique()[::3])]), {}
    for view, rows in table.groupby("view"):
        images, _ = items.cut_files(list(rows["image_path"]), finders[view], detector.image_size, detector.roi)
        cuts |= dict(zip(rows["image_id"], images, strict=True))
    shared, trained = {"finders": finders, "cuts": cuts}, {}
    scores, models = classifier.score_unseen(detector, train, test, **shared)
    for view, model in zip(sorted(train["view"].unique()), models, strict=True):
        trained[line, f"{detector.backbone}-{view}"] = scores[scores["view"] == view], model
    for network in (detector, replace(detector, backbone="resnet18", weights="synthetic")):
        scores, (model,) = classifier.score_unseen(network, train, test, per_view=False, **shared)
        trained[line, f"{network.backbone}-all"] = scores, model
    root = prepare.unpack(data)

    def learned(name: str) -> tuple[pd.DataFrame, Classifier]:
        cut = splits.supervised(index.read_category(root, name), seed=0)
        seen, unseen = (cut[rows].reset_index(drop=True) for rows in (cut["part"] != "test", cut["part"] == "test"))
        scores, (model,) = classifier.score_unseen(replace(detector, roi="whole"), seen, unseen, per_view=False)
        return scores, model

    for name, product in where_possible(learned, data.manifest["categories"]).items():
        trained[name, detector.backbone] = product
    return save_models(run, packages, data, detector, trained)


def save_models(
    run: Profile,
    packages: Artifact,
    data: Artifact,
    detector: Classifier,
    trained: Mapping[tuple[str, str], tuple[pd.DataFrame, Classifier]],
) -> Path:
    """Write `models.zip`; `trained` has, by category and name, scores of unseen images, and the model they are of.

    The threshold that is kept with a model is the cheapest one on its validation images.
    """
    files, aurocs = {}, {}
    for (category, name), (scores, model) in trained.items():
        aurocs[f"{category}, {name}"] = metrics.image_auroc(scores["label"], scores["score"])
        limit = metrics.cost_threshold(model.validation["label"], model.validation["score"], MISS, FALSE_ALARM)
        numbers = {"image_auroc": aurocs[f"{category}, {name}"]}
        files |= classifier.files(model, category, name, threshold=limit, metrics=numbers)
    tables = [scores.assign(method=f"{key[0]}, {key[1]}", split="test", seed=0) for key, (scores, _) in trained.items()]
    files["scores.csv"] = pd.concat(tables)
    about = {"profile": run.name, "data_source": packages.manifest["data_source"], "options": detector.options()}
    about["categories"] = list(dict.fromkeys(category for category, _ in trained))
    return artifacts.save("models", files, **about, seed=[0], inputs=[packages, data], metrics=aurocs)


def make_defect_types(run: Profile, inputs: Inputs) -> Path:
    """`contrastive.zip`: what names the defects of each product with two types or more; its atlas is left out."""
    data, root = inputs["data"], prepare.unpack(inputs["data"])
    detector = DefectTypes.preset(run.name)

    def fitted(name: str) -> DefectTypes:
        table = measuring.check_folds(index.read_category(root, name), detector)
        defects = detector.gather(table, measuring.padim_maps(inputs["padim"], table, run.name))
        verdicts, _ = measuring.cross_validate(detector, defects, ("supcon",))
        model = replace(detector).fit_rows(defects, defects.typed)
        model.limit = measuring.calibrated_limit(verdicts, "supcon, prototypes", detector)
        return model

    models = where_possible(fitted, data.manifest["categories"])
    if not models:
        raise DataError("no product has two types of defects with enough images each: choose other categories")
    files = {}
    for name, model in models.items():
        files |= defect_types.files(model, name)
    about = {"profile": run.name, "data_source": data.manifest["data_source"], "categories": list(models)}
    about["inputs"] = [data, inputs["padim"]]
    return artifacts.save("contrastive", files, **about, options=detector.options(), seed=0)


@dataclass(frozen=True)
class Stage:
    """How an artifact is made."""

    needs: tuple[str, ...]  # stages that it is made from
    seconds: int  # to make it in quick, on 2 CPU cores
    minutes: int  # in full, seven products, on a T4: estimated (benchmarks/full_minutes.py)
    make: Callable[[Profile, Inputs], Path]


STAGES = {
    "data": Stage((), 12, 2, lambda run, _: prepare.prepare(run)),
    "packages": Stage((), 14, 1, lambda run, _: prepare.prepare_packages(run)),
    "padim": Stage(("data",), 12, 2, make_padim),
    "models": Stage(("data", "packages"), 35, 11, make_models),
    "contrastive": Stage(("data", "padim"), 20, 3, make_defect_types),
}
