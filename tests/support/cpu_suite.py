"""The GPU suite at toy size on a CPU, and results that it might have written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu.models import CASES, Case, Effort, Rig, diffusers_dit
from gpu.peers import PEERS
from toys import random_schedule, toy_dit, toy_uvit

from l2c_rt.schedule.cache_schedule import CacheSchedule

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class ToyCase(Case):
    """Three blocks and six steps, half of the branches reused in those that are not full."""

    seed: int = 1

    def schedule(self) -> CacheSchedule:
        return random_schedule(6, 6, seed=self.seed)


DIT = ToyCase("dit-toy", "toy/ddim-6")
UVIT = ToyCase("uvit-toy", "toy/dpm-6")


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile without a code generator: finds graph breaks and recompilations."""
    return torch.compile(function, backend="eager", fullgraph=True, dynamic=False)


def toy_rig(dtype: torch.dtype = torch.float32, **options: Any) -> Rig:
    makers: dict[str, Callable[[], torch.nn.Module]] = {
        "dit-toy": toy_dit,
        "uvit-toy": toy_uvit,
        "diffusers-dit-toy": partial(diffusers_dit, 8, blocks=3, heads=2, head_width=16),
    }
    effort = Effort(0.0, least_rounds=1, calls=2, repeats=3, copied_bytes=1 << 16, product_size=32)
    return Rig(CPU, dtype, makers, effort=effort, **({"compile": traced} | options))


def run_file(case: Case, images: int, floor: float) -> dict[str, Any]:
    """What a run's file holds: 1.2 times the floor cached, steps in proportion to theirs."""
    schedule = case.schedule()
    steps = [floor / schedule.steps * (0.5 + share) for share in schedule.compute.mean(axis=1)]
    cached = [1.2 * sum(steps) * k for k in (0.99, 1.0, 1.0, 1.02)]
    device = {"name": "a GPU that does not exist", "driver": "0", "sm_clock_limit_mhz": 0}
    return {
        "id": f"run-{case.name}-n{images}",
        "kind": "run",
        "commit": "0" * 40,
        "device": device,
        "versions": {"cuda": "0", "torch": "0", "triton": "0"},
        "case": case.name,
        "images": images,
        "dtype": "bfloat16",
        "ceilings": {"bytes_per_second": 4e12, "macs_per_second": 4e14},
        "samples": {"cached": cached, "full": [1.3 * s for s in cached]},
        "limit": 1.31,
        "floors": {"kernelwise": sum(steps), "run": 0.9 * sum(steps), "per_step": steps},
        "compute": ["".join(".#"[c] for c in row) for row in schedule.compute.tolist()],
        "profile": {"idle_share": 0.02, "step_seconds": [[1.2 * s for s in steps]] * 3},
    }


def peer_file(case: Case, images: int, name: str, times: float) -> dict[str, Any]:
    """A peer that takes so many times as long."""
    run = run_file(case, images, 0.025 * images)
    samples = {"cached": run["samples"]["cached"]}
    samples[name] = [times * s for s in samples["cached"]]
    identity = {"id": f"peer-{case.name}-n{images}-{name}", "kind": "peer", "peer": name}
    return run | identity | {"samples": samples}


def suite_files() -> list[dict[str, Any]]:
    """Runs of every case, and every peer of the first."""
    runs = [run_file(case, n, 0.02 * n * (1 + k)) for k, case in enumerate(CASES) for n in (1, 8)]
    peers = [peer_file(CASES[0], n, name, 1.6 + 0.5 * k) for n in (1, 8)
             for k, name in enumerate(PEERS)]  # fmt: skip
    rates = [{"kernel": "a", "count": 4, "batch": 2, "bytes_per_second": 3e12}]
    first = {"first_image": {"cold": {"seconds": 31.4}, "warm": {"seconds": 2.7}}}
    node = {"nodes": {"200": {"seconds_per_node": 1.5e-6}}}
    others = [runs[0] | {"id": kind, "kind": kind, "case": ""} | facts for kind, facts in
              (("row_kernels", {"rates": rates}), ("start", first), ("nodes", node))]  # fmt: skip
    return [*runs, *peers, *others]


def write_files(folder: Path, results: list[dict[str, Any]]) -> Path:
    import json

    for result in results:
        (folder / f"{result['id']}.json").write_text(json.dumps(result))
    return folder
