"""A structural copy of a model whose cut points ask what to do.

Modules from the root to the cut points are new objects that share parameters, buffers and
attributes; everything else is the user's own object.  At a cut point stands a stand-in, which hands
the call to `visit`.  Nothing is written to the user's modules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol

from torch import nn

from l2c_rt.adapters.own.instance_hooks import INSTANCE_FORWARD, forward_through
from l2c_rt.adapters.wrappers import without_torch_compile

Visit = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], Any]
"""(path of the cut point, the module to call there, args, kwargs) -> what the call gives."""

CALL_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_hooks",
    "_backward_pre_hooks",
)  # fmt: skip
"""Where a module keeps the hooks of its calls."""


class OpenStage(Protocol):
    """Makes a stage of a model, cut where its description says, and at the paths of `also`."""

    def __call__(self, visit: Visit, also: Iterable[str] = ()) -> Stage: ...


class Stage:
    """The copy; call it like the model.  The path "" is the model itself.

    The module that `visit` is given is the user's own, or a copy of it where other cut points lie
    inside.  Raises ValueError for a path at which there is no module.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str], visit: Visit) -> None:
        self._visit = visit
        paths = tuple(paths)
        self._root_is_cut = "" in paths
        self._classes: dict[type, type[nn.Module]] = {}
        self._copies: list[_Copy] = []
        self.root = self._copy(model, _tree(filter(None, paths)))
        self.refresh()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._root_is_cut:
            return self._visit("", self.root, args, kwargs)
        return self.root(*args, **kwargs)

    def refresh(self) -> None:
        """Take the attributes of the user's modules as they are now: sizes of chunks, flags."""
        for twin, original, replaced in self._copies:
            attributes = twin.__dict__
            attributes.clear()
            attributes.update(original.__dict__)
            for name in INSTANCE_FORWARD:
                attributes.pop(name, None)
            attributes.update(replaced)

    def _copy(self, module: nn.Module, node: _Node) -> nn.Module:
        """The module with everything below it that is cut replaced."""
        # torch.compile's graphs have nothing cut: what it wraps stands for it.
        module = without_torch_compile(module)
        twin: nn.Module = object.__new__(type(module))
        modules = OrderedDict(module._modules)
        for name, below in node.children.items():
            child = module._modules.get(name)
            if child is None:
                raise ValueError(f"the model has no module {below.path!r}")
            inner = self._copy(child, below) if below.children else child
            modules[name] = self._stand_in(inner, child, below.path) if below.is_cut else inner
        replaced: dict[str, Any] = {"_modules": modules}
        if "forward" in module.__dict__:
            own = partial(type(module).forward, twin)
            replaced["forward"] = partial(forward_through, module, own)
        self._copies.append(_Copy(twin, module, replaced))
        return twin

    def _stand_in(self, called: nn.Module, original: nn.Module, path: str) -> nn.Module:
        kind = type(original)
        if kind not in self._classes:
            self._classes[kind] = _stand_in_class(kind)
        twin: nn.Module = object.__new__(self._classes[kind])
        # The user's hooks run when the user's module is called.
        replaced: dict[str, Any] = {
            name: OrderedDict() for name in CALL_HOOKS if name in original.__dict__
        }
        replaced["_l2c_call"] = partial(self._visit, path, called)
        self._copies.append(_Copy(twin, original, replaced))
        return twin


class _Copy(NamedTuple):
    """A module of the stage, the user's module, and the attributes in which they differ."""

    twin: nn.Module
    original: nn.Module
    replaced: dict[str, Any]


@dataclass(slots=True)
class _Node:
    """What lies below a module: cut points may lie inside others."""

    path: str = ""
    is_cut: bool = False
    children: dict[str, _Node] = field(default_factory=dict)


def _tree(paths: Iterable[str]) -> _Node:
    root = _Node()
    for path in paths:
        node = root
        for name in path.split("."):
            below = f"{node.path}.{name}" if node.path else name
            node = node.children.setdefault(name, _Node(below))
        node.is_cut = True
    return root


def ancestors(model: nn.Module, paths: Iterable[str]) -> Iterator[nn.Module]:
    """The user's modules whose own forward runs on a copy: the root, and those above the paths."""
    names = {"": None}
    for path in paths:
        parts = path.split(".")[:-1]
        names |= {".".join(parts[: i + 1]): None for i in range(len(parts))}
    return (model.get_submodule(name) for name in names)


def _stand_in_class(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of the same name, so that code which asks for the class or its name finds it."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_l2c_call"](args, kwargs)

    def __reduce_ex__(self: nn.Module, protocol: object) -> NoReturn:
        raise TypeError("a part of a compiled model is not copied or pickled: copy the model")

    members = {"forward": forward, "__reduce_ex__": __reduce_ex__, "__module__": kind.__module__,
               "__qualname__": kind.__qualname__}  # fmt: skip
    return type(kind.__name__, (kind,), members)
