"""A run that ends in NaN is said, once, and never waited for."""

from __future__ import annotations

import pytest
import torch
from fake_torch_cuda import FakeEvent, stand_in_for_cuda
from taped_graphs import compile_taped
from toys import count_branches, noise, random_schedule, toy_dit

from l2c_rt.backends.cuda.checking.nan_check import NOTE, NanCheck
from l2c_rt.notices import L2CWarning

NAN = float("nan")


def test_a_run_that_ends_in_nan_warns_once_and_is_noted() -> None:
    model = toy_dit()
    fast = compile_taped(model, random_schedule(4, count_branches(model)))
    fast.sample(noise(), [1, 2])
    assert fast.summary().reasons == ()
    spoiled = noise()
    spoiled[0, 0, 0, 0] = NAN
    with pytest.warns(L2CWarning, match="a run ended in NaN: float16 overflows"):
        fast.sample(spoiled, [1, 2])
    # A second one would be an error here.
    fast.sample(spoiled, [1, 2])
    assert any("NaN" in reason for reason in fast.summary().graphs.reasons)


def test_on_a_gpu_the_answer_is_read_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = stand_in_for_cuda(monkeypatch)
    event, notes = FakeEvent(cuda), list[str]()
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    check = NanCheck(torch.device("cpu"), notes)
    check._cuda = True  # Pinned memory needs a GPU.
    event.done = False
    check.queue(torch.tensor([1.0, NAN]))
    assert notes == []
    event.done = True
    check.queue(torch.tensor([1.0]))
    assert notes == [NOTE]
    assert "device.synchronize" not in cuda.names()
    cuda.capturing = cuda.current
    cuda.log.clear()
    check.queue(torch.tensor([NAN]))
    assert cuda.log == []
