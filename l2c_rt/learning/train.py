"""learn(model, steps=...): the router of a model, by L2C's objective."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from l2c_rt import adapters
from l2c_rt._version import __version__
from l2c_rt.adapters.branch_forward import frozen
from l2c_rt.arguments import check_arguments
from l2c_rt.comparison.fit import fit_report
from l2c_rt.comparison.loop_runs import Loop
from l2c_rt.learning.checkpoint import load_checkpoint
from l2c_rt.learning.coefficients import of_router
from l2c_rt.learning.options import LoopOptions, history_of, resolve_options, with_lanes
from l2c_rt.learning.output import CHECKPOINT, ROUTER, Output, checked_folder, write_fit
from l2c_rt.learning.own_loop import loop_task
from l2c_rt.learning.penalty import nested, shifted_to_share
from l2c_rt.learning.published_loop import PublishedLoopPairs, published_task
from l2c_rt.learning.refit import refitted
from l2c_rt.learning.state import LearnState, start, update
from l2c_rt.learning.task import Task
from l2c_rt.learning.workers import Workers, joined
from l2c_rt.policies.router import Router


def learn(
    model: nn.Module,
    *,
    steps: int,
    loop: Loop | None = None,
    calls_per_step: int = 1,
    granularity: str = "branch",
    sites: Sequence[str] | None = None,
    checkpointing: bool = False,
    data: Iterable[Any] | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    lam: float | None = None,
    reuse: float | None = None,
    lr: float | None = None,
    seed: int = 0,
    straight_through: float | None = None,
    corrector: str | None = None,
    history: int = 3,
    lanes: bool = False,
    cfg_scale: float | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    save_every: int = 25,
    report: int = 8,
    progress: bool = True,
) -> Router:
    """Learn which branches of `model` may be reused in a run of `steps` evaluations.

    `loop(m, seed)` is one whole run of a sampler of your own, such as a pipeline, that calls `m` in
    the model's place, `calls_per_step` times per evaluation.  It runs as ever, once per iteration;
    `granularity` ("block" for whole blocks, "shell" for those of a U-Net) and `sites` are those of
    `compile`, `checkpointing` computes the inside of branches twice to save memory, and with the
    `cfg_scale` of the loop the loss is after guidance.
    Without a loop it is the published one of the model's family.  Pairs then come from batches
    (latents [B, C, H, W], labels [B]) of `data` as published, or, without it, from `batch_size` (4)
    of the model's own guided trajectories per iteration.
    `lam` is the published penalty; `reuse`, 0.45 unless `lam` is given, steers it towards that
    share of the cached evaluations' branches, and then `router.schedule()` reuses just that share.
    With the corrector "learned" the value in the mixture is a prediction from the last `history`
    evaluations that compute everything, whose coefficients are learned with the gates from least
    squares on; the router has them, and its schedules the predictions.  For `router.schedule()`
    they are fitted again at the end, as `fit_corrector` does, in some 26 runs more.  With `lanes`
    cond and uncond have coefficients of their own.
    `out` receives router, log, checkpoint, pictures and a fit report of `report` images, unless 0;
    `resume` takes the checkpoint up, if any, and ends at the same scores as an uninterrupted run.
    Without matplotlib there is an L2CWarning and no picture.  docs/learning.md says what is done.
    Raises TypeError for a model without branches, ValueError naming the argument that does not fit,
    or for a loop that calls the model another number of times; all before the first iteration.
    Source: arXiv 2406.01733.
    """
    check_arguments("learn", loop=loop, data=data, lanes=lanes, checkpointing=checkpointing,
                    progress=progress)  # fmt: skip
    folder = checked_folder(out, resume, save_every, report)
    own_loop = _loop_options(model, loop, calls_per_step, granularity, sites, checkpointing)
    bound_model = adapters.bind(model) if loop is None else None
    options = resolve_options(
        bound_model, steps=steps, iterations=iterations, batch_size=batch_size, lam=lam,
        reuse=reuse, lr=lr, seed=seed, straight_through=straight_through, cfg_scale=cfg_scale,
        data=data is not None, own_loop=own_loop,
        history=history_of(corrector, history, published=loop is None, data=data is not None),
    )  # fmt: skip
    options = with_lanes(options, bound_model) if lanes else options
    with frozen(model):
        if bound_model is not None:
            task = published_task(bound_model, options, data)
        else:
            assert loop is not None
            task = loop_task(model, loop, options, checkpointing, folder is not None and report > 0)
        router, is_first = _trained(task, folder, resume, save_every, progress)
    if router.coefficients is not None:
        own_folder = folder if is_first else None
        router = refitted(router, model, options, own_folder, progress and is_first)
    if folder is not None and is_first:
        router.save(folder / ROUTER)
        if report:
            write_fit(folder, fit_report(
                model, router, images=report, cfg_scale=None if loop else cfg_scale, seed=seed,
                loop=loop, calls_per_step=calls_per_step,
            ))  # fmt: skip
    return router


def _trained(
    task: Task, folder: Path | None, resume: bool, save_every: int, progress: bool
) -> tuple[Router, bool]:
    """The router, and whether this is the first of the processes."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with joined(task.device) as workers:
        state = _begun(task, folder if resume else None, workers)
        output = None
        if folder is not None and workers.first:
            output = Output(folder, task, save_every, state.iteration)
        with closing(output) if output is not None else nullcontext():
            _train(task, state, output, workers, progress and workers.first)
        router = _finished(task, state, workers)
        return router, workers.first


