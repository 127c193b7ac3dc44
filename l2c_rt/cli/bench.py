"""`l2c-rt bench`: the cached run against the full one, on this machine, beside its bound."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from l2c_rt.cli.exits import fitting, refuse
from l2c_rt.cli.options import cut_options, json_option, num_heads_option
from l2c_rt.cli.sources import METAVAR, Cut, read_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from l2c_rt.cli.models import Loaded
    from l2c_rt.compiled import Compiled
    from l2c_rt.schedule import CacheSchedule

EXAMPLES = """\b
Examples:
  l2c-rt bench l2c/dit-xl-2-256/ddim-20
  l2c-rt bench l2c/uvit-h-2-256/dpm-20 --width 192 --rounds 3 --threads 1
  l2c-rt bench my-router.safetensors --weights my-dit.safetensors --batch 8 --json
"""


@click.command("bench", epilog=EXAMPLES, short_help="Time the cached run against the full one.")
@click.argument("source", metavar=METAVAR)
@cut_options
@click.option("--weights", metavar="FILE", help="Model to run; default: random weights.")
@num_heads_option
@click.option("--width", type=click.IntRange(4), help="Width of the random model [384].")
@click.option("--input-size", type=click.IntRange(2), help="Side of its latents, patch 2 [32].")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Images.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="torch threads; default as torch finds.")
@click.option("--backend", default="fused", show_default=True, help="auto, reference or fused.")
@json_option
def bench_command(
    source: str,
    cut: Cut,
    weights: str | None,
    num_heads: int | None,
    width: int | None,
    input_size: int | None,
    batch: int,
    rounds: int,
    threads: int | None,
    backend: str,
    as_json: bool,
) -> None:
    """Time whole runs, full and cached, in the order full, cached, cached, full per round.

    Both runs use the same backend, guidance and noise; the bound is what `cost` gives for the
    arithmetic left out.  Without --weights the model has the schedule's family and depth.
    """
    schedule = read_source(source).schedule(cut)
    loaded = _model(schedule, weights, num_heads, width, input_size)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    full, cached = _compiled_pair(loaded, schedule, backend)
    measured = measure(_run(full, loaded, batch), _run(cached, loaded, batch), rounds)
    program = cached.bound.program
    about = {
        "model": f"{schedule.family or program.family}, {len(program.branches) // 2} blocks, "
        f"width {program.width}, {program.tokens} tokens",
        "schedule": schedule.source or source,
        "steps": schedule.steps,
        "images": batch,
        "backend": cached.backend.name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    click.echo(_text(about, measured, cached) if not as_json else _json(about, measured, cached))


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of every run, two of each kind per round."""

    full: tuple[float, ...]
    cached: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Full over cached time, one per round, so that a drift of the machine cancels."""
        pairs = zip(_in_twos(self.full), _in_twos(self.cached), strict=True)
        return tuple(f / c for f, c in pairs)

    @property
    def speedup(self) -> float:
        return median(self.ratios)


def _model(
    schedule: CacheSchedule,
    weights: str | None,
    num_heads: int | None,
    width: int | None,
    input_size: int | None,
) -> Loaded:
    from l2c_rt.cli.models import load, random_model

    if weights is None:
        if not schedule.family:
            refuse("--weights", "the schedule names no model family, so a model is needed")
        with fitting():
            blocks = schedule.num_branches // 2
            return random_model(schedule.family, blocks, width or 384, input_size or 32)
    for option, value in (("--width", width), ("--input-size", input_size)):
        if value is not None:
            refuse(option, "is for a random model; leave it out with --weights")
    return load(weights, schedule.family, num_heads)


def _compiled_pair(
    loaded: Loaded, schedule: CacheSchedule, backend: str
) -> tuple[Compiled, Compiled]:
    from l2c_rt.api import compile
    from l2c_rt.backends import NAMES
    from l2c_rt.policies import Full

    if backend not in NAMES:
        refuse("--backend", f"{backend!r} is none of {', '.join(NAMES)}")
    with fitting():
        full = compile(loaded.model, Full(), steps=schedule.steps, backend=backend)
        return full, compile(loaded.model, schedule, backend=backend)


def _run(fast: Compiled, loaded: Loaded, batch: int) -> Callable[[], Any]:
    import torch

    from l2c_rt.cli.models import noise

    start = noise(loaded, batch, seed=0)
    labels = torch.arange(batch) % max(loaded.sampling.classes, 1)
    return lambda: fast.sample(start, labels)


def measure(full: Callable[[], Any], cached: Callable[[], Any], rounds: int) -> Measured:
    import time

    from tqdm import tqdm

    seconds: dict[str, list[float]] = {"full": [], "cached": []}
    order = (("full", full), ("cached", cached), ("cached", cached), ("full", full))
    with tqdm(total=2 + 4 * rounds, desc="bench", unit="run") as bar:
        for _, run in order[:2]:
            run()
            bar.update()
        for _ in range(rounds):
            for name, run in order:
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
                bar.update()
    return Measured(tuple(seconds["full"]), tuple(seconds["cached"]))


def _in_twos(seconds: tuple[float, ...]) -> list[float]:
    return [a + b for a, b in zip(seconds[::2], seconds[1::2], strict=True)]


def _text(about: dict[str, Any], measured: Measured, cached: Compiled) -> str:
    bound, ratios = cached.cost.speedup_bound, measured.ratios
    spread = f"{min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} rounds"
    lines = [
        f"{about['model']}; {about['schedule']}",
        f"batch {about['images']} with guidance, {about['steps']} evaluations, "
        f"{about['backend']} backend, {about['threads']} threads, torch {about['torch']}",
        f"  full      {_spell(measured.full)}",
        f"  cached    {_spell(measured.cached)}",
        f"  speed-up  {measured.speedup:.3f}x ({spread})",
        f"  bound     {bound:.3f}x by arithmetic; measured is {measured.speedup / bound:.3f} of it",
    ]
    return "\n".join(lines)


def _spell(seconds: tuple[float, ...]) -> str:
    return f"{median(seconds):.3f} s median, {min(seconds):.3f} to {max(seconds):.3f}"


def _json(about: dict[str, Any], measured: Measured, cached: Compiled) -> str:
    bound = cached.cost.speedup_bound
    return json.dumps(
        about
        | {
            "full_seconds": measured.full,
            "cached_seconds": measured.cached,
            "speedup": measured.speedup,
            "bound": bound,
            "share_of_bound": measured.speedup / bound,
        },
        indent=1,
    )
