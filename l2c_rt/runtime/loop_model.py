"""A module that stands for a model in a user's own loop and knows the place of every call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import nn

from l2c_rt.adapters.model_view import ModelView, view_of
from l2c_rt.runtime.cache_context import Announcement, StepHints

if TYPE_CHECKING:
    from typing_extensions import Self


class Place(NamedTuple):
    """A call: one of several calls per evaluation, and the evaluation, from 0 on."""

    lane: int
    step: int


OnCall = Callable[[Place, tuple[Any, ...], dict[str, Any]], Any]
"""(place, args, kwargs) of a call -> what the loop is given."""


class LoopModel(ModelView):
    """Of the model's own class; its calls go to a function, which torch.compile leaves alone.

    Each of several calls per evaluation has a count of its own.  Names of `cache_context` tell them
    apart; without names they take turns.
    """

    __slots__ = ("_counts", "_hints", "_on_call")

    def __new__(cls, model: nn.Module, calls_per_step: int, on_call: OnCall) -> Self:
        return view_of(model, cls)

    def __init__(self, model: nn.Module, calls_per_step: int, on_call: OnCall) -> None:
        self._counts = [0] * calls_per_step
        self._hints = StepHints(calls_per_step)
        # A loop that is compiled by torch breaks its graph here.
        self._on_call = torch.compiler.disable(on_call)  # type: ignore[no-untyped-call]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        lane = self._lane()
        self._counts[lane] += 1
        return self._on_call(Place(lane, self._counts[lane] - 1), args, kwargs)

    def begin_run(self) -> None:
        """Count from 0 on."""
        self._counts = [0] * len(self._counts)
        self._hints.names.begin_run()

    @property
    def counts(self) -> tuple[int, ...]:
        """The calls since the run began, for each of the calls per evaluation."""
        return tuple(self._counts)

    def cache_context(self, name: str | None, **keywords: Any) -> AbstractContextManager[None]:
        """diffusers' way of naming one of several calls per evaluation."""
        return self._hints.context(Announcement.of(name, **keywords))

    def _lane(self) -> int:
        if len(self._counts) == 1:
            return 0
        named = self._hints.current(None).lane
        return sum(self._counts) % len(self._counts) if named is None else named

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        """What diffusers' pipelines call after their loop."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a model in a loop is not copied or pickled: copy the model itself")

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(None)

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)
