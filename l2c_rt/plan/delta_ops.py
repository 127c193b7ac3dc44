"""Ops of the delta form: an evaluation counted as its difference to an earlier one, the base.

Where no branch has a gate, a branch that both evaluations add alike leaves the difference as it is,
and long skips act on it by their weights alone.  So nothing reused is read, and what several long
skips do one after the other is one sum of a few products.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeepAt:
    """In a base: keep the residual stream as it is here in `slot`."""

    slot: int


@dataclass(frozen=True, slots=True)
class ToDelta:
    """Take away what the base kept of the stream here, in `slot`: the delta is left."""

    slot: int


@dataclass(frozen=True, slots=True)
class FromDelta:
    """Add what the base kept of the stream here, in `slot`: the stream again."""

    slot: int


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Leave the delta as it is: the base added the same of this branch."""

    branch: str


@dataclass(frozen=True, slots=True)
class LinearParts:
    """Run neighbouring long skips on the delta, without their biases.

    `skips[j]` is the first node of this evaluation that kept the delta which `nodes[j]` takes from
    its long skip, and `source` the one that kept the delta as it is here, if any did: by them a
    backend knows equal deltas.
    """

    nodes: tuple[str, ...]
    skips: tuple[str, ...]
    source: str | None

    @property
    def deltas(self) -> tuple[str | None, ...]:
        """The distinct deltas that are read, each by one product: that which is here, and those
        that were kept."""
        return tuple(dict.fromkeys((self.source, *self.skips)))


DeltaOp = KeepAt | ToDelta | FromDelta | Unchanged | LinearParts
"""What a plan in the delta form has beside the ops of every other."""


def place_name(node: str) -> str:
    """The owner of a slot for the residual stream as it is after a node."""
    return f"x after {node}"
