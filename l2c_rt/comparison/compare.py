"""Many methods on one model at equal compute, each against the full run from the same noise."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from typing import Any, NamedTuple

from torch import Tensor, nn
from tqdm import tqdm

from l2c_rt.adapters.branch_forward import frozen
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.arguments import check_arguments, whole
from l2c_rt.comparison.comparison import FORMAT, VERSION, Comparison
from l2c_rt.comparison.image_metrics import check_metrics
from l2c_rt.comparison.knobs import as_given
from l2c_rt.comparison.loop_runs import Loop
from l2c_rt.comparison.measured_runs import MeasuredRuns
from l2c_rt.comparison.methods import Entry, Method, entries_of, identity
from l2c_rt.comparison.pipeline_subject import PipelineSubject
from l2c_rt.comparison.result_folder import ResultFolder
from l2c_rt.comparison.rows import Rows
from l2c_rt.comparison.subjects import (
    Decode,
    OwnLoopSubject,
    PublishedLoopSubject,
    Subject,
)
from l2c_rt.measure.clocks import Clock
from l2c_rt.methods.checks import numbers_of
from l2c_rt.policies.router import Router
from l2c_rt.schedule.cache_schedule import CacheSchedule


def compare(
    model: Any,
    methods: Mapping[str, Method] | Sequence[Method | Entry],
    *,
    compute: Sequence[float] | None = (0.85, 0.675, 0.5),
    seeds: int | Sequence[int] = 3,
    steps: int | None = None,
    images: int = 8,
    cfg_scale: float | None = None,
    loop: Loop | None = None,
    calls_per_step: int = 1,
    backend: str = "auto",
    rounds: int = 1,
    decode: Decode | None = None,
    metrics: Collection[str] | None = None,
    features: nn.Module | None = None,
    real: Tensor | None = None,
    folder: str | PathLike[str] | None = None,
    progress: bool = True,
    clock: Clock | None = None,
) -> Comparison:
    """Run every method at each share of the full run's arithmetic, and the full run.

    A method is what `compile` takes, or a list of such, its settings; a mapping names them, an
    `Entry` also has options of `compile` for one.  `compute` are shares of the full run's counted
    multiply-accumulates: each method takes the setting that comes nearest, by its `knob`, and its
    row says what it did compute.  With None each is run as it is.
    `seeds`, a number of them or a list, are those of the noise; every run is against the full run
    of its seed.  Without a `loop`, as `learn` takes it, the loop is the published one of the
    family, with `images` at once, which `decode` makes of latents.  `model` may also be a pipeline
    of diffusers; then `loop(pipe, seed)` calls it.  Each timed run, `rounds` a
    seed, is beside a full one; 0 times nothing.  `metrics`, of "ssim", "lpips" and "fid", are those
    that must be there beside PSNR, None all that can be.  `features` [n, C, H, W] -> [n, F] are
    those of FID in Inception's place, `real` images in the place of the full run's.
    `folder` keeps every result as it comes; the same call goes on where that stopped.
    Raises TypeError or ValueError, before the first run, for what does not fit.
    """
    check_arguments("compare", images=images, cfg_scale=cfg_scale, loop=loop, rounds=rounds,
                    calls_per_step=calls_per_step, decode=decode, features=features, folder=folder,
                    progress=progress, clock=clock, metrics=metrics)  # fmt: skip
    plan = _Options(seeds_of(seeds), shares_of(compute), rounds)
    entries = entries_of(methods)
    steps = _steps_of(entries, steps)
    subject = _subject(model, steps, loop, calls_per_step, backend,
                       images=images, cfg_scale=cfg_scale, decode=decode)  # fmt: skip
    decodes = not isinstance(subject, PublishedLoopSubject) or subject.decode is not None
    check_metrics(metrics, features, real, decodes)
    for entry in entries:
        subject.build(as_given(entry.method).at(0), entry.options)
    more = {"images": images, "loop": loop, "calls per step": calls_per_step, "backend": backend,
            "decode": decode, "features": features, "real images": real}  # fmt: skip
    named = {} if metrics is None else {"metrics": ", ".join(sorted(metrics))}
    results = ResultFolder(folder, _configuration(subject, entries, plan, {**more, **named}))
    total = len(plan.seeds) * (1 + len(entries) * len(plan.shares or (None,)))
    with ExitStack() as stack:
        for module in subject.modules:
            stack.enter_context(frozen(module))
        bar = stack.enter_context(tqdm(total=total, desc="compare", disable=not progress))
        runs = MeasuredRuns(subject, plan.seeds, plan.rounds, clock, features, metrics)
        rows = Rows(runs, results, real, bar.update)
        all_rows = [rows.full(), *(row for e in entries for row in rows.of(e, plan.shares))]
        reasons = rows.reasons()
    return Comparison(
        subject.name, steps, images if loop is None else None, plan.seeds, subject.cfg_scale,
        plan.shares, tuple(all_rows), reasons, results.digest,
    )  # fmt: skip


class _Options(NamedTuple):
    seeds: tuple[int, ...]
    shares: tuple[float, ...] | None
    rounds: int


def _configuration(
    subject: Subject, entries: Sequence[Entry], plan: _Options, more: Mapping[str, object]
) -> dict[str, Any]:
    """All that the results depend on, but the machine."""
    return {
        "format": FORMAT, "version": VERSION, "model": subject.name, "steps": subject.steps,
        "weights": [model_fingerprint(module) for module in subject.modules],
        "methods": [[e.name, identity(e.method), identity(e.options)] for e in entries],
        "guidance": subject.cfg_scale, "seeds": list(plan.seeds), "rounds": plan.rounds,
        "compute": identity(plan.shares), **{k: identity(v) for k, v in more.items()},
    }  # fmt: skip


def _steps_of(entries: Sequence[Entry], steps: int | None) -> int:
    """The number of evaluations: given, or that of the first schedule or router."""
    for entry in entries:
        methods = entry.method if isinstance(entry.method, list) else [entry.method]
        for method in methods:
            if steps is None and isinstance(method, CacheSchedule | Router):
                steps = method.steps
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"compare: steps is {steps!r:.40}, wanted the number of evaluations")
    return steps


def _subject(
    model: Any,
    steps: int,
    loop: Loop | None,
    calls_per_step: int,
    backend: str,
    *,
    images: int,
    cfg_scale: float | None,
    decode: Decode | None,
) -> Subject:
    """What is compared on: a pipeline, or a model in the loop given or in the published one."""
    for name, value in (("cfg_scale", cfg_scale), ("decode", decode)):
        if loop is not None and value is not None:
            raise ValueError(
                f"compare: got loop= and {name}={value!r:.40}; guidance and images are the loop's "
                f"own matter, leave {name} out"
            )
    if not isinstance(model, nn.Module):
        if loop is None:
            raise ValueError(
                f"compare: a {type(model).__name__} needs loop=, a function of (pipe, seed) that "
                "calls the pipeline and returns its images"
            )
        return PipelineSubject(model, steps, loop, backend)
    if loop is None:
        return PublishedLoopSubject(model, steps, images, cfg_scale, backend, decode)
    return OwnLoopSubject(model, steps, loop, calls_per_step, backend)


def seeds_of(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """0, 1, ... for a number of them."""
    if isinstance(seeds, Sequence) and not isinstance(seeds, str):
        for seed in seeds:
            check_arguments("compare", seed=seed)
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"compare: seeds is {seeds!r:.60}, wanted different seeds")
        return tuple(seeds)
    whole(1, 10_000)("compare: seeds", seeds)
    return tuple(range(seeds))


def shares_of(compute: Sequence[float] | None) -> tuple[float, ...] | None:
    """The shares, each once.  Raises ValueError for one that is not above 0 and at most 1."""
    if compute is None:
        return None
    shares = numbers_of("compare: compute", compute, 0, 1)
    if 0 in shares:
        raise ValueError("compare: compute has 0, wanted shares in 0..1, not 0")
    return tuple(dict.fromkeys(shares))
