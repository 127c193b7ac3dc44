"""Published caching methods, one frozen dataclass per file; `rt.compile` takes each by name too."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

_HOMES = {
    # name for rt.compile: class, module
    "duca": ("DuCa", "l2c_rt.methods.toca"),
    "fastercache": ("FasterCache", "l2c_rt.methods.faster_cache"),
    "fastercache-script": ("FasterCacheScript", "l2c_rt.methods.faster_cache_script"),
    "guidance-interval": ("GuidanceInterval", "l2c_rt.methods.guidance_interval"),
    "toca": ("ToCa", "l2c_rt.methods.toca"),
    "block-caching": ("BlockCaching", "l2c_rt.methods.block_caching"),
    "dbcache": ("DBCache", "l2c_rt.methods.dbcache"),
    "dbprune": ("DBPrune", "l2c_rt.methods.dbprune"),
    "deepcache": ("DeepCache", "l2c_rt.policies.deep_cache"),
    "delta-dit": ("DeltaDiT", "l2c_rt.methods.delta_dit"),
    "easycache": ("EasyCache", "l2c_rt.methods.easycache"),
    "every-n": ("PlainEveryN", "l2c_rt.methods.plain_every_n"),
    "first-block-cache": ("FirstBlockCache", "l2c_rt.methods.first_block_cache"),
    "fora": ("FORA", "l2c_rt.methods.fora"),
    "hicache": ("HiCache", "l2c_rt.methods.taylor_seer"),
    "magcache": ("MagCache", "l2c_rt.methods.mag_cache"),
    "pab": ("PAB", "l2c_rt.methods.pab"),
    "seacache": ("SeaCache", "l2c_rt.methods.sea_cache"),
    "smoothcache": ("SmoothCache", "l2c_rt.methods.smooth_cache"),
    "speca": ("SpeCa", "l2c_rt.methods.speca"),
    "steps-mask": ("StepsMask", "l2c_rt.methods.steps_mask"),
    "taylorseer": ("TaylorSeer", "l2c_rt.methods.taylor_seer"),
    "taylorseer-diffusers": ("DiffusersTaylorSeer", "l2c_rt.methods.diffusers_taylor_seer"),
    "teacache": ("TeaCache", "l2c_rt.methods.teacache"),
}

__all__ = sorted(name for name, _ in _HOMES.values())


def names() -> tuple[str, ...]:
    """The names of the methods, as `rt.compile` takes them."""
    return tuple(_HOMES)


def named(name: str, **fields: Any) -> Any:
    """The method of that name, with the published defaults where `fields` do not say otherwise.

    Raises ValueError for any other name, and where a method has no defaults.
    """
    if name not in _HOMES:
        raise ValueError(f"{name!r:.100} is not a method; there are {', '.join(_HOMES)}")
    kind = getattr(import_module(_HOMES[name][1]), _HOMES[name][0])
    try:
        return kind(**fields)
    except TypeError as error:
        missing = str(error).partition("missing ")[2]
        if not missing:
            raise ValueError(
                f"{name!r}: {error}; its fields are {', '.join(_fields(kind))}"
            ) from None
        raise ValueError(
            f"{name!r}: this method has no defaults ({missing}); give methods.{kind.__name__}(...)"
        ) from None


def _fields(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def __getattr__(name: str) -> Any:
    for kind, module in _HOMES.values():
        if kind == name:
            return getattr(import_module(module), kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
