"""A call of a sampling loop, its place in a run, and what its latents show.  Pure Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

Relation = Literal["again", "follows", "foreign"]
"""The input is one that the run had before; it follows from the run; neither can be seen."""


LoopNote = Literal["restarted", "unfinished", "late start", "not proved", "another loop"]
Tell = Callable[[LoopNote, str], None]


class StepError(ValueError):
    """A call that does not fit the run under way."""


class Tick(NamedTuple):
    """Where a call belongs.  `first` is set at the first call of a run."""

    step: int
    lane: int
    first: bool
    reuse: bool


class Latents(Protocol):
    """How the input of a call is related to the last run, which may be under way, and to the one
    before that."""

    def to_run(self) -> Relation: ...

    def to_run_before(self) -> Relation: ...


class Unseen:
    """Latents that show nothing."""

    def to_run(self) -> Relation:
        return "foreign"

    to_run_before = to_run


class Call(NamedTuple):
    """`t` is None where it cannot be read; `k` is what its lane counts; `step` is announced."""

    t: float | None
    lane: int
    k: int
    step: int | None
    latents: Latents
