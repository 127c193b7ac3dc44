"""Router learning: L2C's objective on a model's own branches, and what a schedule costs."""

from l2c_rt.compare.fit import FitReport, fit_report
from l2c_rt.learning.train import learn

__all__ = ["FitReport", "fit_report", "learn"]
