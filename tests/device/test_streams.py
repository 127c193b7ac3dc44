"""Work of one session is ordered across streams."""

from __future__ import annotations

import pytest
from fake_torch_cuda import CPU, GPU, FakeCuda, FakeStream

from l2c_rt.device.streams import StreamOrder, wait_for_current_stream


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


def test_what_is_waited_for_is_the_sessions_own_work_and_never_the_device(cuda: FakeCuda) -> None:
    order, other = StreamOrder(GPU), FakeStream(cuda, "other")
    order.wait()
    assert cuda.log == []
    for stream in (cuda.user, other):
        with cuda.stream(stream), order():
            pass
    cuda.log.clear()
    order.wait()
    assert cuda.log == [("wait_for_event", 1, 0xE0)]
    cuda.log.clear()
    with cuda.stream(other), order():
        wait_for_current_stream(GPU)
    assert cuda.log == [("stream.synchronize", "other"), ("record", "other")]


def test_on_a_cpu_there_is_nothing_to_wait_for(cuda: FakeCuda) -> None:
    order = StreamOrder(CPU)
    with order():
        pass
    order.wait()
    wait_for_current_stream(CPU)
    assert cuda.log == []


def test_a_cpu_has_no_order(cuda: FakeCuda) -> None:
    cuda.capturing = cuda.user
    with StreamOrder(CPU)():
        pass
    assert cuda.log == []
