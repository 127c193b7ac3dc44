"""Backends: a table of op functions, the passes it wants, and what it keeps per lane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from l2c_rt.adapters.bound import Bound
from l2c_rt.backends import fused_cpu, reference
from l2c_rt.backends.frame import OpTable
from l2c_rt.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan import Plan
from l2c_rt.program import BlockProgram

NAMES = ("auto", "reference", "fused")


@dataclass(frozen=True, slots=True)
class Backend:
    """How ops are run.  `reasons` says why this backend and not a faster one."""

    name: str
    table: OpTable
    passes: Callable[[Plan, BlockProgram], Plan]
    workspace: Callable[[], Any]
    reasons: tuple[str, ...] = ()


def choose(name: str, bound: Bound) -> Backend:
    """The backend of that name for this model and device.

    "auto" is the reference on a CPU, where it is bitwise the model's own arithmetic.
    Raises ValueError for an unknown name, or for "fused" where it cannot be had, with the reason.
    """
    if name not in NAMES:
        raise ValueError(f"backend: got {name!r}, wanted one of {', '.join(map(repr, NAMES))}")
    if name == "reference":
        return _reference()
    if name == "auto" and bound.device.type == "cpu":
        return _reference()
    why_not = _why_not_fused(bound)
    if why_not and name == "fused":
        raise ValueError(f'backend="fused": {why_not}; compile with backend="reference"')
    if why_not:
        return _reference((f"fused backend not used: {why_not}",))
    return _fused_cpu(bound)


def _why_not_fused(bound: Bound) -> str:
    if bound.parts is None:
        return bound.why_no_parts
    if bound.device.type != "cpu":
        return f"no fused backend for device {bound.device}"
    return fused_cpu.not_the_whole(bound.parts)


def _reference(reasons: tuple[str, ...] = ()) -> Backend:
    return Backend(
        name="reference",
        table=reference.table(),
        passes=lambda plan, program: plan,
        workspace=lambda: None,
        reasons=reasons,
    )


def _fused_cpu(bound: Bound) -> Backend:
    parts = bound.parts
    assert parts is not None

    def passes(plan: Plan, program: BlockProgram) -> Plan:
        return fuse_reuse_runs(hoist_conditioning(plan, program))

    return Backend("fused", fused_cpu.table(), passes, lambda: fused_cpu.Workspace(parts))
