"""What operations on meta give, remembered: the blocks of a model repeat each other's.

Most operations find the shape of their output in Python, which takes most of a probe.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class Layout(NamedTuple):
    """Of an output without data; it begins at the start of its storage."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


class MetaOutputs:
    """The layouts of outputs by operation, the layouts of its tensors and its other arguments.

    Of operations whose outputs are tensors of their own: no views, and none that writes.
    """

    def __init__(self) -> None:
        self._functional: dict[Any, bool] = {}
        self._layouts: dict[Hashable, tuple[Layout, ...]] = {}

    def key(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
        """What calls of the same outputs share; None for calls that are not remembered."""
        functional = self._functional.get(func)
        if functional is None:
            functional = self._functional[func] = _is_functional(func)
        try:
            return (func, _mark(args), _mark(tuple(kwargs.items()))) if functional else None
        except TypeError:
            return None

    def recall(self, key: Hashable) -> Any:
        """New outputs without data, where the call has been seen; else None."""
        layouts = self._layouts.get(key)
        if layouts is None:
            return None
        outputs = tuple(layout.empty() for layout in layouts)
        return outputs if len(outputs) > 1 else outputs[0]

    def note(self, key: Hashable, args: tuple[Any, ...], out: Any) -> None:
        """Remember what a call gave, if it is tensors of their own without data."""
        outputs = out if isinstance(out, tuple) else (out,)
        if key is not None and all(_is_own(value, args) for value in outputs):
            self._layouts[key] = tuple(
                Layout(tuple(value.shape), value.stride(), value.dtype) for value in outputs
            )


def is_made_of_others(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation may be taken apart without another result: where its device has a kernel
    of its own for it, as a GPU for RMSNorm, that kernel's last bits are its own too."""
    if getattr(func, "namespace", "") != "aten":
        return False
    leaves = args if args and isinstance(args[0], Tensor) else tree_leaves(args)
    device = next((x.device.type for x in leaves if isinstance(x, Tensor)), "cpu")
    key = torch._C._dispatch_key_for_device(device)
    return not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


def _is_own(out: Any, args: tuple[Any, ...]) -> bool:
    plain = type(out) is Tensor and out.is_meta and not out.is_conj()
    return plain and all(out is not value for value in args)


def _is_functional(func: Any) -> bool:
    if getattr(func, "namespace", "") != "aten":
        return False
    schema = func._schema
    return all(value.alias_info is None for value in (*schema.arguments, *schema.returns))


def _mark(value: Any) -> Hashable:
    """Equal for arguments that lead to the same layout.  Raises TypeError where none can be."""
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, nn.Parameter) or not value.is_meta or value.is_conj():
            raise TypeError("the output depends on more than the layout")
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_mark, value))
    return type(value), value  # Else 1, 1.0 and True were the same.
