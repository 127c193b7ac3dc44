"""DiT as facebookresearch/DiT lays it out (timm's or our own Attention and Mlp inside).

Recognised by structure; the model's package is never imported.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor, nn

from l2c_rt.adapters.bound_model import (
    BoundModel,
    BranchCode,
    FusableBranch,
    FusableModel,
    OuterLayers,
    PublishedLoop,
    State,
)
from l2c_rt.adapters.own.sites import published_sites
from l2c_rt.adapters.plain_layers import (
    NotFusable,
    features,
    linear_of_silu,
    packed_attention,
    plain_linear,
    plain_mlp,
    plain_norm,
    plain_patches,
    refuse_extra_layers,
    require_unhooked,
)
from l2c_rt.families import DIT
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.published import dit_program

_MODEL = ("x_embedder", "t_embedder", "y_embedder", "pos_embed", "blocks", "final_layer")
_BLOCK = ("norm1", "attn", "norm2", "mlp", "adaLN_modulation")


def matches(model: nn.Module) -> bool:
    """Whether the model has DiT's parts by their published names."""
    if not all(hasattr(model, name) for name in (*_MODEL, "unpatchify")):
        return False
    return all(hasattr(block, name) for block in model.blocks for name in _BLOCK)  # type: ignore[union-attr]


def bind(model: Any) -> BoundModel:
    """Describe a DiT."""
    blocks = list(model.blocks)
    fixed = {"embed": partial(_embed, model), "final": partial(_final, model)}
    branches: dict[str, BranchCode] = {}
    for i, block in enumerate(blocks):
        fixed[f"modulation-{i}"] = partial(_modulation, block)
        branches[f"attn-{i}"] = BranchCode(partial(_attn, block), partial(_add, 2))
        branches[f"mlp-{i}"] = BranchCode(partial(_mlp, block), partial(_add, 5))
    try:
        fusable, why = _fusable(model), ""
    except NotFusable as reason:
        fusable, why = None, str(reason)
    return BoundModel(
        model=model,
        program=_program(model),
        begin=_begin,
        fixed=fixed,
        branches=branches,
        finish=lambda state: state.x,
        arguments=lambda x, t, y: {"x": x, "t": t, "y": y},
        to_tensor=lambda out: out,
        sampling=_sampling(model),
        fusable=fusable,
        why_not_fusable=why,
        bypassed=(model, *blocks),
        first_layer=model.x_embedder,
        sites=published_sites([f"blocks.{i}" for i in range(len(blocks))], ("attn", "mlp")),
    )


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def _begin(x: Tensor, t: Tensor, y: Tensor) -> State:
    return State(x=x, t=t, y=y)


def _embed(model: Any, state: State) -> None:
    state.x = model.x_embedder(state.x) + model.pos_embed
    state.c = model.t_embedder(state.t) + model.y_embedder(state.y, model.training)


def _modulation(block: Any, state: State) -> None:
    state.modulation = block.adaLN_modulation(state.c).chunk(6, dim=1)


def _attn(block: Any, state: State) -> Tensor:
    shift, scale = state.modulation[:2]
    out: Tensor = block.attn(modulate(block.norm1(state.x), shift, scale))
    return out


def _mlp(block: Any, state: State) -> Tensor:
    shift, scale = state.modulation[3:5]
    out: Tensor = block.mlp(modulate(block.norm2(state.x), shift, scale))
    return out


def _add(gate: int, state: State, out: Tensor) -> None:
    state.x = state.x + state.modulation[gate].unsqueeze(1) * out


def _final(model: Any, state: State) -> None:
    state.x = model.unpatchify(model.final_layer(state.x, state.c))


def _fusable(model: Any) -> FusableModel:
    branches: dict[str, FusableBranch] = {}
    for i, block in enumerate(model.blocks):
        norm1 = plain_norm(block.norm1, f"blocks.{i}.norm1")
        norm2 = plain_norm(block.norm2, f"blocks.{i}.norm2")
        attn = packed_attention(block.attn, f"blocks.{i}.attn")
        mlp = plain_mlp(block.mlp, f"blocks.{i}.mlp")
        branches[f"attn-{i}"] = FusableBranch(norm1, attn, block.attn, i, 0)
        branches[f"mlp-{i}"] = FusableBranch(norm2, mlp, block.mlp, i, 3)

    def condition(t: Tensor, y: Tensor) -> Tensor:
        c: Tensor = model.t_embedder(t) + model.y_embedder(y, model.training)
        return c

    def modulation(block: int, c: Tensor) -> Tensor:
        rows: Tensor = model.blocks[block].adaLN_modulation(c)
        return rows

    parts = [*model.blocks, model.final_layer]
    found = [linear_of_silu(part.adaLN_modulation) for part in parts]
    linears = tuple(linear for linear in found if linear is not None)
    return FusableModel(
        branches, condition, modulation, _outer(model),
        linears if len(linears) == len(parts) else (),
    )  # fmt: skip


def _outer(model: Any) -> OuterLayers:
    require_unhooked(model.x_embedder, "x_embedder")
    require_unhooked(model.final_layer, "final_layer")
    linear = plain_linear(model.final_layer.linear, "final_layer.linear")
    patches = plain_patches(model.x_embedder.proj, "x_embedder.proj")
    refuse_extra_layers(model.x_embedder, ("norm",), "x_embedder")

    def modulation(c: Tensor) -> Tensor:
        rows: Tensor = model.final_layer.adaLN_modulation(c)
        return rows

    return OuterLayers(
        patches=patches,
        positions=lambda: model.pos_embed[0],
        norm=plain_norm(model.final_layer.norm_final, "final_layer.norm_final"),
        linear=linear,
        channels=linear.out_features // patches.kernel_size[0] ** 2,
        modulation=modulation,
    )


def _program(model: Any) -> BlockProgram:
    tokens, width = model.pos_embed.shape[1:]
    return dit_program(
        [features(b.mlp.fc1, f"blocks.{i}.mlp.fc1")[1] for i, b in enumerate(model.blocks)],
        width=width,
        tokens=tokens,
        patch_values=model.x_embedder.proj.weight[0].numel(),
        out_values=features(model.final_layer.linear, "final_layer.linear")[1],
        frequencies=features(model.t_embedder, "t_embedder")[0],
    )


def _sampling(model: Any) -> PublishedLoop:
    channels, patch = model.x_embedder.proj.weight.shape[1:3]
    table = model.y_embedder.embedding_table.weight
    classes = getattr(model.y_embedder, "num_classes", len(table))
    return PublishedLoop(
        sampler=DIT.sampler,
        null_label=classes if len(table) > classes else None,
        classes=classes,
        channels=channels,
        size=patch * math.isqrt(model.pos_embed.shape[1]),
        guided_channels=3,
        cfg_scale=DIT.cfg_scale,
        guidance=DIT.guidance,
        patch=patch,
        tokens=model.pos_embed.shape[1],
    )
