# mypy: allow-untyped-defs, allow-untyped-calls
"""How a kernel is launched: on sm_90 before the one before it has ended, and while Triton compiles
side by side not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import triton

from l2c_rt.kernels._launch import RowTile, options, row_tile

PDL_SWITCH = "L2C_RT_PDL"
"""Of the environment: 0 launches every kernel after the one before it, to tell faults apart."""


def launched(kernel: Any, programs: int) -> Callable[..., Any]:
    """What takes a kernel's arguments: a launch of so many programs; inside of Triton's
    AsyncCompileMode a compilation alone."""
    if _compiles_side_by_side():
        return partial(kernel.warmup, grid=(programs,))
    launch: Callable[..., Any] = kernel[(programs,)]
    return launch


def row_options(kernel: Any, tile: RowTile) -> dict[str, Any]:
    """What every launch of a row kernel says of its tile."""
    pdl = dependent(kernel) if tile.pdl is None else tile.pdl
    return {"PDL": pdl, **options(tile.warps, pdl=pdl)}


def list_tile(kernel: Any, width: int) -> RowTile:
    """For a row and a list of slots."""
    tile = row_tile(width)
    # With four slots in flight the assembler spills a few registers there.
    return replace(tile, unroll=2) if capability(kernel) >= 100 else tile


def dependent(kernel: Any) -> bool:
    """Whether launches may begin before the kernel before them has ended: on sm_90 or later.

    The attribute is the later kernel's, so that the one before may be anyone's: a kernel that does
    not signal lets this one start when it ends.  Each of ours waits before it reads or writes
    anything, and signals after it has waited, so that at most two run at a time.
    """
    return os.environ.get(PDL_SWITCH) != "0" and capability(kernel) >= 90


def capability(kernel: Any) -> int:
    """Of the device that kernels are compiled for, as in 90; 0 for one that is not CUDA's, and in
    Triton's interpreter."""
    if not isinstance(kernel, triton.runtime.JITFunction):
        return 0
    target = triton.runtime.driver.active.get_current_target()
    return int(target.arch) if target.backend == "cuda" else 0


def _compiles_side_by_side() -> bool:
    try:
        from triton.runtime._async_compile import active_mode
    except ImportError:
        return False
    return active_mode.get() is not None
