"""Published caching methods, one frozen dataclass per file; `rt.compile` takes each by name too."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    # name for rt.compile: class, module
    "block-caching": ("BlockCaching", "l2c_rt.methods.block_caching"),
    "deepcache": ("DeepCache", "l2c_rt.policies.deep_cache"),
    "delta-dit": ("DeltaDiT", "l2c_rt.methods.delta_dit"),
    "every-n": ("PlainEveryN", "l2c_rt.methods.plain_every_n"),
    "fora": ("FORA", "l2c_rt.methods.fora"),
    "magcache": ("MagCache", "l2c_rt.methods.mag_cache"),
    "pab": ("PAB", "l2c_rt.methods.pab"),
    "smoothcache": ("SmoothCache", "l2c_rt.methods.smooth_cache"),
    "steps-mask": ("StepsMask", "l2c_rt.methods.steps_mask"),
}

__all__ = sorted(name for name, _ in _HOMES.values())


def names() -> tuple[str, ...]:
    """The names of the methods, as `rt.compile` takes them."""
    return tuple(_HOMES)


def named(name: str) -> Any:
    """The method of that name, with the published defaults.

    Raises ValueError for any other name, and where a method has no defaults.
    """
    if name not in _HOMES:
        raise ValueError(f"{name!r:.100} is not a method; there are {', '.join(_HOMES)}")
    kind = getattr(import_module(_HOMES[name][1]), _HOMES[name][0])
    try:
        return kind()
    except TypeError as error:
        fields = str(error).partition("missing ")[2] or str(error)
        raise ValueError(
            f"{name!r}: this method has no defaults ({fields}); give methods.{kind.__name__}(...)"
        ) from None


def __getattr__(name: str) -> Any:
    for kind, module in _HOMES.values():
        if kind == name:
            return getattr(import_module(module), kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
