"""What a loop says of its next calls: lane, step, number of steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from l2c_rt.runtime.step_clock import StepError

StepHint = tuple[int | None, int | None, int | None]
"""Lane, step and number of steps, as far as the loop says them."""

LANES = {"cond": 0, "uncond": 1}


class StepHints:
    """The contexts that calls are made in, innermost last."""

    def __init__(self) -> None:
        self._open: list[StepHint] = []

    @contextmanager
    def context(
        self, name: str, lanes: int, step: int | None, num_steps: int | None
    ) -> Iterator[None]:
        """Calls inside are of this lane, and of lane 0 where there is only one."""
        if name not in LANES:
            raise ValueError(f"cache_context: got {name!r}, wanted one of {', '.join(LANES)}")
        self._open.append((LANES[name] if lanes > 1 else 0, step, num_steps))
        try:
            yield
        finally:
            self._open.pop()

    def now(self, lane: int | None) -> StepHint:
        """What is announced for a call with `lane=`; StepError where the two disagree."""
        if not self._open:
            return lane, None, None
        named, step, num_steps = self._open[-1]
        if lane is not None and lane != named:
            raise StepError(f"lane {lane} was called inside the context of lane {named}")
        return named, step, num_steps
