"""Step clocks for tests, and runs on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from l2c_rt.runtime.calls import LoopNote, Relation, Tick
from l2c_rt.runtime.known_loop import Source, checked_loop
from l2c_rt.runtime.step_clock import StepClock

GRID = [900.0, 700.0, 500.0, 300.0]


@dataclass
class Notes:
    """What a clock tells, by kind."""

    told: dict[LoopNote, str] = field(default_factory=dict)

    def __call__(self, kind: LoopNote, text: str) -> None:
        self.told[kind] = text


@dataclass(frozen=True)
class Latents:
    """Latents that show what the test says."""

    run: Relation = "foreign"
    before: Relation = "foreign"

    def to_run(self) -> Relation:
        return self.run

    def to_run_before(self) -> Relation:
        return self.before


def clock_for(
    steps: int,
    timesteps: list[float] | None = None,
    lanes: int = 1,
    source: Source = "timesteps=",
    notes: Notes | None = None,
) -> StepClock:
    """A clock that knows these timesteps from `source`."""
    known = None if timesteps is None else checked_loop(steps, timesteps, source)
    return StepClock(steps, lanes, known, tell=notes or Notes())


def run(
    clock: StepClock, timesteps: list[float], lanes: int = 1, latents: Relation = "foreign"
) -> list[Tick]:
    """Calls at these timesteps; from the second on, `latents` relates them to the run."""
    ticks = []
    for k, t in enumerate(timesteps):
        for _ in range(lanes):
            ticks.append(clock.tick(t, latents=Latents(latents if k else "foreign")))
            clock.done()
    return ticks


def steps(ticks: list[Tick]) -> list[int]:
    """The evaluations that they belong to."""
    return [tick.step for tick in ticks]


def reuses(ticks: list[Tick]) -> list[bool]:
    """Whether they may reuse, from evaluation 1 on."""
    return [tick.reuse for tick in ticks if tick.step]
