"""What a run sets for a while in the process or the thread is put back: by two threads that leave
in another order than they came, and where Ctrl-C comes inside of an exit of PyTorch's own."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from process_state import process_state
from three_backends import STEPS, every_backend, fresh
from toys import call_inputs, noise, timesteps, toy_dit

from l2c_rt.adapters.branch_forward import frozen
from l2c_rt.comparison.loop_runs import isolated
from l2c_rt.device.graphs import undisturbed

MODEL = toy_dit()
SECONDS = 0.1
"""How long a thread waits for another, which waits for it where one goes after the other."""


def flags() -> list[bool]:
    return [p.requires_grad for p in MODEL.parameters()] + [m.training for m in MODEL.modules()]


CONTEXTS: dict[str, Any] = {
    "generators": lambda: isolated(torch.device("cpu"), 5),
    "a frozen model": lambda: frozen(MODEL),
    "garbage collection": undisturbed,
}


def overlapped(contexts: list[AbstractContextManager[Any]]) -> None:
    """Enter one, enter the other on another thread, leave the first, leave the other; one after the
    other where they exclude each other."""
    came, gone = threading.Event(), threading.Event()

    def second() -> None:
        with contexts[1]:
            came.set()
            assert gone.wait(10)

    thread = threading.Thread(target=second, daemon=True)
    with contexts[0]:
        thread.start()
        came.wait(SECONDS)
    gone.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("name", CONTEXTS)
def test_two_threads_that_overlap_leave_everything_as_it_was(name: str) -> None:
    MODEL.train()
    before, drawn = (process_state(), flags()), torch.get_rng_state()
    overlapped([CONTEXTS[name](), CONTEXTS[name]()])
    assert (process_state(), flags()) == before
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_model_stays_frozen_as_long_as_any_thread_holds_it() -> None:
    MODEL.train()
    before = flags()
    with frozen(MODEL):
        overlapped([frozen(MODEL), frozen(MODEL)])
        assert not any(flags())
    assert flags() == before


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@every_backend
@pytest.mark.parametrize("whole", [False, True])
def test_ctrl_c_in_the_exit_of_no_grad_leaves_gradients_on(
    backend: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = fresh(backend, timesteps=None if whole else timesteps(STEPS))
    before = process_state()
    with monkeypatch.context() as patch:
        patch.setattr(torch.no_grad, "__exit__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fast.sample(noise(), [1, 2]) if whole else fast(*call_inputs(0))
    assert process_state() == before
