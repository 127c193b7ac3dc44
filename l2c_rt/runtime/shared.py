"""What all runs of a compiled model share: its description, plan, backend and counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Backend
from l2c_rt.plan.cost import Cost
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.prepare import prepare
from l2c_rt.runtime.fingerprint import fingerprint
from l2c_rt.runtime.proof import Proof
from l2c_rt.runtime.run_counts import RunCounts
from l2c_rt.schedule.cache_schedule import CacheSchedule

Describe = Callable[[Any], BoundModel]
"""The user's model -> its description.  Called again whenever the model has changed."""

SelectBackend = Callable[[BoundModel], Backend]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """The model as it was at one moment, and all that was made for it, handed out as one.

    A run that takes a plan from one version and slots from another would read behind them.
    """

    model: BoundModel
    backend: Backend
    plan: Plan
    cost: Cost
    fingerprint: int

    @property
    def num_slots(self) -> int:
        """The plan's slots, and those that the backend wants beside them."""
        return self.plan.num_slots + self.backend.extra_slots

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the model is not run faster, and what of it is not carried out."""
        return self.backend.reasons + self.model.notes


class SharedModel:
    """A model with its schedule.  `current()` is asked at the start of every run."""

    def __init__(
        self,
        model: BoundModel,
        schedule: CacheSchedule,
        describe: Describe,
        select_backend: SelectBackend,
        *,
        strict: bool,
        proof: Proof,
    ) -> None:
        self.schedule = schedule
        self.strict, self.proof = strict, proof
        self.counts = RunCounts()
        self.asleep = False
        self._describe, self._select_backend = describe, select_backend
        self._lock = threading.Lock()
        self.version = self._version_of(model)
        """The last version that a run began with."""
        if strict and self.version.reasons:
            raise ValueError(f"strict: {'; '.join(self.version.reasons)}")

    def current(self) -> ModelVersion:
        """The model as it is now; described, planned and verified anew where it has changed.

        Raises ValueError under `strict`, or where the schedule no longer fits.
        """
        model = self.version.model.model
        marks = fingerprint(model)
        if marks == self.version.fingerprint:
            return self.version
        if self.strict:
            raise ValueError(
                "the model's weights changed since compile, and strict=True refuses that; "
                "compile again"
            )
        with self._lock:
            # Another run may have noticed the same change meanwhile.
            if marks != self.version.fingerprint:
                described = self._describe(model)
                if described.program != self.version.model.program:
                    raise ValueError("the model's structure changed since compile; compile again")
                self.version = self._version_of(described)
                self.counts.weight_changes += 1
            return self.version

    def memory_taken(self) -> None:
        """Called by slots whenever they take memory from an arena."""
        self.counts.allocations += 1

    def _version_of(self, model: BoundModel) -> ModelVersion:
        marks = fingerprint(model.model)
        backend = self._select_backend(model)
        plan, cost = prepare(model.program, self.schedule, backend.passes)
        return ModelVersion(model, backend, plan, cost, marks)
