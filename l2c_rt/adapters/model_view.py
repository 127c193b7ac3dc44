"""A second object of a model's own class: the model's attributes, another forward.

The view's `__dict__` is the model's, so that whatever is read from one or set on one is the
other's too: weights, children, `training`, `config`.  What belongs to calls (hooks, a forward that
was replaced) is the view's own, in slots, which Python looks up before the dictionary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from types import FunctionType, MethodType, new_class
from typing import Any, TypeVar

from torch import nn

from l2c_rt.adapters.own.instance_hooks import INSTANCE_FORWARD
from l2c_rt.adapters.own.stage import CALL_HOOKS

_REPLACED = "_l2c_replaced_forward"

_OWN = (
    *CALL_HOOKS, "_is_full_backward_hook", *(set(INSTANCE_FORWARD) - {"forward"}), _REPLACED,
)  # fmt: skip
"""Attributes that a view does not share with its model."""


class ModelView(nn.Module):
    """Base of classes whose objects are views; `view_of` makes them."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """End here: the model's class may keep a register of its subclasses."""


View = TypeVar("View", bound=ModelView)


def view_of(model: nn.Module, ours: type[View]) -> View:
    """An object of `ours` and of the model's class, which has to be initialised by the caller.

    It is called like a module, hooks around, and its forward is `ours.__call__`.  Names of `ours`
    come before the model's, whether those are methods, attributes or children.
    `type(view)(...)` makes a plain model, as `from_config` and `from_pretrained` need.
    """
    kind = type(model)
    # Of the same name, for code that asks for that; equal to it, for code that asks for the class.
    metaclass = {"metaclass": _ViewClass} if type(kind) is type else {}
    body = _body(model, ours)
    view_class = new_class(kind.__name__, (ours, kind), metaclass, lambda names: names.update(body))
    view: View = object.__new__(view_class)
    object.__setattr__(view, "__dict__", vars(model))
    for name in CALL_HOOKS:
        object.__setattr__(view, name, OrderedDict())
    for name in ("_is_full_backward_hook", "_compiled_call_impl", _REPLACED):
        object.__setattr__(view, name, None)
    return view


class _ViewClass(type):
    """Of classes of views, which equal the model's class: `from_pipe` looks for that itself."""

    def __eq__(cls, other: object) -> bool:
        return _model_class(cls) is _model_class(other)

    def __hash__(cls) -> int:
        return hash(_model_class(cls))


def _model_class(kind: object) -> object:
    return kind.__bases__[1] if isinstance(kind, _ViewClass) else kind


def _body(model: nn.Module, ours: type) -> dict[str, Any]:
    """The namespace of a view's class."""
    kind = type(model)

    @wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours.__call__(self, *args, **kwargs)

    def plain(_: type, *args: Any, **kwargs: Any) -> nn.Module:
        return kind(*args, **kwargs)

    methods = {name: _Method(name, getattr(ours, name)) for name in _hidden(model, ours)}
    return {
        **methods, "forward": _Forward(forward), "__call__": kind.__call__, "__new__": plain,
        "__slots__": _OWN, "__module__": kind.__module__, "__qualname__": kind.__qualname__,
    }  # fmt: skip


def _hidden(model: nn.Module, ours: type) -> set[str]:
    """Methods of `ours` that attributes of the model, which come first in Python, would hide."""
    return {name for name in vars(model) if isinstance(getattr(ours, name, None), FunctionType)}


class _Method(property):
    """A method that is found before an attribute of its name in the model's dictionary."""

    def __init__(self, name: str, function: FunctionType) -> None:
        super().__init__(function.__get__, lambda view, value: vars(view).update({name: value}))


class _Forward(property):
    """A forward that can be replaced on the view alone, as hooks of accelerate and diffusers do.

    On the class it is called like the function that it stands for.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        def get(view: Any) -> Callable[..., Any]:
            forward: Callable[..., Any] = getattr(view, _REPLACED) or MethodType(function, view)
            return forward

        def replace(view: Any, value: object = None) -> None:
            object.__setattr__(view, _REPLACED, value)

        super().__init__(get, replace, replace)
        self.__wrapped__ = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)
