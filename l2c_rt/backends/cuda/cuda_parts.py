"""What the CUDA backend is made of: kernel functions, a recorder of graphs, a tuner.

All are handed in, so that the very same program runs on a machine without a GPU: with the kernels'
references, or with a driver that only records what would be launched.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from l2c_rt.adapters.bound_model import BoundModel, FusableModel, OuterLayers
from l2c_rt.backends.cuda.checking.checked_file import CheckedShapes
from l2c_rt.backends.cuda.cublas_lt import CublasLt
from l2c_rt.backends.cuda.quantized_weights import QuantizedWeights
from l2c_rt.backends.cuda.tuning.tuner import Tuner, cuda_measure, default_path, describe_device
from l2c_rt.backends.options import Options
from l2c_rt.device.graphs import CudaRecorder, Eager, Recorder
from l2c_rt.plan.ops import Plan

FUNCTIONS = {
    "reuse_run": ("reuse_run", "reuse_sum", "norm_modulate"),
    "gate_residual_norm_modulate": (
        "gate_residual_norm_modulate",
        "split_gate_residual_norm_modulate",
        "gate_residual",
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
    "composed_product": ("weight_bits", "composed_product"),
    "quantize_rows": ("quantize_rows",),
    "scaled_linear": ("scaled_linear",),
}
"""File of l2c_rt.kernels -> the functions that the backend calls."""


@dataclass(frozen=True, slots=True)
class CudaParts:
    """`recorder` makes a recorder for one session's graphs on a device; with `checked` None the
    kernels are not checked at their first run."""

    kernels: Any
    recorder: Callable[[torch.device], Recorder]
    tuner: Tuner
    checked: CheckedShapes | None = None


@dataclass(frozen=True, slots=True)
class FusedModel:
    """A described model with its plan: what every program of the backend is made from.

    `fusable` and `outer` are the model's, known to be there; `quantized` are the weights of its
    branches with `precision="fp8"`.
    """

    model: BoundModel
    plan: Plan
    cuda: CudaParts
    options: Options
    quantized: QuantizedWeights | None = None

    @property
    def fusable(self) -> FusableModel:
        assert self.model.fusable is not None
        return self.model.fusable

    @property
    def outer(self) -> OuterLayers:
        assert self.fusable.outer is not None
        return self.fusable.outer


def triton_kernels() -> SimpleNamespace:
    """Every Triton kernel function by its name.  Raises ImportError without triton."""
    functions = {
        name: getattr(importlib.import_module(f"l2c_rt.kernels.{file}"), name)
        for file, names in FUNCTIONS.items()
        for name in names
    }
    return SimpleNamespace(**functions)


def cuda_parts_for(device: torch.device, options: Options) -> CudaParts:
    """The real ones, for a GPU: Triton's kernels, CUDA graphs, measured configurations."""
    measure = cuda_measure(device=device) if options.tune else None
    path = default_path()
    kernels = triton_kernels()
    tuner = Tuner(describe_device(device), path if options.tune else None, measure)
    if options.tune:
        try:
            library = CublasLt(device)
        except RuntimeError as error:
            tuner.notes.append(f"products without cuBLASLt's algorithms: {error}")
        else:
            kernels.linear, tuner.algorithms = library.beside(kernels.linear), library.algorithms
    kept = None if path is None else path.with_name("checked.json")
    checked = CheckedShapes(tuner.machine, kept) if options.check else None
    captured = partial(CudaRecorder, places=options.places)
    recorder = Eager if options.graph == "off" else captured
    return CudaParts(kernels, recorder, tuner, checked)
