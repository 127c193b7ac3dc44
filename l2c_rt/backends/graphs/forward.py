"""What graphs need of a model's own forward, and of what makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.graphs.unit_calls import RunUnit
from l2c_rt.backends.step_numbers import StepNumbers
from l2c_rt.device.graphs import Recorder
from l2c_rt.plan.ops import StepPlan

VisitUnit = Callable[[str, RunUnit, tuple[Any, ...], dict[str, Any]], Any]
"""What is done at a block: (its path, what calls it, args, kwargs)."""


class Forward(Protocol):
    """A model's own forward, which can be asked what it does at its blocks.

    `calls` counts those of cut points in this evaluation; `visit_unit`, where it is set, is asked
    at every block.
    """

    calls: dict[str, int]
    visit_unit: VisitUnit | None

    @property
    def root(self) -> nn.Module:
        """The module whose forward runs."""

    @property
    def numbers(self) -> StepNumbers:
        """What `load` brings to fixed addresses."""

    def load(self, evaluation: Evaluation) -> None:
        """Before an evaluation: what is of this one, and not of its distinct step."""

    def carry_out(self, step: StepPlan, evaluation: Evaluation) -> object:
        """Run one evaluation."""

    def drop_tables(self) -> None:
        """A run begins."""

    def continues(self, path: str) -> bool:
        """Whether a block is kept as one with the block before it."""


@dataclass(frozen=True, slots=True)
class GraphParts:
    """`recorder` makes a recorder for one set of graphs on a device; if not `forgiving`, what
    cannot be captured is an error."""

    recorder: Callable[[torch.device], Recorder]
    forgiving: bool = True
