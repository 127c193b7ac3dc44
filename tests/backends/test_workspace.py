"""What calls and whole runs of one input shape share, and what goes with it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from taped_graphs import TapedKernels, TapeRecorder, compile_taped
from toys import (
    count_branches,
    drive,
    noise,
    random_schedule,
    toy_dit,
    toy_uvit,
)

from l2c_rt.backends.cuda import workspace
from l2c_rt.device.graphs import Eager
from l2c_rt.kernels import reference
from l2c_rt.runtime.compiled import Compiled

STEPS = 8


def fresh(model: Any = None, **options: Any) -> Compiled:
    """A toy of STEPS steps on tapes."""
    model = toy_dit() if model is None else model
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    return compile_taped(model, schedule, **options)


class AddressesOnly(TapeRecorder):
    """Graphs that hold nothing of Python, as CUDA's."""

    def capture(self, work: Any) -> Any:
        work()
        return SimpleNamespace(replay=lambda: None)


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_programs_that_are_dropped_are_gone_at_once_without_a_garbage_collection(
    make: Any, graph: str
) -> None:
    fast = fresh(make(), recorder=AddressesOnly, kernels=reference, graph=graph)
    fast.sample(torch.randn(2, 4, 8, 8), [1, 2])
    drive(fast, 1)
    sessions = (fast, *fast._sessions.all())
    lanes = [lane for session in sessions for lane in session.run.lanes.all()]
    programs = [program for lane in lanes for program in lane.workspace.programs]
    gone = [weakref.ref(x) for p in programs for x in (p, p.buffers.h, p.tables.modulation.table)]
    assert len(gone) == 6
    del lanes, programs
    gc.disable()
    try:
        for session in sessions:
            session.run.lanes.clear()
        assert [ref() for ref in gone] == [None] * 6
    finally:
        gc.enable()


class ObservedOrder:
    """Stands for StreamOrder and tells whether work is inside."""

    made: list[ObservedOrder]

    def __init__(self, device: torch.device, *, replays: bool = True) -> None:
        self.inside, self.uses, self.replays = 0, 0, replays
        ObservedOrder.made.append(self)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.inside += 1
        self.uses += 1
        yield
        self.inside -= 1

    def wait(self) -> None:
        """There is no device."""


@pytest.mark.parametrize("graph", ["step", "off"])
def test_calls_and_runs_share_one_order_of_streams_as_they_share_slots(
    monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    monkeypatch.setattr(workspace, "StreamOrder", ObservedOrder)
    ObservedOrder.made = []

    class Inside(TapedKernels):
        def __getattr__(self, name: str) -> Any:
            assert sum(order.inside for order in ObservedOrder.made) == 1
            return super().__getattr__(name)

    recorder = {"recorder": Eager} if graph == "off" else {}
    fast = fresh(kernels=Inside(), graph=graph, **recorder)
    with fast.session() as session:
        session(noise(), torch.full((2,), 990), torch.tensor([1, 2]))
        session.sample(noise(), [1, 2], cfg_scale=1.0)
        session.sample(noise(images=1), [1], cfg_scale=4.0)
        (order,) = ObservedOrder.made
        assert order.uses == 3
        assert order.replays == (graph != "off")


def test_noise_on_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise is on meta, the model on cpu: pass noise.to\(cpu"):
        fresh().sample(noise().to("meta"), [1, 2])
