"""Walks the ops of one evaluation.  What an op does is the backend's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from l2c_rt.plan import StepPlan

if TYPE_CHECKING:
    from l2c_rt.backends.frame import Frame, OpTable


def run_step(table: OpTable, step: StepPlan, frame: Frame) -> Any:
    """Run one evaluation and give the model's own return value."""
    for op in step:
        table[type(op)](op, frame)
    return frame.bound.finish(frame.state)
