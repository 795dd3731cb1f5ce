"""Measures: pure functions that compute numbers from predictions and truths. Nothing here needs a model."""

from ovam.evaluate.boundary import boundary_band, boundary_f
from ovam.evaluate.confusion import Confusion
from ovam.evaluate.overlap import binary_iou, grid_reference, mean_per_image_iou, pooled_iou, through_grid
from ovam.evaluate.ranking import average_precision, presence_auroc
from ovam.evaluate.reliability import calibration_error, risk_coverage
from ovam.evaluate.spread import Interval, paired_bootstrap

__all__ = [
    "Confusion",
    "Interval",
    "average_precision",
    "binary_iou",
    "boundary_band",
    "boundary_f",
    "calibration_error",
    "grid_reference",
    "mean_per_image_iou",
    "paired_bootstrap",
    "pooled_iou",
    "presence_auroc",
    "risk_coverage",
    "through_grid",
]
