"""Weights that depend on the parameter's name and a seed only, not on torch's generator.

Any class with the same parameter names gets the same weights, on any machine.  They are scaled so
that every branch moves the output and none dominates: fan-in scaled matrices, non-zero gates.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor, nn

_TABLES = ("pos_embed", "embedding_table", "label_emb")


def fill_deterministic(model: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Overwrite every parameter and buffer; `gain` scales the matrices of the blocks."""
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(deterministic(name, tuple(tensor.shape), seed, gain))


def deterministic(name: str, shape: tuple[int, ...], seed: int, gain: float = 1.0) -> Tensor:
    """The float32 weights of one parameter."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8")
    normal = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape)
    if any(table in name for table in _TABLES):
        weights = 0.5 * normal
    elif name.endswith("bias"):
        weights = 0.05 * normal
    elif len(shape) == 1:
        weights = 1.0 + 0.1 * normal
    else:
        blocks = gain if "block" in name else 1.0
        weights = blocks * normal / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(weights.astype(np.float32))
