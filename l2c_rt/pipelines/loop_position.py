"""Where the loop of a pipeline is, seen from the calls of one of its models.

The pipeline's scheduler says how many evaluations a run has and, by a new list of timesteps, when
one begins.  How many calls one evaluation takes shows in its first evaluation, which reuses
nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from l2c_rt.runtime.calls import StepError


@dataclass(frozen=True, slots=True)
class Part:
    """The evaluations of a loop that one model makes: `steps` of `total`, where that is known.

    Of two experts, one has the timesteps from `boundary` up (`above`), the other those below.
    """

    name: str
    steps: int
    total: int | None
    boundary: float | None = None
    above: bool = True

    def of(self, timesteps: Any) -> int:
        """How many of these timesteps are this model's."""
        if self.boundary is None:
            return len(timesteps)
        return len(self.own(timesteps))

    def own(self, timesteps: Any) -> tuple[float, ...]:
        """Those of these timesteps that are this model's."""
        listed = map(float, timesteps.tolist())
        if self.boundary is None:
            return tuple(listed)
        return tuple(t for t in listed if (t >= self.boundary) == self.above)


class Place(NamedTuple):
    """A call: one of several calls per evaluation, and the evaluation; None to compute in full."""

    lane: int
    step: int | None


class LoopPosition:
    """Counts the calls of one model in the run under way."""

    def __init__(self, pipe: object, part: Part) -> None:
        # The pipeline has the model: a reference from here would be a circle.
        self._pipe = weakref.ref(pipe)
        self.part = part
        self.runs = self.abandoned = self.lanes = self.full_calls = 0
        self._timesteps: object = None
        self._clear()

    def _clear(self) -> None:
        self._counts: list[int] = []
        self._names: dict[str | int | None, int] = {}
        self._calls = 0
        self._by_name = self._settled = False
        self._first: object = None
        self._why_full = ""

    def forget(self) -> None:
        """The run under way is given up, or over."""
        self.abandoned += 0 < max(self._counts, default=0) < self.part.steps
        self._timesteps = None
        self._clear()

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Those of the run under way that are this model's; waits for the device they are on."""
        return self.part.own(self._scheduler().timesteps)

    @property
    def begins(self) -> bool:
        """Whether the next call is of another run than the last."""
        over = min(self._counts, default=0) >= self.part.steps
        return over or self._scheduler().timesteps is not self._timesteps

    def begin(self) -> str:
        """A run begins.  The reason, if it cannot be cached.

        Raises ValueError where the loop has another number of evaluations.
        """
        self.forget()
        scheduler, part = self._scheduler(), self.part
        timesteps = scheduler.timesteps
        total, own = len(timesteps), part.of(timesteps)
        if part.total not in (None, total) or own != part.steps:
            raise ValueError(self._other_steps(total, own))
        self._timesteps = timesteps
        begin = getattr(scheduler, "begin_index", None) or 0
        loop = getattr(self._pipe(), "_num_timesteps", None)
        if begin or loop not in (None, total):
            self._why_full = (
                f"{part.name}: a loop over {total - begin if begin else loop} of the scheduler's "
                f"{total} timesteps (strength, img2img) is computed in full: the schedule is for "
                "all of them"
            )
        return self._why_full

    def place(self, name: str | int | None, timestep: Callable[[], object]) -> Place:
        """The place of a call in the context `name`; `timestep` reads the model's argument.

        Raises StepError for more calls than the run has.
        """
        if self._why_full:
            self.full_calls += 1
            return Place(0, None)
        lane = self._lane(name, timestep)
        self._calls += 1
        if lane == len(self._counts):
            self._counts.append(0)
            self.lanes = max(self.lanes, len(self._counts))
        step, ahead = self._counts[lane], max(self._counts)
        if step < ahead - 1:
            # Guidance that was off for a while: what this lane kept is older than the plan says.
            self.full_calls += 1
            return Place(lane, None)
        if step == self.part.steps:
            raise StepError(
                f"{self.part.name} was called more than {step} times in one run; is one of its "
                "calls made twice per step and not named by cache_context?"
            )
        self._counts[lane] += 1
        self.runs += lane == 0 and step + 1 == self.part.steps
        return Place(lane, step)

    def _lane(self, name: str | int | None, timestep: Callable[[], object]) -> int:
        if not self._calls:
            self._by_name = name is not None
            self._first = self._mark(timestep)
        if self._by_name:
            return self._names.setdefault(name, len(self._names))
        if not self._settled and self._calls:
            self._settled = self._mark(timestep) != self._first
        return self._calls % len(self._counts) if self._settled else len(self._counts)

    def _mark(self, timestep: Callable[[], object]) -> object:
        """Something that is the same for all calls of the first evaluation only."""
        if self._by_name:
            return None
        scheduler = self._scheduler()
        # Of the scheduler where it counts, since a timestep on a GPU would have to be waited for.
        return scheduler.step_index if hasattr(scheduler, "step_index") else timestep()

    def _scheduler(self) -> Any:
        pipe: Any = self._pipe()
        if pipe is None:
            raise RuntimeError(
                f"the pipeline whose {self.part.name} this was is gone; use the model itself "
                "(.bound_model.model), or enable the pipeline that is run"
            )
        return pipe.scheduler

    def _other_steps(self, total: int, own: int) -> str:
        part = self.part
        if part.total in (None, total):
            return (
                f"this loop gives {own} of its {total} evaluations to {part.name}, which was "
                f"enabled for {part.steps}; disable(pipe), and enable it with "
                f"steps={{{part.name!r}: {own}, ...}}"
            )
        return (
            f"the scheduler makes {total} evaluations, but {part.name} was enabled for "
            f"{part.total}; run the pipeline with the num_inference_steps for that many, or "
            f"disable(pipe) and enable it with steps={total}"
        )
