"""How much of a forward is run where a method decides inside of it."""

from __future__ import annotations

from enum import Enum, auto

from l2c_rt.backends.graphs.capture_watch import NotRepeatableError


class SeenError(BaseException):
    """What was to be observed has been, and no more of the forward is needed.

    No Exception, which the model's code may catch.
    """


class ReusedBeforeError(NotRepeatableError):
    """What is observed comes after blocks that may be reused."""


class Mode(Enum):
    """How much of a forward is run: all, with the decision inside; up to the observation; or all,
    where the row is known, with what has been run up to the observation taken from there."""

    ALL = auto()
    LOOK = auto()
    REST = auto()
