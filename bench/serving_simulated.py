"""The engine's scheduler in simulated time: no model runs, the costs of evaluations are given.

A run on a busy machine measures the machine.  Here the choice of batches is the engine's own
(`l2c_rt.serving.ticks`), and evaluations take what runs of so many images were measured to take,
each its share by what it computes.  Writes a table, and JSON where a path is given:

    python bench/serving_simulated.py bench/results/serving-simulated.json

"CPU" is the model of 12 blocks and width 384 of bench/results/serving-12x384.json, "H200" is
DiT-XL/2 of bench/results/gpu, whose 8 images were measured and whose batches between 1 and 8 are
taken for linear.  Rules beside the engine's: "no catching up" is the engine's without `reach`,
"oldest first" takes the kind of the first arrival.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import click
import numpy as np
from serving import LOADS, MAX_BATCH, poisson

from l2c_rt import presets
from l2c_rt.policies import Full
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.serving.ticks import choose, reach_of

RESULTS = Path(__file__).parent / "results"
MAX_AGE = 64
GPU_FILE = "gpu/run-dit-xl-2-256.ddim-50-n{}.json"


@dataclass(frozen=True)
class Machine:
    """`seconds[step][n]` of the evaluation `step` of n requests, by kind."""

    kinds: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]


@dataclass(eq=False)
class Run:
    """A request: its number, its arrival, its step, and what `choose` asks for."""

    number: int
    arrival: float
    kind: int
    since: int
    remaining: int
    step: int = 0


Rule = Callable[[Sequence[Run], int], Sequence[Run]]
"""(requests that have begun, by arrival; tick) -> the batch."""
Policy = Callable[[Machine, Sequence[float]], list[float]]
"""(machine, arrivals) -> seconds from arrival to end of each request."""


def by_engine(reach: int | None, machine: Machine, arrivals: Sequence[float]) -> list[float]:
    """Step-level batches; `reach` None is the engine's."""
    if reach is None:
        reach = reach_of(len(machine.kinds))
    return served(lambda runs, tick: choose(runs, tick, MAX_BATCH, MAX_AGE, reach), machine,
                  arrivals)  # fmt: skip


def by_oldest(machine: Machine, arrivals: Sequence[float]) -> list[float]:
    """The kind of the first arrival."""

    def oldest(runs: Sequence[Run], tick: int) -> Sequence[Run]:
        return [run for run in runs if run.kind == runs[0].kind][:MAX_BATCH]

    return served(oldest, machine, arrivals)


def served(rule: Rule, machine: Machine, arrivals: Sequence[float]) -> list[float]:
    """Requests begin in the order of arrival, twice as many as a batch at once."""
    now, tick, begun, kinds = 0.0, 0, 0, machine.kinds
    running: list[Run] = []
    ends = [0.0] * len(arrivals)
    while running or begun < len(arrivals):
        if not running:
            now = max(now, arrivals[begun])
        while begun < len(arrivals) and arrivals[begun] <= now and len(running) < 2 * MAX_BATCH:
            running.append(Run(begun, arrivals[begun], kinds[0], tick, len(kinds)))
            begun += 1
        batch = rule(running, tick)
        now += machine.seconds[batch[0].step][len(batch)]
        tick += 1
        for run in batch:
            run.step += 1
            run.remaining -= 1
            if run.remaining:
                run.kind, run.since = kinds[run.step], tick
            else:
                running.remove(run)
                ends[run.number] = now - run.arrival
    return ends


def in_batches_of(size: int, machine: Machine, arrivals: Sequence[float]) -> list[float]:
    """Whole requests, up to `size` that wait."""
    now, ends = 0.0, []
    while len(ends) < len(arrivals):
        first = len(ends)
        now = max(now, arrivals[first])
        waiting = sum(at <= now for at in arrivals[first : first + size])
        now += sum(seconds[waiting] for seconds in machine.seconds)
        ends += [now - at for at in arrivals[first : first + waiting]]
    return ends


