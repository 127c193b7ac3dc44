"""The pickle of a weights file: tensors in dicts, and beside them whatever a training run saved.

Names that stand beside the weights (paths, dtypes, enums, the user's own classes) become inert
`Unread` values. Still nothing is imported and nothing is called. torch.load(weights_only=True)
refuses most of such files: argparse.Namespace, in every checkpoint of DiT's train.py, is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from l2c_rt.untrusted.torch_pickle import MAX_KEY, NAMES, Name, Namespace, PickleReader

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")

HOSTILE = {"_io", "code", "commands", "ctypes", "importlib", "io", "nt", "os", "pickle", "posix",
           "pty", "runpy", "shutil", "socket", "subprocess", "sys", "webbrowser"}  # fmt: skip
"""Modules that a pickle names to do harm.  Nothing would run here, but the user should know."""

HOSTILE_BUILTINS = {"__import__", "apply", "breakpoint", "compile", "delattr", "eval", "exec",
                    "execfile", "getattr", "globals", "input", "open", "setattr"}  # fmt: skip

DICTS = ("collections OrderedDict", "collections defaultdict", "builtins dict", "__builtin__ dict")
"""What is filled item by item."""


WRAPPED_TENSOR = (
    "torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"
)  # fmt: skip
"""What takes a tensor first and gives it back with marks of its own."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A value of a class that is not read; `name` is that class or function."""

    name: str


class WeightsReader(PickleReader):
    """One pass over the pickle of a weights file."""

    __slots__ = ()

    def name(self, text: str) -> Any:
        module, _, what = text.partition(" ")
        builtin = module in ("builtins", "__builtin__")
        if module.partition(".")[0] in HOSTILE or (builtin and what in HOSTILE_BUILTINS):
            raise ValueError(
                f"the pickle names {f'{module}.{what}'!r:.80}, which no weights need; torch.load "
                "would run it, here nothing was executed. Do not load this file elsewhere"
            )
        return Name(text)

    def call(self, function: Any, arguments: Any) -> Any:
        text = function.text if isinstance(function, Name) else ""
        if text in DICTS:
            return {}
        if text in WRAPPED_TENSOR and isinstance(arguments, tuple) and arguments:
            return arguments[0]
        if text == "torch._tensor _rebuild_from_type_v2" and len(arguments) > 2:
            # A tensor with attributes of its own: what rebuilds it, its class, the arguments.
            return self.call(arguments[0], arguments[2])
        if text in NAMES:
            return super().call(function, arguments)
        return Unread(text.replace(" ", ".") if text else getattr(function, "name", ""))

    def build(self, target: Any, state: Any) -> Any:
        if isinstance(target, Namespace) and type(state) is dict:
            return super().build(target, state)
        return target

    def set_items(self, items: list[Any]) -> None:
        if type(self.top()) is dict:
            pairs = zip(items[::2], items[1::2], strict=False)
            super().set_items([value for pair in pairs if _is_key(pair[0]) for value in pair])

    def extend(self, values: list[Any]) -> None:
        if type(self.top()) is list:
            super().extend(values)


def _is_key(key: object) -> bool:
    """Whether weights can stand under this key, or on the way to them; no tuples, floats, enums."""
    return type(key) is str or (type(key) is int and 0 <= key < MAX_KEY)
