"""A stand-in for torch.cuda that logs what is done."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

GPU = torch.device("cuda", 1)
CPU = torch.device("cpu")


class FakeCuda:
    """What l2c_rt calls of torch.cuda; `log` has the order.  `fails` names calls that raise."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.fails: dict[str, list[BaseException]] = {}
        self.user = FakeStream(self, "user")
        self.current = self.user
        self.device_now = 0
        self.capturing: FakeStream | None = None
        self.pools = 0
        self.open_pools: set[Any] = set()
        self.held_pools: list[Any] = []

    def did(self, what: str, *details: Any) -> None:
        self.log.append((what, *details) if details else what)
        if self.fails.get(what):
            raise self.fails[what].pop(0)

    def names(self) -> list[str]:
        return [entry if isinstance(entry, str) else entry[0] for entry in self.log]

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.device_now = self.device_now, device.index
        try:
            yield
        finally:
            self.device_now = before

    def pool_handle(self) -> tuple[int, int]:
        self.pools += 1
        return (0, self.pools)

    def keeper_of(self, pool: Any) -> object:
        """What holds a pool open, as long as it lives."""
        self.held_pools.append(pool)
        keeper = FakeGraph(self)
        weakref.finalize(keeper, self.held_pools.remove, pool)
        return keeper


class FakeStream:
    cuda_stream = 77

    def __init__(self, cuda: FakeCuda, name: str = "own", priority: int = 0) -> None:
        self.cuda, self.name, self.priority = cuda, name, priority

    def synchronize(self) -> None:
        self.cuda.did("stream.synchronize", self.name)

    def wait_stream(self, other: FakeStream) -> None:
        self.cuda.did("wait_stream", self.name, other.name)

    def wait_event(self, event: FakeEvent) -> None:
        self.cuda.did("wait_event", self.name, event.stream)


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.stream, self.done = cuda, "", True
        self.device = -1

    def record(self, stream: FakeStream | None = None) -> None:
        self.stream = (stream or self.cuda.current).name
        self.device = self.cuda.device_now
        self.cuda.did("record", self.stream)

    @property
    def cuda_event(self) -> int:
        return 0xE0

    def query(self) -> bool:
        self.cuda.did("query")
        return self.done

    def elapsed_time(self, other: FakeEvent) -> float:
        return 2.0


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.handle, self.pool = cuda, 0, None

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert self.cuda.capturing is None, "two captures at once"
        if pool in self.cuda.open_pools:
            # As of a pool that a failed capture has left open for host memory.
            raise RuntimeError(f"beginAllocateToPool: already recording to mempool_id {pool}")
        self.pool = pool
        self.cuda.open_pools.add(pool)
        self.cuda.capturing = self.cuda.current
        self.cuda.did("capture_begin", pool, capture_error_mode, self.cuda.current.name)

    def capture_end(self) -> None:
        self.cuda.capturing = None
        self.cuda.did("capture_end")
        self.cuda.open_pools.discard(self.pool)

    def replay(self) -> None:
        self.cuda.did("replay", self.handle)

    def raw_cuda_graph_exec(self) -> int:
        return self.handle


def stand_in_for_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Put a FakeCuda in the place of torch.cuda until the test ends."""
    fake = FakeCuda()
    stand_ins: dict[str, Any] = {
        "Stream": lambda device, priority=0: FakeStream(fake, priority=priority),
        "Event": lambda **_: FakeEvent(fake),
        "CUDAGraph": lambda: FakeGraph(fake),
        "stream": fake.stream,
        "device": fake.device,
        "current_stream": lambda device=None: fake.current,
        "current_device": lambda: fake.device_now,
        "graph_pool_handle": fake.pool_handle,
        "memory_reserved": lambda device: 100 * len(fake.log),
        "is_current_stream_capturing": lambda: fake.capturing is not None,
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    waited = "l2c_rt.device.streams.wait_for_event"
    monkeypatch.setattr(waited, lambda device, event: fake.did("wait_for_event", device, event))
    uploads = "l2c_rt.device.graphs.upload_graph"
    monkeypatch.setattr(uploads, lambda *args: fake.did("upload", *args))
    monkeypatch.setattr("l2c_rt.device.capture_places.keeper_of", fake.keeper_of)
    private: dict[str, Any] = {
        "clearCublasWorkspaces": lambda: fake.did("clearCublasWorkspaces"),
        "endAllocateToPool": lambda *args: fake.did("endAllocateToPool", *args),
    }
    for name, value in private.items():
        monkeypatch.setattr(torch._C, f"_cuda_{name}", value, raising=False)
    return fake
