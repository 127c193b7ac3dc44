"""Arenas in GPU memory, against the stand-in driver.

test_arena_cuda.py runs each case in a process of its own, with the stand-in as libcuda.so.1:
python tests/cuda_arena_cases.py CASE
"""

from __future__ import annotations

import ctypes

from fake_cuda import Driver, error_of, names, run_case

from l2c_rt._C import Arena, GraphLoop, View, cuda_available, wait_for_event

KIB64 = 65536
GIB = 1 << 30
SETUP = [
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuCtxPushCurrent_v2",
    "cuEventCreate",
    "cuMemGetAllocationGranularity",
    "cuMemAddressReserve",
]
TAKE = ["cuMemCreate", "cuMemMap", "cuMemSetAccess"]
FILL = ["cuEventSynchronize", "cuMemsetD8Async", "cuStreamSynchronize"]
USE = ["cuStreamIsCapturing", "cuStreamWaitEvent", "cuEventRecord"]


def case_a_life_makes_these_calls_in_this_order(driver: Driver) -> None:
    assert cuda_available()
    assert names(driver.calls()) == ["cuInit", "cuDeviceGetCount"]
    arena = Arena(3, 300, device=1)
    assert driver.calls() == [
        *(("cuDeviceGetCount", 0), ("cuDeviceGet", 1), ("cuDeviceGetAttribute", 1)),
        *(("cuDevicePrimaryCtxRetain", 1), ("cuEventCreate", 2)),
        ("cuMemGetAllocationGranularity", 1),
        ("cuMemAddressReserve", KIB64),
        ("cuMemCreate", KIB64),
        ("cuMemMap", KIB64),
        ("cuMemSetAccess", KIB64),
    ]
    arena.sleep()
    assert names(driver.calls()) == ["cuEventSynchronize", "cuMemUnmap", "cuMemRelease"]
    arena.wake()
    assert names(driver.calls()) == TAKE
    arena.poison()
    assert names(driver.calls()) == FILL
    del arena
    assert driver.calls() == [
        ("cuEventSynchronize", 0),
        ("cuMemUnmap", KIB64),
        ("cuMemRelease", 1),
        ("cuMemAddressFree", KIB64),
        ("cuEventDestroy_v2", 0),
        ("cuDevicePrimaryCtxRelease_v2", 1),
    ]
    driver.check_clean()


