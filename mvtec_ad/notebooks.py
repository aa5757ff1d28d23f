"""Notebooks: which of them, and running them, for `mvtec-ad run` and for notebooks/build.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mvtec_ad.artifacts import write_file
from mvtec_ad.config import DataSettings, Profile
from mvtec_ad.errors import DataError, MvtecAdError, SettingsError

# The notebooks whose artifacts each one reads.
READS = {"02": "01", "03": "01", "03b": "01 02 03", "04": "01", "05": "01 04", "06": "01 02", "07b": "01"}
READS |= {"08": "01 02 03 03b 04 06 07b", "09": "01 02 03 03b 07b 08", "09b": "01", "11": "01"}
READS |= {"12": "01", "14": "01"}


def number_of(notebook: Path) -> str:
    """What the name of a notebook or of its source begins with: `03`, and `03b` for the lecture after it."""
    return notebook.name.partition("_")[0]


def where_possible(make: Callable[[str], Any], names: Iterable[str]) -> dict[str, Any]:
    """Name, as of a category, -> what `make` gives for it; a printed line for each that lacks what is needed."""
    made = {}
    for name in names:
        try:
            made[name] = make(name)
        except MvtecAdError as problem:
            print(f"{name} is left out: {str(problem).removeprefix(f'{name}: ')}")
    return made


def leave_out_rest(reason: str) -> None:
    """Print that the rest of this notebook is left out: its cells do nothing until its parameters are set again."""
    from IPython import get_ipython

    print(f"The rest of this notebook is left out: {reason}")
    transformers = get_ipython().input_transformers_cleanup

    def skip(lines: list[str]) -> list[str]:
        if not any(line.startswith("PROFILE =") for line in lines):
            return ["pass\n"]
        transformers.remove(skip)
        return lines

    transformers.append(skip)


def lesson(claim: str, holds: bool, run: Profile, data_source: str) -> None:
    """Print what a notebook teaches and whether these images bear it out.

    On the images that quick draws it must: there a claim that does not hold is an AssertionError.
    """
    print(f"{claim}: {'yes' if holds else 'not on these images'}")
    if data_source == "synthetic" and run == Profile("quick", DataSettings.preset("quick")):
        assert holds, f"the lesson is lost: {claim}"


def same_weights(by_hand: Any, by_package: Any) -> bool:
    """Whether two networks (torch modules) hold the same parameters, each within 1e-5 of its largest value.

    They are compared in their order, so that layers may be called otherwise; the largest difference is printed.
    """
    pairs = list(zip(*(tuple(p.detach() for p in each.parameters()) for each in (by_hand, by_package)), strict=True))
    parts = [float((hand - package).abs().max() / package.abs().max().clamp(min=1e-12)) for hand, package in pairs]
    print(f"{len(parts)} tensors of weights; largest relative difference between by hand and package {max(parts):.0e}")
    return max(parts) < 1e-5


def choose_notebooks(folder: Path, numbers: Sequence[str]) -> list[Path]:
    """Notebooks in order, all when no number is given; SettingsError where none has it, DataError without any."""
    notebooks = {number_of(path): path for path in sorted(folder.glob("[0-9][0-9]*_*.ipynb"))}
    if not notebooks:
        raise DataError(f"{folder} holds no notebooks: run this inside a checkout of the project")
    asked = {number: number.zfill(2 + number[-1:].isalpha()) for number in numbers}
    unknown = [number for number, name in asked.items() if name not in notebooks]
    if unknown:
        raise SettingsError(f"no notebook {unknown[0]}: choose from {', '.join(notebooks)}")
    return [path for number, path in notebooks.items() if not asked or number in asked.values()]


def execute_notebooks(notebooks: Mapping[Path, Any], jobs: int) -> dict[Path, float]:
    """Run notebooks of nbformat in place, `jobs` at once; target -> seconds.

    Each waits for those that it reads from. After a failure those that run are finished, and none is begun.
    """
    targets = {number_of(target): target for target in notebooks}
    waits = {number: {name for name in READS.get(number, "").split() if name in targets} for number in targets}

    def chain(number: str) -> int:
        """Notebooks from this one to the last that waits for it: the longest are begun first."""
        return 1 + max((chain(other) for other in targets if number in waits[other]), default=0)

    running: dict[Future[float], str] = {}
    seconds: dict[str, float] = {}
    failures: list[BaseException] = []
    with ThreadPoolExecutor(jobs) as pool:
        while len(seconds) < len(targets) and not failures:
            ready = [
                name for name in waits if waits[name] <= set(seconds) and name not in {*seconds, *running.values()}
            ]
            for name in sorted(ready, key=chain, reverse=True)[: jobs - len(running)]:
                target = targets[name]
                running[pool.submit(execute_notebook, notebooks[target], target)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                if future.exception():
                    failures.append(future.exception())
                else:
                    seconds[name] = future.result()
    if failures:
        raise failures[0]
    return {targets[name]: seconds[name] for name in targets}


def execute_notebook(notebook: Any, target: Path) -> float:
    """Run a notebook of nbformat in place, in a fresh kernel that stands in the folder of `target`; seconds.

    It is written to `target` as far as it came, without what progress bars wrote: that is for whoever waits.
    """
    import nbformat  # seconds, which a notebook that imports this module need not wait
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    begun = time.perf_counter()
    with tqdm(total=len(cells), desc=target.stem, unit="cell") as bar:
        client = NotebookClient(notebook, timeout=None, kernel_name="python3", extra_arguments=["--log-level=ERROR"])
        client.resources = {"metadata": {"path": str(target.parent)}}
        client.on_cell_complete = lambda cell, cell_index, **_: bar.update(cell.cell_type == "code")
        try:
            # its own `execute` leaves an event loop open in a thread
            asyncio.run(client.async_execute())
        except CellExecutionError as problem:
            reason = f"{problem.ename}: {problem.evalue} (see {target})"
            raise MvtecAdError(f"notebook {target.name} stopped: {reason}") from problem
        except DeadKernelError as problem:
            raise MvtecAdError(f"notebook {target.name} stopped: its kernel died, perhaps out of memory") from problem
        finally:
            for cell in cells:
                cell.outputs = [output for output in cell.outputs if not is_progress_bar(output)]
            write_file(target, nbformat.writes(notebook))
    return time.perf_counter() - begun


def is_progress_bar(output: Any) -> bool:
    """Whether a cell's output was rewritten in place, as bars are and warnings are not."""
    return output.get("name") == "stderr" and "\r" in output.get("text", "")
