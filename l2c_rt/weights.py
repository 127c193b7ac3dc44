"""Noticing that a model's weights have changed, once per run."""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn


def fingerprint(model: nn.Module) -> int:
    """A hash of where every parameter and buffer lies and of how often it was written in place.

    Changes with load_state_dict, optimizer steps, LoRA merges, `.to()`, replaced modules.
    """
    tensors = chain(model.parameters(), model.buffers())
    return hash(tuple(map(_identity, tensors)))


def _identity(tensor: Tensor) -> tuple[int, int]:
    # Tensors made under torch.inference_mode keep no version counter.
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version
