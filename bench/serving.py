"""Many requests at once: the engine against one request at a time and static batches.

The shipped digits model with its learned schedule, and uncached; Poisson arrivals at 50, 80 and
95 % of the engine's capacity, the same ones for all three.  Writes JSON:

    python bench/serving.py bench/results/serving.json [--requests 200] [--steps 20]

Static batches: as many whole requests as wait, up to a batch, all of whose steps are done before
the next are begun.  Latency is from arrival to latents, in seconds.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

import l2c_rt as rt
from l2c_rt.demo.run import load_demo_model, load_demo_router
from l2c_rt.serving.request import Request
from l2c_rt.serving.ticks import choose

LOADS = (0.5, 0.8, 0.95)
MAX_BATCH = 8
RUNNING = 64
Latencies = list[float]
Server = Callable[[rt.Compiled, Sequence[float]], Latencies]
"""(model, arrivals in seconds from now) -> seconds of each request."""


def image(i: int) -> tuple[Tensor, int]:
    """Noise and label of request i."""
    return torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(i)), i % 10


def by_engine(fast: rt.Compiled, arrivals: Sequence[float]) -> Latencies:
    """Step-level batches."""
    ends: dict[int, float] = {}

    def note(i: int) -> Callable[[Future[Tensor]], None]:
        return lambda future: ends.update({i: time.perf_counter()})

    with rt.Engine(fast, max_batch=MAX_BATCH, max_waiting=len(arrivals)) as engine:
        start = time.perf_counter()
        for i, at in enumerate(arrivals):
            time.sleep(max(0.0, start + at - time.perf_counter()))
            engine.submit(*image(i)).add_done_callback(note(i))
        engine.drain()
    return [ends[i] - start - at for i, at in enumerate(arrivals)]


def in_batches_of(size: int) -> Server:
    """Whole requests, up to `size` that wait."""

    def serve(fast: rt.Compiled, arrivals: Sequence[float]) -> Latencies:
        latencies: Latencies = []
        start = time.perf_counter()
        while len(latencies) < len(arrivals):
            first = len(latencies)
            time.sleep(max(0.0, start + arrivals[first] - time.perf_counter()))
            now = time.perf_counter() - start
            waiting = [i for i in range(first, len(arrivals)) if arrivals[i] <= now][:size]
            images = [image(i) for i in waiting]
            fast.sample(torch.cat([noise for noise, _ in images]), [y for _, y in images])
            end = time.perf_counter() - start
            latencies += [end - arrivals[i] for i in waiting]
        return latencies

    return serve


SERVERS: dict[str, Server] = {
    "engine": by_engine,
    "one at a time": in_batches_of(1),
    "static batches": in_batches_of(MAX_BATCH),
}


def capacity(serve: Server, fast: rt.Compiled, requests: int) -> float:
    """Requests per second where all are there from the start."""
    return requests / max(serve(fast, [0.0] * requests))


def poisson(rate: float, requests: int) -> list[float]:
    """Arrivals in seconds, the same for one seed."""
    gaps = np.random.default_rng(0).exponential(1.0 / rate, requests)
    return [float(at) for at in np.cumsum(gaps)]


def under_load(serve: Server, fast: rt.Compiled, arrivals: Sequence[float]) -> dict[str, Any]:
    """Throughput until the last request has ended, and latencies."""
    latencies = serve(fast, arrivals)
    end = max(at + latency for at, latency in zip(arrivals, latencies, strict=True))
    p50, p99 = (float(np.percentile(latencies, q)) for q in (50, 99))
    return {
        "requests_per_s": len(arrivals) / end,
        "p50_s": p50,
        "p99_s": p99,
        "latencies_s": [round(latency, 5) for latency in latencies],
    }


def cost_curve(fast: rt.Compiled) -> dict[int, float]:
    """CPU seconds of a whole run by the number of images in it, the median of three: what other
    programs take of a shared machine does not count."""
    curve = {}
    for size in (1, 2, 4, 8, 16):
        noise = torch.cat([image(i)[0] for i in range(size)])
        times = []
        for _ in range(4):
            began = time.process_time()
            fast.sample(noise, [i % 10 for i in range(size)])
            times.append(time.process_time() - began)
        curve[size] = median(times[1:])
    return curve


def tick_overhead(fast: rt.Compiled) -> dict[str, float]:
    """Microseconds of a tick beside its evaluation, with RUNNING requests that have begun."""
    with rt.Engine(fast, max_batch=MAX_BATCH, max_running=RUNNING) as engine:
        evaluator = engine._worker.evaluator
        choices: list[float] = []
        evaluations: list[float] = []
        predict = evaluator.predictions

        def timed(batch: Sequence[Request]) -> list[Tensor]:
            running, tick = engine._worker.running, engine._worker._tick
            began = time.perf_counter()
            choose(running, tick, MAX_BATCH, 64)
            middle = time.perf_counter()
            predictions = predict(batch)
            if len(running) == RUNNING:
                choices.append(middle - began)
                evaluations.append(time.perf_counter() - began)
                starts.append(began)
            return predictions

        starts: list[float] = []
        evaluator.predictions = timed  # type: ignore[method-assign]
        for i in range(2 * RUNNING):
            while len(engine._worker.running) + len(engine._waiting) >= RUNNING:
                time.sleep(0.001)
            engine.submit(*image(i))
        engine.drain()
    gaps = [b - a for a, b in pairwise(starts)]
    beside = [gap - done for gap, done in zip(gaps, evaluations, strict=False)]
    return {"choose_us": 1e6 * median(choices), "tick_beside_evaluation_us": 1e6 * median(beside)}


def measured(fast: rt.Compiled, requests: int) -> dict[str, Any]:
    """All servers on one model."""
    for serve in SERVERS.values():
        serve(fast, [0.0] * MAX_BATCH)
    capacities = {name: capacity(serve, fast, requests) for name, serve in SERVERS.items()}
    loads = {}
    for load in LOADS:
        arrivals = poisson(load * capacities["engine"], requests)
        loads[f"{load:.0%}"] = {
            name: under_load(serve, fast, arrivals) for name, serve in SERVERS.items()
        }
    return {
        "cost_curve_cpu_s": cost_curve(fast), "capacity_per_s": capacities, "loads": loads,
    }  # fmt: skip


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--requests", default=200, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--backend", default="fused", show_default=True)
def main(path: Path, requests: int, steps: int, backend: str) -> None:
    """Measure, print a table, write JSON."""
    model, router = load_demo_model(), load_demo_router(steps)
    schedules = {"learned": router.schedule(), "uncached": rt.policies.Full()}
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
        "cores": os.cpu_count(), "load_average": os.getloadavg(),
        "requests": requests, "steps": steps, "backend": backend, "max_batch": MAX_BATCH,
    }  # fmt: skip
    for name, schedule in schedules.items():
        fast = rt.compile(model, schedule, steps=steps, backend=backend)
        result[name] = measured(fast, requests)
        show(name, result[name])
        if name == "learned":
            result["overhead"] = tick_overhead(fast)
            click.echo(f"overhead {result['overhead']}")
    path.write_text(json.dumps(result, indent=1) + "\n")


def show(name: str, result: dict[str, Any]) -> None:
    """A table for people."""
    click.echo(f"{name}: CPU seconds of a run by images {result['cost_curve_cpu_s']}")
    click.echo(f"  capacity per second {result['capacity_per_s']}")
    for load, servers in result["loads"].items():
        for server, row in servers.items():
            click.echo(f"  {load:>4} {server:<14} {row['requests_per_s']:6.1f}/s  "
                       f"p50 {row['p50_s']:.3f} s  p99 {row['p99_s']:.3f} s")  # fmt: skip


if __name__ == "__main__":
    main()
