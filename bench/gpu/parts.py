"""What is measured: every part of the suite, the most wanted first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpu.ceilings import gemm_seconds
from gpu.floors import Batch, kernelwise, run_floor
from gpu.idle import profile_of
from gpu.machine_parts import ceilings_part, nodes_part, row_kernels_part, start_part
from gpu.models import CASES, IMAGES, REFERENCE_IMAGES, Case, compiled
from gpu.peers import PEERS, Built
from gpu.suite import Part, Skip, Suite
from gpu.timing import check, per_evaluation, relative_difference, side_by_side
from l2c_rt.runtime.compiled import Compiled

MAIN = "dit-xl-2-256.ddim-50"
FIRST_PEERS = ("strong", "published-bf16", "eager")
SOON_READY = ("published-bf16", "published", "eager", "cache-dit")

# What targets speak of comes first.  Ranks by number of images, of the main case and of others.
RUN_RANKS = {True: (1, 1, 5, 7), False: (4, 4, 7, 9)}
PEER_RANKS = {
    (True, True): (2, 3, 5, 8),
    (True, False): (6, 6, 8, 8),
    (False, True): (10, 10, 11, 11),
    (False, False): (10, 10, 11, 11),
}


def parts() -> list[Part]:
    """All parts, in the order in which a run short of time should take them."""
    found = [
        Part("start", "start", start_part, 120, 0),
        Part("ceilings", "ceilings", ceilings_part, 30, 0),
        Part("nodes", "nodes", nodes_part, 20, 0),
        Part("row-kernels", "row-kernels", row_kernels_part, 60, 0),
    ]
    for case in CASES:
        for images in IMAGES:
            found += _parts_of(case, images)
    return sorted(found, key=lambda part: part.rank)


def _parts_of(case: Case, images: int) -> Iterator[Part]:
    name, main = f"{case.name}.n{images}", case.name == MAIN
    # Guesses, to begin nothing that would not end in time: seconds of one run, and of preparing.
    one = images * (0.25 if "512" in case.model else 0.06)
    ranks = RUN_RANKS[main]
    run = partial(run_part, case, images)
    yield Part(name, "run", run, 20 + 18 * one, ranks[IMAGES.index(images)])
    for peer in PEERS:
        if case.model.startswith("dit") or peer in ("compiled", "eager"):
            ranks = PEER_RANKS[main, peer in FIRST_PEERS]
            preparing = 25 if peer in SOON_READY else 90
            yield Part(
                f"{name}.{peer}", "peer", partial(peer_part, case, images, peer),
                preparing + 18 * one, ranks[IMAGES.index(images)],
            )  # fmt: skip


def run_part(case: Case, images: int, suite: Suite) -> dict[str, Any]:
    """Our cached run and our own uncached one, side by side, and what they are held against."""
    rig, schedule = suite.rig, case.schedule()
    model = rig.model(case.model)
    check_memory(suite, case, images)
    noise, y = rig.noise(model, images)
    used = _used(suite)
    cached = compiled(model, schedule, schedule.steps, backend=suite.backend)
    cached.sample(noise, y)
    memory = {"used_bytes": _used(suite) - used}
    programs = {"cached": cached, "full": compiled(model, None, schedule.steps,
                                                   backend=suite.backend)}  # fmt: skip
    if rig.device.type == "cuda":
        programs["trajectory"] = compiled(
            model, schedule, schedule.steps, backend=suite.backend, graph="trajectory"
        )
    runs = {name: partial(fast.sample, noise, y) for name, fast in programs.items()}
    differences = {
        name: checked(suite, f"{case.name} n{images} {name}", run(), case.model,
                      None if name == "full" else schedule, schedule.steps)
        for name, run in runs.items()
    }  # fmt: skip
    samples = side_by_side(runs, suite.clock, suite.effort)
    profile = _profile(suite, cached, noise, y)
    return _about(suite, case, images) | {
        "differences": differences,
        "samples": samples,
        "bound": cached.cost.speedup_limit,
        "floors": _floors(suite, cached, images),
        "products": gemm_seconds(suite.bench, model, schedule.compute, images),
        "compute": _rows(schedule.compute),
        "profile": profile,
        "memory": memory | {
            "slot_bytes": cached.cost.slot_bytes(batch=2 * images, itemsize=rig.dtype.itemsize)
        },
        "summary": _summary(cached),
    }  # fmt: skip


def peer_part(case: Case, images: int, name: str, suite: Suite) -> dict[str, Any]:
    """Our cached run and a peer's, side by side."""
    rig, peer, schedule = suite.rig, PEERS[name], case.schedule()
    if why := peer.missing(case, suite.tools):
        raise Skip(f"{name}: {why}")
    check_memory(suite, case, images)
    built = peer.build(rig, case, images, suite.tools)
    model = rig.model(case.model)
    noise, y = rig.noise(model, images)
    ours = partial(
        compiled(model, schedule, schedule.steps, backend=suite.backend).sample, noise, y
    )
    differences = {
        "cached": checked(suite, "cached", ours(), case.model, schedule, schedule.steps),
        name: _peer_difference(suite, name, built, schedule.steps),
    }
    samples = side_by_side({"cached": ours, name: built.run}, suite.clock, suite.effort)
    return _about(suite, case, images) | {
        "peer": name,
        "what": peer.what,
        "differences": differences,
        "bounded": built.bounded,
        "samples": samples,
        "facts": built.facts(),
    }


