"""Many clients, arrivals and faults drawn at random: nothing is lost, nothing is mixed."""

from __future__ import annotations

import random
import resource
import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
import torch
from published_outputs import relative
from served import STEPS, compiled, image, solo
from torch import Tensor

import l2c_rt as rt
from l2c_rt.serving.request import DeadlineError, QueueFullError

CLIENTS = 8
SEEDS = 6
Fault = tuple[type[BaseException], dict[str, Any]]


def fail(step: int, latents: Tensor) -> None:
    raise ZeroDivisionError


class Client:
    """Sends requests one after another, some of them faulty, and counts what it sees."""

    def __init__(self, engine: rt.Engine, expected: list[Tensor], seed: int) -> None:
        self.engine, self.expected, self.draw = engine, expected, random.Random(seed)
        self.ends: dict[str, int] = dict.fromkeys(("finished", "failed", "cancelled", "expired"), 0)
        self.wrong: list[str] = []

    def run(self, requests: int) -> None:
        for _ in range(requests):
            try:
                self.one()
            except BaseException as error:
                self.wrong.append(repr(error))

    def one(self) -> None:
        seed, fault = self.draw.randrange(SEEDS), self.draw.random()
        options: dict[str, Any] = {}
        if fault < 0.05:
            options["callback"] = fail
        elif fault < 0.1:
            options["deadline"] = 1e-6
        future = self.submitted(seed, options)
        if 0.1 < fault < 0.2:
            future.cancel()
        try:
            error = relative(future.result(120), self.expected[seed])
            self.ends["finished"] += 1
            if not error < 2e-5 or "callback" in options:
                self.wrong.append(f"{seed}: {error}")
        except ZeroDivisionError:
            self.ends["failed"] += 1
        except CancelledError:
            self.ends["cancelled"] += 1
        except DeadlineError:
            self.ends["expired"] += 1

    def submitted(self, seed: int, options: dict[str, Any]) -> Future[Tensor]:
        while True:
            try:
                return self.engine.submit(image(seed), seed, **options)
            except QueueFullError:
                threading.Event().wait(0.001)


def serve(requests: int) -> None:
    """`requests` from each client, then their accounts against the engine's."""
    fast = compiled()
    expected = [solo(fast, seed, seed) for seed in range(SEEDS)]
    torch.manual_seed(0)
    with rt.Engine(fast, max_batch=4, max_waiting=4) as engine:
        clients = [Client(engine, expected, seed) for seed in range(CLIENTS)]
        threads = [threading.Thread(target=c.run, args=(requests,)) for c in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.drain(60)
        stats = engine.stats()
        assert [wrong for client in clients for wrong in client.wrong] == []
        seen = {name: sum(client.ends[name] for client in clients) for name in stats.outcomes}
        assert stats.outcomes == seen
        assert stats.submitted == CLIENTS * requests == sum(seen.values())
        assert (stats.waiting, stats.running) == (0, 0)
        assert stats.longest_wait_ticks <= engine.max_wait_ticks
        assert stats.evaluations >= STEPS * seen["finished"]
        assert min(seen.values()) > 0


def test_nothing_is_lost_or_mixed_under_faults_from_eight_threads() -> None:
    serve(30)


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_requests() -> None:
    serve(250)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    serve(1000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB
