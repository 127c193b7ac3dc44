"""What the fused backend launches, in order: our kernels by the recording driver, PyTorch's by
dispatch, graphs by a recorder that replays nothing.  Tensors lie on the CPU and mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from recording_driver import Launch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.problems import LinearConfig
from l2c_rt.kernels._launch import LINEAR_TILES

WAITING = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "masked_select",
           "_unique2", "lift_fresh")  # fmt: skip
"""Operators that wait for the device, or that bring a number of the host to it."""


WAITING_METHODS = ("item", "tolist", "numpy", "cpu", "cuda", "nonzero", "__bool__", "__int__",
                   "__float__", "__index__", "__array__", "allclose", "equal")  # fmt: skip


OVERWRITING = ("copy_", "zero_", "fill_")


NO_KERNEL = ("empty", "new_empty", "empty_like", "empty_strided")


Range = tuple[int, int]
"""Address and size in bytes."""


Wait = tuple[str, Range]
"""What waited, and for which memory."""


@dataclass(frozen=True)
class Operator:
    """One operator of PyTorch's that launches a kernel."""

    name: str
    reads: tuple[Range, ...]
    writes: tuple[Range, ...]


Entry = Launch | Operator


def span(tensor: Tensor) -> Range:
    """The bytes from a tensor's first element to its last."""
    if tensor.numel() == 0:
        return tensor.data_ptr(), 0
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), (last + 1) * tensor.element_size()


class Operators(TorchDispatchMode):
    """Puts every operator that would launch a kernel into the log; notes the ones that wait."""

    def __init__(self, log: list[Any], waits: list[Wait]) -> None:
        super().__init__()
        self._log, self._waits = log, waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in WAITING:
            self._waits.append((str(func), _first(args)))
        # A view has outputs that alias an input without writing to it.
        view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not view and name not in NO_KERNEL:
            self._log.append(_operator(func, args, kwargs, out))
        return out


def _operator(func: Any, args: Any, kwargs: Any, out: Any) -> Operator:
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    written = {
        a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write
    }
    only_written = {"out"} if func.overloadpacket.__name__ not in OVERWRITING else {"self"}
    reads = [span(t) for k, v in named.items() if k not in only_written for t in _tensors(v)]
    writes = [span(t) for k in sorted(written) for t in _tensors(named.get(k))]
    return Operator(str(func), tuple(reads), tuple(writes or [span(t) for t in _tensors(out)]))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _first(args: Any) -> Range:
    """The first tensor's memory."""
    return next((span(t) for t in _tensors(list(args))), (0, 0))


class HostReads(TorchFunctionMode):
    """Notes what brings values to the host without an operator."""

    def __init__(self, waits: list[Wait]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        moved = name == "to" and any(isinstance(a, (torch.device, str)) for a in args)
        if name in WAITING_METHODS or moved or (kwargs or {}).get("device") == "cpu":
            self._waits.append((name, _first(args)))
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, repr=False)
class LoggedGraph:
    """One captured graph: the part of the log that it holds."""

    number: int
    recorder: LogRecorder

    def replay(self) -> None:
        self.recorder.replays.append(self.number)

    @property
    def entries(self) -> list[Entry]:
        first, end = self.recorder.captured[self.number]
        return self.recorder.log[first:end]


@dataclass(repr=False)
class LogRecorder:
    """Captures by noting where in the log each capture begins and ends."""

    log: list[Any]
    captures: bool = True
    seconds: float = 0.0
    nbytes: int = 0
    warmed: list[Range] = field(default_factory=list)
    captured: list[Range] = field(default_factory=list)
    replays: list[int] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)

    def warm(self, work: Sequence[Callable[[], None]]) -> None:
        self.warmed += [self._part(each, []) for each in work]

    def capture(self, work: Callable[[], None]) -> LoggedGraph:
        self.captured.append(self._part(work, self.waits))
        return LoggedGraph(len(self.captured) - 1, self)

    def _part(self, work: Callable[[], None], waits: list[Wait]) -> Range:
        first = len(self.log)
        with Operators(self.log, waits), HostReads(waits):
            work()
        return first, len(self.log)


class Choosing(Tuner):
    """Settles products without a measurement.

    "kernels": ours for all; "split": those that go to a slot in two parts, and long skips in two
    halves; "library": as on a machine where nothing was measured.
    """

    def __init__(self, products: str) -> None:
        super().__init__("log", None, None, device="cpu")
        self._products = products

    def linear(self, problem: Any, make: Any, check: Any = None) -> LinearConfig:
        # Inner tiles so small that 64 columns make two parts.
        tile = astuple(replace(LINEAR_TILES[0], k=32))
        if self._products == "split" and problem.splittable:
            return LinearConfig("split", tile, 2)
        if self._products == "split" and problem.sources == 2:
            return LinearConfig("halves")
        if self._products == "library":
            return super().linear(problem, make, check)
        return LinearConfig("triton", tile)


def fixed_arguments(entry: Entry) -> tuple[Any, ...]:
    """All that a graph holds of a launch: addresses, numbers, code."""
    if isinstance(entry, Operator):
        return astuple(entry)
    given = entry.arguments.items()
    values = tuple((k, span(v) if isinstance(v, Tensor) else v) for k, v in given)
    return entry.kernel, entry.grid, values, entry.cubin


@contextmanager
def operators() -> Iterator[tuple[list[Operator], list[Wait]]]:
    """The operators launched inside, and what waits for the device."""
    log: list[Operator] = []
    waits: list[Wait] = []
    with Operators(log, waits), HostReads(waits):
        yield log, waits