POLICIES: dict[str, Policy] = {
    "engine": partial(by_engine, None),
    "no catching up": partial(by_engine, 0),
    "oldest first": by_oldest,
    "one at a time": partial(in_batches_of, 1),
    "static batches": partial(in_batches_of, MAX_BATCH),
}


def machine_of(schedule: CacheSchedule, curve: Mapping[int, float]) -> Machine:
    """Equal rows are of one kind, as equal steps of a plan are, up to what they keep.  `curve` has
    the seconds of a whole run by its images; of an evaluation a tenth is the same for all rows."""
    rows = [row.tobytes() for row in schedule.compute]
    numbers = {row: k for k, row in enumerate(dict.fromkeys(rows))}
    shares = 0.1 + 0.9 * schedule.compute.mean(axis=1)
    shares /= shares.sum()
    whole = np.interp(range(MAX_BATCH + 1), [0, *curve], [0.0, *curve.values()])
    seconds = tuple(tuple(float(s * w) for w in whole) for s in shares)
    return Machine(tuple(numbers[row] for row in rows), seconds)


def machines() -> Iterator[tuple[str, str, Machine]]:
    """(machine, "cached" or "uncached", costs)."""
    measured = json.loads((RESULTS / "serving-12x384.json").read_text())
    for key in ("cached", "uncached"):
        curve = {int(n): seconds for n, seconds in measured[key]["cost_curve_s"].items()}
        yield "CPU", key, machine_of(planned("ddim-20", key, 24), curve)
    for key, samples in (("cached", "cached"), ("uncached", "full")):
        files = {n: json.loads((RESULTS / GPU_FILE.format(n)).read_text()) for n in (1, MAX_BATCH)}
        curve = {n: median(file["samples"][samples]) for n, file in files.items()}
        yield "H200", key, machine_of(planned("ddim-50", key, None), curve)


def planned(name: str, key: str, branches: int | None) -> CacheSchedule:
    published = presets.load(f"l2c/dit-xl-2-256/{name}")
    schedule = CacheSchedule(published.compute[:, :branches], family="dit", sampler="ddim")
    return schedule if key == "cached" else Full().schedule(schedule.steps, schedule.branches)


def simulated(machine: Machine, requests: int, seeds: int) -> Iterator[dict[str, Any]]:
    """A row for each load and policy; p50 and p99 are means over the seeds."""
    capacity = requests / max(POLICIES["engine"](machine, [0.0] * requests))
    for load in LOADS:
        arrivals = [poisson(load * capacity, requests, seed) for seed in range(seeds)]
        for name, policy in POLICIES.items():
            latencies = [policy(machine, several) for several in arrivals]
            ends = [
                max(map(sum, zip(*both, strict=True)))
                for both in zip(arrivals, latencies, strict=True)
            ]
            p50, p99 = (fmean(np.percentile(each, q) for each in latencies) for q in (50, 99))
            yield {"load": load, "policy": name, "p50_s": p50, "p99_s": p99,
                   "requests_per_s": seeds * requests / sum(ends)}  # fmt: skip


@click.command()
@click.option("--requests", default=1000, show_default=True)
@click.option("--seeds", default=6, show_default=True)
@click.argument("path", required=False, type=click.Path(path_type=Path))
def main(requests: int, seeds: int, path: Path | None) -> None:
    """Simulate, print a table, write JSON."""
    rows = []
    for name, key, machine in machines():
        for row in simulated(machine, requests, seeds):
            rows.append({"machine": name, "model": key} | row)
            click.echo(f"{name:<5} {key:<9} {row['load']:4.0%} {row['policy']:<15} "
                       f"{row['requests_per_s']:7.3f}/s p50 {row['p50_s']:7.3f} s "
                       f"p99 {row['p99_s']:7.3f} s")  # fmt: skip
    if path is not None:
        path.write_text(json.dumps({"simulated": True, "requests": requests, "seeds": seeds,
                                    "rows": rows}, indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
