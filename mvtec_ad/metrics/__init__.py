"""Metrics, thresholds and intervals for anomaly detection. Label 1 is a defect; a higher score is more anomalous."""

# ruff: noqa: F401

from mvtec_ad.metrics.calibration import (
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
from mvtec_ad.metrics.image import average_precision, f1_max, false_alarms_at, image_auroc
from mvtec_ad.metrics.intervals import (
    false_alarms_interval,
    interval,
    newcombe,
    paired_difference,
    resample_weights,
    resampled_ranking,
    verdict,
    wilson,
)
from mvtec_ad.metrics.outliers import conformal_p_values, discoveries, fewest_discoveries, leave_one_out_p_values
from mvtec_ad.metrics.pixels import PixelHistograms, pixel_metrics, pro_curve
from mvtec_ad.metrics.promise import (
    alarms_among,
    images_to_vouch,
    same_as_before,
    true_rate,
    true_rate_interval,
)
from mvtec_ad.metrics.report import evaluate, format_metric, format_number, markdown_table, threshold_summary
from mvtec_ad.metrics.thresholds import (
    calibrated,
    calibrated_rank,
    check_enough,
    images_needed,
    operating_point,
    oracle,
)
from mvtec_ad.metrics.types import corrected_t, retrieval_map, silhouette, type_confusion, verdict_metrics
