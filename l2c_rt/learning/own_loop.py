"""Pairs from a loop of the user's own: the loop runs as ever, and every evaluation is learned from.

What the model predicts in full goes back to the loop and is the teacher.  No scheduler, guidance or
images are known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from l2c_rt import adapters
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.adapters.own.site_passes import Recording, SitePasses
from l2c_rt.adapters.own.unet import describe_unet
from l2c_rt.comparison.loop_runs import Loop, isolated
from l2c_rt.families import OWN_LOOP
from l2c_rt.learning.options import LearnOptions, LoopOptions
from l2c_rt.learning.rehearsal import Rehearsal, check_counts, check_modes, rehearse
from l2c_rt.learning.state import Gathering, LearnState, Sums, draw_seed, tensors_of
from l2c_rt.learning.task import Task
from l2c_rt.runtime.loop_model import LoopModel, Place

MAX_SEED = 1 << 31
"""What every library takes as a seed."""


def loop_task(
    model: nn.Module, loop: Loop, options: LearnOptions, checkpointing: bool, compares: bool
) -> Task:
    """The task of learning in `loop`, which is run twice before anything is learned.

    `compares` says that a fit report will compare what the loop returns.  Raises TypeError for a
    model without branches, ValueError for a loop in which nothing can be learned.
    """
    assert options.own_loop is not None
    bound_model = _described(model, options.own_loop)
    rows = OWN_LOOP.valid_rows(options.steps)
    seeds = [loop_seed(options.seed, -1, rank) for rank in (0, 1)]
    rehearsal = rehearse(bound_model, loop, options, seeds, compares=compares)
    source = OwnLoopPairs(bound_model, loop, options, rehearsal, checkpointing)
    return Task(bound_model, OWN_LOOP, options, rows, source, model_fingerprint(model))


def _described(model: nn.Module, own_loop: LoopOptions) -> BoundModel:
    if own_loop.granularity == "shell":
        return adapters.describe(model, describe_unet)
    bound_model = adapters.describe(model, sites=own_loop.sites, granularity=own_loop.granularity)
    if bound_model.open_stage is None:
        bound_model = own_instead(bound_model, "learning records what the model itself does")
    return bound_model


def loop_seed(seed: int, iteration: int, rank: int) -> int:
    """The seed that the loop is given."""
    return draw_seed(seed, iteration, rank) % MAX_SEED


class OwnLoopPairs:
    """The pairs of `loop_task`: every iteration is one run of the loop."""

    kind, sampler = "own loop", ""

    def __init__(
        self,
        bound_model: BoundModel,
        loop: Loop,
        options: LearnOptions,
        rehearsal: Rehearsal,
        checkpointing: bool,
    ) -> None:
        assert options.own_loop is not None
        self._loop, self._options, self._bound_model = loop, options, bound_model
        self._rows = OWN_LOOP.valid_rows(options.steps)
        self._passes = SitePasses(bound_model, rehearsal.streams, checkpointing)
        self._recordings: dict[int, Recording] = {}
        self._waiting: dict[int, PairOfCall] = {}
        self._calls_per_step = options.own_loop.calls_per_step
        self._gathering: Gathering | None = None
        self._model = LoopModel(bound_model.model, self._calls_per_step, self._call)
        self.timesteps, self.costs = rehearsal.timesteps, rehearsal.costs

    def gather(self, state: LearnState, rank: int) -> Sums:
        """Run the loop once; a student pass at every call that may reuse."""
        seed = loop_seed(self._options.seed, state.iteration, rank)
        gathering = Gathering(state, self._options, OWN_LOOP, self._bound_model.device)
        self._gathering = gathering
        self._model.begin_run()
        self._passes.refresh()
        try:
            with isolated(self._bound_model.device, seed):
                self._loop(self._model, seed)
        finally:
            # From now on, the loop's model is the model.
            self._gathering = None
            self._recordings.clear()
            self._waiting.clear()
        check_counts(self._model.counts, self._options, again=True)
        return gathering.sums()

    def _call(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        lane, step = place
        before = self._recordings.pop(lane, None)
        if self._gathering is None or step >= self._options.steps:
            return self._bound_model.model(*args, **kwargs)
        check_modes(args, kwargs)
        recording = Recording() if step + 1 in self._rows else None
        with torch.no_grad():
            keep = None if recording is None else recording.keep
            teacher = self._passes.run(keep, args, kwargs)
        if recording is not None:
            self._recordings[lane] = recording
        if before is not None:
            self._waiting[lane] = PairOfCall(teacher, partial(self._student, before, args, kwargs))
            self._learn(self._gathering, step)
        return teacher

    def _learn(self, gathering: Gathering, step: int) -> None:
        """One pair per call, or, with guidance, one when all calls of an evaluation are there."""
        scale = self._options.cfg_scale
        if scale is not None and len(self._waiting) < self._calls_per_step:
            return
        calls = [self._waiting.pop(lane) for lane in sorted(self._waiting)]

        def predicted(predictions: Sequence[Any]) -> Any:
            return predictions if scale is None else guided(predictions, scale)

        gathering.add(
            self._rows[step],
            predicted([call.teacher for call in calls]),
            lambda scores: predicted([call.student(scores) for call in calls]),
        )

    def _student(
        self, before: Recording, args: tuple[Any, ...], kwargs: dict[str, Any], scores: Tensor
    ) -> Any:
        return self._passes.run(partial(before.mix, scores.unbind()), args, kwargs)


class PairOfCall(NamedTuple):
    """What a call predicts in full, and as a function of the scores [K]."""

    teacher: Any
    student: Callable[[Tensor], Any]


def guided(predictions: Sequence[Any], scale: float) -> list[Tensor]:
    """uncond + scale (cond - uncond), of every tensor: of two calls, cond first, or of the halves
    of one call's batch, uncond first, which is how diffusers' pipelines have them."""
    tensors = [tensors_of(prediction) for prediction in predictions]
    if len(tensors) == 2:
        pairs = list(zip(*tensors, strict=True))
    else:
        pairs = [(cond, uncond) for uncond, cond in (part.chunk(2) for part in tensors[0])]
    return [uncond.float() + scale * (cond.float() - uncond.float()) for cond, uncond in pairs]
