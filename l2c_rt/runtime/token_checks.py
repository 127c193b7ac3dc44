"""Whether a model can run a schedule that chooses tokens."""

from __future__ import annotations

from dataclasses import replace

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.token_choice import CELL, grid_side
from l2c_rt.backends.token_scores import why_no_kernel
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.tokens import OF_ATTENTION


def with_tokens(model: BoundModel, schedule: CacheSchedule) -> BoundModel:
    """The model as a schedule with tokens runs it.

    Raises ValueError, with the remedy, for a model that has no tokens to choose.
    """
    if schedule.tokens is None:
        return model
    rule, kind = schedule.tokens.rule, type(model.model).__name__
    if model.open_stage is not None:
        why = model.refused or "it runs its own forward, whose MLPs are called as a whole"
        raise ValueError(
            f"compile: {kind} cannot compute some tokens of a branch: {why}; use a method that "
            "reuses whole outputs, such as FORA or TaylorSeer"
        )
    if model.fusable is None and rule.score in OF_ATTENTION:
        raise ValueError(
            f"compile: the score {rule.score!r} reads queries, keys and values, but "
            f"{model.why_not_fusable}; choose tokens with cache_type='norm'"
        )
    side = grid_side(model.program.tokens)
    if rule.bonus and (side == 0 or side % CELL):
        raise ValueError(
            f"compile: a bonus is for cells of {CELL} x {CELL} tokens, and {kind} has "
            f"{model.program.tokens} tokens, {side or 'not'} a side; give bonus=0"
        )
    return replace(model, unfused_on_gpu=why_no_kernel(model, rule))
