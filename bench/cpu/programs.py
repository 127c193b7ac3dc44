"""The programs that are timed beside our run of a case, each at its best settings."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu import published
from gpu.cache_dit_peer import cache_steps, steps_mask
from gpu.models import diffusers_dit
from torch import Tensor
from weights import fill_deterministic

import l2c_rt as rt
from cpu.block_variants import BlockVariants
from cpu.cases import DEPTH, Case
from cpu.loop import ddim_tables, run_of
from cpu.products_alone import products_alone
from l2c_rt.policies import Full

Run = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Program:
    """How a whole run is built; `needs` are packages, or "clone" for the published program's.

    `cached` runs follow the case's schedule, others compute everything; `exact` is False where
    another model or another rule of reuse is run, or no latents come out.
    """

    build: Callable[[Case, Path | None], Run]
    needs: tuple[str, ...] = ()
    cached: bool = True
    exact: bool = True

    def missing(self, clone: Path | None) -> str:
        """Why it cannot run here; "" where it can."""
        if self.needs == ("clone",):
            return published.missing(clone)
        gone = [package for package in self.needs if importlib.util.find_spec(package) is None]
        return f"{', '.join(gone)} not installed" if gone else ""


def compiler(case: Case) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """torch.compile for one fixed shape, without code in a smoke test; a graph break is an error,
    never silent."""
    backend = "eager" if case.quick else "inductor"
    return partial(torch.compile, backend=backend, fullgraph=True, dynamic=False)


def ours(case: Case, clone: Path | None = None, **options: Any) -> Run:
    """Our own run by the case's schedule."""
    fast = rt.compile(case.model, case.schedule, **options)
    return partial(fast.sample, case.noise, case.labels, cfg_scale=1.0)


def ours_full(case: Case, clone: Path | None = None) -> Run:
    """Our own run that computes everything."""
    fast = rt.compile(case.model, Full(), steps=case.schedule.steps, backend="fused")
    return partial(fast.sample, case.noise, case.labels, cfg_scale=1.0)


def _plain(case: Case, clone: Path | None) -> Run:
    run = run_of(case.model, ddim_tables(case.schedule.steps, case.model))
    return partial(run, case.noise, case.labels)


def _compiled(case: Case, clone: Path | None) -> Run:
    forward = compiler(case)(case.model)
    run = run_of(forward, ddim_tables(case.schedule.steps, case.model))
    return partial(run, case.noise, case.labels)


def _frozen(case: Case, clone: Path | None) -> Run:
    """Weights are constants of the graph, which inductor packs."""
    run = _compiled(case, clone)
    with torch._inductor.config.patch(freezing=True):
        run()
    return run


def _variants(case: Case, clone: Path | None, *, packed: bool) -> Run:
    run = BlockVariants(case.model, case.schedule, compiler(case), packed=packed)
    return partial(run, case.noise, case.labels)


def _published(case: Case, clone: Path | None) -> Run:
    assert clone is not None
    run = published.run_of(clone, case.model, case.schedule.steps, case.dtype, guided=False)
    return partial(run, case.noise, case.labels)


def _cache_dit(case: Case, clone: Path | None, *, compile: bool) -> Run:
    """diffusers' DiT of the same size, leaving out as many branch calls as the schedule does."""
    own, schedule = case.model, case.schedule
    heads = own.num_heads
    model: Any = diffusers_dit(case.noise.shape[-1], DEPTH, heads, own.pos_embed.shape[-1] // heads)
    fill_deterministic(model, 0)
    model = model.to(case.dtype).eval().requires_grad_(False)
    mask = steps_mask(schedule.steps, DEPTH, schedule.reuse_share)
    begin, _ = cache_steps(model, mask, compiler(case) if compile else None)

    def forward(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        (out,) = model(x, timestep=t, class_labels=y, return_dict=False)
        return out

    run = run_of(forward, ddim_tables(schedule.steps, own), begin)
    return partial(run, case.noise, case.labels)


CACHE_DIT = ("diffusers", "cache_dit")
PROGRAMS = {
    "plain": Program(_plain, cached=False),
    "compiled": Program(_compiled, cached=False),
    "compiled, frozen": Program(_frozen, cached=False),
    "variants": Program(partial(_variants, packed=False)),
    "variants, packed": Program(partial(_variants, packed=True)),
    "published": Program(_published, ("clone",)),
    "cache-dit": Program(partial(_cache_dit, compile=False), CACHE_DIT, exact=False),
    "cache-dit, compiled": Program(partial(_cache_dit, compile=True), CACHE_DIT, exact=False),
    "reference": Program(partial(ours, backend="reference")),
    "fused, addmm": Program(partial(ours, backend="fused", pack=False)),
    "fused, uncached": Program(ours_full, cached=False),
    "products alone": Program(products_alone, exact=False),
}  # fmt: skip
"""By the names in bench/results/cpu.json."""
