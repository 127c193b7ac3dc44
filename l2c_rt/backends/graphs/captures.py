"""What was captured for one kind of arguments, and the state of the model that it holds for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2c_rt.adapters.own.modes import run_inside
from l2c_rt.adapters.wrappers import compiled_by_torch
from l2c_rt.backends.graphs.attributes import Attributes
from l2c_rt.backends.graphs.capture_watch import CaptureWatch, NotRepeatableError
from l2c_rt.device.graph_sequence import GraphSequence
from l2c_rt.device.graphs import Recorder
from l2c_rt.memory.kept_values import KeptValues

StepKey = tuple[int, tuple[object, ...]]
"""A distinct step of the plan, and the structure of the numbers that it reads."""


class WholeForward(NamedTuple):
    """The graph of an evaluation, and what it gives: the same tensors at every replay."""

    graph: GraphSequence
    out: object


class Captures:
    """Graphs of one pool: dropped together, after the device has finished.

    `models` are those whose attributes a graph has frozen: the user's, and the copy whose forward
    runs.  `seen` are the distinct steps that have run; `volatile` are the attributes that the
    forward itself writes to, as far as that is known.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        device: torch.device,
        recorder: Recorder,
        volatile: set[str],
    ) -> None:
        self.recorder = recorder
        self.whole: dict[StepKey, WholeForward] = {}
        self.seen: set[StepKey] = set()
        self._models, self._device, self._volatile = models, device, volatile
        self._compiled = any(compiled_by_torch(module) for m in models for module in m.modules())
        self._attributes: Attributes | None = None
        self._moves: int | None = None
        self._taken: list[tuple[Tensor, ...]] = []

    def capture(self, work: Callable[[], object], values: KeptValues) -> GraphSequence:
        """The graph of work that has run before.

        Raises NotRepeatableError where a replay would not do what the work does.
        """
        attributes = Attributes(*self._models)
        watches: list[CaptureWatch] = []

        def watched() -> None:
            # Code that torch.compile made is compiled anew where somebody watches.
            watches[:] = [] if self._compiled else [CaptureWatch(self._device.type)]
            run_inside([mode for watch in watches for mode in watch.modes()], work)

        try:
            graph = self.recorder.capture(watched)
        except RuntimeError as error:
            text = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise NotRepeatableError(text) from error
        changed = attributes.difference()
        if changed:
            self._volatile.add(changed)
            raise NotRepeatableError(f"{changed} is written to")
        self._attributes = attributes
        # The oldest graph's: one that moved since is dropped with all others.
        self._moves = values.moves if self._moves is None else self._moves
        self._taken += [watch.taken() for watch in watches]
        return GraphSequence([graph], self._device, values.arenas)

    def moved(self, values: KeptValues) -> bool:
        """Whether kept outputs have other addresses: another kind of arguments took theirs."""
        return self._moves is not None and self._moves != values.moves

    def outdated(self) -> bool:
        """Whether attributes of the model are others: a scale of LoRA, an attention processor."""
        attributes = self._attributes
        return attributes is not None and bool(attributes.difference(self._volatile))
