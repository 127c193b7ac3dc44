"""Sleep gives the cache's memory back, wake takes it again, and nothing runs in between."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from three_backends import STEPS, assert_same, every_backend, fresh
from torch import Tensor
from toys import call_inputs, drive, noise, timesteps

from l2c_rt.runtime.compiled import Compiled

ASLEEP = "asleep: call wake"


@every_backend
def test_sleep_gives_memory_back_and_wake_goes_on_as_before(backend: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    before = drive(fast, STEPS)
    captured = fast.summary().graphs.graphs
    drive(fast, 2)
    fast.sleep()
    assert fast.summary().slot_bytes == 0
    with pytest.raises(RuntimeError, match=ASLEEP):
        fast(*call_inputs(0))
    fast.wake()
    assert_same(drive(fast, STEPS), before)
    assert fast.summary().graphs.graphs == captured


@every_backend
def test_asleep_neither_samples_nor_new_sessions_run(backend: str) -> None:
    fast = fresh(backend)
    before = fast.sample(noise(), [1, 2])
    fast.sleep()
    with pytest.raises(RuntimeError, match=ASLEEP):
        fast.sample(noise(), [1, 2])
    with fast.session() as session, pytest.raises(RuntimeError, match=ASLEEP):
        session(*call_inputs(0))
    assert fast.summary().slot_bytes == 0
    fast.wake()
    assert torch.equal(fast.sample(noise(), [1, 2]), before)


@every_backend
def test_one_session_may_sleep_while_others_go_on(backend: str) -> None:
    fast = fresh(backend)
    with fast.session() as session:
        drive(session, 2)
        session.sleep()
        with pytest.raises(RuntimeError, match=ASLEEP):
            session(*call_inputs(0))
        assert_same(drive(fast, STEPS), drive(fresh(backend), STEPS))
        session.wake()
        assert_same(drive(session, STEPS), drive(fresh(backend), STEPS))


@every_backend
@pytest.mark.parametrize("action", ["sleep", "wake"])
def test_refused_from_inside_a_callback_everything_stays_awake(backend: str, action: str) -> None:
    fast, clean = fresh(backend), fresh(backend)
    messages: list[str] = []

    def callback(step: int, latents: Tensor) -> None:
        with pytest.raises(RuntimeError) as refusal:
            getattr(fast, action)()
        messages.append(str(refusal.value))

    drive(fast, 2)
    latents = fast.sample(noise(), [1, 2], callback=callback)
    assert messages == [f"{action}() was called from inside a call of this session"] * STEPS
    assert torch.equal(latents, clean.sample(noise(), [1, 2]))
    # The model's own run, which had begun before, goes on.
    assert_same(drive(fast, STEPS, start=2), drive(clean, STEPS)[2:])


def test_a_wake_without_memory_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = fresh()
    before = drive(fast, STEPS)
    fast.sleep()

    def no_memory() -> None:
        raise MemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr(fast.run.lanes.all()[0].slots, "wake", no_memory, raising=False)
        with pytest.raises(MemoryError, match="none left"):
            fast.wake()
    with pytest.raises(RuntimeError, match=ASLEEP):
        fast(*call_inputs(0))
    fast.wake()
    assert_same(drive(fast, STEPS), before)


class Service:
    """Threads that open, run and close sessions of one model until told to stop."""

    def __init__(self, fast: Compiled, expected: list[Tensor]) -> None:
        self.fast, self.expected = fast, expected
        self.served = 0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()

    @contextmanager
    def running(self, threads: int) -> Iterator[None]:
        workers = [threading.Thread(target=self._serve) for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            self._stop.set()
            for worker in workers:
                worker.join(30)
                assert not worker.is_alive()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                with self.fast.session() as session:
                    assert_same(drive(session, STEPS), self.expected)
                self.served += 1
            except BaseException as error:
                # A sleep between two calls has forgotten the run, which its next call is told.
                if ASLEEP not in str(error) and "expected timestep 990" not in str(error):
                    self.errors.append(error)


def act_for(seconds: float, actions: list[Callable[[], object]]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for action in actions:
            action()
            time.sleep(0.001)


@every_backend
def test_summaries_sleep_and_wake_while_sessions_come_and_go(backend: str) -> None:
    grid = timesteps(STEPS)
    fast = fresh(backend, timesteps=grid)
    service = Service(fast, drive(fresh(backend, timesteps=grid), STEPS))
    gc.disable()
    try:
        with service.running(4):
            act_for(0.7, [fast.summary, fast.sleep, fast.summary, fast.wake])
        assert service.errors == []
        # Closed sessions hold nothing, without a garbage collection.
        assert fast.summary().slot_bytes == 0
        assert len(fast._sessions.all()) == 0
    finally:
        gc.enable()
    assert service.served > 0
    assert_same(drive(fast, STEPS), service.expected)
