"""What each method's run takes, against the bound that its counted arithmetic sets: on a CPU,
width 384, depth 28, 256 tokens, 20 evaluations.
"""

from __future__ import annotations

from typing import Any

from cpu.cases import dit
from cpu.every_method import EveryMethod
from timed_runs import record

WIDTH = 384
WANTED = 0.95


def bench_every_method(benchmark: Any, quick: bool) -> None:
    """Every method near half of the full run's arithmetic, each beside the full run by its own
    route, in turn; of the bound 0.95 are wanted."""
    suite = EveryMethod(dit(WIDTH, quick), quick)
    results = {}
    for name, (method, options) in suite.methods().items():
        results[name] = suite.timed(method, options, rounds=1 if quick else 3)
        print(f"\n{name:>18} {results[name].setting:<28} {results[name].backend:<9} "
              f"computes {results[name].computed:6.1%}, {results[name].speedup.median:5.2f}x, "
              f"{results[name].of_bound:.2f} of its bound", end="")  # fmt: skip
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
    below = [name for name, timed in results.items() if timed.of_bound < WANTED]
    print(f"\nbelow {WANTED} of the bound: {', '.join(below) or 'none'}")
    record(benchmark, group="methods", below=below,
           methods={name: timed.as_dict() for name, timed in results.items()})  # fmt: skip
