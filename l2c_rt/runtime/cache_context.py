"""The lane, step and step count that a sampling loop announces for its next calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from l2c_rt.runtime.calls import StepError

LANES = {"cond": 0, "uncond": 1}


class StepHint(NamedTuple):
    """Lane, step and number of steps, as far as the loop announces them."""

    lane: int | None = None
    step: int | None = None
    num_steps: int | None = None


NO_HINT = StepHint()


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
        self._open.append(StepHint(LANES[name] if lanes > 1 else 0, step, num_steps))
        try:
            yield
        finally:
            self._open.pop()

    def current(self, lane: int | None) -> StepHint:
        """The hint for a call with `lane=`; StepError where the context is of another lane."""
        if not self._open:
            return StepHint(lane)
        hint = self._open[-1]
        if lane is not None and lane != hint.lane:
            raise StepError(f"lane {lane} was called inside the context of lane {hint.lane}")
        return hint
