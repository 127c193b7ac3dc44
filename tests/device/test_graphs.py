"""Captures on a stand-in for torch.cuda: pools, workspaces, streams, errors, other threads."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from fake_torch_cuda import GPU, FakeCuda, FakeGraph

from l2c_rt.device.capture_places import PRIORITY
from l2c_rt.device.graphs import CudaRecorder, GraphStats, undisturbed


def test_a_capture_waits_for_its_stream_and_has_workspaces_of_its_own(cuda: FakeCuda) -> None:
    recorder = CudaRecorder(GPU)
    graph = recorder.capture(lambda: cuda.did("work", cuda.current.name, gc.isenabled()))
    assert cuda.log == [
        "clearCublasWorkspaces",
        ("stream.synchronize", "own"),
        ("capture_begin", (0, 1), "thread_local", "own"),
        ("work", "own", False),
        "capture_end",
        ("upload", 1, 0, 77),
        "clearCublasWorkspaces",
    ]
    assert isinstance(graph, FakeGraph)
    assert gc.isenabled()
    assert cuda.current is cuda.user
    assert recorder.nbytes == 700
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
    assert CudaRecorder(GPU)._stream.priority == PRIORITY  # type: ignore[attr-defined]
    assert PRIORITY not in (0, -1)


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
    with pytest.raises(RuntimeError, match="not permitted$") as caught:
        CudaRecorder(GPU).capture(lambda: cuda.did("work"))
    # The first one says why; what it left behind may be why the second failed.
    assert caught.value is errors[0]
    assert caught.value.__cause__ is errors[1]
    assert cuda.names().count("capture_end") == 2


def test_after_a_failed_capture_another_pool_is_taken_and_the_failed_graph_is_kept(
    cuda: FakeCuda,
) -> None:
    recorder = CudaRecorder(GPU)
    recorder.capture(lambda: None)
    # The driver ends the capture with an error, and PyTorch leaves the pool open.
    cuda.fails = {"capture_end": [RuntimeError("invalidated"), RuntimeError("not capturing")]}
    recorder.capture(lambda: None)
    recorder.capture(lambda: None)
    pools = [entry[1] for entry in cuda.log if entry[0] == "capture_begin"]
    assert pools == [(0, 1), (0, 1), (0, 2), (0, 2)]
    (failed,) = recorder._failed  # type: ignore[attr-defined]
    assert failed.pool == (0, 1)


def test_work_that_a_check_of_ours_refuses_leaves_the_pool_to_the_next_capture(
    cuda: FakeCuda,
) -> None:
    recorder = CudaRecorder(GPU)
    cuda.fails["work"] = [ValueError("not repeatable")]
    with pytest.raises(ValueError, match="not repeatable"):
        recorder.capture(lambda: cuda.did("work"))
    recorder.capture(lambda: None)
    pools = [entry[1] for entry in cuda.log if entry[0] == "capture_begin"]
    assert pools == [(0, 1), (0, 1)]
    assert not recorder._failed


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


def test_a_capture_waits_for_the_end_of_another_threads(cuda: FakeCuda) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        assert go_on.wait(10)
        cuda.did("worked", gc.isenabled())

    first = threading.Thread(target=lambda: CudaRecorder(GPU).capture(slow))
    first.start()
    assert inside.wait(10)
    cuda.log.clear()
    second = threading.Thread(target=lambda: CudaRecorder(GPU).capture(lambda: None))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    first.join(10)
    second.join(10)
    assert cuda.log[0] == ("worked", False)
    assert "capture_begin" in cuda.names()[cuda.names().index("capture_end") :]
    assert gc.isenabled()


def test_undisturbed_may_be_asked_for_again_inside() -> None:
    with undisturbed():
        with undisturbed():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_stats_add_up_and_every_reason_is_said_once() -> None:
    first = GraphStats(2, 10, 100, 1000, 0.5, 7, ("short of memory",))
    second = GraphStats(1, 20, 200, 2000, 0.25, 3, ("short of memory", "odd"))
    both = GraphStats(3, 30, 300, 3000, 0.75, 10, ("short of memory", "odd"))
    assert first + second == both
    assert sum([first, second], GraphStats()) == both


def test_stats_say_graphs_kernels_and_mebibytes() -> None:
    stats = GraphStats(2, 10, 3 << 19, 1 << 20, 0.5, 7)
    assert str(stats) == (
        "2 graphs of 10 kernels in 0.50 s, 7 evaluations replayed; 1.5 MiB, buffers 1.0 MiB"
    )
    assert str(GraphStats(buffer_bytes=1)) == "nothing captured"


def test_a_graph_is_uploaded_once_before_it_is_launched_and_an_attempt_that_fails_is_not(
    cuda: FakeCuda,
) -> None:
    cuda.fails["work"] = [RuntimeError("invalidated")]
    cuda.fails["upload"] = [MemoryError("short of memory")]
    recorder = CudaRecorder(GPU)
    graphs = [recorder.capture(lambda: cuda.did("work")) for _ in range(2)]
    for graph in graphs * 2:
        graph.replay()
    relevant = [name for name in cuda.names() if name in ("work", "upload", "replay")]
    assert relevant == ["work", "work", "upload", "work", "upload", *4 * ["replay"]]


def test_where_this_torch_tells_no_handle_nothing_is_uploaded(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FakeGraph, "raw_cuda_graph_exec")
    CudaRecorder(GPU).capture(lambda: None)
    assert "upload" not in cuda.names()
