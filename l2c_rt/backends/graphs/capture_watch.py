"""What a forward does that a CUDA graph cannot do again, seen operation by operation.

A graph repeats launches on a device.  It does not wait for values, does not copy what the host has
made meanwhile, and knows shapes and addresses once and for all.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = frozenset({"_local_scalar_dense", "is_nonzero", "equal"})
SIZED_BY_VALUES = frozenset(
    {
        "bincount",
        "nonzero",
        "masked_select",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
    }
)


MADE_OF_NUMBERS = frozenset({"tensor", "as_tensor", "asarray", "new_tensor"})

MOST_FILLED = 16
"""Numbers of the host that are filled in one by one."""

FROM_HOST = "a tensor is made of numbers of the host"


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
        self._makers = _Makers(device_type, self._refuse)
        self._taken: dict[int, Tensor] = {}
        self._made: dict[int, weakref.ref[Tensor]] = {}

    def modes(self) -> tuple[TorchFunctionMode, TorchDispatchMode]:
        """What the forward runs inside of."""
        return self._makers, self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        what = _not_repeatable(func, args, kwargs, tensors, self._device_type)
        if what:
            self._refuse(what)
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

    def _refuse(self, what: str) -> None:
        self._raise(f"{what} in {_place()}")

    def _raise(self, text: str) -> None:
        raise NotRepeatableError(text)


class _Makers(TorchFunctionMode):
    """Sees what makes tensors of Python's numbers, which are copied to a device out of sight.

    A few numbers are filled in by the device instead, which a graph can repeat.
    """

    def __init__(self, device_type: str, refuse: Callable[[str], None]) -> None:
        super().__init__()
        self._device_type, self._refuse = device_type, refuse

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in MADE_OF_NUMBERS:
            return func(*args, **kwargs)
        data = args[-1] if args else kwargs.get("data")
        like = args[0].device if func is Tensor.new_tensor else torch.get_default_device()
        device = torch.device(kwargs.get("device") or like)
        stays = self._device_type == "cpu" or device.type != self._device_type
        if stays or isinstance(data, Tensor):
            return func(*args, **kwargs)
        filled = _filled(data, kwargs.get("dtype"), device)
        if filled is None:
            self._refuse(FROM_HOST)
            return func(*args, **kwargs)
        return filled


def _filled(data: Any, dtype: torch.dtype | None, device: torch.device) -> Tensor | None:
    """`torch.tensor(data)` without a copy; None where `data` are not a few numbers."""
    numbers = data if isinstance(data, list | tuple) else [data]
    if not 0 < len(numbers) <= MOST_FILLED or {*map(type, numbers)} - {bool, int, float}:
        return None
    for kind, inferred in ((bool, torch.bool), (int, torch.int64)):
        if dtype is None and all(isinstance(number, kind) for number in numbers):
            dtype = inferred
    dtype = dtype or torch.get_default_dtype()
    single = [torch.full((), number, dtype=dtype, device=device) for number in numbers]
    return torch.stack(single) if numbers is data else single[0]


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
        return FROM_HOST
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
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if module not in ("torch", __name__.partition(".")[0]):
            break
        frame = frame.f_back
    code = frame.f_code
    file = code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{code.co_name} ({file}:{frame.f_lineno})"
