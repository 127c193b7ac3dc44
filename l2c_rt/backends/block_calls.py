"""A call of a block, and what goes into and comes out of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from l2c_rt.adapters.own.observe import Stream
from l2c_rt.backends.block_rows import Streams


class BlockCall(NamedTuple):
    """A call of a block, and which one it is in this evaluation."""

    path: str
    number: int
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def continued_arguments(call: BlockCall, streams: Streams) -> dict[str, Any]:
    """The arguments that outputs continue, by name."""
    return {s.name: s.of(call.args, call.kwargs) for s in streams if s is not None}


def image_stream(streams: Streams) -> tuple[int, Stream]:
    """The output that continues the image, and what it continues.  Raises ValueError for none."""
    known = [(j, stream) for j, stream in enumerate(streams) if stream is not None]
    if not known:
        raise ValueError("a block's outputs continue none of its arguments, so nothing is added")
    named = [pair for pair in known if pair[1].name in ("hidden_states", "x")]
    return (named or sorted(known, key=lambda pair: pair[1].position))[0]


def refuse_writes(path: str, names: list[str]) -> None:
    """Raise ValueError where a block has written to these arguments."""
    if names:
        raise ValueError(
            f"{path}: its argument {names[0]} was written to in place, so what the block adds to "
            'it is not known; compile with merge=False or granularity="branch"'
        )


def sum_of(entered: Tensor, kept: Tensor, *, in_place: bool) -> Tensor:
    """What entered and what was kept, in the memory of the first or of its own."""
    return entered.add_(kept) if in_place else entered + kept


def parts_of(out: Any) -> tuple[Any, ...]:
    """The items of a tuple or list, or the one value."""
    return tuple(out) if isinstance(out, tuple | list) else (out,)


def without_tensors(out: Any) -> Any:
    """The container of an output and what else stands in it, without the tensors' memory."""
    parts = [torch.empty(0) if isinstance(part, Tensor) else part for part in parts_of(out)]
    return type(out)(parts) if isinstance(out, tuple | list) else parts[0]
