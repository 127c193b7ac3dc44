"""Which evaluations a tick does: pure functions of what is ready.

An evaluation is of a kind: evaluations of one kind do the same ops and may share a batch, whatever
their steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Protocol, TypeVar


class Ready(Protocol):
    """A request whose next evaluation can be done.

    `since` is the tick from which on it was ready; `remaining` are its evaluations to come, this
    one included.
    """

    @property
    def kind(self) -> int: ...
    @property
    def since(self) -> int: ...
    @property
    def remaining(self) -> int: ...


Request = TypeVar("Request", bound=Ready)

_since = attrgetter("since")
_remaining = attrgetter("remaining")


def choose(
    ready: Sequence[Request], tick: int, max_batch: int, max_age: int, reach: int
) -> tuple[Request, ...]:
    """The batch of a tick: at most `max_batch` requests of one kind, first come, first served.

    `ready` is in the order of arrival.  The kind is that with most work ready: the sum over its
    requests of one over `remaining`, so that of equally full batches the one that ends sooner goes
    first; and of equals the one of the first arrival.  Where that batch is not full, who is at most
    `reach` evaluations behind its first goes before, to share the rest of the run with it.  But
    where a request has waited for `max_age` ticks, the one that waits longest is in the batch,
    before all others.
    """
    if not ready:
        return ()
    by_kind: dict[int, list[Request]] = {}
    work: dict[int, float] = {}
    for request in ready:
        kind = request.kind
        by_kind.setdefault(kind, []).append(request)
        # Counted alone, a full batch that has just begun would hold up one that is about to end.
        work[kind] = work.get(kind, 0.0) + 1 / request.remaining
    # `min` and `max` give the first of equals; a dict keeps the order of first occurrence.
    oldest = min(ready, key=_since)
    if tick - oldest.since >= max_age:
        others = (request for request in by_kind[oldest.kind] if request is not oldest)
        return (oldest, *others)[:max_batch]
    batch = by_kind[max(work, key=work.__getitem__)][:max_batch]
    if len(batch) < max_batch:
        ahead = batch[0].remaining
        behind = [request for request in ready if ahead < request.remaining <= ahead + reach]
        if behind:
            batch = by_kind[max(behind, key=_remaining).kind][:max_batch]
    return tuple(batch)


def longest_wait(max_age: int, max_running: int) -> int:
    """The ticks for which a request that has begun may wait for its next evaluation, at most.

    One that has waited for `max_age` is behind those that wait as long or longer, fewer than
    `max_running`, and every tick from then on takes the first of them.
    """
    return max_age + max_running - 1


def reach_of(evaluations: int) -> int:
    """How far behind a request may be to catch up, in a run of so many evaluations: a tenth of it.

    Further, those ahead would wait longer than what sharing the rest saves them
    (bench/serving_simulated.py).
    """
    return -(-evaluations // 10)