def _loop_options(
    model: nn.Module,
    loop: Loop | None,
    calls_per_step: int,
    granularity: str,
    sites: Sequence[str] | None,
    checkpointing: bool,
) -> LoopOptions | None:
    """How a loop of the user's own calls the model; None for the published one."""
    options = LoopOptions(calls_per_step, granularity, sites)
    if loop is not None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"learn: model is a {type(model).__name__}, wanted a torch.nn.Module")
        return options
    if options != LoopOptions() or checkpointing:
        raise ValueError(
            "learn: calls_per_step, granularity, sites and checkpointing are for a loop of your "
            "own; give loop= as well, or leave them out"
        )
    return None


def _begun(task: Task, folder: Path | None, workers: Workers) -> LearnState:
    """A fresh state, or the one that a stopped run left in the folder."""
    state = start(task.rows.values(), task.source.costs, task.options)
    if isinstance(task.source, PublishedLoopPairs) and task.options.history:
        state.coefficients = task.source.start_coefficients()
    if folder is not None and (folder / CHECKPOINT).exists():
        load_checkpoint(folder / CHECKPOINT, state, task.options, task.fingerprint)
    workers.check_equal("where to begin", state.iteration)
    # 52 bits of it, which float64 carries.
    workers.check_equal("the model", int(task.fingerprint[-13:], 16))
    return state


def _train(
    task: Task,
    state: LearnState,
    output: Output | None,
    workers: Workers,
    progress: bool,
) -> None:
    total = task.options.iterations
    bar = tqdm(total=total, initial=state.iteration, desc="learn", disable=not progress)
    with bar:
        while state.iteration < total:
            if output is not None:
                output.begin_iteration(state)
            began = time.perf_counter()
            sums = task.source.gather(state, workers.rank).over(workers)
            update(state, sums, task.options, task.rules, workers)
            state.seconds += time.perf_counter() - began
            if output is not None:
                output.end_iteration(state)
            share = f"{state.reused_share:.2f}"
            bar.set_postfix(error=f"{state.error:.2e}", reused=share, refresh=False)
            bar.update()


def _finished(task: Task, state: LearnState, workers: Workers) -> Router:
    """The router, its scores moved to the wanted share where one was given."""
    options, rules, own = task.options, task.rules, task.options.own_loop
    learned, shift = state.learned(options).numpy(), 0.0
    if any(branch.nested for branch in task.bound_model.program.branches):
        learned = nested(learned)
    if options.reuse is not None:
        learned, shift = shifted_to_share(learned, options.reuse, rules.threshold)
    logits = np.zeros((rules.router_rows(options.steps), learned.shape[1]), np.float32)
    logits[list(state.rows)] = learned
    coefficients = None
    if state.coefficients is not None:
        table = state.coefficients.table()
        coefficients = of_router(table, state.rows, len(logits), options.lanes)
    return Router(
        logits,
        rules.name,
        options.steps,
        branches=task.bound_model.program.branch_names,
        sampler=task.source.sampler,
        source=f"l2c_rt.learn, seed {options.seed}",
        training=json.dumps({**_about(task, state, workers), "shift_of_logits": shift}),
        fingerprint=task.fingerprint,
        timesteps=task.source.timesteps,
        granularity="branch" if own is None else own.granularity,
        coefficients=coefficients,
    )


def _about(task: Task, state: LearnState, workers: Workers) -> dict[str, Any]:
    """How the router was learned; nothing that differs between a resumed and a whole run."""
    return {
        "objective": "learning-to-cache",
        "pairs": task.source.kind,
        "options": task.options.as_dict(),
        "processes": workers.size,
        "lam_at_end": state.lam,
        "error_at_end": state.error,
        "error_at_cut": state.error_at_cut,
        "loss_at_end": state.error + state.penalty,
        "model": type(task.bound_model.model).__name__,
        "versions": {
            "l2c_rt": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
