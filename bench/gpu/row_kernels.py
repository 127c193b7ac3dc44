"""Kernels (a) and (b) alone: bytes per second by their own byte models, beside the copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gpu.models import Rig
from gpu.operations import SETS, seconds_per_call
from l2c_rt.kernels.operands import Modulation, Reuses


def row_kernel_rates(
    rig: Rig,
    batches: Sequence[int],
    *,
    counts: Sequence[int] = (1, 4, 16, 56),
    tokens: int = 256,
    width: int = 1152,
) -> list[dict[str, Any]]:
    """Kernel (a) for every number of reused slots, and kernel (b).

    `batches` are rows of the model call; calls rotate over operand sets larger than the cache.
    """
    from l2c_rt.kernels import gate_residual_norm_modulate as active
    from l2c_rt.kernels import reuse_run as reused

    rates = []

    def add(calls: list[Callable[[], object]], moved: int, **facts: Any) -> None:
        seconds = seconds_per_call(rig, *calls)
        rates.append(
            facts | {"seconds": seconds, "bytes": moved, "bytes_per_second": moved / seconds}
        )

    for batch in batches:
        shape = batch, tokens, width
        sets = [_Operands(rig, *shape, slots=max(counts)) for _ in range(SETS)]
        for count in counts:
            moved = reused.reuse_run_bytes(*shape, count, rig.dtype.itemsize)
            calls = [operands.reuse(reused.reuse_run, count) for operands in sets]
            add(calls, moved, kernel="a", batch=batch, count=count)
        moved = active.gate_residual_norm_modulate_bytes(*shape, rig.dtype.itemsize)
        calls = [operands.active(active.gate_residual_norm_modulate) for operands in sets]
        add(calls, moved, kernel="b", batch=batch, count=1)
    return rates


class _Operands:
    """x, one slot per reuse, a modulation table of one step, and outputs."""

    def __init__(self, rig: Rig, batch: int, tokens: int, width: int, *, slots: int) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, device=rig.device).to(rig.dtype)

        self.x, self.y, *out = (normal(batch, tokens, width) for _ in range(4))
        self.out = tuple(out)
        # As many slots as a call reads: one read twice would come from a cache.
        self.arena = normal(slots, batch, tokens, width)
        rows = torch.arange(batch, dtype=torch.int32, device=rig.device)
        counter = torch.zeros(2, dtype=torch.int32, device=rig.device)
        self.modulation = Modulation(normal(1, batch, 8, width), rows, counter)

    def reuse(self, kernel: Callable[..., object], count: int) -> Callable[[], object]:
        slots = torch.arange(count, dtype=torch.int32, device=self.x.device)
        reuses = Reuses(self.arena, slots, torch.full_like(slots, 2))
        return lambda: kernel(self.x, reuses, self.modulation, 0, 1, out=self.out)

    def active(self, kernel: Callable[..., object]) -> Callable[[], object]:
        return lambda: kernel(self.x, self.y, self.modulation, 2, 0, 1, out=self.out)
