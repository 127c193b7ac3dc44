"""Every public kernel function by name, with its reference and its arguments.

The list is written by hand, so that a function which the backend's own list forgets shows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from l2c_rt.doctor.kernel_operands import Arguments, Sizes
from l2c_rt.doctor.token_operands import TokenOperands
from l2c_rt.kernels import reference
from l2c_rt.kernels._launch import AttentionTile, MatrixTile

MODULES = {
    "reuse_run": ("reuse_run", "reuse_sum", "norm_modulate"),
    "gate_residual_norm_modulate": (
        *("gate_residual_norm_modulate", "split_gate_residual_norm_modulate", "gate_residual"),
    ),
    "reuse_run_norm": ("reuse_run_norm", "ungated_reuse_sum", "norm"),
    "mix": ("mix",),
    "residual_norm": ("residual_norm", "split_residual_norm"),
    "patch_embed": ("patch_embed", "patch_embed_norm"),
    "patch_embed_norm_modulate": ("patch_embed_norm_modulate",),
    "final_update": ("final_update", "reuse_evaluation"),
    "final_update_norm": ("final_update_norm",),
    "guided_update": ("guided_update",),
    "attention": ("attention",),
    "attention_scores": ("attention_logs", "attention_received"),
    "token_choice": ("unit_scores", "choose_tokens"),
    "linear": ("linear",),
    "split_linear": ("split_linear", "split_sum"),
    "skip_linear": ("skip_linear",),
}
"""File in kernels/ -> its public functions."""

OPS = tuple(op for ops in MODULES.values() for op in ops)
MATRIX_OPS = ("attention", "linear", "split_linear", "skip_linear")
END_OPS = (
    *("patch_embed", "patch_embed_norm", "patch_embed_norm_modulate", "final_update"),
    *("reuse_evaluation", "final_update_norm", "guided_update"),
)
TOKEN_OPS = (*MODULES["attention_scores"], *MODULES["token_choice"])
"""Those that write a number per token, and no row."""
ROW_OPS = tuple(op for op in OPS if op not in MATRIX_OPS + END_OPS + TOKEN_OPS)


WEIGHTED_OPS = (
    *("reuse_run", "reuse_sum", "reuse_run_norm", "ungated_reuse_sum"),
    *("final_update", "reuse_evaluation", "final_update_norm"),
)
"""Those that also take a list with weights."""


def kernel(op: str) -> Callable[..., Any]:
    """The kernel function of that name."""
    module = next(name for name, ops in MODULES.items() if op in ops)
    function: Callable[..., Any] = getattr(importlib.import_module(f"l2c_rt.kernels.{module}"), op)
    return function


def truth(op: str) -> Callable[..., Any]:
    """The function of that name in plain PyTorch."""
    function: Callable[..., Any] = getattr(reference, op)
    return function


def arguments(op: str, sizes: Sizes) -> Arguments:
    """Arguments of one call, without `out` and `tile`."""
    operands: Arguments = getattr(TokenOperands(sizes), f"_{op}")()
    return operands


SMALL_ATTENTION = AttentionTile(16, 16, 4, 1)
SMALL_MATRIX = MatrixTile(16, 32, 16, 4, 2)
"""Tiles so small that a few rows make several of them."""
