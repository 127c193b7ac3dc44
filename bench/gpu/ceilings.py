"""What the device can do at most, measured in the run whose results are held against it.

Every call is captured into a graph over several operand sets, so that neither launches nor the
cache flatter or spoil the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.loop import Capture, capture_on
from gpu.timing import Clock, HostClock, clock_for, timed
from l2c_rt.adapters import bind
from l2c_rt.adapters.bound_model import FusableAttention, FusableMlp
from l2c_rt.measure.ceilings import copy_rate, product_rate

SETS = 4
"""Operand sets taken in turn."""

Shape = tuple[int, int]
"""Inputs and outputs of a linear."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how single operations are timed."""

    device: torch.device
    clock: Clock
    new_capture: Callable[[], Capture]
    calls: int = 20
    repeats: int = 7

    def seconds(self, calls: Sequence[Callable[[], object]]) -> float:
        """Median seconds of one call, the given ones taken in turn within one graph."""
        several = list(islice(cycle(calls), self.calls))

        def run() -> None:
            for call in several:
                call()

        replay = self.new_capture()(run)
        replay()
        return median(timed(replay, self.clock) for _ in range(self.repeats)) / len(several)


def bench_on(device: torch.device) -> Bench:
    return Bench(device, clock_for(device), partial(capture_on, device))


def copy_bandwidth(bench: Bench, moved: int = 8 << 30) -> float:
    """Bytes per second of a device-to-device copy, read and written counted."""
    few = replace(bench, calls=2)
    return copy_rate(lambda call: few.seconds([call]), bench.device, moved)


def matmul_rate(bench: Bench, size: int = 8192, dtype: torch.dtype = torch.bfloat16) -> float:
    """Multiply-accumulates per second of a square product of random matrices."""
    return product_rate(lambda call: bench.seconds([call]), bench.device, dtype, size)


def linear_seconds(bench: Bench, rows: int, shape: Shape, dtype: torch.dtype) -> float:
    """One `addmm(out=)` of [rows, inputs] by [inputs, outputs] with bias."""
    fan_in, fan_out = shape

    def made() -> Callable[[], object]:
        x = torch.randn(rows, fan_in, device=bench.device).to(dtype)
        weight = torch.randn(fan_out, fan_in, device=bench.device).to(dtype)
        bias = torch.randn(fan_out, device=bench.device).to(dtype)
        out = torch.empty(rows, fan_out, device=bench.device, dtype=dtype)
        return lambda: torch.addmm(bias, x, weight.t(), out=out)

    return bench.seconds([made() for _ in range(SETS)])


def branch_shapes(model: nn.Module) -> dict[str, tuple[Shape, ...]]:
    """Branch name -> its linears."""
    parts = bind(model).fusable
    assert parts is not None
    return {name: _shapes(part.inner) for name, part in parts.branches.items()}


def _shapes(inner: FusableAttention | FusableMlp) -> tuple[Shape, ...]:
    if isinstance(inner, FusableAttention):
        # Separate q, k, v count as the one product that they can be.
        width = inner.inputs[0].in_features
        return (width, sum(i.out_features for i in inner.inputs)), _shape(inner.proj)
    return _shape(inner.fc1), _shape(inner.fc2)


def _shape(linear: nn.Linear) -> Shape:
    return linear.in_features, linear.out_features


def gemm_seconds(bench: Bench, model: nn.Module, compute: Any, images: int) -> dict[str, Any]:
    """The sum of a schedule's own branch products, each as fast as it is alone.

    Shapes: compute bool [S, K]; rows are 2 * images * tokens, for guidance.
    """
    bound = bind(model)
    rows = 2 * images * bound.program.tokens
    dtype = next(model.parameters()).dtype
    shapes = branch_shapes(model)
    alone = {s: linear_seconds(bench, rows, s, dtype) for s in sorted({*sum(shapes.values(), ())})}
    counts = dict(zip(bound.program.branch_names, compute.sum(axis=0).tolist(), strict=True))
    total = sum(counts[name] * sum(alone[s] for s in shapes[name]) for name in counts)
    return {
        "rows": rows,
        "seconds": {f"{a}x{b}": seconds for (a, b), seconds in alone.items()},
        "macs_per_second": {f"{a}x{b}": rows * a * b / s for (a, b), s in alone.items()},
        "schedule_seconds": total,
    }


ATTENTIONS = (
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)  # fmt: skip


def attention_seconds(
    bench: Bench, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> dict[str, float | str]:
    """Seconds of each PyTorch attention at [B, heads, T, head width], or why it cannot be had.

    q, k and v are views of one packed tensor, as the models pass them.
    """
    b, h, t, d = shape

    def made() -> tuple[Tensor, ...]:
        packed = torch.randn(b, t, 3, h, d, device=bench.device).to(dtype)
        return packed.permute(2, 0, 3, 1, 4).unbind(0)

    operands = [made() for _ in range(SETS)]
    found: dict[str, float | str] = {}
    for backend in ATTENTIONS:
        try:
            with sdpa_kernel(backend):
                calls = [partial(F.scaled_dot_product_attention, *qkv) for qkv in operands]
                found[backend.name] = bench.seconds(calls)
        except RuntimeError as error:
            found[backend.name] = str(error).splitlines()[0]
    return found


def attention_shape(model: nn.Module, images: int) -> tuple[int, int, int, int]:
    """[B, heads, T, head width] of a model's attention, with guidance."""
    bound = bind(model)
    assert bound.fusable is not None
    inner = bound.fusable.branches["attn-0"].inner
    assert isinstance(inner, FusableAttention)
    program = bound.program
    return 2 * images, inner.heads, program.tokens, program.width // inner.heads


def fastest_attention(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> SDPBackend:
    """The fastest of PyTorch's attentions at this shape, measured now."""
    found = attention_seconds(bench_on(device), shape, dtype)
    timed_ones = {name: s for name, s in found.items() if isinstance(s, float)}
    best = min(timed_ones, key=lambda name: timed_ones[name])
    return next(backend for backend in ATTENTIONS if backend.name == best)


def node_gaps(
    bench: Bench, counts: Sequence[int] = (200, 2000, 7600), dependent: bool = False
) -> dict[str, Any]:
    """Seconds per node of a graph that is a chain of kernels which do nothing, and what such a
    graph costs; `dependent` launches each before the one ahead has ended (sm_90)."""
    from gpu.empty_kernel import launch

    x = torch.zeros(1, device=bench.device)
    found: dict[str, Any] = {}
    for count in counts:
        free = torch.cuda.mem_get_info()[0]
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        launch(x, dependent)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(count):
                launch(x, dependent)
        began = timed(graph.instantiate, HostClock())
        graph.replay()
        replay = median(timed(graph.replay, bench.clock) for _ in range(bench.repeats))
        used = free - torch.cuda.mem_get_info()[0]
        found[str(count)] = {
            "seconds_per_node": replay / count,
            "instantiate_seconds": began,
            "bytes": used,
        }
    return found
