"""Taking diffusers' DiT apart for a fused backend."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import (
    FusableAttention,
    FusableBranch,
    FusableMlp,
    FusableModel,
    OuterLayers,
)
from l2c_rt.adapters.plain_layers import (
    NotFusable,
    plain_linear,
    plain_norm,
    plain_patches,
    refuse_extra_layers,
    require_unhooked,
)


def take_apart(model: Any) -> FusableModel:
    """The parts of a DiTTransformer2DModel; raises NotFusable saying what stands in the way."""
    branches: dict[str, FusableBranch] = {}
    for i, block in enumerate(model.transformer_blocks):
        where = f"transformer_blocks.{i}"
        norm1 = plain_norm(block.norm1.norm, f"{where}.norm1.norm")
        norm3 = plain_norm(block.norm3, f"{where}.norm3")
        attn, mlp = _attention_part(block.attn1, where), _mlp_part(block.ff, where)
        branches[f"attn-{i}"] = FusableBranch(norm1, attn, block.attn1, i, 0)
        branches[f"mlp-{i}"] = FusableBranch(norm3, mlp, block.ff, i, 3)

    def condition(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return t, y

    def modulation(block: int, given: tuple[Tensor, Tensor]) -> Tensor:
        norm = model.transformer_blocks[block].norm1
        emb = norm.emb(*given, hidden_dtype=norm.linear.weight.dtype)
        rows: Tensor = norm.linear(norm.silu(emb))
        return rows

    return FusableModel(branches, condition, modulation, _outer(model))


def _outer(model: Any) -> OuterLayers:
    embed = model.pos_embed
    require_unhooked(embed, "pos_embed")
    refuse_extra_layers(embed, ("norm",), "pos_embed")
    if embed.pos_embed is None or not embed.flatten:
        raise NotFusable("pos_embed adds no position table to flat patches")

    def modulation(given: tuple[Tensor, Tensor]) -> Tensor:
        first = model.transformer_blocks[0].norm1
        emb = first.emb(*given, hidden_dtype=model.proj_out_1.weight.dtype)
        rows: Tensor = model.proj_out_1(F.silu(emb))
        return rows

    return OuterLayers(
        patches=plain_patches(embed.proj, "pos_embed.proj"),
        positions=lambda: embed.pos_embed[0],
        norm=plain_norm(model.norm_out, "norm_out"),
        linear=plain_linear(model.proj_out_2, "proj_out_2"),
        channels=model.out_channels,
        modulation=modulation,
    )


def _attention_part(attn: Any, where: str) -> FusableAttention:
    require_unhooked(attn, f"{where}.attn1")
    refuse_extra_layers(attn, ("norm_q", "norm_k", "group_norm", "spatial_norm"), f"{where}.attn1")
    if attn.residual_connection or attn.rescale_output_factor != 1.0 or attn.upcast_attention:
        raise NotFusable(f"{where}.attn1 rescales or upcasts its output")
    name = type(attn.processor).__name__
    if name not in ("AttnProcessor2_0", "AttnProcessor"):
        raise NotFusable(f"{where}.attn1 runs {name}, which a fused kernel would not call")
    refuse_extra_layers(attn.to_out, ("1",), f"{where}.attn1.to_out")
    linears = tuple(
        plain_linear(getattr(attn, n), f"{where}.attn1.{n}") for n in ("to_q", "to_k", "to_v")
    )
    proj = plain_linear(attn.to_out[0], f"{where}.attn1.to_out.0")
    return FusableAttention(linears, proj, int(attn.heads), float(attn.scale))


def _mlp_part(ff: Any, where: str) -> FusableMlp:
    require_unhooked(ff, f"{where}.ff")
    act, _dropout, fc2, *rest = ff.net
    refuse_extra_layers(ff.net, ("1",), f"{where}.ff.net")
    if rest and any(not isinstance(m, nn.Dropout) or m.p > 0 for m in rest):
        raise NotFusable(f"{where}.ff has {len(ff.net)} stages")
    if type(act).__name__ != "GELU":
        raise NotFusable(f"{where}.ff runs {type(act).__name__}, not GELU")
    fc1 = plain_linear(act.proj, f"{where}.ff.net.0.proj")
    return FusableMlp(fc1, plain_linear(fc2, f"{where}.ff.net.2"), str(act.approximate))
