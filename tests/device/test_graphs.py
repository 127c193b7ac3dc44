"""Captures, launches and orders of streams, on a stand-in for torch.cuda that logs what is done."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from l2c_rt.device import graphs as replay
from l2c_rt.device.event_times import EventTimes
from l2c_rt.device.graphs import CudaRecorder, Eager, GraphSequence, drain, undisturbed
from l2c_rt.device.streams import StreamOrder
from l2c_rt.runtime import timestep_check as timesteps
from l2c_rt.runtime.timestep_check import DeferredCheck

GPU = torch.device("cuda", 1)
CPU = torch.device("cpu")


class FakeCuda:
    """What l2c_rt calls of torch.cuda; `log` has the order.  `fails` names calls that raise."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.fails: dict[str, list[BaseException]] = {}
        self.user = FakeStream(self, "user")
        self.current = self.user
        self.device_now = 0
        self.capturing: FakeStream | None = None
        self.pools = 0

    def did(self, what: str, *details: Any) -> None:
        self.log.append((what, *details) if details else what)
        if self.fails.get(what):
            raise self.fails[what].pop(0)

    def names(self) -> list[str]:
        return [entry if isinstance(entry, str) else entry[0] for entry in self.log]

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.device_now = self.device_now, device.index
        try:
            yield
        finally:
            self.device_now = before

    def pool_handle(self) -> tuple[int, int]:
        self.pools += 1
        return (0, self.pools)


class FakeStream:
    cuda_stream = 77

    def __init__(self, cuda: FakeCuda, name: str = "own", priority: int = 0) -> None:
        self.cuda, self.name, self.priority = cuda, name, priority

    def synchronize(self) -> None:
        self.cuda.did("stream.synchronize", self.name)

    def wait_stream(self, other: FakeStream) -> None:
        self.cuda.did("wait_stream", self.name, other.name)

    def wait_event(self, event: FakeEvent) -> None:
        self.cuda.did("wait_event", self.name, event.stream)


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.stream, self.done = cuda, "", True
        self.device = -1

    def record(self, stream: FakeStream | None = None) -> None:
        self.stream = (stream or self.cuda.current).name
        self.device = self.cuda.device_now
        self.cuda.did("record", self.stream)

    def query(self) -> bool:
        self.cuda.did("query")
        return self.done

    def elapsed_time(self, other: FakeEvent) -> float:
        return 2.0


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.handle = cuda, 0

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert self.cuda.capturing is None, "two captures at once"
        self.cuda.capturing = self.cuda.current
        self.cuda.did("capture_begin", pool, capture_error_mode, self.cuda.current.name)

    def capture_end(self) -> None:
        self.cuda.capturing = None
        self.cuda.did("capture_end")

    def replay(self) -> None:
        self.cuda.did("replay", self.handle)

    def raw_cuda_graph_exec(self) -> int:
        return self.handle


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    stand_ins: dict[str, Any] = {
        "Stream": lambda device, priority=0: FakeStream(fake, priority=priority),
        "Event": lambda **_: FakeEvent(fake),
        "CUDAGraph": lambda: FakeGraph(fake),
        "stream": fake.stream,
        "device": fake.device,
        "current_stream": lambda device=None: fake.current,
        "current_device": lambda: fake.device_now,
        "graph_pool_handle": fake.pool_handle,
        "memory_reserved": lambda device: 100 * len(fake.log),
        "is_current_stream_capturing": lambda: fake.capturing is not None,
        "synchronize": lambda device: fake.did("device.synchronize", device),
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("_cuda_clearCublasWorkspaces", "_cuda_endAllocateToPool"):
        short = name.removeprefix("_cuda_")
        monkeypatch.setattr(
            torch._C, name, lambda *args, short=short: fake.did(short, *args), raising=False
        )
    return fake


def test_a_capture_waits_for_its_stream_and_has_workspaces_of_its_own(cuda: FakeCuda) -> None:
    recorder = CudaRecorder(GPU)
    graph = recorder.capture(lambda: cuda.did("work", cuda.current.name, gc.isenabled()))
    assert cuda.log == [
        "clearCublasWorkspaces",
        ("stream.synchronize", "own"),
        ("capture_begin", (0, 1), "thread_local", "own"),
        ("work", "own", False),
        "capture_end",
        "clearCublasWorkspaces",
    ]
    assert isinstance(graph, FakeGraph)
    assert gc.isenabled()
    assert cuda.current is cuda.user
    assert recorder.nbytes == 600
    assert recorder.seconds > 0


def test_all_captures_of_a_recorder_share_a_pool_and_two_recorders_none(cuda: FakeCuda) -> None:
    recorders = [CudaRecorder(GPU), CudaRecorder(GPU)]
    for recorder in (*recorders, *recorders):
        recorder.capture(lambda: None)
    pools = [entry[1] for entry in cuda.log if entry[0] == "capture_begin"]
    assert pools == [(0, 1), (0, 2), (0, 1), (0, 2)]


def test_streams_that_capture_are_of_a_priority_that_neither_users_nor_the_tuner_take(
    cuda: FakeCuda,
) -> None:
    assert CudaRecorder(GPU)._stream.priority == replay.PRIORITY  # type: ignore[attr-defined]
    assert replay.PRIORITY not in (0, -1)


def test_warming_comes_behind_the_callers_work_and_is_waited_for(cuda: FakeCuda) -> None:
    CudaRecorder(GPU).warm([lambda: cuda.did("work", cuda.current.name)] * 2)
    assert cuda.log == [
        ("wait_stream", "own", "user"), ("work", "own"), ("work", "own"),
        ("stream.synchronize", "own"),
    ]  # fmt: skip


def test_warming_that_fails_is_waited_for_too_since_its_memory_goes_next(cuda: FakeCuda) -> None:
    cuda.fails["work"] = [torch.OutOfMemoryError("full")]
    with pytest.raises(torch.OutOfMemoryError):
        CudaRecorder(GPU).warm([lambda: cuda.did("work")])
    assert cuda.log[-1] == ("stream.synchronize", "own")


class Odd(BaseException):
    """Neither a RuntimeError nor an Exception."""


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), ValueError("odd"), Odd()])
def test_an_error_in_the_work_ends_the_capture_and_is_the_one_that_is_raised(
    cuda: FakeCuda, error: BaseException
) -> None:
    cuda.fails = {"work": [error], "capture_end": [UserWarning("the graph is empty")]}
    with pytest.raises(type(error)) as caught:
        CudaRecorder(GPU).capture(lambda: cuda.did("work"))
    assert caught.value is error
    assert cuda.names()[-4:] == ["work", "capture_end", "endAllocateToPool",
                                 "clearCublasWorkspaces"]  # fmt: skip
    assert gc.isenabled()
    assert cuda.current is cuda.user


