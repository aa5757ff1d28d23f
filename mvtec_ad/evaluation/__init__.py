"""Metrics, thresholds and intervals for anomaly detection. Label 1 is a defect; a higher score is more anomalous."""

from mvtec_ad.evaluation.classification import (
    Reliability,
    accuracy,
    bayes_threshold,
    brier,
    calibration_error,
    confusion,
    cost_threshold,
    fit_temperature,
    mean_cost,
    per_class,
    probability,
    reliability,
)
from mvtec_ad.evaluation.defect_types import corrected_t, retrieval_map, silhouette, type_confusion, verdict_metrics
from mvtec_ad.evaluation.histograms import PixelHistograms
from mvtec_ad.evaluation.intervals import (
    false_alarms_interval,
    interval,
    newcombe,
    paired_difference,
    resample_weights,
    resampled_ranking,
    wilson,
)
from mvtec_ad.evaluation.ranking import average_precision, f1_max, false_alarms_at, image_auroc
from mvtec_ad.evaluation.regions import au_pro, pixel_metrics, pro_curve
from mvtec_ad.evaluation.report import evaluate, format_metric, format_number, markdown_table, threshold_summary
from mvtec_ad.evaluation.thresholds import calibrated, check_enough, images_needed, operating_point, oracle

__all__ = [
    "PixelHistograms",
    "Reliability",
    "accuracy",
    "au_pro",
    "average_precision",
    "bayes_threshold",
    "brier",
    "calibrated",
    "calibration_error",
    "check_enough",
    "confusion",
    "corrected_t",
    "cost_threshold",
    "evaluate",
    "f1_max",
    "false_alarms_at",
    "false_alarms_interval",
    "fit_temperature",
    "format_metric",
    "format_number",
    "image_auroc",
    "images_needed",
    "interval",
    "markdown_table",
    "mean_cost",
    "newcombe",
    "operating_point",
    "oracle",
    "paired_difference",
    "per_class",
    "pixel_metrics",
    "pro_curve",
    "probability",
    "reliability",
    "resample_weights",
    "resampled_ranking",
    "retrieval_map",
    "silhouette",
    "threshold_summary",
    "type_confusion",
    "verdict_metrics",
    "wilson",
]
