"""The meaning of every kernel in plain PyTorch: same names, same signatures, no triton.

Written in the dtype of its inputs, so that float64 inputs give the ground truth and bf16 inputs
give what eager PyTorch would have rounded to.  `tile` says how a kernel is cut and changes nothing
here; validation is the kernels' business.
"""

from l2c_rt.kernels.reference.changes import relative_change
from l2c_rt.kernels.reference.composed import composed_product, weight_bits
from l2c_rt.kernels.reference.ends import (
    final_update,
    final_update_norm,
    guided_update,
    patch_embed,
    patch_embed_norm,
    patch_embed_norm_modulate,
    reuse_evaluation,
)
from l2c_rt.kernels.reference.products import (
    attention,
    linear,
    skip_linear,
    split_linear,
    split_sum,
)
from l2c_rt.kernels.reference.quantized import quantize_rows, scaled_linear
from l2c_rt.kernels.reference.rows import (
    gate_residual,
    gate_residual_norm_modulate,
    mix,
    norm,
    norm_modulate,
    residual_norm,
    reuse_run,
    reuse_run_norm,
    reuse_sum,
    split_gate_residual_norm_modulate,
    split_residual_norm,
    ungated_reuse_sum,
)
from l2c_rt.kernels.reference.tokens import (
    attention_logs,
    attention_received,
    choose_tokens,
    unit_scores,
)

__all__ = [
    "attention",
    "attention_logs",
    "attention_received",
    "choose_tokens",
    "composed_product",
    "final_update",
    "final_update_norm",
    "gate_residual",
    "gate_residual_norm_modulate",
    "guided_update",
    "linear",
    "mix",
    "norm",
    "norm_modulate",
    "patch_embed",
    "patch_embed_norm",
    "patch_embed_norm_modulate",
    "quantize_rows",
    "relative_change",
    "residual_norm",
    "reuse_evaluation",
    "reuse_run",
    "reuse_run_norm",
    "reuse_sum",
    "scaled_linear",
    "skip_linear",
    "split_gate_residual_norm_modulate",
    "split_linear",
    "split_residual_norm",
    "split_sum",
    "ungated_reuse_sum",
    "unit_scores",
    "weight_bits",
]