@pytest.mark.parametrize("where", ["capture_begin", "work", "capture_end"])
def test_a_capture_that_another_thread_has_ended_is_done_again(cuda: FakeCuda, where: str) -> None:
    cuda.fails[where] = [RuntimeError("operation failed due to a previous error during capture")]
    if where == "capture_begin":
        cuda.fails["capture_end"] = [RuntimeError("not capturing")]
    graph = CudaRecorder(GPU).capture(lambda: cuda.did("work"))
    assert isinstance(graph, FakeGraph)
    # Told to the allocator of the recorder's device before the second attempt; it would refuse one.
    (told,) = (k for k, entry in enumerate(cuda.log) if entry[0] == "endAllocateToPool")
    assert cuda.log[told][2] == (0, 1)
    begins = [k for k, name in enumerate(cuda.names()) if name == "capture_begin"]
    assert begins[0] < told < begins[1]
    assert len(begins) == 2


def test_work_that_cannot_be_captured_is_an_error_after_a_second_attempt(cuda: FakeCuda) -> None:
    errors = [RuntimeError("not permitted"), RuntimeError("not permitted either")]
    cuda.fails["work"] = list(errors)
    with pytest.raises(RuntimeError, match="either") as caught:
        CudaRecorder(GPU).capture(lambda: cuda.did("work"))
    assert caught.value is errors[1]
    assert cuda.names().count("capture_end") == 2


def test_memory_that_is_short_is_not_tried_again(cuda: FakeCuda) -> None:
    cuda.fails["work"] = [torch.OutOfMemoryError("full")]
    with pytest.raises(torch.OutOfMemoryError):
        CudaRecorder(GPU).capture(lambda: cuda.did("work"))
    assert cuda.names().count("capture_begin") == 1


def test_garbage_collection_that_was_off_stays_off(cuda: FakeCuda) -> None:
    gc.disable()
    try:
        CudaRecorder(GPU).capture(lambda: None)
        assert not gc.isenabled()
    finally:
        gc.enable()


def another_capture() -> None:
    CudaRecorder(GPU).capture(lambda: None)


def a_wait_for_the_device() -> None:
    drain(GPU)


