"""What is measured: whole runs side by side, and everything that they are held against.

Nothing is timed before its result was compared with a reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

import l2c_rt as rt
from gpu.floors import kernelwise_seconds
from gpu.idle import profile_of
from gpu.models import IMAGES, REFERENCE_IMAGES, Case, Rig, compiled, relative_difference
from gpu.operations import attention_seconds, ceilings
from gpu.peers import PEERS, Program, ours
from l2c_rt.measure.ceilings import Ceilings
from l2c_rt.measure.interleaved import rounds_within, side_by_side

Result = dict[str, Any]


def ceilings_result(rig: Rig) -> Result:
    """Copy, product, and PyTorch's attentions at the published models' shapes."""
    shapes = [(2 * images, 16, tokens, 72) for tokens in (256, 258, 1024) for images in IMAGES]
    attentions = {"x".join(map(str, shape)): attention_seconds(rig, shape) for shape in shapes}
    return {"ceilings": asdict(ceilings(rig)), "attention_seconds": attentions}


def nodes_result(rig: Rig) -> Result:
    """What a node of a graph costs, launched one after the other and, on sm_90, dependently."""
    from gpu.nodes import node_costs

    nodes = {"nodes": node_costs(rig, dependent=False)}
    if torch.cuda.get_device_capability(rig.device) >= (9, 0):
        nodes["dependent_nodes"] = node_costs(rig, dependent=True)
    return nodes


def row_kernels_result(rig: Rig) -> Result:
    """Kernels (a) and (b) by their byte models, beside the copy of the same minute."""
    from gpu.row_kernels import row_kernel_rates

    rates = row_kernel_rates(rig, [2 * images for images in IMAGES])
    return {"ceilings": asdict(ceilings(rig)), "rates": rates}


def run_result(rig: Rig, case: Case, images: int, backend: str = "fused") -> Result:
    """Our cached run (a graph per distinct step, one for the run, and, where the model has it, in
    the delta form) and our uncached one."""
    model, schedule = rig.model(case.model), case.schedule()
    noise, y = rig.noise(model, images)
    fast = compiled(model, schedule, schedule.steps, backend=backend)
    programs = {
        "cached": Program(partial(fast.sample, noise, y), (case.model, schedule)),
        "full": ours(rig, case, images, cached=False, backend=backend),
    }
    if rig.device.type == "cuda":
        programs["trajectory"] = ours(rig, case, images, backend=backend, graph="trajectory")
    if case.has_delta_form:
        programs["delta"] = ours(rig, case, images, backend=backend, delta_form=True)
    limits, timed = ceilings(rig), timed_programs(rig, schedule.steps, programs)
    return _about(rig, case, images) | timed | {
        "backend": backend,
        "ceilings": asdict(limits),
        "limit": fast.cost.speedup_limit,
        "floors": _floors(rig, fast, images, limits),
        "compute": ["".join(".#"[c] for c in row) for row in schedule.compute.tolist()],
        "profile": _profile(rig, programs["cached"], schedule.steps),
        "delta_profile": _profile(rig, programs.get("delta"), schedule.steps),
        "summary": asdict(fast.summary()),
    }  # fmt: skip


def peer_result(rig: Rig, case: Case, images: int, name: str, backend: str = "fused") -> Result:
    """Our cached run and a peer's, side by side."""
    peer = PEERS[name].build(rig, case, images)
    programs = {"cached": ours(rig, case, images, backend=backend), name: peer}
    timed = timed_programs(rig, case.schedule().steps, programs)
    return _about(rig, case, images) | timed | {"peer": name, "facts": peer.facts()}


def timed_programs(rig: Rig, steps: int, programs: Mapping[str, Program]) -> Result:
    """Compare every program with its reference, then time all of them in turn."""
    # The comparison is also the first of two runs to warm up.
    differences = {name: check(rig, name, p, steps) for name, p in programs.items()}
    runs = {name: program.run for name, program in programs.items()}
    slowest = max(rig.clock(run) for run in runs.values())
    rounds = rounds_within(rig.effort.seconds, slowest, least=rig.effort.least_rounds)
    return {"differences": differences, "samples": side_by_side(runs, rig.clock, rounds)}


def check(rig: Rig, name: str, program: Program, steps: int) -> dict[str, float]:
    """The relative difference from the float32 reference, and what was allowed: twice the eager
    program's own in the rig's dtype, and never less than float32's rounding over a run.

    Raises ValueError where it is above that or not a number, unless the program is not bounded.
    """
    expected, eager_difference = rig.reference(*program.reference, steps)
    actual = program.run()[:REFERENCE_IMAGES]
    difference = relative_difference(actual, expected[: len(actual)])
    if not program.bounded:
        return {"difference": difference}
    allowed = max(2.0 * eager_difference, 2e-5)
    if not difference <= allowed:
        raise ValueError(
            f"{name}: differs from the reference by {difference:.2e}, at most {allowed:.2e} is "
            "allowed; not timed"
        )
    return {"difference": difference, "allowed": allowed}


def _about(rig: Rig, case: Case, images: int) -> Result:
    dtype = str(rig.dtype).removeprefix("torch.")
    return {"case": case.name, "preset": case.preset, "images": images, "dtype": dtype}


def _floors(rig: Rig, fast: rt.Compiled, images: int, limits: Ceilings) -> Result:
    rows, itemsize = 2 * images, rig.dtype.itemsize
    per_step = kernelwise_seconds(fast, rows, itemsize, limits)
    overlapping = fast.cost.floor_seconds(batch=rows, itemsize=itemsize, **asdict(limits))
    return {"run": overlapping, "kernelwise": sum(per_step), "per_step": per_step}


def _profile(rig: Rig, program: Program | None, steps: int) -> Result:
    if program is None:
        return {"missing": "the model has no such program"}
    if rig.device.type != "cuda":
        return {"missing": "only a GPU's kernels are profiled"}
    return profile_of(program.run, steps)
