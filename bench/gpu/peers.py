"""The programs that l2c_rt is compared with, each as good as we know how to make it.

A peer is built for a case and a batch, on the same weights and noise as l2c_rt's own program, and
says which of our references it must agree with.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu import published
from gpu.cache_dit_peer import caching, steps_mask
from gpu.ceilings import attention_shape, fastest_attention
from gpu.loop import Capture, GuidedLoop, capture_on
from gpu.models import Case, Rig, compiled
from gpu.strong_peer import StrongPeer
from l2c_rt.adapters import bind
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.models import DiT
from l2c_rt.schedule.cache_schedule import CacheSchedule

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Tools:
    """How peers are compiled, and captured, each in a pool of its own; tests put stand-ins here."""

    compile: Compile
    new_capture: Callable[[], Capture]
    published: Path | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """A peer ready to run.

    `reference` names the model and the schedule (None: uncached) that it must agree with;
    `bounded` is False where the peer approximates in its own way, and then the difference from the
    uncached run is only recorded.
    """

    run: Callable[[], Tensor]
    reference: tuple[str, CacheSchedule | None]
    bounded: bool = True
    facts: Callable[[], dict[str, Any]] = dict


@dataclass(frozen=True, slots=True)
class Peer:
    """`missing(case, tools)` says why it cannot run, "" where it can."""

    what: str
    missing: Callable[[Case, Tools], str]
    build: Callable[[Rig, Case, int, Tools], Built]


def inductor(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile at its best for one fixed shape; a graph break is an error, never silent."""
    return torch.compile(function, mode="max-autotune-no-cudagraphs", fullgraph=True, dynamic=False)


def tools_for(device: torch.device, clone: Path | None = None) -> Tools:
    """max-autotune and CUDA graphs."""
    return Tools(inductor, partial(capture_on, device), clone)


def _eager(rig: Rig, case: Case, images: int, tools: Tools) -> Built:
    model, schedule = rig.model(case.model), case.schedule()
    noise, y = rig.noise(model, images)
    fast = compiled(model, schedule, schedule.steps, backend="reference")
    return Built(lambda: fast.sample(noise, y), (case.model, schedule))


def _strong(rig: Rig, case: Case, images: int, tools: Tools) -> Built:
    model, schedule = rig.model(case.model), case.schedule()
    assert isinstance(model, DiT)
    noise, y = rig.noise(model, images)
    with _best_attention(rig, model, images) as attention, torch.no_grad():
        torch._dynamo.reset()
        peer = StrongPeer(model, schedule, images, tools.compile, tools.new_capture())
    return Built(
        torch.no_grad()(lambda: peer(noise, y)),
        (case.model, schedule),
        facts=lambda: {"attention": attention, "graphs": len(peer.graphs)},
    )


def _compiled_own(rig: Rig, case: Case, images: int, tools: Tools) -> Built:
    return _compiled_uncached(rig, case.model, case.schedule().steps, images, tools)


def _compiled_diffusers(rig: Rig, case: Case, images: int, tools: Tools) -> Built:
    return _compiled_uncached(rig, f"diffusers-{case.model}", case.schedule().steps, images, tools)


def _compiled_uncached(rig: Rig, name: str, steps: int, images: int, tools: Tools) -> Built:
    model = rig.model(name)
    noise, y = rig.noise(model, images)
    with _best_attention(rig, model, images) as attention, torch.no_grad():
        torch._dynamo.reset()
        loop, evaluation = _evaluation(model, bind(model), steps, images)
        replay = tools.new_capture()(tools.compile(evaluation))

    def run() -> Tensor:
        loop.start(noise, y)
        for _ in range(steps):
            replay()
        return loop.x.clone()

    return Built(torch.no_grad()(run), (name, None), facts=lambda: {"attention": attention})


