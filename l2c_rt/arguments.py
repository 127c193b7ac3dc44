"""Arguments that public functions share: one name means one thing, checked alike everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sized

from l2c_rt.methods.checks import check_bool, check_callback, check_number
from l2c_rt.schedule.checks import MAX_STEPS

Check = Callable[[str, object], None]
"""Takes "where: name" and the value; raises ValueError or TypeError that names both."""

MOST = 1_000_000
"""Of what is counted, such as images: more is a mistake, and not to be found out by allocating."""

MOST_CALLS = 64
"""Calls per step."""

LARGEST = 1e6
"""Of guidance and rates: more overflows float32 within a run."""


def whole(least: int, most: int = MOST) -> Check:
    """An int in least..most."""

    def check(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r:.40}, wanted an int of at least {least}")
        if value > most:
            raise ValueError(f"{name} is {value!r:.40}, wanted an int of at most {most}")

    return check


def number(low: float, high: float) -> Check:
    """A finite number in low..high."""
    return lambda name, value: check_number(name, value, low, high)


def optional(check: Check) -> Check:
    """That, or None."""
    return lambda name, value: None if value is None else check(name, value)


def path(name: str, value: object) -> None:
    """A path that is not empty, which would be the folder that the process is in."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise TypeError(f"{name} is {value!r:.40}, wanted the path of a file or folder")


def listed(name: str, value: object) -> None:
    """Something with a length that is not 0, and no text."""
    if isinstance(value, str) or not isinstance(value, Sized) or not len(value):
        raise ValueError(f"{name} is {value!r:.40}, wanted a list of at least one")


def iterable(name: str, value: object) -> None:
    """Something to go over, and no text."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is {value!r:.40}, wanted a list, or what gives one after another")


def seed(name: str, value: object) -> None:
    """What a torch.Generator takes."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{name} is {value!r:.80}, wanted an int from 0 to 2**63 - 1")


CHECKS: Mapping[str, Check] = {
    "adapter": check_callback,
    "ages": whole(1, MAX_STEPS),
    "batch_size": whole(1),
    "calls_per_step": whole(1, MOST_CALLS),
    "cfg_scale": optional(number(-LARGEST, LARGEST)),
    "checkpointing": check_bool,
    "clock": check_callback,
    "data": optional(iterable),
    "decode": check_callback,
    "features": check_callback,
    "held_out": whole(0),
    "history": whole(1, MOST_CALLS),
    "images": whole(1),
    "iterations": optional(whole(1, 10**12)),
    "labels": optional(listed),
    "lam": optional(number(0, LARGEST)),
    "lanes": check_bool,
    "lookback": whole(1, MAX_STEPS),
    "loop": check_callback,
    "lr": optional(number(0, LARGEST)),
    "metrics": optional(iterable),
    "minutes": number(0, 10_000),
    "out": optional(path),
    "folder": optional(path),
    "peak": optional(number(0, LARGEST)),
    "prior": check_bool,
    "progress": check_bool,
    "report": whole(0),
    "resume": check_bool,
    "reuse": optional(number(0, 1)),
    "rounds": whole(0, 10_000),
    "runs": whole(1, 10_000),
    "samples": whole(1),
    "save_every": whole(1, 10**12),
    "seed": seed,
    "steps": whole(1, MAX_STEPS),
    "straight_through": optional(number(0, 1)),
    "strict": check_bool,
}


def check_arguments(where: str, **values: object) -> None:
    """Raise ValueError, or TypeError, for the first that is none of its name's kind."""
    for name, value in values.items():
        CHECKS[name](f"{where}: {name}", value)