@pytest.mark.parametrize(
    ("other", "does"),
    [(another_capture, "capture_begin"), (a_wait_for_the_device, "device.synchronize")],
)
def test_what_would_end_a_capture_of_another_thread_waits_for_its_end(
    cuda: FakeCuda, other: Callable[[], None], does: str
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        assert go_on.wait(10)
        cuda.did("worked", gc.isenabled())

    first = threading.Thread(target=lambda: CudaRecorder(GPU).capture(slow))
    first.start()
    assert inside.wait(10)
    cuda.log.clear()
    second = threading.Thread(target=other)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    first.join(10)
    second.join(10)
    assert cuda.log[0] == ("worked", False)
    assert does in cuda.names()[cuda.names().index("capture_end") :]
    assert gc.isenabled()


def test_undisturbed_may_be_asked_for_again_inside() -> None:
    with undisturbed():
        with undisturbed():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_cpu_is_not_waited_for(cuda: FakeCuda) -> None:
    drain(CPU)
    assert cuda.log == []


def test_calls_on_one_stream_wait_for_nothing(cuda: FakeCuda) -> None:
    order = StreamOrder(GPU)
    for _ in range(2):
        with order():
            cuda.did("work")
    assert cuda.log == ["work", ("record", "user"), "work", ("record", "user")]


def test_a_call_on_another_stream_waits_for_the_last_one_and_only_for_that(cuda: FakeCuda) -> None:
    order, other = StreamOrder(GPU), FakeStream(cuda, "other")
    for stream in (cuda.user, other, other, cuda.user):
        with cuda.stream(stream), order():
            cuda.did("work")
    waits = [entry for entry in cuda.log if entry[0] == "wait_event"]
    assert waits == [("wait_event", "other", "user"), ("wait_event", "user", "other")]
    assert cuda.names() == ["work", "record", "wait_event", "work", "record", "work", "record",
                            "wait_event", "work", "record"]  # fmt: skip


def test_a_call_that_fails_is_waited_for_as_well(cuda: FakeCuda) -> None:
    order = StreamOrder(GPU)
    with pytest.raises(ValueError, match="odd"), order():
        raise ValueError("odd")
    assert cuda.log == [("record", "user")]


def test_inside_a_capture_replays_are_refused_and_launches_neither_wait_nor_record(
    cuda: FakeCuda,
) -> None:
    replays, launches = StreamOrder(GPU), StreamOrder(GPU, replays=False)
    for order in (replays, launches):
        with order():
            pass
    cuda.log.clear()
    with cuda.stream(FakeStream(cuda, "captured")):
        cuda.capturing = cuda.current
        with pytest.raises(RuntimeError, match='graph="off"'), replays():
            raise AssertionError
        with launches():
            cuda.did("work")
    assert cuda.log == ["work"]


def test_a_cpu_has_no_order(cuda: FakeCuda) -> None:
    cuda.capturing = cuda.user
    with StreamOrder(CPU)():
        pass
    assert cuda.log == []


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


def test_times_are_neither_taken_nor_asked_for_inside_a_capture(cuda: FakeCuda) -> None:
    times = EventTimes(GPU)
    with times.around(3):
        pass
    cuda.capturing = cuda.user
    with times.around(4):
        pass
    assert times.ended() == []
    assert "query" not in cuda.names()
    cuda.capturing = None
    assert times.ended() == [(3, 0.002)]


@pytest.fixture
def check(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> DeferredCheck:
    """For a GPU that is not the current one; its tensors are the host's."""

    def launched(t: Any, step: int, *_: Any) -> None:
        cuda.did("check", step, cuda.device_now, cuda.current.name)

    monkeypatch.setattr(timesteps, "_check_for", lambda device: launched)
    for name in ("zeros", "empty"):
        real = getattr(torch, name)

        def made(*args: Any, real: Any = real, **kwargs: Any) -> torch.Tensor:
            result: torch.Tensor = real(*args, dtype=kwargs["dtype"])
            return result

        monkeypatch.setattr(torch, name, made)
    return DeferredCheck(4, None, GPU)


def test_a_timestep_is_checked_on_its_own_device_whichever_is_the_current_one(
    cuda: FakeCuda, check: DeferredCheck
) -> None:
    check.add(torch.zeros(2, dtype=torch.float32), 0)
    assert ("check", 0, 1, "user") in cuda.log
    assert check._copied is not None
    assert check._copied.device == 1  # type: ignore[comparison-overlap]
    assert cuda.device_now == 0


def test_checks_from_streams_in_turn_are_ordered_and_their_verdict_stays_where_it_is(
    cuda: FakeCuda, check: DeferredCheck
) -> None:
    verdict = check._verdict.data_ptr()
    check.add(torch.zeros(2, dtype=torch.float32), 0)
    cuda.log.clear()
    with cuda.stream(FakeStream(cuda, "other")):
        check.add(torch.zeros(2, dtype=torch.float32), 1)
        check.clear()
    assert cuda.log[:2] == [("wait_event", "other", "user"), ("check", 1, 1, "other")]
    assert check._verdict.data_ptr() == verdict


def test_inside_a_capture_no_timestep_is_checked_and_no_event_asked_for(
    cuda: FakeCuda, check: DeferredCheck
) -> None:
    check.add(torch.zeros(2, dtype=torch.float32), 0)
    cuda.log.clear()
    cuda.capturing = cuda.user
    check.add(torch.zeros(2, dtype=torch.float32), 1)
    check.raise_if_bad()
    assert cuda.log == []
