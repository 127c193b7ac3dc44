"""A stand-in for CUDA graphs: what work does is recorded, op by op, and done again on replay.

Like a graph it holds addresses and the numbers that were passed, and none of the Python around
them: whatever a program computes on the host is frozen at capture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.modes import run_inside
from l2c_rt.api import build
from l2c_rt.backends.backend import Backend
from l2c_rt.backends.cuda.checking.checked_file import CheckedShapes
from l2c_rt.backends.cuda.cuda_parts import CudaParts
from l2c_rt.backends.cuda.support import fused_cuda_backend, why_not_model
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.options import Options
from l2c_rt.backends.own_backend import own_backend
from l2c_rt.kernels import reference
from l2c_rt.runtime.compiled import Compiled

HOST_READS = ("aten._local_scalar_dense", "aten.item", "aten.nonzero", "aten.equal")


class Tape:
    """One captured graph."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def replay(self) -> None:
        for function, args, kwargs, outputs in self.calls:
            again = function(*args, **kwargs)
            if outputs is None:
                continue
            for kept, new in zip(_tensors(outputs), _tensors(again), strict=True):
                if kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


class _Taping(TorchDispatchMode):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if any(name.startswith(read) for read in HOST_READS):
            raise RuntimeError(f"{name} waits for the device, which a capture does not allow")
        out = func(*args, **(kwargs or {}))
        self._tape.calls.append((func, args, kwargs or {}, out))
        return out


class TapeRecorder:
    """Captures to tapes."""

    captures = True

    def __init__(self, device: torch.device) -> None:
        self.seconds, self.nbytes = 0.0, 0
        self.warmed = self.taped = 0

    def warm(self, work: Sequence[Callable[[], None]]) -> None:
        for each in work:
            each()
            self.warmed += 1

    def capture(self, work: Callable[[], None]) -> Tape:
        assert self.warmed > self.taped or self.warmed, "captured before it was warmed"
        tape = Tape()
        run_inside((_Taping(tape),), work)
        self.taped += 1
        return tape


class TapedKernels:
    """Kernels as a tape sees them: one call each, whatever their references do inside.

    The references read slots and counters on the host, which a kernel does on the device.
    """

    def __init__(self, kernels: Any = reference) -> None:
        self._kernels = kernels
        self.log: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._kernels, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            tape = _active_tape()
            with torch.utils._python_dispatch._disable_current_modes():
                out = function(*args, **kwargs)
            if tape is not None:
                tape.calls.append((function, args, kwargs, None))
            self.log.append((name, args, kwargs))
            return out

        return call


def _active_tape() -> Tape | None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    mode = _get_current_dispatch_mode()
    return mode._tape if isinstance(mode, _Taping) else None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def compile_taped(
    model: Any,
    schedule: Any,
    *,
    steps: int | None = None,
    calls_per_step: int = 1,
    timesteps: Any = None,
    strict: bool = False,
    check: str = "on",
    recorder: Any = TapeRecorder,
    kernels: Any = None,
    tuner: Tuner | None = None,
    checked: CheckedShapes | None = None,
    **options: Any,
) -> Compiled:
    """`compile` as on a GPU, with references for kernels and tapes for graphs; with `checked` also
    the check of the first run."""
    tuner = tuner or Tuner("tape", None, None, device="cpu")
    cuda = CudaParts(kernels or TapedKernels(), recorder, tuner, checked)

    def select(described: BoundModel) -> Backend:
        if described.open_stage is not None:
            return own_backend(described)
        if why_not := why_not_model(described, Options(**options)):
            raise ValueError(f'backend="fused": {why_not}')
        return fused_cuda_backend(described, cuda, Options(**options))

    return build(model, schedule, select, steps=steps, calls_per_step=calls_per_step,
                 timesteps=timesteps, strict=strict, check=check)  # fmt: skip
