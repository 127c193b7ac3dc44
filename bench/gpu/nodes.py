"""What a node of a CUDA graph costs: graphs that are chains of kernels which do nothing.

Needs triton.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpu.models import Rig
from l2c_rt.measure.clocks import host_seconds

COUNTS = (200, 2000, 7600)


@triton.jit
def _empty_kernel(x_ptr, DEPENDENT: tl.constexpr):
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


def launch(x: Tensor, dependent: bool) -> None:
    """One program that neither reads nor writes x."""
    options = {"launch_pdl": True} if dependent else {}
    _empty_kernel[(1,)](x, DEPENDENT=dependent, num_warps=4, **options)


def node_costs(rig: Rig, dependent: bool) -> dict[str, Any]:
    """Seconds per node of such a graph, and what the graph itself costs, by its number of nodes.

    `dependent` launches each kernel before the one ahead has ended (sm_90).
    """
    x = torch.zeros(1, device=rig.device)
    costs: dict[str, Any] = {}
    for count in COUNTS:
        free = torch.cuda.mem_get_info()[0]
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        launch(x, dependent)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(count):
                launch(x, dependent)
        instantiation = host_seconds(graph.instantiate)
        graph.replay()
        replay = median(rig.clock(graph.replay) for _ in range(rig.effort.repeats))
        costs[str(count)] = {
            "seconds_per_node": replay / count,
            "instantiate_seconds": instantiation,
            "bytes": free - torch.cuda.mem_get_info()[0],
        }
    return costs
