"""The byte models of the kernels: what a profiler is told, and what the plan's cost counts."""

from __future__ import annotations

import importlib

import pytest

from l2c_rt.doctor.kernel_calls import MODULES
from l2c_rt.kernels.gate_residual_norm_modulate import gate_residual_norm_modulate_bytes
from l2c_rt.kernels.reuse_run import reuse_run_bytes
from l2c_rt.plan.cost import LaunchCounts
from l2c_rt.plan.ops import Reuse
from l2c_rt.plan.program import BlockProgram, attention_branch

# Bytes, restated: tensors that cross the memory bus once each, at DiT-XL/2 and U-ViT-H/2.
B, T, D, ROW = 16, 256, 1152, 16 * 256 * 1152 * 2
BYTES = {
    ("reuse_run", (B, T, D, 4, 2)): 7 * ROW + 6 * B * D * 2,
    ("gate_residual_norm_modulate", (B, T, D, 2)): 4 * ROW + 3 * B * D * 2,
    ("gate_residual", (B, T, D, 2)): 3 * ROW + B * D * 2,
    ("split_gate_residual_norm_modulate", (B, T, D, 3, 2)): 10 * ROW + 3 * B * D * 2,
    ("split_sum", (B * T, D, 3, 2)): 7 * ROW,
    ("reuse_run_norm", (B, T, D, 4, 2)): 7 * ROW + 2 * D * 2,
    ("residual_norm", (B, T, D, 2)): 4 * ROW + 2 * D * 2,
    ("split_residual_norm", (B, T, D, 3, 2)): 10 * ROW + 2 * D * 2,
    ("patch_embed", (8, B, T, D, 16, 1, 2)): ROW + (17 + T) * D * 2 + 8 * 4 * 32 * 32 * 4,
    ("patch_embed_norm_modulate", (8, B, T, D, 16, 2)): (
        2 * ROW + (17 + T + 2 * B) * D * 2 + 8 * 4 * 32 * 32 * 4
    ),
    ("final_update", (8, B, T, D, 16, 0, 2)): (
        ROW + (2 * B + 16) * D * 2 + 2 * 8 * 4 * 32 * 32 * 4
    ),
    ("reuse_evaluation", (8, B, T, D, 16, 56, 2)): (
        56 * ROW + (58 * B + 16 + 17 + T) * D * 2 + 2 * 8 * 4 * 32 * 32 * 4
    ),
    ("final_update_norm", (8, B, T, D, 16, 2, 2)): (
        3 * ROW + (2 + 16) * D * 2 + 2 * 8 * 4 * 32 * 32 * 4
    ),
    ("guided_update", (8 * 4 * 32 * 32, 2, 2)): 8 * 4 * 32 * 32 * (4 + 4 + 2 + 2),
    ("attention", (B, T, D, 2)): 4 * ROW,
    ("attention_logs", (B, T, 16, 72, 2)): 2 * ROW + 16 * B * T * 4,
    ("attention_received", (B, T, 16, 72, 2)): 2 * ROW + 2 * 16 * B * T * 4,
    ("unit_scores", (B, 16, T)): 18 * B * T * 4,
    ("choose_tokens", (B, T, 30)): 2 * B * T * 4 + B * 30 * (4 + 8),
    ("linear", (512, 4608, 1152, 2)): (512 * 1152 + 4608 * 1152 + 4608 + 512 * 4608) * 2,
    ("split_linear", (512, 1152, 4608, 3, 2)): (
        (512 * 4608 + 1152 * 4608 + 1152) * 2 + 3 * 512 * 1152 * 4
    ),
    ("skip_linear", (516, 1152, 1152, 2)): (516 * 3 * 1152 + 2304 * 1152 + 1152) * 2,
}


@pytest.mark.parametrize(("op", "sizes"), BYTES, ids=[op for op, _ in BYTES])
def test_the_byte_model_counts_every_tensor_once(op: str, sizes: tuple[int, ...]) -> None:
    module = next(name for name, ops in MODULES.items() if op in ops)
    model = getattr(importlib.import_module(f"l2c_rt.kernels.{module}"), f"{op}_bytes")
    assert model(*sizes) == BYTES[op, sizes]


def test_the_row_kernels_make_the_accesses_that_cost_counts() -> None:
    program = BlockProgram("dit", (attention_branch(0, T, D, gated=True),), T, D)
    for count in (1, 6):
        counts = LaunchCounts(program)
        counts.sum("x", "x", [Reuse("attn-0", slot) for slot in range(count)], "attn-0")
        assert counts.elements * B * 2 == reuse_run_bytes(B, T, D, count, 2)
        if count == 1:
            assert counts.elements * B * 2 == gate_residual_norm_modulate_bytes(B, T, D, 2)
