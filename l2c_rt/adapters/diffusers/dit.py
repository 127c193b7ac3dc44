"""DiT as diffusers lays it out (`DiTTransformer2DModel`).

Recognised by structure; diffusers is imported only to build its own return type, when asked for.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel, BranchCode, PublishedLoop, State
from l2c_rt.adapters.diffusers.plain_layers import take_apart
from l2c_rt.adapters.own.sites import published_sites
from l2c_rt.adapters.plain_layers import NotFusable
from l2c_rt.families import DIT
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.published import dit_program

_MODEL = ("pos_embed", "transformer_blocks", "norm_out", "proj_out_1", "proj_out_2", "config")
_BLOCK = ("norm1", "attn1", "norm3", "ff")


def matches(model: nn.Module) -> bool:
    """Whether the model has the parts of diffusers' DiT by their names."""
    if not all(hasattr(model, name) for name in _MODEL):
        return False
    blocks: Any = model.transformer_blocks
    return all(
        all(hasattr(block, name) for name in _BLOCK)
        and getattr(block, "attn2", None) is None
        and hasattr(block.norm1, "emb")
        and hasattr(block.norm1, "linear")
        for block in blocks
    )


def bind(model: Any) -> BoundModel:
    """Describe a DiTTransformer2DModel."""
    fixed = {"embed": partial(_embed, model), "final": partial(_final, model)}
    branches: dict[str, BranchCode] = {}
    blocks = list(model.transformer_blocks)
    for i, block in enumerate(blocks):
        fixed[f"modulation-{i}"] = partial(_modulation, block)
        branches[f"attn-{i}"] = BranchCode(partial(_attn, block), partial(_add, 2))
        branches[f"mlp-{i}"] = BranchCode(partial(_mlp, block), partial(_add, 5))
    try:
        fusable, why = take_apart(model), ""
    except NotFusable as reason:
        fusable, why = None, str(reason)
    return BoundModel(
        model=model,
        program=_program(model),
        begin=_begin,
        fixed=fixed,
        branches=branches,
        finish=partial(_finish, model),
        arguments=lambda x, t, y: {"hidden_states": x, "timestep": t, "class_labels": y},
        to_tensor=lambda out: out[0] if isinstance(out, tuple) else out.sample,
        sampling=_sampling(model),
        fusable=fusable,
        why_not_fusable=why,
        bypassed=(model, *blocks, *(block.norm1 for block in blocks)),
        first_layer=model.pos_embed,
        sites=published_sites(
            [f"transformer_blocks.{i}" for i in range(len(blocks))], ("attn1", "ff")
        ),
    )


def _begin(
    hidden_states: Tensor,
    timestep: Tensor | None = None,
    class_labels: Tensor | None = None,
    cross_attention_kwargs: dict[str, Any] | None = None,
    return_dict: bool = True,
) -> State:
    if timestep is None or class_labels is None:
        raise TypeError("timestep= and class_labels= are needed, as by the model itself")
    if cross_attention_kwargs:
        raise ValueError(
            f"cross_attention_kwargs={cross_attention_kwargs} is not supported by a compiled DiT; "
            "leave it out or call the model itself"
        )
    return State(x=hidden_states, t=timestep, y=class_labels, options={"return_dict": return_dict})


def _embed(model: Any, state: State) -> None:
    state.x = model.pos_embed(state.x)


def _modulation(block: Any, state: State) -> None:
    emb = block.norm1.emb(state.t, state.y, hidden_dtype=state.x.dtype)
    state.modulation = block.norm1.linear(block.norm1.silu(emb)).chunk(6, dim=1)


def _attn(block: Any, state: State) -> Tensor:
    shift, scale = state.modulation[:2]
    x = block.norm1.norm(state.x) * (1 + scale[:, None]) + shift[:, None]
    out: Tensor = block.attn1(x, encoder_hidden_states=None, attention_mask=None)
    return out


def _mlp(block: Any, state: State) -> Tensor:
    shift, scale = state.modulation[3:5]
    out: Tensor = block.ff(block.norm3(state.x) * (1 + scale[:, None]) + shift[:, None])
    return out


def _add(gate: int, state: State, out: Tensor) -> None:
    state.x = state.modulation[gate].unsqueeze(1) * out + state.x


def _final(model: Any, state: State) -> None:
    first = model.transformer_blocks[0].norm1
    emb = first.emb(state.t, state.y, hidden_dtype=state.x.dtype)
    shift, scale = model.proj_out_1(F.silu(emb)).chunk(2, dim=1)
    x = model.norm_out(state.x) * (1 + scale[:, None]) + shift[:, None]
    x = model.proj_out_2(x)
    grid, p, c = int(x.shape[1] ** 0.5), model.patch_size, model.out_channels
    x = torch.einsum("nhwpqc->nchpwq", x.reshape(-1, grid, grid, p, p, c))
    state.x = x.reshape(-1, c, grid * p, grid * p)


def _finish(model: Any, state: State) -> Any:
    if not state.options["return_dict"]:
        return (state.x,)
    outputs = importlib.import_module("diffusers.models.modeling_outputs")
    return outputs.Transformer2DModelOutput(sample=state.x)


def _program(model: Any) -> BlockProgram:
    config, blocks = model.config, model.transformer_blocks
    patch = config.patch_size**2
    return dit_program(
        [block.ff.net[0].proj.out_features for block in blocks],
        width=config.num_attention_heads * config.attention_head_dim,
        tokens=(config.sample_size // config.patch_size) ** 2,
        patch_values=config.in_channels * patch,
        out_values=model.out_channels * patch,
        frequencies=blocks[0].norm1.emb.timestep_embedder.linear_1.in_features,
        embedder_per_block=True,
    )


def _sampling(model: Any) -> PublishedLoop:
    config = model.config
    return PublishedLoop(
        sampler=DIT.sampler,
        null_label=config.num_embeds_ada_norm,
        classes=config.num_embeds_ada_norm,
        channels=config.in_channels,
        size=config.sample_size,
        guided_channels=config.in_channels,
        cfg_scale=DIT.cfg_scale,
        guidance=DIT.guidance,
        patch=config.patch_size,
    )
