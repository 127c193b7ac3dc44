"""The graph loop, and drivers that cannot serve, against the stand-in driver.

test_arena_cuda.py runs each case in a process of its own, with the stand-in as libcuda.so.1:
python tests/cuda_loop_cases.py CASE
"""

from __future__ import annotations

import threading

from cuda_arena_cases import USE
from fake_cuda import Driver, error_of, names, run_case

from l2c_rt._C import Arena, GraphLoop, cuda_available, upload_graph

KIB64 = 65536


def case_graphs_are_launched_in_order(driver: Driver) -> None:
    arena = Arena(1, KIB64, device=1)
    loop = GraphLoop(1, [0x11, 0x12, 0x11, 0x13], [arena, arena])
    assert (len(loop), loop.device) == (4, 1)
    driver.calls()

    def launched() -> list[tuple[int, int]]:
        calls = driver.calls()
        # What used the arena is noted behind the last graph, once for each arena.
        last = names(calls)[::-1].index("cuGraphLaunch") if "cuGraphLaunch" in names(calls) else 0
        assert names(calls)[len(calls) - last :] == USE[:last]
        return [(value >> 16, value & 0xFFFF) for name, value in calls if name == "cuGraphLaunch"]

    loop.launch(0x77)
    assert launched() == [(0x11, 0x77), (0x12, 0x77), (0x11, 0x77), (0x13, 0x77)]
    loop.launch(stream=0, first=2)
    assert launched() == [(0x11, 0), (0x13, 0)]
    loop.launch(0x78, 1, 2)
    assert launched() == [(0x12, 0x78), (0x11, 0x78)]
    loop.launch(0x78, 3, 0)
    assert launched() == []
    arena.sleep()
    assert names(driver.calls())[0] == "cuEventSynchronize"
    del arena, loop
    driver.check_clean()


def case_no_graph_is_launched_while_an_arena_sleeps(driver: Driver) -> None:
    arenas = [Arena(1, KIB64, device=0) for _ in range(3)]
    loop = GraphLoop(0, [1, 2], arenas)
    for arena in arenas:
        arena.sleep()
        driver.calls()
        error = error_of(loop.launch, 5)
        assert isinstance(error, RuntimeError)
        assert "sleeps" in str(error)
        assert driver.calls() == []
        arena.wake()
    driver.calls()
    loop.launch(5)
    assert names(driver.calls()) == ["cuGraphLaunch", "cuGraphLaunch", *3 * USE]
    del arenas, arena, loop
    driver.check_clean()


def case_a_loop_keeps_its_arenas_alive(driver: Driver) -> None:
    loop = GraphLoop(0, [1], [Arena(1, KIB64, device=0)])
    driver.calls()
    loop.launch(0)
    assert names(driver.calls()) == ["cuGraphLaunch", *USE]
    del loop
    driver.check_clean()


def case_a_failed_launch_names_the_graph(driver: Driver) -> None:
    loop = GraphLoop(0, [1, 2, 3], [Arena(1, KIB64, device=0)])
    driver.calls()
    driver.fail("cuGraphLaunch", 2)
    assert "graph 1 of 3" in str(error_of(loop.launch, 9))
    # The graph before it runs: the arena's end has to wait for it.
    assert names(driver.calls()) == ["cuGraphLaunch", "cuGraphLaunch", *USE]
    loop.launch(9)
    del loop
    driver.check_clean()


def case_a_graph_is_uploaded_before_its_first_launch_and_errors_are_told(driver: Driver) -> None:
    upload_graph(1, 0x11, 0x77)
    assert [(name, hex(value)) for name, value in driver.calls() if "Graph" in name] == [
        ("cuGraphUpload", "0x110077")
    ]
    driver.fail("cuGraphUpload")
    assert "a graph on device 1" in str(error_of(upload_graph, 1, 0x11, 0x77))
    for device, graph in ((0, 0), (2, 0x11)):
        assert isinstance(error_of(upload_graph, device, graph, 0), ValueError)
    driver.check_clean()


def case_bad_loops_are_refused(driver: Driver) -> None:
    host, other = Arena(1, 1), Arena(1, 1, device=1)
    loop = GraphLoop(0, [1, 2])
    for graphs, arenas in (([], []), ([1, 0], []), ([1], [host]), ([1], [other]), ([1], [None])):
        assert isinstance(error_of(GraphLoop, 0, graphs, arenas), ValueError)
    for device in (2, -1):
        assert isinstance(error_of(GraphLoop, device, [1]), ValueError)
    for first, count in ((2, None), (-1, None), (1, 2), (0, -1), (1, (1 << 63) - 1)):
        assert isinstance(error_of(loop.launch, 0, first, count), ValueError)
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
    error = error_of(Arena, 1, 1, device=0)
    assert isinstance(error, RuntimeError)
    assert "cuMemCreate" in str(error)
    assert "too old" in str(error)
    assert not cuda_available()


def no_virtual_memory_is_named(driver: Driver) -> None:
    error = error_of(Arena, 1, 1, device=0)
    assert isinstance(error, RuntimeError)
    assert "no virtual memory management" in str(error)
    driver.check_clean()


def failed_initialisation_is_named_and_tried_again(driver: Driver) -> None:
    driver.fail("cuInit")
    assert not cuda_available()
    driver.fail("cuInit")
    assert "nvidia-smi" in str(error_of(Arena, 1, 1, device=0))
    assert Arena(1, 1, device=0).awake
    driver.check_clean()


if __name__ == "__main__":
    run_case(globals())
