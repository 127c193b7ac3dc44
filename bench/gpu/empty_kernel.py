"""A kernel that does nothing, to weigh a node of a graph.  Needs triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _empty_kernel(x_ptr, DEPENDENT: tl.constexpr):
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


def launch(x: Tensor, dependent: bool) -> None:
    """One program that neither reads nor writes x."""
    options = {"launch_pdl": True} if dependent else {}
    _empty_kernel[(1,)](x, DEPENDENT=dependent, num_warps=4, **options)