def case_a_large_arena_is_a_few_chunks_in_one_reservation(driver: Driver) -> None:
    arena = Arena(5, GIB // 2, device=0)
    calls = driver.calls()
    sizes = [GIB, GIB, GIB // 2]
    assert [size for name, size in calls if name == "cuMemAddressReserve"] == [sum(sizes)]
    assert [size for name, size in calls if name == "cuMemCreate"] == sizes
    assert [size for name, size in calls if name == "cuMemMap"] == sizes
    assert [size for name, size in calls if name == "cuMemSetAccess"] == [sum(sizes)]
    arena.sleep()
    assert [size for name, size in driver.calls() if name == "cuMemUnmap"] == sizes[::-1]
    assert arena.mapped_bytes == 0
    del arena
    driver.check_clean()


def case_sleep_and_wake_keep_the_address_and_count(driver: Driver) -> None:
    arena = Arena(4, KIB64, device=0)
    base = arena.base
    assert (arena.awake, arena.mapped_bytes, arena.reserved_bytes) == (True, 4 * KIB64, 4 * KIB64)
    for cycle in range(1, 4):
        arena.sleep()
        arena.sleep()
        assert (arena.awake, arena.mapped_bytes, arena.base) == (False, 0, base)
        arena.wake()
        arena.wake()
        assert (arena.awake, arena.mapped_bytes, arena.base) == (True, 4 * KIB64, base)
        assert (arena.sleeps, arena.wakes, arena.allocations) == (cycle, cycle, cycle + 1)
    del arena
    driver.check_clean()


def case_an_arena_dropped_asleep_frees_its_addresses(driver: Driver) -> None:
    arena = Arena(1, 1, device=0)
    arena.sleep()
    driver.calls()
    del arena
    assert names(driver.calls()) == [
        *("cuEventSynchronize", "cuMemAddressFree", "cuEventDestroy_v2"),
        "cuDevicePrimaryCtxRelease_v2",
    ]
    driver.check_clean()


def case_poison_writes_every_byte(driver: Driver) -> None:
    arena = Arena(3, 70_000, device=0)
    arena.poison()
    assert ctypes.string_at(arena.base, arena.reserved_bytes) == b"\xff" * arena.reserved_bytes
    arena.sleep()
    assert "wake()" in str(error_of(arena.poison))
    arena.wake()
    assert ctypes.string_at(arena.base, 64) == b"\0" * 64
    del arena
    driver.check_clean()


def case_a_view_keeps_the_memory_alive(driver: Driver) -> None:
    arena = Arena(2, 4096, device=1)
    view = arena.view(1, [8, 128], "float32")
    assert isinstance(view, View)
    assert view.__dlpack_device__() == (2, 1)
    capsules = [view.__dlpack__(stream=s, max_version=(1, 0)) for s in (None, -1, 1, 2, 0x7F00)]
    assert arena.live_views == len(capsules)
    arena.poison()
    base = arena.base
    del arena, view
    assert driver.left_over > 0
    assert ctypes.string_at(base + 4096, 16) == b"\xff" * 16
    del capsules
    driver.check_clean()


def case_a_view_refuses_what_it_cannot_honour(driver: Driver) -> None:
    arena = Arena(2, 4096, device=1)
    view = arena.view(0, [4], "bfloat16")
    for request in ({"stream": 0}, {"stream": -2}, {"copy": True}, {"dl_device": (1, 0)}):
        assert isinstance(error_of(view.__dlpack__, **request), BufferError)
    assert view.__dlpack__(dl_device=(2, 1), copy=False) is not None
    arena.sleep()
    assert isinstance(error_of(view.__dlpack__), BufferError)
    assert "wake()" in str(error_of(arena.view, 0, [4], "bfloat16"))
    del arena, view
    driver.check_clean()


def case_work_on_any_stream_is_waited_for_and_nothing_else(driver: Driver) -> None:
    arena = Arena(1, KIB64, device=0)
    loop = GraphLoop(0, [0x11])
    driver.calls()
    for stream in (0x77, 0x78, 0x77):
        loop.launch(stream)
        arena.used_on(stream)
        # One event stands for all streams: each waits for what it stood for before.
        assert driver.calls()[1:] == [(call, stream) for call in USE]
    arena.sleep()
    assert names(driver.calls())[0] == "cuEventSynchronize"
    del arena, loop
    driver.check_clean()


def case_in_a_capture_the_use_of_memory_is_its_owners_to_order(driver: Driver) -> None:
    arena = Arena(1, KIB64, device=0)
    driver.calls()
    driver.capture(True)
    arena.used_on(0x77)
    assert names(driver.calls()) == ["cuStreamIsCapturing"]
    driver.capture(False)
    for call in USE:
        driver.fail(call)
        assert call in str(error_of(arena.used_on, 0x77))
    del arena
    driver.check_clean()


def case_the_wait_for_an_event_is_no_wait_for_the_device(driver: Driver) -> None:
    driver.calls()
    ours = ctypes.c_void_p()
    ctypes.CDLL("libcuda.so.1").fake_event(ctypes.byref(ours))
    assert ours.value is not None
    wait_for_event(1, ours.value)
    assert "cuEventSynchronize" in names(driver.calls())
    driver.fail("cuEventSynchronize")
    assert "earlier work" in str(error_of(wait_for_event, 1, ours.value))
    driver.check_clean()


if __name__ == "__main__":
    run_case(globals())
