"""First-Block-Cache: the first block tells whether the others are computed."""

from __future__ import annotations

from dataclasses import dataclass

from l2c_rt.methods.checks import check_number
from l2c_rt.methods.deciding import Deciding, rows_from
from l2c_rt.plan.decisions import At, Cut, Look, ModelFacts
from l2c_rt.plan.dynamic import Rows


@dataclass(frozen=True, slots=True)
class FirstBlockCache(Deciding):
    """Skips all blocks but the first where what the first one adds has changed by at most
    `threshold`, as mean |r - r'| / mean |r'| over the batch, r' being that of the last computed
    evaluation of the same call.

    Kept: what the other blocks add, per stream, and r'.  Needs: nothing.
    Source: ParaAttention; diffusers, FirstBlockCacheConfig.
    """

    threshold: float = 0.05

    def __post_init__(self) -> None:
        check_number("FirstBlockCache: threshold", self.threshold, 0)

    def cut(self, facts: ModelFacts) -> Cut:
        return Cut(Look("added", facts.blocks[0], against="computed"))

    def rows(self, branches: tuple[str, ...]) -> Rows:
        return rows_from(branches, first=1, last=0)

    def choose(self, state: None, at: At, metric: float) -> int:
        return int(metric <= self.threshold)
