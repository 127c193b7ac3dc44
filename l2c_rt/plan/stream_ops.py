"""Ops on the residual stream and on the batch: what is done beside running the nodes."""

from __future__ import annotations

from dataclasses import dataclass

from l2c_rt.schedule.tokens import TokenRule


@dataclass(frozen=True, slots=True)
class TokenStates:
    """Beside the slots: state i holds a score and an age for each token of `branches[i]`.

    `rule` says how tokens are chosen by them.
    """

    branches: tuple[str, ...]
    rule: TokenRule


@dataclass(frozen=True, slots=True)
class KeepStream:
    """Keep the residual stream as it is here."""


@dataclass(frozen=True, slots=True)
class RestoreStream:
    """Pass over `nodes`, of which `branches` are branches: the stream is what was kept of it."""

    nodes: tuple[str, ...]
    branches: int


@dataclass(frozen=True, slots=True)
class PassedOver:
    """One node of a `RestoreStream`, where a step is taken apart."""

    node: str


@dataclass(frozen=True, slots=True)
class HalveBatch:
    """From here on only the conditional half of the batch is run."""


@dataclass(frozen=True, slots=True)
class JoinHalves:
    """Give both halves of the output, of which the unconditional one is made of the conditional.

    With `bands`, what they differed by is added, its low and high frequencies times these.
    """

    low: float
    high: float
    bands: bool


@dataclass(frozen=True, slots=True)
class KeepBands:
    """Keep by what the spectra of both halves of the output differ."""


BatchOp = HalveBatch | JoinHalves | KeepBands
"""What is done with a batch of two halves, before and after the nodes."""
