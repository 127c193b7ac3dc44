"""Schedules of several shares of reuse, each beside other methods at its compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product

from torch import Tensor, nn

from l2c_rt import adapters
from l2c_rt.adapters.branch_forward import frozen
from l2c_rt.api import Schedulable, compile
from l2c_rt.compare.comparison import Comparison, Row
from l2c_rt.compare.methods import Method
from l2c_rt.compare.runs import RunInputs, psnr_per_image, relative_error
from l2c_rt.measure.clocks import clock_for
from l2c_rt.policies import Full
from l2c_rt.resolve import resolve_schedule
from l2c_rt.schedule.cache_schedule import CacheSchedule

PEAK = 2.0
"""Of images in [-1, 1]."""

Decode = Callable[[Tensor], Tensor]
"""Latents [n, C, H, W] to images in [-1, 1]."""


def compare(
    model: nn.Module,
    schedules: Sequence[CacheSchedule],
    methods: Mapping[str, Method],
    *,
    images: int = 8,
    cfg_scale: float | None = None,
    seed: int = 0,
    rounds: int = 1,
    backend: str = "auto",
    decode: Decode | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Comparison:
    """Run every method at the compute of every schedule, and the full model, from the same noise.

    One run is warm-up and gives the latents, `rounds` more are timed; one row at a time is in
    memory.  `decode` makes images, for PSNR; None where latents are no images.  `advance` is
    called after each row.
    Raises TypeError for a model without adapter, ValueError where a schedule does not fit it.
    """
    if not schedules:
        raise ValueError("compare: no schedules, wanted at least one")
    bound_model = adapters.bind(model)
    inputs = RunInputs.drawn("compare", bound_model, images, cfg_scale, seed)
    for schedule in schedules:
        resolve_schedule(
            schedule, steps=schedules[0].steps, branches=bound_model.program.branch_names
        )
    clock, steps = clock_for(bound_model.device), schedules[0].steps

    def row(name: str, router: Schedulable, full: Tensor | None) -> tuple[Row, Tensor]:
        fast = compile(model, router, steps=steps, backend=backend)
        latents = inputs.run(fast)
        base = latents if full is None else full
        seen = () if decode is None else psnr_per_image(decode(latents), decode(base), PEAK)
        timed = partial(inputs.run, fast)
        seconds = tuple(clock(timed) for _ in range(rounds))
        advance()
        computed, limit = 1.0 - fast.schedule.reuse_share, fast.cost.speedup_limit
        error = relative_error(latents, base)
        return Row(name, computed, limit, error, seen, seconds), latents

    with frozen(model):
        first, full = row("full", Full(), None)
        others = [
            row(name, method(schedule), full)[0]
            for schedule, (name, method) in product(schedules, methods.items())
        ]
    branches = len(bound_model.program.branch_names)
    return Comparison(steps, branches, images, seed, inputs.cfg_scale, (first, *others))
