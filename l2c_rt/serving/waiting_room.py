"""Requests that have not begun, in the order of arrival; safe from threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from l2c_rt.serving.alarm import Alarm
from l2c_rt.serving.request import QueueFullError, Request


class WaitingRoom:
    """At most `limit` requests.  One that was cancelled or has expired takes no place of others'.

    `over` is called, outside of the lock, with each that was dropped for this.  The `alarm` rings
    for them, and for those that have begun.
    """

    def __init__(self, limit: int, over: Callable[[Request], None]) -> None:
        self._limit, self._over = limit, over
        self.alarm = Alarm()
        self._changed = threading.Condition()
        self._requests: deque[Request] = deque()
        self._closed = False

    def add(self, request: Request) -> None:
        """Raises QueueFullError where `limit` requests wait, RuntimeError once closed."""
        with self._changed:
            # Before those that are over are looked for: they need not be looked for in vain.
            dropped = self._sweep() if len(self._requests) >= self._limit else []
            full = len(self._requests) >= self._limit
            closed = self._closed
            if not (full or closed):
                self._requests.append(request)
                self._changed.notify()
        self.alarm.watch((request.expires,))
        for other in dropped:
            self._over(other)
        if closed:
            raise RuntimeError("Engine: shut down; make another to serve more requests")
        if full:
            raise QueueFullError(
                f"Engine: {self._limit} requests wait already (max_waiting={self._limit}); try "
                "again later, or send it to another replica"
            )

    def drop_over(self) -> None:
        """Drop those that were cancelled or have expired."""
        with self._changed:
            dropped = self._sweep()
        for request in dropped:
            self._over(request)

    def take(self) -> Request | None:
        """The one that waits longest, or None where none does."""
        with self._changed:
            return self._requests.popleft() if self._requests else None

    def wait(self) -> bool:
        """Until a request waits; False once closed with none left."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._closed)
            return bool(self._requests)

    def close(self) -> None:
        """Take no more; those that wait go on waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def closed(self) -> bool:
        return self._closed

    def __len__(self) -> int:
        return len(self._requests)

    def all(self) -> list[Request]:
        """Those that wait now."""
        with self._changed:
            return list(self._requests)

    def _sweep(self) -> list[Request]:
        now = time.monotonic()
        over = [request for request in self._requests if request.is_over(now)]
        if over:
            self._requests = deque(r for r in self._requests if not r.is_over(now))
        return over
