"""What a lane keeps beside its slots: scores and ages of tokens, and the residual stream."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.token_choice import drawn_scores, stream_scores
from l2c_rt.memory.kept_values import KeptValues, ValueKey
from l2c_rt.plan.stream_ops import TokenStates
from l2c_rt.plan.tokens import Refresh, Scored
from l2c_rt.schedule.tokens import OF_STREAM, TokenRule

Choose = Callable[[Tensor, Tensor, TokenRule, int], tuple[Tensor, Tensor]]
"""`token_choice.choose_and_age`, or one that does the same and may write the ages in place, where
PyTorch does not count it."""

STREAM = ValueKey(-1, 0)


def begin_ages(states: TokenStates, op: Scored, fresh: Tensor, evaluation: Evaluation) -> None:
    """A block was computed as a whole: keep its tokens' scores and ages, [2, B, T]."""
    values, alike = evaluation.slots.values, len(states.branches)
    values.keep(ValueKey(op.state, 0), fresh, alike, may_change=True)


def chosen_tokens(
    states: TokenStates, op: Refresh, evaluation: Evaluation, choose: Choose
) -> Tensor:
    """The tokens that are computed now, int64 [B, tokens]; the others grow older."""
    values = evaluation.slots.values
    kept_scores, ages = values.get(ValueKey(op.state, 0))
    scores = kept_scores
    if op.tokens and states.rule.score in OF_STREAM:
        kept = evaluation.slots.load(op.slot)
        scores = stream_scores(states.rule.score, evaluation.state.x, kept)
    if states.rule.score == "random":
        scores = drawn_scores(states.rule, evaluation.step, op.state, scores)
    chosen, older = choose(scores, ages, states.rule, op.tokens)
    if older is not ages:
        both = torch.stack([kept_scores, older])
        values.keep(ValueKey(op.state, 0), both, 1, may_change=True)
    return chosen


def keep_stream(values: KeptValues, x: Tensor) -> None:
    values.keep(STREAM, x, 1, may_change=True)


def kept_stream(values: KeptValues) -> Tensor:
    """Where it is kept: nothing but the model's last layers comes after it.

    Raises ValueError where those have written to it.
    """
    stream: Tensor = values.get(STREAM)
    return stream
