"""Walks the ops of one evaluation.  What an op does is the backend's business."""

from __future__ import annotations

from typing import Any

from l2c_rt.backends.frame import Frame, OpTable
from l2c_rt.plan import StepPlan


def run_step(step: StepPlan, table: OpTable, frame: Frame) -> Any:
    """Run one evaluation and give the model's own return value."""
    for op in step:
        table[type(op)](op, frame)
    return frame.bound.finish(frame.state)
