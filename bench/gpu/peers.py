"""The programs that our cached run is compared with, each tuned as well as we can.

A program is built for a case and a batch, on the same weights and noise as ours, and says which of
our references it must agree with.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu import published
from gpu.cache_dit_peer import cache_steps, steps_mask
from gpu.loop import GuidedLoop, capture_on
from gpu.models import Case, Rig, compiled
from gpu.operations import attention_shape, fastest_attention
from gpu.strong_peer import StrongPeer
from l2c_rt.adapters import bind
from l2c_rt.models import DiT
from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class Program:
    """A whole run, ready to be timed.

    `reference` names the model and the schedule (None: uncached) that it must agree with;
    `bounded` is False where it approximates in its own way, and then the difference from the
    uncached run is only recorded.
    """

    run: Callable[[], Tensor]
    reference: tuple[str, CacheSchedule | None]
    bounded: bool = True
    facts: Callable[[], dict[str, Any]] = dict


@dataclass(frozen=True, slots=True)
class Peer:
    """How a program is built; `needs` are packages, or "clone" for the published program's."""

    build: Callable[[Rig, Case, int], Program]
    needs: tuple[str, ...] = ()
    dit_only: bool = True

    def missing(self, rig: Rig) -> str:
        """Why it cannot run here; "" where it can."""
        if self.needs == ("clone",):
            return published.missing(rig.published)
        gone = [package for package in self.needs if importlib.util.find_spec(package) is None]
        return f"{', '.join(gone)} not installed" if gone else ""


def ours(rig: Rig, case: Case, images: int, *, cached: bool = True, **options: Any) -> Program:
    """Our own whole run."""
    model, schedule = rig.model(case.model), case.schedule()
    fast = compiled(model, schedule if cached else None, schedule.steps, **options)
    return Program(
        partial(fast.sample, *rig.noise(model, images)), (case.model, schedule if cached else None)
    )


def _eight_bits(rig: Rig, case: Case, images: int) -> Program:
    """Ours in fp8, whose difference is that of 3 bits of mantissa and only recorded."""
    return replace(ours(rig, case, images, precision="fp8"), bounded=False)


def _strong(rig: Rig, case: Case, images: int) -> Program:
    model, schedule = rig.model(case.model), case.schedule()
    assert isinstance(model, DiT)
    noise, y = rig.noise(model, images)
    with _compiling(rig, model, images) as attention:
        peer = StrongPeer(model, schedule, images, rig.compile, capture_on(rig.device))
    return Program(
        torch.no_grad()(lambda: peer(noise, y)),
        (case.model, schedule),
        facts=lambda: {"attention": attention, "graphs": len(peer.graphs)},
    )


def _compiled(rig: Rig, case: Case, images: int, *, prefix: str = "") -> Program:
    name, steps = prefix + case.model, case.schedule().steps
    model = rig.model(name)
    with _compiling(rig, model, images) as attention:
        loop, evaluation = _evaluation(model, steps, images)
        replay = capture_on(rig.device)(rig.compile(evaluation))
    run = _whole_run(loop, replay, steps, *rig.noise(model, images))
    return Program(run, (name, None), facts=lambda: {"attention": attention})


def _cache_dit(rig: Rig, case: Case, images: int, *, compile: bool) -> Program:
    """It decides at run time, so it neither follows a learned schedule nor is captured."""
    name, schedule = f"diffusers-{case.model}", case.schedule()
    # A model of its own, since it is patched.
    model = rig.fresh(name)
    mask = steps_mask(schedule.steps, schedule.num_branches // 2, schedule.reuse_share)
    loop, evaluation = _evaluation(model, schedule.steps, images)
    torch._dynamo.reset()
    begin, facts = cache_steps(model, mask, rig.compile if compile else None)
    run = _whole_run(loop, evaluation, schedule.steps, *rig.noise(model, images), begin)
    return Program(run, (name, None), bounded=False, facts=facts)


def _published(rig: Rig, case: Case, images: int, *, dtype: torch.dtype) -> Program:
    model, schedule = rig.model(case.model), case.schedule()
    assert rig.published is not None
    assert isinstance(model, DiT)
    run = published.run_of(rig.published, model, schedule.steps, dtype)
    return Program(partial(run, *rig.noise(model, images)), (case.model, schedule))


def _evaluation(model: nn.Module, steps: int, images: int) -> tuple[GuidedLoop, Callable[[], None]]:
    """The model's own guided call and the solver's update, all on the device."""
    weight, described = next(model.parameters()), bind(model)
    assert described.sampling is not None
    loop = GuidedLoop(described.sampling, steps, images, weight.device)

    def evaluation() -> None:
        arguments = described.arguments(*loop.inputs(weight.dtype))
        loop.advance(described.to_tensor(model(**arguments)))

    return loop, evaluation


def _whole_run(
    loop: GuidedLoop, evaluation: Callable[[], object], steps: int, noise: Tensor, y: Tensor,
    begin: Callable[[], object] = lambda: None,
) -> Callable[[], Tensor]:  # fmt: skip
    @torch.no_grad()
    def run() -> Tensor:
        begin()
        loop.start(noise, y)
        for _ in range(steps):
            evaluation()
        return loop.x.clone()

    return run


@contextlib.contextmanager
def _compiling(rig: Rig, model: nn.Module, images: int) -> Iterator[str]:
    """Nothing compiled before is left, and PyTorch's attention is the fastest one at the model's
    shape, measured now; gives its name."""
    torch._dynamo.reset()
    with torch.no_grad(), contextlib.ExitStack() as stack:
        name = "default"
        if rig.device.type == "cuda":
            best = fastest_attention(rig, attention_shape(model, images))
            stack.enter_context(sdpa_kernel([best, SDPBackend.MATH], set_priority=True))
            name = best.name
        yield name


DIFFUSERS, CACHE_DIT = ("diffusers",), ("diffusers", "cache_dit")
PEERS = {
    "strong": Peer(_strong),
    "fp8": Peer(_eight_bits, dit_only=False),
    "compiled": Peer(_compiled, dit_only=False),
    "eager": Peer(partial(ours, backend="reference"), dit_only=False),
    "published-bf16": Peer(partial(_published, dtype=torch.bfloat16), ("clone",)),
    "published": Peer(partial(_published, dtype=torch.float32), ("clone",)),
    "diffusers": Peer(partial(_compiled, prefix="diffusers-"), DIFFUSERS),
    "cache-dit": Peer(partial(_cache_dit, compile=False), CACHE_DIT),
    "cache-dit-compiled": Peer(partial(_cache_dit, compile=True), CACHE_DIT),
}
"""docs/performance.md says what each is."""
