"""Graphs launched in order: through the loop, or one by one."""

from __future__ import annotations

from typing import Any

import pytest
from fake_torch_cuda import GPU, FakeCuda, FakeGraph

from l2c_rt.device import graph_sequence as replay
from l2c_rt.device.graph_sequence import GraphSequence
from l2c_rt.device.graphs import Eager


class FakeLoop:
    made: list[FakeLoop]

    def __init__(self, device: int, graphs: list[int], arenas: Any) -> None:
        self.given, self.launched = (device, graphs, arenas), []
        FakeLoop.made.append(self)

    def launch(self, stream: int, first: int, count: int) -> None:
        self.launched.append((stream, first, count))


class FakeArena:
    awake = True


def graphs(cuda: FakeCuda, count: int = 3) -> list[Any]:
    made = [FakeGraph(cuda) for _ in range(count)]
    for k, graph in enumerate(made):
        graph.handle = 1000 + k
    return made


def test_graphs_with_handles_go_through_the_loop_on_the_callers_stream(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "GraphLoop", FakeLoop)
    FakeLoop.made = []
    arena: Any = FakeArena()
    launches = GraphSequence(graphs(cuda), GPU, [arena])
    launches.launch()
    launches.launch(1)
    launches.launch(2, 1)
    (loop,) = FakeLoop.made
    assert loop.given == (1, [1000, 1001, 1002], (arena,))
    assert loop.launched == [(77, 0, 3), (77, 1, 2), (77, 2, 1)]
    assert "replay" not in cuda.names()


def test_where_this_torch_tells_no_handle_each_graph_is_replayed(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FakeGraph, "raw_cuda_graph_exec")
    arena: Any = FakeArena()
    launches = GraphSequence(graphs(cuda), GPU, [arena])
    launches.launch(1)
    assert cuda.log == [("replay", 1001), ("replay", 1002)]
    arena.awake = False
    with pytest.raises(RuntimeError, match="asleep: call wake"):
        launches.launch()


def test_graphs_beside_work_that_is_run_again_are_replayed_in_order(cuda: FakeCuda) -> None:
    again = Eager(GPU).capture(lambda: cuda.did("work"))
    GraphSequence([graphs(cuda)[0], again], GPU, []).launch()
    assert cuda.log == [("replay", 1000), "work"]
