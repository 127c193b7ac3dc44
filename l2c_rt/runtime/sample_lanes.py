"""In which lane each sample of a call is, where predictions have coefficients for each lane.

Under guidance cond and uncond are lanes: two calls of a step, or the halves of one batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt.plan.ops import Plan
from l2c_rt.runtime.calls import Tick


def check_lanes(lanes: int, calls_per_step: int) -> None:
    """Raise ValueError where the calls of a step are not the lanes of the predictions."""
    if lanes not in (1, calls_per_step) and (lanes, calls_per_step) != (2, 1):
        raise ValueError(
            f"the predictions have coefficients for {lanes} lanes, the loop has {calls_per_step} "
            "calls per step; fit anew with as many calls_per_step, or with lanes=False"
        )


def sample_lanes(x: Tensor, lanes: int, call: int, calls_per_step: int) -> tuple[int, ...]:
    """The lane of every sample of the first call of a run, none where all are in the first lane.

    Halves of a batch are lanes where they are of the same latents, as guidance makes them; a batch
    that is not guided is in the first lane.  Shapes: x [B, ...].
    """
    if lanes == 1:
        return ()
    check_lanes(lanes, calls_per_step)
    if calls_per_step > 1:
        return (call,) * len(x)
    return halves(len(x)) if are_halves(x) else ()


class SampleLanes:
    """The lane of each sample at the calls of runs; whether a batch is guided is seen at a run's
    first call."""

    def __init__(self) -> None:
        self._lanes: tuple[int, ...] = ()

    def at(self, tick: Tick, x: Tensor, plan: Plan, calls_per_step: int) -> tuple[int, ...]:
        """Those of a call.  Shapes: x [B, ...]."""
        if tick.first or calls_per_step > 1:
            self._lanes = sample_lanes(x, plan.lanes, tick.lane, calls_per_step)
        return self._lanes


def halves(rows: int) -> tuple[int, ...]:
    """The lanes of a guided batch, whose halves are those of one set of latents."""
    return tuple(int(row >= rows // 2) for row in range(rows))


def are_halves(x: Tensor) -> bool:
    """Whether both halves of a batch are of the same latents."""
    if len(x) % 2:
        return False
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        # Nothing can be read while a user captures, and who captures has a guided loop.
        return True
    first, second = x.chunk(2)
    return torch.equal(first, second)
