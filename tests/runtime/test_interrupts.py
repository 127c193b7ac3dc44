"""Ctrl-C at any line: the next run is right, no session stays taken, sleep does not hang."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from three_backends import STEPS, assert_same, every_backend, fresh
from torch import Tensor, nn
from toys import call_inputs, drive, noise, timesteps

from l2c_rt.runtime import timestep_check
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.run import Run

GRID = timesteps(STEPS)
SECONDS_OF_SIGNALS, LEAST_HITS, MOST_TRIES = 0.6, 4, 1000
Runs = Callable[[Compiled], list[Tensor]]


def calls(fast: Compiled) -> list[Tensor]:
    return drive(fast, STEPS)


def guided_calls(fast: Compiled) -> list[Tensor]:
    inputs = [call_inputs(step, batch=4) for step in range(STEPS)]
    return [fast.forward_with_cfg(x, t, y, cfg_scale=1.5) for x, t, y in inputs]


def samples(fast: Compiled) -> list[Tensor]:
    return [fast.sample(noise(), [1, 2])]


every_kind = pytest.mark.parametrize("runs", [calls, guided_calls, samples])


def compiled_for(runs: Runs, backend: str) -> Compiled:
    return fresh(backend, timesteps=None if runs is samples else GRID)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def check_free(fast: Compiled, runs: Runs, expected: list[Tensor]) -> None:
    """The next run is right, and neither it nor sleep and wake wait for a call that is no more."""
    outputs: list[list[Tensor]] = []

    def work() -> None:
        outputs.append(runs(fast))
        fast.sleep()
        fast.wake()
        outputs.append(runs(fast))

    # Not on this thread, which would wait for ever.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(outputs) == 2
    for run in outputs:
        assert_same(run, expected)


@every_backend
@every_kind
def test_right_after_the_session_was_taken(
    backend: str, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = compiled_for(runs, backend)
    expected = runs(fast)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "get_ident", interrupt)
        with pytest.raises(KeyboardInterrupt):
            runs(fast)
    check_free(fast, runs, expected)


def interrupt_at(layer: nn.Module, at: int) -> Callable[[], None]:
    """Interrupt the layer's `at`-th forward; returns what undoes it."""
    plain, entered = type(layer), [0]

    class Interrupted(plain):  # type: ignore[misc, valid-type]
        def forward(self, *args: Tensor) -> Tensor:
            entered[0] += 1
            if entered[0] == at:
                raise KeyboardInterrupt
            out: Tensor = super().forward(*args)
            return out

    layer.__class__ = Interrupted
    return lambda: setattr(layer, "__class__", plain)


@every_kind
@pytest.mark.parametrize(
    ("backend", "layer", "at"),
    [
        ("reference", "x_embedder", 1),
        ("reference", "x_embedder", 4),
        # The layers before the first branch are taken apart here.
        ("fused", "t_embedder", 1),
        # Entered while programs are warmed and captured, and never again.
        ("cuda", "t_embedder", 1),
        ("cuda", "t_embedder", 3),
    ],
)
def test_inside_the_model(backend: str, layer: str, at: int, runs: Runs) -> None:
    fast, expected = compiled_for(runs, backend), runs(compiled_for(runs, backend))
    undo = interrupt_at(getattr(fast.bound_model.model, layer), at)
    with pytest.raises(KeyboardInterrupt):
        runs(fast)
    undo()
    fast.poison()
    check_free(fast, runs, expected)


@every_backend
@pytest.mark.parametrize("at", [0, STEPS - 1])
def test_inside_a_callback(backend: str, at: int) -> None:
    fast = fresh(backend)
    expected = samples(fast)

    def callback(step: int, latents: Tensor) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast.sample(noise(1), [3, 4], callback=callback)
    check_free(fast, samples, expected)


@every_backend
@pytest.mark.parametrize("readable", [True, False])
def test_inside_the_reset_that_follows_an_error(
    backend: str, readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not readable:
        # As on a GPU: the next run is not told from the one that was interrupted by its timestep.
        monkeypatch.setattr(timestep_check, "on_host", lambda t: False)
    fast = fresh(backend, timesteps=GRID)
    expected = calls(fast)
    drive(fast, 3, seed=1)
    x, t, y = call_inputs(3, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "reset", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fast(x, t, y + 1000)
    fast.poison()
    check_free(fast, calls, expected)


@every_backend
def test_inside_sleep_and_wake(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = fresh(backend, timesteps=GRID)
    expected = calls(fast)
    slots = type(fast.run.lanes.all()[0].slots)
    for action in ("sleep", "wake"):
        with monkeypatch.context() as patch:
            patch.setattr(slots, action, interrupt)
            with pytest.raises(KeyboardInterrupt):
                getattr(fast, action)()
        getattr(fast, action)()
    check_free(fast, calls, expected)


class Alarm:
    """Raises KeyboardInterrupt in the main thread after a time, once, and only while armed."""

    def __init__(self) -> None:
        self._armed = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    def during(self, seconds: float, work: Callable[[], object]) -> bool:
        """Whether the work was interrupted; it is not after it has ended."""
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, seconds)
            work()
            self._armed = False
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals arrive in the main thread only")
    handler = Alarm()
    before = signal.signal(signal.SIGALRM, handler)
    yield handler
    signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore:a run began after:l2c_rt.notices.L2CWarning")
@every_backend
@pytest.mark.parametrize("runs", [calls, samples])
def test_at_random_moments(backend: str, runs: Runs, alarm: Alarm) -> None:
    fast, moments = compiled_for(runs, backend), random.Random(0)
    expected = runs(fast)
    began = time.perf_counter()
    runs(fast)
    longest = 1.1 * (time.perf_counter() - began)
    end, hits, tries = time.monotonic() + SECONDS_OF_SIGNALS, 0, 0
    # On a busy machine the seconds may be over before anything was interrupted.
    while time.monotonic() < end or (hits < LEAST_HITS and tries < MOST_TRIES):
        tries += 1
        hits += alarm.during(moments.uniform(1e-5, longest), lambda: runs(fast))
        assert_same(runs(fast), expected)
    assert hits >= LEAST_HITS
    check_free(fast, runs, expected)
