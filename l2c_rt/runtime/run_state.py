"""The calls of the run under way, as `StepClock` counts them.  Pure Python."""

from __future__ import annotations

from dataclasses import dataclass, field

from l2c_rt.runtime import loop_messages as messages
from l2c_rt.runtime.calls import Call, StepError, Tick
from l2c_rt.runtime.known_loop import KnownLoop, direction, goes_on, same_timestep


@dataclass(slots=True)
class RunState:
    """`checked`: held to the known loop.  `trusted`: reuses without a look at latents.

    `full`: computed in full from here on.  `over`: evaluations of the unfinished run before it.
    """

    steps: int
    lanes: int
    counts: list[int] = field(init=False)
    seen: list[float | None] = field(default_factory=list)
    last: float | None = None
    calls: int = 0
    over: int = 0
    checked: bool = False
    trusted: bool = False
    full: bool = False

    def __post_init__(self) -> None:
        self.counts = [0] * self.lanes

    @property
    def timesteps(self) -> list[float]:
        return [t for t in self.seen if t is not None]

    def is_at(self, k: int, t: float) -> bool:
        """Whether evaluation k had this timestep, or one that could not be read."""
        seen = self.seen[k]
        return seen is None or same_timestep(t, seen)

    def backwards(self, t: float) -> bool:
        """Whether `t` is against the direction of the run, which is falling until it shows one."""
        assert self.last is not None
        if same_timestep(t, self.last):
            return False
        return (t - self.last) * (direction(self.timesteps) or -1) < 0

    def add(self, t: float | None, lane: int, k: int) -> None:
        """A call was placed."""
        if k == len(self.seen):
            self.seen.append(t)
        if t is not None:
            self.last = t
        self.counts[lane] += 1
        self.calls += 1

    def next_known(self, t: float, known: KnownLoop) -> Tick | None:
        """The place of a call that goes on, its lane in turn, in a trusted run; else None."""
        if not self.calls or not self.trusted or not self.checked:
            return None
        k, lane = divmod(self.calls, self.lanes)
        if self.counts[lane] != k or not same_timestep(t, known.timesteps[k]):
            return None
        self.add(t, lane, k)
        return Tick(k, lane, False, True)

    def latents_start_over(self, call: Call) -> bool:
        """Whether a call of a loop that is not known begins a new run.

        By the order of timesteps, and by its latents.  Raises StepError for a call of another run.
        """
        t, k = call.t, call.k
        assert t is not None
        assert self.last is not None
        relation = call.latents.to_run()
        if relation == "foreign" and call.latents.to_run_before() == "follows":
            raise StepError(messages.another_run_goes_on(t, k))
        if same_timestep(t, self.last):
            if k == 2 and self.over == 1 and relation != "follows":
                raise StepError(messages.twice_per_step(t, k))
            # Once more at the start: a run of one evaluation, or the second stage of a solver.
            return k == 1 and relation != "follows"
        if direction(self.timesteps) == 0:
            # The sign of a loop's direction is its second timestep: a rise may be a new run.
            return t > self.last and relation == "foreign"
        return self.backwards(t) and relation != "follows"

    def is_continued_by(self, call: Call) -> bool:
        """Whether a call after this run, which has ended, goes on with it."""
        t, shown = call.t, self.timesteps
        if t is None or call.step is not None or not shown or same_timestep(t, shown[0]):
            return False
        complete = min(self.counts) == self.steps
        return call.latents.to_run() == "follows" or (complete and goes_on(t, shown))
