"""Which share of a branch's tokens is computed anew where the branch is not computed as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

OF_ATTENTION = ("attention", "kv-norm")
"""By the attention that tokens get, and by their values' norms, at the last full computation."""
OF_STREAM = ("similarity", "norm")
"""By how far a token is from the output that is kept for it, and by its norm, both as it is now."""
SCORES = (*OF_ATTENTION, *OF_STREAM, "random")
"""How tokens are told apart; "random" is by lot."""
NOT_CHOSEN = -1.0


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Tokens of the highest score + `age_weight` * age / `age_unit` are chosen.

    `score` is one of `SCORES`; age is the number of evaluations since the token was computed.  In
    each cell of 2 x 2 tokens the best one's sum is multiplied by 1 + `bonus`; with a bonus of 0
    there are no cells.  `seed` is that of the score "random".
    """

    score: str
    age_weight: float
    age_unit: float
    bonus: float
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TokenSchedule:
    """Beside a schedule's table: S evaluations of K branches.

    Shapes: shares float32 [S, K], in 0..1 where that share of the tokens is computed and the others
    are reused, -1 elsewhere; restored bool [S, K], True for the last branches of an evaluation that
    are passed over, with what the residual stream was after them at the evaluation before in place
    of what it would be.  Both are kept as read-only copies.
    Raises ValueError where a table is not what it says above.
    """

    shares: npt.NDArray[np.float32]
    restored: npt.NDArray[np.bool_]
    rule: TokenRule

    def __post_init__(self) -> None:
        shares = np.array(self.shares, np.float32)
        restored = np.array(self.restored, np.bool_)
        if shares.ndim != 2 or shares.shape != restored.shape:
            raise ValueError(
                f"tokens: shares {shares.shape} and restored {restored.shape}, wanted [S, K] both"
            )
        if not np.all((shares == NOT_CHOSEN) | ((shares >= 0) & (shares <= 1))):
            raise ValueError("tokens: shares must be in 0..1, or -1 where no tokens are chosen")
        if np.any(restored & (shares >= 0)):
            raise ValueError("tokens: a branch that is passed over has no tokens to choose")
        if np.any(restored[:, :-1] & ~restored[:, 1:]) or np.any(restored[0]):
            raise ValueError(
                "tokens: from a restored branch on, all others of its evaluation are restored too, "
                "and none at evaluation 0"
            )
        shares.flags.writeable = restored.flags.writeable = False
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "restored", restored)

    def check_table(self, compute: npt.NDArray[np.bool_]) -> None:
        """Raise ValueError where a table [S, K] of what is computed as a whole does not fit."""
        if compute.shape != self.shares.shape:
            raise ValueError(f"tokens: shares {self.shares.shape}, compute is {compute.shape}")
        if np.any(compute & ((self.shares >= 0) | self.restored)):
            raise ValueError("tokens: a branch is computed as a whole, or else some of its tokens")

    def counts(self, tokens: int) -> npt.NDArray[np.int64]:
        """How many of `tokens` are computed, rounded down in float32; -1 where none are chosen.

        Shapes: [S, K].
        """
        counts = (self.shares * np.float32(tokens)).astype(np.int64)
        return np.where(self.shares < 0, -1, counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenSchedule):
            return NotImplemented
        same = np.array_equal(self.shares, other.shares)
        return same and np.array_equal(self.restored, other.restored) and self.rule == other.rule

    def __hash__(self) -> int:
        return hash((self.shares.tobytes(), self.restored.tobytes(), self.rule))
