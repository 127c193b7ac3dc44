"""Parts that measure the machine and single operations, not whole runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import torch

from gpu.ceilings import attention_seconds, node_gaps
from gpu.environment import ROOT
from gpu.models import CASES, IMAGES
from gpu.row_kernels import row_kernel_rates
from gpu.suite import Suite

HEADS, HEAD_WIDTH = 16, 72


def ceilings_part(suite: Suite) -> dict[str, Any]:
    """Copy, product, and PyTorch's attentions at head width 72."""
    found: dict[str, Any] = {}
    for tokens in (256, 258, 1024):
        for images in IMAGES:
            shape = 2 * images, HEADS, tokens, HEAD_WIDTH
            seconds = attention_seconds(suite.bench, shape, suite.rig.dtype)
            found["x".join(map(str, shape))] = seconds
    return {"ceilings": suite.ceilings(), "attention_seconds": found}


def nodes_part(suite: Suite) -> dict[str, Any]:
    """What a node of a graph costs."""
    found = {"nodes": node_gaps(suite.bench)}
    if torch.cuda.get_device_capability() >= (9, 0):
        found["dependent_nodes"] = node_gaps(suite.bench, dependent=True)
    return found


def row_kernels_part(suite: Suite) -> dict[str, Any]:
    """Kernels (a) and (b) by their byte models."""
    rates = row_kernel_rates(suite.bench, [2 * n for n in IMAGES], suite.rig.dtype)
    return {"ceilings": suite.ceilings(), "rates": rates}


def start_part(suite: Suite) -> dict[str, Any]:
    """`compile` to the first image in fresh processes: nothing cached on disk, and again."""
    case = CASES[0]
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'bench')!r}, {str(ROOT / 'tests/support')!r}]; "
        f"from gpu.start import first_image; first_image({suite.backend!r})"
    )
    with tempfile.TemporaryDirectory() as empty:
        # Every cache on disk (ours, Triton's, CUDA's) begins empty.
        caches = {"HOME": empty, "XDG_CACHE_HOME": f"{empty}/cache",
                  "TRITON_CACHE_DIR": f"{empty}/triton", "CUDA_CACHE_PATH": f"{empty}/cuda",
                  "TORCHINDUCTOR_CACHE_DIR": f"{empty}/inductor"}  # fmt: skip
        found = {}
        for name in ("cold", "warm"):
            out = subprocess.run(
                [sys.executable, "-c", code], env=os.environ | caches, check=False,
                capture_output=True, text=True,
            )  # fmt: skip
            if out.returncode:
                raise AssertionError(f"{name} start failed: {out.stderr[-2000:]}")
            found[name] = json.loads(out.stdout.splitlines()[-1])
    return {"case": case.name, "first_image": found}
