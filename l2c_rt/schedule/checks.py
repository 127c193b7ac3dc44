"""Checks of a schedule's fields: ValueError says which field, what it is and what is expected.

Sizes are bounded, so that no file, however hostile, makes an unreasonably large schedule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_STEPS = 10_000
MAX_BRANCHES = 10_000
MAX_CELLS = 1 << 22
MAX_NAME_LENGTH = 100
MAX_TEXT_LENGTH = 1_000
MAX_CALLS = 64
GRANULARITIES = ("branch", "block", "shell")
FINGERPRINT = re.compile("shapes:{0} bfloat16:{0} float16:{0}".format("[0-9a-f]{64}"))


def checked_compute(compute: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    array = np.asarray(compute)
    if array.ndim != 2:
        raise ValueError(
            f"compute has shape {array.shape}, wanted [steps, branches]; "
            "for [steps, blocks, 2] call CacheSchedule.from_blocks"
        )
    check_size(*array.shape)
    if array.dtype == np.bool_:
        pass
    elif array.dtype.kind not in "iu":
        nans = int(np.isnan(array).sum()) if array.dtype.kind == "f" else 0
        dtype = f"{array.dtype}" + (f" with {nans} NaN" if nans else "")
        raise ValueError(
            f"compute has dtype {dtype}, wanted bool (or integers 0 and 1); "
            "threshold scores first: scores > threshold"
        )
    elif ((array != 0) & (array != 1)).any():
        step, branch = np.argwhere((array != 0) & (array != 1))[0]
        raise ValueError(
            f"compute[{step}, {branch}] is {array[step, branch]}, wanted 1 (compute) or 0 (reuse)"
        )
    own = np.array(array, dtype=np.bool_, order="C")
    own.setflags(write=False)
    return own


def check_size(steps: int, num_branches: int) -> None:
    """ValueError where a schedule of this size would be empty or unreasonably large."""
    for name, size, most in (("steps", steps, MAX_STEPS), ("branches", num_branches, MAX_BRANCHES)):
        if not 1 <= size <= most:
            raise ValueError(f"the schedule has {size} {name}, wanted 1..{most}")
    if steps * num_branches > MAX_CELLS:
        raise ValueError(f"{steps} steps x {num_branches} branches is more than {MAX_CELLS} cells")


def checked_branches(branches: Sequence[str], num_branches: int) -> tuple[str, ...]:
    if isinstance(branches, str) or not all(isinstance(name, str) for name in branches):
        raise ValueError(f"branches is {branches!r:.80}, wanted a tuple of {num_branches} names")
    if len(branches) != num_branches:
        raise ValueError(
            f"{len(branches)} branch names for {num_branches} columns of compute; give one each"
        )
    for name in branches:
        plain = name.isascii() and name.isprintable() and " " not in name
        if not plain or not 0 < len(name) <= MAX_NAME_LENGTH:
            raise ValueError(
                f"branch name {name[:MAX_NAME_LENGTH]!r} is empty, over {MAX_NAME_LENGTH} "
                'characters or not plain ASCII without blanks; wanted a name such as "attn-0"'
            )
    if len(set(branches)) != num_branches:
        twice, _ = Counter(branches).most_common(1)[0]
        raise ValueError(f"branch name {twice!r} occurs twice; names must differ")
    return tuple(branches)


def check_first_row(compute: npt.NDArray[np.bool_], branches: tuple[str, ...]) -> None:
    if not compute[0].all():
        k = int(np.argmin(compute[0]))
        raise ValueError(
            f"step 0 reuses branch {k} ({branches[k]}), but nothing was computed before it; "
            f"set compute[0, {k}] = True"
        )


def check_text(field: str, text: str, most: int = MAX_TEXT_LENGTH) -> None:
    # Printable, because these come from files and go to terminals.
    if not isinstance(text, str) or len(text) > most or not text.isprintable():
        raise ValueError(
            f"{field} is {text!r:.80}, wanted a printable str of at most {most} characters"
        )


def check_fingerprint(fingerprint: str) -> None:
    whole = isinstance(fingerprint, str) and FINGERPRINT.fullmatch(fingerprint)
    if not whole and fingerprint != "":
        raise ValueError(
            f'fingerprint is {fingerprint!r:.80}, wanted "shapes:", "bfloat16:" and "float16:", '
            'each with 64 hex digits, or ""'
        )


def check_granularity(granularity: str) -> None:
    """ValueError for anything but what a model can be cut into."""
    if granularity not in GRANULARITIES:
        raise ValueError(
            f"granularity: got {granularity!r:.80}, wanted 'branch', 'block' or 'shell'"
        )


def checked_calls(calls_per_step: int) -> int:
    whole = isinstance(calls_per_step, (int, np.integer)) and not isinstance(calls_per_step, bool)
    if not whole or not 1 <= calls_per_step <= MAX_CALLS:
        raise ValueError(f"calls_per_step is {calls_per_step!r:.80}, wanted 1..{MAX_CALLS}")
    return int(calls_per_step)


def checked_threshold(threshold: float | None) -> float | None:
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.floating)):
        raise ValueError(f"threshold is {threshold!r:.80}, wanted a number in 0..1 or None")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, wanted a number in 0..1 or None")
    return float(threshold)


def checked_timesteps(timesteps: Sequence[float] | None, steps: int) -> tuple[float, ...] | None:
    if timesteps is None:
        return None
    if isinstance(timesteps, str) or not isinstance(timesteps, (Sequence, np.ndarray)):
        raise ValueError(f"timesteps is {timesteps!r:.80}, wanted {steps} numbers or None")
    if len(timesteps) != steps:
        raise ValueError(f"{len(timesteps)} timesteps for {steps} steps; give one for each or None")
    for k, t in enumerate(timesteps):
        if isinstance(t, bool) or not isinstance(t, (int, float, np.number)) or not abs(t) < 1e12:
            raise ValueError(f"timesteps[{k}] is {t!r:.40}, wanted a finite number")
    return tuple(float(t) for t in timesteps)
