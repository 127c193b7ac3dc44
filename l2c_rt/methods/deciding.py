"""What methods that decide at run time have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from l2c_rt.plan.decisions import At, Decided, DynamicMethod, ModelFacts, Part
from l2c_rt.plan.dynamic import Rows, worst_schedule
from l2c_rt.plan.mode_fit import ModeFit
from l2c_rt.schedule.cache_schedule import CacheSchedule


class Deciding:
    """A method without state that is forced nowhere and knows nothing of classes of models."""

    __slots__ = ()
    granularity = "block"

    @property
    def history(self) -> int:
        return 1

    @property
    def stores(self) -> int:
        return 0

    def prediction(self, computed: tuple[int, ...], at: At) -> Mapping[int, float]:
        return {}

    def fit(self, computed: tuple[int, ...], at: At) -> ModeFit | None:
        return None

    def for_model(self, facts: ModelFacts) -> DynamicMethod:
        assert isinstance(self, DynamicMethod)
        return self

    def parts(self, facts: ModelFacts) -> tuple[Part, ...]:
        """One decision for each forward, about all blocks."""
        assert isinstance(self, DynamicMethod)
        return (Part(self, self.cut(facts), facts.blocks),)

    def rows(self, branches: tuple[str, ...]) -> Rows:
        """Row 0 computes everything, row 1 nothing."""
        return rows_from(branches, first=0, last=0)

    def begin(self) -> Any:
        return None

    def forced(self, state: Any, at: At) -> Decided | None:
        return None

    def after(self, state: Any, at: At, done: Decided) -> Any:
        return state

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        """That of a run which reuses at every evaluation but the first."""
        source = f"{self!r}, decided at run time"
        return worst_schedule(self.rows(branches), branches, steps, source[:1_000])


def rows_from(branches: tuple[str, ...], *, first: int, last: int) -> Rows:
    """Two rows: all computed, and only the `first` and the `last` branches.

    Raises ValueError where these are all.
    """
    if first + last >= len(branches):
        raise ValueError(
            f"the method computes {first + last} blocks at every evaluation, and the model has "
            f"{len(branches)}, so nothing could be reused"
        )
    rows = np.ones((2, len(branches)), np.bool_)
    rows[1, first : len(branches) - last] = False
    return rows
