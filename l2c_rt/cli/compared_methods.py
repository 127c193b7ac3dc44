"""The methods of `l2c-rt compare`: a router at its cuts, its controls, and methods by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cached_property, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from l2c_rt import methods, policies
from l2c_rt.cli.exits import refuse
from l2c_rt.cli.sources import Source, Threshold

if TYPE_CHECKING:
    from torch import nn

    from l2c_rt.comparison.methods import Entry
    from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True)
class Cuts:
    """A router or schedule, and the shares at which it is compared: of reuse, or of compute."""

    origin: Source
    reuses: tuple[float, ...] | None
    compute: tuple[float, ...] | None

    def __post_init__(self) -> None:
        if self.reuses is not None and self.compute is not None:
            refuse("--compute", "give --compute or --reuse, not both")

    @cached_property
    def schedules(self) -> list[CacheSchedule]:
        """The cut as published, or at every share of reuse."""
        if self.reuses is None:
            return [self.origin.schedule(Threshold())]
        return [
            self.origin.schedule(Threshold(reuse=share)) for share in dict.fromkeys(self.reuses)
        ]

    def entries(self, seed: int) -> list[Entry]:
        """The router or schedule, and its controls."""
        from l2c_rt.comparison.methods import Entry, controls

        name = "this schedule" if self.origin.kind.endswith("schedule") else "learned"
        router = self.origin.router if self.compute is not None else None
        return [Entry(name, router or self.schedules), *controls(self.schedules[0], seed)]

    def shares(self, model: nn.Module) -> tuple[float, ...]:
        """The shares of the full run's arithmetic: given, or those of the schedules."""
        from l2c_rt.api import compile

        if self.compute is not None:
            return self.compute
        limits = [compile(model, schedule).cost.speedup_limit for schedule in self.schedules]
        return tuple(1 / limit for limit in limits)


def named_method(text: str) -> Entry:
    """The method that NAME:FIELD=VALUE,... names; values are Python's literals, or words."""
    from l2c_rt.comparison.methods import Entry

    made = _made("--method", text, {**_classes(policies), **_published()})
    return Entry(text, made)


def corrected(text: str, entry: Entry) -> Entry:
    """A method with the corrector that NAME:FIELD=VALUE,... names."""
    from l2c_rt import correctors
    from l2c_rt.comparison.methods import Entry

    made = _made("--corrector", text, _classes(correctors))
    return Entry(f"{entry.name} + {text}", entry.method, {**entry.options, "corrector": made})


def _made(option: str, text: str, makers: Mapping[str, Any]) -> Any:
    name, _, rest = text.partition(":")
    fields: dict[str, Any] = {}
    # A comma within brackets belongs to a value.
    for part in filter(None, re.split(r",(?![^(\[]*[)\]])", rest)):
        key, equals, value = part.partition("=")
        if not equals:
            refuse(option, f"{part} is no FIELD=VALUE")
        fields[key.strip()] = _literal(value.strip())
    known = {key.lower(): key for key in makers}
    if name.lower() not in known:
        refuse(option, f"{name} is none of {', '.join(makers)}")
    try:
        return makers[known[name.lower()]](**fields)
    except (TypeError, ValueError) as error:
        refuse(option, f"{text}: {error}")


def _classes(module: ModuleType) -> dict[str, Any]:
    """The classes of a package, by name; its protocols make nothing."""
    classes = {name: getattr(module, name) for name in module.__all__ if name[0].isupper()}
    return {name: kind for name, kind in classes.items() if is_dataclass(kind)}


def _published() -> dict[str, Any]:
    """The methods by the names that `rt.compile` takes."""
    return {name: partial(methods.named, name) for name in methods.names()}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
