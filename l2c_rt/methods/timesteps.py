"""The timesteps of a run, and windows of them, as published methods read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from l2c_rt.policies.policy import BoolArray

TRAINED_TIMESTEPS = 1000
Window = tuple[float, float]


def trained_timesteps(method: str, timesteps: Sequence[float] | None) -> npt.NDArray[np.float64]:
    """The timesteps on the scale 0..1000 of training, from those of the run or its sigmas 0..1.

    Raises ValueError where there are none.
    """
    if timesteps is None:
        raise ValueError(
            f"{method}: its windows are of timesteps; give compile those of the run: "
            "timesteps=scheduler.timesteps"
        )
    times = np.array(timesteps, np.float64)
    return times * TRAINED_TIMESTEPS if times.max() <= 1 else times


def in_window(times: npt.NDArray[np.float64], window: Window) -> BoolArray:
    """Where lo < t < hi, both ends strict."""
    inside: BoolArray = (window[0] < times) & (times < window[1])
    return inside


def checked_window(name: str, window: Window) -> None:
    """Raise ValueError for anything but two numbers of which the first is lower."""
    try:
        low, high = (float(end) for end in window)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise ValueError(f"{name} is {window!r:.60}, wanted (lo, hi) with lo below hi")
