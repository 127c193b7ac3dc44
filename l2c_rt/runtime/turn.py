"""Who may use a session now: one call at a time, and no call waits for another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


class Turn:
    """Gives a session to one caller at a time.

    The lock is held by `with` on the lock itself: CPython lets no signal in between taking a lock
    and guarding it there, so that Ctrl-C at any point leaves the session free for the next caller.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._user: int | None = None

    @property
    def mine(self) -> bool:
        """Whether the calling thread is inside a call of this session."""
        return self._lock.locked() and self._user == threading.get_ident()

    def take(
        self, on_error: Callable[[], None], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`work(*args, **kwargs)` alone; `on_error()` first where it fails.

        Raises RuntimeError at once, and touches nothing, while somebody else has the session.
        """
        if torch.compiler.is_compiling():
            # Counters, locks and addresses are nothing for a graph of torch.compile.
            alone = torch.compiler.disable(self.take)  # type: ignore[no-untyped-call]
            result: T = alone(on_error, work, *args, **kwargs)
            return result
        taken = self._taken
        # No user and yet locked: a reset, a sleep or a wake, which is short and may be waited for.
        if self._lock.locked() and self._user is not None:
            raise RuntimeError(self._refusal())
        with self._lock:
            # Two callers may have found the session free: the later one has overlapped as well.
            if self._taken != taken:
                raise RuntimeError(self._refusal())
            self._taken += 1
            self._user = threading.get_ident()
            try:
                return work(*args, **kwargs)
            except BaseException:
                on_error()
                raise
            finally:
                self._user = None

    def wait(self, action: str, work: Callable[[], None]) -> None:
        """`work()` once no call goes on.  Raises RuntimeError from inside a call of one's own."""
        self.refuse_inside(action)
        with self._lock:
            work()

    def refuse_inside(self, action: str) -> None:
        """Raise RuntimeError where `action` would wait for the call that it is made from."""
        if self.mine:
            raise RuntimeError(f"{action}() was called from inside a call of this session")

    def _refusal(self) -> str:
        if self._user == threading.get_ident():
            return "this session was called from inside one of its own calls; open another session"
        return (
            "this session is being called from another thread; open one session per thread: "
            "with fast.session() as s: s(x, t, y)"
        )
