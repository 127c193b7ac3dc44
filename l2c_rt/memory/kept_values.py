"""Outputs of any shape, kept at fixed addresses: tensors, or tuples and lists of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2c_rt._C import Arena
from l2c_rt.memory.arena import SlotMemory, used_now

Size = tuple[int, torch.dtype]
"""Number of elements and dtype of a tensor."""


class ValueKey(NamedTuple):
    """Whose output: the slot, and which call of the evaluation, where there are several."""

    slot: int
    call: int


@dataclass(slots=True)
class _Arena:
    """Memory for tensors of one (number of elements, dtype, device), and its unused slots."""

    kind: tuple[int, torch.dtype, torch.device]
    memory: SlotMemory
    free: list[Tensor]


class _Home(NamedTuple):
    """One slot of an arena, one-dimensional."""

    arena: _Arena
    flat: Tensor


@dataclass(slots=True)
class _Kept:
    """A value's tensors at their addresses; `container` is None for a bare tensor.

    `parts` are those of a container: tensors, and whatever else stood among them.
    `versions` are the tensors' counts of writes just after the last `keep`.
    """

    tensors: tuple[Tensor, ...]
    container: type | None
    parts: tuple[Any, ...]
    versions: tuple[int, ...]
    homes: list[_Home]


class KeptValues:
    """Values by key.  Tensors of one size and dtype lie together in few arenas.

    `on_taken` is called whenever memory is taken; `moves` counts when addresses, which graphs hold,
    may have become others'.
    """

    def __init__(self, on_taken: Callable[[], None] = lambda: None) -> None:
        self.moves = 0
        self._on_taken = on_taken
        self._kept: dict[ValueKey, _Kept] = {}
        self._arenas: list[_Arena] = []
        self._addresses: set[int] = set()
        self._expected: Mapping[Size, int] = {}

    def expect(self, counts: Mapping[Size, int]) -> None:
        """From now on as many tensors of each size are kept as `counts` says; where that is news,
        all values are forgotten."""
        if counts != self._expected:
            used_now(self.arenas)
            self._kept.clear()
            self._arenas.clear()
            self._addresses.clear()
            self._expected = counts
            self.moves += 1

    def keep(
        self,
        key: ValueKey,
        value: object,
        alike: int,
        *,
        may_change: bool,
        bases: Sequence[Tensor | None] = (),
    ) -> None:
        """Copy a value to its address; of a part with a base, their difference.

        `alike` is how many values like this one there will be, this one included, where `expect`
        has not said it: memory is taken for all of them at once.  Raises TypeError for a value that
        is not made of tensors, and ValueError where shapes or dtypes are not those of before,
        unless they `may_change`, or not those of the base.
        """
        container, parts = _parts(value)
        tensors = tuple(part for part in parts if isinstance(part, Tensor))
        kept = self._kept.get(key)
        if kept is None or not _fits(kept, container, parts):
            if kept is not None:
                if not may_change:
                    raise ValueError(
                        f"{_spell(parts)}, but earlier in the run {_spell(kept.parts)}"
                    )
                self._release(self._kept.pop(key))
            kept = self._kept[key] = self._place(container, parts, alike)
        if bases:
            _subtract(parts, bases, kept.parts)
        else:
            for view, tensor in zip(kept.tensors, tensors, strict=True):
                view.copy_(tensor)
        kept.versions = tuple([view._version for view in kept.tensors])

    def get(self, key: ValueKey) -> Any:
        """The value as it was kept.

        Raises KeyError where none was, ValueError where the model's code has written to it since.
        """
        kept = self._kept[key]
        tensors = kept.tensors
        for i in range(len(tensors)):
            if tensors[i]._version != kept.versions[i]:
                raise ValueError("the model's code wrote to a kept output in place")
        if kept.container is None:
            return tensors[0]
        return kept.parts if kept.container is tuple else list(kept.parts)

    def not_kept(self, value: Any) -> Any:
        """The value, or a copy of it where it is a tensor in the memory of a kept one."""
        if isinstance(value, Tensor) and value.untyped_storage().data_ptr() in self._addresses:
            return value.clone()
        return value

    @property
    def arenas(self) -> tuple[Arena, ...]:
        return tuple(arena.memory.arena for arena in self._arenas)

    @property
    def nbytes(self) -> int:
        """Bytes physically mapped: 0 while asleep."""
        return sum(arena.memory.nbytes for arena in self._arenas)

    @property
    def awake(self) -> bool:
        return all(arena.awake for arena in self.arenas)

    def poison(self) -> None:
        for arena in self._arenas:
            if arena.memory.awake:
                arena.memory.poison()

    def sleep(self) -> None:
        """Give the physical memory back and keep the addresses."""
        for arena in self._arenas:
            arena.memory.sleep()

    def wake(self) -> None:
        """Take physical memory again.  Raises MemoryError where there is too little; all of it
        sleeps then."""
        try:
            for arena in self._arenas:
                if not arena.memory.awake:
                    arena.memory.wake()
                    self._on_taken()
        except MemoryError:
            self.sleep()
            raise

    def _place(self, container: type | None, parts: tuple[Any, ...], alike: int) -> _Kept:
        homes = [self._home(part, alike) if isinstance(part, Tensor) else None for part in parts]
        placed = tuple(
            part if home is None else _view(home, part)
            for home, part in zip(homes, parts, strict=True)
        )
        tensors = tuple(part for part in placed if isinstance(part, Tensor))
        self._addresses.update(tensor.data_ptr() for tensor in tensors)
        return _Kept(tensors, container, placed, (), [home for home in homes if home is not None])

    def _home(self, tensor: Tensor, alike: int) -> _Home:
        kind = (tensor.numel(), tensor.dtype, tensor.device)
        for arena in self._arenas:
            if arena.kind == kind and arena.free:
                return _Home(arena, arena.free.pop(0))
        count = self._expected.get((tensor.numel(), tensor.dtype), alike)
        memory = SlotMemory(count, (tensor.numel(),), tensor.dtype, tensor.device)
        self._arenas.append(arena := _Arena(kind, memory, list(memory.slots)))
        self._on_taken()
        return _Home(arena, arena.free.pop(0))

    def _release(self, kept: _Kept) -> None:
        """Give a value's addresses back; an arena of which nothing is used goes."""
        self.moves += 1
        used_now(self.arenas)
        self._addresses.difference_update(tensor.data_ptr() for tensor in kept.tensors)
        for home in kept.homes:
            home.arena.free.append(home.flat)
        self._arenas = [a for a in self._arenas if len(a.free) < len(a.memory.slots)]


