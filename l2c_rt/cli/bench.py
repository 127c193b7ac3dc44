"""`l2c-rt bench`: the cached run against the full one, on this machine, beside its limit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.bench_text import bench_text
from l2c_rt.cli.checks import check_weights, device_name
from l2c_rt.cli.exits import fitting, reading, refuse
from l2c_rt.cli.models import check_device
from l2c_rt.cli.options import (
    BACKENDS,
    MOST,
    WIDEST,
    cut_options,
    json_option,
    key_option,
    num_heads_option,
)
from l2c_rt.cli.sources import METAVAR, Threshold, read_source
from l2c_rt.measure.ceilings import Ceilings, quick_ceilings, read_ceilings
from l2c_rt.measure.clocks import Clock, Run, clock_for
from l2c_rt.measure.interleaved import Samples, ratios, side_by_side
from l2c_rt.measure.machine import device_facts

if TYPE_CHECKING:
    import torch

    from l2c_rt.cli.models import Loaded
    from l2c_rt.runtime.compiled import Compiled
    from l2c_rt.schedule.cache_schedule import CacheSchedule

EXAMPLES = """\b
Examples:
  l2c-rt bench l2c/dit-xl-2-256/ddim-20
  l2c-rt bench l2c/uvit-h-2-256/dpm-20 --width 192 --rounds 3 --threads 1
  l2c-rt bench my-router.safetensors --weights my-dit.safetensors --batch 8 --json
  l2c-rt bench l2c/dit-xl-2-256/ddim-50 --device cuda --width 1152 --measure-ceilings
