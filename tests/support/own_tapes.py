"""CUDA graphs of models' own forwards, on tapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from taped_graphs import Tape, TapeRecorder
from torch import Tensor
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.own.describe import describe_own
from l2c_rt.api import build
from l2c_rt.backends.dynamic.backend import deciding_backend
from l2c_rt.backends.graphs.forward import GraphParts
from l2c_rt.backends.own_backend import own_backend
from l2c_rt.plan.decisions import DynamicMethod


class UncountedTape(Tape):
    """A tape whose replays, like those of a graph, no tensor counts as writes."""

    def replay(self) -> None:
        leaves = tree_leaves([call[1:] for call in self.calls])
        tensors = list({id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}.values())
        with torch.autograd._unsafe_preserve_version_counter(tuple(tensors)):
            super().replay()


class OwnRecorder(TapeRecorder):
    """Captures to tapes; what is captured has run before as a part of the model's forward."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.warmed = 1

    def capture(self, work: Callable[[], None]) -> Tape:
        tape = UncountedTape()
        tape.calls = super().capture(work).calls
        return tape


def compile_own(
    model: Any,
    schedule: Any,
    *,
    recorder: Any = OwnRecorder,
    strict: bool = False,
    granularity: str = "branch",
    merge: bool = True,
    **options: Any,
) -> Any:
    """`compile` as on a GPU for a model that runs its own forward, with tapes for graphs."""
    parts = GraphParts(recorder, forgiving=not strict)
    if isinstance(schedule, DynamicMethod):
        select = partial(deciding_backend, reasons=(), merge=merge, graphs=parts)
        return build(model, schedule, select, strict=strict, **options)
    select = partial(own_backend, merge=merge, graphs=parts)
    if granularity == "branch":
        options = {"adapter": describe_own} | options
    return build(model, schedule, select, strict=strict, granularity=granularity, **options)
