"""Many requests at once: the engine against one request at a time and static batches.

The shipped digits model with its learned schedule, and uncached; or a DiT of 12 blocks and width
384, 16 tokens, with the published schedule of the first 12 blocks of DiT-XL/2, and uncached; or
DiT-XL/2 itself, in bfloat16, on a GPU.
Poisson arrivals at shares of the engine's capacity, the same ones for all three.  Writes JSON:

    python bench/serving.py bench/results/serving.json [--requests 200] [--steps 20]
    python bench/serving.py bench/results/serving-12x384.json --model 12x384
    python bench/serving.py bench/results/gpu/serving-dit-xl-2.json --model dit-xl-2 \
        --device cuda --steps 50 --requests 80 --only cached --no-tune

The second chooses the number of requests so that it takes less than `--seconds`, five minutes.
Static batches: as many whole requests as wait, up to a batch, all of whose steps are done before
the next are begun; on a GPU filled up to a power of two, each of which has its graphs.  Latency is
from arrival to latents, in seconds.
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
from served_models import LOADS, affordable, compiled, cost_curve, image
from torch import Tensor

import l2c_rt as rt
from l2c_rt.serving.request import Request
from l2c_rt.serving.step_graphs import filled
from l2c_rt.serving.ticks import choose

MAX_BATCH = 8
RUNNING = 64
Latencies = list[float]
Server = Callable[[rt.Compiled, Sequence[float]], Latencies]
"""(model, arrivals in seconds from now) -> seconds of each request."""


def by_engine(fast: rt.Compiled, arrivals: Sequence[float]) -> Latencies:
    """Step-level batches."""
    ends: dict[int, float] = {}

    def note(i: int) -> Callable[[Future[Tensor]], None]:
        return lambda future: ends.update({i: time.perf_counter()})

    with rt.Engine(fast, max_batch=MAX_BATCH, max_waiting=len(arrivals)) as engine:
        start = time.perf_counter()
        for i, at in enumerate(arrivals):
            time.sleep(max(0.0, start + at - time.perf_counter()))
            engine.submit(*image(fast, i)).add_done_callback(note(i))
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
            size_now = filled(len(waiting)) if fast.bound_model.device.type == "cuda" else 0
            images = [image(fast, i) for i in waiting]
            images += images[-1:] * (size_now - len(images))
            fast.sample(torch.cat([noise for noise, _ in images]), [y for _, y in images]).cpu()
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
            engine.submit(*image(fast, i))
        engine.drain()
    gaps = [b - a for a, b in pairwise(starts)]
    beside = [gap - done for gap, done in zip(gaps, evaluations, strict=False)]
    return {"choose_us": 1e6 * median(choices), "tick_beside_evaluation_us": 1e6 * median(beside)}


def measured(fast: rt.Compiled, requests: int, loads: Sequence[float]) -> dict[str, Any]:
    """All servers on one model."""
    for serve in SERVERS.values():
        serve(fast, [0.0] * MAX_BATCH)
    curve = cost_curve(fast)
    capacities = {name: capacity(serve, fast, requests) for name, serve in SERVERS.items()}
    rows = {}
    for load in loads:
        arrivals = poisson(load * capacities["engine"], requests)
        rows[f"{load:.0%}"] = {
            name: under_load(serve, fast, arrivals) for name, serve in SERVERS.items()
        }
    return {"cost_curve_s": curve, "capacity_per_s": capacities, "loads": rows}


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--model", "name", type=click.Choice(list(LOADS)), default="digits")
@click.option("--requests", type=int, help="200 of the digits; of 12x384 what --seconds allow.")
@click.option("--seconds", default=270.0, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--backend", default="fused", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--only", type=click.Choice(["cached", "uncached"]), help="One of both schedules.")
@click.option("--tune/--no-tune", default=True, help="Measure products, which takes its time.")
def main(
    path: Path, name: str, requests: int | None, seconds: float, steps: int, backend: str,
    device: str, only: str | None, tune: bool,
) -> None:  # fmt: skip
    """Measure, print a table, write JSON."""
    began, loads = time.perf_counter(), LOADS[name]
    models = compiled(name, steps, backend, device, tune=tune)
    models = {key: fast for key, fast in models.items() if only in (None, key)}
    if requests is None:
        runs = [len(SERVERS) * (1 + sum(1 / load for load in loads)), len(SERVERS) * MAX_BATCH]
        requests = 200 if name == "digits" else affordable(models, *runs, seconds)
    result: dict[str, Any] = {
        "machine": machine(device), "threads": torch.get_num_threads(),
        "cores": os.cpu_count(), "load_average": os.getloadavg(), "model": name, "device": device,
        "requests": requests, "steps": steps, "backend": backend, "max_batch": MAX_BATCH,
        "tuned": tune,
    }  # fmt: skip
    for key, fast in models.items():
        result[key] = measured(fast, requests, loads)
        show(key, result[key])
    if name == "digits":  # Of any model; here its requests are short.
        result["overhead"] = tick_overhead(models["cached"])
        click.echo(f"overhead {result['overhead']}")
    result["seconds"] = time.perf_counter() - began
    click.echo(f"{result['seconds']:.0f} s in all")
    path.write_text(json.dumps(result, indent=1) + "\n")


def machine(device: str) -> str:
    """What ran it."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def show(name: str, result: dict[str, Any]) -> None:
    """A table for people."""
    click.echo(f"{name}: seconds of a run by its images, and images per second beside one's")
    curve = result["cost_curve_s"]
    for size, seconds in curve.items():
        click.echo(f"  {size:>3} {seconds:8.4f} s  {size * curve[1] / seconds:5.2f}x")
    click.echo(f"  capacity per second {result['capacity_per_s']}")
    for load, servers in result["loads"].items():
        for server, row in servers.items():
            click.echo(f"  {load:>4} {server:<14} {row['requests_per_s']:6.1f}/s  "
                       f"p50 {row['p50_s']:.3f} s  p99 {row['p99_s']:.3f} s")  # fmt: skip


if __name__ == "__main__":
    main()
