"""The names of a U-Net's branches: shell-0 is the outermost, "mid" lies inside all shells."""

from __future__ import annotations

from collections.abc import Sequence

MID = "mid"


def shell_names(count: int, *, mid: bool) -> tuple[str, ...]:
    """The branches of a U-Net with `count` skips."""
    return (*(f"shell-{q}" for q in range(count)), *((MID,) if mid else ()))


def is_of_shells(branches: Sequence[str]) -> bool:
    """Whether a schedule's branches are those of a U-Net."""
    mid = bool(branches) and branches[-1] == MID
    return len(branches) > mid and tuple(branches) == shell_names(len(branches) - mid, mid=mid)
