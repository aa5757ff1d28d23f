"""`run`: execute the notebooks in order, in their committed form, and leave one page to look at."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from mvtec_ad.errors import DataError, MvtecAdError, SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("notebooks", nargs="*", help="numbers, for example 01 02; all when not given")
    parser.add_argument("--profile", help="quick or full")
    parser.add_argument("--category", nargs="+", help="category folders instead of the profile's")


def run(arguments: argparse.Namespace) -> None:
    """Execute, write `transfer/runs/`, print the table."""
    from mvtec_ad.commands.run_page import write_page
    from mvtec_ad.settings import home, profile, transfer_folder

    chosen = profile(arguments.profile)
    notebooks = choose(home() / "notebooks", arguments.notebooks)
    folder = transfer_folder() / "runs"
    folder.mkdir(exist_ok=True)
    environment = {"MVTEC_AD_PROFILE": chosen.name, "MVTEC_AD_HOME": str(home())}
    if arguments.category:
        environment["MVTEC_AD_CATEGORIES"] = " ".join(arguments.category)
    os.environ.update(environment)
    executed = [(path.stem, *execute(path, folder)) for path in notebooks]
    table = summary()
    page = write_page(folder, executed, chosen.name, table)
    print(f"\n{table}\n\nlook at {page}")


def choose(folder: Path, numbers: list[str]) -> list[Path]:
    """Notebooks in order; all of them when no number is given.

    Raises:
        DataError: the folder holds no notebooks (the package is used outside a checkout).
        SettingsError: no notebook has that number.
    """
    found = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise DataError(f"{folder} holds no notebooks: run this inside a checkout of the project")
    unknown = [number for number in numbers if number.zfill(2) not in found]
    if unknown:
        raise SettingsError(f"no notebook {unknown[0]}: choose from {', '.join(found)}")
    wanted = {number.zfill(2) for number in numbers} or set(found)
    return [path for number, path in found.items() if number in wanted]


def execute(path: Path, folder: Path) -> tuple[Any, float]:
    """Run one notebook in a fresh kernel and write the executed copy into `folder`.

    Returns:
        The executed notebook and the seconds it took.

    Raises:
        MvtecAdError: a cell failed; what was executed until there is written all the same.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from tqdm import tqdm

    notebook = nbformat.read(path, as_version=4)
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    begun = time.perf_counter()
    with tqdm(total=len(code), desc=path.stem, unit="cell") as bar:

        def step(cell: Any, cell_index: int, **_: Any) -> None:
            bar.update(cell.cell_type == "code")

        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            on_cell_complete=step,
            extra_arguments=["--log-level=ERROR"],
        )
        try:
            client.execute()
        except CellExecutionError as problem:
            reason = f"{problem.ename}: {problem.evalue}"
            raise MvtecAdError(f"notebook {path.name} stopped: {reason} (see {folder / path.name})") from problem
        except DeadKernelError as problem:
            raise MvtecAdError(f"notebook {path.name} stopped: its kernel died, perhaps out of memory") from problem
        finally:
            drop_progress_bars(notebook)
            nbformat.write(notebook, folder / path.name)
    return notebook, time.perf_counter() - begun


def drop_progress_bars(notebook: Any) -> None:
    """Remove what progress bars wrote: it is for whoever waits, not for the reader of the page. Warnings stay."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            bars = [one for one in cell.outputs if one.get("name") == "stderr" and "\r" in one.get("text", "")]
            cell.outputs = [one for one in cell.outputs if one not in bars]


def summary() -> str:
    """The table of everything that the artifacts of this run measured."""
    from mvtec_ad import results, transfer
    from mvtec_ad.settings import transfer_folder

    reports: list[dict[str, Any]] = []
    for stage in transfer.MAKERS:
        if (transfer_folder() / f"{stage}.zip").is_file():
            artifact = transfer.load(stage)
            if "reports.json" in artifact.names:
                reports += artifact.json("reports.json")
    return results.tables(reports)
