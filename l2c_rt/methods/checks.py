"""Checks of the fields of methods, each ValueError naming method, field, value and range."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence


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


def check_bool(name: str, value: object) -> None:
    """Raise ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r:.40}, wanted True or False")


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of the `known` strings."""
    if value not in known:
        raise ValueError(f"{name} is {value!r:.40}, wanted {' or '.join(map(repr, known))}")


def mask_of(name: str, value: object, known: Iterable[str]) -> str | tuple[int, ...]:
    """A mask of evaluations: one of the `known` names, or zeros and ones.  ValueError for more."""
    if isinstance(value, str) and value in known:
        return value
    marks = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if not marks or any(mark not in (0, 1) for mark in marks):
        raise ValueError(
            f"{name} is {value!r:.60}, wanted zeros and ones, or one of {', '.join(known)}"
        )
    return tuple(map(int, marks))


def check_callback(name: str, value: object) -> None:
    """Raise TypeError unless `value` is None or can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} is {value!r:.40}, wanted a function or None")


def check_names(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a tuple or list of strings."""
    if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} is {value!r:.60}, wanted names, as ('hidden_states', 'timestep')")


def numbers_of(
    name: str, values: object, low: float = -math.inf, high: float = math.inf
) -> tuple[float, ...]:
    """Some finite numbers in low..high as a tuple; ValueError for anything else."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name} is {values!r:.60}, wanted a list of numbers")
    # Numbers of numpy and torch have an item and no dimensions.
    listed = [v.item() if getattr(v, "ndim", 1) == 0 else v for v in values]
    for value in listed:
        check_number(name, value, low, high)
    if not listed:
        raise ValueError(f"{name}: got none, wanted at least one number")
    return tuple(map(float, listed))


def check_window(name: str, window: Sequence[float]) -> None:
    """Raise ValueError unless `window` is two finite numbers, the lower one first."""
    numbers = isinstance(window, Sequence) and not isinstance(window, str) and len(window) == 2
    if not numbers or not all(
        isinstance(end, int | float) and not isinstance(end, bool) for end in window
    ):
        raise ValueError(f"{name} is {window!r:.60}, wanted two timesteps, as (100, 800)")
    if not all(map(math.isfinite, window)) or not window[0] < window[1]:
        raise ValueError(f"{name} is {window!r:.60}, wanted the lower timestep first")


def set_patterns(method: str, spec: object, field: str) -> None:
    """Make a field of regular expressions a tuple; TypeError, ValueError where it is no such."""
    patterns = getattr(spec, field)
    if patterns is None:
        return
    listed = isinstance(patterns, Iterable) and not isinstance(patterns, str)
    if not listed or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            f"{method}: {field}: wanted a list of regular expressions, got {patterns!r:.80}"
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{method}: {field}: {pattern!r:.80}: {error}") from error
    object.__setattr__(spec, field, tuple(patterns))
