"""What an op may touch while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from l2c_rt.adapters.bound import Bound, State
from l2c_rt.slots import Slots


@dataclass(slots=True)
class Frame:
    """One evaluation: the model, its running values, its slots, and what a backend prepared.

    `step` counts evaluations, `row` is the plan's distinct row.
    """

    bound: Bound
    state: State
    slots: Slots
    step: int
    row: int
    prepared: Any = None


OpTable = Mapping[type, Callable[[Any, Frame], None]]
