"""The literal backend: the model's own submodules in the model's own order, on any device.

Bitwise equal to the original model where nothing is reused, and to a naive cached forward where
something is.
"""

from __future__ import annotations

from l2c_rt.backends.backend import Evaluation, OpTable
from l2c_rt.plan.ops import Compute, Reuse, ReuseRun, RunFixed


def table() -> OpTable:
    """One function per op."""
    return {RunFixed: run_fixed, Compute: compute, Reuse: reuse, ReuseRun: reuse_run}


def run_fixed(op: RunFixed, evaluation: Evaluation) -> None:
    evaluation.bound_model.fixed[op.node](evaluation.state)


def compute(op: Compute, evaluation: Evaluation) -> None:
    branch = evaluation.bound_model.branches[op.branch]
    out = branch.compute(evaluation.state)
    if op.slot is not None:
        evaluation.slots.store(op.slot, out)
    branch.add(evaluation.state, out)


def reuse(op: Reuse, evaluation: Evaluation) -> None:
    evaluation.bound_model.branches[op.branch].add(evaluation.state, evaluation.slots.load(op.slot))


def reuse_run(op: ReuseRun, evaluation: Evaluation) -> None:
    for item in op.items:
        reuse(item, evaluation)
