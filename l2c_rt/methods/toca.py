"""ToCa and DuCa: between full evaluations the MLPs compute the tokens that matter most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from l2c_rt.policies.policy import BoolArray, full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.tokens import NOT_CHOSEN, SCORES, TokenRule, TokenSchedule

INTERVAL_SLOPE = 0.4


MLP_FACTOR = 2.5


def _ddim50(block: float, left: float, phase: float) -> float:
    return (0.8 + 0.4 * block) * (3 - 4 * left) * MLP_FACTOR


def _ddpm250(block: float, left: float, phase: float) -> float:
    return (1.8 - 1.6 * block) * (1.4 - 0.8 * left) * MLP_FACTOR


RATIO_SCHEDULERS: Mapping[str, Callable[[float, float, float], float]] = {
    "ToCa-ddim50": _ddim50,
    "ToCa": _ddim50,
    "ToCa-ddpm250": _ddpm250,
    "linear-layerwise": _ddpm250,
    "constant": lambda block, left, phase: 1.0,
    "linear": lambda block, left, phase: 1.9 - 1.8 * left,
    "linear-mode": lambda block, left, phase: 1.9 - 1.8 * left + 0.1 * (phase - 0.5),
    "exp": lambda block, left, phase: 0.9**left,
    "layerwise": lambda block, left, phase: 1.9 - 1.8 * block,
}
"""By name, the factor of a block at depth 0..1 with a share 0..1 of the run left, and `phase`, what
is left beyond a multiple of the threshold, as a share 0..1 of it."""


@dataclass(frozen=True, slots=True)
class TokenCaching:
    """The fields that both methods have; the defaults are ToCa's."""

    fresh_threshold: int = 3
    fresh_ratio: float = 0.07
    ratio_scheduler: str = "ToCa-ddim50"
    soft_fresh_weight: float = 0.25
    cache_type: str = "attention"
    bonus: float = 0.6
    seed: int = 0

    aggressive: ClassVar[bool] = False
    """Whether some evaluations run no block at all."""

    def __post_init__(self) -> None:
        _check(self)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        return _schedule(self, steps, branches)


@dataclass(frozen=True, slots=True)
class ToCa(TokenCaching):
    """Token-wise caching: attention is reused, and of the MLP's tokens only some are computed.

    Between full evaluations every block adds the attention output that it kept, and computes its
    MLP for the k tokens of the highest score; their outputs replace those kept, and all are added
    with the current gate.  The score is s + soft_fresh_weight * age / fresh_threshold, where s is
    the attention that a token got ("attention": column sums of the softmax map), or
    sum over heads of 1 - |v| ("kv-norm"), at the block's last full computation; or, of the token x
    as it comes to the MLP, 1 - cos(x, its kept output) ("similarity") or |x| ("norm"); each divided
    by its 2-norm over the tokens; or is drawn ("random", the same for both halves of the batch).
    In each 2 x 2 cell the best token's score is multiplied by 1 + bonus.  k is
    fresh_ratio * 2.5 * (0.8 + 0.4 depth) * (3 - 4 left) of the tokens, with the block's depth in
    0..1 and `left`, the share of the run that is left; for "ToCa-ddpm250"
    (1.8 - 1.6 depth) * (1.4 - 0.8 left); the program's other schedules ("constant", "linear",
    "linear-mode", "exp", "layerwise", "linear-layerwise") are in `RATIO_SCHEDULERS`.  Each image of
    a batch has its own tokens.
    An evaluation is full at the start of the run, and where the number of those left is a multiple
    of an interval that is set anew after every full one: fresh_threshold / (1.4 - 0.8 left),
    rounded, and 2 for `left` in 0.2 .. 0.4.  As published, every block reads it, so that the first
    block may be full by the interval before and the others not by the one that it has set.
    With a ratio of 0 it is FORA, and the interval constant.

    Keeps: the outputs of all branches, and a score and an age per token and block.
    Needs: DiT or U-ViT with plain attention, and for a bonus an even square of tokens.  The
    published ratios are for 28 blocks; here a block's depth is its place among the model's own.
    Raises ValueError for values out of range; `schedule` for branches that are not attn, mlp.
    Source: ToCa, arXiv 2410.05317; github Shenyi-Z/ToCa.
    """


@dataclass(frozen=True, slots=True)
class DuCa(TokenCaching):
    """Dual caching: of the evaluations between full ones every other runs no block at all.

    As `ToCa`, except that where an odd number of evaluations is left until the next multiple of the
    interval, tokens are computed, and where it is even ("aggressive") all blocks are passed over:
    what goes into the final layer is what went into it at the evaluation before.  Where the first
    block alone is full, it is computed and kept, and its output is not used.

    Keeps: what ToCa keeps, and the stream after the last block.  Needs: as `ToCa`.
    Raises: as `ToCa`.
    Source: DuCa, arXiv 2412.18911; github Shenyi-Z/DuCa.
    """

    fresh_ratio: float = 0.05
    ratio_scheduler: str = "ToCa"
    bonus: float = 0.8

    aggressive: ClassVar[bool] = True


