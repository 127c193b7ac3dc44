"""What each method's run takes, against the bound that its counted arithmetic sets: on a CPU,
width 384, depth 28, 256 tokens, 20 evaluations.
"""

from __future__ import annotations

from typing import Any

from cpu.cases import dit
from cpu.every_method import EveryMethod
from table import method_rows
from timed_runs import record

WIDTH = 384
WANTED = 0.95


def bench_every_method(benchmark: Any, quick: bool) -> None:
    """Every method near half of the full run's arithmetic, each beside the full run by its own
    route, in turn; of the bound 0.95 are wanted."""
    results = dict(EveryMethod(dit(WIDTH, quick)).timed(rounds=1 if quick else 3))
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
    record(benchmark, group="methods",
           below=[name for name, timed in results.items() if timed.of_bound < WANTED],
           methods={name: timed.as_dict() for name, timed in results.items()})  # fmt: skip
    print("\n" + "\n".join(method_rows(benchmark.extra_info)))
