"""Streams and pools for captures are used again when the graphs there are gone, and only then."""

from __future__ import annotations

import warnings

import pytest
from fake_torch_cuda import GPU, FakeCuda, FakeGraph

from l2c_rt.device.capture_places import CapturePlaces, keeper_of
from l2c_rt.device.graphs import CudaRecorder


def pools(cuda: FakeCuda) -> list[tuple[int, int]]:
    """Those that were captured into, in order."""
    return [entry[1] for entry in cuda.log if entry[0] == "capture_begin"]


def test_a_pool_and_its_stream_are_the_next_recorders_when_all_graphs_are_gone(
    cuda: FakeCuda,
) -> None:
    places, streams = CapturePlaces(), []
    for _ in range(3):
        recorder = CudaRecorder(GPU, places)
        graphs = [recorder.capture(lambda: None) for _ in range(2)]
        streams.append(recorder._stream)
        del recorder, graphs
    assert pools(cuda) == [(0, 1)] * 6
    assert streams == [streams[0]] * 3


def test_a_graph_that_outlives_its_recorder_keeps_the_pool(cuda: FakeCuda) -> None:
    places = CapturePlaces()
    graph = CudaRecorder(GPU, places).capture(lambda: None)
    CudaRecorder(GPU, places).capture(lambda: None)
    assert pools(cuda) == [(0, 1), (0, 2)]
    del graph
    graphs = [CudaRecorder(GPU, places).capture(lambda: None) for _ in range(2)]
    assert pools(cuda) == [(0, 1), (0, 2), (0, 1), (0, 2)]
    assert len(graphs) == 2


def test_a_pool_is_held_as_long_as_its_place_and_not_longer(cuda: FakeCuda) -> None:
    recorder = CudaRecorder(GPU)
    recorder.capture(lambda: None)
    assert cuda.held_pools == [(0, 1)]
    # Spoilt by the driver: the pool stays open for ever.
    cuda.fails["work"] = [RuntimeError("invalidated")]
    recorder.capture(lambda: cuda.did("work"))
    assert cuda.held_pools == [(0, 2)]

    graph = recorder.capture(lambda: None)
    del recorder
    # The graph itself counts as a user.
    assert (cuda.held_pools, graph.pool) == ([], (0, 2))  # type: ignore[attr-defined]


def test_memory_that_captures_have_taken_stays_with_their_place(cuda: FakeCuda) -> None:
    places = CapturePlaces()
    first = CudaRecorder(GPU, places)
    first.capture(lambda: None)
    taken = first.nbytes
    assert taken > 0
    del first
    assert cuda.held_pools == [(0, 1)]
    assert CudaRecorder(GPU, places).nbytes == taken


def test_a_pool_is_held_by_a_graph_of_nothing_of_which_nobody_is_warned(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = FakeGraph.capture_end

    def end(graph: FakeGraph) -> None:
        ends(graph)
        warnings.warn("The CUDA Graph is empty. This usually means", stacklevel=2)

    monkeypatch.setattr(FakeGraph, "capture_end", end)
    keeper = keeper_of((0, 9))
    assert keeper.pool == (0, 9)  # type: ignore[attr-defined]
    assert cuda.names() == ["capture_begin", "capture_end"]
