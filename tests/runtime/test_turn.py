"""Turn: a session is one caller's at a time, and free again whatever happens to a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from l2c_rt.runtime.turn import Turn

OTHER_THREAD = "being called from another thread"
OWN_CALL = "called from inside one of its own calls"


def nothing() -> None:
    """Work that is done at once."""


class Thread(threading.Thread):
    """Keeps what its work returned or raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work, self.outcome = work, "nothing"

    def run(self) -> None:
        try:
            self.outcome = str(self._work())
        except RuntimeError as error:
            self.outcome = str(error)

    def ended(self) -> str:
        self.join(10)
        assert not self.is_alive()
        return self.outcome


class Held:
    """Something that goes on in a thread until it is let go."""

    def __init__(self, start: Callable[[Callable[[], Any]], object]) -> None:
        self._inside, self._go_on = threading.Event(), threading.Event()
        self.thread = Thread(lambda: start(self._work))
        self.thread.start()
        assert self._inside.wait(10)

    def _work(self) -> str:
        self._inside.set()
        assert self._go_on.wait(10)
        return "served"

    def let_go(self) -> str:
        self._go_on.set()
        return self.thread.ended()


def test_a_call_is_served_with_its_arguments() -> None:
    def work(a: int, *, b: int) -> tuple[int, int]:
        return a, b

    assert Turn().take(nothing, work, 1, b=2) == (1, 2)


def test_a_second_caller_is_refused_at_once_and_the_first_is_served() -> None:
    turn = Turn()
    first = Held(lambda work: turn.take(nothing, work))
    with pytest.raises(RuntimeError, match=OTHER_THREAD):
        turn.take(nothing, nothing)
    assert first.let_go() == "served"
    assert turn.take(nothing, lambda: "free") == "free"


class LateLock:
    """Is given to nobody before two have looked and found it free."""

    def __init__(self) -> None:
        self._lock, self._looked = threading.Lock(), threading.Barrier(2)

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> None:
        self._looked.wait(10)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_of_two_callers_who_both_found_it_free_exactly_one_is_served() -> None:
    turn = Turn()
    turn._lock = LateLock()  # type: ignore[assignment]
    callers = [Thread(lambda: turn.take(nothing, lambda: "served")) for _ in range(2)]
    for caller in callers:
        caller.start()
    outcomes = sorted(caller.ended() for caller in callers)
    assert outcomes[0] == "served"
    assert OTHER_THREAD in outcomes[1]


@pytest.mark.parametrize("action", ["reset", "sleep", "wake", "close"])
def test_a_call_waits_for_what_is_short_and_is_then_served(action: str) -> None:
    turn = Turn()
    first = Held(lambda work: turn.wait(action, work))
    caller = Thread(lambda: turn.take(nothing, lambda: "served"))
    caller.start()
    caller.join(0.05)
    assert caller.is_alive()
    first.let_go()
    assert caller.ended() == "served"


def test_what_is_short_waits_for_a_call() -> None:
    turn, order = Turn(), list[str]()
    first = Held(lambda work: turn.take(nothing, lambda: order.append(work())))
    reset = Thread(lambda: turn.wait("reset", lambda: order.append("reset")))
    reset.start()
    reset.join(0.05)
    assert reset.is_alive()
    first.let_go()
    reset.ended()
    assert order == ["served", "reset"]


def test_from_inside_ones_own_call_both_are_refused_with_the_reason() -> None:
    turn = Turn()

    def work() -> None:
        assert turn.mine
        with pytest.raises(RuntimeError, match=OWN_CALL):
            turn.take(nothing, nothing)
        with pytest.raises(RuntimeError, match=r"sleep\(\) was called from inside a call"):
            turn.wait("sleep", nothing)

    assert not turn.mine
    turn.take(nothing, work)
    assert not turn.mine


def test_the_lock_of_another_thread_is_not_mine() -> None:
    turn = Turn()
    first = Held(lambda work: turn.take(nothing, work))
    assert not turn.mine
    turn.refuse_inside("sleep")
    first.let_go()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_call_that_fails_is_cleaned_up_after_and_leaves_the_turn_free(
    error: type[BaseException],
) -> None:
    turn, seen = Turn(), list[str]()

    def fail() -> None:
        raise error

    with pytest.raises(error):
        turn.take(lambda: seen.append("cleaned"), fail)
    assert seen == ["cleaned"]
    assert turn.take(nothing, lambda: "free") == "free"


def test_an_error_in_the_clean_up_leaves_the_turn_free_too() -> None:
    turn = Turn()

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turn.take(fail, fail)
    assert turn.take(nothing, lambda: "free") == "free"
    turn.wait("reset", nothing)


def test_a_refused_caller_does_not_clean_up_after_somebody_else() -> None:
    turn, seen = Turn(), list[str]()
    first = Held(lambda work: turn.take(nothing, work))
    with pytest.raises(RuntimeError, match=OTHER_THREAD):
        turn.take(lambda: seen.append("cleaned"), nothing)
    first.let_go()
    assert seen == []
