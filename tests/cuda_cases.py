"""What test_arena_cuda.py runs, each case in a process of its own, against the stand-in driver.

python tests/cuda_cases.py CASE, with csrc/tests/fake_cuda*.c built as libcuda.so.1 on the path.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence

from l2c_rt._C import Arena, GraphLoop, View, cuda_available

KIB64 = 65536
GIB = 1 << 30
ILLEGAL_ADDRESS = 700
SETUP = [
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuCtxPushCurrent_v2",
    "cuMemGetAllocationGranularity",
    "cuMemAddressReserve",
]
TAKE = ["cuMemCreate", "cuMemMap", "cuMemSetAccess"]


class Driver:
    """The stand-in's own side: what it was asked, what is left, what shall fail."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.fake_calls.restype = ctypes.c_char_p

    def calls(self) -> list[tuple[str, int]]:
        """Calls since the last time, with their argument; what only keeps a context is left out."""
        lines = self._library.fake_calls().decode().splitlines()
        self._library.fake_forget_calls()
        pairs = [(line.split()[0], int(line.split()[1], 16)) for line in lines]
        return [pair for pair in pairs if pair[0] not in ("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2")]

    def fail(self, call: str, nth: int = 1, code: int = ILLEGAL_ADDRESS) -> None:
        self._library.fake_fail(call.encode(), nth, code)

    def set_free(self, size: int) -> None:
        self._library.fake_set_free(ctypes.c_uint64(size))

    @property
    def left_over(self) -> int:
        return int(self._library.fake_left_over())

    def check_clean(self) -> None:
        """Nothing left, nothing misused, no context left current on this thread."""
        assert self.left_over == 0
        self.check_correct()

    def check_correct(self) -> None:
        assert self._library.fake_misuses() == 0
        assert self._library.fake_depth() == 0


