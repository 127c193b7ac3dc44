"""Times on a device, read once they are there."""

from __future__ import annotations

from fake_torch_cuda import GPU, FakeCuda

from l2c_rt.device.event_times import EventTimes


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
