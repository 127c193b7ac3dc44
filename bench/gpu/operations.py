"""Single operations, each as fast as it is alone: the ceilings and PyTorch's attentions.

Every call is captured into a graph over several operand sets, so that neither launches nor the
cache flatter or spoil the figure.
"""

from __future__ import annotations

from functools import partial
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.loop import capture_on
from gpu.models import Rig
from l2c_rt.adapters import bind
from l2c_rt.adapters.bound_model import FusableAttention
from l2c_rt.measure.ceilings import Ceilings, copy_rate, product_rate
from l2c_rt.measure.clocks import Run, median_seconds

SETS = 4
"""Operand sets taken in turn."""

ATTENTIONS = (
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)  # fmt: skip


def seconds_per_call(rig: Rig, *calls: Run) -> float:
    """Median seconds of one call, the given ones taken in turn within one graph."""
    in_turn = list(islice(cycle(calls), rig.effort.calls))

    def run() -> None:
        for call in in_turn:
            call()

    return median_seconds(rig.clock, capture_on(rig.device)(run), rig.effort.repeats) / len(in_turn)


def ceilings(rig: Rig) -> Ceilings:
    """The device's own now: clocks fall under load, so every result has those of its minute."""
    clock, effort = partial(seconds_per_call, rig), rig.effort
    return Ceilings(
        product_rate(clock, rig.device, rig.dtype, effort.product_size),
        copy_rate(clock, rig.device, effort.copied_bytes),
    )


def attention_seconds(rig: Rig, shape: tuple[int, int, int, int]) -> dict[str, float | str]:
    """Seconds of each PyTorch attention at [B, heads, T, head width], or why it cannot be had.

    q, k and v are views of one packed tensor, as the models pass them.
    """
    b, h, t, d = shape

    def operands() -> tuple[Tensor, ...]:
        packed = torch.randn(b, t, 3, h, d, device=rig.device, dtype=rig.dtype)
        return packed.permute(2, 0, 3, 1, 4).unbind(0)

    calls = [partial(F.scaled_dot_product_attention, *operands()) for _ in range(SETS)]
    seconds: dict[str, float | str] = {}
    for backend in ATTENTIONS:
        try:
            with sdpa_kernel(backend):
                seconds[backend.name] = seconds_per_call(rig, *calls)
        except RuntimeError as error:
            seconds[backend.name] = str(error).splitlines()[0]
    return seconds


def attention_shape(model: nn.Module, images: int) -> tuple[int, int, int, int]:
    """[B, heads, T, head width] of a model's attention, with guidance."""
    described = bind(model)
    assert described.fusable is not None
    inner = described.fusable.branches["attn-0"].inner
    assert isinstance(inner, FusableAttention)
    program = described.program
    return 2 * images, inner.heads, program.tokens, program.width // inner.heads


def fastest_attention(rig: Rig, shape: tuple[int, int, int, int]) -> SDPBackend:
    """The fastest of PyTorch's attentions at this shape, measured now."""
    seconds = {n: s for n, s in attention_seconds(rig, shape).items() if isinstance(s, float)}
    best = min(seconds, key=lambda name: seconds[name])
    return next(backend for backend in ATTENTIONS if backend.name == best)
