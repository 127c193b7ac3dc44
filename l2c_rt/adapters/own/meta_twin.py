"""A copy of a model whose tensors are without data: its forward gives shapes and computes nothing.

They are on `meta`, or inside of a FakeTensorMode on the device that they stand for.  Nothing of the
user's model is written, and no weight is copied.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from l2c_rt.adapters.own.instance_hooks import INSTANCE_FORWARD
from l2c_rt.adapters.own.stage import CALL_HOOKS
from l2c_rt.adapters.wrappers import without_torch_compile

META = torch.device("meta")
CONSTANTS = frozenset((bool, int, float, str, type(None), type, FunctionType))


def meta_twin(model: nn.Module, narrow: torch.dtype, device: torch.device = META) -> nn.Module:
    """The copy, without the hooks of the model; 8-bit floats are of dtype `narrow` in it."""
    twin: nn.Module = _Twins(narrow, device).of(model)
    return twin


def without_data(value: Any, device: torch.device = META) -> Any:
    """The value with every tensor in it replaced by one without data; the rest as it is."""
    return tree_map(lambda leaf: _empty(leaf, device) if isinstance(leaf, Tensor) else leaf, value)


class _Twins:
    """The copies so far, by the original's address."""

    def __init__(self, narrow: torch.dtype, device: torch.device) -> None:
        self._narrow, self._device = narrow, device
        self._twins: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """A copy of whatever the twin's forward may write to: modules, objects, containers."""
        if type(value) in CONSTANTS:
            return value  # As `tree_map` gives it, without its registry of containers.
        if type(value) is dict:
            return {name: self.of(item) for name, item in value.items()}
        return tree_map(self._leaf, value)

    def _leaf(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            # No product takes 8-bit floats: with layerwise casting, hooks widen them before use.
            is_wide = leaf.element_size() > 1 or not leaf.is_floating_point()
            return _empty(leaf, self._device, leaf.dtype if is_wide else self._narrow)
        if isinstance(leaf, nn.Module):
            leaf = without_torch_compile(leaf)
            return self._copy(leaf, {name: OrderedDict() for name in CALL_HOOKS})
        return self._copy(leaf, {}) if _is_plain(leaf) else leaf

    def _copy(self, original: Any, replaced: dict[str, Any]) -> Any:
        if id(original) not in self._twins:
            twin = self._twins[id(original)] = object.__new__(type(original))
            for name, value in vars(original).items():
                if name not in INSTANCE_FORWARD:
                    twin.__dict__[name] = replaced[name] if name in replaced else self.of(value)
        return self._twins[id(original)]


def _is_plain(value: object) -> bool:
    """Rotary tables and attention processors are plain objects, and may cache tensors."""
    kind = type(value)
    makes_itself = any("__new__" in vars(base) for base in kind.__mro__ if base is not object)
    if makes_itself or not hasattr(value, "__dict__"):
        return False
    return kind.__module__.partition(".")[0] not in sys.stdlib_module_names


def _empty(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    shape, strides = tuple(tensor.shape), tensor.stride()
    return torch.empty_strided(shape, strides, dtype=dtype or tensor.dtype, device=device)
