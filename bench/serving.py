"""Many requests at once: the engine against one request at a time and static batches.

The shipped digits model with its learned schedule, and uncached; or a DiT of 12 blocks and width
384, 16 tokens, with the published schedule of the first 12 blocks of DiT-XL/2, and uncached; or
DiT-XL/2 itself, in bfloat16, on a GPU.
Poisson arrivals at shares of the engine's capacity, the same ones for all three, which take turns
in several rounds.  Writes JSON:

    python bench/serving.py bench/results/serving-digits.json
    python bench/serving.py bench/results/serving-12x384.json --model 12x384
    python bench/serving.py bench/results/gpu/serving-dit-xl-2.json --model dit-xl-2 \
        --device cuda --steps 50 --requests 40 --only cached --no-tune

The number of requests is chosen so that it takes some `--seconds`, ten minutes.
Static batches: as many whole requests as wait, up to a batch, all of whose steps are done before
the next are begun; on a GPU filled up to a power of two, each of which has its graphs.  Latency is
from arrival to latents, in seconds.  What is measured about the machine when a batch of some size
comes for the first time, all have behind them: the engine by its `example`, the others by one batch
of each size.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from served_models import LOADS, MODELS, affordable, compiled, cost_curve, image
from tick_overhead import tick_overhead
from torch import Tensor

import l2c_rt as rt
from l2c_rt.serving.step_graphs import filled

MAX_BATCH = 8
ROUNDS = 2
BATCHED = 1.5
"""About how many times as many requests the engine serves as one at a time, where batches pay."""
Latencies = list[float]
Rounds = Sequence[Sequence[float]]
Server = Callable[[rt.Compiled, Sequence[float]], Latencies]
"""(model, arrivals in seconds from now) -> seconds of each request."""


def by_engine(engine: rt.Engine, fast: rt.Compiled, arrivals: Sequence[float]) -> Latencies:
    """Step-level batches."""
    ends: dict[int, float] = {}

    def note(i: int) -> Callable[[Future[Tensor]], None]:
        return lambda future: ends.update({i: time.perf_counter()})

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


@contextmanager
def servers(fast: rt.Compiled, requests: int) -> Iterator[dict[str, Server]]:
    """All three, by name; what batches of a size take for the first time is behind them."""
    for size in range(1, MAX_BATCH + 1):
        in_batches_of(size)(fast, [0.0] * size)
    example = {"noise": image(fast, 0)[0], "y": 0}
    with rt.Engine(fast, max_batch=MAX_BATCH, max_waiting=requests, example=example) as engine:
        yield {
            "engine": partial(by_engine, engine),
            "one at a time": in_batches_of(1),
            "static batches": in_batches_of(MAX_BATCH),
        }


def capacity(serve: Server, fast: rt.Compiled, requests: int) -> float:
    """Requests per second where all are there from the start."""
    return requests / max(serve(fast, [0.0] * requests))


def poisson(rate: float, requests: int, seed: int) -> list[float]:
    """Arrivals in seconds, the same for one seed: of a Poisson process, given that so many come in
    requests / rate seconds, or the load would be that of a random number of them."""
    draw = np.random.default_rng(seed)
    return [float(at) for at in np.sort(draw.uniform(0.0, requests / rate, requests))]


def facts(arrivals: Rounds, latencies: Rounds) -> dict[str, Any]:
    """Throughput until the last request of each round has ended, and latencies of all rounds."""
    seconds = sum(
        max(at + latency for at, latency in zip(*both, strict=True))
        for both in zip(arrivals, latencies, strict=True)
    )
    together = [latency for several in latencies for latency in several]
    p50, p99 = (float(np.percentile(together, q)) for q in (50, 99))
    return {
        "requests_per_s": len(together) / seconds, "p50_s": p50, "p99_s": p99,
        "latencies_s": [[round(latency, 4) for latency in several] for several in latencies],
    }  # fmt: skip


def under_load(
    named: Mapping[str, Server], fast: rt.Compiled, rate: float, requests: int
) -> dict[str, Any]:
    """All servers on the same arrivals, in turns."""
    arrivals = [poisson(rate, requests // ROUNDS, seed) for seed in range(ROUNDS)]
    latencies: dict[str, list[Latencies]] = {name: [] for name in named}
    for several in arrivals:
        for name, serve in named.items():
            latencies[name].append(serve(fast, several))
    return {name: facts(arrivals, several) for name, several in latencies.items()}


def measured(fast: rt.Compiled, requests: int, loads: Sequence[float]) -> dict[str, Any]:
    """All servers on one model."""
    whole = max(1, requests // ROUNDS // MAX_BATCH) * MAX_BATCH
    with servers(fast, requests) as named:
        curve = cost_curve(fast)
        capacities = {name: capacity(serve, fast, whole) for name, serve in named.items()}
        rows = {
            f"{load:.0%}": under_load(named, fast, load * capacities["engine"], requests)
            for load in loads
        }
    return {"cost_curve_s": curve, "capacity_per_s": capacities, "loads": rows}


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--model", "name", type=click.Choice(MODELS), default="digits")
@click.option("--requests", type=int, help="By default what --seconds allow.")
@click.option("--seconds", default=600.0, show_default=True)
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
    began = time.perf_counter()
    models = compiled(name, steps, backend, device, tune=tune)
    models = {key: fast for key, fast in models.items() if only in (None, key)}
    if requests is None:
        # A round of capacity, and each load once at the engine's rate.
        runs = 3 * (1 / ROUNDS + sum(1 / load for load in LOADS) / BATCHED)
        requests = affordable(models, runs, sum(range(MAX_BATCH + 1)), seconds)
    result: dict[str, Any] = {
        "machine": machine(device), "threads": torch.get_num_threads(),
        "cores": os.cpu_count(), "load_average": os.getloadavg(), "model": name, "device": device,
        "requests": requests, "steps": steps, "backend": backend, "max_batch": MAX_BATCH,
        "rounds": ROUNDS, "tuned": tune,
    }  # fmt: skip
    for key, fast in models.items():
        result[key] = measured(fast, requests, LOADS)
        show(key, result[key])
    if name == "digits":  # Of any model; here its requests are short.
        result["overhead"] = tick_overhead(models["cached"], MAX_BATCH)
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
