"""What all runs of a compiled model share: its description, plan, backend and counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.backends.backend import (
    Backend,
    Counted,
    CountsCalls,
    Workspace,
    WrongResultError,
)
from l2c_rt.backends.reference import reference_backend
from l2c_rt.plan.cost import Cost
from l2c_rt.plan.prepare import prepare
from l2c_rt.plan.run_record import RunRecord
from l2c_rt.runtime.calls import LoopNote
from l2c_rt.runtime.fingerprint import PlainAttributes, fingerprint
from l2c_rt.runtime.half_checks import with_halves
from l2c_rt.runtime.known_loop import KnownLoop
from l2c_rt.runtime.model_version import ModelVersion, under_autocast
from l2c_rt.runtime.notices import Notices, logger
from l2c_rt.runtime.operands import Operands, without_kernels
from l2c_rt.runtime.proof import REMEDY, Proof, structure
from l2c_rt.runtime.run_counts import RunCounts
from l2c_rt.runtime.token_checks import with_tokens
from l2c_rt.schedule.cache_schedule import CacheSchedule

Describe = Callable[[Any], BoundModel]
"""The user's model -> its description.  Called again whenever the model has changed."""

SelectBackend = Callable[[BoundModel], Backend]


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
        loop: KnownLoop | None = None,
    ) -> None:
        self.schedule = schedule
        self.strict, self.proof = strict, proof
        self.counts = RunCounts()
        self.last_record = RunRecord(schedule.steps)
        """Of the run that began last, whichever session's it is."""
        self.notices = Notices()
        self.asleep = False
        self.loop = loop
        """The loop of new sessions: what is known of it, or what the first complete run showed."""
        self._loop_notes: dict[LoopNote, str] = {}
        self._describe, self._select_backend = describe, select_backend
        self._lock = threading.Lock()
        self._refused: dict[int, str] = {}
        self._wrong_backend = ""
        self.version = self._version_of(model)
        """The last version that a run began with."""
        self.counted: Counted | None = None
        """Of the last run that began, where its backend counts what calls cost."""
        if strict and self.version.reasons:
            raise ValueError(f"strict: {'; '.join(self.version.reasons)}")
        logger.info("compiled %s with %s, backend %s", type(model.model).__name__,
                    schedule.source or "a schedule", self.version.backend.name)  # fmt: skip
        self.tell()

    def current(self) -> ModelVersion:
        """The model as it is now; described, planned and verified anew where it has changed.

        Raises ValueError under `strict`, or where the schedule no longer fits.
        """
        model = self.version.model.model
        marks, autocast = fingerprint(model), under_autocast(self.version.model)
        if self._is_of(self.version, marks):
            if autocast != self.version.autocast:
                self._select_again(autocast)
            return self.version
        if self.strict:
            raise ValueError(
                "the model's weights changed since compile, and strict=True refuses that; "
                "compile again"
            )
        with self._lock:
            # Another run may have noticed the same change meanwhile.
            if not self._is_of(self.version, marks):
                described = self._describe(model)
                if described.program.branch_names != self.version.model.program.branch_names:
                    raise ValueError("the model's structure changed since compile; compile again")
                self.version = self._version_of(described)
                self.counts.weight_changes += 1
                logger.info("the model changed: described, planned and verified again")
        self.tell()
        return self.version

    def reschedule(self, schedule: CacheSchedule) -> None:
        """Carry out a schedule of as many evaluations from the next run on."""
        with self._lock:
            before, self.schedule = self.schedule, schedule
            if schedule != before:
                self.version = self._version_of(self._describe(self.version.model.model))
        self.tell()

    def refuted(
        self, version: ModelVersion, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: object
    ) -> bool:
        """Whether the description that gave `out`, an evaluation that computed everything, is
        wrong; the current version is then one that runs the model's own forward.

        Raises ValueError in its place under `strict`, and where the description names no sites.
        """
        copies = version.copied_bytes > 0 or version.backend.name == "fused"
        if not self.proof.due(version.model, copies=copies):
            return False
        exact, dtype = version.backend.name == "reference", version.backend.dtype
        problem = self.proof.check(version.model, args, kwargs, out, exact=exact, dtype=dtype)
        if problem and version.model.open_stage is not None:
            self._refuse_copies(version, problem)
        elif problem:
            self.refuse(version, problem)
        return bool(problem)

    def _refuse_copies(self, version: ModelVersion, problem: str) -> None:
        """Run the model's own products from now on, in place of those on copies of its weights."""
        text = f"packed products are not used: with them {problem}"
        if self.strict:
            raise ValueError(f"strict: {text}")
        plain = version.backend.without_copies or version.backend
        with self._lock:
            if self.version is version:
                backend = replace(plain, reasons=(text, *plain.reasons))
                self.version = replace(version, backend=backend)
        self.tell()

    def refuse(self, version: ModelVersion, problem: str) -> None:
        """Run the model's own forward from now on, in place of a description that is wrong."""
        if self.strict or not version.model.sites:
            raise ValueError(f"{problem}. {REMEDY}")
        with self._lock:
            own = own_instead(version.model, problem)
            self._refused[structure(version.model)] = problem
            if self.version is version:
                self.version = self._version_of(own)
        self.tell()

    def replace_backend(self, version: ModelVersion, error: WrongResultError) -> bool:
        """Run on the reference from now on, in place of a backend that is wrong on this machine.

        True, for the current version is another then.  Raises the error where the backend was asked
        for by name, and under `strict`.
        """
        if not version.backend.replaceable:
            raise error
        with self._lock:
            self._wrong_backend = str(error)
            if self.version is version:
                self.version = self._version_of(version.model)
        self.tell()
        return True

    @property
    def cost(self) -> Cost:
        """What a run costs: counted, or from the description where that has the counts, or none yet
        are known."""
        return self.version.cost if self.counted is None else self.counted.cost

    def begun(self, workspace: Workspace) -> None:
        """A run has begun: take its counts, and warn of what its workspace notes."""
        if isinstance(workspace, CountsCalls):
            self.counted = workspace.counted
        self.tell(workspace.graph_stats.reasons)

    def tell(self, graph_reasons: tuple[str, ...] = ()) -> None:
        """Warn of what `summary()` notes, each once."""
        self.notices.tell(self.version.reasons + graph_reasons)

    def note_loop(self, kind: LoopNote, text: str) -> None:
        """Warn of what a loop has shown, once for each kind.

        Raises ValueError under `strict` where the loop is not cached as planned.
        """
        nothing_kept = self.schedule.halves is None and bool(self.schedule.compute.all())
        if kind in ("late start", "not proved") and nothing_kept:
            return
        if self.strict and kind not in ("restarted", "unfinished"):
            raise ValueError(f"strict: {text}")
        if kind not in self._loop_notes:
            self._loop_notes[kind] = text
            self.notices.tell([text])

    @property
    def loop_notes(self) -> tuple[str, ...]:
        """What the runs so far have shown of the user's loops."""
        return tuple(self._loop_notes.values())

    def memory_taken(self) -> None:
        """Called by slots whenever they take memory from an arena."""
        self.counts.allocations += 1

    def _version_of(self, model: BoundModel) -> ModelVersion:
        marks = fingerprint(model.model)
        if self._refused and model.open_stage is None:
            problem = self._refused.get(structure(model))
            model = own_instead(model, problem) if problem else model
        model = with_halves(with_tokens(model, self.schedule), self.schedule)
        backend = self._select_backend(without_kernels(model, self.schedule))
        if self._wrong_backend and backend.replaceable:
            why_not = f"fused backend not used: {self._wrong_backend}"
            backend = reference_backend(model, (why_not,), delta_form=backend.delta_form)
        plan, cost = prepare(model.program, self.schedule, backend.passes)
        attributes = PlainAttributes([] if model.fusable is None else model.fusable.modules())
        operands = Operands(plan.predictions, model.program.branch_names)
        autocast = under_autocast(model)
        return ModelVersion(model, backend, plan, cost, marks, autocast, attributes, operands)

    def _select_again(self, autocast: bool) -> None:
        with self._lock:
            if self.version.autocast != autocast:
                self.version = self._version_of(self.version.model)
        self.tell()

    @staticmethod
    def _is_of(version: ModelVersion, marks: int) -> bool:
        return marks == version.fingerprint and version.attributes.unchanged()
