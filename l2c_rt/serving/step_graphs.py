"""CUDA graphs of the evaluations of batches: one per kind of evaluation and bucket of samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from l2c_rt.device.graphs import CudaRecorder, Graph, Recorder
from l2c_rt.device.streams import wait_for_current_stream
from l2c_rt.memory.request_slots import BatchSlots, RequestSlots

Evaluate = Callable[[Tensor, Tensor, Tensor | None, BatchSlots], Tensor]
"""(x [n, ...], t [n], labels [n] or None, their slots) -> the model's output [n, ...], slots
written."""


def recorder_for(device: torch.device) -> Recorder | None:
    """What captures on this device; None where nothing does."""
    return CudaRecorder(device) if device.type == "cuda" else None


def filled(samples: int) -> int:
    """The size of the graph for so many samples: the next power of two."""
    return 1 << (samples - 1).bit_length()


@dataclass(slots=True)
class Bucket:
    """What graphs of `len(rows)` samples read; `outputs` are what they write, by kind."""

    x: Tensor
    t: Tensor
    labels: Tensor | None
    rows: Tensor
    graphs: dict[Hashable, tuple[Graph, Tensor]] = field(default_factory=dict)


class StepGraphs:
    """Batches are filled up to the next power of two with samples whose slots nobody reads.

    An evaluation reads nothing that it writes, so that it may be done twice: once to warm, and
    once by its graph.  What cannot be captured is evaluated without: `reasons` says why.
    """

    def __init__(self, recorder: Recorder, slots: RequestSlots, unused_row: int) -> None:
        self._recorder, self._slots, self._unused_row = recorder, slots, unused_row
        self._buckets: dict[Hashable, Bucket] = {}
        self.reasons: dict[str, None] = {}
        self.replays = 0

    @property
    def count(self) -> int:
        """Graphs that were captured."""
        # A copy, here and below: other threads ask.
        return sum(len(bucket.graphs) for bucket in list(self._buckets.values()))

    @property
    def nbytes(self) -> int:
        """Of the graphs' pool and what they read."""
        buffers = (t for b in list(self._buckets.values()) for t in (b.x, b.t, b.labels, b.rows))
        return self._recorder.nbytes + sum(t.nbytes for t in buffers if t is not None)

    def evaluate(
        self, kind: Hashable, evaluate: Evaluate, x: Tensor, t: Tensor, labels: Tensor | None,
        rows: Sequence[int],
    ) -> Tensor | None:  # fmt: skip
        """The outputs for samples whose slots are at `rows`; None where there is no graph."""
        if self.reasons:
            return None
        bucket = self._bucket(x, t, labels)
        count = len(rows)
        bucket.x[:count].copy_(x)
        bucket.t[:count].copy_(t)
        if labels is not None and bucket.labels is not None:
            bucket.labels[:count].copy_(labels)
        filled = [*rows, *[self._unused_row] * (len(bucket.rows) - count)]
        bucket.rows.copy_(torch.tensor(filled))
        if kind not in bucket.graphs and not self._capture(kind, evaluate, bucket):
            return None
        graph, output = bucket.graphs[kind]
        graph.replay()
        self.replays += 1
        return output[:count].clone()

    def drop(self) -> None:
        """Forget all graphs, once the device has done with them."""
        if self._buckets:
            wait_for_current_stream(self._slots.device)
            self._buckets.clear()

    def _bucket(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Bucket:
        size = filled(len(x))
        key = (size, x.shape[1:], x.dtype, labels is None)
        if key not in self._buckets:
            rows = torch.full((size,), self._unused_row, device=x.device)
            self._buckets[key] = Bucket(
                x.new_zeros((size, *x.shape[1:])), t.new_zeros(size),
                None if labels is None else labels.new_zeros(size), rows,
            )  # fmt: skip
        return self._buckets[key]

    def _capture(self, kind: Hashable, evaluate: Evaluate, bucket: Bucket) -> bool:
        outputs: list[Tensor] = []

        def work() -> None:
            slots = self._slots.at(bucket.rows)
            # The published DiT makes its frequencies on the host and moves them, which ends a
            # capture.
            with self._slots.device:
                outputs[:] = [evaluate(bucket.x, bucket.t, bucket.labels, slots)]

        try:
            self._recorder.warm((work,))
            graph = self._recorder.capture(work)
        except RuntimeError as error:
            # Also where memory is short: the batch is evaluated without, or fails by itself.
            self.reasons[f"no CUDA graphs: {error}"] = None
            self.drop()
            return False
        bucket.graphs[kind] = (graph, outputs[0])
        return True
