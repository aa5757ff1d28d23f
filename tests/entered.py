"""How many files of the package one command enters, and how often it goes from one to another: a figure, not a wall.

    python tests/entered.py detect model.zip image.png --heat-maps none

Counted are calls of functions of `mvtec_ad`, less those of an import: the files they lie in, the functions,
and the hops, that is different pairs of a calling and a called function that lie in two files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import mvtec_ad
from mvtec_ad.cli import main

PACKAGE = str(Path(mvtec_ad.__file__).parent)


Function = tuple[str, str]  # file and name


def entered(arguments: list[str]) -> tuple[set[str], set[Function], set[tuple[Function, Function]]]:
    """Files, functions, and pairs of functions in two files of a command that runs here."""
    functions: set[Function] = set()
    hops: set[tuple[Function, Function]] = set()

    def name(frame: FrameType) -> Function:
        return frame.f_code.co_filename, getattr(frame.f_code, "co_qualname", frame.f_code.co_name)

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        callers, above = [], frame
        while above:
            if above.f_code.co_filename.startswith(PACKAGE):
                callers.append(name(above))
            above = above.f_back
        if any(function == "<module>" for _, function in callers):
            return
        functions.add(callers[0])
        if len(callers) > 1 and callers[1][0] != callers[0][0]:
            hops.add((callers[1], callers[0]))

    sys.setprofile(watch)
    try:
        main(arguments)
    finally:
        sys.setprofile(None)
    return {file for file, _ in functions}, functions, hops


if __name__ == "__main__":
    files, functions, hops = entered(sys.argv[1:])
    for file in sorted(files):
        print(Path(file).relative_to(Path(PACKAGE).parent), file=sys.stderr)
    print(f"{len(files)} files, {len(functions)} functions, {len(hops)} hops")
