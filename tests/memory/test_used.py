"""What memory is told of its use, on a stand-in for torch.cuda."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_torch_cuda import stand_in_for_cuda
from taped_graphs import compile_taped
from toys import call_inputs, count_branches, noise, random_schedule, toy_dit

import l2c_rt as rt
from l2c_rt._C import Arena
from l2c_rt.backends.backend import Evaluation
from l2c_rt.memory import slots as slots_module
from l2c_rt.memory.arena import used_now
from l2c_rt.memory.kept_values import ValueKey
from l2c_rt.memory.slots import Slots


def test_an_arena_on_a_gpu_is_told_of_the_current_stream_and_one_on_the_host_of_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in_for_cuda(monkeypatch)
    told: list[tuple[int, int]] = []
    arenas: list[Any] = [
        SimpleNamespace(device=device, used_on=lambda stream, d=device: told.append((d, stream)))
        for device in (-1, 0, 1)
    ]
    used_now(arenas)
    assert told == [(0, 77), (1, 77)]


def test_host_memory_has_no_streams() -> None:
    with pytest.raises(ValueError, match="stream 7, but host memory has none"):
        Arena(1, 8).used_on(7)


def test_a_whole_run_tells_the_slots_of_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Arena] = []
    monkeypatch.setattr(slots_module, "used_now", used.extend)
    model = toy_dit()
    fast = compile_taped(model, random_schedule(4, count_branches(model)))
    fast.sample(noise(), [1, 2])
    assert len(used) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_every_call_tells_the_slots_of_its_use_also_where_it_fails(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    model = toy_dit()
    fast = rt.compile(model, random_schedule(4, count_branches(model)))
    used: list[Arena] = []
    monkeypatch.setattr(slots_module, "used_now", used.extend)
    if fails:

        def odd(workspace: object, step: object, evaluation: Evaluation) -> None:
            evaluation.slots.reserve((2, 4), torch.float32, torch.device("cpu"))
            raise RuntimeError("odd")

        monkeypatch.setattr(type(fast.run.lanes._new(fast.run.version).workspace), "evaluate", odd)
        with pytest.raises(RuntimeError, match="odd"):
            fast(*call_inputs(0))
    else:
        fast(*call_inputs(0))
    memory = fast.run.lanes.all()[0].slots._memory
    assert memory is not None
    assert used == [memory.arena]


def test_slots_and_kept_values_are_told_of_together(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(slots_module, "used_now", told.extend)
    slots = Slots(2)
    with slots.in_use():
        assert told == []
    assert told == []
    memory = slots.reserve((2, 3), torch.float32, torch.device("cpu"))
    with slots.in_use():
        slots.values.keep(ValueKey(0, 0), torch.ones(3), 1, may_change=False)
    assert told == [*slots.values.arenas, memory.arena]
