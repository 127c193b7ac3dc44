"""U-ViT as baofff/U-ViT lays it out: blocks without gates, long skips through linears.

Recognised by structure; the model's package is never imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
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
    packed_attention,
    plain_linear,
    plain_mlp,
    plain_norm,
    plain_patches,
    require_unhooked,
)
from l2c_rt.families import UVIT
from l2c_rt.models.layers import timestep_embedding
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.published import UViTBlock, uvit_program

_MODEL = ("patch_embed", "time_embed", "pos_embed", "in_blocks", "mid_block", "out_blocks", "norm",
          "decoder_pred", "final_layer")  # fmt: skip
_BLOCK = ("norm1", "attn", "norm2", "mlp", "skip_linear")


def matches(model: nn.Module) -> bool:
    """Whether the model has U-ViT's parts by their published names."""
    if not all(hasattr(model, name) for name in _MODEL):
        return False
    return all(hasattr(block, name) for block in _blocks(model) for name in _BLOCK)


def bind(model: Any) -> BoundModel:
    """Describe a U-ViT.  Raises TypeError for a variant that reads more than time and labels."""
    fixed: dict[str, Callable[[State], None]] = {"embed": partial(_embed, model)}
    fixed["final"] = partial(_final, model)
    branches: dict[str, BranchCode] = {}
    for i, block in enumerate(_blocks(model)):
        fixed[f"skip-save-{i}"] = _save_skip
        fixed[f"skip-linear-{i}"] = partial(_skip_linear, block)
        branches[f"attn-{i}"] = BranchCode(partial(_attn, block), _add)
        branches[f"mlp-{i}"] = BranchCode(partial(_mlp, block), _add)
    program = _program(model)
    used = {node.name for node in program.nodes}
    try:
        fusable, why = _fusable(model), ""
    except NotFusable as reason:
        fusable, why = None, str(reason)
    return BoundModel(
        model=model,
        program=program,
        begin=_begin,
        fixed={name: run for name, run in fixed.items() if name in used},
        branches=branches,
        finish=lambda state: state.x,
        arguments=lambda x, t, y: {"x": x, "timesteps": t, "y": y},
        to_tensor=lambda out: out,
        sampling=_sampling(model),
        fusable=fusable,
        why_not_fusable=why,
        bypassed=(model, *_blocks(model)),
        first_layer=model.patch_embed,
        sites=published_sites(_block_paths(model), ("attn", "mlp")),
    )


def _blocks(model: Any) -> list[Any]:
    return [*model.in_blocks, model.mid_block, *model.out_blocks]


def _block_paths(model: Any) -> list[str]:
    return [
        *(f"in_blocks.{i}" for i in range(len(model.in_blocks))),
        "mid_block",
        *(f"out_blocks.{i}" for i in range(len(model.out_blocks))),
    ]


