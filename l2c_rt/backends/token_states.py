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

Choose = Callable[[Tensor, Tensor, TokenRule, int], Tensor]
"""`token_choice.choose`, or one that chooses the same."""

SCORES, AGES = 0, 1
STREAM = ValueKey(-1, 0)


def begin_ages(states: TokenStates, op: Scored, scores: Tensor, evaluation: Evaluation) -> None:
    """A block was computed as a whole: keep its tokens' scores [B, T]; all ages are 0."""
    values, alike = evaluation.slots.values, 2 * len(states.branches)
    values.keep(ValueKey(op.state, SCORES), scores, alike, may_change=True)
    values.keep(ValueKey(op.state, AGES), torch.zeros_like(scores), alike, may_change=True)


def chosen_tokens(
    states: TokenStates, op: Refresh, evaluation: Evaluation, choose: Choose
) -> Tensor:
    """The tokens that are computed now, int64 [B, tokens]; the others grow older."""
    values = evaluation.slots.values
    scores = values.get(ValueKey(op.state, SCORES))
    ages = values.get(ValueKey(op.state, AGES))
    if op.tokens and states.rule.score in OF_STREAM:
        kept = evaluation.slots.load(op.slot)
        scores = stream_scores(states.rule.score, evaluation.state.x, kept)
    if states.rule.score == "random":
        scores = drawn_scores(states.rule, evaluation.step, op.state, scores)
    chosen = choose(scores, ages, states.rule, op.tokens)
    values.keep(ValueKey(op.state, AGES), (ages + 1).scatter(1, chosen, 0.0), 1, may_change=True)
    return chosen


def keep_stream(values: KeptValues, x: Tensor) -> None:
    values.keep(STREAM, x, 1, may_change=True)


def kept_stream(values: KeptValues) -> Tensor:
    """Where it is kept: nothing but the model's last layers comes after it.

    Raises ValueError where those have written to it.
    """
    stream: Tensor = values.get(STREAM)
    return stream
