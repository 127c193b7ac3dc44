"""What is done at each cut point of a model in one distinct step of a plan."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from l2c_rt.adapters.own.sites import Site
from l2c_rt.plan.ops import Compute, LeaveOut, Predict, Reuse, StepPlan


class Act(Enum):
    """What is done at a cut point."""

    KEEP = auto()
    REUSE = auto()
    PREDICT = auto()
    SHAPE = auto()
    NARROW = auto()
    HOLLOW = auto()


STAND_INS = frozenset({Act.REUSE, Act.PREDICT, Act.HOLLOW})
"""What is done in place of a call."""


class Action(NamedTuple):
    """`slot` is the branch's, -1 for none; cut points without an action just call their module.

    A prediction's are in `predict`, of which `slot` is any one.
    """

    act: Act
    slot: int = -1
    predict: Predict | None = None


Row = Mapping[str, Action]
"""The path of a cut point -> what is done there in one distinct step of a plan."""


def row_of(step: StepPlan, sites: Mapping[str, Site], left_out: set[str]) -> Row:
    """`left_out` are the branches that some step neither runs nor reads."""
    actions: dict[str, Action] = {}
    for op in step:
        if not isinstance(op, Compute | Reuse | Predict | LeaveOut):
            continue
        site, hollow = sites[op.branch], Action(Act.HOLLOW)
        shape = Action(Act.NARROW if site.narrow else Act.SHAPE)
        if isinstance(op, Reuse):
            _act(actions, site, hollow, Action(Act.REUSE, op.slot))
        elif isinstance(op, Predict):
            _act(actions, site, hollow, Action(Act.PREDICT, op.slots[0], op))
        elif isinstance(op, LeaveOut):
            _act(actions, site, hollow, hollow)
        elif op.slot is not None:
            _act(actions, site, shape, Action(Act.KEEP, op.slot))
        elif op.branch in left_out:
            _act(actions, site, shape, shape)
    return actions


def _act(actions: dict[str, Action], site: Site, earlier: Action, last: Action) -> None:
    actions |= dict.fromkeys(site.children, earlier)
    actions[site.children[-1]] = last


def inside_of(paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The cut points inside of each that has any: they are not called where it is not."""
    inside = {path: tuple(p for p in paths if p.startswith(f"{path}.")) for path in paths}
    return {path: inner for path, inner in inside.items() if inner}


def alike_of(sites: list[Site]) -> list[int]:
    """How many of the sites are the same child of a block of the same list, for each of them."""
    kinds = [re.sub(r"\.\d+(?!.*\.\d)", ".*", site.children[-1]) for site in sites]
    counts = Counter(kinds)
    return [counts[kind] for kind in kinds]


def copy_of(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def hollow_like(out: Any, before: Any, *, narrow: bool) -> Any:
    """What stands for an output that only the branch's last child would read: NaN, so that it shows
    where anything else reads it, without memory of its own.

    `narrow` is of width 2: activations and concatenations on the way then cost next to nothing.
    `before` is kept where it is alike: captured graphs hold its address.
    """
    hollow = tree_map(partial(_nan_like, narrow=narrow), out)
    old, new = tree_leaves(before), tree_leaves(hollow)
    alike = len(old) == len(new) and all(
        isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape
        and a.dtype == b.dtype and a.device == b.device
        for a, b in zip(old, new, strict=True)
    )  # fmt: skip
    return before if alike else hollow


def _nan_like(value: Any, *, narrow: bool) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    nan = torch.full((), torch.nan, dtype=value.dtype, device=value.device)
    width = min(2, value.shape[-1]) if narrow else value.shape[-1]
    return nan.expand(*value.shape[:-1], width)


def other_calls(path: str, now: int, first: int) -> str:
    """What is said of a cut point that is called another number of times than at evaluation 0."""
    return (
        f"{path} was called {_times(now)} and {_times(first)} at evaluation 0 of the run; the "
        "forward of a compiled model must make the same calls at every evaluation (are there "
        "arguments that skip layers?)"
    )


def _times(count: int) -> str:
    return ("not", "once", "twice")[count] if count < 3 else f"{count} times"
