"""Which evaluations a tick does: pure functions of what is ready.

An evaluation is of a kind: evaluations of one kind do the same ops and may share a batch, whatever
their steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Ready(Protocol):
    """A request whose next evaluation can be done.

    `order` counts requests in the order of arrival; `since` is the tick from which on it was ready.
    """

    @property
    def order(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def since(self) -> int: ...


Request = TypeVar("Request", bound=Ready)


def choose(
    ready: Sequence[Request], tick: int, max_batch: int, max_age: int
) -> tuple[Request, ...]:
    """The batch of a tick: at most `max_batch` requests of one kind, those that wait longest first.

    The kind is that with most of them ready, up to a batch, and of several the one that waits
    longest.  But where a request has waited for `max_age` ticks, it is the kind of the one that
    waits longest, which is therefore in the batch.
    """
    if not ready:
        return ()
    oldest_first = sorted(ready, key=lambda request: (request.since, request.order))
    kind = oldest_first[0].kind
    if tick - oldest_first[0].since < max_age:
        counts = Counter(request.kind for request in oldest_first)
        # A Counter keeps the order of first occurrence, and `max` the first of equals.
        kind = max(counts, key=lambda kind: min(counts[kind], max_batch))
    return tuple(request for request in oldest_first if request.kind == kind)[:max_batch]


def longest_wait(max_age: int, max_running: int) -> int:
    """The ticks for which a request that has begun may wait for its next evaluation, at most.

    One that has waited for `max_age` is behind those that wait as long or longer, fewer than
    `max_running`, and every tick from then on takes the first of them.
    """
    return max_age + max_running - 1
