"""Arenas in GPU memory where the driver fails, against the stand-in driver.

test_arena_cuda.py runs each case in a process of its own, with the stand-in as libcuda.so.1:
python tests/support/cuda_failure_cases.py CASE
"""

from __future__ import annotations

from cuda_arena_cases import FILL, GIB, KIB64, SETUP, TAKE
from fake_cuda import Driver, error_of, names, run_case

from l2c_rt._C import Arena, cuda_available

NOT_SUPPORTED = 801


def case_a_failure_while_making_an_arena_leaves_nothing(driver: Driver) -> None:
    cuda_available()
    for call in SETUP + TAKE:
        for nth in (1, 2, 3) if call in ("cuMemCreate", "cuMemMap") else (1,):
            driver.fail(call, nth)
            error = error_of(Arena, 5, GIB // 2, device=0)
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
    driver.fail("cuEventSynchronize")
    driver.calls()
    assert "earlier work" in str(error_of(arena.sleep))
    assert names(driver.calls()) == ["cuEventSynchronize"]
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
    for call in FILL:
        driver.fail(call)
        assert call in str(error_of(arena.poison))
    del arena
    driver.check_clean()


def case_memory_is_left_where_work_may_still_run(driver: Driver) -> None:
    arena = Arena(1, KIB64, device=0)
    driver.calls()
    driver.fail("cuEventSynchronize")
    del arena
    assert names(driver.calls()) == [
        *("cuEventSynchronize", "cuEventDestroy_v2", "cuDevicePrimaryCtxRelease_v2"),
    ]
    driver.check_correct()


def case_too_little_memory_is_a_memory_error_with_the_numbers(driver: Driver) -> None:
    cuda_available()
    driver.set_free(GIB + KIB64)
    error = error_of(Arena, 5, GIB // 2, device=0)
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


def case_a_gpu_that_says_it_has_virtual_memory_and_gives_none_is_an_error(driver: Driver) -> None:
    """As under WSL and on virtual GPUs."""
    cuda_available()
    driver.fail("cuMemCreate", code=NOT_SUPPORTED)
    error = error_of(Arena, 5, GIB // 2, device=0)
    assert isinstance(error, RuntimeError)
    assert "cuMemCreate" in str(error)
    assert str(NOT_SUPPORTED) in str(error)
    driver.check_clean()


def case_a_device_that_is_not_there_is_a_value_error(driver: Driver) -> None:
    for device in (2, 7):
        error = error_of(Arena, 1, 1, device=device)
        assert isinstance(error, ValueError)
        assert f"device {device}: this process sees 2 GPU(s)" in str(error)
    driver.check_clean()


if __name__ == "__main__":
    run_case(globals())
