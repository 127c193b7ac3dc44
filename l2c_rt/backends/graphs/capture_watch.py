"""What a forward does that a CUDA graph cannot do again, seen operation by operation.

A graph repeats launches on a device.  It does not wait for values, does not copy what the host has
made meanwhile, and knows shapes and addresses once and for all.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = frozenset({"_local_scalar_dense", "is_nonzero", "equal"})
SIZED_BY_VALUES = frozenset(
    {"nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive"}
)


class NotRepeatableError(Exception):
    """A graph cannot do this again; the text says what, and where in the model's code."""


class CaptureWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside of it, raises NotRepeatableError where a forward on this type of device does what a
    graph cannot repeat.

    What the forward takes from elsewhere is kept alive: a graph holds addresses, and a module may
    drop the table that it has cached.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device_type = device_type
        self._taken: dict[int, Tensor] = {}
        self._made: dict[int, weakref.ref[Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        what = _not_repeatable(func, args, kwargs, tensors, self._device_type)
        if what:
            self._refuse(f"{what} in {_place()}")
        for tensor in tensors:
            made = self._made.get(id(tensor))
            if made is None or made() is not tensor:
                self._taken[id(tensor)] = tensor
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._made[id(leaf)] = weakref.ref(leaf)
        return out

    def taken(self) -> tuple[Tensor, ...]:
        """What the forward took from elsewhere; what it has made is forgotten."""
        self._made.clear()
        return tuple(self._taken.values())

    def _refuse(self, text: str) -> None:
        raise NotRepeatableError(text)


def _not_repeatable(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: list[Tensor],
    device_type: str,
) -> str:
    """What about an operation no graph can repeat; empty where one can."""
    if torch.Tag.nondeterministic_seeded in func.tags and _draws(func, args, kwargs):
        return "random numbers are drawn"
    here = any(tensor.device.type == device_type for tensor in tensors)
    name = func.overloadpacket.__name__
    if here and name in READS:
        return "the host reads a value"
    if here and (name in SIZED_BY_VALUES or _indexes_by_mask(func, args, kwargs)):
        return "a shape depends on values"
    if device_type == "cpu":
        return ""
    if here and name in ("lift_fresh", "lift_fresh_copy"):
        return "a tensor is made of numbers of the host"
    source, target = _copied(name, args, kwargs)
    if {source, target} == {"cpu", device_type}:
        return f"a tensor is copied {'to' if source == 'cpu' else 'from'} the device"
    return ""


def _draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Attention has the tag too, for a dropout that is 0."""
    names = [argument.name for argument in func._schema.arguments]
    values = dict(zip(names, args, strict=False)) | kwargs
    return "dropout_p" not in names or bool(values.get("dropout_p"))


def _indexes_by_mask(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    name = func.overloadpacket.__name__
    if name == "repeat_interleave":
        return func._overloadname in ("Tensor", "self_Tensor") and (
            kwargs.get("output_size") is None
        )
    if name not in ("index", "index_put", "index_put_"):
        return False
    masks = [i for i in args[1] if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
    # One value at every place of a mask is a fill, which reads nothing.
    return bool(masks) and (name == "index" or args[2].numel() > 1)


def _copied(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
    """Types of the devices that an operation copies from and to; empty where it copies nothing."""
    if name == "copy_":
        return args[1].device.type, args[0].device.type
    if name == "_to_copy" and kwargs.get("device") is not None:
        return args[0].device.type, torch.device(kwargs["device"]).type
    return "", ""


def _place() -> str:
    """The line of the model's code that is being run."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if module not in ("torch", __name__.partition(".")[0]):
            break
        frame = frame.f_back
    code = frame.f_code
    file = code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{code.co_name} ({file}:{frame.f_lineno})"
