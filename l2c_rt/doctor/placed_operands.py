"""Arguments of the kernels that find the slots of every sample by itself, as requests have them."""

from __future__ import annotations

from dataclasses import replace

import torch

from l2c_rt.doctor.kernel_calls import arguments
from l2c_rt.doctor.kernel_operands import Arguments, Operands, Sizes

PLACED_OPS = (
    *("reuse_run", "reuse_sum", "reuse_run_norm", "ungated_reuse_sum", "mix", "residual_norm"),
    *("gate_residual_norm_modulate", "split_gate_residual_norm_modulate", "split_residual_norm"),
    "split_sum",
)
"""Those whose slots may have `places`."""


def placed_arguments(op: str, sizes: Sizes) -> Arguments:
    """Arguments of one call on samples that lie apart and in another order, each at an evaluation
    of its own; there is room for more, but where `out` is in the slots."""
    given, operands = arguments(op, sizes), Operands(sizes)
    room = sizes.batch + (0 if "out" in given else 2)
    slot = (room, sizes.tokens, sizes.width)
    order = torch.randperm(room, generator=operands.generator)[: sizes.batch].int()
    places = torch.stack([order, operands.integers(3, sizes.batch)], 1)
    if "reuses" in given:
        arena = operands.normal(len(given["reuses"].arena), *slot)
        given["reuses"] = replace(given["reuses"], arena=arena, places=places)
    else:
        given["places"] = places
    if "y" in given:
        given["y"] = operands.normal(*slot)
    return given
