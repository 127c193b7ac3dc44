"""Ranges in the trace of torch.profiler, which `emit_nvtx` shows in Nsight as well."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.autograd import profiler
from torch.profiler import record_function

_NO_RANGE: AbstractContextManager[Any] = nullcontext()


def trace_range(name: str, number: int | None = None) -> AbstractContextManager[Any]:
    """A range "l2c_rt.name number" while a profiler is active, else nothing, which is cheaper."""
    # Of the process: what C++ says is of this thread, and a profiler of all threads is not seen.
    if not profiler._is_profiler_enabled:
        return _NO_RANGE
    return record_function(f"l2c_rt.{name}" if number is None else f"l2c_rt.{name} {number}")
