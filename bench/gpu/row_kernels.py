"""Kernels (a) and (b) alone: bytes per second by their own byte models, beside the copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gpu.ceilings import SETS, Bench
from l2c_rt.kernels.operands import Modulation, Reuses


def row_kernel_rates(
    bench: Bench,
    batches: Sequence[int],
    dtype: torch.dtype,
    *,
    counts: Sequence[int] = (1, 4, 16, 56),
    tokens: int = 256,
    width: int = 1152,
) -> list[dict[str, Any]]:
    """Kernel (a) for every number of reused slots, kernel (b), and both without gates.

    `batches` are rows of the model call; calls rotate over operand sets larger than the cache.
    """
    from l2c_rt.kernels import gate_residual_norm_modulate as active
    from l2c_rt.kernels import reuse_run as reused

    found = []
    for batch in batches:
        operands = [_Operands(bench.device, dtype, batch, tokens, width) for _ in range(SETS)]
        sizes = (batch, tokens, width)
        for count in counts:
            calls = [o.reuse(reused.reuse_run, count) for o in operands]
            moved = reused.reuse_run_bytes(*sizes, count, dtype.itemsize)
            found.append(_rate(bench, calls, moved, kernel="a", batch=batch, count=count))
        calls = [o.active(active.gate_residual_norm_modulate) for o in operands]
        moved = active.gate_residual_norm_modulate_bytes(*sizes, dtype.itemsize)
        found.append(_rate(bench, calls, moved, kernel="b", batch=batch, count=1))
    return found


def _rate(
    bench: Bench, calls: Sequence[Callable[[], object]], moved: int, **facts: Any
) -> dict[str, Any]:
    seconds = bench.seconds(calls)
    return facts | {"seconds": seconds, "bytes": moved, "bytes_per_second": moved / seconds}


class _Operands:
    """x, one slot per reuse, a modulation table of one step, and outputs."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, batch: int, tokens: int, width: int
    ) -> None:
        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=device).to(dtype)

        self.x, self.y, self.x_out, self.h = (normal(batch, tokens, width) for _ in range(4))
        # More slots than any cache holds are not needed: four operand sets already exceed it.
        self.arena = normal(8, batch, tokens, width)
        integers = {"dtype": torch.int32, "device": device}
        self.rows = torch.arange(batch, **integers)
        counter = torch.zeros(2, **integers)
        self.modulation = Modulation(normal(1, batch, 8, width), self.rows, counter)

    def reuse(self, kernel: Callable[..., object], count: int) -> Callable[[], object]:
        slots = torch.arange(count, dtype=torch.int32, device=self.x.device) % len(self.arena)
        reuses = Reuses(self.arena, slots, torch.full_like(slots, 2))
        out = self.x_out, self.h
        return lambda: kernel(self.x, reuses, self.modulation, 0, 1, out=out)

    def active(self, kernel: Callable[..., object]) -> Callable[[], object]:
        out = self.x_out, self.h
        return lambda: kernel(self.x, self.y, self.modulation, 2, 0, 1, out=out)
