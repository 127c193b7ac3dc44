"""The GPU suite at toy size on a CPU, and results that it might have written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu.ceilings import Bench
from gpu.loop import uncaptured
from gpu.models import CASES, IMAGES, Case, Rig
from gpu.peers import PEERS, Tools
from gpu.suite import Suite
from gpu.timing import Effort, HostClock
from toys import random_schedule, toy_dit, toy_uvit

from l2c_rt.schedule.cache_schedule import CacheSchedule

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class ToyCase(Case):
    """Three blocks and six evaluations, half of the branches reused in those that are not full."""

    def schedule(self) -> CacheSchedule:
        return random_schedule(6, 6, seed=1)


DIT = ToyCase("dit-toy", "toy/ddim-6")
UVIT = ToyCase("uvit-toy", "toy/dpm-6")


def toy_diffusers_dit() -> torch.nn.Module:
    diffusers: Any = __import__("diffusers")
    made: torch.nn.Module = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8,
        num_layers=3, sample_size=8, patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip
    return made


def toy_rig(dtype: torch.dtype = torch.float32) -> Rig:
    makers: dict[str, Callable[[], torch.nn.Module]] = {
        "dit-toy": toy_dit,
        "uvit-toy": toy_uvit,
        "diffusers-dit-toy": toy_diffusers_dit,
    }
    return Rig(CPU, dtype, makers)


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile without a code generator: finds graph breaks and recompilations."""
    return torch.compile(function, backend="eager", fullgraph=True, dynamic=False)


def toy_tools(compile: Callable[..., Any] = traced) -> Tools:
    return Tools(compile, lambda: uncaptured)


def toy_suite(folder: Path, **options: Any) -> Suite:
    bench = Bench(CPU, HostClock(), lambda: uncaptured, calls=2, repeats=3)
    settings = {
        "rig": toy_rig(), "tools": toy_tools(), "bench": bench, "clock": HostClock(),
        "effort": Effort(0.0, 1, 1, 1), "results": folder, "copied_bytes": 1 << 16,
        "product_size": 32,
    }  # fmt: skip
    return Suite(**(settings | options))


def synthetic_run(case: Case, images: int, floor: float) -> dict[str, Any]:
    """What a run part writes: 1.2 times the floor cached, evaluations in proportion to theirs."""
    schedule = case.schedule()
    steps = [floor / schedule.steps * (0.5 + share) for share in schedule.compute.mean(axis=1)]
    cached = [1.2 * sum(steps) * k for k in (0.99, 1.0, 1.0, 1.02)]
    return _header(f"{case.name}.n{images}", "run") | {
        "case": case.name,
        "images": images,
        "dtype": "bfloat16",
        "ceilings": {"bytes_per_second": 4e12, "macs_per_second": 4e14},
        "samples": {"cached": cached, "full": [1.3 * s for s in cached]},
        "bound": 1.31,
        "floors": {"kernelwise": sum(steps), "run": 0.9 * sum(steps), "per_evaluation": steps},
        "products": {"schedule_seconds": 1.1 * sum(steps)},
        "compute": ["".join("#" if c else "." for c in row) for row in schedule.compute.tolist()],
        "profile": {"idle_share": 0.02, "evaluations": [[1.2 * s for s in steps]] * 3},
        "summary": {"captured": {"graph_bytes": 5 * 10**8}},
    }


def synthetic_peer(case: Case, images: int, name: str, times: float) -> dict[str, Any]:
    """A peer that takes so many times as long."""
    run = synthetic_run(case, images, 0.025 * images)
    samples = {"cached": run["samples"]["cached"]}
    samples[name] = [times * s for s in samples["cached"]]
    part = f"{case.name}.n{images}.{name}"
    return run | {"part": part, "kind": "peer", "peer": name, "samples": samples}


def synthetic_results() -> list[dict[str, Any]]:
    """Runs of every case and batch, and every peer of the first case."""
    runs = [synthetic_run(case, n, 0.02 * n * (1 + k)) for k, case in enumerate(CASES)
            for n in IMAGES]  # fmt: skip
    peers = [synthetic_peer(CASES[0], n, name, 1.6 + 0.5 * k) for n in (1, 8, 32)
             for k, name in enumerate(PEERS)]  # fmt: skip
    return [*runs, *peers]


def _header(part: str, kind: str) -> dict[str, Any]:
    environment = {
        "gpu": {"name": "a GPU that does not exist"}, "cuda": "0", "torch": "0", "triton": "0",
        "nvidia_smi": {"driver_version": "0", "clocks.max.sm": "0 MHz"},
    }  # fmt: skip
    return {"part": part, "kind": kind, "command": "none", "commit": "0" * 40, "source": "none",
            "environment": environment}  # fmt: skip
