"""Compiling many kernels at once, ahead of their first launch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

MOST_WORKERS = 16


def compile_side_by_side(calls: Sequence[Callable[[], None]]) -> None:
    """Compile what `calls` would launch of our kernels, on as many cores as there are.

    None of our kernels runs; what else a call does is done.  A call or a kernel that fails is
    passed over: it says why where it is launched.  Without Triton, or one that cannot, nothing is
    called.
    """
    try:
        from triton.runtime._async_compile import AsyncCompileMode
    except ImportError:
        return
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    # Triton leaves Python's lock for most of a compilation, and the assembler is a process.
    with (
        ThreadPoolExecutor(workers, "l2c-rt-compile") as pool,
        AsyncCompileMode(pool, ignore_errors=True),
        torch.no_grad(),
    ):
        for call in calls:
            with suppress(Exception):
                call()
