"""Measure methods: `run` one on a category, rows side by side (`cells`), compare them, beside published figures."""

from mvtec_ad.benchmark.result import METRICS, Report, Result, load_results, metrics_table, result_files, save_results
from mvtec_ad.benchmark.run import check_measurable, check_seeds, run

__all__ = [
    "METRICS",
    "Report",
    "Result",
    "check_measurable",
    "check_seeds",
    "load_results",
    "metrics_table",
    "result_files",
    "run",
    "save_results",
]
