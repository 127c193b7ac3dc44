"""The setting of a method whose run computes a given share of the full run's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

from l2c_rt.api import Schedulable
from l2c_rt.policies.router import Router
from l2c_rt.schedule.cache_schedule import CacheSchedule

KNOBS = {
    "reuse": (0.0, 1.0),
    "n": (1, 64),
    "interval": (1, 64),
    "cache_threshold": (1, 64),
    "fresh_threshold": (1, 64),
    "threshold": (1e-4, 16.0),
    "residual_diff_threshold": (1e-4, 16.0),
    "delta": (1e-4, 16.0),
}
"""Fields by which published methods are set, with a range; a method that has another field or range
says so by an attribute `knob = (field, least, most)`."""

NEARLY_ALL = 1.0 - 1e-9
SAME_RATIO, SAME_WIDTH = 1.005, 1e-3
"""Values that differ by less are one setting: what decides at run time takes a run for each."""


class Knob(NamedTuple):
    """The settings of one method in an order: `at(value)` makes one, `label(value)` names it.

    `start` are the values that are tried first: all that there are, or both ends of a range.
    """

    at: Callable[[Any], Schedulable]
    start: tuple[float, ...]
    label: Callable[[Any], str]

    def between(self, low: float, high: float) -> float | None:
        """A value between two; None where there is none that makes a difference."""
        if isinstance(low, int) and isinstance(high, int):
            return (low + high) // 2 if high > low + 1 else None
        if low > 0:
            return sqrt(low * high) if high > low * SAME_RATIO else None
        return (low + high) / 2 if high > low + SAME_WIDTH else None


def knob_of(method: Schedulable | Sequence[Schedulable]) -> Knob:
    """How a method is set: a list by its items, a router by its cut, others by their `knob`.

    A schedule, and a method that has none, has one setting.
    """
    if isinstance(method, Router):
        return Knob(lambda share: method.schedule(reuse=share), (0.0, 1.0), "reuse={:.4g}".format)
    field, least, most = ("", 0, 0) if isinstance(method, list | tuple) else _declared(method)
    if not field:
        return as_given(method)
    return Knob(partial(_with, method, field), (least, most), (field + "={:.4g}").format)


def as_given(method: Schedulable | Sequence[Schedulable]) -> Knob:
    """The settings that were given: the items of a list, or the one."""
    if isinstance(method, list | tuple):
        return Knob(method.__getitem__, tuple(range(len(method))), lambda k: _named(method[k]))
    single: Any = method
    return Knob(lambda _: single, (0,), lambda _: "")


def nearest(
    knob: Knob,
    share: float,
    known: dict[float, float],
    measure: Callable[[float], float],
    most: int,
) -> float:
    """The value whose share is nearest to `share`, after at most `most` halvings of the range.

    `known` has the shares so far, and is added to.  What computes everything is taken only where
    there is nothing else: it is the full run.
    """
    for value in knob.start:
        if value not in known:
            known[value] = measure(value)
    for _ in range(most if len(knob.start) == 2 else 0):
        steps = pairwise(sorted(known))
        sides = [(a, b) for a, b in steps if (known[a] - share) * (known[b] - share) < 0]
        middle = knob.between(*sides[0]) if sides else None
        if middle is None:
            break
        known[middle] = measure(middle)
    return min(known, key=lambda v: (known[v] >= NEARLY_ALL, abs(known[v] - share), v))


def _declared(method: object) -> tuple[str, float, float]:
    if isinstance(method, type | CacheSchedule) or not is_dataclass(method):
        return "", 0, 0
    declared: tuple[str, float, float] | None = getattr(method, "knob", None)
    if declared is not None:
        return declared
    names = {field.name for field in fields(method)}
    return next(((name, *KNOBS[name]) for name in KNOBS if name in names), ("", 0, 0))


def _with(method: Any, field: str, value: float) -> Schedulable:
    changed: Schedulable = replace(method, **{field: value})
    return changed


def _named(method: object) -> str:
    if isinstance(method, CacheSchedule):
        cut = method.threshold
        return method.source[:40] if cut is None else f"threshold={cut:.4g}"
    if is_dataclass(method) and not isinstance(method, type):
        values = [(f.name, getattr(method, f.name)) for f in fields(method) if f.repr]
        defaults = {f.name: f.default for f in fields(method)}
        said = ", ".join(f"{n}={value!r}" for n, value in values if value != defaults[n])
        return f"{type(method).__name__}({said})"[:100]
    return str(method) if isinstance(method, str) else repr(method)[:60]
