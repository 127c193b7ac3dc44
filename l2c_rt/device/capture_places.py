"""Where graphs are captured: a stream and a pool, used again when the graphs there are gone.

PyTorch gives the memory of a pool whose graphs are gone to nobody before its cache is emptied or
memory is short, and no memory of one stream to another.  With a new pool for each kind of arguments
that comes back after it was dropped, the memory taken would grow without end.

Streams come from one small pool per priority, again and again, and what another thread launches on
a stream that captures goes into the graph: so these have a priority of their own.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from typing import Any

import torch

PRIORITY = -2  # Of streams that capture, and of their graphs; users take 0, who times takes -1.


class CapturePlace:
    """A stream and a pool; `nbytes` is what captures there have taken."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device, priority=PRIORITY)  # type: ignore[no-untyped-call]
        self.nbytes = 0
        self._pool: Any = None
        self._keeper: object = None
        self._users: weakref.WeakSet[object] = weakref.WeakSet()

    def pool_for(self, graph: object) -> Any:
        """The handle of the pool that a graph is to be captured into, on the current stream."""
        self.add_user(graph)
        if self._pool is None:
            pool = torch.cuda.graph_pool_handle()
            self._keeper = keeper_of(pool)
            self._pool = pool
        return self._pool

    def leave_pool(self) -> None:
        """The next captures take another pool; graphs captured before keep theirs.

        For after a capture that the driver has ended: versions of PyTorch leave its pool open for
        host memory, and refuse another capture into it.
        """
        self._pool = self._keeper = None

    def add_user(self, user: object) -> None:
        """As long as it lives, the place is taken."""
        self._users.add(user)

    @property
    def is_free(self) -> bool:
        """Whether all graphs are gone, which were dropped after their work."""
        return not self._users


def keeper_of(pool: Any) -> object:
    """A graph of nothing, by which a pool lives when all others there are gone.

    A pool without graphs takes no capture again: device memory alone could be held otherwise, but
    it has memory of the host too.
    """
    graph: Any = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The CUDA Graph is empty")
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        graph.capture_end()
    return graph


class CapturePlaces:
    """The places of one compiled model, taken from any thread; their memory goes with it."""

    def __init__(self) -> None:
        self._places: list[CapturePlace] = []
        self._lock = threading.Lock()

    def take(self, device: torch.device, user: object) -> CapturePlace:
        """A place on the device that is the user's as long as it, or a graph there, lives."""
        with self._lock:
            free = (p for p in self._places if p.device == device and p.is_free)
            place = next(free, None)
            if place is None:
                place = CapturePlace(device)
                self._places.append(place)
            place.add_user(user)
            return place
