"""Sweeps: rows (methods with settings) × categories × seeds, a cell each; every cell is kept the moment it is done.

`rows` reads what to measure, `cells` measures and keeps one cell, `engine` runs many of them on this machine or on a
cluster, and `gather` turns the kept cells into reports over all seeds.
"""

from mvtec_ad.sweep.cells import Cell, Outcome, keep, plan, run_cell, state, sweep_folder
from mvtec_ad.sweep.engine import run_cells
from mvtec_ad.sweep.gather import METRICS, gather, overview, scored
from mvtec_ad.sweep.rows import SUPERVISED, Row, parse_row, parse_rows

__all__ = [
    "METRICS",
    "SUPERVISED",
    "Cell",
    "Outcome",
    "Row",
    "gather",
    "keep",
    "overview",
    "parse_row",
    "parse_rows",
    "plan",
    "run_cell",
    "run_cells",
    "scored",
    "state",
    "sweep_folder",
]
