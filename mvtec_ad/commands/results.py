"""`results`: measured figures beside published ones."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--publish", action="store_true", help="write assets/results.json and the table of README.md")


def run(arguments: argparse.Namespace) -> None:
    """Print, and publish when asked."""
    from mvtec_ad import results

    reports = results.measured()
    print(results.tables(reports))
    if arguments.publish:
        results.publish(reports)
        print("\npublished to assets/results.json and README.md")
