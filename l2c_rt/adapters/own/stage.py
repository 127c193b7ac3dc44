"""A structural copy of a model whose cut points ask what to do.

Modules from the root to the cut points are new objects that share parameters, buffers and
attributes; everything else is the user's own object.  At a cut point stands a stand-in, which hands
the call to `visit`.  Nothing is written to the user's modules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from torch import nn

from l2c_rt.adapters.own.instance_hooks import INSTANCE_FORWARD, forward_through

Visit = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], Any]
"""(path of the cut point, the module to call there, args, kwargs) -> what the call gives."""

CALL_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_hooks",
    "_backward_pre_hooks",
)  # fmt: skip
"""Where a module keeps the hooks of its calls."""


@dataclass(slots=True)
class _Node:
    """What lies below a module: cut points may lie inside others."""

    path: str = ""
    is_cut: bool = False
    children: dict[str, _Node] = field(default_factory=dict)


def stage(model: nn.Module, paths: Iterable[str], visit: Visit) -> nn.Module:
    """A copy of the model that calls `visit` at each of `paths`, and else runs its own forward.

    The module that `visit` is given is the user's own, or a copy of it where other cut points lie
    inside.  Raises ValueError for a path at which there is no module.
    """
    root = _Node()
    for path in paths:
        node = root
        for name in path.split("."):
            below = f"{node.path}.{name}" if node.path else name
            node = node.children.setdefault(name, _Node(below))
        node.is_cut = True
    return _Stage(visit).copy(model, root)


class _Stage:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._classes: dict[type, type] = {}

    def copy(self, module: nn.Module, node: _Node) -> nn.Module:
        """The module with everything below it that is cut replaced."""
        twin = _twin(module)
        modules = OrderedDict(module._modules)
        for name, below in node.children.items():
            child = module._modules.get(name)
            if child is None:
                raise ValueError(f"the model has no module {below.path!r}")
            inner = self.copy(child, below) if below.children else child
            modules[name] = self._stand_in(inner, below.path) if below.is_cut else inner
        twin.__dict__["_modules"] = modules
        if "forward" in vars(module):
            own = partial(type(module).forward, twin)
            twin.__dict__["forward"] = partial(forward_through, module, own)
        return twin

    def _stand_in(self, module: nn.Module, path: str) -> nn.Module:
        kind = type(module)
        stand_in_class = self._classes.get(kind)
        if stand_in_class is None:
            stand_in_class = self._classes[kind] = _stand_in_class(kind)
        stand_in = _twin(module, stand_in_class)
        for name in CALL_HOOKS:
            # The user's hooks run when the user's module is called.
            if name in stand_in.__dict__:
                stand_in.__dict__[name] = OrderedDict()
        # Past nn.Module.__setattr__, which would register the module as a child.
        stand_in.__dict__["_l2c_call"] = partial(self._visit, path, module)
        return stand_in


def _twin(module: nn.Module, kind: type[nn.Module] | None = None) -> nn.Module:
    """Another object with the module's attributes, sharing its dictionaries of tensors."""
    twin: nn.Module = object.__new__(kind or type(module))
    twin.__dict__.update(module.__dict__)
    for name in INSTANCE_FORWARD:
        twin.__dict__.pop(name, None)
    return twin


def _stand_in_class(kind: type) -> type:
    """A class of the same name, so that code which asks for the class or its name finds it."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_l2c_call"](args, kwargs)

    def __reduce_ex__(self: nn.Module, protocol: object) -> NoReturn:
        raise TypeError("a part of a compiled model is not copied or pickled: copy the model")

    members = {"forward": forward, "__reduce_ex__": __reduce_ex__, "__module__": kind.__module__,
               "__qualname__": kind.__qualname__}  # fmt: skip
    return type(kind.__name__, (kind,), members)