def _peer_difference(suite: Suite, name: str, built: Built, steps: int) -> dict[str, float]:
    out, (model, schedule) = built.run(), built.reference
    if built.bounded:
        return checked(suite, name, out, model, schedule, steps)
    want, _ = suite.rig.reference(model, schedule, steps)
    return {"difference": relative_difference(out[:REFERENCE_IMAGES], want[: len(out)])}


def checked(
    suite: Suite, name: str, out: Tensor, model: str, schedule: Any, steps: int
) -> dict[str, float]:
    """The difference from the float32 reference and what was allowed; AssertionError above it."""
    want, error = suite.rig.reference(model, schedule, steps)
    allowed = suite.rig.bound(error)
    got = out[:REFERENCE_IMAGES]
    return {"difference": check(name, got, want[: len(got)], allowed), "allowed": allowed}


def check_memory(suite: Suite, case: Case, images: int) -> None:
    """Raises Skip where weights, slots and activations would not fit into what is free."""
    if suite.rig.device.type != "cuda":
        return
    program = compiled(suite.rig.model(case.model), case.schedule(), 0, backend="reference")
    tensor = program.cost.slot_bytes(batch=2 * images, itemsize=suite.rig.dtype.itemsize)
    tensor //= max(program.cost.num_slots, 1)
    wanted = 2 * (program.cost.num_slots + 16) * tensor + (4 << 30)
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    if wanted > free:
        raise Skip(f"needs about {wanted / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free")


def _about(suite: Suite, case: Case, images: int) -> dict[str, Any]:
    return {
        "case": case.name,
        "model": case.model,
        "preset": case.preset,
        "images": images,
        "dtype": str(suite.rig.dtype).removeprefix("torch."),
        "backend": suite.backend,
        "ceilings": suite.ceilings(),
    }


def _floors(suite: Suite, cached: Compiled, images: int) -> dict[str, Any]:
    batch, limits = Batch(2 * images, suite.rig.dtype.itemsize), suite.limits()
    program, cost, compute = cached.bound_model.program, cached.cost, cached.schedule.compute
    everything = [[True] * compute.shape[1]] * len(compute)
    per_step = kernelwise(program, cost.cached, compute.tolist(), batch, limits)
    full = kernelwise(program, cost.full, everything, batch, limits)
    return {
        "run": run_floor(cost, batch, limits),
        "kernelwise": sum(per_step),
        "kernelwise_full": sum(full),
        "per_evaluation": per_step,
    }


def _profile(suite: Suite, cached: Compiled, noise: Tensor, y: Tensor) -> dict[str, Any]:
    """How the device spends a run; on a CPU, where calls are done when they return, only the
    evaluations."""
    if suite.rig.device.type == "cuda":
        return profile_of(partial(cached.sample, noise, y), cached.schedule.steps)
    steps = per_evaluation(lambda cb: cached.sample(noise, y, callback=cb), suite.clock, 3)
    return {"evaluations": steps}


def _used(suite: Suite) -> int:
    """Bytes of the device in use by anyone, cached blocks given back first."""
    if suite.rig.device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free


def _rows(compute: Any) -> list[str]:
    return ["".join("#" if c else "." for c in row) for row in compute.tolist()]


def _summary(fast: Compiled) -> dict[str, Any]:
    found = fast.summary()
    return {"text": str(found)} | (asdict(found) if is_dataclass(found) else {})
