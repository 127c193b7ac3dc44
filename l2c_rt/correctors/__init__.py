"""Correctors: what stands for a reused branch, as coefficients over its earlier values."""

from l2c_rt.correctors.corrector import Corrector, corrected
from l2c_rt.correctors.eoc import EOC
from l2c_rt.correctors.fitted import Fitted
from l2c_rt.correctors.goc import Goc
from l2c_rt.correctors.hermite import HiCache
from l2c_rt.correctors.scale_shift import ScaleShift
from l2c_rt.correctors.taylor import Taylor

__all__ = ["EOC", "Corrector", "Fitted", "Goc", "HiCache", "ScaleShift", "Taylor", "corrected"]
