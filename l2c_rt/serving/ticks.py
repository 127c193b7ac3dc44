"""Which evaluations a tick does: pure functions of what is ready.

An evaluation is of a kind: evaluations of one kind do the same ops and may share a batch, whatever
their steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Ready(Protocol):
    """A request whose next evaluation can be done.

    `order` counts requests in the order of arrival; `since` is the tick from which on it was ready;
    `remaining` are its evaluations to come, this one included.
    """

    @property
    def order(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def since(self) -> int: ...
    @property
    def remaining(self) -> int: ...


Request = TypeVar("Request", bound=Ready)


def choose(
    ready: Sequence[Request], tick: int, max_batch: int, max_age: int
) -> tuple[Request, ...]:
    """The batch of a tick: at most `max_batch` requests of one kind, first come, first served.

    The kind is that with most work ready: the sum over its requests of one over `remaining`, so
    that of equally full batches the one that ends sooner goes first; and of equals the one of the
    first arrival.  But where a request has waited for `max_age` ticks, the one that waits longest
    is in the batch, before all others.
    """
    if not ready:
        return ()
    by_kind: dict[int, list[Request]] = {}
    for request in sorted(ready, key=lambda request: request.order):
        by_kind.setdefault(request.kind, []).append(request)
    oldest = min(ready, key=lambda request: (request.since, request.order))
    if tick - oldest.since >= max_age:
        others = (request for request in by_kind[oldest.kind] if request is not oldest)
        return (oldest, *others)[:max_batch]
    # A dict keeps the order of first occurrence, and `max` the first of equals.
    kind = max(by_kind, key=lambda kind: _work(by_kind[kind]))
    return tuple(by_kind[kind][:max_batch])


def _work(requests: Sequence[Ready]) -> float:
    # Counted alone, a full batch that has just begun would hold up one that is about to end.
    return sum(1 / request.remaining for request in requests)


def longest_wait(max_age: int, max_running: int) -> int:
    """The ticks for which a request that has begun may wait for its next evaluation, at most.

    One that has waited for `max_age` is behind those that wait as long or longer, fewer than
    `max_running`, and every tick from then on takes the first of them.
    """
    return max_age + max_running - 1
