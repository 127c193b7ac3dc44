"""The arena in host memory, without torch, so that it also runs under the sanitizers."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2c_rt._C import Arena, GraphLoop, arena_bytes, cuda_available

MOST = 2**63 - 1
PAGE = 4096
SIZES = st.one_of(st.integers(-2, 5000), st.integers(MOST - 5000, MOST), st.integers(1, MOST))


def bytes_in_python(num_slots: int, slot_bytes: int, granularity: int) -> tuple[int, int]:
    """The layout's integers again, in numbers that cannot overflow."""
    if min(num_slots, slot_bytes, granularity) < 1:
        raise ValueError
    stride = -(-slot_bytes // 256) * 256
    reserved = -(-num_slots * stride // granularity) * granularity
    if max(stride, reserved) > MOST:
        raise ValueError
    return stride, reserved


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except ValueError:
        return ValueError


@settings(deadline=None)
@given(SIZES, SIZES, st.one_of(SIZES, st.sampled_from([PAGE, 1 << 21, 3 << 20])))
def test_layout_equals_its_twin_in_python(num_slots: int, slot_bytes: int, grain: int) -> None:
    expected = outcome(lambda: bytes_in_python(num_slots, slot_bytes, grain))
    assert outcome(lambda: arena_bytes(num_slots, slot_bytes, grain)) == expected


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 70_000))
def test_an_arena_has_the_bytes_of_its_layout(num_slots: int, slot_bytes: int) -> None:
    arena = Arena(num_slots, slot_bytes)
    assert (arena.stride_bytes, arena.reserved_bytes) == arena_bytes(num_slots, slot_bytes, PAGE)
    assert (arena.num_slots, arena.slot_bytes) == (num_slots, slot_bytes)
    assert arena.mapped_bytes == arena.reserved_bytes
    assert arena.base % PAGE == 0
    assert arena.device == -1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0, 8), "num_slots is 0, wanted at least 1"),
        ((-3, 8), "num_slots is -3"),
        ((1, 0), "slot_bytes is 0, wanted at least 1"),
        ((1, MOST), "63 bits"),
        ((2**40, 2**40), "63 bits"),
        ((1, 8, -2), "device is -2, wanted -1"),
    ],
)
def test_bad_sizes_are_value_errors_with_the_values(arguments: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        Arena(*arguments)
    assert " at csrc/" in str(raised.value)


def test_more_memory_than_there_is_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match=f"host arena of {2**60} bytes.*fewer slots"):
        Arena(1, 2**60)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_poison_is_nan_everywhere(dtype: str) -> None:
    arena = Arena(5, 1000)
    arena.poison()
    assert np.isnan(np.from_dlpack(arena.all_slots([10], dtype))).all()
    assert ctypes.string_at(arena.base, arena.reserved_bytes) == b"\xff" * arena.reserved_bytes


def test_sleep_gives_the_pages_back_and_keeps_the_addresses() -> None:
    arena = Arena(4, 4 << 20)
    view = np.from_dlpack(arena.view(3, [100], "float32"))
    base = arena.base
    arena.poison()
    before = resident_bytes()
    arena.sleep()
    assert before - resident_bytes() > 15 << 20
    assert (arena.awake, arena.mapped_bytes, arena.base) == (False, 0, base)
    assert (view == 0).all()
    arena.wake()
    assert (arena.awake, arena.mapped_bytes, arena.base) == (True, 16 << 20, base)
    assert (view == 0).all()
    view[...] = 7
    assert np.from_dlpack(arena.view(3, [100], "float32"))[0] == 7


def test_sleep_and_wake_twice_are_sleep_and_wake_once() -> None:
    arena = Arena(1, 1)
    arena.wake()
    assert (arena.allocations, arena.wakes, arena.sleeps) == (1, 0, 0)
    for cycle in range(1, 4):
        arena.sleep()
        arena.sleep()
        assert (arena.allocations, arena.wakes, arena.sleeps) == (cycle, cycle - 1, cycle)
        arena.wake()
        arena.wake()
        assert (arena.allocations, arena.wakes, arena.sleeps) == (cycle + 1, cycle, cycle)


def test_a_sleeping_arena_is_neither_poisoned_nor_viewed() -> None:
    arena = Arena(1, 8)
    view = arena.view(0, [1], "float64")
    arena.sleep()
    with pytest.raises(RuntimeError, match=r"0 of 4096 bytes mapped; call wake\(\) first"):
        arena.poison()
    with pytest.raises(RuntimeError, match="call wake"):
        arena.view(0, [1], "float64")
    with pytest.raises(BufferError, match="call wake"):
        view.__dlpack__()


def test_threads_may_sleep_wake_poison_and_view_at_once() -> None:
    arena = Arena(4, 4096)
    refused: list[str] = []

    def use(calls: list[Callable[[], object]]) -> None:
        for _ in range(300):
            for call in calls:
                try:
                    call()
                except (RuntimeError, BufferError) as error:
                    refused.append(str(error))

    jobs: list[list[Callable[[], object]]] = [
        [arena.sleep, arena.wake],
        [arena.poison, arena.sleep],
        [lambda: np.from_dlpack(arena.view(1, [4], "float32"))],
        [arena.wake, lambda: arena.all_slots([4], "float16").__dlpack__()],
    ]
    threads = [threading.Thread(target=use, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert all("call wake()" in message for message in refused)
    assert arena.allocations == 1 + arena.wakes
    assert arena.sleeps - arena.wakes == (0 if arena.awake else 1)
    assert arena.live_views == 0


def test_thousands_of_arenas_leave_nothing_behind() -> None:
    def live(cycles: int) -> None:
        for _ in range(cycles):
            arena = Arena(3, 1 << 16)
            views = [np.from_dlpack(arena.view(slot, [8], "float32")) for slot in range(3)]
            arena.poison()
            arena.sleep()
            arena.wake()
            del arena
            views[0][...] = 1

    live(200)
    before, mappings = resident_bytes(), count_mappings()
    live(2000)
    limit = 64 if runs_under_asan() else 2  # which keeps freed memory back for a while
    assert resident_bytes() - before < limit << 20
    assert count_mappings() - mappings < 10


def test_a_gpu_arena_without_a_driver_says_what_is_missing() -> None:
    if cuda_available():
        pytest.skip("this machine has a driver")
    for make in (lambda: Arena(1, 1, device=0), lambda: GraphLoop(0, [1])):
        with pytest.raises(RuntimeError, match="libcuda.so.1.*install the NVIDIA driver, or use"):
            make()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def count_mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def runs_under_asan() -> bool:
    return "libasan" in Path("/proc/self/maps").read_text()
