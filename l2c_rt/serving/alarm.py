"""Whether a request may be over before its end, without asking each of them at every tick."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable


class Alarm:
    """Rings where a request was cancelled, or the earliest deadline has passed; safe from threads.

    Who hears it resets it, and then asks all requests: what happens meanwhile rings again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled, self._earliest = False, math.inf

    def cancel(self) -> None:
        """A request was cancelled."""
        self._cancelled = True

    def watch(self, deadlines: Iterable[float | None]) -> None:
        """Ring from the earliest of these on, too."""
        earliest = min((at for at in deadlines if at is not None), default=math.inf)
        if earliest < math.inf:
            with self._lock:
                self._earliest = min(self._earliest, earliest)

    def rings(self, now: float) -> bool:
        return self._cancelled or now >= self._earliest

    def reset(self) -> None:
        with self._lock:
            self._cancelled, self._earliest = False, math.inf
