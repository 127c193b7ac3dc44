"""What is compared: methods under their names, and the controls of equal compute."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial

import numpy as np
from torch import Tensor

from l2c_rt.api import Schedulable
from l2c_rt.families import FAMILIES, cached_evaluations
from l2c_rt.policies import EveryN, NoisiestFirst, Random
from l2c_rt.policies.router import Router
from l2c_rt.resolve import read_spec
from l2c_rt.schedule.cache_schedule import CacheSchedule

Method = Schedulable | Sequence[Schedulable]
"""What `compile` takes, or a list of such: the settings of one method."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A method under its name, with options of `compile` of its own."""

    name: str
    method: Method
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvenlySpread:
    """Every-N's shape at any share: reuses round(reuse * cells) branches, as EveryN.like says."""

    reuse: float

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        rows = tuple(range(1, steps))
        return EveryN.like(NoisiestFirst(self.reuse, rows).schedule(steps, branches))


def entries_of(
    methods: Mapping[str, Method] | Sequence[Method | Entry], where: str = "compare"
) -> tuple[Entry, ...]:
    """The methods with a name each: given, or that of the class, file or preset.

    Raises ValueError where there are none or two have one name.
    """
    if isinstance(methods, Mapping):
        entries = [Entry(name, method) for name, method in methods.items()]
    elif isinstance(methods, str) or not isinstance(methods, Sequence):
        raise TypeError(f"{where}: methods is {methods!r:.60}, wanted a list or mapping of methods")
    else:
        entries = [m if isinstance(m, Entry) else Entry(_name_of(m), m) for m in methods]
    if not entries:
        raise ValueError(f"{where}: no methods, wanted at least one")
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1 or name == "full":
            raise ValueError(
                f"{where}: two methods are named {name!r}; give a mapping of names to methods"
            )
    return tuple(Entry(e.name, _read(e.method), e.options) for e in entries)


def controls(schedule: CacheSchedule, seed: int) -> tuple[Entry, ...]:
    """Reuse at random, evenly spread and of the noisiest evaluations, as a schedule's family may.

    Random and noisiest-first reuse at the evaluations that the schedule or its family may cache.
    """
    reusing = np.flatnonzero(~schedule.compute.all(axis=1)).tolist()
    family = schedule.family if schedule.family in FAMILIES else ""
    rows = tuple(sorted({*cached_evaluations(schedule.steps, family), *reusing}))
    return (
        Entry("random", Random(0.5, seed, rows)),
        Entry("every-N", EvenlySpread(0.5)),
        Entry("noisiest first", NoisiestFirst(0.5, rows)),
    )


def equal_compute(name: str, seed: int) -> Mapping[str, Callable[[CacheSchedule], CacheSchedule]]:
    """The schedule itself under `name`, then controls with as many computed branches."""
    return {
        name: lambda schedule: schedule,
        "random": partial(Random.like, seed=seed),
        "every-N": EveryN.like,
        "noisiest first": NoisiestFirst.like,
    }


def identity(value: object) -> object:
    """A value as plain JSON that is equal where the values do the same, for a digest."""
    if isinstance(value, CacheSchedule):
        return ["schedule", value.digest]
    if isinstance(value, Router):
        parts = (value.logits, value.coefficients, value.fitted)
        return ["router", value.steps, *map(identity, parts)]
    if isinstance(value, np.ndarray | Tensor):
        content = np.ascontiguousarray(value.numpy() if isinstance(value, Tensor) else value)
        return [str(content.dtype), *content.shape, hashlib.sha256(content.tobytes()).hexdigest()]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {f.name: identity(getattr(value, f.name))
                                       for f in fields(value)}]  # fmt: skip
    if isinstance(value, Mapping):
        return {str(key): identity(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [identity(part) for part in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def _read(method: Method) -> Method:
    if isinstance(method, list | tuple):
        if not method:
            raise ValueError("compare: a method's list of settings is empty")
        return [read_spec(setting) for setting in method]
    read: Method = read_spec(method)
    return read


def _name_of(method: object) -> str:
    first = method[0] if isinstance(method, list | tuple) and method else method
    return first if isinstance(first, str) else type(first).__name__
