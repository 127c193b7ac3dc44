"""What a forward does at its sites: the calls, their shapes and arithmetic, and who reads outputs.

A mode of torch sees every operation of the forward, so what the model's code does with an output
of a block between two blocks is seen as well.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode_temporarily
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.own.meta_outputs import MetaOutputs, is_made_of_others
from l2c_rt.adapters.own.modes import run_inside
from l2c_rt.adapters.own.sites import Site

aten = torch.ops.aten
LINEAR = frozenset((
    aten.mm, aten.addmm, aten._scaled_mm, aten.convolution, aten._convolution,
    aten.cudnn_convolution, aten.convolution_overrideable, aten._slow_conv2d_forward,
))  # fmt: skip
"""Products with weights; all others that are counted are products of attention."""

Kind = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor."""


class Stream(NamedTuple):
    """The argument of a block that one of its outputs continues, or item `item` of an argument that
    is a list.  Where `sizes` are given, the output has them, and other ones than the argument."""

    name: str
    position: int
    item: int | None = None
    sizes: tuple[int, ...] = ()

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The argument in a call of the block, as large as the output: further channels, variances,
        are zeros, and channels that the output has not, conditions, are left out."""
        name = self.name.partition("[")[0]
        argument = kwargs[name] if name in kwargs else args[self.position]
        argument = argument if self.item is None else argument[self.item]
        for dim, (size, wanted) in enumerate(zip(argument.shape, self.sizes, strict=False)):
            if size > wanted:
                argument = argument.narrow(dim, 0, wanted)
            elif size < wanted:
                missing = (*argument.shape[:dim], wanted - size, *argument.shape[dim + 1 :])
                argument = torch.cat([argument, argument.new_zeros(missing)], dim=dim)
        return argument


@dataclass(slots=True)
class SiteCall:
    """One call of a site's last child.

    `inputs` are the tensors among its arguments; `outputs` has an entry per output, None for one
    that is no tensor.  `continued` are the arguments that are outputs of the call before, by name
    and number of the output.  `overwritten` are the arguments that the call wrote to, and
    `returned[j]` says that output j is one of them.  `held` is set where something else than the
    next call reads an output.
    """

    site: Site
    kind: type
    inputs: dict[Stream, Kind]
    continued: dict[str, int]
    outputs: tuple[Kind | None, ...] = ()
    overwritten: tuple[str, ...] = ()
    returned: tuple[bool, ...] = ()
    held: bool = False


class Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Give `visit` to a stage and run the stage by `run_observed`.

    `calls` are those of the sites, in order; `linear_macs` and `attention_macs` those of each site
    by name, "" for what is computed outside.  With `follow` outputs are held until the end, to see
    who reads them; without it `continued` and `held` stay empty.
    """

    def __init__(self, sites: Iterable[Site], *, follow: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[SiteCall] = []
        self.linear_macs: Counter[str] = Counter()
        self.attention_macs: Counter[str] = Counter()
        self._follow = follow
        self._site_of = {path: site for site in sites for path in site.children}
        # Here, since it imports triton where that is installed: a tenth of a second.
        from torch.utils.flop_counter import flop_registry

        self._formulas = dict(flop_registry)
        self._formulas[aten._scaled_dot_product_flash_attention_for_cpu] = _cpu_attention
        self._meta_outputs = MetaOutputs()
        self._inside: list[str] = []
        self._outputs: dict[int, tuple[Tensor, int]] = {}
        self._before: tuple[Any, ...] = ()

    def visit(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the module and note what it does."""
        site = self._site_of[path]
        is_last = path == site.children[-1]
        arguments = dict(named_arguments(type(module), args, kwargs))
        if not path:
            arguments = dict(_with_items(arguments))
        tensors = {s: value for s, value in arguments.items() if isinstance(value, Tensor)}
        versions = [write_count(tensor) for tensor in tensors.values()]
        if is_last:
            self._begin(site, type(module), arguments)
        self._inside.append(site.name)
        try:
            out = module(*args, **kwargs)
        finally:
            self._inside.pop()
        if is_last:
            pairs = zip(tensors.items(), versions, strict=True)
            self._end(out, {s.name: t for (s, t), count in pairs if write_count(t) != count})
        return out

    def product(self, linear: nn.Module, run: Callable[[], Any]) -> Any:
        """The output of a linear, as `run` gives it where nobody watches."""
        if torch._C._len_torch_dispatch_stack() > 1:
            return run()
        assert isinstance(linear, nn.Linear)
        with _pop_mode_temporarily():
            out = run()
        self.linear_macs[self._inside[-1] if self._inside else ""] += (
            out.numel() * linear.in_features
        )
        return out

    def _begin(self, site: Site, kind: type, arguments: Mapping[Stream, Any]) -> None:
        continued: dict[str, int] = {}
        for stream, value in arguments.items():
            numbers = [j for j, output in enumerate(self._before) if output is value]
            if numbers and isinstance(value, Tensor):
                continued[stream.name] = numbers[0]
            for leaf in tree_leaves(value):
                self._note_reader(leaf, but_not_of=len(self.calls) - 1)
        inputs = {s: kind_of(value) for s, value in arguments.items() if isinstance(value, Tensor)}
        self.calls.append(SiteCall(site, kind, inputs, continued))

    def _end(self, out: object, overwritten: Mapping[str, Tensor]) -> None:
        call = self.calls[-1]
        parts = tuple(out) if isinstance(out, tuple | list) else (out,)
        if not call.site.children[-1]:
            parts = tuple(tree_leaves(out))
        call.outputs = tuple(kind_of(part) if isinstance(part, Tensor) else None for part in parts)
        call.overwritten = tuple(overwritten)
        call.returned = tuple(any(part is t for t in overwritten.values()) for part in parts)
        if self._follow:
            self._before = parts
            number = len(self.calls) - 1
            self._outputs |= {
                id(part): (part, number) for part in parts if isinstance(part, Tensor)
            }

    def _note_reader(self, value: object, but_not_of: int = -1) -> None:
        _, number = self._outputs.get(id(value), (None, -1))
        if number not in (-1, but_not_of):
            self.calls[number].held = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = self._formulas.get(getattr(func, "_overloadpacket", None))
        key = self._meta_outputs.key(func, args, kwargs)
        out = self._meta_outputs.recall(key)
        if out is None and formula is None and is_made_of_others(func, args):
            made = run_inside((self,), lambda: func.decompose(*args, **kwargs))
            if made is not NotImplemented:
                return made
        if self._outputs and not self._inside:
            for leaf in tree_leaves((args, kwargs)):
                self._note_reader(leaf)
        if out is None:
            out = func(*args, **kwargs)
            self._meta_outputs.note(key, args, out)
        if formula is not None:
            macs = self.linear_macs if func._overloadpacket in LINEAR else self.attention_macs
            macs[self._inside[-1] if self._inside else ""] += (
                formula(*args, **kwargs, out_val=out) // 2
            )
        return out


def named_arguments(
    kind: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[Stream, Any]]:
    """Every argument of a call with its name and position."""
    names = list(inspect.signature(kind.forward).parameters)[1:]  # type: ignore[attr-defined]
    names += [f"*{i}" for i in range(len(names), len(args))]
    for i, value in enumerate(args):
        yield Stream(names[i], i), value
    for name, value in kwargs.items():
        yield Stream(name, names.index(name) if name in names else -1), value


def _with_items(arguments: Mapping[Stream, Any]) -> Iterator[tuple[Stream, Any]]:
    """Every argument, lists of tensors item by item."""
    for stream, value in arguments.items():
        if not isinstance(value, tuple | list):
            yield stream, value
            continue
        for i, item in enumerate(value):
            yield Stream(f"{stream.name}[{i}]", stream.position, i), item


def kind_of(tensor: Tensor) -> Kind:
    return tuple(tensor.shape), tensor.dtype


def write_count(tensor: Tensor) -> int:
    """How often a tensor was written to in place; inference tensors do not count."""
    return -1 if tensor.is_inference() else tensor._version


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    shapes = query.shape, key.shape, value.shape
    from torch.utils.flop_counter import sdpa_flop_count

    count: int = sdpa_flop_count(*shapes)  # type: ignore[no-untyped-call]
    return count
