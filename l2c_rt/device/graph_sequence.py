"""Launching captured graphs again, in order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from l2c_rt._C import Arena, GraphLoop
from l2c_rt.device.graphs import Graph, handle_of
from l2c_rt.device.streams import device_index


class GraphSequence:
    """Graphs in the order in which a run launches them."""

    def __init__(self, graphs: Sequence[Graph], device: torch.device, arenas: Sequence[Arena]):
        self._graphs = tuple(graphs)
        self._device = device
        self._arenas = tuple(arenas)
        handles = [handle_of(graph) for graph in self._graphs]
        self._loop: GraphLoop | None = None
        if device.type == "cuda" and handles and None not in handles:
            known = [handle for handle in handles if handle is not None]
            self._loop = GraphLoop(device_index(device), known, self._arenas)

    def launch(self, first: int = 0, count: int | None = None) -> None:
        """Enqueue graphs [first, first + count) on the current stream.

        Raises RuntimeError while an arena that they use is asleep.
        """
        count = len(self._graphs) - first if count is None else count
        if self._loop is not None:
            stream = torch.cuda.current_stream(self._device).cuda_stream
            self._loop.launch(stream, first, count)
            return
        if not all(arena.awake for arena in self._arenas):
            raise RuntimeError("the cache's memory is asleep: call wake() before the next run")
        for graph in self._graphs[first : first + count]:
            graph.replay()
