"""What a run did: every branch at every evaluation, and the metric of a method that decides."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from l2c_rt.plan.decisions import NAN
from l2c_rt.plan.delta_ops import Unchanged
from l2c_rt.plan.ops import Compute, LeaveOut, Predict, StepPlan, reuses
from l2c_rt.plan.run_record import RunRecord
from l2c_rt.plan.stream_ops import HalveBatch, RestoreStream
from l2c_rt.plan.tokens import Refresh
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.schedule import heatmap
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.cells import Cells


class Act(IntEnum):
    """What was done with a branch at an evaluation."""

    NOT_RUN = -1
    COMPUTED = 0
    REUSED = 1
    PREDICTED = 2
    LEFT_OUT = 3
    """Neither run nor added: what stands after it is put there as a whole."""

    REFRESHED = 4
    """Computed on some of its tokens, and reused on the others."""


MARKS = {Act.COMPUTED: "#", Act.REUSED: ".", Act.PREDICTED: "~", Act.LEFT_OUT: " ",
         Act.REFRESHED: "%", Act.NOT_RUN: "?"}  # fmt: skip


@dataclass(frozen=True)
class LastRun:
    """A run, finished or not; print it.

    `acts` int8 [S, L, K] are of `Act`, for evaluation, call of the step and branch; `metric`
    float64 [S, L] is what the method decided by, NaN where it was not evaluated, and `metrics`
    [S, L, D] of all its decisions in a forward, of which that is the first.  `tokens` int64
    [S, L, K] are those computed of branches that reuse the others, else 0, of `num_tokens`;
    `halved` bool [S, L] are evaluations of the conditional half of the batch alone.
    """

    branches: tuple[str, ...]
    acts: npt.NDArray[np.int8]
    metrics: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    halved: npt.NDArray[np.bool_]
    num_tokens: int = 0

    @property
    def metric(self) -> npt.NDArray[np.float64]:
        """[S, L]: that of the first decision."""
        return self.metrics[..., 0]

    @property
    def computed(self) -> npt.NDArray[np.bool_]:
        """[S, L]: evaluations that computed every branch."""
        full: npt.NDArray[np.bool_] = (self.acts == Act.COMPUTED).all(axis=2)
        return full

    def schedule(self, lane: int = 0) -> CacheSchedule:
        """What one call of the steps computed, as a schedule.

        Raises ValueError for a run that has not ended.
        """
        acts = self.acts[:, lane]
        if (acts == Act.NOT_RUN).any():
            done = int((acts != Act.NOT_RUN).all(axis=1).sum())
            raise ValueError(f"last_run: the run is at evaluation {done} of {len(acts)}")
        return CacheSchedule(acts == Act.COMPUTED, self.branches, source="what the last run did")

    def plot(self, path: str | Path, lane: int = 0) -> None:
        """The map of one call of the steps, as that of a schedule (needs matplotlib)."""
        acts, tokens = self.acts[:, lane], self.tokens[:, lane]
        cells = Cells(
            acts == Act.COMPUTED, acts == Act.PREDICTED,
            np.where(acts == Act.REFRESHED, tokens / max(self.num_tokens, 1), 0.0),
            acts == Act.LEFT_OUT, self.halved[:, lane],
        )  # fmt: skip
        heatmap.draw(path, self.schedule(lane).as_fields(), cells)

    def __str__(self) -> str:
        steps, lanes, width = self.acts.shape
        fold = -(-width // 72)
        calls = f" x {lanes} calls" if lanes > 1 else ""
        lines = [
            f"{steps} evaluations{calls} x {width} branches: # computed, . reused, ~ predicted"
            + (", % some tokens computed" if self.tokens.any() else "")
            + (", blank passed over" if (self.acts == Act.LEFT_OUT).any() else "")
        ]
        for step in range(steps):
            for lane in range(lanes):
                row = self.acts[step, lane]
                marks = "".join(_mark(row[k : k + fold]) for k in range(0, width, fold))
                metric = self.metric[step, lane]
                shown = "" if np.isnan(metric) else f"  {metric:.4g}"
                half = "  half of the batch" if self.halved[step, lane] else ""
                lines.append(f"{step:>5}  {marks}{shown}{half}")
        share = float((self.acts == Act.COMPUTED).mean())
        return "\n".join([*lines, f"total  {share:.1%} computed"])


def last_run(record: RunRecord, shared: SharedModel) -> LastRun:
    """The run that a record is of.  Waits for metrics on a device."""
    branches = shared.schedule.branches
    rows = [_acts(step, branches) for step in shared.version.plan.steps]
    shape, dynamic = (record.steps, record.lanes), shared.version.model.dynamic
    parts = () if dynamic is None else dynamic.parts
    columns = [[branches.index(b) for b in part.blocks if b in branches] for part in parts]
    acts = np.full((*shape, len(branches)), Act.NOT_RUN, np.int8)
    metrics, halved = np.full((*shape, max(1, len(parts))), NAN), np.zeros(shape, np.bool_)
    tokens = np.zeros(acts.shape, np.int64)
    steps = shared.version.plan.steps
    for s in range(record.steps):
        for lane in range(record.lanes):
            done = record.done(s, lane)
            if done is not None:
                acts[s, lane], metrics[s, lane, 0] = rows[done.variant], float(done.metric)
                tokens[s, lane] = _tokens(steps[done.variant], branches)
                halved[s, lane] = any(isinstance(op, HalveBatch) for op in steps[done.variant])
                for p, part in enumerate(done.parts):
                    own = columns[p]
                    acts[s, lane, own] = np.array(rows[part.variant])[own]
                    metrics[s, lane, p] = float(part.metric)
    num_tokens = shared.version.model.program.tokens
    return LastRun(branches, acts, metrics, tokens, halved, num_tokens)


def _acts(step: StepPlan, branches: tuple[str, ...]) -> list[Act]:
    acts: dict[str, Act] = {op.branch: Act.COMPUTED for op in step if isinstance(op, Compute)}
    acts |= {op.branch: Act.LEFT_OUT for op in step if isinstance(op, LeaveOut)}
    acts |= {op.branch: Act.REUSED for op in step if isinstance(op, Unchanged)}
    for item in reuses(step):
        acts[item.branch] = Act.PREDICTED if isinstance(item, Predict) else Act.REUSED
    acts |= {op.branch: Act.REFRESHED for op in step if isinstance(op, Refresh) and op.tokens}
    restored = (op.nodes for op in step if isinstance(op, RestoreStream))
    acts |= {name: Act.LEFT_OUT for nodes in restored for name in nodes}
    return [acts[name] for name in branches]


def _tokens(step: StepPlan, branches: tuple[str, ...]) -> list[int]:
    counts = {op.branch: op.tokens for op in step if isinstance(op, Refresh)}
    return [counts.get(name, 0) for name in branches]


def _mark(acts: npt.NDArray[np.int8]) -> str:
    return MARKS[Act(int(acts[0]))] if (acts == acts[0]).all() else "+"
