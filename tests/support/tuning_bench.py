"""Tuning without a GPU: problems, choices, and times given by choice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2c_rt.backends.cuda.tuning import machine
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.problems import (
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)

PROJ = LinearProblem(512, 1152, 1152, True, None, "bfloat16", True)
FC1 = LinearProblem(512, 4608, 1152, True, "tanh", "bfloat16", False)
HEADS = AttentionProblem(2, 256, 16, 72, "bfloat16")
ADDMM = LinearConfig("addmm")
SPLIT = LinearConfig("split", (64, 128, 64, 4, 4, 8), 2)
TRITON = LinearConfig("triton", (64, 64, 64, 4, 4, 8))


class Bench:
    """Times by choice instead of a clock; `errors` are raised where the call is built."""

    def __init__(self, times: dict[Any, float], errors: dict[Any, Exception] | None = None) -> None:
        self.times, self.errors = times, errors or {}
        self.made: list[Any] = []
        self.last: Any = None
        self._now = 0.0

    def make(self, choice: Any) -> Callable[[], None]:
        self.made.append(choice)
        if choice in self.errors:
            raise self.errors[choice]

        def call() -> None:
            self.last, self._now = choice, self.times.get(choice, 1.0)

        return call

    def measure(self, call: Callable[[], None]) -> float:
        call()
        return self._now


def tuner(bench: Bench | None, path: Path | None = None, name: str = "H200") -> Tuner:
    return Tuner(name, path, None if bench is None else bench.measure)


def never(choice: Any) -> Callable[[], None]:
    raise AssertionError(f"{choice} was built")


def write_entries(path: Path, entries: Any) -> bytes:
    """A file with these entries for the machine of the tests."""
    whole = {"version": 1, "machines": {machine.machine_key("H200"): entries}}
    text = json.dumps(whole).encode()
    path.write_bytes(text)
    return text


def entry(**changed: Any) -> dict[str, Any]:
    return {"problem": PROJ.to_json(), "choice": SPLIT.to_json() | changed}
