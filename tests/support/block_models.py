"""Small models of blocks in the ways in which models hand tensors from block to block, and a cached
forward of theirs by plain hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.schedule.cache_schedule import CacheSchedule

WIDTH = 8


class Block(nn.Module):
    """One stream; `in_place` writes to it, `skip` is added to it."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.attn, self.mlp = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.in_place = in_place

    def forward(self, hidden_states: Tensor, temb: Tensor, skip: Tensor | None = None) -> Tensor:
        x = hidden_states if skip is None else hidden_states + skip.tanh()
        change = self.mlp((x + self.attn(x.softmax(dim=1)) * temb[:, None]).tanh())
        return hidden_states.add_(change) if self.in_place else x + change


class TwoStreamBlock(nn.Module):
    """Text first, as Flux's; `last` gives no text, as SD3's."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.attn, self.ff = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = last

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        both = self.attn(torch.cat([encoder_hidden_states, hidden_states], dim=1).softmax(dim=1))
        text = encoder_hidden_states.shape[1]
        hidden_states = hidden_states + self.ff(both[:, text:] * temb[:, None])
        return None if self.last else encoder_hidden_states + both[:, :text], hidden_states


class OneStream(nn.Module):
    """`between(i, x)` is what the model does to the stream before block i; `skips` as HunyuanDiT's:
    block i also reads what block skips[i] gave."""

    def __init__(
        self,
        depth: int = 4,
        *,
        in_place: bool = False,
        between: Callable[[int, Tensor], Tensor] = lambda i, x: x,
        skips: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block(in_place) for _ in range(depth))
        self.between, self.skips = between, skips or {}

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        x, temb = self.proj_in(hidden_states), timestep[:, None].cos() / 2
        outputs: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            skip = outputs.pop(self.skips[i]) if i in self.skips else None
            x = block(self.between(i, x), temb, skip=skip)
            if i in self.skips.values():
                outputs[i] = x
        out: Tensor = self.proj_out(x)
        return out


class TwoStreams(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.proj_in = nn.Linear(WIDTH, WIDTH)
        self.transformer_blocks = nn.ModuleList(
            TwoStreamBlock(i == depth - 1) for i in range(depth)
        )

    def forward(self, hidden_states: Tensor, text: Tensor, timestep: Tensor) -> Tensor:
        x, temb = self.proj_in(hidden_states), timestep[:, None].cos() / 2
        for block in self.transformer_blocks:
            text, x = block(x, encoder_hidden_states=text, temb=temb)
        return x


def built(kind: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return kind(*args, **kwargs).eval()


def times(steps: int) -> list[float]:
    """The timesteps of `inputs`."""
    return [900.0 - 40 * step for step in range(steps)]


def inputs(step: int, tokens: int = 6, *, text: int | None = None) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(step)
    given = {
        "hidden_states": torch.randn(2, tokens, WIDTH, generator=g),
        "timestep": torch.full((2,), 900.0 - 40 * step),
    }
    return given if text is None else given | {"text": torch.randn(2, text, WIDTH, generator=g)}


class BlockOracle:
    """Calls a copy of the model whose blocks give, where the row of the evaluation says so, what
    they got plus what they added when they were last computed.  Everything is computed.

    `streams` are the arguments that the outputs of a block continue, in the order of the outputs.
    """

    def __init__(self, model: nn.Module, schedule: CacheSchedule, streams: tuple[str, ...]) -> None:
        self._model = copy.deepcopy(model)
        self._schedule, self._streams, self._step = schedule, streams, 0
        self._entered: dict[str, list[Tensor]] = {}
        self._added: dict[str, list[Tensor | None]] = {}
        for k, name in enumerate(schedule.branches):
            block = self._model.get_submodule(name)
            block.register_forward_pre_hook(self._before(name), with_kwargs=True)
            block.register_forward_hook(self._after(k, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self._model(*args, **kwargs)
        self._step += 1
        return out

    def _before(self, name: str) -> Any:
        names = list(type(self._model.get_submodule(name)).forward.__code__.co_varnames)[1:]

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = dict(zip(names, args, strict=False)) | kwargs
            self._entered[name] = [given[stream].clone() for stream in self._streams]

        return hook

    def _after(self, k: int, name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            parts = out if isinstance(out, tuple) else (out,)
            entered = self._entered[name]
            if self._schedule.row(self._step)[k]:
                pairs = zip(parts, entered, strict=True)
                self._added[name] = [None if p is None else p - e for p, e in pairs]
                return None
            pairs = zip(entered, self._added[name], strict=True)
            sums = tuple(None if added is None else e + added for e, added in pairs)
            return sums if isinstance(out, tuple) else sums[0]

        return hook
