"""The engine's scheduler in simulated time: no model runs, the costs of evaluations are given.

A run on a busy machine measures the machine.  Here the choice of batches is the engine's own
(`l2c_rt.serving.ticks`), and an evaluation of n requests takes `fixed + n * each` of a full one's
time for one, times what of it is computed.  Writes a table, and JSON where a path is given:

    python bench/serving_simulated.py --schedule l2c/dit-xl-2-256/ddim-50 --fixed 0.5

`--fixed` is the share of a batch of one that a batch of any size costs once: 0 where batches do not
pay, 1 where they are free.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from serving import LOADS, poisson

from l2c_rt import presets
from l2c_rt.policies import Full
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.serving.ticks import choose


@dataclass(frozen=True)
class Machine:
    """What evaluations cost, in seconds of a full one for one request."""

    kinds: tuple[int, ...]
    shares: tuple[float, ...]
    fixed: float
    max_batch: int

    def seconds(self, step: int, batch: int) -> float:
        """Of an evaluation of `batch` requests at the kind of `step`; an empty one is not free."""
        computed = 0.1 + 0.9 * self.shares[step]
        return computed * (self.fixed + (1.0 - self.fixed) * batch)


@dataclass(eq=False)
class Run:
    """A request: its arrival, its step, and what `choose` asks for."""

    order: int
    arrival: float
    kind: int
    since: int
    remaining: int
    step: int = 0


Policy = Callable[[Machine, Sequence[float]], list[float]]
"""(machine, arrivals) -> seconds from arrival to end of each request."""


def by_engine(max_running: int, max_age: int) -> Policy:
    """Step-level batches."""

    def serve(machine: Machine, arrivals: Sequence[float]) -> list[float]:
        now, tick, begun = 0.0, 0, 0
        running: list[Run] = []
        ends = [0.0] * len(arrivals)
        while running or begun < len(arrivals):
            if not running:
                now = max(now, arrivals[begun])
            while begun < len(arrivals) and arrivals[begun] <= now and len(running) < max_running:
                running.append(
                    Run(begun, arrivals[begun], machine.kinds[0], tick, len(machine.kinds))
                )
                begun += 1
            batch = choose(running, tick, machine.max_batch, max_age)
            now += machine.seconds(batch[0].step, len(batch))
            tick += 1
            for run in batch:
                run.step += 1
                run.remaining -= 1
                if run.step == len(machine.kinds):
                    running.remove(run)
                    ends[run.order] = now - run.arrival
                else:
                    run.kind, run.since = machine.kinds[run.step], tick
        return ends

    return serve


def in_batches_of(size: int) -> Policy:
    """Whole requests, up to `size` that wait."""

    def serve(machine: Machine, arrivals: Sequence[float]) -> list[float]:
        now, ends = 0.0, []
        while len(ends) < len(arrivals):
            first = len(ends)
            now = max(now, arrivals[first])
            waiting = sum(at <= now for at in arrivals[first : first + size])
            now += sum(machine.seconds(step, waiting) for step in range(len(machine.kinds)))
            ends += [now - at for at in arrivals[first : first + waiting]]
        return ends

    return serve


def machine_of(schedule: CacheSchedule, fixed: float, max_batch: int) -> Machine:
    """Equal rows are of one kind, as equal steps of a plan are, up to what they keep."""
    rows = [row.tobytes() for row in schedule.compute]
    numbers = {row: k for k, row in enumerate(dict.fromkeys(rows))}
    shares = tuple(float(share) for share in schedule.compute.mean(axis=1))
    return Machine(tuple(numbers[row] for row in rows), shares, fixed, max_batch)


@click.command()
@click.option("--schedule", default="l2c/dit-xl-2-256/ddim-50", show_default=True)
@click.option("--full", is_flag=True, help="The same number of steps, uncached.")
@click.option("--fixed", default=0.5, show_default=True)
@click.option("--max-batch", default=8, show_default=True)
@click.option("--max-age", default=64, show_default=True)
@click.option("--requests", default=2000, show_default=True)
@click.argument("path", required=False, type=click.Path(path_type=Path))
def main(
    schedule: str,
    full: bool,
    fixed: float,
    max_batch: int,
    max_age: int,
    requests: int,
    path: Path | None,
) -> None:
    """Simulate, print a table, write JSON."""
    preset = presets.load(schedule)
    planned = Full().schedule(preset.steps, preset.branches) if full else preset
    machine = machine_of(planned, fixed, max_batch)
    policies = {
        f"engine, {n} running": by_engine(n, max_age) for n in (max_batch, 2 * max_batch, 32, 64)
    }
    policies |= {"one at a time": in_batches_of(1), "static batches": in_batches_of(max_batch)}
    rows = []
    capacities = {
        name: requests / max(serve(machine, [0.0] * requests)) for name, serve in policies.items()
    }
    base = capacities[f"engine, {2 * max_batch} running"]
    for load in LOADS:
        arrivals = poisson(load * base, requests)
        for name, serve in policies.items():
            latencies = serve(machine, arrivals)
            end = max(a + b for a, b in zip(arrivals, latencies, strict=True))
            p50, p99 = np.percentile(latencies, [50, 99])
            row = {"load": load, "policy": name, "capacity": capacities[name],
                   "throughput": requests / end, "p50": float(p50), "p99": float(p99)}  # fmt: skip
            rows.append(row)
            click.echo(f"{load:4.0%} {name:<20} capacity {row['capacity']:.4f} throughput "
                       f"{row['throughput']:.4f} p50 {p50:8.1f} p99 {p99:8.1f}")  # fmt: skip
    if path is not None:
        path.write_text(json.dumps({"simulated": True, "fixed": fixed, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