FULL, PARTIAL, AGGRESSIVE = 0, 1, 2


def _kinds(method: TokenCaching, steps: int, blocks: int) -> np.ndarray:
    """FULL, PARTIAL or AGGRESSIVE.  Shapes: [S, blocks]."""
    kinds = np.full((steps, blocks), FULL, np.int8)
    interval = method.fresh_threshold
    for evaluation in range(steps):
        left = steps - 1 - evaluation
        for block in range(blocks):
            rest = 0 if evaluation == 0 else left % interval
            if rest:
                odd = rest % 2 == 1
                kinds[evaluation, block] = AGGRESSIVE if method.aggressive and not odd else PARTIAL
            elif block == 0:
                interval = _interval(method, left, steps)
    return kinds


def _interval(method: TokenCaching, left: int, steps: int) -> int:
    """The interval from an evaluation on that is full, with `left` evaluations after it."""
    if method.fresh_ratio == 0:
        return method.fresh_threshold
    if int(0.2 * steps) <= left < int(0.4 * steps):
        return 2
    slope = INTERVAL_SLOPE
    divisor = np.float32(1 + slope - 2 * slope * left / steps)
    return max(int(np.rint(np.float32(method.fresh_threshold) / divisor)), 1)


def _schedule(method: TokenCaching, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
    compute = full_table(steps, branches)
    blocks = _blocks(type(method).__name__, branches)
    kinds = _kinds(method, steps, blocks)
    compute[:] = np.repeat(kinds == FULL, 2, axis=1)
    shares = np.full(compute.shape, NOT_CHOSEN, np.float32)
    shares[:, 1::2] = np.where(kinds == PARTIAL, _shares(method, steps, blocks), NOT_CHOSEN)
    restored = np.repeat(_restored(kinds), 2, axis=1)
    rule = TokenRule(
        method.cache_type, method.soft_fresh_weight, method.fresh_threshold, method.bonus,
        method.seed,
    )  # fmt: skip
    return CacheSchedule(
        compute, branches, source=f"{method}", tokens=TokenSchedule(shares, restored, rule)
    )


def _shares(method: TokenCaching, steps: int, blocks: int) -> np.ndarray:
    """The share of the MLP's tokens that a partial block computes.  Shapes: float32 [S, blocks]."""
    factor = RATIO_SCHEDULERS[method.ratio_scheduler]
    deepest, n = max(blocks - 1, 1), method.fresh_threshold
    shares = [
        [factor(b / deepest, left / steps, left % n / n) for b in range(blocks)]
        for left in reversed(range(steps))
    ]
    return np.clip(np.array(shares) * method.fresh_ratio, 0, 1).astype(np.float32)


def _restored(kinds: np.ndarray) -> BoolArray:
    """From the first aggressive block of an evaluation on; the last one puts the stream back."""
    restored: BoolArray = np.logical_or.accumulate(kinds == AGGRESSIVE, axis=1)
    return restored


def _blocks(name: str, branches: tuple[str, ...]) -> int:
    blocks = len(branches) // 2
    wanted = tuple(f"{kind}-{b}" for b in range(blocks) for kind in ("attn", "mlp"))
    if branches != wanted:
        raise ValueError(
            f"{name}: the model's branches are {', '.join(branches[:4])}, ..., wanted attn-0, "
            "mlp-0, attn-1, ... as DiT and U-ViT have them; for this model use a method that "
            "reuses whole outputs, such as FORA or TaylorSeer"
        )
    return blocks


def _check(method: TokenCaching) -> None:
    name = type(method).__name__
    n = method.fresh_threshold
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{name}: fresh_threshold is {n!r:.40}, wanted an int of at least 1")
    for field, low, high in (
        ("fresh_ratio", 0, 1), ("soft_fresh_weight", 0, np.inf), ("bonus", 0, np.inf),
    ):  # fmt: skip
        value = getattr(method, field)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high or value == np.inf:
            raise ValueError(f"{name}: {field} is {value!r:.40}, wanted a number in {low}..{high}")
    for field, known in (("ratio_scheduler", RATIO_SCHEDULERS), ("cache_type", SCORES)):
        if getattr(method, field) not in tuple(known):
            raise ValueError(
                f"{name}: {field} is {getattr(method, field)!r:.40}, wanted one of "
                f"{', '.join(known)}"
            )
    if isinstance(method.seed, bool) or not isinstance(method.seed, int) or method.seed < 0:
        raise ValueError(f"{name}: seed is {method.seed!r:.40}, wanted an int of at least 0")
