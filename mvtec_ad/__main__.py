"""The command line: `python -m mvtec_ad COMMAND`, or `mvtec-ad COMMAND`."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mvtec_ad import __version__
from mvtec_ad.errors import MvtecAdError

# command -> what it does; mvtec_ad/commands/COMMAND.py holds add_arguments(parser) and run(arguments)
COMMANDS = {
    "prepare": "make data.zip: the images of a run, resized once; or packages.zip",
    "fit": "fit a method on good images and calibrate a threshold",
    "detect": "verdict, score and heat map for images, with a fitted artifact",
    "evaluate": "measure a method on a category: metrics with intervals, thresholds, trivial rows",
    "inspect": "which product, good or defective, where, what kind: by all models of the notebooks",
    "sweep": "measure methods × categories × seeds; results as they come",
    "run": "execute the notebooks in order and leave one page to look at",
    "backbone": "train the network that the package carries, on images without a subject",
    "results": "measured figures beside published ones",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the thing and the way out, like all others."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` lists the options\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 when a user can mend what went wrong."""
    parser = Parser(prog="mvtec-ad", description="Anomaly detection on MVTec AD and own images.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        importlib.import_module(f"mvtec_ad.commands.{name}").add_arguments(command)
    parsed = parser.parse_args(arguments)
    try:
        importlib.import_module(f"mvtec_ad.commands.{parsed.command}").run(parsed)
    except MvtecAdError as problem:
        print(f"mvtec-ad {parsed.command}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mvtec-ad {parsed.command}: interrupted; finished artifacts are whole", file=sys.stderr)
        return 130
    return 0


def entry() -> NoReturn:
    """`main` as a whole process, without the second that python spends on it before and after.

    Importing torch makes a million objects and frees none, so the collector's default rhythm costs a third of the
    import (0.9 s measured); and taking torch and torchvision apart at exit costs another 0.9 s, for nothing: every
    file is closed by then.
    """
    gc.set_threshold(200_000, 20, 20)
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    entry()
