"""The scores of a block's tokens, from the input that its attention is given."""

from __future__ import annotations

from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, FusableAttention, State
from l2c_rt.backends.token_choice import attention_scores, value_norm_scores
from l2c_rt.schedule.tokens import TokenRule


def branch_scores(model: BoundModel, name: str, state: State, rule: TokenRule) -> Tensor:
    """The scores of an attention branch's tokens, float32 [B, T].

    Its linears are run once more: the module itself gives only its output.
    """
    if rule.score == "random":
        # Drawn when they are read.
        return state.x.new_zeros(state.x.shape[:2]).float()
    assert model.fusable is not None
    branch = model.fusable.branches[name]
    assert isinstance(branch.inner, FusableAttention)
    h = branch.norm(state.x)
    if branch.first is not None:
        shift, scale = state.modulation[branch.first : branch.first + 2]
        h = h * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
    q, k, v = heads_of(branch.inner, h)
    if rule.score == "attention":
        return attention_scores(q, k, branch.inner.scale)
    return value_norm_scores(v)


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
