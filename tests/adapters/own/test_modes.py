"""Modes of PyTorch leave nothing behind: after threads in turn, errors, interruptions."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch._dynamo import eval_frame
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from l2c_rt.adapters.own import modes
from l2c_rt.adapters.own.modes import run_leaving_modes, run_observed


class Counts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


INTERRUPTED = (modes.__file__, eval_frame.__file__, _python_dispatch.__file__, fake_tensor.__file__)


def state() -> tuple[object, ...]:
    return (
        eval_frame._stance,
        torch._C._len_torch_dispatch_stack(),
        torch._C._len_torch_function_stack(),
    )


def test_the_mode_sees_the_work_and_nothing_after_it() -> None:
    mode, before = Counts(), state()
    assert run_observed(mode, lambda: torch.ones(2) + 1).tolist() == [2, 2]
    assert mode.operations == 2
    torch.ones(2)
    assert mode.operations == 2
    assert state() == before


def test_what_is_compiled_runs_eagerly_inside_and_compiled_afterwards() -> None:
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: x + 1, backend=backend)
    assert run_observed(Counts(), lambda: compiled(torch.ones(2))).tolist() == [2, 2]
    assert not graphs
    assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert len(graphs) == 1


@pytest.mark.parametrize("first_out", [0, 1])
def test_threads_that_enter_and_leave_in_turn_leave_nothing(first_out: int) -> None:
    before, inside = state(), threading.Barrier(3)
    may_end, ended = [threading.Event() for _ in "ab"], [threading.Event() for _ in "ab"]
    stances = list[str]()

    def observe(number: int) -> None:
        def work() -> None:
            inside.wait(10)
            assert may_end[number].wait(10)

        run_observed(Counts(), work)
        ended[number].set()

    threads = [threading.Thread(target=observe, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    for number in (first_out, 1 - first_out):
        stances.append(eval_frame._stance.stance)
        may_end[number].set()
        assert ended[number].wait(10)
    for thread in threads:
        thread.join()
    assert stances == ["force_eager", "force_eager"]
    assert state() == before


def with_a_mode() -> None:
    run_observed(Counts(), lambda: torch.ones(2) + 1)


def without_values() -> None:
    def work() -> None:
        with FakeTensorMode():
            torch.ones(2)

    run_leaving_modes(work)


def interrupted_at(moment: int, work: Callable[[], object]) -> bool:
    """Whether the work has so many moments: it is interrupted at the one of that number.

    Python handles signals where functions begin, and after calls of functions in C."""
    left = moment

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if frame.f_code.co_filename in INTERRUPTED and event in ("call", "c_return"):
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.parametrize("work", [with_a_mode, without_values])
def test_an_interruption_leaves_nothing_whenever_it_comes(work: Callable[[], object]) -> None:
    before, moments = state(), 0
    while interrupted_at(moments, work):
        assert state() == before
        moments += 1
    assert moments > 10
    assert state() == before
