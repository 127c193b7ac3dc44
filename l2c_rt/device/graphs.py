"""Capturing CUDA graphs.

What can go wrong with graphs, and what keeps it from going wrong here:

- A kernel compiled or a library initialised inside a capture ends it: all is run before (`warm`).
- cuBLAS keeps one workspace per stream, which two sessions' graphs would then share: workspaces
  are dropped around every capture, so that each comes from the pool of the graphs that use it.
- Graphs that share a pool must not run at once: a pool belongs to one session, whose launches are
  ordered by `streams.StreamOrder` also across streams.
- Graphs of one pool are dropped together, after the work of their session (`StreamOrder.wait`).
- A wait for the whole device on any thread ends a capture, so nothing here does that; a garbage
  collection that frees GPU memory does too (`undisturbed`).  Because of others' waits a capture
  is tried twice.
- Other threads go on using CUDA meanwhile: errors are those of the capturing thread only.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch

from l2c_rt._C import upload_graph
from l2c_rt.device.capture_places import CapturePlaces
from l2c_rt.device.streams import device_index

Work = Callable[[], None]

_alone = threading.RLock()  # Of the process, as captures and the garbage collector are.


@dataclass(frozen=True, slots=True)
class GraphStats:
    """What a backend has captured and replayed; bytes are those of graph pools and of buffers.

    `nodes` is 0 where nobody has counted kernels.
    """

    graphs: int = 0
    nodes: int = 0
    graph_bytes: int = 0
    buffer_bytes: int = 0
    seconds: float = 0.0
    replays: int = 0
    reasons: tuple[str, ...] = ()

    def __add__(self, other: GraphStats) -> GraphStats:
        """Counts added; reasons once each."""
        numbers = [f.name for f in fields(self) if f.name != "reasons"]
        added = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        return GraphStats(**added, reasons=tuple(dict.fromkeys(self.reasons + other.reasons)))

    def __str__(self) -> str:
        if not self.graphs:
            return "nothing captured"
        kernels = f" of {self.nodes} kernels" if self.nodes else ""
        return (
            f"{self.graphs} graphs{kernels} in {self.seconds:.2f} s, "
            f"{self.replays} evaluations replayed; {self.graph_bytes / 2**20:.1f} MiB, buffers "
            f"{self.buffer_bytes / 2**20:.1f} MiB"
        )


class Graph(Protocol):
    """Something that was captured."""

    def replay(self) -> None: ...


class Recorder(Protocol):
    """Makes graphs of what work launches; all of one recorder's graphs share a pool, but for those
    after a capture that failed.

    `seconds` are what its captures have taken, `nbytes` is memory for them; `captures` tells graphs
    from work that is simply run again.
    """

    captures: bool
    seconds: float

    @property
    def nbytes(self) -> int: ...

    def warm(self, work: Sequence[Work]) -> None: ...

    def capture(self, work: Work) -> Graph: ...


class Eager:
    """No graphs: work is run again each time."""

    captures = False
    seconds = 0.0
    nbytes = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def warm(self, work: Sequence[Work]) -> None:
        return None

    def capture(self, work: Work) -> Graph:
        return _Again(work)


class _Again:
    def __init__(self, work: Work) -> None:
        self.replay = work


class CudaRecorder:
    """CUDA graphs from one of the places, which is theirs as long as one of them lives."""

    captures = True

    def __init__(self, device: torch.device, places: CapturePlaces | None = None) -> None:
        self.device, self.seconds = device, 0.0
        self._place = (places or CapturePlaces()).take(device, self)
        self._stream = self._place.stream
        self._failed: list[Any] = []

    @property
    def nbytes(self) -> int:
        return self._place.nbytes

    def warm(self, work: Sequence[Work]) -> None:
        """Run everything once where it will be captured."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(self._stream):
                for item in work:
                    item()
        finally:
            self._stream.synchronize()  # Also after an error: what it uses may be freed next.

    def capture(self, work: Work) -> Graph:
        """The graph of what `work` launches; nothing is run.

        Raises RuntimeError, with the graphs captured so far intact, where memory is short or work
        did something that cannot be captured; work has then been called twice, and the error is the
        first attempt's.
        """
        began, before = time.perf_counter(), torch.cuda.memory_reserved(self.device)
        graph: Graph = self._captured(work)
        self._place.nbytes += max(0, torch.cuda.memory_reserved(self.device) - before)
        self.seconds += time.perf_counter() - began
        return graph

    def _captured(self, work: Work) -> Any:
        try:
            return self._attempt(work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as first:
            try:
                return self._attempt(work)
            except RuntimeError as second:
                raise first from second  # Which may only be a consequence.

    def _attempt(self, work: Work) -> Any:
        graph: Any = torch.cuda.CUDAGraph()
        with undisturbed(), _fresh_cublas_workspaces(), torch.cuda.stream(self._stream):
            # Not torch.cuda.graph, which collects garbage and empties caches for every graph.
            self._stream.synchronize()
            pool = self._place.pool_for(graph)
            try:
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                work()
                graph.capture_end()
            except BaseException as error:
                self._abandon(graph, pool, error)
                raise
            self._upload(graph)
        return graph

    def _upload(self, graph: Any) -> None:
        """Else the first launch does it, milliseconds for thousands of kernels."""
        handle = handle_of(graph)
        # Memory that is short now may be free by the first launch, which says what is wrong.
        with suppress(RuntimeError, MemoryError):
            if handle is not None:
                upload_graph(device_index(self.device), handle, self._stream.cuda_stream)

    def _abandon(self, graph: Any, pool: Any, error: BaseException) -> None:
        """End a capture that failed, wherever it had come to; what went wrong is said already."""
        spoilt = isinstance(error, RuntimeError)  # By the driver, not by a check of ours.
        try:
            graph.capture_end()
        except Exception:
            spoilt = True
        if not spoilt:
            return
        with suppress(Exception):
            # Else the allocator believes that it goes on; an error where it knows better.
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        self._place.leave_pool()
        self._failed.append(graph)  # The allocator's filter still refers to it.


@contextmanager
def undisturbed() -> Iterator[None]:
    """For a capture: no other one of ours, and no garbage collection."""
    with _alone:
        enabled = gc.isenabled()
        try:
            gc.disable()
            yield
        finally:
            if enabled:
                gc.enable()


@contextmanager
def _fresh_cublas_workspaces() -> Iterator[None]:
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


def handle_of(graph: Graph) -> int | None:
    """The address of a CUgraphExec; None where this torch does not tell it."""
    tell = getattr(graph, "raw_cuda_graph_exec", None)
    return None if tell is None else int(tell())
