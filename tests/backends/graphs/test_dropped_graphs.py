"""What is dropped is gone at once, so that the memory of its graphs is the next ones'."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from own_tapes import OwnRecorder, compile_own
from small_models import run_loop, two_stream_model

from l2c_rt.backends.backend import MAX_SHAPES
from l2c_rt.backends.graphs.call_graphs import CallGraphs
from l2c_rt.methods import FirstBlockCache
from l2c_rt.policies import EveryN

STEPS = 6


class Counted(OwnRecorder):
    """A recorder that tells how many of its kind are alive, itself or as its graphs."""

    alive: weakref.WeakSet[object]

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        Counted.alive.add(self)

    def capture(self, work: Any) -> Any:
        tape = super().capture(work)
        Counted.alive.add(tape)
        return tape


@pytest.mark.filterwarnings("ignore::l2c_rt.notices.L2CWarning")
@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("method", [EveryN(2), FirstBlockCache(0.1)])
def test_kinds_of_arguments_that_are_dropped_are_gone_without_a_garbage_collection(
    method: Any, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parts:
        monkeypatch.setattr(CallGraphs, "_capture_whole", lambda *_: "not here")
    Counted.alive = alive = weakref.WeakSet()
    fast = compile_own(
        two_stream_model(), method, recorder=Counted, granularity="block", steps=STEPS
    )
    run_loop(fast, STEPS)  # What PyTorch does for the first time leaves frames to collect.
    gc.collect()
    gc.disable()
    try:
        sizes = []
        for text in range(3, 3 + 2 * MAX_SHAPES):
            for _ in range(3):
                run_loop(fast, STEPS, text=text)
            sizes.append(len(alive))
        assert sizes[0] >= 2
        assert set(sizes[MAX_SHAPES:]) == {sizes[MAX_SHAPES - 1]}
        fast.run.close()
        assert not alive
    finally:
        gc.enable()
