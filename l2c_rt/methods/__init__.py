"""Published caching methods, one frozen dataclass per file; `rt.compile` takes each by name too."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    # name for rt.compile: class, module
    "duca": ("DuCa", "l2c_rt.methods.toca"),
    "fastercache": ("FasterCache", "l2c_rt.methods.faster_cache"),
    "guidance-interval": ("GuidanceInterval", "l2c_rt.methods.guidance_interval"),
    "toca": ("ToCa", "l2c_rt.methods.toca"),
}

__all__ = sorted(name for name, _ in _HOMES.values())


def __getattr__(name: str) -> Any:
    for kind, module in _HOMES.values():
        if kind == name:
            return getattr(import_module(module), kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
