"""Checks of the fields of methods, each ValueError naming method, field, value and range."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def check_int(name: str, value: object, least: int) -> None:
    """Raise ValueError unless `value` is an int of at least `least`; `name` is "Method: field"."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r:.40}, wanted an int of at least {least}")


def check_number(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless `value` is a finite number in low..high."""
    number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else value
    if not math.isfinite(number) or not low <= number <= high:
        within = f"of at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}"
        raise ValueError(f"{name} is {value!r:.40}, wanted a number {within}")


def check_window(name: str, window: Sequence[float]) -> None:
    """Raise ValueError unless `window` is two finite numbers, the lower one first."""
    numbers = isinstance(window, Sequence) and not isinstance(window, str) and len(window) == 2
    if not numbers or not all(isinstance(end, int | float) for end in window):
        raise ValueError(f"{name} is {window!r:.60}, wanted two timesteps, as (100, 800)")
    if not all(map(math.isfinite, window)) or not window[0] < window[1]:
        raise ValueError(f"{name} is {window!r:.60}, wanted the lower timestep first")


def set_patterns(method: str, spec: object, field: str) -> None:
    """Make a field of regular expressions a tuple; TypeError, ValueError where it is no such."""
    patterns = getattr(spec, field)
    if patterns is None:
        return
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            f"{method}: {field}: wanted a list of regular expressions, got {patterns!r:.80}"
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{method}: {field}: {pattern!r:.80}: {error}") from error
    object.__setattr__(spec, field, tuple(patterns))
