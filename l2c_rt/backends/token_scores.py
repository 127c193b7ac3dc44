"""The scores of a block's tokens, from the input that its attention is given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, FusableAttention, State
from l2c_rt.backends.token_choice import attention_scores, value_norm_scores
from l2c_rt.kernels._launch import MAX_TOKENS
from l2c_rt.schedule.tokens import OF_ATTENTION, OF_STREAM, TokenRule


def branch_scores(model: BoundModel, name: str, state: State, rule: TokenRule) -> Tensor:
    """The scores of an attention branch's tokens, float32 [B, T].

    Its linears are run once more: the module itself gives only its output.
    """
    if rule.score not in OF_ATTENTION:
        # Made or drawn when they are read.
        return state.x.new_zeros(state.x.shape[:2]).float()
    assert model.fusable is not None
    branch = model.fusable.branches[name]
    assert isinstance(branch.inner, FusableAttention)
    h = branch.norm(state.x)
    if branch.first is not None:
        shift, scale = state.modulation[branch.first : branch.first + 2]
        h = h * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
    return scored_attention(branch.inner, h, rule)[1]


def scored_attention(
    attention: FusableAttention, h: Tensor, rule: TokenRule
) -> tuple[Tensor, Tensor]:
    """What the heads give, and the tokens' scores.

    Shapes: h [B, T, D] -> [B, heads, T, head dim], float32 [B, T].
    """
    q, k, v = heads_of(attention, h)
    if rule.score == "attention":
        # The map itself is needed, which no fused attention gives.
        received = torch.softmax(q @ k.transpose(-2, -1) * attention.scale, dim=-1)
        return received @ v, attention_scores(received)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    return mixed, value_norm_scores(v)


def heads_of(attention: FusableAttention, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values.  Shapes: h [B, T, D] -> three [B, heads, T, head dim]."""
    rows, tokens, _ = h.shape
    if len(attention.inputs) == 1:
        packed = attention.inputs[0](h).view(rows, tokens, 3, attention.heads, -1)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    else:
        q, k, v = (
            linear(h).view(rows, tokens, attention.heads, -1).transpose(1, 2)
            for linear in attention.inputs
        )
    return q, k, v


def why_no_kernel(model: BoundModel, rule: TokenRule) -> str:
    """Why no GPU kernel chooses these tokens; empty where one does."""
    tokens = model.program.tokens
    if rule.score in OF_STREAM:
        return f"no kernel scores tokens by {rule.score!r}"
    if rule.score == "random":
        return "scores by lot are drawn on the host, and tokens chosen there"
    if tokens > MAX_TOKENS:
        return f"{tokens} tokens, and the kernel that chooses among them takes {MAX_TOKENS}"
    inners = () if model.fusable is None else [b.inner for b in model.fusable.branches.values()]
    heads = {i.proj.in_features // i.heads for i in inners if isinstance(i, FusableAttention)}
    odd = [head for head in heads if head % 8 or head > 128]
    if odd and rule.score == "attention":
        return (
            f"heads of {odd[0]} columns, and the kernel that sums the attention map takes "
            'multiples of 8 up to 128; cache_type="kv-norm" takes any'
        )
    return ""
