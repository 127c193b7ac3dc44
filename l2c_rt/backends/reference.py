"""The literal backend: the model's own submodules in the model's own order, on any device.

Bitwise equal to the original model where nothing is reused, and to a naive cached forward where
something is.
"""

from __future__ import annotations

from l2c_rt.backends.backend import Frame, OpTable
from l2c_rt.plan.ops import Compute, Reuse, ReuseRun, RunFixed


def table() -> OpTable:
    """One function per op."""
    return {RunFixed: run_fixed, Compute: compute, Reuse: reuse, ReuseRun: reuse_run}


def run_fixed(op: RunFixed, frame: Frame) -> None:
    frame.bound.fixed[op.node](frame.state)


def compute(op: Compute, frame: Frame) -> None:
    branch = frame.bound.branches[op.branch]
    out = branch.compute(frame.state)
    if op.slot is not None:
        frame.slots.store(op.slot, out)
    branch.add(frame.state, out)


def reuse(op: Reuse, frame: Frame) -> None:
    frame.bound.branches[op.branch].add(frame.state, frame.slots.load(op.slot))


def reuse_run(op: ReuseRun, frame: Frame) -> None:
    for item in op.items:
        reuse(item, frame)
