"""Forwards of a model through its own code, recorded at its sites or mixed with a recording.

At branch level a site's output is what is mixed; of a block, what it adds to its arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.observe import Stream

Streams = Sequence[Stream | None]
"""For each output of a block, the argument that it continues; none at branch level."""

Call = tuple[int, int]
"""A branch, and which of its calls in this forward."""

AtSite = Callable[[Call, Any, Sequence[Tensor | None]], Any]
"""(call, its output, the tensors that its outputs continue) -> what stands in its place."""


class Recording:
    """What every site gives in a forward."""

    def __init__(self) -> None:
        self._outputs: dict[Call, Any] = {}

    def keep(self, call: Call, out: Any, bases: Sequence[Tensor | None]) -> Any:
        """Keep a copy, since the model's code may write to an output."""
        added = less_bases(out, bases)
        self._outputs[call] = tree_map(_copy, added)
        return out

    def mix(
        self, shares: Sequence[Tensor], call: Call, out: Any, bases: Sequence[Tensor | None]
    ) -> Any:
        """s out + (1 - s) recorded, with the share s [] of the call's branch."""
        if call not in self._outputs:
            raise ValueError(
                "learn: the model calls its branches another number of times than at the "
                "evaluation before; every evaluation must make the same calls"
            )
        added = less_bases(out, bases)
        mixed = tree_map(partial(_lerp, shares[call[0]]), self._outputs[call], added)
        return with_bases(mixed, bases)


class SitePasses:
    """Forwards of one model; `streams` are those of its blocks by name, none at branch level."""

    def __init__(
        self, bound_model: BoundModel, streams: Mapping[str, Streams], checkpointing: bool
    ) -> None:
        assert bound_model.open_stage is not None
        self._branches = {site.children[-1]: k for k, site in enumerate(bound_model.sites)}
        names = bound_model.program.branch_names
        self._streams = [tuple(streams.get(name, ())) for name in names]
        paths = [path for site in bound_model.sites for path in site.children]
        # Not around other cut points: what is done at them would be done twice.
        self._checkpointed = (
            {path for path in paths if not any(p.startswith(f"{path}.") for p in paths)}
            if checkpointing
            else set()
        )
        self._calls: Counter[str] = Counter()
        self._at_site: AtSite | None = None
        self._stage = bound_model.open_stage(self._visit)

    def refresh(self) -> None:
        """Take the attributes of the model's modules as they are now."""
        self._stage.refresh()

    def run(self, at_site: AtSite | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The model's own return value, every output of a site passed through `at_site`."""
        self._at_site, self._calls = at_site, Counter()
        try:
            return self._stage(*args, **kwargs)
        finally:
            self._at_site = None

    def _visit(self, path: str, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        k = self._branches.get(path)
        bases = [s and s.of(args, kwargs) for s in (() if k is None else self._streams[k])]
        if path in self._checkpointed and torch.is_grad_enabled():
            out = checkpoint(module, *args, use_reentrant=False, **kwargs)
        else:
            out = module(*args, **kwargs)
        if k is None or self._at_site is None:
            return out
        self._calls[path] += 1
        return self._at_site((k, self._calls[path] - 1), out, bases)


def less_bases(out: Any, bases: Sequence[Tensor | None]) -> Any:
    """What a site adds: its output, or of a block each output less the tensor that it continues."""
    return _per_output(_minus, out, bases)


def with_bases(added: Any, bases: Sequence[Tensor | None]) -> Any:
    """The output of a site that adds this."""
    return _per_output(_plus, added, bases)


def _per_output(
    combine: Callable[[Tensor, Tensor], Tensor], out: Any, bases: Sequence[Tensor | None]
) -> Any:
    """Each output of a block with the tensor that it continues; others as they are."""
    if not bases:
        return out
    parts = out if isinstance(out, tuple | list) else (out,)
    combined = [
        part if base is None else combine(part, base)
        for part, base in zip(parts, bases, strict=True)
    ]
    return type(out)(combined) if isinstance(out, tuple | list) else combined[0]


def _minus(part: Tensor, base: Tensor) -> Tensor:
    return part - base


def _plus(part: Tensor, base: Tensor) -> Tensor:
    return base + part


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _lerp(share: Tensor, before: Any, now: Any) -> Any:
    if not isinstance(now, Tensor) or not now.is_floating_point():
        return now
    return torch.lerp(before, now, share.to(now.dtype))
