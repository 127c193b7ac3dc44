"""learn(model, steps=...): the router of a model, by L2C's objective."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Iterator
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
from l2c_rt.learning.batches import Batch, endless
from l2c_rt.learning.checkpoint import load_checkpoint
from l2c_rt.learning.options import resolve_options
from l2c_rt.learning.output import CHECKPOINT, ROUTER, Output, checked_folder, write_fit
from l2c_rt.learning.penalty import shifted_to_share
from l2c_rt.learning.state import LearnState, gather, start, update
from l2c_rt.learning.task import Task
from l2c_rt.learning.workers import Workers, joined
from l2c_rt.policies.router import Router


def learn(
    model: nn.Module,
    *,
    steps: int,
    data: Iterable[Any] | None = None,
    iterations: int | None = None,
    batch_size: int = 4,
    lam: float | None = None,
    reuse: float | None = None,
    lr: float | None = None,
    seed: int = 0,
    straight_through: float | None = None,
    cfg_scale: float | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    save_every: int = 25,
    report: int = 8,
    progress: bool = True,
) -> Router:
    """Learn which branches of `model` may be reused in a run of `steps` evaluations.

    Pairs come from batches (latents [B, C, H, W], labels [B]) of `data` as published, or, without
    it, from `batch_size` of the model's own guided trajectories per iteration.
    `lam` is the published penalty; `reuse`, 0.45 unless `lam` is given, steers it towards that
    share of the cached evaluations' branches, and then `router.schedule()` reuses just that share.
    `out` receives router, log, checkpoint, pictures and a fit report of `report` images, unless 0;
    `resume` takes the checkpoint up, if any, and ends at the same scores as an uninterrupted run.
    Without matplotlib there is an L2CWarning and no picture.  docs/learning.md says what is done.
    Raises TypeError for a model without adapter, ValueError naming the argument that does not fit.
    Source: arXiv 2406.01733.
    """
    bound_model = adapters.bind(model)
    options = resolve_options(
        bound_model, steps=steps, iterations=iterations, batch_size=batch_size, lam=lam,
        reuse=reuse, lr=lr, seed=seed, straight_through=straight_through, cfg_scale=cfg_scale,
        data=data is not None,
    )  # fmt: skip
    folder = checked_folder(out, resume, save_every, report)
    task = Task.of(bound_model, options)
    with frozen(model), joined(task.device) as workers:
        state = _begun(task, folder if resume else None, workers)
        output = None
        if folder is not None and workers.first:
            output = Output(folder, task, save_every, state.iteration)
        labelled, done = task.loop.classes > 0, state.iteration
        batches = None if data is None else endless(data, labelled, done)
        with closing(output) if output is not None else nullcontext():
            _train(task, state, batches, output, workers, progress and workers.first)
        router = _finished(task, state, workers)
    if folder is not None and output is not None:
        router.save(folder / ROUTER)
        if report:
            write_fit(folder, model, router, report, cfg_scale, seed)
    return router


def _begun(task: Task, folder: Path | None, workers: Workers) -> LearnState:
    """A fresh state, or the one that a stopped run left in the folder."""
    state = start(task.rows.values(), len(task.bound_model.program.branches), task.options)
    if folder is not None and (folder / CHECKPOINT).exists():
        load_checkpoint(folder / CHECKPOINT, state, task.options, task.fingerprint)
    workers.check_equal("where to begin", state.iteration)
    # 52 bits of it, which float64 carries.
    workers.check_equal("the model", int(task.fingerprint[-13:], 16))
    return state


def _train(
    task: Task,
    state: LearnState,
    batches: Iterator[Batch] | None,
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
            pairs = task.pairs(state.iteration, workers.rank, batches)
            sums = gather(task.bound_model, pairs, state, task.options).over(workers)
            update(state, sums, task.options, task.family, workers)
            state.seconds += time.perf_counter() - began
            if output is not None:
                output.end_iteration(state)
            share = f"{state.reused_share:.2f}"
            bar.set_postfix(error=f"{state.error:.2e}", reused=share, refresh=False)
            bar.update()


def _finished(task: Task, state: LearnState, workers: Workers) -> Router:
    """The router, its scores moved to the wanted share where one was given."""
    options, family = task.options, task.family
    learned, shift = state.learned(options).numpy(), 0.0
    if options.reuse is not None:
        learned, shift = shifted_to_share(learned, options.reuse, family.threshold)
    logits = np.zeros((family.router_rows(options.steps), learned.shape[1]), np.float32)
    logits[list(state.rows)] = learned
    return Router(
        logits,
        family.name,
        options.steps,
        branches=task.bound_model.program.branch_names,
        sampler=task.loop.sampler,
        source=f"l2c_rt.learn, seed {options.seed}",
        training=json.dumps({**_about(task, state, workers), "shift_of_logits": shift}),
        fingerprint=task.fingerprint,
    )


def _about(task: Task, state: LearnState, workers: Workers) -> dict[str, Any]:
    """How the router was learned; nothing that differs between a resumed and a whole run."""
    return {
        "objective": "learning-to-cache",
        "pairs": "latents" if task.options.data else "trajectories",
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
