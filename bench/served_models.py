"""What bench/serving.py serves: models with their schedules, requests, and what a batch costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor
from weights import fill_deterministic

import l2c_rt as rt
from l2c_rt.demo.run import load_demo_model, load_demo_router
from l2c_rt.models import DiT

MODELS = ("digits", "12x384", "dit-xl-2")
LOADS = (0.5, 0.8, 0.95)
"""Shares of the engine's capacity at which requests arrive."""

SIZES = (1, 2, 3, 4, 6, 8)
"""On a GPU those that are powers of two."""
CURVE_RUNS = 4 * sum(SIZES)
"""Of a cost curve, in images."""


def compiled(
    name: str, steps: int, backend: str, device: str, *, tune: bool = True
) -> dict[str, rt.Compiled]:  # fmt: skip
    """The model on its schedule, and uncached; the large one's weights are drawn on the device."""
    check = "on"
    if name == "digits":
        model, schedule = load_demo_model(), load_demo_router(steps).schedule()
    elif name == "dit-xl-2":
        with torch.device(device):
            model = DiT(input_size=32).to(torch.bfloat16).eval()
        schedule, check = rt.presets.load(f"l2c/dit-xl-2-256/ddim-{steps}"), "off"
    else:
        model = DiT(input_size=8, hidden_size=384, depth=12, num_heads=6, num_classes=10).eval()
        fill_deterministic(model, seed=0)
        published = rt.presets.load(f"l2c/dit-xl-2-256/ddim-{steps}")
        schedule = rt.CacheSchedule(published.compute[:, :24], family="dit", sampler="ddim")
    model.to(device)
    schedules = {"cached": schedule, "uncached": rt.policies.Full()}
    return {
        key: rt.compile(model, s, steps=steps, backend=backend, tune=tune, check=check)
        for key, s in schedules.items()
    }


def image(fast: rt.Compiled, i: int) -> tuple[Tensor, int]:
    """Noise and label of request i."""
    loop = fast.bound_model.checked_loop
    assert loop is not None
    shape = (1, loop.channels, loop.size, loop.size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(i))
    return noise.to(fast.bound_model.device), i % 10


def cost_curve(fast: rt.Compiled) -> dict[int, float]:
    """Seconds of a whole run by the number of images in it, the median of three.

    On a CPU they are those of this process: what other programs take of a shared machine does not
    count.
    """
    on_gpu = fast.bound_model.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    curve = {}
    for size in (n for n in SIZES if n.bit_count() == 1 or not on_gpu):
        noise = torch.cat([image(fast, i)[0] for i in range(size)])
        times = []
        for _ in range(4):
            began = clock()
            fast.sample(noise, [i % 10 for i in range(size)]).cpu()
            times.append(clock() - began)
        curve[size] = median(times[1:])
    return curve


def affordable(
    models: Mapping[str, rt.Compiled], runs: float, beside: float, seconds: float
) -> int:
    """How many requests may be, where each is run `runs` times one at a time, and `beside` others
    and the cost curves are run as well, for all to take some `seconds`."""
    one = 0.0
    for fast in models.values():
        noise, label = image(fast, 0)
        for _ in range(2):
            began = time.perf_counter()
            fast.sample(noise, [label]).cpu()
            alone = time.perf_counter() - began
        one += alone
    return max(16, min(1000, int((seconds / one - beside - CURVE_RUNS) / runs)))