def _begin(x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> State:
    return State(x=x, t=timesteps, y=y)


def _embed(model: Any, state: State) -> None:
    x = torch.cat((_prefix(model, state.t, state.y), model.patch_embed(state.x)), dim=1)
    state.x = x + model.pos_embed


def _attn(block: Any, state: State) -> Tensor:
    out: Tensor = block.attn(block.norm1(state.x))
    return out


def _mlp(block: Any, state: State) -> Tensor:
    out: Tensor = block.mlp(block.norm2(state.x))
    return out


def _add(state: State, out: Tensor) -> None:
    state.x = state.x + out


def _save_skip(state: State) -> None:
    state.skips.append(state.x)


def _skip_linear(block: Any, state: State) -> None:
    state.x = block.skip_linear(torch.cat([state.x, state.skips.pop()], dim=-1))


def _final(model: Any, state: State) -> None:
    tokens = model.decoder_pred(model.norm(state.x))
    prefix_tokens = 1 if state.y is None else 2
    state.x = model.final_layer(unpatchify(tokens[:, prefix_tokens:, :], _channels(model)))


def unpatchify(x: Tensor, channels: int) -> Tensor:
    """Shapes: [B, h * w, p * p * C] -> [B, C, h * p, w * p], channels last within a patch."""
    p, grid = math.isqrt(x.shape[2] // channels), math.isqrt(x.shape[1])
    image = x.reshape(len(x), grid, grid, p, p, channels).permute(0, 5, 1, 3, 2, 4)
    return image.reshape(len(x), channels, grid * p, grid * p)


def _channels(model: Any) -> int:
    return int(model.patch_embed.proj.weight.shape[1])


def _fusable(model: Any) -> FusableModel:
    branches: dict[str, FusableBranch] = {}
    for i, block in enumerate(_blocks(model)):
        norm1 = plain_norm(block.norm1, f"block {i}.norm1")
        norm2 = plain_norm(block.norm2, f"block {i}.norm2")
        attn = packed_attention(block.attn, f"block {i}.attn")
        mlp = plain_mlp(block.mlp, f"block {i}.mlp")
        branches[f"attn-{i}"] = FusableBranch(norm1, attn, block.attn, i, None)
        branches[f"mlp-{i}"] = FusableBranch(norm2, mlp, block.mlp, i, None)
    return FusableModel(branches, outer=_outer(model))


def _outer(model: Any) -> OuterLayers:
    require_unhooked(model.patch_embed, "patch_embed")
    skip_linears = {
        f"skip-linear-{i}": plain_linear(block.skip_linear, f"block {i}.skip_linear")
        for i, block in enumerate(_blocks(model))
        if block.skip_linear is not None
    }
    after = None if isinstance(model.final_layer, nn.Identity) else model.final_layer
    return OuterLayers(
        patches=plain_patches(model.patch_embed.proj, "patch_embed.proj"),
        positions=lambda: model.pos_embed[0],
        norm=plain_norm(model.norm, "norm"),
        linear=plain_linear(model.decoder_pred, "decoder_pred"),
        channels=_channels(model),
        prefix_tokens=1 if getattr(model, "label_emb", None) is None else 2,
        prefix=partial(_prefix, model),
        after=after,
        skip_linears=skip_linears,
    )


def _prefix(model: Any, t: Tensor, y: Tensor | None) -> Tensor:
    """The label's token, where there are labels, and the time's.  Shapes: [B] -> [B, E, D]."""
    # Cast, so that a narrow model runs without autocast; the published float32 stays as it is.
    sinusoids = timestep_embedding(t, model.pos_embed.shape[-1]).to(model.pos_embed.dtype)
    time = model.time_embed(sinusoids).unsqueeze(dim=1)
    return time if y is None else torch.cat((model.label_emb(y).unsqueeze(dim=1), time), dim=1)


def _program(model: Any) -> BlockProgram:
    tokens, width = model.pos_embed.shape[1:]
    saved = len(model.in_blocks)
    return uvit_program(
        [_block_size(block, i, saves_skip=i < saved) for i, block in enumerate(_blocks(model))],
        width=width,
        tokens=tokens,
        patch_values=model.patch_embed.proj.weight[0].numel(),
        out_values=features(model.decoder_pred, "decoder_pred")[1],
    )


def _block_size(block: Any, i: int, *, saves_skip: bool) -> UViTBlock:
    named = block.attn.named_parameters()
    return UViTBlock(
        hidden=features(block.mlp.fc1, f"block {i}.mlp.fc1")[1],
        attention_biases=sum(value.numel() for name, value in named if name.endswith("bias")),
        saves_skip=saves_skip,
        merges_skip=block.skip_linear is not None,
    )


def _sampling(model: Any) -> PublishedLoop:
    channels, patch = model.patch_embed.proj.weight.shape[1:3]
    labels = getattr(model, "label_emb", None)
    prefix_tokens = 1 if labels is None else 2
    tokens = model.pos_embed.shape[1] - prefix_tokens
    if hasattr(model, "context_embed") or math.isqrt(max(tokens, 0)) ** 2 != tokens:
        raise TypeError(
            f"compile: this U-ViT has {tokens + prefix_tokens} positions, wanted {prefix_tokens} "
            "for time and label and a square of patches; variants with more tokens, such as "
            "text-to-image (context_embed), are not supported: describe it with adapter="
        )
    return PublishedLoop(
        sampler=UVIT.sampler,
        null_label=None if labels is None else labels.num_embeddings - 1,
        classes=0 if labels is None else labels.num_embeddings - 1,
        channels=channels,
        size=patch * math.isqrt(tokens),
        guided_channels=channels,
        cfg_scale=UVIT.cfg_scale,
        guidance=UVIT.guidance,
        patch=patch,
        tokens=tokens,
    )