def _subtract(parts: Sequence[Any], bases: Sequence[Tensor | None], places: Sequence[Any]) -> None:
    for part, base, place in zip(parts, bases, places, strict=True):
        if base is None:
            if isinstance(part, Tensor):
                place.copy_(part)
        elif (part.shape, part.dtype) != (base.shape, base.dtype):
            raise ValueError(f"{_spell((part,))}, but it continues {_spell((base,))}")
        else:
            torch.sub(part, base, out=place)


def _view(home: _Home, tensor: Tensor) -> Tensor:
    """The place of a tensor, with the strides that a clone of it would have."""
    strides = torch.empty_like(tensor, device="meta").stride()
    return home.flat.as_strided(tensor.shape, strides)


def _parts(value: object) -> tuple[type | None, tuple[Any, ...]]:
    if isinstance(value, Tensor):
        return None, (value,)
    if type(value) in (tuple, list):
        parts: tuple[Any, ...] = tuple(value)  # type: ignore[arg-type]
        if not any(type(part) in (tuple, list, dict) for part in parts):
            return type(value), parts
    raise TypeError(f"got a {type(value).__name__}, wanted a tensor or a tuple of tensors")


def _fits(kept: _Kept, container: type | None, parts: tuple[Any, ...]) -> bool:
    if container is not kept.container or len(parts) != len(kept.parts):
        return False
    for part, before in zip(parts, kept.parts, strict=True):
        if isinstance(part, Tensor):
            if not isinstance(before, Tensor):
                return False
            if part.shape != before.shape or part.dtype != before.dtype:
                return False
            if part.device != before.device:
                return False
        elif part is not before and part != before:
            return False
    return True


def _spell(parts: tuple[Any, ...]) -> str:
    return ", ".join(
        f"{list(part.shape)} {str(part.dtype)[6:]}" if isinstance(part, Tensor)
        else repr(part)[:40] for part in parts
    )  # fmt: skip
