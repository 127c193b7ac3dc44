"""Whether the fused CUDA backend can run a model here, and the backend itself."""

from __future__ import annotations

import torch

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Backend, WholeRuns, fused_passes
from l2c_rt.backends.cpu.branches import custom_forward
from l2c_rt.backends.cuda.batched_workspace import BatchedWorkspace
from l2c_rt.backends.cuda.cuda_parts import CudaParts, FusedModel, cuda_parts_for
from l2c_rt.backends.cuda.quantized_weights import QuantizedWeights, why_not_quantized
from l2c_rt.backends.cuda.step_launcher import why_not_launched
from l2c_rt.backends.cuda.toolchain import why_no_launchers, why_not_triton
from l2c_rt.backends.cuda.workspace import CudaWorkspace
from l2c_rt.backends.delta_form import with_delta_form
from l2c_rt.backends.options import Options
from l2c_rt.memory.arena import SlotMemory
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.program import Fixed

__all__ = ["fused_backend_on_gpu", "fused_cuda_backend", "why_not", "why_not_model",
           "why_not_quantized"]  # fmt: skip

OLDEST_GPU = (8, 0)
NARROW = (
    "products of attention and MLP in float8_e4m3fn, by rows and output channels with a scale each"
)


def why_not(model: BoundModel, options: Options) -> str:
    """What this machine or the model lacks; empty where the backend can run it."""
    return _why_not_here(model.device) or why_not_model(model, options)


def fused_backend_on_gpu(model: BoundModel, options: Options) -> Backend:
    """The backend on the model's GPU."""
    return fused_cuda_backend(model, cuda_parts_for(model.device, options), options)


def fused_cuda_backend(model: BoundModel, cuda: CudaParts, options: Options) -> Backend:
    """The fused backend of a GPU, made from these parts."""

    narrow = options.precision == "fp8"
    assert model.fusable is not None
    quantized = QuantizedWeights(model.fusable) if narrow else None

    def workspace(plan: Plan) -> WholeRuns:
        if plan.tokens is not None and narrow:
            raise ValueError(
                'precision="fp8": the schedule computes some tokens of a branch, whose products '
                "are those of the model; leave precision= out"
            )
        return CudaWorkspace(FusedModel(model, plan, cuda, options, quantized))

    def batched(plan: Plan, requests: int, most: int) -> BatchedWorkspace:
        return BatchedWorkspace(FusedModel(model, plan, cuda, options, quantized), most)

    passes = with_delta_form(fused_passes) if options.delta_form else fused_passes
    # One slot more, for outputs that nobody reads later.
    return Backend(
        "fused", passes, workspace, extra_slots=1, replaceable=options.forgiving,
        notes=(NARROW,) if narrow else (), dtype=torch.float8_e4m3fn if narrow else None,
        batched=batched, fills_batches=True, delta_form=options.delta_form,
    )  # fmt: skip


def _why_not_here(device: torch.device) -> str:
    """What this machine lacks."""
    have = torch.cuda.get_device_capability(device)
    if have < OLDEST_GPU:
        return f"the GPU has compute capability {have[0]}.{have[1]}, wanted 8.0 or higher"
    if why_not := why_not_triton() or why_no_launchers():
        return why_not
    try:
        SlotMemory(1, (8,), torch.float32, device)
    except (MemoryError, RuntimeError) as error:
        return f"the driver gives no cache memory: {error}"
    return ""


def why_not_model(model: BoundModel, options: Options) -> str:
    """What of the model the fused CUDA backend cannot run; empty where it can run all."""
    fusable = model.fusable
    if fusable is None or fusable.outer is None:
        return model.why_not_fusable or "the adapter does not describe the model's ends"
    nodes = [node for node in model.program.nodes if isinstance(node, Fixed)]
    unknown = [n.name for n in nodes if not n.role and not n.conditioning]
    if unknown:
        return f"node {unknown[0]!r} has no role (embed, final, skip_save, skip_linear)"
    model_dtype = fusable.outer.linear.weight.dtype
    if model_dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"the model is {model_dtype}, wanted bfloat16, float16 or float32"
    if fusable.outer.skip_linears and options.residual_dtype not in (None, model_dtype):
        return f"residual_dtype={options.residual_dtype} is not for models with long skips"
    return why_not_launched(fusable, fusable.outer) or custom_forward(fusable)
