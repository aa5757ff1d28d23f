"""The line: which product, good or defective, a second opinion where that is unsure, which defect, where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mvtec_ad.config import transfer_folder
from mvtec_ad.data.decoding import read_image
from mvtec_ad.data.loading import batches
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.inspector.inspection import STRANGER, UNREADABLE, Inspection, Step
from mvtec_ad.inspector.models import Models
from mvtec_ad.inspector.stages import Case, judged, shown

TOGETHER = 16  # images that go through a stage at once

Source = str | Path | np.ndarray


class Inspector:
    """Inspects images with whatever models a folder of artifacts holds.

    Attributes:
        models: read when they are first needed.
    """

    def __init__(self, models: Models) -> None:
        self.models = models

    @classmethod
    def load(
        cls, folder: str | Path | None = None, *, second: str | None = "autoencoder", profile: str | None = None
    ) -> Inspector:
        """An inspector from artifacts alone.

        Args:
            folder: of the artifacts; `transfer/` when None.
            second: method of the second opinion, a key of `methods.METHODS`; None asks for none.
            profile: refuse artifacts of another profile.

        Raises:
            SettingsError: no such second opinion.
            ArtifactError: an artifact is damaged, of another profile, or made from other images than another one; or
                there is no model at all.
        """
        return cls(Models.load(Path(folder) if folder else transfer_folder(), second, profile))

    @property
    def missing(self) -> tuple[str, ...]:
        """Artifacts that are not there, each with the notebook that makes it."""
        return tuple(self.models.missing.values())

    def inspect(
        self,
        sources: Sequence[Source],
        *,
        product: str | None = None,
        view: str | None = None,
        heat: bool = True,
        progress: bool = False,
    ) -> Iterator[Inspection]:
        """One inspection per source, in order; the models are read before the first one is asked for.

        Args:
            sources: files, or (H, W, 3) uint8 arrays.
            product: category of all of them; None finds out.
            view: from which side; needed only where a told product has several and nothing tells them apart.
            heat: make heat maps. Without them the inspections have none, and are faster.
            progress: show a bar.

        Raises:
            SettingsError: there is no model for the told product or view.
        """
        self._check_told(product, view)
        return self._walk(sources, product, view or "", heat, progress)

    def _check_told(self, product: str | None, view: str | None) -> None:
        known = self.models.views()
        if product is not None and product not in known:
            raise SettingsError(
                f"there is no model for product {product!r}: there is one for {', '.join(known) or 'none'}"
            )
        if view and view not in known.get(product or "", []):
            told = f"view {view!r} of {product}" if product else f"view {view!r} without a product"
            raise SettingsError(f"{told} says nothing: give a product, and a view of those that it has")

    def _walk(
        self, sources: Sequence[Source], product: str | None, view: str, heat: bool, progress: bool
    ) -> Iterator[Inspection]:
        bar = tqdm(total=len(sources), desc="inspect", unit="image", disable=not progress)
        with bar, ThreadPoolExecutor(4) as pool:
            for part in batches(len(sources), TOGETHER):
                names = [_name(source, part.start + n) for n, source in enumerate(sources[part])]
                read = list(pool.map(_read, sources[part]))
                cases = [
                    Case(own, Inspection(name, "undecided"))
                    for name, own in zip(names, read, strict=True)
                    if isinstance(own, np.ndarray)
                ]
                done = iter(self._decided(cases, product, view, heat))
                for name, own in zip(names, read, strict=True):
                    problem = isinstance(own, DataError)
                    yield Inspection(name, UNREADABLE, problem=str(own)) if problem else next(done)
                    bar.update()

    def _decided(self, cases: list[Case], product: str | None, view: str, heat: bool) -> list[Inspection]:
        """All stages, for readable pictures."""
        cases = self._named(cases, product, view)
        groups: dict[tuple[str, str], list[int]] = {}
        for number, case in enumerate(cases):
            if case.found.product is not None:
                groups.setdefault((case.found.product, case.found.view), []).append(number)
        for (category, side), numbers in groups.items():
            own = judged(self.models, category, side, [cases[number] for number in numbers], heat)
            for number, case in zip(numbers, own, strict=True):
                cases[number] = case
        return [shown(case).found for case in cases]

    def _named(self, cases: list[Case], product: str | None, view: str) -> list[Case]:
        """The first stage: which product, from which side."""
        classifier = self.models.products()
        if classifier is None or not cases:
            return [_told(case, product, view, self.models) for case in cases]
        distances = classifier.distances([case.picture for case in cases])
        if product is not None:  # then it only says from which side
            able = [n for n, name in enumerate(classifier.names) if name.partition("/")[0] == product]
            if view or not able:
                return [_told(case, product, view, self.models) for case in cases]
            nearest = [classifier.names[able[row]] for row in distances[:, able].argmin(1)]
            return [
                _told(case, product, name.partition("/")[2], self.models)
                for case, name in zip(cases, nearest, strict=True)
            ]
        named = []
        for case, row in zip(cases, distances, strict=True):
            name, strangeness = classifier.names[row.argmin()], float(row.min())
            category, _, side = name.partition("/")
            words = f"nearest is {name.replace('/', ' ')}, at {strangeness:.2f} of the distance that is accepted"
            if strangeness > 1:
                step = Step("product", STRANGER, words)
                named.append(case.with_(verdict=STRANGER, strangeness=strangeness, path=(step,)))
            else:
                step = Step("product", name.replace("/", " "), words)
                named.append(case.with_(product=category, view=side, strangeness=strangeness, path=(step,)))
        return named


def _told(case: Case, product: str | None, view: str, models: Models) -> Case:
    """The first stage where nobody tells products apart."""
    known = models.views()
    if product is None and len(known) == 1:
        product = next(iter(known))
        step = Step(
            "product", product, f"{product} is the only product that there is a model for; nobody has checked it"
        )
    elif product is None:
        reason = models.missing.get("inspection", "nothing tells products apart")
        step = Step("product", "skipped", f"{reason}; or say which product it is")
        return case.with_(path=(step,))
    else:
        step = Step("product", "told", f"{product} {view}".strip())
    if not view and len(known[product]) > 1:
        sides = ", ".join(known[product])
        return case.with_(
            path=(step, Step("classifier", "skipped", f"{product} is seen from several sides ({sides}): say which"))
        )
    return case.with_(product=product, view=view or known[product][0], path=(step,))


def _read(source: Source) -> np.ndarray | DataError:
    if not isinstance(source, np.ndarray):
        try:
            return read_image(source)
        except DataError as problem:
            return problem
    if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or 0 in source.shape:
        return DataError(f"an array of shape {source.shape} and type {source.dtype} is no image: give (H, W, 3) uint8")
    return source


def _name(source: Source, number: int) -> str:
    return f"image {number}" if isinstance(source, np.ndarray) else str(source)