"""
DTYPES = ("float32", "bfloat16", "float16")


@click.command("bench", epilog=EXAMPLES, short_help="Time the cached run against the full one.")
@click.argument("source", metavar=METAVAR)
@cut_options
@click.option("--weights", metavar="FILE", help="Model to run; default: random weights.")
@num_heads_option
@key_option
@click.option("--width", type=click.IntRange(4, WIDEST), help="Width of the random model [384].")
@click.option("--input-size", type=click.IntRange(2, MOST), help="Side of its latents [32].")
@click.option("--batch", type=click.IntRange(1, MOST), default=1, show_default=True, help="Images.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(1, MOST), help="Of torch; default its own number.")
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="fused", show_default=True,
    help="How ops are run.",
)  # fmt: skip
@click.option(
    "--device", callback=device_name, help="A torch device; default cuda if there is one, else cpu."
)
@click.option(
    "--dtype", type=click.Choice(DTYPES), help="Default bfloat16 on a GPU, float32 on a CPU."
)
@click.option(
    "--ceilings",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON with macs_per_second and bytes_per_second of this machine: prints the floor.",
)
@click.option("--measure-ceilings", is_flag=True, help="Measure them now: prints the floor.")
@json_option
def bench_command(
    source: str,
    cut: Threshold,
    weights: str | None,
    num_heads: int | None,
    key: str,
    width: int | None,
    input_size: int | None,
    batch: int,
    rounds: int,
    threads: int | None,
    backend: str,
    device: str | None,
    dtype: str | None,
    ceilings: Path | None,
    measure_ceilings: bool,
    as_json: bool,
) -> None:
    """Time whole runs, full and cached, in the order full, cached, cached, full per round.

    Both runs use the same backend, guidance and noise; the limit is what `cost` gives for the
    arithmetic left out.  Without --weights the model has the schedule's family and depth.
    """
    if ceilings is not None and measure_ceilings:
        refuse("--measure-ceilings", "--ceilings already gives them; leave one out")
    with reading():
        rates = None if ceilings is None else read_ceilings(ceilings)
    schedule = read_source(source).schedule(cut)
    _check_model(schedule, weights, width, input_size)
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = _model(schedule, weights, num_heads, key, width, input_size)
    placed_on = _settle(loaded, device, dtype)
    clock = clock_for(placed_on)
    full, cached = _compiled_pair(loaded, schedule, backend)
    programs = {"full": _run(full, loaded, batch), "cached": _run(cached, loaded, batch)}
    samples = _timed(programs, clock, rounds)
    if measure_ceilings:
        rates = quick_ceilings(clock, placed_on, _dtype(loaded))
    facts = _about(cached, schedule, source, batch) | {"device": device_facts(placed_on)}
    facts |= _speed(samples, cached.cost.speedup_limit) | _floor(cached, batch, rates)
    click.echo(json.dumps(facts, indent=1) if as_json else bench_text(facts))


def _timed(programs: dict[str, Run], clock: Clock, rounds: int) -> Samples:
    """Warm both up, then time them, with a progress bar."""
    from tqdm import tqdm

    with tqdm(total=2 + 4 * rounds, desc="bench", unit="run") as bar:
        for run in programs.values():
            run()
            bar.update()
        return side_by_side(programs, clock, rounds, bar.update)


def _speed(samples: Samples, limit: float) -> dict[str, Any]:
    """Every sample, and the ratio beside its limit."""
    per_round = ratios(samples["full"], samples["cached"])
    speedup = median(per_round)
    return {
        "full_seconds": samples["full"],
        "cached_seconds": samples["cached"],
        "ratios": per_round,
        "speedup": speedup,
        "limit": limit,
        "share_of_limit": speedup / limit,
    }


def _about(cached: Compiled, schedule: CacheSchedule, source: str, batch: int) -> dict[str, Any]:
    import torch

    program = cached.bound_model.program
    return {
        "model": f"{schedule.family or program.family}, {len(program.branches) // 2} blocks, "
        f"width {program.width}, {program.tokens} tokens",
        "schedule": schedule.source or source,
        "steps": schedule.steps,
        "images": batch,
        "backend": cached.backend.name,
        "dtype": str(next(cached.bound_model.model.parameters()).dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _check_model(
    schedule: CacheSchedule, weights: str | None, width: int | None, input_size: int | None
) -> None:
    """End before torch is imported where there can be no such model."""
    sizes = (("--width", width, 4), ("--input-size", input_size, 2))
    for option, value, unit in sizes:
        if weights is not None and value is not None:
            refuse(option, "is for a random model; leave it out with --weights")
        if value is not None and value % unit:
            refuse(option, f"{value} is not a multiple of {unit}")
    if weights is not None:
        check_weights(weights)
    elif not schedule.family:
        refuse("--weights", "the schedule names no model family, so a model is needed")


def _model(
    schedule: CacheSchedule,
    weights: str | None,
    num_heads: int | None,
    key: str,
    width: int | None,
    input_size: int | None,
) -> Loaded:
    from l2c_rt.cli.models import load, random_model

    if weights is None:
        with fitting():
            blocks = schedule.num_branches // 2
            return random_model(schedule.family, blocks, width or 384, input_size or 32)
    return load(weights, schedule.family, num_heads, key)


def _compiled_pair(
    loaded: Loaded, schedule: CacheSchedule, backend: str
) -> tuple[Compiled, Compiled]:
    from l2c_rt.api import compile
    from l2c_rt.policies import Full

    with fitting():
        full = compile(loaded.model, Full(), steps=schedule.steps, backend=backend)
        return full, compile(loaded.model, schedule, backend=backend)


def _run(fast: Compiled, loaded: Loaded, batch: int) -> Run:
    import torch

    from l2c_rt.cli.models import noise

    device = next(loaded.model.parameters()).device
    start = noise(loaded, batch, seed=0).to(device)
    classes = loaded.sampling.classes
    labels = torch.arange(batch, device=device) % classes if classes else None
    return lambda: fast.sample(start, labels)


def _settle(loaded: Loaded, device: str, dtype: str | None) -> torch.device:
    """Put the model on its device, in its dtype."""
    import torch

    loaded.model.to(device)
    placed_on = next(loaded.model.parameters()).device
    dtype = dtype or ("bfloat16" if placed_on.type == "cuda" else "float32")
    loaded.model.to(getattr(torch, dtype))
    return placed_on


def _dtype(loaded: Loaded) -> torch.dtype:
    return next(loaded.model.parameters()).dtype


def _floor(cached: Compiled, batch: int, rates: Ceilings | None) -> dict[str, Any]:
    """The least time of the cached run at the ceilings, two rows per image for guidance."""
    if rates is None:
        return {}
    ceilings = asdict(rates)
    itemsize = next(cached.bound_model.model.parameters()).element_size()
    floor = cached.cost.floor_seconds(batch=2 * batch, itemsize=itemsize, **ceilings)
    return {"ceilings": ceilings, "floor_seconds": floor}
