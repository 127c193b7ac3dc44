"""What is done at each whole block in one distinct step of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from l2c_rt.adapters.own.observe import Stream
from l2c_rt.backends.own_calls import CallPlan
from l2c_rt.plan.ops import Compute, Predict, StepPlan, reuses

Streams = tuple[Stream | None, ...]
"""For each output of a block, the argument that it continues."""


class BlockAction(NamedTuple):
    """What is done at a block of a group that is kept, or reused as `predict` says.

    `in_place`: the block writes to the arguments that it continues, and returns them.
    """

    computes: bool
    slot: int
    is_first: bool
    is_last: bool
    streams: Streams
    in_place: bool
    predict: Predict | None


BlockRow = Mapping[str, BlockAction]
"""By the path of the block; blocks without an action are just called."""


def block_rows(planned: CallPlan) -> list[BlockRow]:
    """Those of every distinct step of a call's plan."""
    groups = dict(zip(planned.counted.program.branch_names, planned.groups, strict=True))
    return [_row(step, groups, planned) for step in planned.counted.plan.steps]


def _row(step: StepPlan, groups: Mapping[str, tuple[str, ...]], planned: CallPlan) -> BlockRow:
    row: dict[str, BlockAction] = {}
    for op in (*(op for op in step if isinstance(op, Compute)), *reuses(step)):
        branch, predict = op.branch, op if isinstance(op, Predict) else None
        slot = op.slots[0] if isinstance(op, Predict) else op.slot
        if slot is None:
            continue
        first, last = groups[branch][0], groups[branch][-1]
        for name in groups[branch]:
            site = planned.probe.sites.get(name)
            if site is not None:
                row[name] = BlockAction(
                    isinstance(op, Compute),
                    slot,
                    name == first,
                    name == last,
                    site.streams,
                    bool(site.overwritten),
                    predict,
                )
    return row
