"""In which lane each sample of a call is, where predictions have coefficients for each lane.

Under guidance cond and uncond are lanes: two calls of a step, or the halves of one batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.bound_model import PublishedLoop, State
from l2c_rt.runtime.calls import Tick
from l2c_rt.runtime.model_version import ModelVersion


def check_lanes(lanes: int, calls_per_step: int) -> None:
    """Raise ValueError where the calls of a step are not the lanes of the predictions."""
    if lanes not in (1, calls_per_step) and (lanes, calls_per_step) != (2, 1):
        raise ValueError(
            f"the predictions have coefficients for {lanes} lanes, the loop has {calls_per_step} "
            "calls per step; fit anew with as many calls_per_step, or with lanes=False"
        )


class Guided(NamedTuple):
    """A call of a guided loop: which of the step's calls it is of how many; whether the first half
    of its batch is the one without a condition, None where its labels do not say."""

    call: int = 0
    calls: int = 1
    uncond_first: bool | None = None


def sample_lanes(
    x: Tensor, lanes: int, guided: Guided, unconditional: int | None = None
) -> tuple[int, ...]:
    """The lane of every sample of the first call of a run, none where all are in the first lane.

    Halves of a batch are lanes where they are of the same latents, as guidance makes them; a batch
    that is not guided is in the conditional lane, the first one where none is known.  Lanes are in
    the order of the loop; where that is known, and the lane that is `unconditional`, in its order.
    Shapes: x [B, ...].
    """
    if lanes == 1:
        return ()
    check_lanes(lanes, guided.calls)
    if guided.calls > 1:
        # Cond and uncond in this order: so a loop of two calls is told to be.
        swaps = (lanes, unconditional) == (2, 0)
        return (1 - guided.call if swaps else guided.call,) * len(x)
    if not are_halves(x):
        return (1,) * len(x) if (lanes, unconditional) == (2, 0) else ()
    swaps = None not in (unconditional, guided.uncond_first) and (
        unconditional == int(bool(guided.uncond_first))
    )
    return tuple(1 - lane for lane in halves(len(x))) if swaps else halves(len(x))


def uncond_first(state: State, loop: PublishedLoop | None) -> bool | None:
    """Whether the first half of a batch is that without a class, by its labels; None where they do
    not say.  `loop` is the published one of the model."""
    null = None if loop is None else loop.null_label
    if null is None or len(state.x) % 2:
        return None
    if state.x.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    given = state.y if state.y is not None else tree_leaves(list(state.options.values()))
    for labels in tree_leaves(given):
        whole = isinstance(labels, Tensor) and not labels.is_floating_point()
        if not whole or labels.numel() != len(state.x):
            continue
        first, second = (labels.reshape(-1) == null).chunk(2)
        if bool(first.all()) != bool(second.all()) and not bool((first & second).any()):
            return bool(first.all())
    return None


class SampleLanes:
    """The lane of each sample at the calls of runs; whether a batch is guided is seen at a run's
    first call."""

    def __init__(self, calls_per_step: int) -> None:
        self._calls = calls_per_step
        self._lanes: tuple[int, ...] = ()

    def at(self, tick: Tick, state: State, version: ModelVersion) -> tuple[int, ...]:
        """Those of a call of a version of the model."""
        predictions = version.plan.predictions
        if predictions is None or predictions.lanes == 1:
            return ()
        if tick.first or self._calls > 1:
            order = uncond_first(state, version.model.sampling) if self._calls == 1 else None
            guided = Guided(tick.lane, self._calls, order)
            lanes, unconditional = predictions.lanes, predictions.unconditional
            self._lanes = sample_lanes(state.x, lanes, guided, unconditional)
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