def error_of(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def names(calls: Sequence[tuple[str, int]]) -> list[str]:
    return [name for name, _ in calls]


def case_a_life_makes_these_calls_in_this_order(driver: Driver) -> None:
    assert cuda_available()
    assert names(driver.calls()) == ["cuInit", "cuDeviceGetCount"]
    arena = Arena(3, 300, device=1)
    assert driver.calls() == [
        ("cuDeviceGetCount", 0),
        ("cuDeviceGet", 1),
        ("cuDeviceGetAttribute", 1),
        ("cuDevicePrimaryCtxRetain", 1),
        ("cuMemGetAllocationGranularity", 1),
        ("cuMemAddressReserve", KIB64),
        ("cuMemCreate", KIB64),
        ("cuMemMap", KIB64),
        ("cuMemSetAccess", KIB64),
    ]
    arena.sleep()
    assert names(driver.calls()) == ["cuCtxSynchronize", "cuMemUnmap", "cuMemRelease"]
    arena.wake()
    assert names(driver.calls()) == TAKE
    arena.poison()
    assert names(driver.calls()) == ["cuCtxSynchronize", "cuMemsetD8_v2", "cuCtxSynchronize"]
    del arena
    assert driver.calls() == [
        ("cuCtxSynchronize", 0),
        ("cuMemUnmap", KIB64),
        ("cuMemRelease", 1),
        ("cuMemAddressFree", KIB64),
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
    expected = ["cuCtxSynchronize", "cuMemAddressFree", "cuDevicePrimaryCtxRelease_v2"]
    assert names(driver.calls()) == expected
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
        assert isinstance(error_of(lambda r=request: view.__dlpack__(**r)), BufferError)
    assert view.__dlpack__(dl_device=(2, 1), copy=False) is not None
    arena.sleep()
    assert isinstance(error_of(view.__dlpack__), BufferError)
    assert "wake()" in str(error_of(lambda: arena.view(0, [4], "bfloat16")))
    del arena, view
    driver.check_clean()


def case_a_failure_while_making_an_arena_leaves_nothing(driver: Driver) -> None:
    cuda_available()
    for call in SETUP + TAKE:
        for nth in (1, 2, 3) if call in ("cuMemCreate", "cuMemMap") else (1,):
            driver.fail(call, nth)
            error = error_of(lambda: Arena(5, GIB // 2, device=0))
            assert isinstance(error, RuntimeError), (call, nth)
            assert call in str(error)
            assert "CUDA_ERROR_ILLEGAL_ADDRESS" in str(error)
            assert "device 0" in str(error) or "nvidia-smi" in str(error)
            driver.check_clean()
    Arena(5, GIB // 2, device=0)
    driver.check_clean()


def case_a_failed_wake_sleeps_on_and_can_be_tried_again(driver: Driver) -> None:
    arena = Arena(5, GIB // 2, device=0)
    arena.sleep()
    asleep = driver.left_over
    for call in TAKE:
        for nth in (1, 2, 3) if call != "cuMemSetAccess" else (1,):
            driver.fail(call, nth)
            assert call in str(error_of(arena.wake))
            assert (arena.awake, arena.mapped_bytes) == (False, 0)
            assert driver.left_over == asleep
    assert (arena.wakes, arena.allocations) == (0, 1)
    arena.wake()
    assert arena.awake
    del arena
    driver.check_clean()


def case_a_sleep_that_cannot_wait_changes_nothing(driver: Driver) -> None:
    arena = Arena(1, KIB64, device=0)
    driver.fail("cuCtxSynchronize")
    driver.calls()
    assert "earlier work" in str(error_of(arena.sleep))
    assert "cuMemUnmap" not in names(driver.calls())
    assert (arena.awake, arena.sleeps) == (True, 0)
    arena.sleep()
    del arena
    driver.check_clean()


def case_a_sleep_that_stops_half_way_can_go_either_way(driver: Driver) -> None:
    for recover in (Arena.sleep, Arena.wake):
        for nth, mapped in ((1, 5 * GIB // 2), (2, 2 * GIB), (3, GIB)):
            arena = Arena(5, GIB // 2, device=0)
            driver.fail("cuMemUnmap", nth)
            assert "cuMemUnmap" in str(error_of(arena.sleep))
            assert (arena.mapped_bytes, arena.sleeps) == (mapped, 0)
            assert arena.awake == (nth == 1)
            recover(arena)
            assert arena.mapped_bytes == (arena.reserved_bytes if recover is Arena.wake else 0)
            del arena
            driver.check_clean()


def case_a_failed_poison_is_an_error(driver: Driver) -> None:
    arena = Arena(1, KIB64, device=0)
    for call, nth in (("cuMemsetD8_v2", 1), ("cuCtxSynchronize", 1), ("cuCtxSynchronize", 2)):
        driver.fail(call, nth)
        assert call in str(error_of(arena.poison))
    del arena
    driver.check_clean()


def case_memory_is_left_where_work_may_still_run(driver: Driver) -> None:
    arena = Arena(1, KIB64, device=0)
    driver.calls()
    driver.fail("cuCtxSynchronize")
    del arena
    assert names(driver.calls()) == ["cuCtxSynchronize", "cuDevicePrimaryCtxRelease_v2"]
    driver.check_correct()


def case_too_little_memory_is_a_memory_error_with_the_numbers(driver: Driver) -> None:
    cuda_available()
    driver.set_free(GIB + KIB64)
    error = error_of(lambda: Arena(5, GIB // 2, device=0))
    assert isinstance(error, MemoryError)
    for part in ("CUDA_ERROR_OUT_OF_MEMORY", str(GIB), str(5 * GIB // 2), "empty_cache"):
        assert part in str(error)
    assert f"{KIB64} of {1 << 40} free" in str(error)
    driver.check_clean()
    arena = Arena(1, GIB, device=0)
    arena.sleep()
    driver.set_free(KIB64)
    assert isinstance(error_of(arena.wake), MemoryError)
    assert not arena.awake
    driver.set_free(GIB)
    arena.wake()
    del arena
    driver.check_clean()


def case_a_device_that_is_not_there_is_a_value_error(driver: Driver) -> None:
    for device in (2, 7):
        error = error_of(lambda d=device: Arena(1, 1, device=d))
        assert isinstance(error, ValueError)
        assert f"device {device}: this process sees 2 GPU(s)" in str(error)
    driver.check_clean()


def case_graphs_are_launched_in_order(driver: Driver) -> None:
    arena = Arena(1, KIB64, device=1)
    loop = GraphLoop(1, [0x11, 0x12, 0x11, 0x13], [arena, arena])
    assert (len(loop), loop.device) == (4, 1)
    driver.calls()

    def launched() -> list[tuple[int, int]]:
        calls = driver.calls()
        assert set(names(calls)) <= {"cuGraphLaunch"}
        return [(value >> 16, value & 0xFFFF) for _, value in calls]

    loop.launch(0x77)
    assert launched() == [(0x11, 0x77), (0x12, 0x77), (0x11, 0x77), (0x13, 0x77)]
    loop.launch(stream=0, first=2)
    assert launched() == [(0x11, 0), (0x13, 0)]
    loop.launch(0x78, 1, 2)
    assert launched() == [(0x12, 0x78), (0x11, 0x78)]
    loop.launch(0x78, 3, 0)
    assert launched() == []
    arena.sleep()
    assert names(driver.calls())[0] == "cuCtxSynchronize"
    del arena, loop
    driver.check_clean()


def case_no_graph_is_launched_while_an_arena_sleeps(driver: Driver) -> None:
    arenas = [Arena(1, KIB64, device=0) for _ in range(3)]
    loop = GraphLoop(0, [1, 2], arenas)
    for arena in arenas:
        arena.sleep()
        driver.calls()
        error = error_of(lambda: loop.launch(5))
        assert isinstance(error, RuntimeError)
        assert "sleeps" in str(error)
        assert driver.calls() == []
        arena.wake()
    driver.calls()
    loop.launch(5)
    assert len(driver.calls()) == 2
    del arenas, arena, loop
    driver.check_clean()


def case_a_loop_keeps_its_arenas_alive(driver: Driver) -> None:
    loop = GraphLoop(0, [1], [Arena(1, KIB64, device=0)])
    driver.calls()
    loop.launch(0)
    assert names(driver.calls()) == ["cuGraphLaunch"]
    del loop
    driver.check_clean()


def case_a_failed_launch_names_the_graph(driver: Driver) -> None:
    loop = GraphLoop(0, [1, 2, 3])
    driver.calls()
    driver.fail("cuGraphLaunch", 2)
    assert "graph 1 of 3" in str(error_of(lambda: loop.launch(9)))
    assert names(driver.calls()) == ["cuGraphLaunch", "cuGraphLaunch"]
    loop.launch(9)
    del loop
    driver.check_clean()


def case_bad_loops_are_refused(driver: Driver) -> None:
    host, other = Arena(1, 1), Arena(1, 1, device=1)
    loop = GraphLoop(0, [1, 2])
    for call in (
        lambda: GraphLoop(0, []),
        lambda: GraphLoop(0, [1, 0]),
        lambda: GraphLoop(0, [1], [host]),
        lambda: GraphLoop(0, [1], [other]),
        lambda: GraphLoop(0, [1], [None]),  # type: ignore[list-item]
        lambda: GraphLoop(2, [1]),
        lambda: GraphLoop(-1, [1]),
        lambda: loop.launch(0, 2),
        lambda: loop.launch(0, -1),
        lambda: loop.launch(0, 1, 2),
        lambda: loop.launch(0, 0, -1),
        lambda: loop.launch(0, 1, (1 << 63) - 1),
    ):
        error = error_of(call)
        assert isinstance(error, ValueError), error
    driver.calls()
    del loop, other
    driver.check_clean()


def case_launches_and_sleeps_from_many_threads_never_meet(driver: Driver) -> None:
    arenas = [Arena(1, KIB64, device=0) for _ in range(2)]
    loops = [GraphLoop(0, [1] * 20, arenas), GraphLoop(0, [2] * 20, arenas[::-1])]
    refused = []

    def launch(loop: GraphLoop) -> None:
        for _ in range(50):
            try:
                loop.launch(3)
            except RuntimeError as error:
                refused.append("sleeps" in str(error))

    def nap(arena: Arena) -> None:
        for _ in range(50):
            arena.sleep()
            arena.wake()

    jobs = [(launch, loop) for loop in loops] * 2 + [(nap, arena) for arena in arenas]
    threads = [threading.Thread(target=job, args=(argument,)) for job, argument in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "deadlock"
    assert all(refused)
    assert [arena.wakes for arena in arenas] == [50, 50]
    jobs.clear()
    threads.clear()
    del arenas, loops
    driver.check_correct()


def old_driver_is_named(driver: Driver) -> None:
    error = error_of(lambda: Arena(1, 1, device=0))
    assert isinstance(error, RuntimeError)
    assert "cuMemCreate" in str(error)
    assert "too old" in str(error)
    assert not cuda_available()


def no_virtual_memory_is_named(driver: Driver) -> None:
    error = error_of(lambda: Arena(1, 1, device=0))
    assert isinstance(error, RuntimeError)
    assert "no virtual memory management" in str(error)
    driver.check_clean()


def failed_initialisation_is_named_and_tried_again(driver: Driver) -> None:
    driver.fail("cuInit")
    assert not cuda_available()
    driver.fail("cuInit")
    assert "nvidia-smi" in str(error_of(lambda: Arena(1, 1, device=0)))
    assert Arena(1, 1, device=0).awake
    driver.check_clean()


if __name__ == "__main__":
    globals()[sys.argv[1]](Driver())
