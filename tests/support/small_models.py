"""Small models of our own with the shapes of real ones: two streams, branches in pieces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TwoStreams(nn.Module):
    """Attention over both streams, which gives a tuple."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        both = self.proj(torch.cat([x, text], dim=1)).softmax(dim=1)
        return both[:, : x.shape[1]], both[:, x.shape[1] :]


class Block(nn.Module):
    """Attention of two streams, and an MLP that is called once for each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = TwoStreams(width)
        self.ff = nn.Linear(width, width)
        self.repeats = 1

    def forward(self, x: Tensor, text: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        attended, text_attended = self.attn(x, text)
        x, text = x + gate * attended, text + text_attended
        for _ in range(self.repeats):
            x = x + gate * self.ff(x)
        return x, text + self.ff(text)


class SingleBlock(nn.Module):
    """Attention and MLP side by side through one linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.Linear(width, width)
        self.proj_mlp = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(3 * width, width)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        hidden = torch.cat([self.attn(x), self.proj_mlp(x).tanh()], dim=2)
        return x + gate * self.proj_out(hidden)


class TwoStreamModel(nn.Module):
    """Flux in small: double blocks, then single blocks over both streams."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.single_blocks = nn.ModuleList(SingleBlock(width) for _ in range(3))

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, text: Tensor, skip: tuple[int, ...] = ()
    ) -> Tensor:
        gate = timestep.cos()[:, None, None]
        for i, block in enumerate(self.blocks):
            if i not in skip:
                hidden_states, text = block(hidden_states, text, gate)
        joined = torch.cat([hidden_states, text], dim=1)
        for single in self.single_blocks:
            joined = single(joined, gate)
        return joined


def two_stream_model() -> TwoStreamModel:
    torch.manual_seed(0)
    return TwoStreamModel().eval()


def call_of(step: int, tokens: int = 5, text: int = 3) -> dict[str, Any]:
    """The arguments of a call; they depend on the sizes and the step only.

    The latents follow from each other, as a solver's do.
    """
    first, g = torch.Generator().manual_seed(100), torch.Generator().manual_seed(step)
    return {
        "hidden_states": (1 + step / 8) * torch.randn(2, tokens, 8, generator=first),
        "timestep": torch.full((2,), 900.0 - step),
        "text": torch.randn(2, text, 8, generator=g),
    }


def times(steps: int) -> list[float]:
    """The timesteps of `call_of`."""
    return [900.0 - step for step in range(steps)]


def run_loop(model: Any, steps: int, **sizes: int) -> list[Tensor]:
    """What `steps` calls give."""
    with torch.no_grad():
        return [model(**call_of(step, **sizes)) for step in range(steps)]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