def _evaluation(
    model: nn.Module, bound: BoundModel, steps: int, images: int
) -> tuple[GuidedLoop, Callable[[], None]]:
    weight = next(model.parameters())
    assert bound.sampling is not None
    loop = GuidedLoop(bound.sampling, steps, images, weight.device)

    def evaluation() -> None:
        arguments = bound.arguments(*loop.inputs(weight.dtype))
        loop.advance(bound.to_tensor(model(**arguments)))

    return loop, evaluation


def _cache_dit(rig: Rig, case: Case, images: int, tools: Tools, *, compile: bool) -> Built:
    """It decides at run time, so it neither follows a learned schedule nor is captured."""
    name, schedule = f"diffusers-{case.model}", case.schedule()
    steps = schedule.steps
    # A model of its own, since it is patched.
    model = rig.fresh(name)
    bound = bind(model)
    noise, y = rig.noise(model, images)
    torch._dynamo.reset()
    mask = steps_mask(steps, schedule.num_branches // 2, schedule.reuse_share)
    begin, facts = caching(model, mask, tools.compile if compile else None)
    loop, evaluation = _evaluation(model, bound, steps, images)

    def run() -> Tensor:
        begin()
        loop.start(noise, y)
        for _ in range(steps):
            evaluation()
        return loop.x.clone()

    return Built(torch.no_grad()(run), (name, None), bounded=False, facts=facts)


def _published(rig: Rig, case: Case, images: int, tools: Tools, *, dtype: torch.dtype) -> Built:
    model, schedule = rig.model(case.model), case.schedule()
    assert tools.published is not None
    assert isinstance(model, DiT)
    noise, y = rig.noise(model, images)
    run = published.run_of(tools.published, model, schedule.steps, dtype)
    return Built(lambda: run(noise, y), (case.model, schedule))


@contextlib.contextmanager
def _best_attention(rig: Rig, model: nn.Module, images: int) -> Any:
    """PyTorch's fastest attention at this model's shape, measured, while a peer is made."""
    if rig.device.type != "cuda":
        yield "default"
        return
    best = fastest_attention(attention_shape(model, images), rig.dtype, rig.device)
    with sdpa_kernel(list(dict.fromkeys([best, SDPBackend.MATH])), set_priority=True):
        yield best.name


def _is_dit(case: Case, tools: Tools) -> str:
    return "" if case.model.startswith("dit") else "is made for DiT's blocks"


def _with_package(*packages: str) -> Callable[[Case, Tools], str]:
    def missing(case: Case, tools: Tools) -> str:
        gone = [p for p in packages if importlib.util.find_spec(p) is None]
        return f"{', '.join(gone)} not installed" if gone else _is_dit(case, tools)

    return missing


def _with_clone(case: Case, tools: Tools) -> str:
    return published.missing(tools.published) or _is_dit(case, tools)


PEERS = {
    "strong": Peer("compiled block variants, a graph per row, same schedule", _is_dit, _strong),
    "compiled": Peer(
        "torch.compile max-autotune, one graph, uncached", lambda case, tools: "", _compiled_own
    ),
    "eager": Peer("our reference backend, same schedule", lambda case, tools: "", _eager),
    "published-bf16": Peer(
        "published program, eager, bf16", _with_clone, partial(_published, dtype=torch.bfloat16)
    ),
    "published": Peer(
        "published program, eager, as shipped (TF32)",
        _with_clone,
        partial(_published, dtype=torch.float32),
    ),
    "diffusers": Peer(
        "diffusers' DiT, torch.compile max-autotune, one graph, uncached",
        _with_package("diffusers"),
        _compiled_diffusers,
    ),
    "cache-dit": Peer(
        "cache-dit on diffusers' DiT, eager",
        _with_package("diffusers", "cache_dit"),
        partial(_cache_dit, compile=False),
    ),
    "cache-dit-compiled": Peer(
        "cache-dit on diffusers' DiT, compiled",
        _with_package("diffusers", "cache_dit"),
        partial(_cache_dit, compile=True),
    ),
}
"""In the order in which a short run should take them."""
