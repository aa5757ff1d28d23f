"""Metrics, thresholds and intervals for anomaly detection. Label 1 is a defect; a higher score is more anomalous."""

from mvtec_ad.evaluation.histograms import PixelHistograms
from mvtec_ad.evaluation.intervals import (
    interval,
    newcombe,
    paired_difference,
    resample_weights,
    resampled_ranking,
    wilson,
)
from mvtec_ad.evaluation.ranking import average_precision, f1_max, image_auroc
from mvtec_ad.evaluation.regions import au_pro, pixel_metrics, pro_curve
from mvtec_ad.evaluation.report import evaluate, format_metric, format_number, markdown_table, threshold_summary
from mvtec_ad.evaluation.thresholds import calibrated, check_enough, images_needed, operating_point, oracle

__all__ = [
    "PixelHistograms",
    "au_pro",
    "average_precision",
    "calibrated",
    "check_enough",
    "evaluate",
    "f1_max",
    "format_metric",
    "format_number",
    "image_auroc",
    "images_needed",
    "interval",
    "markdown_table",
    "newcombe",
    "operating_point",
    "oracle",
    "paired_difference",
    "pixel_metrics",
    "pro_curve",
    "resample_weights",
    "resampled_ranking",
    "threshold_summary",
    "wilson",
]
