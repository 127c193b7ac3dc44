"""Times on a device, read once they are there."""

from __future__ import annotations

from fake_torch_cuda import CPU, GPU, FakeCuda

from l2c_rt.device.event_times import MOST_OPEN, EventTimes


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


def test_times_come_in_order_each_once_and_stop_at_the_first_that_has_not_ended(
    cuda: FakeCuda,
) -> None:
    times = EventTimes(GPU)
    for label in (3, 4, 5):
        with times.around(label):
            pass
    times._open[1][2].done = False
    assert times.ended() == [(3, 0.002)]
    assert times.ended() == []
    times._open[0][2].done = True
    assert times.ended() == [(4, 0.002), (5, 0.002)]


def test_only_the_last_times_are_kept_where_nobody_asks(cuda: FakeCuda) -> None:
    times = EventTimes(GPU)
    for label in range(MOST_OPEN + 5):
        with times.around(label):
            pass
    assert [label for label, _ in times.ended()] == list(range(5, MOST_OPEN + 5))


def test_a_cpu_is_not_timed_by_events(cuda: FakeCuda) -> None:
    times = EventTimes(CPU)
    with times.around(0):
        pass
    assert times.ended() == []
    assert cuda.log == []
