"""Learned caching schedules for diffusion transformers: plan them, prove them, replay them.

Names are imported when first used, so that schedules and plans work without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from l2c_rt._version import __version__ as __version__

if TYPE_CHECKING:
    from l2c_rt import correctors, methods, models, policies, presets
    from l2c_rt.api import compile
    from l2c_rt.calibration.calibrate import calibrate
    from l2c_rt.calibration.scale_shift import fit_scale_shift
    from l2c_rt.comparison.compare import compare
    from l2c_rt.comparison.fit import fit_report
    from l2c_rt.learning.train import learn
    from l2c_rt.pipelines.enable import disable, enable
    from l2c_rt.policies.router import Router
    from l2c_rt.regression.fit_corrector import fit_corrector
    from l2c_rt.runtime.compiled import Compiled
    from l2c_rt.runtime.session import Session
    from l2c_rt.schedule.cache_schedule import CacheSchedule
    from l2c_rt.searching.search import search

_HOMES = {
    "CacheSchedule": "schedule.cache_schedule",
    "Compiled": "runtime.compiled",
    "Router": "policies.router",
    "Session": "runtime.session",
    "calibrate": "calibration.calibrate",
    "compare": "comparison.compare",
    "compile": "api",
    "disable": "pipelines.enable",
    "enable": "pipelines.enable",
    "fit_corrector": "regression.fit_corrector",
    "fit_report": "comparison.fit",
    "fit_scale_shift": "calibration.scale_shift",
    "learn": "learning.train",
    "search": "searching.search",
}
_MODULES = ("correctors", "methods", "models", "policies", "presets")

__all__ = [
    "CacheSchedule",
    "Compiled",
    "Router",
    "Session",
    "calibrate",
    "compare",
    "compile",
    "correctors",
    "disable",
    "enable",
    "fit_corrector",
    "fit_report",
    "fit_scale_shift",
    "learn",
    "methods",
    "models",
    "policies",
    "presets",
    "search",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"l2c_rt.{name}")
    if name in _HOMES:
        return getattr(import_module(f"l2c_rt.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'l2c_rt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
